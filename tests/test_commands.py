"""What a reader types: every shell line of README.md and docs/*.md in its order, each page in one
shell, in a checkout of its own; nothing is set that the page does not set.

`make test-bare` does the same with README.md in bare machines, `make test` included.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pages
import psycopg
import pytest
from checkouts import repository
from conftest import ROOT, one
from examples import EXAMPLE
from oracle.checkpoints import SHAPES, write_checkpoint, write_hub_cache

from clusters import relocated

pytestmark = pytest.mark.operations

#: pages with shell lines
WITH_LINES = [page for page in pages.PAGES if pages.blocks(page)]
#: README.md above all the others, docs/install.md on a server without gpt2: tests/test_dist.py
TYPED_ELSEWHERE = ("README.md", "docs/install.md")


def environment(home: Path) -> dict[str, str]:
    """The machine's, without what belongs to the process that runs the tests. PG_CONFIG stays:
    the server that is tested."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PG_CONFIG"
        or not re.match(r"PG|GPT2_|HF_|MAKE|MFLAGS|PYTEST|PYTHON|VIRTUAL_ENV|TORCH", name)
    }
    # the hub is not asked: what is fetched from it lies in the cache below
    return kept | {
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PATH": os.environ["PATH"].replace(f"{ROOT}/build/venv/bin:", ""),
    }


