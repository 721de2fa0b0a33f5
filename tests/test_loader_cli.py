"""The command gpt2-loader, as a user runs it."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psycopg
import pytest
from conftest import DEMO
from oracle.checkpoints import write_vocabulary as write_own
from test_loader import (  # noqa: F401  fixtures among them
    CONFIG,
    TABLES,
    VOCABULARY,
    check_rows,
    contents,
    count_rows,
    database,
    db,
    directory,
    make_tensors,
    write,
    write_vocabulary,
)

PROGRAM = [sys.executable, "-c", "from gpt2_loader.cli import app; app()"]


@pytest.fixture
def run(database):  # noqa: F811
    """run(*arguments): the finished process; GPT2_DSN names the database."""

    def run(*arguments, **environment):
        return subprocess.run(
            [*PROGRAM, *map(str, arguments)],
            env=os.environ | {"GPT2_DSN": database, "HF_HUB_OFFLINE": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def check_error(process, *texts):
    """Whether it ended with status 1 and a message of few lines that has these texts."""
    assert process.returncode == 1
    assert process.stderr.startswith("gpt2-loader: error: "), process.stderr
    assert len(process.stderr.splitlines()) <= 3
    assert process.stdout == ""
    for text in texts:
        assert text in process.stderr


def test_bundled_model(db, run):  # noqa: F811
    process = run("load", "demo")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith('loaded model "demo": 17,735,936 parameters in ')
    model = db.execute(
        """SELECT name, is_default, n_parameters, n_layer, n_embd, n_head, n_ctx, n_vocab
           FROM gpt2_models()"""
    ).fetchall()
    assert model == [("demo", True, 17735936, 6, 256, 8, 512, 50257)]
    tokens = db.execute(
        "SELECT tokenizer > 1, n_token, bos_token, eos_tokens FROM gpt2.model"
    ).fetchone()
    assert tokens == (False, 50257, 50256, [50256])


def test_list_and_drop(db, run, directory):  # noqa: F811
    write(directory, make_tensors(CONFIG))
    write_own(directory, CONFIG["vocab_size"])
    for name, dtype in (("b", "float32"), ("a", "float16")):
        process = run("load", directory, "--name", name, "--dtype", dtype)
        assert process.returncode == 0
    lines = run("list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["name", "parameters", "dtype", "size", "source"],
        ["a", "3880", "float16", "7760", "bytes", str(directory)],
        ["b", "default", "3880", "float32", "15", "kB", str(directory)],
    ]
    process = run("drop", "b")
    assert (process.returncode, process.stdout) == (0, 'dropped model "b"\n')
    assert db.execute("SELECT name FROM gpt2_models()").fetchall() == [("a",)]
    check_error(run("drop", "b"), 'model "b" does not exist', "HINT: ")


def test_name_and_default(db, run, directory):  # noqa: F811
    """The name is the directory's unless it is given; --default takes the mark over."""
    write(directory, make_tensors(CONFIG))
    write_own(directory, CONFIG["vocab_size"])
    assert run("load", f"{directory}/").returncode == 0
    assert run("load", directory, "--name", "other", "--default").returncode == 0
    models = db.execute("SELECT name FROM gpt2_models() ORDER BY is_default DESC").fetchall()
    assert models == [("other",), (directory.name,)]
    check_error(run("load", directory, "--name", ""), "the name of a model may not be empty")


def test_dsn_option(run, database, db):  # noqa: F811
    process = run("load", DEMO, "--dsn", database, GPT2_DSN="dbname=nonexistent")
    assert process.returncode == 0


def test_errors(run, directory):  # noqa: F811
    check_error(run("load", "./nonexistent"), 'directory "./nonexistent" does not exist', "hub id")
    check_error(
        run("load", "nonexistent", HF_HOME=str(directory)),
        'offline, and "nonexistent" is not in the cache',
        '"nonexistent" is not a directory',
        "HINT: Let it ask the hub",
    )
    check_error(run("load", "demo", "--revision", "main"), "--revision is for models of the hub")
    check_error(run("load", directory), "has no config.json")
    check_error(
        run("list", GPT2_DSN="host=/nonexistent"),
        "could not connect to the database",
        "GPT2_DSN",
    )
    check_error(run("list", GPT2_DSN="nonsense"), "could not connect to the database")


