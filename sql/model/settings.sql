-- The planner's settings under which the model's queries run, put into each function that a caller
-- meets. They hold for the call; a function with settings is planned by itself.
--
-- To compile such a plan takes seconds, to run it for a token a tenth of one.
SET jit = off
-- Weights come from the index in the order of their pages, so that nothing is sorted. A bitmap
-- forgets that order; a sequential scan reads the other models too.
SET enable_bitmapscan = off
SET enable_seqscan = off
-- A result is never asked for twice: to remember it is to copy it.
SET enable_memoize = off
-- What a query keeps between its parts stays in memory: a text's keys and values, two or three
-- times, 74 MB each with 124M parameters and 1,000 positions (n_ctx * n_layer * n_embd * 8 bytes).
-- That is what bounds the memory in truth. The setting is a limit for each sort and each CTE of
-- each worker, not a reservation; below the size of the cache every token would write it to disk.
SET work_mem = '1GB'
