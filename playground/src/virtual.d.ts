/** What the build takes from docs/. */
declare module 'virtual:docs' {
    export const options: import('../docs.ts').Option[];
    export const tour: import('../docs.ts').Tour;
}

/** What is downloaded: a name and how many bytes, compressed. */
declare const ASSETS: import('./assets').Asset[];
