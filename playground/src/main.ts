// The page: what is where, and what a link to it says.

import './style.css';
import { Database } from './database';
import { debounce, find, make } from './dom';
import { completion } from './panels/completion';
import { editor } from './panels/editor';
import { heads } from './panels/heads';
import { nextToken } from './panels/next';
import { errorBox, type Page } from './panels/panel';
import { attention, picture, type Head } from './panels/pictures';
import { missing } from './support';
import { tabs } from './tabs';

const EXAMPLES = ['The default value is', 'To create an index on a table,', 'In this chapter', 'Happy New Year!'];

async function start(): Promise<void> {
    const prompt = find<HTMLTextAreaElement>('prompt');
    const link = new URLSearchParams(location.hash.slice(1));
    prompt.value = link.get('prompt') ?? EXAMPLES[0]!;

    const lacks = missing();
    if (lacks) {
        loadingFailed(new Error(lacks));
        return;
    }

    const bar = find<HTMLProgressElement>('loading-bar');
    const database = new Database(({ step, loaded, total }) => {
        find('loading-step').textContent = step;
        find('loading-bytes').textContent = `${megabytes(loaded)} of ${megabytes(total)} MB`;
        bar.max = total;
        bar.value = loaded;
    });

    const page: Page = {
        database,
        prompt: () => prompt.value,
        setPrompt(text) {
            prompt.value = text;
            prompt.dispatchEvent(new Event('input', { bubbles: true }));
        },
        edit(sql) {
            sqlEditor.setText(sql);
            tab.select('sql');
            sqlEditor.focus();
        },
    };

    const complete = completion(page);
    const sqlEditor = editor(page);
    for (const [name, value] of link) complete.set(name, value);
    find('examples').append(...EXAMPLES.map((text) => make('button', {
        type: 'button', click: () => {
            page.setPrompt(text);
            void complete.run();
        },
    }, text)));

    find('loading').hidden = false;
    try {
        await database.ready;
    } catch (error) {
        loadingFailed(error);
        return;
    }
    find('loading').hidden = true;
    document.body.dataset.ready = '';

    const { rows } = await database.query(
        'SELECT n_layer, n_head, n_embd, n_ctx, n_parameters FROM gpt2.model WHERE is_default');
    const [blocks, nHeads, width, context, parameters] = rows[0]!.map(Number);
    const shape = { blocks: blocks!, heads: nHeads!, width: width! };
    find('model').textContent = `The model: ${(parameters! / 1e6).toFixed(1)} million parameters, `
        + `${blocks} blocks of ${nHeads} heads, ${width} wide, a context of ${context} tokens.`;

    const attentionPanel = attention(page, shape);
    const headsPanel = heads(page, shape);
    const panels: Record<string, { show(): void }> = {
        next: nextToken(page),
        attention: attentionPanel,
        lens: picture('lens', page),
        surprisal: picture('surprisal', page),
        heads: headsPanel,
    };
    const tab = tabs((name) => panels[name]?.show());
    prompt.addEventListener('input', debounce(400, () => panels[tab.selected()]?.show()));

    const some = (text: string | null): Head[] =>
        [...(text ?? '').matchAll(/(\d+)\.(\d+)/g)].map(([, block, head]) =>
            ({ block: Number(block), head: Number(head) }));
    if (link.has('attention')) attentionPanel.choose(some(link.get('attention'))[0]);
    if (link.has('off')) headsPanel.choose(some(link.get('off')));
    // what a link brings is shown; it is run by whoever reads it
    sqlEditor.setText(link.get('sql') ?? "SELECT gpt2_generate('CREATE INDEX', max_tokens => 12)");
    complete.tokenize();
    tab.select(link.get('show') ?? 'next');

    find('share').addEventListener('click', async () => {
        const named = (head: Head) => `${head.block}.${head.head}`;
        const said = new URLSearchParams({ prompt: prompt.value, show: tab.selected() });
        for (const [name, value] of complete.settings()) said.set(name, value);
        const looked = attentionPanel.chosen();
        if (looked) said.set('attention', named(looked));
        const off = headsPanel.chosen().map(named).join(' ');
        if (off) said.set('off', off);
        if (tab.selected() === 'sql') said.set('sql', sqlEditor.text());
        history.replaceState(null, '', `#${said}`);
        const done = find('share-status');
        try {
            await navigator.clipboard.writeText(location.href);
            done.textContent = 'The link is copied.';
        } catch {
            done.textContent = 'The link is in the address bar.';
        }
        setTimeout(() => done.textContent = '', 4000);
    });
}

function loadingFailed(error: unknown): void {
    find('loading').hidden = false;
    find('loading').replaceChildren(errorBox(error));
    find<HTMLButtonElement>('go').disabled = true;
}

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);

void start();
