// What makes a PGlite a gpt2 database: pgvector, the script, and the model. The page does it in a
// worker, the tests and the build in Node.

/** @import { PGliteInterface, Transaction } from '@electric-sql/pglite' */

/**
 * A step of an import, as playground/record.py writes it: a query, or rows for a table.
 * @typedef {{ sql: string, arguments: unknown[] }
 *     | { table: string, columns: string, file: string }} Step
 */

/** @typedef {(file: string) => Promise<Blob>} Read gives what a file of rows holds */

/**
 * Creates the extension's objects.
 * @param {PGliteInterface} database
 * @param {string} script build/gpt2.sql
 */
export async function createExtension(database, script) {
    await database.exec('CREATE EXTENSION vector');
    await database.exec(script);
}

/**
 * Runs a step of an import, and gives its rows.
 * @param {PGliteInterface | Transaction} database
 * @param {Step} step
 * @param {Read} read
 * @returns {Promise<unknown[][]>}
 */
export async function importStep(database, step, read) {
    if ('sql' in step) {
        return (await database.query(step.sql, step.arguments, { rowMode: 'array' })).rows;
    }
    await database.query(
        `COPY gpt2.${step.table} (${step.columns}) FROM '/dev/blob' (FORMAT binary)`,
        [], { blob: await read(step.file) });
    return [];
}

/**
 * Imports a model as it was recorded.
 * @param {PGliteInterface} database
 * @param {Step[]} steps
 * @param {Read} read
 */
export async function importModel(database, steps, read) {
    await database.transaction(async (transaction) => {
        for (const step of steps) await importStep(transaction, step, read);
    });
}
