// Tabs, by the pattern of WAI-ARIA: the arrow keys go from one to the next.

import { find } from './dom';

export function tabs(onSelect: (name: string) => void) {
    const list = find('tabs');
    const buttons = [...list.querySelectorAll<HTMLButtonElement>('[role=tab]')];
    const name = (button: HTMLButtonElement) => button.id.replace(/^tab-/, '');

    function select(wanted: string): void {
        const chosen = buttons.find((button) => name(button) === wanted) ?? buttons[0]!;
        for (const button of buttons) {
            const on = button === chosen;
            button.setAttribute('aria-selected', String(on));
            button.tabIndex = on ? 0 : -1;
            find(`panel-${name(button)}`).hidden = !on;
        }
        onSelect(name(chosen));
    }

    list.addEventListener('click', (event) => {
        const button = (event.target as Element).closest<HTMLButtonElement>('[role=tab]');
        if (button) select(name(button));
    });
    list.addEventListener('keydown', (event) => {
        const at = buttons.findIndex((button) => button.tabIndex === 0);
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        const button = buttons.at(to % buttons.length)!;
        select(name(button));
        button.focus();
    });

    return {
        select,
        selected: () => name(buttons.find((button) => button.tabIndex === 0)!),
    };
}
