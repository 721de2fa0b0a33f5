"""The extension as an object: what it installs, where, who may use it, and how it goes away."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from conftest import DEMO, ROOT, load_model, one
from pgxnclient import SemVer
from psycopg import errors

# What an extension leaves in the catalogs, by name, as oids differ.
CATALOG = """
    SELECT 'schema', nspname::text FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)'
    UNION ALL SELECT 'function', oid::regprocedure::text FROM pg_proc
    UNION ALL SELECT 'type', format_type(oid, NULL) FROM pg_type
    UNION ALL SELECT 'relation', oid::regclass::text FROM pg_class
        WHERE relnamespace <> 'pg_toast'::regnamespace
    UNION ALL SELECT 'collation', oid::regcollation::text FROM pg_collation
    UNION ALL SELECT 'operator', oid::regoperator::text FROM pg_operator
    UNION ALL SELECT 'cast', castsource::regtype || ' as ' || casttarget::regtype FROM pg_cast
    UNION ALL SELECT 'extension', extname::text FROM pg_extension
    UNION ALL SELECT 'privilege', defaclrole::regrole::text FROM pg_default_acl
    UNION ALL SELECT 'setting', setconfig::text FROM pg_db_role_setting AS s JOIN pg_database AS d
        ON d.oid = s.setdatabase WHERE d.datname = current_database()
"""

# Ours: in schema gpt2, or named gpt2_*. An extension's members are what pg_depend says.
FUNCTIONS = """
    SELECT p.* FROM pg_proc AS p JOIN pg_depend AS d
        ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension AS e ON e.oid = d.refobjid WHERE e.extname = 'gpt2'
