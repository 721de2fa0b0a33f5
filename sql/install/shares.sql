-- A page for each share of what parallel workers do together (engine/read.sql).

INSERT INTO gpt2._share (share, filler)
SELECT i, repeat('x', current_setting('block_size')::int * 5 / 8)
FROM generate_series(1, gpt2._n_shares()) AS i;
