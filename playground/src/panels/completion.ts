// The prompt, its tokens, and the text that comes: a token at a time, through a cursor.

import { options } from 'virtual:docs';
import { find, make, debounce, visible } from '../dom';
import { call, expression, literal } from '../sql';
import { DatabaseError } from '../database';
import { errorBox, latest, showSql, type Page } from './panel';

/** Those that are shown first; the others are behind "All options". */
const FIRST = ['max_tokens', 'temperature', 'top_k', 'top_p', 'seed'];
const PLACEHOLDERS: Record<string, string> = {
    stop: 'one a line; \\n is a line\'s end', choices: 'one a line',
    logit_bias: '{" TABLE": 5, " INDEX": false}', pattern: ' [0-9]+',
    allowed_tokens: '12, 345', banned_tokens: '12, 345', truncate: 'left or right',
};

type Field = HTMLInputElement | HTMLTextAreaElement;

export function completion(page: Page) {
    const form = find<HTMLFormElement>('completion');
    const prompt = find<HTMLTextAreaElement>('prompt');
    const chips = find('prompt-tokens');
    const output = find('output');
    const text = find('output-text');
    const made = find('output-tokens');
    const status = find('output-status');
    const sql = find('output-sql');
    const go = find<HTMLButtonElement>('go');
    const stop = find<HTMLButtonElement>('stop');
    const fields = new Map<string, Field>();
    let running = false;
    let stopped = false;

    for (const option of options) {
        const { name, type, meaning } = option;
        const id = `option-${name}`;
        const properties = {
            id, name, title: meaning, placeholder: PLACEHOLDERS[name] ?? '',
            autocomplete: 'off', spellcheck: 'false',
        };
        const number = /^(int|bigint|float8|double precision)$/.test(type);
        const field: Field = type === 'boolean' ? make('input', { ...properties, type: 'checkbox' })
            : type === 'text[]' ? make('textarea', { ...properties, rows: 2 })
                : make('input', { ...properties, type: 'text',
                    inputmode: number ? 'decimal' : 'text' });
        if (name === 'max_tokens') field.value = option.default;
        if (name === 'temperature') field.value = option.default;
        fields.set(name, field);
        find(FIRST.includes(name) ? 'options-first' : 'options-more').append(
            make('label', { for: id, title: meaning, class: type === 'boolean' ? 'check' : '' },
                make('span', {}, name), field));
    }

    /** The options that are not as they are by default: name, type, and what was typed. */
    function chosen(): { name: string; type: string; typed: string }[] {
        return options.flatMap(({ name, type, default: value }) => {
            const field = fields.get(name)!;
            const typed = field instanceof HTMLInputElement && field.type === 'checkbox'
                ? String(field.checked) : field.value;
            return typed === '' || typed === value ? [] : [{ name, type, typed }];
        });
    }

    function query(): string {
        return 'SELECT token, piece, text, logprob, finish_reason\nFROM '
            + call('gpt2_stream', [literal(prompt.value), ...chosen().map(({ name, type, typed }) =>
                `${name} => ${expression(type, typed)}`)]);
    }

    /** What a link keeps: the options by name, as they were typed. */
    const settings = () => chosen().map(({ name, typed }): [string, string] => [name, typed]);

    function set(name: string, typed: string): void {
        const field = fields.get(name);
        if (field instanceof HTMLInputElement && field.type === 'checkbox') {
            field.checked = typed === 'true';
        } else if (field) {
            field.value = typed;
        }
        if (field && !FIRST.includes(name)) find<HTMLDetailsElement>('options-all').open = true;
    }

    const tokenize = latest(async () => {
        const shown = prompt.value;
        try {
            const { rows } = await page.database.query(
                `SELECT token, piece FROM ${call('gpt2_tokens', [literal(shown)])}`);
            chips.replaceChildren(...rows.map(([token, piece]) => chip(token!, piece!)));
            find('prompt-count').textContent =
                `${rows.length} ${rows.length === 1 ? 'token' : 'tokens'}`;
        } catch {
            chips.replaceChildren(); // the completion says what is wrong
        }
    });
    const tokenizeSoon = debounce(150, () => {
        if (!running) tokenize();
    });

    function chip(token: string, piece: string, probability?: number): HTMLElement {
        const percent = probability === undefined ? ''
            : `, probability ${(100 * probability).toFixed(1)} %`;
        const element = make('li', { class: 'chip', title: `token ${token}${percent}` },
            visible(piece), make('small', {}, token));
        if (probability !== undefined) element.style.setProperty('--share', String(probability));
        return element;
    }

    async function run(): Promise<void> {
        if (running) return;
        running = true;
        stopped = false;
        const stream = query();
        const began = performance.now();
        let first = 0;
        let tokens = 0;
        let reason: string | null = null;
        output.hidden = false;
        output.setAttribute('aria-busy', 'true');
        go.hidden = true;
        stop.hidden = false;
        showSql(sql, stream, page);
        made.replaceChildren();
        const rest = make('ins', {});
        text.replaceChildren(prompt.value, rest);
        status.textContent = 'reading the prompt ...';
        try {
            await page.database.stream(stream, ([token, piece, whole, logprob, finished]) => {
                first ||= performance.now();
                reason = finished!;
                if (whole === null) {
                    rest.textContent = '';
                } else if (whole!.startsWith(prompt.value)) {
                    rest.textContent = whole!.slice(prompt.value.length);
                } else {
                    rest.textContent = whole!;
                }
                if (token !== null) {
                    tokens++;
                    made.append(chip(token!, piece!, Math.exp(Number(logprob))));
                }
                const seconds = (performance.now() - first) / 1000;
                status.textContent = `${tokens} ${tokens === 1 ? 'token' : 'tokens'}, the first `
                    + `after ${((first - began) / 1000).toFixed(2)} s`
                    + (tokens > 1 && seconds > 0
                        ? `, then ${((tokens - 1) / seconds).toFixed(1)} a second` : '')
                    + (reason ? `; ended by ${reason}` : '');
                return !stopped;
            });
            if (stopped) status.textContent += '; stopped';
            if (reason === 'constraint') {
                text.replaceChildren(make('span', { class: 'quiet' },
                    'NULL: the completion could not become what it must be.'));
            }
        } catch (error) {
            text.replaceChildren(errorBox(error));
            status.textContent = error instanceof DatabaseError ? '' : 'stopped';
        }
        output.removeAttribute('aria-busy');
        stop.hidden = true;
        go.hidden = false;
        running = false;
        tokenize();
    }

    form.addEventListener('submit', (event) => {
        event.preventDefault();
        void run();
    });
    form.addEventListener('keydown', (event) => {
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            void run();
        }
    });
    stop.addEventListener('click', () => {
        stopped = true;
    });
    document.addEventListener('keydown', (event) => {
        if (event.key === 'Escape' && running) stopped = true;
    });
    prompt.addEventListener('input', tokenizeSoon);

    return { run, tokenize, settings, set };
}
