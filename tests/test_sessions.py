"""The sessions that people call from: whatever they set, the same objects are made and the same
results come back; and a statement sees one model, whoever edits it meanwhile."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator

import psycopg
import pytest
from conftest import ROOT, load_model, one, reads
from oracle.checkpoints import SHAPES, write_checkpoint
from psycopg import errors
from psycopg.conninfo import make_conninfo
from test_extension import READERS, objects
from test_loader import directory, has_plpython  # noqa: F401  a fixture

#: what changes how strings are read, and how values are written
STRANGE = {
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "escape_string_warning": "on",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "xmloption": "document",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "plan_cache_mode": "force_generic_plan",
    "plpgsql.variable_conflict": "use_column",
    "plpgsql.extra_errors": "all",
}


def with_options(uri: str, **settings: str) -> str:
    """A URI whose sessions begin with these settings, as with PGOPTIONS."""
    return make_conninfo(uri, options=" ".join(f"-c {k}={v}" for k, v in settings.items()))


def psql(uri: str, script: str, **settings: str) -> subprocess.CompletedProcess:
    """Runs a file in psql, whose session begins with these settings."""
    return subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script, uri],
        env=os.environ
        | {"PGOPTIONS": " ".join(f"-c {k}={v.replace(' ', '')}" for k, v in settings.items())},
        capture_output=True,
        text=True,
        check=False,
    )


PLAIN = str(ROOT / "build/gpt2.sql")


# ---- Making the objects


@pytest.fixture
def crowded(new_database) -> str:
    """URI of a database with pgvector in a schema of its own, and in public a table and functions
    that have the names of others."""
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("""
            CREATE SCHEMA v;
            CREATE EXTENSION vector SCHEMA v;
            CREATE TABLE vocab_bpe (rank int, "left" text, "right" text);
            CREATE FUNCTION exp(float8) RETURNS float8 LANGUAGE sql RETURN 0;
            CREATE FUNCTION "left"(text, int) RETURNS text LANGUAGE sql RETURN '';
            CREATE FUNCTION cardinality(anyarray) RETURNS int LANGUAGE sql AS 'SELECT 0'""")
    return uri


def made(connection: psycopg.Connection) -> tuple[list, list]:
    """What there is of gpt2: definitions, and the rows of the vocabulary."""
    connection.execute("SET search_path = public, v")
    rows = [
        one(connection, f"SELECT sum(hashtextextended(t::text, 0)) FROM gpt2.{table} AS t")
        for table in ("tokenizer", "token", "merge")
    ]
    return objects(connection), rows


@pytest.mark.parametrize("how", ["extension", "plain"])
def test_scripts_depend_on_no_setting(conn, crowded, how):
    settings = STRANGE | {"check_function_bodies": "on"}
    if how == "extension":
        with psycopg.connect(with_options(crowded, **settings), autocommit=True) as strange:
            strange.execute("CREATE EXTENSION gpt2")
    else:
        path = {"search_path": "public,pg_catalog", "client_encoding": "LATIN1"}
        result = psql(crowded, PLAIN, **settings, **path)
        assert (result.returncode, result.stderr) == (0, "")
    with psycopg.connect(crowded, autocommit=True) as connection:
        assert made(connection) == made(conn)
        assert one(connection, "SELECT count(*) FROM vocab_bpe") == 0


def test_importer_depends_on_no_setting(conn, new_database, directory):  # noqa: F811
    """The server's reader: the same rows."""
    if not has_plpython(conn):
        pytest.skip("the server has no PL/Python")
    checkpoint = write_checkpoint(directory, SHAPES["one_block"])
    for path in checkpoint.iterdir():
        path.chmod(0o644)
    rows = []
    for settings in ({}, STRANGE):
        uri = new_database()
        with psycopg.connect(with_options(uri, **settings), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
            connection.execute("SELECT gpt2_load_model(%s, 'm')", [str(checkpoint)])
        with psycopg.connect(uri) as connection:
            rows.append(
                [
                    one(connection, f"SELECT sum(hashtextextended({t}::text, 0)) FROM gpt2.{table}")
                    for table, t in (
                        ("token", "token"),
                        ("merge", "merge"),
                        ("matrix_page", "matrix_page"),
                        ("layer_norm", "layer_norm"),
                        ("model", "(n_ctx, n_embd, layer_norm_epsilon, sha256, eos_tokens)"),
                    )
                ]
            )
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("before", "settings", "message", "hint"),
    [
        ("", {"search_path": "nowhere"}, "no schema has been selected", "SET search_path = public"),
        ("DROP EXTENSION vector", {}, "gpt2 needs the extension vector", "CREATE EXTENSION vector"),
    ],
)
def test_plain_script_says_what_it_needs(new_database, before, settings, message, hint):
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(before)
    result = psql(uri, PLAIN, **settings)
    assert result.returncode == 3
    assert message in result.stderr
    assert re.search(rf"DETAIL: .*\nHINT:  {hint};", result.stderr)