def test_database_without_the_extension(run):
    check_error(
        run("list", GPT2_DSN=os.environ["GPT2_TEST_DSN"]),
        "does not have the extension gpt2",
        "HINT: CREATE EXTENSION gpt2 CASCADE",
    )


def test_hub_id(db, run, directory):  # noqa: F811
    """A model in the hub's cache: its id is the source, its commit the revision."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = directory / "hub" / "models--some-one--gpt2-tiny"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    for revision in ("main", "v1"):
        (repository / "refs" / revision).write_text(commit)
    tensors = make_tensors(CONFIG)
    write(snapshot, tensors)
    write_own(snapshot, CONFIG["vocab_size"])
    process = run("load", "some-one/gpt2-tiny", "--revision", "v1", HF_HOME=str(directory))
    assert process.returncode == 0, process.stderr
    check_rows(db, tensors, "gpt2-tiny")
    origin = db.execute("SELECT source, revision FROM gpt2.model").fetchone()
    assert origin == ("some-one/gpt2-tiny", commit)


def wait_for_lock(connection, statement):
    """Waits until a backend that runs a statement like this waits for a lock."""
    deadline = time.monotonic() + 30
    while not connection.execute(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s",
        (statement,),
    ).fetchall():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_killed_import_leaves_nothing(db, database, directory, signal_number):  # noqa: F811
    """The import has written its row in gpt2.model, and is within COPY of the matrices."""
    write(directory, make_tensors(CONFIG))
    write_own(directory, CONFIG["vocab_size"])
    write_vocabulary(directory)
    before = count_rows(db, TABLES + VOCABULARY)
    with psycopg.connect(database) as blocker:
        blocker.execute("LOCK TABLE gpt2.matrix_page IN EXCLUSIVE MODE")
        process = subprocess.Popen(
            [*PROGRAM, "load", str(directory), "--dsn", database],
            stderr=subprocess.PIPE,
            text=True,
            # a shell's background job, as CI may be, ignores Ctrl-C and hands that on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_for_lock(db, "COPY gpt2.matrix_page%")
        assert count_rows(db, TABLES + VOCABULARY) == before
        process.send_signal(signal_number)
        _, error = process.communicate(timeout=30)
    if signal_number == signal.SIGINT:
        assert (process.returncode, error) == (
            1,
            "gpt2-loader: error: interrupted: nothing was changed\n",
        )
    deadline = time.monotonic() + 30
    while db.execute(
        "SELECT FROM pg_stat_activity WHERE application_name = 'gpt2-loader'"
    ).fetchall():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert count_rows(db, TABLES + VOCABULARY) == before


def test_replace_is_atomic(db, database, directory):  # noqa: F811
    """Until the import commits, readers have the whole old model; after it the whole new one."""
    write(directory, make_tensors(CONFIG))
    write_own(directory, CONFIG["vocab_size"])
    command = [*PROGRAM, "load", str(directory), "--name", "m", "--dsn", database]
    subprocess.run(command, check=True)
    before = contents(db)
    tensors = make_tensors(CONFIG, seed=2)
    write(directory, tensors)
    write_own(directory, CONFIG["vocab_size"])
    with psycopg.connect(database) as blocker:
        blocker.execute("LOCK TABLE gpt2.matrix_page IN SHARE MODE")
        process = subprocess.Popen([*command, "--replace"])
        wait_for_lock(db, "%")
        assert contents(db) == before
    assert process.wait(timeout=30) == 0
    check_rows(db, tensors)


def test_progress_bar(db, database, directory):  # noqa: F811
    """On a terminal, standard error shows the bytes."""
    script = shutil.which("script")
    if not script:
        pytest.skip("needs script, to have a terminal")
    write(directory, make_tensors(CONFIG))
    write_own(directory, CONFIG["vocab_size"])
    command = " ".join(f"'{part}'" for part in [*PROGRAM, "load", directory, "--dsn", database])
    command = f"stty rows 24 cols 100 && {command}"
    process = subprocess.run(
        [script, "-qec", command, "/dev/null"], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0
    n_bytes = sum(tensor.nbytes for tensor in make_tensors(CONFIG).values())
    assert f"{n_bytes / 1000:.1f}k/{n_bytes / 1000:.1f}k" in process.stdout


@pytest.fixture
def settings(db):  # noqa: F811
    """settings(name, value): sets it for new sessions of the database, until the test ends."""
    [(name,)] = db.execute("SELECT quote_ident(current_database())").fetchall()
    yield lambda setting, value: db.execute(f"ALTER DATABASE {name} SET {setting} = {value}")
    db.execute(f"ALTER DATABASE {name} RESET ALL")


SLOW = """
import time
from gpt2_loader import client, vocabulary
from gpt2_loader.cli import app

