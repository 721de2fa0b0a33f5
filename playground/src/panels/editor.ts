// Any SQL on the live model.

import { defaultKeymap, history, historyKeymap } from '@codemirror/commands';
import { PostgreSQL, sql as sqlLanguage } from '@codemirror/lang-sql';
import { bracketMatching, syntaxHighlighting } from '@codemirror/language';
import { EditorState } from '@codemirror/state';
import { EditorView, highlightSpecialChars, keymap, lineNumbers } from '@codemirror/view';
import { classHighlighter } from '@lezer/highlight';
import { tour } from 'virtual:docs';
import type { Result } from '../database';
import { find, make } from '../dom';
import { call, literal } from '../sql';
import { errorBox, type Page } from './panel';

/** So many rows are shown. */
const ROWS = 200;
/** Types that stand at the right of their column: int8, int2, int4, float4, float8, numeric. */
const NUMBERS = new Set([20, 21, 23, 700, 701, 1700]);

/** Short queries to begin with: a title, and SQL in which $prompt is the prompt's literal. */
const FIRST: [string, string][] = [
    ['Complete a text', `SELECT ${call('gpt2_generate', ['$prompt', 'max_tokens => 12'])}`],
    ['Complete every row of a table',
        "SELECT name, gpt2_generate('The ' || name || ' command', max_tokens => 8)\n"
        + "FROM unnest(ARRAY['VACUUM', 'COPY', 'LISTEN']) AS command (name)"],
    ['Only what the data allows',
        "SELECT choice, round(probability::numeric, 3) AS probability\n"
        + "FROM gpt2_choose('The size of a page is 8192', '{\" bytes\",\" rows\",\" minutes\"}')"],
    ['A match of a pattern',
        "SELECT gpt2_generate('The default value is', pattern => ' [0-9]+ (bytes|kilobytes)')"],
    ['A report of one page', 'SELECT gpt2_report($prompt)'],
    ['The models', 'SELECT * FROM gpt2_models()'],
    ['Everything that can be called',
        "SELECT p.proname AS function, obj_description(p.oid) AS \"what it gives\"\n"
        + "FROM pg_proc AS p\nWHERE p.proname LIKE 'gpt2\\_%' ORDER BY 1"],
];

