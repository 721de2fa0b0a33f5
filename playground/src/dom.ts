// Elements, made and found.

type Properties = Record<string, string | number | boolean | ((event: Event) => void) | undefined>;

/** An element. A function is a listener, what is not false an attribute; strings become text. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
    tag: Tag, properties: Properties = {}, ...children: (Node | string)[]
): HTMLElementTagNameMap[Tag] {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (typeof value === 'function') element.addEventListener(name, value);
        else if (value === true) element.setAttribute(name, '');
        else if (value !== false && value !== undefined) element.setAttribute(name, String(value));
    }
    element.append(...children);
    return element;
}

/** The element with an id, which index.html has. */
export function find<Element extends HTMLElement = HTMLElement>(id: string): Element {
    const element = document.getElementById(id);
    if (!element) throw new Error(`no element #${id}`);
    return element as Element;
}

/** A piece of text with its whitespace made visible, as gpt2._visible() has it. */
export function visible(piece: string): string {
    return piece.replaceAll(' ', '·').replaceAll('\n', '↵').replaceAll('\t', '⇥');
}

/** Calls a function once nothing has asked for it for so many milliseconds. */
export function debounce(milliseconds: number, call: () => void): () => void {
    let timer: number | undefined;
    return () => {
        clearTimeout(timer);
        timer = window.setTimeout(call, milliseconds);
    };
}
