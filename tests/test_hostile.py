"""Somebody was in the database before the extension: nothing of theirs is ever called."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pages
import psycopg
import pytest
from conftest import DEMO, ROOT, load_model, one
from hostile import traps
from psycopg import errors
from test_sessions import PLAIN, psql

SCRIPT = ROOT / "build" / "gpt2.sql"  # what both ways of installing execute

#: every public function that calls others, as a superuser would
CALLS = [
    "SELECT gpt2_generate('The table', 4, 1, 5, seed => 1, top_p => 0.9, min_p => 0.01)",
    "SELECT * FROM gpt2_stream('The table', 2, stop => '{x}', repetition_penalty => 1.1)",
    "SELECT * FROM gpt2_complete('The table', 2, pattern => '[a-z ]+')",
    "SELECT * FROM gpt2_beam_search('The table', 2)",
    "SELECT * FROM gpt2_next_token('The table')",
    "SELECT * FROM gpt2_score('The table')",
    "SELECT * FROM gpt2_choose('The table', '{a,b}')",
    "SELECT gpt2_similarity('The table', 'a'), gpt2_perplexity('The table is')",
    "SELECT * FROM gpt2_trace('The table')",
    "SELECT gpt2_report('The table')",
    "SELECT gpt2_prefix('The table') IS NULL",
    "SELECT * FROM gpt2_bpe('hello'), gpt2_models(), gpt2_hooks()",
    "SELECT gpt2_create_variant('v'), gpt2_default_model('v')",
    "UPDATE gpt2.bias SET bias = bias WHERE block = 0",
    "UPDATE gpt2.wte SET weight = weight WHERE token = 7",
    "SELECT * FROM gpt2_model_diff('demo', 'v')",
    "SELECT gpt2_average('w', 'demo', 'v')",
    "SELECT gpt2_drop_model('v'), gpt2_drop_model('w')",
]


@pytest.fixture
def hostile(new_database) -> Iterator[tuple[psycopg.Connection, str]]:
    """A database in whose schema public mallory may create, and its URI."""
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("""
            DROP ROLE IF EXISTS gpt2_test_mallory; CREATE ROLE gpt2_test_mallory;
            GRANT CREATE ON SCHEMA public TO gpt2_test_mallory;
            CREATE EXTENSION vector; CREATE SEQUENCE sprung;
            GRANT ALL ON SEQUENCE sprung TO PUBLIC""")
        yield connection, uri
        connection.execute("DROP OWNED BY gpt2_test_mallory CASCADE; DROP ROLE gpt2_test_mallory")


def sprung(connection: psycopg.Connection) -> int:
    """How often a trap was called, whatever was rolled back since."""
    return one(connection, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM sprung")


def set_traps(connection: psycopg.Connection) -> int:
    """Sets them in mallory's name; how many there are."""
    made = 0
    connection.execute("SET ROLE gpt2_test_mallory")
    for statement in traps(connection, SCRIPT):
        try:
            connection.execute(statement)
            made += 1
        except errors.InvalidFunctionDefinition:
            pass  # no such operator or aggregate can be
    connection.execute("RESET ROLE")
    return made


NAMED = """
    SELECT format('DROP OPERATOR %%s', o.oid::regoperator)
    FROM pg_operator AS o WHERE o.oprname = %(name)s AND o.oprowner = 'gpt2_test_mallory'::regrole
    UNION ALL
    SELECT format('DROP ROUTINE %%s', p.oid::regprocedure)
    FROM pg_proc AS p WHERE p.proname = %(name)s AND p.proowner = 'gpt2_test_mallory'::regrole"""


def to_remove(connection: psycopg.Connection, error: psycopg.Error) -> list[str]:
    """The statements that take away what the error names."""
    if isinstance(error, errors.AmbiguousFunction):  # the server cannot choose, and runs nothing
        found = re.match(r"(?:function (\S+?)\(|operator is not unique: )(.*)", str(error))
        name = found[1] or re.search(r"[-+*/<>=~!@#%^&|`?]+", found[2])[0]
        return [row[0] for row in connection.execute(NAMED, {"name": name.split(".")[-1]})]
    assert isinstance(error, errors.InvalidObjectDefinition), error
    assert "of role gpt2_test_mallory" in error.diag.message_detail
    return re.findall(r"DROP [^;]+;", error.diag.message_hint)


