// SQL as text. What a panel shows is what it runs, so values stand in the text as literals.

/** A text as a literal, whatever it holds but U+0000, which PostgreSQL's text cannot. */
export function literal(text: string): string {
    return `'${text.replaceAll('\0', '').replaceAll("'", "''")}'`;
}

/** A call with named arguments, broken into lines where it is long. */
export function call(name: string, values: string[]): string {
    const line = `${name}(${values.join(', ')})`;
    return line.length <= 80 ? line : `${name}(\n    ${values.join(',\n    ')})`;
}

/** A number as it was typed; what is none becomes a literal, which the server refuses by name. */
function number(text: string): string {
    return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text) ? text : literal(text);
}

/** What was typed into the field of an argument, as an expression of its type, in our names. */
export function expression(type: string, typed: string): string {
    switch (type) {
        case 'int':
        case 'bigint':
        case 'float8':
            return number(typed.trim());
        case 'int[]':
            return literal(`{${typed.trim().replace(/[\s,]+/g, ',')}}`);
        case 'text[]':
            // a line each, in which \n is a line's end
            return `ARRAY[${typed.split('\n').filter((line) => line !== '')
                .map((line) => literal(line.replaceAll('\\n', '\n'))).join(', ')}]`;
        case 'boolean':
            return typed;
        default:
            return literal(typed);
    }
}
