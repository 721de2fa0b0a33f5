// Usage: node playground/record.js MODEL NAME DTYPE FOLDER
//
// Records a model's import: the loader (record.py) loads it into a PGlite, and what it asks is kept.
// The page repeats that of the bundled model, the tests those of others.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { ROOT, openDatabase, readRows } from './pglite.js';
import { importStep } from './src/install.js';

/**
 * Records into a folder what `gpt2-loader load MODEL --name NAME --dtype DTYPE` would do in an empty
 * database.
 * @param {string} model
 * @param {string} name
 * @param {string} dtype
 * @param {string} folder
 */
export async function record(model, name, dtype, folder) {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    const database = await openDatabase();
    const loader = spawn(join(ROOT, 'build/venv/bin/python'),
        [join(ROOT, 'playground/record.py'), model, name, dtype, folder],
        { stdio: ['pipe', 'pipe', 'inherit'] });
    const ended = once(loader, 'close');
    for await (const line of createInterface({ input: loader.stdout })) {
        const rows = await importStep(database, JSON.parse(line), readRows(folder));
        loader.stdin.write(`${JSON.stringify(rows)}\n`);
    }
    await database.close();
    const [code] = await ended;
    if (code) throw new Error(`record.py has failed: ${code}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
    const [model, name, dtype, folder] = process.argv.slice(2);
    await record(model, name, dtype, folder);
}
