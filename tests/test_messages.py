"""The list of error messages (tests/messages.py): what it finds in the sources, and in a log."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import messages
import psycopg
import pytest
from conftest import ROOT
from messages import Said
from test_loader import has_plpython

EXPECTED = (ROOT / "tests/expected/errors.out").read_text()

SQL = """
CREATE FUNCTION gpt2._check(name text, n int) RETURNS boolean LANGUAGE sql
RETURN gpt2._assert(n > 0, 'invalid_parameter_value', format('%s must be %s', name, n), 'It is '
    'not.', 'Mend it.');
CREATE FUNCTION gpt2._all(a int) RETURNS boolean LANGUAGE sql
RETURN gpt2._check('one', a) AND gpt2._check('the ''other''', (a, 2)) AND gpt2._raise(
    NULL::boolean, '22023', CASE WHEN a > 1 THEN 'many' ELSE 'few' END, format('%s%%', a));
DO $$ BEGIN
    RAISE EXCEPTION 'not here: %', CASE 1 WHEN 1 THEN 2 END USING ERRCODE = '22023', DETAIL = 'Go.';
END; $$;
"""
PYTHON = """
FILE = "a.json"

class _Mine(LoadError):
    pass

def _wrong(path, detail):
    return LoadError(CODE, f'"{path}" is wrong', detail)

def read(path, n, what="row"):
    if n:
        raise _wrong(path, f"It has {n} {what}s." if n > 1 else "It has one.")
    raise _Mine(CODE, f"no {FILE}" + f" in {path!r}", "It is " "away.")
    raise LoadError(error.code, error.message, error.detail)
"""


def write(root, sql: str, python: str) -> None:
    for path, text in {
        "extension/gpt2.manifest": "sql/a.sql\n",
        "sql/a.sql": sql,
        "loader/gpt2_loader/a.py": python,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(textwrap.dedent(text))


def test_what_sources_can_say(tmp_path):
    write(tmp_path, SQL, PYTHON)
    found = messages.all_messages(tmp_path).values()
    assert [messages.shown(message.template) for message in found] == [
        "one must be % | It is not.",
        "the 'other' must be % | It is not.",
        "many | %%",
        "few | %%",
        "not here: % | Go.",
        '"%" is wrong | It has % %s.',
        '"%" is wrong | It has one.',
        "no a.json in % | It is away.",
    ]


def test_a_message_is_told_from_its_neighbour(tmp_path):
    write(tmp_path, SQL, PYTHON)
    found = messages.all_messages(tmp_path)
    said = {
        Said("one must be 0", "It is not.", "Mend it."),
        Said('"x" is wrong', "It has one.", ""),
    }
    never = messages.unsaid(found, said, 150000)
    assert len(never) == len(found) - 2
    assert messages.unsaid(found, said | {Said("many", "2%", "")}, 150000) == [
        message for message in never if "many" not in message.template
    ]


def test_what_a_server_cannot_say_is_not_asked_for():
    found = messages.all_messages(ROOT)
    gone = [len(messages.unsaid(found, set(), version)) for version in (150000, 160000)]
    assert gone == [len(found), len(found) - 1]


def test_every_error_of_the_regression_tests_is_in_the_list():
    """Each that psql shows: what was read from the sources is what the server says."""
    forms = [
        re.compile(form.partition("\\\n")[0], re.DOTALL) for form in messages.all_messages(ROOT)
    ]
    errors = re.findall(r"^ERROR:  (.*)$", EXPECTED, re.MULTILINE)
    assert len(errors) > 80
    strangers = [text for text in errors if not any(form.fullmatch(text) for form in forms)]
    assert all(text.startswith("invalid regular expression") for text in strangers)


def test_log():
    log = textwrap.dedent("""\
        2026-01-01 00:00:00.000 UTC [1] LOG:  ready
        2026-01-01 00:00:00.001 UTC [7] ERROR:  a is
        \ttwo lines
        2026-01-01 00:00:00.002 UTC [8] ERROR:  b
        2026-01-01 00:00:00.002 UTC [7] DETAIL:  It is a.
        2026-01-01 00:00:00.002 UTC [7] HINT:  Go.
        2026-01-01 00:00:00.002 UTC [7] STATEMENT:  SELECT 'ERROR:  no'
        \t2026-01-01 00:00:00.002 UTC [9] ERROR:  no
        2026-01-01 00:00:00.003 UTC [7] WARNING:  w
        2026-01-01 00:00:00.003 UTC [7] DETAIL:  Of the warning.
        2026-01-01 00:00:00.004 UTC [7] ERROR:  c
        """)
    assert set(messages.log_entries(log.splitlines(keepends=True))) == {
        Said("a is\ntwo lines", "It is a.", "Go."),
        Said("b", "", ""),
        Said("c", "", ""),
    }


def test_what_is_said_is_recorded(conn, monkeypatch, tmp_path):
    """By the server and by the loader, in a program that a test starts."""
    monkeypatch.setattr(messages, "RECORDS", tmp_path / "said")
    monkeypatch.setenv("GPT2_MESSAGES", str(messages.RECORDS))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/hearing"))
    messages.begin(conn)
    with pytest.raises(psycopg.Error):
        conn.execute("SELECT gpt2_generate('x', model => 'é')")
    program = "from gpt2_loader.cli import app; app()"
    subprocess.run([sys.executable, "-c", program, "load", "./é"], stderr=subprocess.DEVNULL)
    loud = "from gpt2_loader.errors import LoadError; LoadError('22023', 'loud', None, 'Hush.')"
    subprocess.run([sys.executable, "-c", f"{loud}; {loud}; import os; os._exit(1)"])
    said = messages.all_said()
    assert Said("loud", "", "Hush.") in said
    assert 'directory "./é" does not exist' in {one.message for one in said}
    assert {
        Said(
            'model "é" does not exist',
            "The argument model names it.",
            "SELECT name FROM gpt2_models(); lists the models.",
        ),
    } <= said


def test_sql_of_hints(conn):
    """Each whole statement that psql shows after HINT could be typed."""
    hints = re.findall(r"^HINT:  (.*)$", EXPECTED, re.MULTILINE)
    assert len({text for hint in hints for text in messages.statements(hint)}) > 10
    has_python = has_plpython(conn)
    with conn.transaction(force_rollback=True):
        if has_python:
            conn.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
        refused = list(messages.refusals(conn, hints))
    assert [text for text in refused if has_python or "gpt2_load_model" not in text] == []


@pytest.mark.parametrize(
    ("hint", "refused"),
    [
        ("SELECT gpt2_nothing(1); lists them.", "gpt2_nothing"),
        ("Ask: SELECT name FROM gpt2_hooks();", "name"),
        ("SELECT count(* FROM gpt2.model;", "syntax error"),
        ("DROP EXTENTION gpt2;", "syntax error"),
        ("UPDATE gpt2.linear SET bias = ...;", None),
        ("SELECT count(*) FROM gpt2_tokens(prompt); counts its tokens.", None),
        ("Before it: SET statement_timeout = 0;", None),
    ],
)
def test_sql_that_cannot_be_typed(conn, hint, refused):
    found = list(messages.refusals(conn, [hint]))
    assert len(found) == (refused is not None)
    assert all(refused in text for text in found)
