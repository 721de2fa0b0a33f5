"""The programs of docs/clients.md, run as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.parse import quote

import pages
import psycopg
import pytest
from conftest import ROOT, one
from gateway import gateway

PROGRAMS = pages.blocks("docs/clients.md", "python")
PROMPT = "CREATE"
#: what the page's reader has: Django's settings, and a model of a table
DJANGO = """
import os
import django
from django.conf import settings
from django.db import connection, models
from psycopg.conninfo import conninfo_to_dict

dsn = conninfo_to_dict(os.environ["DATABASE_URL"])
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": dsn["dbname"], "USER": dsn["user"],
    "HOST": dsn["host"], "PORT": dsn.get("port", "")}})
django.setup()


class Ticket(models.Model):
    title = models.TextField()

    class Meta:
        app_label = "tickets"


with connection.schema_editor() as editor:
    editor.create_model(Ticket)
Ticket.objects.create(title="CREATE")
"""


def program(word: str) -> str:
    """The one program that has a word."""
    [code] = [code for code in PROGRAMS if word in code]
    return code


def run(code: str, dsn: str) -> str:
    """What a program prints, with the database's URI in DATABASE_URL."""
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    url = "postgresql://{user}@/{dbname}?host={host}&port={port}".format(
        **{key: quote(str(value), safe="") for key, value in parts.items()}
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    ).stdout


@pytest.fixture(scope="module")
def dsn(new_database) -> str:
    return new_database(holds="demo")


@pytest.fixture
def expected(dsn: str) -> tuple[str, str]:
    """The text of four tokens, and their pieces with a bar behind each."""
    with psycopg.connect(dsn) as conn:
        pieces = conn.execute(
            "SELECT piece FROM gpt2_stream(%s, 4) ORDER BY step", [PROMPT]
        ).fetchall()
        return one(conn, "SELECT gpt2_generate(%s, 4)", PROMPT), "".join(
            f"{piece}|" for (piece,) in pieces
        )


def test_every_program_is_run():
    words = ("import psycopg\n", "asyncpg", "sqlalchemy", "django", "openai")
    assert sorted(map(program, words)) == sorted(PROGRAMS)


@pytest.mark.parametrize("library", ["import psycopg\n", "asyncpg", "sqlalchemy"])
def test_program(dsn, expected, library):
    text, pieces = expected
    printed = run(program(library), dsn)
    if library == "sqlalchemy":
        with psycopg.connect(dsn) as conn:
            query = "SELECT gpt2_generate(%s, 4, temperature => 0.8, seed => 1)"
            pieces += one(conn, query, PROMPT) + "\n"
    assert printed == f"{text}\n{pieces}"


def test_django(dsn, expected):
    with psycopg.connect(dsn) as conn:
        perplexity = one(conn, "SELECT gpt2_perplexity(%s)", PROMPT)
    assert run(DJANGO + program("django"), dsn) == f"{expected[0]} {round(perplexity)}\n"


def test_openai(dsn, expected):
    with gateway(dsn) as url:
        code = program("openai").replace("http://127.0.0.1:3000/rpc", url)
        assert url in code
        printed = run(code, dsn)
    with psycopg.connect(dsn) as conn:
        n = len(one(conn, "SELECT gpt2_tokenize(%s)", PROMPT)) + 4
    assert printed == f"{expected[0].removeprefix(PROMPT)} {n}\n"


def test_the_function_that_postgrest_calls(dsn):
    """The page's SQL makes it, with one parameter without a name."""
    [code] = [c for c in pages.blocks("docs/clients.md", "sql") if "api.completions" in c]
    with psycopg.connect(dsn) as conn:
        conn.execute(code)
        answer = one(conn, "SELECT api.completions(%s)", '{"prompt": "CREATE", "max_tokens": 1}')
        assert answer["object"] == "text_completion"
        assert (
            one(conn, "SELECT proargnames FROM pg_proc WHERE oid = 'api.completions'::regproc")
            is None
        )
        conn.rollback()
