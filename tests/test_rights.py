"""Who may see, load and change what: privileges, row-level security, and whose rights count."""

from __future__ import annotations

from collections.abc import Iterator

import privileges
import psycopg
import pytest
from conftest import load_model, number, one
from oracle.checkpoints import write_checkpoint
from privileges import READS, SHAPE
from psycopg import errors
from test_extension import READERS
from test_loader import directory, has_plpython, readable  # noqa: F401  a fixture among them

# ---- Who may do what


def test_privileges(cluster, conn, directory):  # noqa: F811
    if not has_plpython(conn):
        pytest.skip("the server has no PL/Python")
    write_checkpoint(directory, SHAPE)
    readable(directory)
    with privileges.database(cluster, directory) as connection:
        found = list(privileges.lines(connection, directory))
    expected = privileges.EXPECTED.read_text().splitlines()
    assert found == expected, "if this is meant: python -m privileges (see tests/privileges.py)"
    assert {line.split()[0] for line in found if line} >= READERS


# ---- Row-level security: a model that a policy hides

#: of each function that takes a model's name
CALLS = [
    *READS,
    "SELECT gpt2_create_variant('new', {m})",
    "SELECT gpt2_average('new', 'open', {m})",
    "SELECT gpt2_average('new', {m}, 'open')",
    "SELECT gpt2_default_model({m})",
    "SELECT gpt2_drop_model({m})",
]
VIEWS = ["linear", "wte", "lm_head", "_neuron", "_matrix_page"]
WEIGHTS = ["matrix_page", "bias", "layer_norm", "wpe"]
#: docs/reference.md says so
POLICIES = [
    "ALTER TABLE gpt2.{table} ENABLE ROW LEVEL SECURITY",
    """
    CREATE POLICY of_visible_models ON gpt2.{table}
    USING (model IN (SELECT m.model FROM gpt2.model AS m))""",
]


@pytest.fixture(scope="module")
def hiding(new_database, tmp_path_factory) -> Iterator[str]:
    """A database with the models 'open', the default, and 'secret', with another output layer, which
    a policy hides from the role gpt2_rights_reader; it may write, too."""
    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as connection:
        for name, seed in (("open", 0), ("secret", 1)):
            path = write_checkpoint(tmp_path_factory.mktemp(name), SHAPE, seed)
            load_model(uri, path, name)
        # not by its name: with that the policy would refuse the name to others, too
        connection.execute(f"""
            DROP ROLE IF EXISTS gpt2_rights_reader;
            CREATE ROLE gpt2_rights_reader;
            GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gpt2 TO gpt2_rights_reader;
            ALTER TABLE gpt2.model ENABLE ROW LEVEL SECURITY;
            CREATE POLICY hide ON gpt2.model USING (model <> {number(connection, "secret")})""")
        yield uri
        connection.execute("DROP OWNED BY gpt2_rights_reader; DROP ROLE gpt2_rights_reader")


@pytest.fixture
def reader(hiding) -> Iterator[psycopg.Connection]:
    """A transaction of that role, of which nothing is left."""
    with psycopg.connect(hiding) as connection:
        connection.execute("SET ROLE gpt2_rights_reader")
        yield connection
        connection.rollback()


def hides_in_views(connection: psycopg.Connection) -> bool:
    return connection.info.server_version >= 150000


def test_every_function_with_a_model(conn):
    """In CALLS, or without an argument that names one."""
    named = {
        name
        for (name,) in conn.execute("""SELECT proname FROM pg_proc
            WHERE proname ~ '^gpt2_' AND pronamespace = 'public'::regnamespace
              AND proargnames && '{model,a,b,from_model,name}'""")
    }
    called = {call.partition("gpt2_")[2].partition("(")[0] for call in CALLS}
    # lists models, and has columns of these names
    assert {name.removeprefix("gpt2_") for name in named} - {"models"} <= called


@pytest.mark.parametrize("call", CALLS)
def test_hidden_from_functions(reader, call):
    with reader.transaction(force_rollback=True):
        if not ("create" in call or "average" in call or "drop" in call):
            reader.execute(call.format(m="'open'"))  # works for one that is seen
    hidden = call.format(m="'secret'")
    if "gpt2_completions" in call:  # errors are its result
        assert one(reader, hidden)["error"]["code"] == "model_not_found"
        return
    with pytest.raises(errors.InvalidParameterValue) as error:
        reader.execute(hidden)
    assert error.value.diag.message_primary == 'model "secret" does not exist'


def test_hidden_from_the_list(reader):
    assert reader.execute("SELECT name FROM gpt2_models()").fetchall() == [("open",)]


@pytest.mark.parametrize("view", VIEWS)
def test_hidden_from_views(reader, view):
    if not hides_in_views(reader):
        pytest.skip("views of PostgreSQL 14 ask for their owner's rights")
    models = f"SELECT array_agg(DISTINCT model) FROM gpt2.{view}"
    assert one(reader, models) == [number(reader, "open")]
    assert reader.execute("RESET ROLE") and len(one(reader, models)) == 2


