// Usage: node playground/serve.js FOLDER [MODEL]
//
// A PGlite with gpt2 in it, and the model whose recorded import is in the folder MODEL, for libpq's
// clients: host=FOLDER user=postgres dbname=postgres. It says "ready", and ends with its input.

import { join } from 'node:path';
import { PGLiteSocketServer } from '@electric-sql/pglite-socket';
import { openDatabase } from './pglite.js';

const [folder, model] = process.argv.slice(2);
const database = await openDatabase(model);
const server = new PGLiteSocketServer({
    db: database, path: join(folder, '.s.PGSQL.5432'), maxConnections: 8,
});
// all share one session: whoever is alone begins it anew
server.addEventListener('connection', () => {
    if (server.getStats().activeConnections <= 1) void database.exec('DISCARD ALL');
});
await server.start();
console.log('ready');
process.stdin.resume().on('end', () => process.exit());
