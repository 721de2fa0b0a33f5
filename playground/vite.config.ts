import { readFileSync } from 'node:fs';
import { defineConfig, type Plugin } from 'vite';
import { options, tour } from './docs.ts';

const MADE = new URL('../build/playground/', import.meta.url).pathname;

/** The documentation as a module. */
const docs: Plugin = {
    name: 'docs',
    resolveId: (id) => (id === 'virtual:docs' ? `\0${id}` : undefined),
    load: (id) => id === '\0virtual:docs'
        ? `export const options = ${JSON.stringify(options())};
           export const tour = ${JSON.stringify(tour())};`
        : undefined,
};

/** PGlite names its files by URL. Ours come from public/, compressed: these would lie beside. */
const withoutCopies: Plugin = {
    name: 'without-copies',
    generateBundle(_, bundle) {
        for (const name of Object.keys(bundle)) {
            if (/\.(wasm|data|tar\.gz)$/.test(name)) delete bundle[name];
        }
    },
};

export default defineConfig({
    base: './', // the folder may lie anywhere on a host
    publicDir: `${MADE}public`,
    plugins: [docs, withoutCopies],
    define: { ASSETS: readFileSync(`${MADE}assets.json`, 'utf8') },
    build: {
        outDir: `${MADE}site`,
        emptyOutDir: true,
        target: 'es2022',
        assetsInlineLimit: 0,
        chunkSizeWarningLimit: 1000,
        reportCompressedSize: false, // the build prints what is downloaded
    },
    worker: { format: 'es', plugins: () => [withoutCopies] },
    optimizeDeps: { exclude: ['@electric-sql/pglite', '@electric-sql/pglite-pgvector'] },
});
