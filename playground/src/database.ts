// The page's side of the database: it runs in a worker, one call at a time.

import type { Answer, Failure, Question, Result } from './protocol';

export type { Result } from './protocol';

/** An error of the server, with its fields, or of the browser, with a message alone. */
export class DatabaseError extends Error {
    constructor(readonly failure: Failure) {
        super(failure.message);
    }
}

/** What can be done while nobody else uses the database. */
export interface Session {
    /** Runs one statement or several; a result each. */
    run(sql: string): Promise<Result[]>;
}

export interface Progress {
    /** What is being done, for people. */
    readonly step: string;
    readonly loaded: number;
    readonly total: number;
}

export class Database {
    #worker!: Worker;
    #waiting = new Map<number, {
        resolve: (results: Result[]) => void;
        reject: (error: Error) => void;
    }>();
    #number = 0;
    #last: Promise<unknown> = Promise.resolve();
    readonly #onProgress: (progress: Progress) => void;

    /** Resolves when the model can be asked. */
    ready!: Promise<unknown>;

    constructor(onProgress: (progress: Progress) => void) {
        this.#onProgress = onProgress;
        this.#start();
    }

    #start(): void {
        this.#worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
        this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => {
            if ('progress' in data) {
                this.#onProgress(data.progress);
                return;
            }
            const waiting = this.#waiting.get(data.number);
            this.#waiting.delete(data.number);
            if ('failure' in data) waiting?.reject(new DatabaseError(data.failure));
            else waiting?.resolve(data.results);
        };
        this.#worker.onerror = (event) => {
            event.preventDefault();
            this.#fail(event.message || 'the database could not be started');
        };
        this.ready = this.#ask({ kind: 'open' });
        this.ready.catch(() => {}); // whoever awaits it hears of it
        this.#last = this.ready.catch(() => {});
    }

    #fail(message: string): void {
        for (const { reject } of this.#waiting.values()) reject(new DatabaseError({ message }));
        this.#waiting.clear();
    }

    #ask(question: Omit<Question, 'number'>): Promise<Result[]> {
        const number = ++this.#number;
        return new Promise((resolve, reject) => {
            this.#waiting.set(number, { resolve, reject });
            this.#worker.postMessage({ ...question, number } satisfies Question);
        });
    }

    /** Gives a function the database to itself, after those that asked before. */
    exclusive<Value>(use: (session: Session) => Promise<Value>): Promise<Value> {
        const session: Session = { run: (sql) => this.#ask({ kind: 'run', sql }) };
        const turn = this.#last.then(() => use(session));
        this.#last = turn.catch(() => {});
        return turn;
    }

    /** Runs SQL. */
    run(sql: string): Promise<Result[]> {
        return this.exclusive((session) => session.run(sql));
    }

    /** The only result of one statement, or the last of several. */
    async query(sql: string): Promise<Result> {
        return (await this.run(sql)).at(-1)!;
    }

    /** Hands over each row as it is computed, until the function says false. */
    stream(sql: string, take: (row: (string | null)[]) => boolean): Promise<void> {
        return this.exclusive(async (session) => {
            try {
                await session.run(`BEGIN; DECLARE completion NO SCROLL CURSOR FOR ${sql}`);
                for (;;) {
                    const [result] = await session.run('FETCH 1 FROM completion');
                    if (!result!.rows.length || !take(result!.rows[0]!)) break;
                }
            } finally {
                await session.run('ROLLBACK');
            }
        });
    }

    /** Runs statements whose changes nobody sees: they are rolled back. */
    experiment(statements: string): Promise<Result[]> {
        return this.exclusive(async (session) => {
            try {
                return (await session.run(`BEGIN;\n${statements}`)).slice(1);
            } finally {
                await session.run('ROLLBACK');
            }
        });
    }

    /** Ends whatever runs, by ending the worker, and makes the database anew. */
    restart(): Promise<unknown> {
        this.#worker.terminate();
        this.#fail('stopped');
        this.#start();
        return this.ready;
    }
}