@pytest.mark.parametrize("view", ["linear", "wte", "lm_head"])
def test_not_edited_by_views(reader, view):
    if not hides_in_views(reader):
        pytest.skip("views of PostgreSQL 14 ask for their owner's rights")
    update = f"UPDATE gpt2.{view} SET weight = weight WHERE model = %s"
    reader.execute("RESET ROLE")
    secret = number(reader, "secret")
    reader.execute("SET ROLE gpt2_rights_reader")
    assert reader.execute(update, [secret]).rowcount == 0
    assert reader.execute(update, [number(reader, "open")]).rowcount > 0


def test_prefix_of_a_hidden_model(reader):
    """A value that somebody else has made tells nothing of its model."""
    reader.execute("RESET ROLE")
    reader.execute("CREATE TEMP TABLE p AS SELECT gpt2_prefix('The', 'secret') AS prefix")
    reader.execute("GRANT SELECT ON p TO gpt2_rights_reader; SET ROLE gpt2_rights_reader")
    with pytest.raises(errors.InvalidParameterValue) as error:
        reader.execute("SELECT gpt2_generate('The x', 2, prefix => prefix) FROM p")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "call", ["create_variant('secret', 'open')", "average('secret', 'open', 'open')"]
)
def test_name_of_a_hidden_model(reader, call):
    """Only that it is taken can be said."""
    with pytest.raises(errors.DuplicateObject) as error:
        reader.execute(f"SELECT gpt2_{call}")
    assert error.value.diag.message_primary == 'model "secret" already exists'
    assert "row-level security" in error.value.diag.message_detail
    assert error.value.diag.message_hint


def test_tables_with_policies(reader):
    """The tables of weights have none of their own: with the documented ones nothing of a hidden
    model is seen, and of the others all that was."""
    results = [
        call.format(m="'open'") for call in CALLS if "gpt2_generate" in call or "lens(" in call
    ]
    before = [reader.execute(query).fetchall() for query in results]
    assert {
        len(one(reader, f"SELECT array_agg(DISTINCT model) FROM gpt2.{t}")) for t in WEIGHTS
    } == {2}
    reader.execute("RESET ROLE")
    reader.execute("SELECT gpt2_create_variant('of secret', 'secret')")
    for table in WEIGHTS:
        for statement in POLICIES:
            reader.execute(statement.format(table=table))
    reader.execute("SET ROLE gpt2_rights_reader")
    for table in [*WEIGHTS, "linear", "wte", "lm_head"]:
        if table in WEIGHTS or hides_in_views(reader):
            models = one(reader, f"SELECT array_agg(DISTINCT model) FROM gpt2.{table}")
            of_secret = table not in ("matrix_page", "wte", "lm_head", "linear")
            expected = ["open", "of secret"] if of_secret else ["open"]
            assert models == [number(reader, name) for name in expected]
    with pytest.raises(errors.ObjectNotInPrerequisiteState), reader.transaction():
        reader.execute("SELECT gpt2_generate('a', 2, model => 'of secret')")
    assert [reader.execute(query).fetchall() for query in results] == before
    # and it can be edited
    assert reader.execute("UPDATE gpt2.wpe SET weight = weight - weight").rowcount == 2 * 128
    assert reader.execute("UPDATE gpt2.wte SET weight = weight - weight WHERE token = 3").rowcount
    reader.execute("SELECT gpt2_create_variant('mine', 'open')")
    reader.execute("UPDATE gpt2.wte SET weight = weight + weight WHERE token = 4")
    reader.execute("SELECT gpt2_drop_model('mine')")


# ---- Whose rights count when a model is loaded on the server


@pytest.fixture(scope="module")
def server(new_database) -> Iterator[str]:
    """A database with both extensions and roles that own nothing: gpt2_rights_owner, and
    gpt2_rights_member, a NOINHERIT member of gpt2_rights_loaders, who may do all that is needed."""
    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as connection:
        if not has_plpython(connection):
            pytest.skip("the server has no PL/Python")
        roles = ("owner", "member", "loaders")
        for role in roles:
            connection.execute(f"DROP ROLE IF EXISTS gpt2_rights_{role}")
        connection.execute("""
            CREATE EXTENSION gpt2_plpython3u CASCADE;
            CREATE ROLE gpt2_rights_owner;
            CREATE ROLE gpt2_rights_loaders IN ROLE pg_read_server_files;
            CREATE ROLE gpt2_rights_member NOINHERIT IN ROLE gpt2_rights_loaders;
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gpt2 TO gpt2_rights_loaders;
            GRANT EXECUTE ON FUNCTION gpt2_load_model, gpt2._load_model
                TO gpt2_rights_owner, gpt2_rights_member;
            CREATE SCHEMA own AUTHORIZATION gpt2_rights_owner""")
        yield uri
        for role in roles:
            connection.execute(f"DROP OWNED BY gpt2_rights_{role} CASCADE")
            connection.execute(f"DROP ROLE gpt2_rights_{role}")


