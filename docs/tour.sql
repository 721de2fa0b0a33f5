-- # A tour of GPT-2, from a prompt to a token
--
-- GPT-2 is a function: a text goes in, and out comes a number for everything that could come
-- next. Here the function is written in SQL, its 17.7 million parameters are rows, and every
-- number on the way can be looked at. This tour does so in eighteen steps. Each is a short
-- query, what it gives, and why the step exists. Where a query computes by hand what the model
-- computes inside, a column `difference` or `model` holds the two against each other.
--
-- You need SQL, and no machine learning: words are explained where they first appear. If you
-- know transformers already, read on for how each part becomes a join, an aggregate or a
-- recursion.
--
-- `make tour` shows these pages one by one. To try a query of your own, or another prompt, open
-- `make psql` beside it and begin with this, which the other queries count on:

\set prompt 'a column of type timestamp without time'
SET gpt2.model = 'demo';
SELECT model, cardinality(gpt2_tokenize(:'prompt')) - 1 AS last
FROM gpt2.model WHERE name = 'demo' \gset

-- The model is the bundled one. It has read documentation of software and nothing else, so we
-- ask it something out of that: what follows `timestamp without time`? A person would say
-- `zone`. `:last` is the number of the prompt's last position, where the answer will appear.

SELECT n_vocab, n_ctx, n_embd, n_head, n_layer, n_inner, n_parameters
FROM gpt2.model
WHERE model = :model;

-- These are the model's measures, and the names are OpenAI's. It knows 50,257 pieces of text
-- (`n_vocab`), reads up to 512 of them at a time (`n_ctx`), keeps 256 numbers for each
-- (`n_embd`), and works on them in 6 blocks (`n_layer`) with 8 heads each (`n_head`). GPT-2's
-- smallest model has 50,257, 1,024, 768, 12 and 12. Nothing else is different: the same SQL
-- runs both.
--
-- ## 1. Bytes
--
-- A model computes with numbers, so a text must become numbers first. Characters would not do,
-- there are more than a hundred thousand of them and new ones every year. Bytes do: there are
-- 256, and any text in any script is a sequence of them. Before that, the text is split into
-- words, and the space goes with the word behind it. Nothing will be joined across words later
-- on.

SELECT w.n, w.match[1] AS word, convert_to(w.match[1], 'UTF8') AS bytes
FROM regexp_matches(:'prompt', gpt2._split_pattern(), 'g') WITH ORDINALITY AS w (match, n);

-- Byte 20 is the space: ` time` within a text and `time` at its beginning are different words
-- to the model. The pattern is one regular expression, GPT-2's own; PostgreSQL has no class for
-- "letter in any script", so it is spelled out in 677 ranges.
--
-- ## 2. Merges
--
-- Each byte is a token, a symbol that the model knows, and nothing else is needed to write any
-- text. But 256 symbols would make long sequences, and a model's work grows with the length. So
-- frequent neighbours are joined, or merged, into new symbols, and those again: `e` and `s`
-- become `es`, later `es` and `t` become `est`. Which pairs, and in which order, was counted
-- once on a large body of text: the most frequent pair has rank 0. The list is a table,
-- `gpt2.merge`. These are the pairs of neighbours in `timestamp` that it knows:

WITH letter AS (
    SELECT c.n, c.c, t.token
    FROM string_to_table('timestamp', NULL) WITH ORDINALITY AS c (c, n)
    JOIN gpt2.token AS t ON t.tokenizer = 1 AND t.bytes = convert_to(c.c, 'UTF8')
)
SELECT a.c || b.c AS pair, m.rank, m.token
FROM letter AS a
JOIN letter AS b ON b.n = a.n + 1
JOIN gpt2.merge AS m ON m.tokenizer = 1 AND m."left" = a.token AND m."right" = b.token
ORDER BY m.rank;

-- The lowest rank is merged first, then the pairs are looked up again, until no pair is left.
-- `gpt2_bpe` does that, a row a merge:

SELECT step, token, merged, pieces FROM gpt2_bpe('timestamp');

-- `es` comes first, as the list above says. `st` would be next, but its `s` is gone; so `im`
-- and `am` follow, and then pairs that were not there at the start: `es` and `t`, `am` and `p`.
-- There it ends: no rule joins `tim` and `estamp`. With a space in front, as in our prompt, the
-- word is one token, ` timestamp`: the list was counted on texts, where most words have one.
--
-- This is byte-pair encoding. It is a loop in which each turn needs the one before: in SQL, a
-- recursive query. In it a word is a string with one character a piece, so that "merge this
-- pair wherever it occurs" is `replace()`.
--
-- ## 3. Tokens
--
-- The pieces that are left are the tokens. A token has a number, its id: the row of the tables
-- that are to come. A place in the sequence is a position, counted from 0.