# ---- The schema gpt2 is there already


def refusal(uri: str, how: str) -> tuple[str, str]:
    """DETAIL and HINT of the error that making gpt2 ends with."""
    if how == "extension":
        with (
            psycopg.connect(uri, autocommit=True) as connection,
            pytest.raises(errors.DuplicateSchema, match='schema "gpt2" already exists') as error,
        ):
            connection.execute("CREATE EXTENSION gpt2 CASCADE")
        return error.value.diag.message_detail, error.value.diag.message_hint
    result = psql(uri, PLAIN)
    assert result.returncode == 3 and 'schema "gpt2" already exists' in result.stderr
    return re.search(r"DETAIL:  (.*)\nHINT:  (.*)\n", result.stderr).groups()


@pytest.mark.parametrize("how", ["extension", "plain"])
@pytest.mark.parametrize(
    ("first", "detail", "hint"),
    [
        ("CREATE SCHEMA gpt2", r"It is empty\.", r"(DROP SCHEMA gpt2;)"),
        (
            "CREATE SCHEMA gpt2; CREATE TABLE gpt2.mine (); CREATE VIEW gpt2.ours AS SELECT 1",
            r"It holds other things: table gpt2\.mine, view gpt2\.ours\.",
            r"Give it another name: (ALTER SCHEMA gpt2 RENAME TO other;)",
        ),
        (
            "plain",
            r"It holds what a plain script of gpt2 has made, models included\.",
            r"Use it as it is, or drop it with its models: (DROP SCHEMA gpt2 CASCADE; DROP .*;)",
        ),
        (
            "CREATE EXTENSION gpt2",
            r"It belongs to the extension gpt2, which is installed here\.",
            r"Use it as it is, or drop it with its models: (DROP EXTENSION gpt2;)",
        ),
    ],
    ids=["empty", "other things", "plain script", "extension"],
)
def test_schema_exists(new_database, how, first, detail, hint):
    """The error says what is there, and the command of its hint makes room."""
    if how == "extension" and first == "CREATE EXTENSION gpt2":
        pytest.skip("the server says so itself")
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        if first == "plain":
            assert psql(uri, PLAIN).returncode == 0
        else:
            connection.execute(first)
        found = refusal(uri, how)
        assert re.fullmatch(detail, found[0])
        connection.execute(re.fullmatch(hint, found[1])[1])
        connection.execute("SELECT 1")
        assert psql(uri, PLAIN).returncode == 0
        assert one(connection, "SELECT cardinality(gpt2_tokenize('a b'))") == 2


# ---- Calling the functions

