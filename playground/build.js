// Usage: node playground/build.js
//
// Makes build/playground/site, a folder that any static host takes: the page, PGlite, pgvector, the
// script build/gpt2.sql and the bundled model. Prints what a visitor downloads.

import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'vite';
import { ROOT } from './pglite.js';
import { record } from './record.js';

const MADE = join(ROOT, 'build/playground');
const MODEL = join(MADE, 'model');
/** Bytes that a visitor downloads at most. */
const MOST = 25e6;

const installed = (/** @type {string} */ name) =>
    dirname(fileURLToPath(import.meta.resolve(name)));

/** What the worker fetches, by the names that it asks for. */
async function files() {
    const pglite = installed('@electric-sql/pglite');
    const recorded = await readdir(MODEL);
    return Object.fromEntries([
        ['pglite.wasm', join(pglite, 'pglite.wasm')],
        ['initdb.wasm', join(pglite, 'initdb.wasm')],
        ['pglite.data', join(pglite, 'pglite.data')],
        ['vector.tar.gz', join(installed('@electric-sql/pglite-pgvector'), 'vector.tar.gz')],
        ['gpt2.sql', join(ROOT, 'build/gpt2.sql')],
        ...recorded.map((name) => [name, join(MODEL, name)]),
    ]);
}

/** Compresses the files, under names that change with what they hold: a browser may keep them. */
async function compress() {
    const folder = join(MADE, 'public/data');
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    const assets = [];
    for (const [name, path] of Object.entries(await files())) {
        const packed = gzipSync(await readFile(path), { level: 9 });
        const hash = createHash('sha256').update(packed).digest('hex').slice(0, 8);
        // no .gz: some hosts would declare that to be unpacked on the way
        const file = `data/${name.replaceAll('.', '-')}-${hash}.bin`;
        await writeFile(join(MADE, 'public', file), packed);
        assets.push({ name, file, bytes: packed.length });
    }
    await writeFile(join(MADE, 'assets.json'), JSON.stringify(assets));
    return assets;
}

/** What the page itself takes, compressed as hosts do. */
async function pageFiles() {
    const site = join(MADE, 'site');
    const names = (await readdir(site, { recursive: true, withFileTypes: true }))
        .filter((entry) => entry.isFile() && !entry.parentPath.endsWith('data'))
        .map((entry) => join(entry.parentPath, entry.name));
    const sizes = await Promise.all(
        names.map(async (name) => gzipSync(await readFile(name)).length));
    return sizes.reduce((sum, size) => sum + size, 0);
}

// float32: twice the bytes in memory and a seventh more to download, but WebAssembly has no float16:
// with it a token takes three times as long
await record('demo', 'demo', 'float32', MODEL);
const assets = await compress();
await build({ root: join(ROOT, 'playground'), logLevel: 'error' });
const parts = [...assets.map(({ name, bytes }) => [name, bytes]),
    ['the page', await pageFiles()]].sort((a, b) => b[1] - a[1]);
const total = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
for (const [name, bytes] of [...parts, ['all that is downloaded', total]]) {
    console.log(`${String(name).padEnd(24)}${(Number(bytes) / 1e6).toFixed(2).padStart(8)} MB`);
}
if (total > MOST) throw new Error(`more than ${MOST / 1e6} MB are downloaded`);
