// What comes next: the likeliest tokens as bars. A bar is a button that writes its token.

import { find, make, visible } from '../dom';
import { call, literal } from '../sql';
import { errorBox, latest, showSql, type Page, type Panel } from './panel';

const N = 10;

export function nextToken(page: Page): Panel {
    const list = find('next-bars');
    const sql = find('next-sql');
    let shown: string | undefined;

    const show = latest(async () => {
        const prompt = page.prompt();
        if (prompt === shown) return;
        const query = 'SELECT rank, token, piece, round(probability::numeric, 4) AS probability\n'
            + `FROM ${call('gpt2_next_token', [literal(prompt), 'top_k => NULL'])}\n`
            + `ORDER BY rank LIMIT ${N}`;
        showSql(sql, query, page);
        list.setAttribute('aria-busy', 'true');
        try {
            const { rows } = await page.database.query(query);
            const most = Number(rows[0]?.[3] ?? 1);
            list.replaceChildren(...rows.map(([, token, piece, probability]) =>
                make('li', {}, bar(token!, piece!, Number(probability), most))));
            shown = prompt;
        } catch (error) {
            list.replaceChildren(make('li', {}, errorBox(error)));
            shown = undefined;
        }
        list.removeAttribute('aria-busy');
    });

    function bar(token: string, piece: string, probability: number, most: number): HTMLElement {
        const percent = `${(100 * probability).toFixed(1)} %`;
        const button = make('button', {
            type: 'button', class: 'bar', title: `token ${token}: write it`,
            'aria-label': `${JSON.stringify(piece)}, ${percent}: write it`,
            click: () => page.setPrompt(page.prompt() + piece),
        },
            make('span', { class: 'piece' }, visible(piece)),
            make('span', { class: 'track' }, make('span', { class: 'fill' })),
            make('span', { class: 'percent' }, percent));
        button.style.setProperty('--share', String(most > 0 ? probability / most : 0));
        return button;
    }

    return { show };
}
