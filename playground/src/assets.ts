// The files that are too large to wait for without a word: compressed by the build, fetched with
// their progress told, and unpacked here. So every static host sends the same few bytes.

export interface Asset {
    /** What it is. */
    name: string;
    /** The file, relative to the page; its name has a hash of its content. */
    file: string;
    /** How many bytes are fetched. */
    bytes: number;
}

/** Fetches files at once: what each holds, unpacked, by name. */
export function fetchAll(
    assets: Asset[], base: string, onProgress: (loaded: number, total: number) => void
): Map<string, Promise<Blob>> {
    const total = assets.reduce((sum, { bytes }) => sum + bytes, 0);
    let loaded = 0;
    const count = (bytes: number) => onProgress(loaded += bytes, total);
    return new Map(assets.map(({ name, file }) => {
        const blob = fetchOne(new URL(file, base), count);
        blob.catch(() => {}); // whoever awaits it hears of it
        return [name, blob];
    }));
}

async function fetchOne(url: URL, count: (bytes: number) => void): Promise<Blob> {
    const response = await fetch(url);
    if (!response.ok || !response.body) {
        throw new Error(`${url.pathname} could not be loaded: HTTP ${response.status}`);
    }
    const counted = response.body.pipeThrough(new TransformStream<Uint8Array, Uint8Array>({
        transform(chunk, controller) {
            count(chunk.length);
            controller.enqueue(chunk);
        },
    }));
    return new Response(counted.pipeThrough(new DecompressionStream('gzip') as never)).blob();
}