"""

READERS = {
    "gpt2_tokenize",
    "gpt2_tokens",
    "gpt2_bpe",
    "gpt2_detokenize",
    "gpt2_embeddings",
    "gpt2_block",
    "gpt2_forward",
    "gpt2_next_token",
    "gpt2_generate",
    "gpt2_stream",
    "gpt2_complete",
    "gpt2_completions",
    "gpt2_beam",
    "gpt2_beam_search",
    "gpt2_prefix",
    "gpt2_models",
    "gpt2_prewarm",
    "gpt2_hooks",
    "gpt2_trace",
    "gpt2_attention",
    "gpt2_head_summary",
    "gpt2_logit_lens",
    "gpt2_direct_logit_attribution",
    "gpt2_neurons",
    "gpt2_attention_svg",
    "gpt2_heads_svg",
    "gpt2_lens_svg",
    "gpt2_surprisal_svg",
    "gpt2_report",
    "gpt2_attention_text",
    "gpt2_surprisal_text",
    "gpt2_score",
    "gpt2_perplexity",
    "gpt2_choose",
    "gpt2_classify",
    "gpt2_embed",
    "gpt2_similarity",
    "gpt2_model_diff",
    "gpt2_fingerprint",
}
WRITERS = {"gpt2_default_model", "gpt2_drop_model", "gpt2_create_variant", "gpt2_average"}
INTERNAL_WRITERS = {
    "_delete_model",
    "_drop_model",
    "_drop_unused_tokenizers",
    "_add_tokenizer",
    "_finish_tokenizer",
    "_add_model",
    "_finish_model",
    "_update_linear",
    "_update_token",
    "_update_neuron",
    "_check_row",
    "_insert_mean",
    "_lock_models",
    "_lock_weights",
    "_begin_edit",
    "_end_edit",
    "_row_edited",
    "_skip_present",
    "_skip_share",
}


# ---- Coming and going


@pytest.mark.parametrize("model", [False, True], ids=["empty", "model loaded"])
def test_drop_extension_leaves_nothing(new_database, model):
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        before = set(connection.execute(CATALOG))
        connection.execute("CREATE EXTENSION gpt2")
        created = set(connection.execute(CATALOG)) - before
        assert ("schema", "gpt2") in created and len(created) > 80
        if model:
            load_model(uri, DEMO, "demo")
            connection.execute("SELECT gpt2_generate('x', 1)")
        connection.execute("DROP EXTENSION gpt2")
        assert set(connection.execute(CATALOG)) == before
        # and it can come back
        connection.execute("CREATE EXTENSION gpt2")
        assert connection.execute("SELECT * FROM gpt2_models()").fetchall() == []


def test_everything_belongs_to_the_extension(conn):
    """Nothing outside the schema but the public functions, nothing that is not a member."""
    names = {
        name
        for (name,) in conn.execute(
            """SELECT proname FROM pg_proc
           WHERE proname ~ '^gpt2' AND pronamespace = 'public'::regnamespace"""
        )
    }
    assert names == READERS | WRITERS
    for catalog, schema in (("pg_class", "relnamespace"), ("pg_proc", "pronamespace")):
        assert (
            conn.execute(f"""
            SELECT o.oid::text FROM {catalog} AS o WHERE {schema} = 'gpt2'::regnamespace
            AND NOT EXISTS (
                SELECT FROM pg_depend AS d WHERE d.classid = '{catalog}'::regclass
                AND d.objid = o.oid AND d.deptype IN ('e', 'i', 'a'))""").fetchall()
            == []
        )


def run_psql(uri: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *arguments, uri],
        capture_output=True,
        text=True,
        check=True,
    )


def objects(connection: psycopg.Connection) -> list[tuple]:
    """Definitions of all that the extension makes."""
    return connection.execute("""
        SELECT 'function', p.oid::regprocedure::text, CASE WHEN p.prokind = 'f'
                   THEN pg_get_functiondef(p.oid)
                   ELSE format('%s %s %s', a.aggtransfn, a.aggtranstype::regtype, p.proparallel)
               END, obj_description(p.oid, 'pg_proc')
        FROM pg_proc AS p LEFT JOIN pg_aggregate AS a ON a.aggfnoid = p.oid
        WHERE p.pronamespace = 'gpt2'::regnamespace OR p.proname ~ '^gpt2_'
    UNION ALL
        SELECT 'column', a.attrelid::regclass || '.' || a.attname,
               format('%s %s %s %s', format_type(a.atttypid, a.atttypmod), a.attnotnull,
                      a.attstorage, pg_get_expr(d.adbin, d.adrelid)),
               col_description(a.attrelid, a.attnum)
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'gpt2'::regnamespace AND a.attnum > 0
    UNION ALL
        SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid), NULL
        FROM pg_constraint WHERE connamespace = 'gpt2'::regnamespace
    UNION ALL
        SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid), NULL
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relnamespace = 'gpt2'::regnamespace
    UNION ALL
        SELECT 'acl', oid::regclass::text, relacl::text, obj_description(oid, 'pg_class')
        FROM pg_class WHERE relnamespace = 'gpt2'::regnamespace
    ORDER BY 1, 2""").fetchall()


def test_plain_script(conn, new_database):
    """build/gpt2.sql, for servers where no extension can be installed, makes the same objects."""
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        run_psql(uri, "-f", str(ROOT / "build/gpt2.sql"))
        plain, extension = objects(connection), objects(conn)
        assert len(plain) > 150

        assert plain == extension
        load_model(uri, DEMO, "demo")
        assert connection.execute("SELECT gpt2_generate('PostgreSQL is', 2)").fetchone()
        assert connection.execute("SELECT gpt2_tokenize('PostgreSQL is great')").fetchone() == (
            [6307, 70, 260, 50, 48, 43, 318, 1049],
        )


def test_other_schema(new_database):
    """The functions work wherever they are, and vector too, with neither in the search_path."""
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("""CREATE SCHEMA v; CREATE SCHEMA "My schema";
                              CREATE EXTENSION vector SCHEMA v;
                              CREATE EXTENSION gpt2 SCHEMA "My schema" """)
        load_model(uri, DEMO, "demo")
        call = '"My schema".gpt2_'
        for path in ("public", "", "pg_catalog, gpt2"):
            connection.execute("SELECT set_config('search_path', %s, false)", (path,))
            text = connection.execute(f"SELECT {call}generate('PostgreSQL is', 3)").fetchone()[0]
            assert text == "PostgreSQL is not implemented in"[: len(text)] and len(text) > 14
            for query in (
                f"SELECT * FROM {call}next_token('x')",
                f"SELECT * FROM {call}tokens('x')",
                f"SELECT * FROM {call}bpe('hello')",
                f"SELECT * FROM {call}score('a b')",
                f"SELECT {call}perplexity('a b')",
                f"SELECT {call}classify('a b', '{{a,b}}')",
                f"SELECT {call}similarity('a b', 'a')",
                f"SELECT {call}forward('{{1,2}}')",
                f"SELECT {call}block({call}embeddings('{{1,2}}'), 0)",
                f"SELECT {call}detokenize({call}tokenize('x'))",
                f"SELECT {call}default_model('demo')",
                f"SELECT * FROM {call}models()",
            ):
                assert connection.execute(query).fetchall()
        connection.execute(f"SELECT {call}drop_model('demo')")


# ---- What it is made of


def test_schema_and_extension_have_comments(conn):
    """What is no object of a source file; of those `make lint` asks for one each."""
    assert one(conn, "SELECT obj_description('gpt2'::regnamespace, 'pg_namespace')")
    assert one(
        conn,
        "SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'gpt2'",
    )


def test_comments_are_noun_phrases(conn):
    """Lower case, no full stop, on one line: as the server's own."""
    odd = [
        row
        for row in conn.execute(f"""SELECT p.proname, obj_description(p.oid, 'pg_proc')
                                        FROM ({FUNCTIONS}) AS p""")
        if row[1].endswith(".") or "\n" in row[1] or re.match(r"[A-Z][a-z]", row[1])
    ]
    # 'Gaussian' is a name
    assert [name for name, _ in odd if name != "_gelu"] == []


