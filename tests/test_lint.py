"""The checker of our rules for SQL (tests/lint): each rule finds what is wrong, and only that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_loader import has_plpython

from lint import rules
from lint.__main__ import extension_database
from lint.figures import figures
from lint.source import read_sources
from lint.tokens import code, nesting, own_names, statements, tokens

SCHEMA = "CREATE SCHEMA gpt2;\n"
# pieces that open what others close
PIECES = st.sampled_from(
    [
        "'",
        "''",
        "\\'",
        "E'",
        '"',
        "$$",
        "$a$",
        "$1",
        "--",
        "/*",
        "*/",
        "\n",
        ";",
        "(",
        ")",
        "é",
        "x$",
    ]
)


def write(root: Path, files: dict[str, str]) -> Path:
    """A tree with these files in sql/, which its manifest lists in their order."""
    for name, text in files.items():
        path = root / "sql" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "extension").mkdir(exist_ok=True)
    listed = [f"sql/{name}\n" for name in files if not name.endswith("arguments.sql")]
    (root / "extension/gpt2.manifest").write_text("# the order\n\n" + "".join(listed))
    return root


def found(rule, tree: rules.Tree) -> list[str]:
    """A rule's findings, each once, as path:line: message."""
    return [f"{place.path}:{place.line}: {message}" for place, message in sorted(set(rule(tree)))]


def found_in(rule, root: Path, text: str) -> list[str]:
    """A rule's findings in a tree with one file."""
    return found(rule, rules.Tree(write(root, {"a/a.sql": text})))


@pytest.fixture
def run(new_database, tmp_path):
    """run(files): their tree, with the catalog of a database in which they were run."""

    def run(files: dict[str, str]) -> rules.Tree:
        write(tmp_path, files)
        with psycopg.connect(new_database(), autocommit=True) as connection:
            connection.execute("SET check_function_bodies = off")
            for source in read_sources(tmp_path):
                connection.execute((tmp_path / source.path).read_text())
            return rules.Tree(tmp_path, connection)

    return run


# ---- Tokens


@given(st.lists(PIECES | st.text(max_size=3)).map("".join))
def test_tokens_are_all_of_a_text(text):
    made = list(tokens(text))
    assert "".join(token.text for token in made) == text
    assert [token.line for token in made] == [
        1 + text[: sum(len(before.text) for before in made[:i])].count("\n")
        for i in range(len(made))
    ]


@given(st.lists(PIECES | st.text(max_size=3)).map("".join))
def test_what_is_quoted_is_one_token(text):
    quoted = [
        "'" + text.replace("'", "''") + "'",
        "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'",
        '"' + text.replace('"', '""') + '"',
        "$quote$" + text + "$quote$",
        "/*" + text.replace("/*", "").replace("*/", "").replace("/", "").replace("*", "") + "*/",
        "--" + text.replace("\n", ""),
    ]
    for literal in quoted:
        assert [token.text for token in tokens(literal)] == [literal]
        assert [token.text for token in tokens(f"a {literal}\nb")][2:3] == [literal]


def test_block_comments_nest():
    assert [token.text for token in code("a /* b /* c */ d */ e")] == ["a", "e"]


def test_statements_end_at_their_own_semicolons():
    text = """
        CREATE FUNCTION f() RETURNS int BEGIN ATOMIC
            SELECT CASE WHEN true THEN 1 END; SELECT 2; -- ; not this one
        END;
        DO $$ BEGIN PERFORM ';'; END $$;
        SELECT 3"""
    made = [[token.text for token in found] for found in statements(text)]
    assert [(found[0], found[-1]) for found in made] == [
        ("CREATE", "END"),
        ("DO", "END"),
        ("SELECT", "3"),
    ]
    assert "PERFORM" in made[1]  # a body that is a string is read too


@pytest.mark.parametrize(
    ("query", "depth"),
    [
        ("SELECT a FROM t", 0),
        ("SELECT (a + (b)) FROM t JOIN (t CROSS JOIN u) ON true", 0),
        ("SELECT ARRAY(SELECT a FROM t)", 1),
        ("SELECT 1 WHERE EXISTS (SELECT FROM t) OR a IN (SELECT 1)", 1),
        ("SELECT a FROM (SELECT (SELECT 1) AS a) AS t, (SELECT 2) AS u", 2),
        ("WITH t AS (SELECT 1) SELECT * FROM t", 0),
        ("WITH t AS MATERIALIZED (SELECT (SELECT 1)) SELECT (SELECT (SELECT 1))", 2),
        ("WITH t AS (SELECT (SELECT (SELECT 1))), u AS (SELECT 2) SELECT (SELECT 1)", 2),
        ("SELECT (WITH t (a) AS (SELECT ARRAY(SELECT 1)) SELECT a FROM t)", 1),
        ("SELECT '(SELECT (SELECT 1))' -- (SELECT (SELECT 1))", 0),
    ],
)
def test_nesting(query, depth):
    assert nesting(code(query))[0] == depth