#: each public function that reads, with text of every kind
CALLS = [
    r"SELECT gpt2_tokenize(E'It''s \\ 1.5 né 😀\t')",
    "SELECT * FROM gpt2_tokens('Happy 😀')",
    "SELECT gpt2_detokenize('{0,39,7774,222}')",
    "SELECT * FROM gpt2_bpe('Mississippi')",
    "SELECT gpt2_embeddings('{1,2}')",
    "SELECT gpt2_block(gpt2_embeddings('{1,2}'), 0)",
    "SELECT gpt2_forward('{1,2}')",
    "SELECT * FROM gpt2_next_token('A table', 3, 0.7, top_p => 0.9, repetition_penalty => 1.1)",
    "SELECT gpt2_generate('The', 4)",
    r"SELECT gpt2_generate('The', 4, pattern => E' [^\\d\\s]+ \\w*', stop => E'{\n}')",
    "SELECT gpt2_generate('The', 4, 1, seed => 3, logit_bias => '{\" row\": 0.25, \"5\": false}')",
    "SELECT * FROM gpt2_stream('The', 4, 1, seed => 3, min_p => 0.01)",
    "SELECT * FROM gpt2_complete('The', 3, 2, 1, seed => 3, choices => '{\" né\",\" row\"}')",
    'SELECT gpt2_completions(\'{"prompt": "The", "seed": 3, "logprobs": 2}\') -> \'choices\'',
    "SELECT * FROM gpt2_beam('The', 2, 2)",
    "SELECT gpt2_beam_search('The', 3, 2)",
    "SELECT gpt2_prefix('The x')",
    "SELECT gpt2_generate('The x', 2, prefix => gpt2_prefix('The'))",
    "SELECT name, is_default, n_parameters, size, dtype, base, source FROM gpt2_models()",
    "SELECT gpt2_prewarm()",
    "SELECT * FROM gpt2_hooks()",
    "SELECT * FROM gpt2_trace('The x', '{resid_post, pattern}', '{1}')",
    "SELECT * FROM gpt2_attention('The x', 2, 1)",
    "SELECT * FROM gpt2_head_summary('a b a b')",
    "SELECT * FROM gpt2_logit_lens('The x')",
    "SELECT * FROM gpt2_direct_logit_attribution('The x')",
    "SELECT * FROM gpt2_neurons('The x', 1, 2)",
    "SELECT gpt2_attention_svg('A table', 2, 1)",
    "SELECT gpt2_heads_svg('A table')",
    "SELECT gpt2_lens_svg('A table')",
    "SELECT gpt2_surprisal_svg('A table')",
    "SELECT gpt2_report('A né')",
    "SELECT * FROM gpt2_attention_text('A table', 2, 1)",
    "SELECT * FROM gpt2_surprisal_text('A table of the row')",
    "SELECT * FROM gpt2_score('A table')",
    "SELECT gpt2_perplexity('A table')",
    "SELECT * FROM gpt2_choose('The', '{x,\" x y\"}')",
    "SELECT gpt2_classify('The', '{x,y}')",
    "SELECT gpt2_embed('The x', 'max')",
    "SELECT gpt2_similarity('The x', 'x', 'weighted')",
    "SELECT * FROM gpt2_model_diff('demo', 'demo')",
    "SELECT gpt2_fingerprint('demo')",
]
SESSIONS = {
    "strings": [*(f'SET "{name}" = "{value}"' for name, value in STRANGE.items())],
    "places": ["SET client_encoding = 'GB18030'", "SET search_path = pg_temp, public, pg_catalog"],
    "planner": [
        f"SET enable_{node} = off"
        for node in (
            "bitmapscan hashagg hashjoin incremental_sort indexonlyscan indexscan material "
            "memoize mergejoin nestloop seqscan sort tidscan"
        ).split()
    ],
    "memory": ["SET work_mem = '64kB'", "SET temp_buffers = '800kB'", "SET jit = off"],
    "read only": ["SET default_transaction_read_only = on"],
    "serializable": [
        "SET default_transaction_isolation = serializable",
        "SET default_transaction_deferrable = on",
    ],
}


def test_every_function_is_called():
    assert set(re.findall(r"gpt2_\w+", "".join(CALLS))) == READERS


@pytest.fixture(scope="module")
def expected(demo_dsn) -> list[list]:
    """What CALLS give in a session that sets nothing."""
    with psycopg.connect(demo_dsn, autocommit=True) as connection:
        return [results(connection, query) for query in CALLS]


