-- A matrix times a vector, and a row of a matrix: all that GPT-2 does with 123 of its 124 million
-- weights. gpt2._linear and gpt2._unembed do the one, gpt2._embedding the other.
-- [n_in] -> [n_out]


-- What few calls need is a function of its own, which is not inlined: the planner looks at it only
-- where it is called. In the query itself the next two took 4 ms of every call, of 34 where the
-- model is small.

CREATE FUNCTION gpt2._half_of(x vector, factor float8)
RETURNS halfvec
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT u.x / factor FROM unnest(_half_of.x::real[]) AS u (x))::halfvec;
COMMENT ON FUNCTION gpt2._half_of IS 'a vector divided by a factor, as float16';


CREATE FUNCTION gpt2._times(products float8[], factor float8)
RETURNS float8[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT u.product * factor FROM unnest(products) AS u (product));
COMMENT ON FUNCTION gpt2._times IS 'numbers times a factor';


CREATE FUNCTION gpt2._n_pages(layer gpt2.layer, m gpt2.model)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (CASE layer
        WHEN 'attn.c_attn' THEN 3 * (m).n_embd
        WHEN 'mlp.c_fc' THEN (m).n_inner
        WHEN 'wte' THEN (m).n_vocab
        WHEN 'lm_head' THEN (m).n_vocab
        ELSE (m).n_embd
    END - 1) / (m).page_size + 1;
COMMENT ON FUNCTION gpt2._n_pages IS 'how many pages a slice of a matrix has';


CREATE FUNCTION gpt2._to_half(x vector)
RETURNS TABLE (half halfvec, factor float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- float16 ends at 65504, which no number of a vector passes whose norm does not: one call in
    -- the place of a look at each. The factor is a power of two, which changes no digit.
    SELECT CASE f.factor WHEN 1 THEN f.x::halfvec ELSE gpt2._half_of(f.x, f.factor) END, f.factor
    FROM (
        SELECT _to_half.x, CASE WHEN vector_norm(_to_half.x) > 65504
                                THEN 2 ^ ceil(ln(vector_norm(_to_half.x) / 65504) / ln(2::float8))
                                ELSE 1 END AS factor
        OFFSET 0
    ) AS f;
END;
COMMENT ON FUNCTION gpt2._to_half IS 'a vector as float16: half times factor, 1 where it fits';


CREATE FUNCTION gpt2._products(
    x vector, m gpt2.model, block int, layer gpt2.layer, slice int DEFAULT 0
) RETURNS TABLE (products float8[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT CASE s.factor WHEN 1 THEN s.products ELSE gpt2._times(s.products, s.factor) END
    FROM (
        -- <#> is the inner product, negated; the index gives the pages in the order of the
        -- neurons. OFFSET 0 is a fence: without it the planner computes x, its rounding to float16
        -- and the fields of m again for every page.
        SELECT CASE WHEN i.half IS NULL
            THEN ARRAY(
                SELECT unnest(p.weight) <#> i.x FROM gpt2._pages(i.own, i.source, i.found) AS p
                WHERE p.block = i.block AND p.layer = i.layer AND p.slice = i.slice
                ORDER BY p.page)
            ELSE ARRAY(
                SELECT unnest(p.half) <#> i.half FROM gpt2._pages(i.own, i.source, i.found) AS p
                WHERE p.block = i.block AND p.layer = i.layer AND p.slice = i.slice
                ORDER BY p.page)
            END AS products, i.factor
        FROM (
            -- the pages that a variant has itself, and one below all of them
            SELECT CASE WHEN (m).base IS NOT NULL THEN
                       -1 || ARRAY(SELECT o.page FROM gpt2.matrix_page AS o
                                   WHERE o.model = (m).model AND o.block = _products.block
                                     AND o.layer = _products.layer AND o.slice = _products.slice
                                   ORDER BY o.page) END AS found
            OFFSET 0
        ) AS v CROSS JOIN LATERAL (
            -- A variant that has all of them needs no base: a token takes 1.0 times what the
            -- base's takes, 4.3 times where each page is found beside the base's.
            SELECT _products.x, h.half, h.factor, _products.block, _products.layer,
                   _products.slice, v.found,
                   CASE WHEN cardinality(v.found) <= gpt2._n_pages(_products.layer, m)
                        THEN (m).base ELSE (m).model END AS source,
                   CASE WHEN cardinality(v.found) <= gpt2._n_pages(_products.layer, m)
                        THEN (m).model END AS own
            FROM gpt2._to_half(CASE (m).dtype WHEN 'float16' THEN _products.x END) AS h
            OFFSET 0
        ) AS i
        OFFSET 0
    ) AS s;
END;
COMMENT ON FUNCTION gpt2._products IS
    'inner products, negated, of x with each neuron of a slice of a matrix';


CREATE FUNCTION gpt2._token_weight(token int, layer gpt2.layer, m gpt2.model)
RETURNS TABLE (weight vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- A scalar subquery, as the planner would make a hash table of all pages for a join.
    SELECT (
        SELECT coalesce(p.weight[i.i], p.half[i.i]::vector)
        FROM gpt2._pages(i.own, i.source) AS p
        WHERE p.block = -1 AND p.layer = _token_weight.layer AND p.slice = 0 AND p.page = i.page)
    FROM (
        SELECT _token_weight.token / (m).page_size AS page,
               _token_weight.token % (m).page_size + 1 AS i,
               CASE WHEN (m).base IS NOT NULL THEN (m).model END AS own,
               coalesce((m).base, (m).model) AS source
    ) AS i;
END;
COMMENT ON FUNCTION gpt2._token_weight IS
    'a row of wte or lm_head, found by its page: the views look at all of them';