def test_nesting_tells_the_line():
    assert nesting(code("SELECT\n(SELECT\n(SELECT 1)), (SELECT 2)")) == (2, 3)


def test_names_of_our_own():
    text = "SELECT gpt2._f(gpt2_g()), gpt2.t.a, x.gpt2, 'gpt2._h, not gpt2_i or gpt2.j' -- gpt2._k"
    assert [name for name, _ in own_names(code(text))][:4] == [
        "gpt2._f",
        "gpt2_g",
        "gpt2.t",
        "gpt2",
    ]
    assert [name for name, _ in own_names(code(text))][4:] == ["gpt2._h"]
    python = (
        'plpy.execute("SELECT a FROM gpt2._f()")'  # a body of PL/Python is read as if it were SQL
    )
    assert [name for name, _ in own_names(code(python))] == ["gpt2._f"]


def test_every_extension_is_looked_at(cluster):
    with extension_database(cluster) as connection:
        made = connection.execute("SELECT to_regproc('gpt2_load_model') IS NOT NULL").fetchone()
        assert made == (has_plpython(connection),)


# ---- Rules that only read files


def test_text(tmp_path):
    assert found_in(rules.text, tmp_path, "-- é" + "x" * 96 + "\n") == []
    assert found_in(rules.text, tmp_path, "SELECT\t1;\n" + "x" * 101 + "\n\ny \n") == [
        "sql/a/a.sql:1: a tab",
        "sql/a/a.sql:2: 101 columns; at most 100",
        "sql/a/a.sql:4: white space at the end of the line",
    ]


def test_folders(tmp_path):
    tree = rules.Tree(write(tmp_path, {"a/1.sql": "", "a/2.sql": "", "b/1.sql": ""}))
    assert found(rules.folders, tree) == []
    tree = rules.Tree(write(tmp_path, {"a/1.sql": "", "b/1.sql": "", "a/2.sql": ""}))
    assert found(rules.folders, tree) == [
        "extension/gpt2.manifest:5: sql/a/2.sql stands after sql/b, apart from its folder"
    ]


def nest(depth: int) -> str:
    """A query that is nested so deep."""
    return "SELECT 1" if depth == 0 else f"SELECT ({nest(depth - 1)})"


def functions(n: int, depth: int) -> str:
    """So many functions with such a query."""
    return "".join(
        f"CREATE FUNCTION gpt2._{depth}_{i}() RETURNS int BEGIN ATOMIC\n{nest(depth)}; END;\n"
        for i in range(n)
    )


def test_nested(tmp_path):
    assert found_in(rules.nested, tmp_path, functions(10, 3) + functions(20, 2)) == []
    assert found_in(rules.nested, tmp_path, functions(1, 4)) == [
        "sql/a/a.sql:2: gpt2._4_0 is nested 4 deep; at most 3"
    ]
    assert len(found_in(rules.nested, tmp_path, functions(10, 3) + functions(1, 4))) == 11
    view = f"CREATE VIEW gpt2.v AS\n{nest(4)};"
    assert found_in(rules.nested, tmp_path, view) == [
        "sql/a/a.sql:2: gpt2.v is nested 4 deep; at most 3"
    ]


def test_short_comments(tmp_path):
    makes = "CREATE FUNCTION {}(a int) RETURNS int RETURN a;\n"
    one, comment = makes.format("gpt2._f"), "COMMENT ON FUNCTION gpt2._f(int) IS 'f';"
    assert found_in(rules.short_comments, tmp_path, one + comment) == [
        "sql/a/a.sql:2: gpt2._f is one function: COMMENT ON FUNCTION gpt2._f IS"
    ]
    assert found_in(rules.short_comments, tmp_path, one + comment.replace("(int)", "")) == []
    assert found_in(rules.short_comments, tmp_path, 2 * one + comment) == []
    public = makes.format("gpt2_f") + comment.replace("gpt2._f", "gpt2_f")
    assert found_in(rules.short_comments, tmp_path, public) == []


