// PGlite in Node, for the build and the tests.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PGlite } from '@electric-sql/pglite';
import { vector } from '@electric-sql/pglite-pgvector';
import { createExtension, importModel } from './src/install.js';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/**
 * How an import reads the files of rows that lie in a folder.
 * @param {string} folder
 */
export function readRows(folder) {
    return async (/** @type {string} */ file) => new Blob([await readFile(join(folder, file))]);
}

/**
 * A database with the extension, and a model where a folder with its recorded import is named.
 * @param {string} [model]
 */
export async function openDatabase(model) {
    const database = await PGlite.create({ extensions: { vector } });
    await createExtension(database, await readFile(join(ROOT, 'build/gpt2.sql'), 'utf8'));
    if (model) {
        const steps = JSON.parse(await readFile(join(model, 'import.json'), 'utf8'));
        await importModel(database, steps, readRows(model));
    }
    return database;
}