def test_volatility_and_parallel_safety(conn):
    """STABLE and PARALLEL SAFE is what reads; VOLATILE is chance, errors, and what writes."""
    rows = conn.execute(f"""SELECT proname, provolatile, proparallel FROM ({FUNCTIONS}) AS p
                            WHERE prokind = 'f'""").fetchall()
    writers = WRITERS | INTERNAL_WRITERS
    for name, volatility, parallel in rows:
        # the server starts no subtransaction, in which an error is caught, in a worker
        assert parallel == ("u" if name in writers | {"gpt2_completions"} else "s"), name
        if name in writers | {
            "gpt2_generate",
            "gpt2_completions",
            "_completions",
            "_random_seed",
            "_raise",
            "_assert",
        }:
            assert volatility == "v", name
        elif name in READERS:
            assert volatility == "s", name
        else:
            assert volatility in "si", name
    assert writers | READERS <= {row[0] for row in rows}


def test_parallel_safe_calls_only_safe(conn):
    """The server takes a function's word for it, and runs in a worker what may not run there."""
    assert (
        conn.execute(f"""
        SELECT DISTINCT p.proname, r.proname FROM ({FUNCTIONS}) AS p,
            regexp_matches(p.prosqlbody::text,
                           ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\\d+)', 'g') AS match
        JOIN pg_proc AS r ON r.oid = match[1]::oid
        WHERE p.proparallel = 's' AND r.proparallel <> 's'""").fetchall()
        == []
    )


def test_immutable_is_pure(conn):
    """An IMMUTABLE function reads no table and calls no function that is not immutable, but for
    error messages and for the conversions of encodings that the server has built in."""
    functions = dict(
        conn.execute(f"""
        SELECT proname, prosqlbody::text FROM ({FUNCTIONS}) AS p
        WHERE prokind = 'f' AND provolatile = 'i' AND prosqlbody IS NOT NULL""").fetchall()
    )
    assert len(functions) > 8
    calls = conn.execute(
        """SELECT DISTINCT p.proname FROM unnest(%s::text[]) AS body,
               regexp_matches(body, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\\d+)', 'g') AS match
           JOIN pg_proc AS p ON p.oid = match[1]::oid WHERE p.provolatile <> 'i'""",
        (list(functions.values()),),
    ).fetchall()
    assert {name for (name,) in calls} <= {"_assert", "format", "convert_from", "convert_to"}
    assert [name for name, body in functions.items() if ":relkind r" in body] == []
    # the tables of those that do read look like this
    assert (
        ":relkind r"
        in conn.execute(
            "SELECT prosqlbody::text FROM pg_proc WHERE proname = '_chosen_model'"
        ).fetchone()[0]
    )


def test_no_search_path_holes(conn):
    """A body is parsed when it is created (BEGIN ATOMIC), or pins its search_path."""
    assert (
        conn.execute(f"""
        SELECT p.oid::regprocedure::text FROM ({FUNCTIONS}) AS p
        WHERE p.prokind = 'f' AND p.prosqlbody IS NULL
          AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c
                          WHERE c LIKE 'search_path=pg_catalog%')
          AND p.proname <> '_erf'""").fetchall()
        == []
    )
    assert conn.execute(f"SELECT proname FROM ({FUNCTIONS}) AS p WHERE prosecdef").fetchall() == []


# ---- Who may do what


