// What the page needs of a browser.

/** PostgreSQL with the model takes somewhat less: 64 KiB pages. */
const PAGES = 8192;

/** What this browser lacks, in a sentence for people, or nothing. */
export function missing(): string | undefined {
    if (typeof WebAssembly !== 'object') {
        return 'This page runs PostgreSQL as WebAssembly, which this browser does not have, or has '
            + 'switched off. A current Firefox, Chrome, Edge or Safari has it.';
    }
    if (typeof Worker === 'undefined' || typeof DecompressionStream === 'undefined') {
        return 'This browser is too old for this page: it needs module workers and '
            + 'DecompressionStream, which Firefox, Chrome, Edge and Safari have since 2023.';
    }
    try {
        new WebAssembly.Memory({ initial: PAGES });
    } catch {
        return `This page needs ${PAGES / 16} MB of memory, which this browser does not give it. `
            + 'Close other tabs, or open it on a larger machine.';
    }
    return undefined;
}
