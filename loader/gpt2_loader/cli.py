"""gpt2-loader: loads, lists and drops models from the command line."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from enum import Enum
from importlib import metadata
from typing import Annotated

import psycopg
import typer

from gpt2_loader import client, importer, several
from gpt2_loader.checkpoint import Checkpoint
from gpt2_loader.errors import LoadError, from_os_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables show a flag as if it took a value
)

Dsn = Annotated[
    str,
    typer.Option(
        envvar="GPT2_DSN",
        help="Database: a connection URI or string. Default: libpq's own variables.",
        show_default=False,
    ),
]


def _print_version(wanted: bool):
    if wanted:
        print(f"gpt2-loader {metadata.version('gpt2-loader')}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
):
    """GPT-2 models for the PostgreSQL extension gpt2."""


Dtype = Enum("Dtype", {name: name for name in importer.COLUMNS}, type=str)


@app.command()
def load(
    source: Annotated[
        str, typer.Argument(help="Directory of a model, its id on the Hugging Face hub, or demo.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name in the database. Default: the end of SOURCE.")
    ] = None,
    dsn: Annotated[
        list[str] | None,
        typer.Option(
            help="Database, as for list. Several times: into all or none. [env var: GPT2_DSN]",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a model that has the name.")
    ] = False,
    default: Annotated[
        bool, typer.Option("--default", help="Make it the model that is used by default.")
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Vocabulary, where it is not SOURCE's: gpt2 for GPT-2's own, or a directory."
        ),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Type of the weights: float16 is faster, and half as large.")
    ] = Dtype.float32,
):
    """Load a model, in one transaction a database."""
    from tqdm import tqdm

    began = time.monotonic()
    # not by typer, which would take the words of one connection string for several
    dsns = dsn or [os.environ.get("GPT2_DSN", "")]
    with _errors():
        found = client.find_source(source, revision)
        name = found.name if name is None else name
        # Gigabytes may have to be fetched and hashed: what is wrong is told before, and no
        # connection waits meanwhile.
        importer.check(name, dtype.value)
        several.check(dsns, name, replace)
        found = found.fetch(tokenizer)
        if found.notice:
            print(f"gpt2-loader: {found.notice}", file=sys.stderr)
        # disable=None: no bar where standard error is not a terminal
        with tqdm(unit="B", unit_scale=True, desc=name, disable=None) as bar:
            checkpoint = Checkpoint(found.directory, client.read_tensor, bar.update, tokenizer)
            sha256 = checkpoint.sha256()
            bar.reset(checkpoint.n_bytes)
            several.load(
                dsns, checkpoint, name, found.origin, found.revision, replace, default,
                dtype.value, sha256,
            )  # fmt: skip
    for notice in checkpoint.notices():
        print(f"gpt2-loader: notice: {notice}", file=sys.stderr)
    seconds = time.monotonic() - began
    places = f" into {len(dsns)} databases" if len(dsns) > 1 else ""
    print(
        f'loaded model "{name}"{places}: '
        f"{checkpoint.n_parameters():,} parameters in {seconds:.1f} s"
    )


@app.command("list")
def list_models(dsn: Dsn = ""):
    """List the models of a database."""
    with _errors(), client.connect(dsn) as connection:
        models = connection.execute(
            """SELECT m.name, CASE WHEN m.is_default THEN 'default' ELSE '' END,
                      m.n_parameters::pg_catalog.text, m.dtype, gpt2._model_size(m),
                      coalesce(m.source, '')
               FROM gpt2.model AS m ORDER BY m.name"""
        ).fetchall()
    rows = [("name", "", "parameters", "dtype", "size", "source"), *models]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


@app.command()
def drop(name: Annotated[str, typer.Argument(help="Name in the database.")], dsn: Dsn = ""):
    """Drop a model with its weights."""
    with _errors(), client.connect(dsn) as connection:
        connection.execute("SELECT gpt2._drop_model($1)", (name,))
    print(f'dropped model "{name}"')


@contextmanager
def _errors():
    """Turns what a user can meet into a message on standard error and exit status 1."""
    try:
        yield
    except LoadError as error:
        _fail(error.message, error.detail, error.hint)
    except psycopg.Error as error:
        fields = error.diag
        _fail(fields.message_primary or str(error), fields.message_detail, fields.message_hint)
    except OSError as error:
        error = from_os_error(error)
        _fail(error.message, error.detail, error.hint)
    except KeyboardInterrupt:
        _fail("interrupted: nothing was changed")


def _fail(message, detail=None, hint=None):
    print(f"gpt2-loader: error: {message}", file=sys.stderr)
    if detail:
        print(f"DETAIL: {detail}", file=sys.stderr)
    if hint:
        print(f"HINT: {hint}", file=sys.stderr)
    raise typer.Exit(1)