@pytest.fixture
def superuser(server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def model(directory) -> str:  # noqa: F811
    """Path of a model that the server may read."""
    write_checkpoint(directory, SHAPE)
    readable(directory)
    return str(directory)


def as_owner(connection: psycopg.Connection, *statements: str) -> None:
    connection.execute("SET ROLE gpt2_rights_owner")
    for statement in statements:
        connection.execute(statement)
    connection.execute("RESET ROLE")


#: what the unprivileged role makes, and what a superuser does then
TRAPS = {
    "materialized view": (
        ["CREATE MATERIALIZED VIEW own.trap AS SELECT {call} WITH NO DATA"],
        "REFRESH MATERIALIZED VIEW own.trap",
    ),
    "security definer": (
        ["CREATE FUNCTION own.trap() RETURNS text LANGUAGE sql SECURITY DEFINER RETURN {call}"],
        "SELECT own.trap()",
    ),
    "index": (
        [
            "CREATE FUNCTION own.trap(x int) RETURNS text LANGUAGE plpgsql IMMUTABLE "
            "AS $$BEGIN RETURN 'x'; END$$",
            "CREATE TABLE own.t AS SELECT 1 AS x",
            "CREATE INDEX ON own.t (own.trap(x))",
            "CREATE OR REPLACE FUNCTION own.trap(x int) RETURNS text LANGUAGE plpgsql IMMUTABLE "
            "AS $$BEGIN RETURN {call}; END$$",
        ],
        "REINDEX TABLE own.t",
    ),
    "trigger": (
        [
            "CREATE TABLE own.t (x int)",
            "CREATE FUNCTION own.trap() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
            "AS $$BEGIN PERFORM {call}; RETURN new; END$$",
            "CREATE TRIGGER trap BEFORE INSERT ON own.t FOR EACH ROW EXECUTE FUNCTION own.trap()",
        ],
        "INSERT INTO own.t VALUES (1)",
    ),
}
REFUSAL = "permission denied to read files on the server"


@pytest.mark.parametrize("trap", TRAPS)
def test_a_superuser_lends_no_rights(superuser, model, trap):
    """To what runs with the rights of the role that owns it, in a superuser's session."""
    # qualified: from PostgreSQL 17 on an index is made under a search_path of pg_catalog alone
    call = f"public.gpt2_load_model('{model}', 'm')"
    statements, action = TRAPS[trap]
    as_owner(superuser, *(statement.replace("{call}", call) for statement in statements))
    with pytest.raises(errors.InsufficientPrivilege) as error:
        superuser.execute(action)
    diag = error.value.diag
    assert diag.message_primary == REFUSAL
    assert diag.message_detail == (
        'Role "gpt2_rights_owner" is not a member of pg_read_server_files.'
    )
    assert diag.message_hint.startswith("GRANT pg_read_server_files TO gpt2_rights_owner;")


def test_what_reads_asks_too(superuser, model):
    """Whoever is granted the private function, as by GRANT ... ON ALL FUNCTIONS, reads nothing."""
    superuser.execute("SET ROLE gpt2_rights_owner")
    for path in (model, "/nonexistent"):
        row = superuser.execute(
            "SELECT sqlstate, message FROM gpt2._load_model(%s, 'm', false, NULL, 'float32')",
            [path],
        ).fetchone()
        assert row == ("42501", REFUSAL)


def test_a_member_that_does_not_inherit(superuser, model):
    load = f"SELECT gpt2_load_model('{model}', 'm')"
    superuser.execute("SET SESSION AUTHORIZATION gpt2_rights_member")
    with pytest.raises(errors.InsufficientPrivilege) as error, superuser.transaction():
        superuser.execute(load)
    diag = error.value.diag
    assert diag.message_primary == REFUSAL
    assert diag.message_detail == (
        'Role "gpt2_rights_member" is a member of pg_read_server_files, but does not inherit its '
        "privileges."
    )
    # as the role whose member it is, it may
    with superuser.transaction(force_rollback=True):
        superuser.execute("SET ROLE gpt2_rights_loaders")
        assert one(superuser, load) == "m"
    # and by the HINT's command
    superuser.execute("RESET SESSION AUTHORIZATION")
    superuser.execute(diag.message_hint.partition(" or load")[0])
    superuser.execute("SET SESSION AUTHORIZATION gpt2_rights_member")
    if superuser.info.server_version < 160000:  # since then it inherits the one role alone
        assert one(superuser, load) == "m"


def test_who_may_read_files_and_not_write(superuser, model):
    superuser.execute("GRANT pg_read_server_files TO gpt2_rights_owner; SET ROLE gpt2_rights_owner")
    load = f"SELECT gpt2_load_model('{model}', 'm')"
    with pytest.raises(errors.InsufficientPrivilege) as error, superuser.transaction():
        superuser.execute(load)
    diag = error.value.diag
    assert diag.message_primary.startswith('role "gpt2_rights_owner" may not load a model into')
    assert diag.message_detail == "It lacks the privilege INSERT on table gpt2.model."
    superuser.execute("RESET ROLE")
    superuser.execute(diag.message_hint.partition(", or: ")[2])
    superuser.execute("SET ROLE gpt2_rights_owner")
    assert one(superuser, load) == "m"