SELECT t."position", t.token, t.piece
FROM gpt2_tokens(:'prompt') AS t;

-- Common words are one token, rare ones several, and every text can be written: at worst byte
-- by byte. From here on the model sees six numbers and no letters. That `time` is in
-- `timestamp` too is hidden from it.
--
-- ## 4. Embeddings
--
-- A token's id says nothing about it: 640 is not a little more than 639. So a token has a row
-- of 256 numbers, its embedding, in the table `gpt2.wte`. A list of numbers like that is a
-- vector, and pgvector gives us the type. The position has a row too, in `gpt2.wpe`, as
-- otherwise the model could not tell `a b` from `b a`. The two are added up. Nobody chose these
-- numbers. Training did: it began with random ones, and moved each a little, thousands of
-- times, in the direction that made the next token of its texts more probable.

SELECT t."position", t.piece,                                     -- the first of 256 numbers
       round((e.weight::real[])[1]::numeric, 4) AS wte,
       round((p.weight::real[])[1]::numeric, 4) AS wpe,
       round((x.value::real[])[1]::numeric, 4) AS sum,
       round((e.weight + p.weight <-> x.value)::numeric, 4) AS difference
FROM gpt2_tokens(:'prompt') AS t
JOIN gpt2.wte AS e ON e.model = :model AND e.token = t.token      -- [n_vocab, n_embd]
JOIN gpt2.wpe AS p ON p.model = :model AND p."position" = t."position"  -- [n_ctx, n_embd]
JOIN gpt2_trace(:'prompt', '{resid_pre}', '{0}') AS x ON x."position" = t."position"
ORDER BY t."position";

-- `gpt2_trace` runs the model and gives what it computes on the way, an activation a row: here
-- `resid_pre`, what block 0 reads. (`SELECT * FROM gpt2_hooks()` lists all such places.) `<->`
-- is the distance of two vectors: over all 256 numbers, the model's sum is ours. The embedding
-- is a join by id: machine learning calls it a lookup table, and so do we.
--
-- One number of an embedding means nothing. All of them together are a direction, and tokens
-- that are used alike point alike. The nearest to ` month`, whose id is 1227, by the angle
-- between them (`<=>`):

SELECT gpt2_detokenize(ARRAY[b.token]) AS piece,
       round((a.weight <=> b.weight)::numeric, 2) AS distance
FROM gpt2.wte AS a
JOIN gpt2.wte AS b ON b.model = a.model AND b.token <> a.token
WHERE a.model = :model AND a.token = 1227
ORDER BY a.weight <=> b.weight
LIMIT 6;

-- From reading alone the model has found out what a calendar is made of. (Tokens that it hardly
-- met, 28,258 of them, have one row in common: it cannot tell them apart.)
--
-- ## 5. Layer norm
--
-- What starts as an embedding goes through the blocks one by one. At each position it is one
-- vector of 256 numbers, and every part of a block reads it and adds something. So it grows,
-- and how large it gets depends on the text. A part that is to work for all texts needs its
-- input in one size: before each part, a layer norm moves the numbers of a position to mean 0
-- and standard deviation 1, then scales and shifts each by a learned weight and bias. From here
-- on we look into block 3, which will turn out to matter; the others are built alike.

WITH number AS (
    SELECT t."position", n.i, n.x, n.weight, n.bias,              -- [n_seq, n_embd], one a row
           (n.x - avg(n.x) OVER p) / sqrt(var_pop(n.x) OVER p + 1e-5) AS y
    FROM gpt2_trace(:'prompt', '{resid_pre}', '{3}') AS t
    JOIN gpt2.layer_norm AS l ON l.model = :model AND l.block = 3 AND l.layer = 'ln_1'
    CROSS JOIN unnest(t.value::real[]::float8[], l.weight::real[], l.bias::real[])
        WITH ORDINALITY AS n (x, weight, bias, i)
    WINDOW p AS (PARTITION BY t."position")
)
SELECT "position", round(avg(x)::numeric, 3) AS mean, round(stddev(x)::numeric, 2) AS deviation,
       round((array_agg(y * weight + bias ORDER BY i)::vector <-> t.value)::numeric, 4)
           AS difference
FROM number
JOIN gpt2_trace(:'prompt', '{ln1_out}', '{3}') AS t USING ("position")
GROUP BY "position", t.value ORDER BY "position";