def test_every_name_trapped(hostile):
    """Installing is refused as long as one would be called; of those that are left none is."""
    connection, uri = hostile
    made = set_traps(connection)
    assert made > 762
    removed: set[str] = set()
    while True:
        try:
            connection.execute("CREATE EXTENSION gpt2")
            break
        except (errors.InvalidObjectDefinition, errors.AmbiguousFunction) as error:
            drops = to_remove(connection, error)
        assert sprung(connection) == 0
        assert drops and not removed & set(drops)
        removed |= set(drops)
        for drop in drops:
            connection.execute(drop)
    assert "DROP FUNCTION public.cardinality(integer[]);" in removed
    assert len(removed) < made / 4
    assert one(connection, "SELECT count(*) FROM gpt2._foreign_dependencies()") == 0
    load_model(uri, DEMO, "demo")
    for call in CALLS:
        connection.execute(call)
    assert sprung(connection) == 0


#: with vector in a schema v and mallory's objects in public
SINGLE = {
    "function public.cardinality(integer[])": """
        CREATE FUNCTION public.cardinality(int[]) RETURNS int RETURN 1""",
    "function public.unnest(v.vector[])": """
        CREATE FUNCTION public.unnest(v.vector[]) RETURNS SETOF v.vector
        BEGIN ATOMIC SELECT NULL::v.vector; END""",
    "type public.halfvec": "CREATE DOMAIN public.halfvec AS v.halfvec",
    "operator public.||(integer[],integer)": """
        CREATE FUNCTION public.f(int[], int) RETURNS int[] RETURN $1;
        CREATE OPERATOR public.|| (FUNCTION = public.f, LEFTARG = int[], RIGHTARG = int)""",
    "aggregate public.array_agg(integer)": """
        CREATE FUNCTION public.f(int[], int) RETURNS int[] RETURN $1;
        CREATE AGGREGATE public.array_agg(int) (SFUNC = public.f, STYPE = int[])""",
}


@pytest.mark.parametrize("way", ["extension", "plain script"])
@pytest.mark.parametrize("named", SINGLE)
def test_one_name_trapped(new_database, named, way):
    """The error names it, with what removes it, and leaves nothing behind."""
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA v; CREATE EXTENSION vector SCHEMA v")
        connection.execute(SINGLE[named])
        if way == "extension":
            with pytest.raises(errors.InvalidObjectDefinition) as raised:
                connection.execute("CREATE EXTENSION gpt2")
            told = f"{raised.value.diag.message_detail}\n{raised.value.diag.message_hint}"
        else:
            script = psql(uri, PLAIN)
            assert script.returncode != 0
            told = script.stderr
        kind = named.split()[0]
        assert f"{named} of role " in told
        assert f"DROP {kind.upper()} {named.removeprefix(kind + ' ')};" in told
        assert one(connection, "SELECT to_regnamespace('gpt2') IS NULL")


def test_check_by_hand(conn):
    """SECURITY.md's query, where nobody was before."""
    [query] = pages.blocks("SECURITY.md", "sql")
    assert conn.execute(query).fetchall() == []


def test_a_later_dependency_is_found(hostile):
    """By hand, at any time: what somebody hung on one of our tables."""
    connection, _ = hostile
    connection.execute("CREATE EXTENSION gpt2")
    connection.execute("SELECT gpt2._check_dependencies()")
    connection.execute("""
        CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
        CREATE TRIGGER spy BEFORE INSERT ON gpt2.model FOR EACH ROW EXECUTE FUNCTION public.spy()""")
    assert connection.execute(
        "SELECT object, uses, type FROM gpt2._foreign_dependencies()"
    ).fetchall() == [("trigger spy on table gpt2.model", "public.spy()", "function")]
    with pytest.raises(errors.InvalidObjectDefinition, match="would be called"):
        connection.execute("SELECT gpt2._check_dependencies()")