read, digest = client.read_tensor, vocabulary.Vocabulary.sha256

def read_slowly(tensor, start, stop):
    time.sleep(1.5 if tensor.name.endswith("wte.weight") else 0)
    return read(tensor, start, stop)

def digest_slowly(vocabulary):
    time.sleep(1.5)
    return digest(vocabulary)

client.read_tensor, vocabulary.Vocabulary.sha256 = read_slowly, digest_slowly
app()
"""


@pytest.mark.parametrize(
    "timeout", ["statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"]
)
def test_small_timeouts(db, database, directory, settings, timeout):  # noqa: F811
    """An import of a slow disk's files: a COPY of 1.5 s, and as long between two statements."""
    if not db.execute("SELECT current_setting(%s, true)", (timeout,)).fetchone()[0]:
        pytest.skip(f"the server has no {timeout}")
    settings(timeout, "'1s'")
    write(directory, make_tensors(CONFIG))
    write_own(directory, CONFIG["vocab_size"])
    process = subprocess.run(
        [sys.executable, "-c", SLOW, "load", str(directory), "--dsn", database],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    check_rows(db, make_tensors(CONFIG), directory.name)


@pytest.fixture
def trap(db, settings):  # noqa: F811
    """Schema trap comes first in the search_path: its types, functions and operators have names of
    pg_catalog's, and raise an error where they are used."""
    db.execute("CREATE SCHEMA trap")
    db.execute(
        """CREATE FUNCTION trap.spring() RETURNS boolean LANGUAGE plpgsql
           AS 'BEGIN RAISE EXCEPTION $$trapped$$; END'"""
    )
    for function in (
        "set_config(pg_catalog.text, pg_catalog.text, boolean) RETURNS pg_catalog.text",
        "to_regclass(pg_catalog.text) RETURNS pg_catalog.regclass",
        "current_setting(pg_catalog.text) RETURNS pg_catalog.text",
        "has_table_privilege(pg_catalog.text, pg_catalog.text) RETURNS boolean",
    ):
        db.execute(
            f"""CREATE FUNCTION trap.{function} LANGUAGE plpgsql
                AS 'BEGIN RAISE EXCEPTION $$trapped$$; END'"""
        )
    for name in ("text", "jsonb", "int4", "regclass"):
        db.execute(f"CREATE DOMAIN trap.{name} AS pg_catalog.{name} CHECK (trap.spring())")
    for left, right in (("text", "text"), ("oid", "regclass"), ("oid", "oid"), ("int4", "int4")):
        db.execute(
            f"""CREATE FUNCTION trap.equal(pg_catalog.{left}, pg_catalog.{right})
                RETURNS boolean LANGUAGE sql VOLATILE RETURN trap.spring()"""
        )
        db.execute(
            f"""CREATE OPERATOR trap.= (
                FUNCTION = trap.equal, LEFTARG = pg_catalog.{left}, RIGHTARG = pg_catalog.{right})"""
        )
    settings("search_path", "trap, pg_catalog, public")
    yield
    db.execute("DROP SCHEMA trap CASCADE")


def test_hostile_search_path(db, run, trap):  # noqa: F811
    """What the commands say in SQL is pg_catalog's, whatever comes first in the search_path."""
    for arguments in (["load", DEMO], ["load", DEMO, "--replace"], ["list"], ["drop", DEMO.name]):
        process = run(*arguments)
        assert (process.returncode, process.stderr) == (0, ""), arguments