@pytest.mark.parametrize(
    ("attributes", "messages"),
    [
        ("LANGUAGE sql STABLE PARALLEL SAFE COST 5 ROWS 1 SET jit = off", []),
        ("LANGUAGE sql VOLATILE SECURITY DEFINER", []),
        (
            "LANGUAGE sql IMMUTABLE ROWS 1 PARALLEL SAFE",
            [
                "has LANGUAGE, IMMUTABLE, ROWS, PARALLEL; the order is "
                "LANGUAGE, volatility, STRICT, SECURITY, PARALLEL, COST, ROWS, SET"
            ],
        ),
        ("LANGUAGE sql PARALLEL SAFE", ["does not say whether it is volatile"]),
        ("LANGUAGE sql STABLE", ["does not say whether it is parallel safe"]),
    ],
)
def test_attributes(tmp_path, attributes, messages):
    text = (
        f"CREATE FUNCTION gpt2._f(\"rows\" int DEFAULT length('x'))\nRETURNS TABLE (a int)\n"
        f"{attributes}\nBEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END;"
    )
    assert found_in(rules.attributes, tmp_path, text) == [
        f"sql/a/a.sql:1: gpt2._f {message}" for message in messages
    ]


def test_attributes_of_a_trigger_function(tmp_path):
    text = "CREATE FUNCTION gpt2._f() RETURNS trigger\nLANGUAGE plpgsql\nAS $$ BEGIN END $$;"
    assert found_in(rules.attributes, tmp_path, text) == []


def test_an_included_file_has_its_own_lines(tmp_path):
    files = {
        "a/a.sql": "CREATE FUNCTION gpt2._f(\n--@include arguments.sql\n) RETURNS int\nRETURN 1;"
        f"CREATE VIEW gpt2.v AS\n{nest(4)};",
        "a/arguments.sql": "    a int,\n    b int",
    }
    tree = rules.Tree(write(tmp_path, files))
    assert found(rules.nested, tree) == ["sql/a/a.sql:5: gpt2.v is nested 4 deep; at most 3"]
    assert dict(figures(tree))["most arguments of a private function"] == "2, gpt2._f"


# ---- Rules that ask the catalog


def test_layers(run):
    """Names count in code and in dynamic SQL, not in messages and comments; one that is overloaded
    means what is allowed, and what is bound what it is bound to."""
    tree = run(
        {
            "a/one.sql": SCHEMA
            + """
            CREATE FUNCTION gpt2._f(a int) RETURNS int LANGUAGE plpgsql
            AS $$ BEGIN
                RAISE 'try gpt2_h()';
                RETURN gpt2._g(a);
            END $$;
            CREATE FUNCTION gpt2._g(a int) RETURNS int RETURN a;""",
            "a/two.sql": """
            CREATE FUNCTION gpt2._g(a text) RETURNS int LANGUAGE plpgsql
            AS $$ BEGIN
                EXECUTE 'SELECT gpt2._h()';
                RETURN gpt2.t.a FROM gpt2.t;
            END $$;
            DO $$ BEGIN IF false THEN PERFORM gpt2_h(); END IF; END $$;""",
            "b/three.sql": """
            CREATE TABLE gpt2.t (a int);
            CREATE FUNCTION gpt2._h() RETURNS int RETURN gpt2._f(1) + gpt2._g('');
            CREATE FUNCTION gpt2_h() RETURNS int RETURN gpt2._h();
            COMMENT ON FUNCTION gpt2_h() IS '';""",
        }
    )
    assert found(rules.layers, tree) == [
        "sql/a/two.sql:4: gpt2._g uses gpt2._h of sql/b/three.sql, a file below",
        "sql/a/two.sql:5: gpt2._g uses gpt2.t of sql/b/three.sql, a file below",
        "sql/a/two.sql:7: sql/a/two.sql uses gpt2_h of sql/b/three.sql, a file below",
    ]


def test_layers_of_what_is_bound(run):
    """As if the manifest had another order than that in which the files were run."""
    tree = run(
        {
            "a/a.sql": SCHEMA + "CREATE TYPE gpt2._t AS (a int);\n"
            "CREATE FUNCTION gpt2._f(a int) RETURNS int RETURN a;\n"
            "CREATE FUNCTION gpt2._extend() RETURNS trigger LANGUAGE plpgsql AS '';",
            "b/b.sql": "CREATE FUNCTION gpt2._g(a gpt2._t[]) RETURNS int\nRETURN 1;\n"
            "CREATE VIEW gpt2.v AS SELECT gpt2._f(1);\n"
            "CREATE TABLE gpt2.u (a int DEFAULT gpt2._f(1), b int CHECK (gpt2._f(b) > 1));\n"
            "CREATE TRIGGER s AFTER DELETE ON gpt2.u EXECUTE FUNCTION gpt2._extend();\n"
            "CREATE AGGREGATE gpt2._sum(int) (SFUNC = int4pl, STYPE = int);",
        }
    )
    assert found(rules.layers, tree) == []
    for source in tree.sources:
        source.rank = -source.rank
    assert found(rules.layers, tree) == [
        "sql/b/b.sql:1: gpt2._g uses gpt2._t of sql/a/a.sql, a file below",
        "sql/b/b.sql:3: gpt2.v uses gpt2._f of sql/a/a.sql, a file below",
        "sql/b/b.sql:4: gpt2.u uses gpt2._f of sql/a/a.sql, a file below",
        "sql/b/b.sql:5: s on gpt2.u uses gpt2._extend of sql/a/a.sql, a file below",
    ]


