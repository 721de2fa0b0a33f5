// The bundled model's import, recorded by the loader (record.py) while it loads into a PGlite: the
// page and the tests repeat it.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { ROOT, openDatabase, readRows } from './pglite.js';
import { importStep } from './src/install.js';

/**
 * Records into a folder what `gpt2-loader load MODEL --dtype DTYPE` would do in an empty database.
 * @param {string} model
 * @param {string} dtype
 * @param {string} folder
 */
export async function record(model, dtype, folder) {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    const database = await openDatabase();
    const loader = spawn(join(ROOT, 'build/venv/bin/python'),
        [join(ROOT, 'playground/record.py'), model, dtype, folder],
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