export function editor(page: Page) {
    const ready = find<HTMLSelectElement>('editor-ready');
    const results = find('editor-results');
    const runButton = find<HTMLButtonElement>('editor-run');
    const stopButton = find<HTMLButtonElement>('editor-stop');
    const status = find('editor-status');
    let running = false;

    const view = new EditorView({
        parent: find('editor-text'),
        state: EditorState.create({
            extensions: [
                lineNumbers(), history(), highlightSpecialChars(), bracketMatching(),
                EditorView.lineWrapping, sqlLanguage({ dialect: PostgreSQL }),
                syntaxHighlighting(classHighlighter),
                EditorView.contentAttributes.of({ 'aria-label': 'SQL' }),
                keymap.of([
                    { key: 'Mod-Enter', run: () => (void run(), true) },
                    ...defaultKeymap, ...historyKeymap,
                ]),
            ],
        }),
    });

    const text = () => view.state.doc.toString();

    function setText(sql: string): void {
        view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: sql } });
        results.replaceChildren();
        status.textContent = '';
    }

    const group = (label: string, titles: string[], kind: string) =>
        make('optgroup', { label }, ...titles.map((title, i) =>
            make('option', { value: `${kind}${i}` }, title)));
    ready.append(
        group('To begin with', FIRST.map(([title]) => title), 'first'),
        group('The tour: from a prompt to a token', tour.steps.map(({ title }) => title), 'tour'));
    ready.addEventListener('change', async () => {
        const [, kind, n] = /^(first|tour)(\d+)$/.exec(ready.value) ?? [];
        if (kind === 'first') {
            setText(FIRST[Number(n)]![1].replaceAll('$prompt', literal(page.prompt())));
        } else if (kind === 'tour') {
            const values = await variables();
            // psql's :name and :'name'; no ::type
            setText(tour.steps[Number(n)]!.sql.replace(/(?<!:):(?:'(\w+)'|([a-z]\w*))/g,
                (all, quoted, plain) => values.get(quoted ?? plain) ?? all));
        }
    });

    /** What the tour's queries name. */
    async function variables(): Promise<Map<string, string>> {
        const prompt = literal(tour.prompt);
        const { columns, rows } = await page.database.query(
            tour.variables.replaceAll(":'prompt'", prompt));
        return new Map([['prompt', prompt], ...columns.map((name, i): [string, string] =>
            [name, rows[0]![i]!])]);
    }

    async function run(): Promise<void> {
        if (running || !text().trim()) return;
        running = true;
        runButton.disabled = true;
        stopButton.hidden = false;
        results.setAttribute('aria-busy', 'true');
        results.replaceChildren();
        status.textContent = 'running ...';
        const began = performance.now();
        try {
            await page.database.exclusive(async (session) => {
                try {
                    const given = await session.run(text());
                    results.append(...given.filter(({ columns }) => columns.length).map(table));
                    if (!results.childElementCount) results.append(make('p', {}, 'Done.'));
                } catch (error) {
                    results.append(errorBox(error));
                }
                if (await isOpen(session)) {
                    await session.run('ROLLBACK');
                    results.append(make('p', { class: 'quiet' },
                        'The transaction was left open, and is rolled back.'));
                }
            });
            status.textContent = `${((performance.now() - began) / 1000).toFixed(2)} s`;
        } catch (error) {
            results.append(errorBox(error));
            status.textContent = '';
        }
        results.removeAttribute('aria-busy');
        stopButton.hidden = true;
        runButton.disabled = false;
        running = false;
    }

    runButton.addEventListener('click', run);
    stopButton.addEventListener('click', () => {
        void page.database.restart();
        status.textContent = 'The database begins anew: what was changed in it is gone.';
    });

    return { text, setText, focus: () => view.focus() };
}

/** Whether a transaction was left open, or broken off by an error. */
async function isOpen(session: { run(sql: string): Promise<Result[]> }): Promise<boolean> {
    try {
        const [result] = await session.run('SELECT now() <> statement_timestamp()');
        return result!.rows[0]![0] === 't';
    } catch {
        return true;
    }
}

/** A result as a table; a picture or a page in a cell is shown as such. */
function table({ columns, types, rows }: Result): HTMLElement {
    const cell = (value: string | null, i: number) =>
        value === null ? make('td', { class: 'null' }, 'NULL')
            : /^<svg /.test(value) ? make('td', {}, picture(value))
                : /^<!doctype html/i.test(value) ? make('td', {}, document_(value))
                    : make('td', NUMBERS.has(types[i]!) ? { class: 'number' } : {}, value);
    return make('figure', { class: 'result', tabindex: 0, role: 'region', 'aria-label': 'result' },
        make('table', {},
            make('thead', {}, make('tr', {}, ...columns.map((name) =>
                make('th', { scope: 'col' }, name)))),
            make('tbody', {}, ...rows.slice(0, ROWS).map((row) =>
                make('tr', {}, ...row.map(cell))))),
        make('figcaption', {}, `${rows.length} ${rows.length === 1 ? 'row' : 'rows'}`
            + (rows.length > ROWS ? `, of which ${ROWS} are shown` : '')));
}

/** SVG of any query, as an image: nothing in it is run. */
function picture(svg: string): HTMLElement {
    const url = URL.createObjectURL(new Blob([svg], { type: 'image/svg+xml' }));
    return make('img', {
        src: url, alt: /<title[^>]*>([^<]*)/.exec(svg)?.[1] ?? 'picture',
        load: () => URL.revokeObjectURL(url),
    });
}

/** HTML of any query, in a frame that runs nothing. */
function document_(html: string): HTMLElement {
    return make('iframe', { srcdoc: html, sandbox: '', title: 'page' });
}