def test_commented(run):
    made = (
        SCHEMA
        + """
        CREATE FUNCTION gpt2_f() RETURNS int RETURN 1;
        CREATE AGGREGATE gpt2._a(int) (SFUNC = int4pl, STYPE = int);
        CREATE TYPE gpt2._t AS (a int);
        CREATE TABLE gpt2.t (a int GENERATED ALWAYS AS IDENTITY);
        CREATE VIEW gpt2.v AS SELECT 1;"""
    )
    assert [line.partition(": ")[2] for line in found(rules.commented, run({"a/a.sql": made}))] == [
        "the function gpt2_f has no COMMENT",
        "the aggregate gpt2._a has no COMMENT",
        "the type gpt2._t has no COMMENT",
        "the table gpt2.t has no COMMENT",
        "the view gpt2.v has no COMMENT",
    ]
    comments = "".join(
        f"COMMENT ON {name} IS 'x';"
        for name in (
            "FUNCTION gpt2_f",
            "AGGREGATE gpt2._a(int)",
            "TYPE gpt2._t",
            "TABLE gpt2.t",
            "VIEW gpt2.v",
        )
    )
    assert found(rules.commented, run({"a/a.sql": made + comments})) == []


def test_called(run, tmp_path):
    (tmp_path / "loader").mkdir()
    (tmp_path / "loader/a.py").write_text('"SELECT gpt2._by_python()"')
    tree = run(
        {
            "a/a.sql": SCHEMA
            + """
        CREATE TYPE gpt2._t AS (a int);
        CREATE FUNCTION gpt2_f(a gpt2._t[]) RETURNS int RETURN 1;
        CREATE FUNCTION gpt2._by_python() RETURNS int RETURN 1;
        CREATE FUNCTION gpt2._by_text() RETURNS int RETURN 1;
        DO $$ BEGIN PERFORM gpt2._by_text(); END $$;
        CREATE FUNCTION gpt2._by_trigger() RETURNS trigger LANGUAGE plpgsql AS '';
        CREATE TABLE gpt2.t (a int);
        CREATE TRIGGER t AFTER DELETE ON gpt2.t EXECUTE FUNCTION gpt2._by_trigger();
        CREATE TYPE gpt2._unused AS (a int);
        CREATE FUNCTION gpt2._by_itself() RETURNS int LANGUAGE plpgsql
        AS $$ BEGIN RETURN gpt2._by_itself(); END $$;
        CREATE FUNCTION gpt2._by_python2() RETURNS int RETURN 1;
        COMMENT ON FUNCTION gpt2._by_python2 IS 'a comment does not use it'"""
        }
    )
    assert found(rules.called, tree) == [
        "sql/a/a.sql:11: nothing uses the type gpt2._unused",
        "sql/a/a.sql:12: nothing uses the function gpt2._by_itself",
        "sql/a/a.sql:14: nothing uses the function gpt2._by_python2",
    ]


# ---- The tree as it is


def test_every_object_is_made_by_a_statement_that_was_found(conn):
    """What all rules that ask the catalog rest on."""
    tree = rules.Tree(ROOT, conn)
    assert len(tree.objects) > 200
    # but for triggers that a loop makes, on each table of weights
    objects = [
        item
        for item in tree.objects
        if item.statement
        or not re.match(
            "(lock|skip_present|row_edited|statement_edited|truncated) on gpt2.", item.name
        )
    ]
    assert [item.name for item in objects if not item.statement] == []
    assert all((item.kind, item.name) in item.statement.made for item in objects)
    assert len({id(item.statement) for item in objects}) == len(objects)


def test_command(cluster):
    """A line a finding, then the figures; the status tells whether there are findings."""
    ran = subprocess.run(
        [sys.executable, "-m", "lint", "--figures"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "GPT2_TEST_DSN": cluster},
        capture_output=True,
        text=True,
    )
    findings = re.findall(r"^[\w./]+:\d+: .* \[[a-z_]+\]$", ran.stdout, re.MULTILINE)
    assert ran.returncode == (1 if findings else 0), ran.stderr
    assert len(findings) + len(dict(figures(rules.Tree(ROOT)))) == len(ran.stdout.splitlines())


def test_figures():
    made = dict(figures(rules.Tree(ROOT)))
    assert made["lines of sql/"] > made["without blank lines and comments"] > 1000
    assert made["OFFSET 0"] > 0