def results(connection: psycopg.Connection, query: str) -> list[tuple]:
    """A query's rows, by the binary protocol, which no setting changes."""
    return connection.cursor(binary=True).execute(query).fetchall()


@pytest.mark.parametrize("session", SESSIONS)
def test_results_depend_on_no_setting(demo_dsn, expected, session):
    with psycopg.connect(demo_dsn, autocommit=True) as connection:
        for setting in SESSIONS[session]:
            connection.execute(setting)
        different = [
            query
            for query, rows in zip(CALLS, expected, strict=True)
            if results(connection, query) != rows
        ]
    assert different == []


def test_models_keep_their_numbers(demo_dsn):
    """A number passes through JSON on its way to a variant; where few digits of it are asked for,
    none may be lost."""
    with psycopg.connect(demo_dsn) as connection:
        connection.execute("UPDATE gpt2.model SET layer_norm_epsilon = 1.2345678901234567e-5")
        for setting in SESSIONS["strings"]:
            connection.execute(setting)
        connection.execute("SELECT gpt2_create_variant('variant')")
        connection.execute("SELECT gpt2_average('mean', 'demo', 'variant', 0.125)")
        query = "SELECT layer_norm_epsilon, source FROM gpt2.model ORDER BY name"
        rows = results(connection, query)
        assert {row[0] for row in rows} == {1.2345678901234567e-5}
        assert rows[1][1] == 'average of "demo" and "variant", weight 0.125'
        connection.execute("UPDATE gpt2.model SET layer_norm_epsilon = 1.23e-5 WHERE name = 'mean'")
        with pytest.raises(errors.InvalidParameterValue, match="same shape"):
            connection.execute("SELECT * FROM gpt2_model_diff('demo', 'mean')")
        connection.rollback()


# ---- A statement sees one model


@pytest.fixture(scope="module")
def two_sessions(new_database, tmp_path_factory) -> Iterator[tuple]:
    """Two sessions of a database with a small model, and a copy of the rows that are edited."""
    uri = new_database(holds="extension")
    with (
        psycopg.connect(uri, autocommit=True) as reader,
        psycopg.connect(uri, autocommit=True) as editor,
    ):
        load_model(uri, write_checkpoint(tmp_path_factory.mktemp("m"), SHAPES["one_block"]), "m")
        reader.execute("CREATE TABLE kept AS SELECT * FROM gpt2.wpe")
        yield reader, editor


@pytest.mark.parametrize(
    "call",
    [
        "gpt2_generate('a', 6)",
        "gpt2_generate('a', 6, 1, seed => 4)",
        "gpt2_beam_search('a', 3, 2)",
        "gpt2_perplexity('a b')::text",
        "(SELECT text FROM gpt2_complete('a' || left(i::text, 0), 6))",
        "(SELECT string_agg(piece, '') FROM gpt2_stream('a' || left(i::text, 0), 6))",
        "(SELECT token::text FROM gpt2_next_token('a' || left(i::text, 0), 1))",
        "gpt2_prefix('a')::text",
    ],
)
def test_statement_sees_one_model(two_sessions, call):
    """Another session commits an edit after 6 of 12 rows: which it is told by a lock that the
    statement waits for."""
    reader, editor = two_sessions
    editor.execute("SELECT pg_advisory_lock(1)")
    rows: list[tuple] = []
    query = f"""SELECT {call}, CASE i WHEN 6 THEN pg_advisory_lock(1)::text END
                FROM generate_series(1, 12) AS i"""
    thread = threading.Thread(target=lambda: rows.extend(reader.execute(query).fetchall()))
    thread.start()
    while not one(editor, "SELECT count(*) FROM pg_locks WHERE NOT granted"):
        assert thread.is_alive()
    editor.execute("UPDATE gpt2.wpe SET weight = weight + weight + weight")
    editor.execute("SELECT pg_advisory_unlock(1)")
    thread.join()
    after = reader.execute(query.replace("pg_advisory_lock", "pg_advisory_lock_shared")).fetchall()
    editor.execute(
        """UPDATE gpt2.wpe AS p SET weight = k.weight FROM kept AS k WHERE k."position" = p."position" """
    )
    reader.execute("SELECT pg_advisory_unlock_all()")
    assert len(rows) == 12
    assert len({text for text, _ in rows}) == len({text for text, _ in after}) == 1
    assert rows[0] != after[0]


