// The pictures that SQL draws: attention, the logit lens, surprisal.

import { find, make } from '../dom';
import { call, literal } from '../sql';
import { errorBox, latest, showSql, type Page, type Panel } from './panel';

/** A picture, or an error, in the place of what was there. */
async function draw(element: HTMLElement, query: string, page: Page): Promise<boolean> {
    element.setAttribute('aria-busy', 'true');
    try {
        const { rows } = await page.database.query(query);
        // gpt2_*_svg escapes what it draws, and the page's policy runs no script that a text brings
        element.innerHTML = rows[0]?.[0] ?? '';
        return true;
    } catch (error) {
        element.replaceChildren(errorBox(error));
        return false;
    } finally {
        element.removeAttribute('aria-busy');
    }
}

/** A panel that is one picture of the prompt. */
export function picture(name: 'lens' | 'surprisal', page: Page): Panel {
    const element = find(`${name}-picture`);
    const sql = find(`${name}-sql`);
    let shown: string | undefined;
    return {
        show: latest(async () => {
            const query = `SELECT ${call(`gpt2_${name}_svg`, [literal(page.prompt())])}`;
            if (query === shown) return;
            showSql(sql, query, page);
            shown = await draw(element, query, page) ? query : undefined;
        }),
    };
}

export interface Head {
    block: number;
    head: number;
}

/** All heads; or one, by itself. */
export function attention(page: Page, shape: { blocks: number; heads: number }) {
    const element = find('attention-picture');
    const sql = find('attention-sql');
    const block = find<HTMLSelectElement>('attention-block');
    const head = find<HTMLSelectElement>('attention-head');
    let shown: string | undefined;

    const options = (n: number) =>
        Array.from({ length: n }, (_, i) => make('option', { value: i }, String(i)));
    block.replaceChildren(make('option', { value: '' }, 'all'), ...options(shape.blocks));
    head.replaceChildren(...options(shape.heads));

    const show = latest(async () => {
        const all = block.value === '';
        head.disabled = all;
        const prompt = literal(page.prompt());
        const query = all ? `SELECT ${call('gpt2_heads_svg', [prompt])}`
            : `SELECT ${call('gpt2_attention_svg', [prompt, `block => ${block.value}`,
                `head => ${head.value}`])}`;
        if (query === shown) return;
        showSql(sql, query, page);
        shown = await draw(element, query, page) ? query : undefined;
    });

    function choose(chosen: Head | undefined): void {
        block.value = chosen ? String(chosen.block) : '';
        if (chosen) head.value = String(chosen.head);
        show();
    }

    block.addEventListener('change', show);
    head.addEventListener('change', show);
    // a small matrix in the picture of all heads opens the large one
    element.addEventListener('click', (event) => {
        const title = (event.target as Element).closest('g')?.querySelector(':scope > title');
        const named = /^block (\d+), head (\d+)$/.exec(title?.textContent ?? '');
        if (named) choose({ block: Number(named[1]), head: Number(named[2]) });
    });

    return {
        show,
        choose,
        chosen: (): Head | undefined => block.value === '' ? undefined
            : { block: Number(block.value), head: Number(head.value) },
    };
}