-- The positions come in with different deviations, the first with the largest. A vector taken
-- apart into rows is how SQL says it plainest: `avg` and `var_pop` over a window are the norm.
-- (The 1e-5 is `layer_norm_epsilon`, so that nothing is divided by 0.) The extension's own code
-- does the same with whole vectors, as an inner product of a vector with ones is its sum, and
-- with itself its sum of squares: one row in place of 256.
--
-- ## 6. Queries, keys and values
--
-- So far each position knows only itself. Attention is how it learns of the others: each
-- position asks a question, the query, each has a label, the key, and something to hand over,
-- the value. All three are vectors computed from the position's own numbers by a linear layer.
-- A linear layer is a set of neurons, and a neuron is as simple as this: multiply each input by
-- a weight of its own, add all that up, add a bias. Sum of products is the inner product, for
-- which pgvector has `<#>`. It gives the negated one, so that an index could sort by it: hence
-- the minus.

WITH qkv AS (
    SELECT ARRAY(SELECT l.bias - (l.weight <#> x.value)           -- [n_embd] -> [3 * n_embd]
                 FROM gpt2.linear AS l
                 WHERE l.model = :model AND l.block = 3 AND l.layer = 'attn.c_attn'
                 ORDER BY l.unit)::vector AS y
    FROM gpt2_trace(:'prompt', '{ln1_out}', '{3}') AS x
    WHERE x."position" = :last
)
SELECT t.hook, h.unit AS units_from, vector_dims(t.value) AS numbers,
       round((subvector(qkv.y, h.unit + 1, 32) <-> t.value)::numeric, 4) AS difference
FROM qkv
CROSS JOIN (VALUES ('attn.hook_q', 0), ('attn.hook_k', 256), ('attn.hook_v', 512)) AS h (hook, unit)
JOIN gpt2_trace(:'prompt', '{q,k,v}', '{3}') AS t USING (hook)
WHERE t."position" = :last AND t.head = 0
ORDER BY h.unit;

-- In `gpt2.linear` a neuron is a row: bias, weights, and `unit`, its number. This layer has
-- 768: 256 for queries, 256 for keys, 256 for values. Each 256 are dealt out to eight heads of
-- 32, which work side by side: head 0 has the first 32. A matrix product is thus a scan of the
-- layer's rows in the order of their index, one inner product each, gathered into an array.
-- (OpenAI's files have the matrix the other way round, an input a row. And `gpt2.linear` is a
-- view: several neurons share a row of `gpt2.matrix_page`, since finding a row takes longer
-- than multiplying it.)
--
-- ## 7. One head of attention
--
-- How well does a key answer a query? Take their inner product: large where the two point the
-- same way. It is divided by the root of their width, as a sum of more products comes out
-- larger. That is the score. The softmax then makes shares of the scores: `exp` makes them
-- positive, dividing by the sum makes them add up to 1. (The largest score is taken off first.
-- That cancels out, and keeps `exp` within the range of numbers.) This is ` time`, the last
-- position, as head 7 of block 3 looks back:

WITH score AS (
    SELECT k."position", -(q.value <#> k.value) / sqrt(32) AS score   -- [n_seq]
    FROM gpt2_trace(:'prompt', '{q}', '{3}') AS q
    JOIN gpt2_trace(:'prompt', '{k}', '{3}') AS k
        ON k.head = q.head AND k."position" <= q."position"
    WHERE q.head = 7 AND q."position" = :last
), e AS (
    SELECT *, exp(score - max(score) OVER ()) AS e FROM score
)
SELECT a.key_piece, round(e.score::numeric, 3) AS score, round(e.e::numeric, 3) AS exp,
       round((e.e / sum(e.e) OVER ())::numeric, 3) AS weight, round(a.weight::numeric, 3) AS model
FROM e
JOIN gpt2_attention(:'prompt', block => 3, head => 7) AS a
    ON a.key_position = e."position" AND a.query_position = :last
ORDER BY e."position";

-- Nearly all goes to ` without`: ` time` alone does not tell what comes next, and this head
-- fetches what does. (Ask `gpt2_next_token(' time')`: ` zone` is not among its ten
-- likeliest.) Nobody told it to. Attention is a self-join: every position with every one before
-- it and itself. That later ones are left out, elsewhere called the causal mask, is the join's
-- condition, `k."position" <= q."position"`: text is written from left to right, and who could
-- see the next token need not predict it.
--
-- ## 8. Its matrix, and what it fetches
--
-- The same for every position is the head's attention matrix: a row for the one that looks, a
-- column for the one that is looked at. Each row adds up to 1, but for rounding.

SELECT concat_ws(' ', query_position, query_piece) AS query,          -- [n_seq, n_seq]
       concat_ws(' ', key_position, key_piece) AS key, round(weight::numeric, 2) AS weight
FROM gpt2_attention(:'prompt', block => 3, head => 7)
ORDER BY query_position, key_position \crosstabview

-- The empty triangle is what comes later. `a` has only itself to look at. All others look at
-- the token before them, whatever it is: that is what this head is for, and heads that do so
-- are found in every model of this kind. What is fetched, `z`, is the mean of the values,
-- weighted by these shares:

WITH z AS (
    SELECT a.query_position AS "position", n.i, sum(a.weight * n.v) AS z
    FROM gpt2_attention(:'prompt', block => 3, head => 7) AS a    -- [n_seq, n_seq]
    JOIN gpt2_trace(:'prompt', '{v}', '{3}') AS v                 -- [n_seq, 32]
        ON v.head = 7 AND v."position" = a.key_position
    CROSS JOIN unnest(v.value::real[]) WITH ORDINALITY AS n (v, i)
    GROUP BY 1, 2
)
SELECT z."position", (array_agg(round(z.z::numeric, 2) ORDER BY z.i))[:4] AS first_four,
       round((array_agg(z.z ORDER BY z.i)::vector <-> t.value)::numeric, 4) AS difference
FROM z
JOIN gpt2_trace(:'prompt', '{z}', '{3}') AS t ON t.head = 7 AND t."position" = z."position"
GROUP BY z."position", t.value ORDER BY z."position";

-- That is all of attention: a join, a window for the softmax, a sum. (The extension keeps the
-- values transposed, a vector over the positions for each of the 32 numbers, so that this sum
-- is an inner product as well.)
--
-- ## 9. All heads
--
-- A head can ask one question at a time, so each block has eight, and this model 48. Here is
-- where each of them looks most from the last position, the token's position and the share:

SELECT DISTINCT ON (a.block, a.head)                              -- [n_layer, n_head, n_seq]
       a.block, 'head ' || a.head AS head, w.n - 1 || ': ' || round(w.weight::numeric, 2) AS share
FROM gpt2_trace(:'prompt', '{pattern}') AS a
CROSS JOIN unnest(a.value::real[]) WITH ORDINALITY AS w (weight, n)
WHERE a."position" = :last
ORDER BY a.block, a.head, w.weight DESC \crosstabview block head share

-- Five of block 3's heads, and three of block 4's, look most at position 5, ` without`. Most of
-- the others look at the first one: shares must add up to 1, and that is where heads put what
-- they have no other use for. Then the eight heads' results of 32 numbers are put side by side,
-- which makes 256 again, and one more linear layer, `c_proj`, mixes them into what attention
-- adds:

WITH z AS (
    SELECT array_agg(n.z ORDER BY t.head, n.i)::vector AS z       -- [n_head, 32] -> [n_embd]
    FROM gpt2_trace(:'prompt', '{z}', '{3}') AS t
    CROSS JOIN unnest(t.value::real[]) WITH ORDINALITY AS n (z, i)
    WHERE t."position" = :last
), attn_out AS (
    SELECT array_agg(l.bias - (l.weight <#> z.z) ORDER BY l.unit)::vector AS y
    FROM z
    JOIN gpt2.linear AS l ON l.model = :model AND l.block = 3 AND l.layer = 'attn.c_proj'
)
SELECT vector_dims(a.y) AS numbers, round((a.y <-> t.value)::numeric, 4) AS difference
FROM attn_out AS a
JOIN gpt2_trace(:'prompt', '{attn_out}', '{3}') AS t ON t."position" = :last;

-- ## 10. The perceptron
--
-- Attention has brought things together at a position; now something has to be made of them.
-- That is the work of the multi-layer perceptron, or MLP: two linear layers, from 256 numbers
-- to 1,024 and back to 256, and between them a bend. Without the bend the two would be as good
-- as one, a sum of sums is a sum. The bend is gelu, here by way of `tanh` as in GPT-2: large
-- numbers pass as they are, negative ones become almost 0. Such a neuron of the first layer is
-- a detector: it is on when what it has learned to see is there. The four strongest of block 3
-- at ` time`:

WITH neuron AS (
    SELECT l.unit, l.bias - (l.weight <#> x.value) AS pre         -- [n_embd] -> [n_inner]
    FROM gpt2_trace(:'prompt', '{ln2_out}', '{3}') AS x
    JOIN gpt2.linear AS l ON l.model = :model AND l.block = 3 AND l.layer = 'mlp.c_fc'
    WHERE x."position" = :last
), gelu AS (
    SELECT unit, pre, 0.5 * pre * (1 + tanh(sqrt(2 / pi()) * (pre + 0.044715 * pre ^ 3))) AS post
    FROM neuron
)
SELECT g.unit AS neuron, round(g.pre::numeric, 2) AS pre, round(g.post::numeric, 2) AS post,
       round(n.activation::numeric, 2) AS model, n.pushes
FROM gelu AS g
JOIN gpt2_neurons(:'prompt', block => 3, top_k => 4) AS n
    ON n.neuron = g.unit AND n."position" = :last
ORDER BY n.rank;

-- `pushes` are the tokens that a neuron makes more likely when it is on. They make no sense to
-- us, and ` zone` is not among them: what a model knows is spread over many neurons, and no
-- single one means much. The second layer adds up what all 1,024 have to say. Two thirds of a
-- block's weights are in these two layers.

WITH y AS (
    SELECT l.unit,                                                -- [n_inner] -> [n_embd]
           sum(l.bias - (l.weight <#> subvector(p.value, l.slice * 256 + 1, 256))) AS y
    FROM gpt2_trace(:'prompt', '{post}', '{3}') AS p
    JOIN gpt2.linear AS l ON l.model = :model AND l.block = 3 AND l.layer = 'mlp.c_proj'
    WHERE p."position" = :last
    GROUP BY l.unit
)
SELECT count(*) AS numbers,
       round((array_agg(y.y ORDER BY y.unit)::vector <-> t.value)::numeric, 4) AS difference
FROM y
JOIN gpt2_trace(:'prompt', '{mlp_out}', '{3}') AS t ON t."position" = :last
GROUP BY t.value;

-- A neuron of this layer has 1,024 weights. In GPT-2 itself they are 3,072 or more, 12 kB, too
-- much for a page of 8 kB, and a value that PostgreSQL moves out of its row is slow to fetch.
-- So it is cut into slices as wide as `n_embd`, and the sum is taken over them.
--
-- ## 11. A block
--
-- Attention and perceptron do not replace what came in. They add to it:
--
--     x = x + attention(ln_1(x));  x = x + mlp(ln_2(x))
--
-- The vector that runs through the model and is added to is called the residual stream. What a
-- block wrote stays there for all later ones, and a block with nothing to say adds little. How
-- long the vectors are (the root of the sum of squares), and that the sum is right:

WITH t AS MATERIALIZED (                                          -- [n_seq, n_embd], four times
    SELECT * FROM gpt2_trace(:'prompt', '{resid_pre,attn_out,mlp_out,resid_post}', '{3}')
)
SELECT x."position", round(vector_norm(x.value)::numeric, 1) AS x,
       round(vector_norm(a.value)::numeric, 1) AS attention,
       round(vector_norm(m.value)::numeric, 1) AS mlp,
       round(vector_norm(y.value)::numeric, 1) AS sum,
       round((x.value + a.value + m.value <-> y.value)::numeric, 4) AS difference
FROM t AS x
JOIN t AS a ON a."position" = x."position" AND a.hook = 'hook_attn_out'
JOIN t AS m ON m."position" = x."position" AND m.hook = 'hook_mlp_out'
JOIN t AS y ON y."position" = x."position" AND y.hook = 'hook_resid_post'
WHERE x.hook = 'hook_resid_pre'
ORDER BY x."position";

-- Lengths do not add up as numbers do, the vectors point in different directions. What one
-- block adds is a third of what it finds, or less.
--
-- Only attention reads other positions; layer norm and perceptron work on each alone. A block
-- moves information between positions, then works on what has arrived.
--
-- ## 12. Six blocks
--
-- The blocks run one after the other, the same code with other weights: a recursive query, with
-- a row a block. (GPT-2's smallest model has twelve; this one six.) Beside each row is what the
-- model would say if it ended there. That is called the logit lens: steps 13 and 14 of this
-- tour, put behind a block that is not the last.

WITH RECURSIVE model AS (
    SELECT -1 AS block, gpt2_embeddings(gpt2_tokenize(:'prompt')) AS x  -- [n_seq, n_embd]
UNION ALL
    SELECT block + 1, gpt2_block(x, block + 1) FROM model WHERE block < 5
)
SELECT block, round((m.x["position" + 1] <-> t.value)::numeric, 4) AS difference,
       l.prediction, round(l.probability::numeric, 2) AS probability
FROM model AS m
JOIN gpt2_trace(:'prompt', '{resid_post}') AS t USING (block)
JOIN gpt2_logit_lens(:'prompt') AS l USING (block, "position")
WHERE "position" = :last
ORDER BY block;

-- At first the model would go on with `zone` without a space, as in `timezone`: the word ` time`
-- has hardly met the others yet. In block 3, where we saw a head fetch ` without`, the right
-- answer takes the lead. Two more blocks make it surer.
--
-- ## 13. The last layer norm
--
-- The vector at the last position now holds what the model thinks comes next. It is brought to
-- size once more, by `ln_f`. This time with whole vectors in place of a number a row. To take
-- off the mean and divide by the deviation is to put a vector on a sphere: the mean taken off,
-- pgvector's `l2_normalize` gives it length 1, and the root of 256 is the length that is
-- wanted. (The 1e-5 is left out, so compare three digits.)

SELECT t."position",                                              -- [n_seq, n_embd]
       round((l2_normalize(t.value - m.mean) * m.length * l.weight + l.bias <-> f.y)::numeric, 3)
           AS difference
FROM gpt2_trace(:'prompt', '{resid_post}', '{5}') AS t
CROSS JOIN LATERAL (
    SELECT array_fill(avg(x)::real, ARRAY[256])::vector AS mean,
           array_fill(sqrt(256)::real, ARRAY[256])::vector AS length
    FROM unnest(t.value::real[]) AS x
) AS m
JOIN gpt2.layer_norm AS l ON l.model = :model AND l.layer = 'ln_f'
JOIN unnest(gpt2_forward(gpt2_tokenize(:'prompt'))) WITH ORDINALITY AS f (y, n)
    ON f.n = t."position" + 1
ORDER BY t."position";

-- `gpt2_forward` is the whole forward pass, from tokens to here. Every position has a result:
-- each is the model's idea of what follows that position. In training all of them count, and
-- that is why one text teaches so much. To continue a text only the last one is of use. (The
-- two vectors of equal numbers are there because pgvector multiplies vectors by vectors, and
-- not by numbers.)
--
-- ## 14. Logits
--
-- Which token does the vector mean? Ask all of them: the inner product with a token's embedding
-- is the token's logit, a score in no particular unit. It is the table that step 4 read, used
-- the other way round: from a vector to the tokens that point its way.

SELECT w.token, gpt2_detokenize(ARRAY[w.token]) AS piece,
       round(-(w.weight <#> y.value)::numeric, 3) AS logit,       -- [n_vocab]
       round(n.logit::numeric, 3) AS model
FROM gpt2_trace(:'prompt', '{ln_final_out}') AS y
JOIN gpt2.wte AS w ON w.model = :model
LEFT JOIN gpt2_next_token(:'prompt', top_k => 5) AS n USING (token)
WHERE y."position" = :last
ORDER BY w.weight <#> y.value
LIMIT 5;

-- ` zone` it is. In SQL this is a nearest-neighbour query, `ORDER BY ... <#> ... LIMIT 5`, and
-- one might wish for an index on it. But a distribution needs every logit, and the ones an
-- approximate index finds are too often not the largest. It was measured and left out:
-- docs/performance.md has the figures.
--
-- ## 15. Temperature
--
-- Logits become probabilities by the same softmax that attention uses. Before it they can be
-- divided by a number, the temperature. Below 1 the differences grow and the likeliest token
-- takes almost all; above 1 they shrink and everything gets a chance. At 1 it is the model's
-- own opinion.

WITH t AS (
    SELECT rank, token, piece, logit,                             -- [n_vocab]
           exp(logit / 0.5) / sum(exp(logit / 0.5)) OVER () AS half,
           exp(logit / 1) / sum(exp(logit / 1)) OVER () AS one,
           exp(logit / 2) / sum(exp(logit / 2)) OVER () AS two
    FROM gpt2_next_token(:'prompt', top_k => NULL)
)
SELECT t.piece, round(t.logit::numeric, 2) AS logit, round(half::numeric, 4) AS "0.5",
       round(one::numeric, 4) AS "1", round(two::numeric, 4) AS "2",
       round((two - n.probability)::numeric, 4) AS difference
FROM t
JOIN gpt2_next_token(:'prompt', top_k => NULL, temperature => 2) AS n USING (token)
ORDER BY t.rank LIMIT 6;

-- Read a row from left to right: ` zone` falls from 99.9 % to 15 %, and what it loses goes to
-- 50,256 others. The order of the tokens never changes, only how much they differ.
--
-- ## 16. Sampling
--
-- A distribution is not a token yet. Temperature 0 takes the likeliest, and the same prompt
-- always gives the same text. To draw one instead, lay the probabilities end to end: they fill
-- the interval from 0 to 1. A random number falls into the share of one token, and that is the
-- one. At temperature 2, for six seeds:

WITH share AS MATERIALIZED (
    SELECT rank, piece, sum(probability) OVER (ORDER BY rank) AS upto   -- [n_vocab]
    FROM gpt2_next_token(:'prompt', top_k => NULL, temperature => 2)
)
SELECT seed, round(u::numeric, 4) AS number, s.rank, s.piece,
       gpt2_generate(:'prompt', max_tokens => 1, temperature => 2, seed => seed, echo => false)
           AS model
FROM generate_series(13, 18) AS seed
CROSS JOIN LATERAL gpt2._uniform(seed, :last + 1) AS u
CROSS JOIN LATERAL (SELECT * FROM share WHERE upto > u ORDER BY rank LIMIT 1) AS s
ORDER BY seed;

-- The first number is small and falls into the first share, that of ` zone`; the others fall
-- behind it, some far out, where thousands of unlikely tokens together outweigh it. That is what
-- a high temperature does, and why `top_k` exists: it keeps the few likeliest and gives the rest
-- no share. The number is a hash of the seed and the position, not `random()`: the same seed
-- gives the same text on every server, and in parallel workers.
--
-- ## 17. The loop
--
-- One token is chosen. Put it at the end of the text and ask again: that is how all text of a
-- language model is made. In SQL it is a recursive query.

WITH RECURSIVE loop AS (
    SELECT 0 AS step, :'prompt' AS text
UNION ALL
    SELECT step + 1, text || n.piece
    FROM loop
    CROSS JOIN LATERAL gpt2_next_token(text, top_k => 1) AS n
    WHERE step < 6
)
SELECT step, text, text = gpt2_generate(:'prompt', max_tokens => step) AS same
FROM loop
ORDER BY step;

-- The model has no plan and no memory but the text. It writes `Table`, as the pages that it has
-- read go on with one, and only then, reading that, a number. (`gpt2_generate` appends tokens,
-- not text: where a text would be split otherwise than it was written, the two could part ways.)
--
-- ## 18. The cache
--
-- The loop above computes every position again for each token. It need not. No position looks
-- at a later one, so nothing that is computed for a text changes when the text goes on. Here
-- are the activations of the prompt against those of the same prompt with more behind it:

SELECT s.hook, count(*) AS vectors, round(max(s.value <-> l.value)::numeric, 4) AS difference
FROM gpt2_trace(:'prompt', '{k,v,resid_post}') AS s               -- [n_seq, ...]
JOIN gpt2_trace(:'prompt' || ' zone, timestamp', '{k,v,resid_post}') AS l
    ON l.hook = s.hook AND l.block = s.block AND l.head IS NOT DISTINCT FROM s.head
   AND l."position" = s."position"
GROUP BY s.hook
ORDER BY s.hook;

-- What a new position needs from the old ones are their keys and values, in every head of every
-- block, and nothing else: steps 7 and 8 joined no other column. So they are kept. This is the
-- key-value cache, and a new token costs one position. How many positions are computed for so
-- many tokens, and how many numbers the cache then holds:

SELECT n AS tokens, (SELECT sum(:last + i) FROM generate_series(1, n) AS i) AS without_cache,
       :last + n AS with_cache, (:last + n) * 2 * m.n_layer * m.n_embd AS numbers_kept
FROM gpt2.model AS m
CROSS JOIN unnest(ARRAY[1, 8, 32, 128, 500]) AS n
WHERE m.model = :model;

-- Without it the work grows with the square of the tokens, with it along with them, but for the
-- inner products of attention: a new position still looks at all that came before. In SQL the
-- difficulty is to keep something from row to row. A recursive query keeps every row that it
-- ever made, and a cache in its rows would be kept once for each token. An aggregate has one
-- state, which each row hands on to the next: so `gpt2_generate` is, at its heart, an aggregate
-- over chunks of 16 positions. In a chunk it is a recursion over positions, and in each of
-- these one over the blocks.
--
-- That was the way from a prompt to a token, and there is nothing else in it. What made the
-- numbers in the tables, training, happened elsewhere.
--
-- ## Where it is written
--
-- Each step, the file in which the extension has it, and where the idea comes from.
--
-- | step | file in sql/ | source |
-- | --- | --- | --- |
-- | 1. bytes | [unicode.sql], [byte_encoder.sql] | Radford 2019, 2.2 |
-- | 2. merges | [bpe.sql], [vocabulary.sql] | Sennrich 2016, 3.2; Radford 2019, 2.2 |
-- | 3. tokens | [tokenize.sql], [detokenize.sql] | Radford 2019, 2.2 |
-- | 4. embeddings | [forward.sql], [weights.sql] | Vaswani 2017, 3.4 and 3.5; Radford 2018, 3.1 |
-- | 5. layer norm | [layer_norm.sql] | Ba 2016, 3 |
-- | 6. queries, keys, values | [linear.sql], [neurons.sql] | Vaswani 2017, 3.2.2 |
-- | 7. one head | [attention.sql] | Vaswani 2017, 3.2.1 |
-- | 8. its matrix | [attention.sql], [insight/attention.sql] | Vaswani 2017, 3.2.1 and 3.2.3 |
-- | 9. all heads | [attention.sql], [block.sql] | Vaswani 2017, 3.2.2 |
-- | 10. the perceptron | [mlp.sql], [attribution.sql] | Vaswani 2017, 3.3; Hendrycks 2016, 2 |
-- | 11. a block | [block.sql] | He 2016, 3.1; Radford 2019, 2.3 |
-- | 12. six blocks | [forward.sql], [lens.sql] | Radford 2018, 3.1; nostalgebraist 2020 |
-- | 13. the last layer norm | [forward.sql] | Radford 2019, 2.3 |
-- | 14. logits | [forward.sql] | Vaswani 2017, 3.4; Radford 2018, 3.1 |
-- | 15. temperature | [draw.sql], [next_token.sql] | Hinton 2015, 2 |
-- | 16. sampling | [draw.sql] | Radford 2019, 3.6 |
-- | 17. the loop | [generate.sql] | Radford 2019, 2 |
-- | 18. the cache | [cache.sql] | Shazeer 2019, 2 |
-- | every activation | [hooks.sql], [trace.sql] | TransformerLens |
--
-- - Ba, Kiros, Hinton 2016: Layer Normalization. arXiv:1607.06450
-- - He, Zhang, Ren, Sun 2016: Deep Residual Learning for Image Recognition. arXiv:1512.03385
-- - Hendrycks, Gimpel 2016: Gaussian Error Linear Units. arXiv:1606.08415
-- - Hinton, Vinyals, Dean 2015: Distilling the Knowledge in a Neural Network. arXiv:1503.02531
-- - nostalgebraist 2020: interpreting GPT: the logit lens. lesswrong.com
-- - Radford, Narasimhan, Salimans, Sutskever 2018: Improving Language Understanding by Generative
--   Pre-Training. OpenAI (GPT)
-- - Radford, Wu, Child, Luan, Amodei, Sutskever 2019: Language Models are Unsupervised Multitask
--   Learners. OpenAI (GPT-2)
-- - Sennrich, Haddow, Birch 2016: Neural Machine Translation of Rare Words with Subword Units.
--   arXiv:1508.07909
-- - Shazeer 2019: Fast Transformer Decoding: One Write-Head is All You Need. arXiv:1911.02150
-- - Vaswani et al. 2017: Attention Is All You Need. arXiv:1706.03762
--
-- [attention.sql]: ../sql/model/attention.sql
-- [attribution.sql]: ../sql/insight/attribution.sql
-- [block.sql]: ../sql/model/block.sql
-- [bpe.sql]: ../sql/tokenizer/bpe.sql
-- [byte_encoder.sql]: ../sql/tokenizer/byte_encoder.sql
-- [cache.sql]: ../sql/engine/cache.sql
-- [detokenize.sql]: ../sql/tokenizer/detokenize.sql
-- [forward.sql]: ../sql/model/forward.sql
-- [generate.sql]: ../sql/generation/generate.sql
-- [hooks.sql]: ../sql/model/hooks.sql
-- [insight/attention.sql]: ../sql/insight/attention.sql
-- [layer_norm.sql]: ../sql/model/layer_norm.sql
-- [lens.sql]: ../sql/insight/lens.sql
-- [linear.sql]: ../sql/model/linear.sql
-- [mlp.sql]: ../sql/model/mlp.sql
-- [neurons.sql]: ../sql/storage/neurons.sql
-- [next_token.sql]: ../sql/generation/next_token.sql
-- [draw.sql]: ../sql/sampling/draw.sql
-- [weights.sql]: ../sql/storage/weights.sql
-- [tokenize.sql]: ../sql/tokenizer/tokenize.sql
-- [trace.sql]: ../sql/insight/trace.sql
-- [unicode.sql]: ../sql/tokenizer/unicode.sql
-- [vocabulary.sql]: ../sql/install/vocabulary.sql
