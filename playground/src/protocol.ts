// What the page and the worker say to each other.

/** What a statement gave, every value as the server writes it. */
export interface Result {
    columns: string[];
    /** Object ids of the columns' types. */
    types: number[];
    rows: (string | null)[][];
}

export interface Failure {
    message: string;
    code?: string;
    detail?: string;
    hint?: string;
}

export interface Question {
    number: number;
    kind: 'open' | 'run';
    sql?: string;
}

export type Answer =
    | { progress: { step: string; loaded: number; total: number } }
    | { number: number; results: Result[] }
    | { number: number; failure: Failure };
