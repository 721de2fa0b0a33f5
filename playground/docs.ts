// What the page takes from the documentation when it is built: the arguments of generation with
// their meanings, and the tour's queries.

import { readFileSync } from 'node:fs';

const read = (page: string) => readFileSync(new URL(`../docs/${page}`, import.meta.url), 'utf8');

export interface Option {
    name: string;
    type: string;
    default: string;
    meaning: string;
}

/** Arguments without a field: what the page fills in itself, and what only SQL can make. */
const NO_FIELD = /^(prompt|input_ids|prefix|steer|patch|echo|model)$/;

/** gpt2_stream's arguments, as docs/reference.md has them, in order. */
export function options(): Option[] {
    const reference = read('reference.md');
    const signature = /^ {4}gpt2_stream\(([^()]*)\)/m.exec(reference)?.[1];
    const section = /^## gpt2_generate\n(.*?)^## /ms.exec(reference)?.[1];
    if (!signature || !section) throw new Error('docs/reference.md has no gpt2_stream');
    const meanings = new Map(
        [...section.matchAll(/^\| ([a-z_, ]+) \| (.*) \|$/gm)].flatMap(([, names, meaning]) =>
            names!.split(', ').map((name): [string, string] => [name, plain(meaning!)])));
    return signature.split(',')
        .map((argument) => /^\s*(\w+) (\S+) DEFAULT (.+?)\s*$/.exec(argument)!)
        .filter(([, name]) => !NO_FIELD.test(name!))
        .map(([, name, type, value]) => {
            const meaning = meanings.get(name!);
            if (!meaning) throw new Error(`docs/reference.md does not explain ${name}`);
            return { name: name!, type: type!, default: value!, meaning };
        });
}

/** Markdown as plain text. */
function plain(markdown: string): string {
    return markdown.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replace(/[`\\]/g, '');
}

export interface Tour {
    /** The prompt that its queries read. */
    prompt: string;
    /** A query for the values that the others name: columns `model` and `last`. */
    variables: string;
    steps: { title: string; sql: string }[];
}

/** docs/tour.sql without psql's commands: a step is its text, as comments, and its queries. */
export function tour(): Tour {
    const source = read('tour.sql');
    const prompt = /^\\set prompt '(.*)'$/m.exec(source)?.[1];
    const variables = /^(SELECT(?:(?!;|\n\n).)*?) \\gset$/ms.exec(source)?.[1];
    if (!prompt || !variables) throw new Error('docs/tour.sql does not begin as it did');
    const steps = source.split(/^-- ## /m).slice(1).map((step) => {
        const [title, ...lines] = step.split('\n');
        return {
            title: title!,
            sql: lines.join('\n').replace(/ \\crosstabview.*$/gm, ';').replace(/(\n--)+\s*$/, '')
                .trim().replace(/^--\n/, ''),
        };
    });
    // the last section lists files
    return { prompt, variables, steps: steps.filter(({ sql }) => /^[A-Z]/m.test(sql)) };
}
