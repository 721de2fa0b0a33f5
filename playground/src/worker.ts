// The database: PGlite with gpt2's script and the bundled model.

import { PGlite } from '@electric-sql/pglite';
import { fetchAll } from './assets';
import { createExtension, importModel } from './install.js';
import type { Answer, Failure, Question, Result } from './protocol';

const say = (answer: Answer) => postMessage(answer);

let database: PGlite;
/** What leaves values as the server writes them, for each type. */
let asText: Record<number, (value: string) => string> = {};

/** Makes the database while its files arrive: the script runs before the model is there. */
async function open(): Promise<void> {
    const progress = { step: '', loaded: 0, total: 0 };
    const tell = (change: Partial<typeof progress>) =>
        say({ progress: Object.assign(progress, change) });
    tell({ step: 'Loading PostgreSQL' });
    const files = fetchAll(ASSETS, new URL('..', self.location.href).href,
        (loaded, total) => tell({ loaded, total }));
    const read = (name: string) => files.get(name)!;
    const compiled = async (name: string) =>
        WebAssembly.compile(await (await read(name)).arrayBuffer());

    const vector = URL.createObjectURL(await read('vector.tar.gz'));
    const options = {
        pgliteWasmModule: await compiled('pglite.wasm'),
        initdbWasmModule: await compiled('initdb.wasm'),
        fsBundle: await read('pglite.data'),
        extensions: { vector: new URL(vector) },
    };
    tell({ step: 'Starting PostgreSQL' });
    database = await PGlite.create(options);
    URL.revokeObjectURL(vector);
    const script = await (await read('gpt2.sql')).text();
    tell({ step: 'Running gpt2.sql' });
    await createExtension(database, script);
    tell({ step: 'Loading the model' });
    await Promise.all(files.values());
    tell({ step: 'Putting the model into its tables' });
    await importModel(database, JSON.parse(await (await read('import.json')).text()), read);

    const types = await database.query<{ oid: number }>('SELECT oid FROM pg_type');
    asText = Object.fromEntries(types.rows.map(({ oid }) => [oid, (value: string) => value]));
}

async function run(sql: string): Promise<Result[]> {
    const results = await database.exec(sql, { rowMode: 'array', parsers: asText });
    return results.map(({ fields, rows }) => ({
        columns: fields.map(({ name }) => name),
        types: fields.map(({ dataTypeID }) => dataTypeID),
        rows: rows as unknown as (string | null)[][],
    }));
}

/** An error's fields, as far as it is the server's. */
function failure(error: unknown): Failure {
    const { message, code, detail, hint } = error as Failure;
    return { message: String(message ?? error), code, detail, hint };
}

self.onmessage = async ({ data: { number, kind, sql } }: MessageEvent<Question>) => {
    try {
        if (kind === 'open') await open();
        say({ number, results: kind === 'run' ? await run(sql!) : [] });
    } catch (error) {
        say({ number, failure: failure(error) });
    }
};