@pytest.fixture
def nobody(demo_dsn) -> Iterator[psycopg.Connection]:
    """A connection as a role to which nothing was granted."""
    with psycopg.connect(demo_dsn, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS gpt2_test_nobody")
        connection.execute("CREATE ROLE gpt2_test_nobody")
        connection.execute("SET ROLE gpt2_test_nobody")
        yield connection
        connection.execute("RESET ROLE")
        connection.execute("DROP ROLE gpt2_test_nobody")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT gpt2_tokenize('Mississippilessly')",
        "SELECT gpt2_detokenize('{1}')",
        "SELECT * FROM gpt2_tokens('a b')",
        "SELECT * FROM gpt2_bpe('hello')",
        "SELECT gpt2_embeddings('{1}')",
        "SELECT gpt2_block(gpt2_embeddings('{1}'), 0)",
        "SELECT gpt2_forward('{1}')",
        "SELECT * FROM gpt2_next_token('x')",
        "SELECT gpt2_generate('x', 2, 1)",
        "SELECT * FROM gpt2_models()",
        "SELECT count(*) FROM gpt2_model_diff('demo', 'demo')",
        "SELECT gpt2_fingerprint('demo')",
        "SELECT * FROM gpt2_score('a b')",
        "SELECT gpt2_perplexity('a b')",
        "SELECT * FROM gpt2_choose('x', '{a,b}')",
        "SELECT gpt2_classify('x', '{a,b}')",
        "SELECT gpt2_embed('x')",
        "SELECT gpt2_similarity('x', 'y')",
        *(
            f"SELECT count(*) FROM gpt2.{view}"
            for view in ("linear", "wte", "lm_head", "bias", "wpe", "layer_norm")
        ),
    ],
)
def test_anybody_may_read(nobody, query):
    assert nobody.execute(query).fetchall()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT gpt2_drop_model('demo')",
        "SELECT gpt2_default_model('demo')",
        "SELECT gpt2._drop_model('demo')",
        "SELECT gpt2._drop_unused_tokenizers()",
        "SELECT gpt2._add_tokenizer('x', 256)",
        "SELECT gpt2._finish_tokenizer(1)",
        "SELECT gpt2._add_model('x', to_jsonb(m)) FROM gpt2.model AS m",
        "SELECT gpt2._add_model('demo', to_jsonb(m), replace => true) FROM gpt2.model AS m",
        "DELETE FROM gpt2.matrix_page",
        "UPDATE gpt2.model SET is_default = false",
        "INSERT INTO gpt2.merge VALUES (1, 1000000, 1, 1, 1)",
        "TRUNCATE gpt2.matrix_page",
        "UPDATE gpt2.linear SET bias = 0",
        *(
            f"UPDATE gpt2.{view} SET weight = weight"
            for view in ("wte", "lm_head", "wpe", "layer_norm")
        ),
        "UPDATE gpt2.bias SET bias = bias",
        "DELETE FROM gpt2.wpe",
        "SELECT gpt2_create_variant('x')",
        "SELECT gpt2_average('x', 'demo', 'demo')",
        "CREATE TABLE gpt2.mine ()",
        "DROP EXTENSION gpt2",
        "ALTER TABLE gpt2.wpe ADD x int",
    ],
)
def test_nobody_may_write(nobody, query):
    with pytest.raises(errors.InsufficientPrivilege):
        nobody.execute(query)


# ---- The distribution


def meta() -> dict:
    return json.loads((ROOT / "META.json").read_text(encoding="utf-8"))


def test_versions_agree(conn):
    version = meta()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert [p["version"] for p in meta()["provides"].values()] == [version] * 2
    installed = dict(
        conn.execute("""SELECT name, default_version FROM pg_available_extensions
                                     WHERE name ~ '^gpt2'""").fetchall()
    )
    assert installed == {"gpt2": version, "gpt2_plpython3u": version}
    for name in installed:
        assert f"default_version = '{version}'" in (ROOT / f"build/{name}.control").read_text()
    assert importlib.metadata.version("gpt2-loader") == version


def test_meta_names_what_exists():
    assert set(meta()["provides"]) == {"gpt2", "gpt2_plpython3u"}
    for extension in meta()["provides"].values():
        for key in ("file", "docfile"):
            assert (ROOT / extension[key]).is_file(), extension[key]
        assert extension["file"].endswith(".sql")  # else pgxn load does nothing


def test_meta_is_valid():
    """What PGXN Meta Spec 1.0.0 requires."""
    document = meta()
    assert {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"} <= set(
        document
    )
    assert document["meta-spec"]["version"] == "1.0.0"
    assert document["license"] == "postgresql"
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", document["version"])
    assert re.fullmatch(r"[^\s/\\]{2,}", document["name"])
    allowed = {
        "name",
        "abstract",
        "description",
        "version",
        "maintainer",
        "license",
        "provides",
        "prereqs",
        "tags",
        "meta-spec",
        "generated_by",
        "resources",
        "release_status",
        "no_index",
    }
    assert set(document) <= allowed
    for phase, relations in document["prereqs"].items():
        assert phase in {"configure", "build", "test", "runtime", "develop"}
        for relation, wanted in relations.items():
            assert relation in {"requires", "recommends", "suggests", "conflicts"}
            for extension, least in wanted.items():
                assert re.fullmatch(r"[^\s/\\]{2,}", extension)
                assert least == 0 or SemVer(least)
    assert all(re.fullmatch(r"[^/\\\x00-\x1f]{1,255}", tag) for tag in document["tags"])
    assert all(0 < len(tag) < 256 for tag in document["tags"])
    for extension in document["provides"].values():
        assert {"file", "version"} <= set(extension)
    for phase in document["prereqs"].values():
        assert set(phase) <= {"requires", "recommends", "suggests", "conflicts"}