def read(page: str, instead: dict[str, str], folder: Path, home: Path) -> str:
    """Types a page's lines in a folder. The shell shows each before it runs it, so what is wrong
    is at the end of what this gives."""
    typed = subprocess.run(
        ["bash", "-v", "-e", "-o", "pipefail", "-c", pages.script(page, instead)],
        cwd=folder,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert typed.returncode == 0, typed.stdout
    return typed.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A reader's home, with a model that was fetched from the hub."""
    home = tmp_path_factory.mktemp("home")
    write_hub_cache(home)
    return home


@pytest.fixture(scope="module")
def readme(tmp_path_factory, home) -> Iterator[tuple[Path, str]]:
    """The checkout of a reader who has typed README.md, and what the lines printed."""
    folder = tmp_path_factory.mktemp("a reader's")
    source = repository(folder / "repository")
    model = folder / "model"
    write_checkpoint(model, SHAPES["one_block"])

    instead = {
        # the machine has it all, or this would not run
        "apt-get update && apt-get install --yes git make sudo": "git --version; make --version",
        "git clone REPOSITORY": f"git clone --quiet {shlex.quote(str(source))}",
        "/path/to/pg_config": shlex.quote(os.environ["PG_CONFIG"]),
        "path/to/model": shlex.quote(str(model)),
        # this is it; and half an hour with PyTorch
        "make test": "make -n test",
        "make bench": "make -n bench",
    }
    if os.getuid() == 0:
        instead["sudo make"] = "make"
    try:
        yield folder / "gpt2", read("README.md", instead, folder, home)
    finally:
        checkout = folder / "gpt2"
        if checkout.exists():
            subprocess.run(["make", "clean"], cwd=checkout, env=environment(home), check=True)
            assert not (checkout / "build").exists()


def test_readme(readme):
    _, printed = readme
    # make demo shows the page's first queries, and what they give
    for query, result in EXAMPLE.findall((ROOT / "README.md").read_text(encoding="utf-8"))[:2]:
        for line in re.findall(r"gpt2_generate\('[^']+'", query) + result.splitlines():
            assert line.rstrip() in printed, line
    assert re.search(r'loaded model "gpt2": [\d,]+ parameters', printed)
    assert re.search(r'loaded model "mine": [\d,]+ parameters', printed)
    assert re.search(r"^mine +default +[\d,]+ +float16 ", printed, re.MULTILINE)
    assert 'dropped model "mine"' in printed


@pytest.mark.parametrize("page", [page for page in WITH_LINES if page not in TYPED_ELSEWHERE])
def test_page(readme, home, page):
    checkout, _ = readme
    instead = {}
    if page == "docs/tuning.md":  # the machine stays as it is
        instead["sysctl -w vm.nr_hugepages=600"] = "cat /proc/sys/vm/nr_hugepages"
    if page == "docs/generation.md" and psql_version(checkout, home) < 17:
        # the page says so: from psql 17 on
        instead["FETCH 1 FROM c \\watch i=0 min_rows=1"] = "FETCH 1 FROM c;"
    read(page, instead, checkout, home)


def psql_version(checkout: Path, home: Path) -> int:
    printed = in_shell("psql --version", checkout, home)
    return int(re.search(r"\) (\d+)", printed)[1])


def in_shell(line: str, checkout: Path, home: Path) -> str:
    """What a line prints in a shell that README.md's one line has set up."""
    return subprocess.run(
        ["bash", "-e", "-c", f'eval "$(make -s env)"\n{line}'],
        cwd=checkout,
        env=environment(home),
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def completion(checkout: Path, home: Path) -> str:
    return in_shell(
        """psql -XAtc "SELECT gpt2_generate('To create an index', echo => false)" """,
        checkout,
        home,
    ).removesuffix("\n")


def test_psql_prints_the_completion(readme, home):
    """Both ways of docs/generation.md; psql prints each piece on a line of its own."""
    checkout, _ = readme
    _, before_17, from_17 = pages.blocks("docs/generation.md")
    code = from_17 if psql_version(checkout, home) >= 17 else before_17
    assert in_shell(code, checkout, home).replace("\n", "") == completion(checkout, home).replace(
        "\n", ""
    )


def test_psycopg_prints_the_completion(readme, home):
    checkout, _ = readme
    [code] = pages.blocks("docs/generation.md", "python")
    printed = in_shell(f"build/venv/bin/python -c {shlex.quote(code)}", checkout, home)
    assert printed == completion(checkout, home)


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node.js")
def test_node_prints_the_completion(readme, home, tmp_path):
    checkout, _ = readme
    [code] = pages.blocks("docs/generation.md", "js")
    (tmp_path / "client.mjs").write_text(code)
    subprocess.run(
        ["npm", "install", "--silent", "pg@8", "pg-query-stream@4"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    printed = in_shell(f"node {shlex.quote(str(tmp_path / 'client.mjs'))}", checkout, home)
    assert printed == completion(checkout, home)


def test_installcheck_alone(readme, home):
    """By the one line, `make installcheck` finds the server as with any extension."""
    checkout, _ = readme
    printed = in_shell("make installcheck", checkout, home)
    assert re.search(r"All \d+ tests passed", printed)


def test_hint_of_the_loader_is_the_line(readme, home):
    """Where no database is named, the loader says how; the hint's command mends it."""
    checkout, _ = readme
    loader = [checkout / "build/venv/bin/gpt2-loader", "list"]
    refused = subprocess.run(
        loader,
        cwd=checkout,
        env=environment(home) | {"PGHOST": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    [hint] = re.findall(r"HINT: .*: (eval .*)$", refused.stderr, re.MULTILINE)
    assert in_shell(f"{hint}\nbuild/venv/bin/gpt2-loader list", checkout, home).startswith("name ")
    assert hint in pages.blocks("README.md")[2]


def test_version(readme, home):
    checkout, _ = readme
    version = json.loads((ROOT / "META.json").read_text())["version"]
    assert (
        in_shell("build/venv/bin/gpt2-loader --version", checkout, home)
        == f"gpt2-loader {version}\n"
    )


def test_a_flag_is_shown_as_a_flag(readme, home):
    checkout, _ = readme
    printed = in_shell("build/venv/bin/gpt2-loader load --help", checkout, home)
    for flag in ("--replace", "--default"):
        assert re.search(rf"^  {flag}  +[A-Z]", printed, re.MULTILINE), printed


TARGETS = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_dry_run_does_nothing(target, tmp_path):
    """`make -n` prints, and neither makes a file nor starts a server."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("Makefile", "META.json", "extension", "sql", "plpython", "loader", "tests"):
        (checkout / name).symlink_to(ROOT / name)
    before = sorted(path.name for path in checkout.iterdir())
    subprocess.run(
        ["make", "-n", target, "MODEL=x"],
        cwd=checkout,
        env=environment(tmp_path),
        check=True,
        capture_output=True,
    )
    assert sorted(path.name for path in checkout.iterdir()) == before


# ---- The scripts of the set-up


def test_server_without_plpython(tmp_path):
    """A server that has no PL/Python, and that apt does not manage, does for all but
    gpt2_plpython3u."""

    pg_config = relocated(tmp_path / "server", "postgres", "pg_config", without="plpython3u")
    made = subprocess.run(
        [ROOT / "extension/setup/packages"],
        capture_output=True,
        text=True,
        env=environment(tmp_path) | {"PG_CONFIG": str(pg_config)},
    )
    assert made.returncode == 0, made.stderr
    assert "going on without postgresql-plpython3-" in made.stderr
    assert "gpt2_plpython3u" in made.stderr
    assert f"in {pg_config.parent}\n" in made.stderr


def test_stop_where_nobody_reaps(readme, home):
    """A server that has ended, but whose parent does not ask for its end, has stopped: it is a
    zombie as long as PID 1 of a container leaves it so."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs a PID namespace")  # in a chroot there is none: tests/bare/run
    checkout, _ = readme
    # in the new namespace PID 1 is a process that never reaps
    shell = (
        "import os, subprocess, sys, time\n"
        "if os.fork() == 0:\n"
        "    code = subprocess.call(['sh', '-ec', sys.argv[1]])\n"
        "    open(sys.argv[2], 'w').write(str(code)); time.sleep(600)\n"
        "while not os.path.exists(sys.argv[2]) or not open(sys.argv[2]).read():\n"
        "    time.sleep(0.1)\n"
        "sys.exit(int(open(sys.argv[2]).read()))"
    )
    code = home / "code"
    subprocess.run(["make", "stop"], cwd=checkout, env=environment(home), check=True)
    stopped = subprocess.run(
        [*unshare, sys.executable, "-c", shell, "make server && make stop", str(code)],
        cwd=checkout,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert stopped.returncode == 0, stopped.stderr
    assert "cluster: stopping" in stopped.stderr


def test_pgxn_load(new_database, tmp_path):
    """pgxnclient makes what META.json provides. What has no SQL file it passes over without a
    word."""
    shutil.copy(ROOT / "META.json", tmp_path)
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        # not by its commands, scripts that cannot run from a path with a space
        loaded = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, pgxnclient.cli as c; c.main(sys.argv[1:])",
                "load",
                "--yes",
                "--pg_config",
                os.environ["PG_CONFIG"],
                "--dbname",
                uri,
                f"{tmp_path}/",
                "gpt2",
            ],
            capture_output=True,
            text=True,
        )
        assert loaded.returncode == 0, loaded.stderr
        assert one(connection, "SELECT count(*) FROM gpt2_models()") == 0
