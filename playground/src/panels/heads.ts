// Heads switched off: their values become 0, in a transaction that is rolled back.

import { find, make } from '../dom';
import { call, literal } from '../sql';
import type { Head } from './pictures';
import { errorBox, latest, showSql, type Page } from './panel';

export interface Shape {
    blocks: number;
    heads: number;
    width: number;
}

const TOKENS = 16;

export function heads(page: Page, shape: Shape) {
    const grid = find('heads-grid');
    const before = find('heads-before');
    const after = find('heads-after');
    const sql = find('heads-sql');
    const none = find<HTMLButtonElement>('heads-none');
    let shown: string | undefined;

    const buttons: HTMLButtonElement[] = [];
    grid.style.setProperty('--heads', String(shape.heads));
    for (let block = 0; block < shape.blocks; block++) {
        const row = make('div', { class: 'row', role: 'group', 'aria-label': `block ${block}` },
            make('span', { 'aria-hidden': 'true' }, `block ${block}`));
        for (let head = 0; head < shape.heads; head++) {
            const button = make('button', {
                type: 'button', 'aria-pressed': 'false', 'data-block': block, 'data-head': head,
                'aria-label': `block ${block}, head ${head}`, title: `block ${block}, head ${head}`,
                click: () => {
                    button.setAttribute('aria-pressed', String(!off(button)));
                    show();
                },
            }, String(head));
            buttons.push(button);
            row.append(button);
        }
        grid.append(row);
    }
    none.addEventListener('click', () => choose([]));

    const off = (button: HTMLButtonElement) => button.getAttribute('aria-pressed') === 'true';

    function chosen(): Head[] {
        return buttons.filter(off)
            .map(({ dataset }) => ({ block: Number(dataset.block), head: Number(dataset.head) }));
    }

    function choose(some: Head[]): void {
        for (const button of buttons) {
            const { block, head } = button.dataset;
            button.setAttribute('aria-pressed', String(some.some((each) =>
                each.block === Number(block) && each.head === Number(head))));
        }
        show();
    }

    /** Of head h of width d the values are units 2 * width + h * d and on of c_attn. */
    function update({ block, head }: Head): string {
        const d = shape.width / shape.heads;
        const first = 2 * shape.width + head * d;
        return 'UPDATE gpt2.linear SET bias = 0, weight = weight - weight\n'
            + `WHERE block = ${block} AND layer = 'attn.c_attn' `
            + `AND unit BETWEEN ${first} AND ${first + d - 1};\n`;
    }

    const show = latest(async () => {
        const generate = `SELECT ${call('gpt2_generate',
            [literal(page.prompt()), `max_tokens => ${TOKENS}`, 'echo => false'])}`;
        const updates = chosen().map(update).join('');
        none.disabled = !updates;
        if (generate + updates === shown) return;
        showSql(sql, updates ? `BEGIN;\n${updates}${generate};\nROLLBACK;` : generate, page);
        try {
            after.setAttribute('aria-busy', 'true');
            const whole = (await page.database.query(generate)).rows[0]![0] ?? '';
            before.replaceChildren(whole);
            if (!updates) {
                after.replaceChildren(make('span', { class: 'quiet' }, 'Switch a head off.'));
            } else {
                const results = await page.database.experiment(updates + generate);
                const text = results.at(-1)!.rows[0]![0] ?? '';
                after.replaceChildren(...compared(text, whole));
            }
            shown = generate + updates;
        } catch (error) {
            after.replaceChildren(errorBox(error));
            shown = undefined;
        } finally {
            after.removeAttribute('aria-busy');
        }
    });

    return { show, choose, chosen };
}

/** A text, marked from where it is no longer another. */
function compared(text: string, other: string): (Node | string)[] {
    if (text === other) return [text, make('span', { class: 'quiet' }, ' (the same)')];
    let same = 0;
    while (same < text.length && text[same] === other[same]) same++;
    return [text.slice(0, same), make('mark', {}, text.slice(same))];
}