# ---- Chance


@pytest.mark.parametrize(
    "query",
    [
        # two calls in a list
        "SELECT gpt2_generate('The', 8, 3), gpt2_generate('The', 8, 3)",
        "SELECT gpt2_generate('The', 8, 3, seed => NULL), gpt2_generate('The', 8, 3, seed => NULL)",
        "SELECT a.text, b.text FROM gpt2_complete('The', 8, 1, 3) AS a, "
        "gpt2_complete('The', 8, 1, 3) AS b",
        # two rows
        "SELECT array_agg(gpt2_generate('The', 8, 3)) FROM generate_series(1, 2)",
        "SELECT array_agg(c.text) FROM unnest('{The,The}'::text[]) AS p, "
        "gpt2_complete(p, 8, 1, 3) AS c",
        "SELECT array_agg(s.text) FROM unnest('{The,The}'::text[]) AS p, "
        "gpt2_stream(p, 8, 3) AS s WHERE s.finish_reason IS NOT NULL",
    ],
)
def test_calls_draw_on_their_own(demo, query):
    row = demo.execute(query).fetchone()
    texts = row if len(row) == 2 else row[0]
    assert len(texts) == 2 and len(set(texts)) == 2


@pytest.mark.parametrize(
    "query",
    [
        "WITH g AS (SELECT gpt2_generate('The', 8, 3) AS t) SELECT t, t FROM g",
        "SELECT t, t || '' FROM (SELECT gpt2_generate('The', 8, 3) AS t) AS g",
        "SELECT g.t, upper(g.t), g.t FROM (SELECT gpt2_generate(p, 8, 3) AS t "
        "FROM unnest('{The}'::text[]) AS p) AS g WHERE g.t <> ''",
        "WITH c AS (SELECT text AS t FROM gpt2_complete('The', 8, 1, 3)) SELECT t, t FROM c",
        "SELECT t, t FROM (SELECT text AS t FROM gpt2_stream('The', 8, 3) ORDER BY step DESC "
        "LIMIT 1) AS s",
    ],
)
def test_a_call_draws_once(demo, query):
    """However often its result is mentioned."""
    row = demo.execute(query).fetchone()
    assert row[0] == row[-1]


@pytest.mark.parametrize("function", ["gpt2_stream", "gpt2_complete"])
@pytest.mark.parametrize("stop", ["NULL", "ARRAY(SELECT 'x')"])
def test_rows_of_equal_prompts_draw_on_their_own(demo, function, stop):
    """The planner would keep the rows of a prompt for the next with the same (Memoize)."""
    with demo.transaction(force_rollback=True):
        demo.execute("""CREATE TEMP TABLE same AS
                        SELECT i, 'CREATE'::text AS p FROM generate_series(1, 6) AS i;
                        ANALYZE same""")
        texts = demo.execute(f"""SELECT i, text
                                 FROM same, {function}(p, 4, temperature => 2, stop => {stop})
                                 WHERE finish_reason IS NOT NULL""").fetchall()
    assert len(texts) == 6 and len({text for _, text in texts}) > 1


@pytest.mark.parametrize("seed", ["", ", seed => 3"])
def test_planner_does_not_run_the_model(demo, seed):
    """For an estimate of rows it runs what is STABLE."""
    with demo.transaction(force_rollback=True):
        assert not reads(
            demo, f"EXPLAIN SELECT FROM gpt2.model WHERE name = gpt2_generate('The', 2{seed})"
        )
