// What the panels have in common.

import type { Database } from '../database';
import { DatabaseError } from '../database';
import { make } from '../dom';

/** What a panel can ask of the page. */
export interface Page {
    readonly database: Database;
    /** The text of the prompt box. */
    prompt(): string;
    /** Puts a text there. */
    setPrompt(text: string): void;
    /** Opens the editor with a query. */
    edit(sql: string): void;
}

/** Part of the page that shows something of the prompt. */
export interface Panel {
    /** Asks the database, where what it shows is not of this prompt. */
    show(): void;
}

/** The SQL of a panel, to be read, and to be taken into the editor. */
export function showSql(element: HTMLElement, sql: string, page: Page): void {
    const open = element.querySelector('details')?.open ?? false;
    element.replaceChildren(
        make('details', { open },
            make('summary', {}, 'The SQL'),
            make('pre', {}, make('code', {}, sql)),
            make('button', { type: 'button', click: () => page.edit(sql) }, 'Open in the editor')));
}

/** An error, with what mends it. */
export function errorBox(error: unknown): HTMLElement {
    const { message, code, detail, hint } = error instanceof DatabaseError ? error.failure
        : { message: String(error instanceof Error ? error.message : error) };
    return make('div', { class: 'error', role: 'alert' },
        make('p', {}, make('strong', {}, message), code ? ` (${code})` : ''),
        ...[detail, hint].filter((line) => line).map((line) => make('p', {}, line!)));
}

/** Runs one thing at a time, and of several that are asked for meanwhile the last. */
export function latest(run: () => Promise<void>): () => void {
    let running = false;
    let again = false;
    return async function start(): Promise<void> {
        if (running) {
            again = true;
            return;
        }
        running = true;
        try {
            do {
                again = false;
                await run();
            } while (again);
        } finally {
            running = false;
        }
    };
}
