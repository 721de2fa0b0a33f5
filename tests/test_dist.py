"""The files of a release, which `make dist` makes, and docs/install.md, which says what to do with them:
its lines are typed as they stand there, section by section, on a server with pgvector and without gpt2.

What a package's own tools check of it, and Docker, is in tests of their own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pages
import psycopg
import pytest
from checkouts import git, repository
from conftest import ROOT, one
from test_extension import objects

from clusters import Cluster, relocated

pytestmark = pytest.mark.operations

VERSION = json.loads((ROOT / "META.json").read_text())["version"]
FILES = {
    f"gpt2-{VERSION}.sql",
    f"gpt2-{VERSION}.zip",
    f"gpt2_loader-{VERSION}-py3-none-any.whl",
    f"gpt2_loader-{VERSION}.tar.gz",
    f"gpt2_pg_tle-{VERSION}.sql",
    f"gpt2_playground-{VERSION}.tar.gz",
    f"postgresql-15-gpt2_{VERSION}-1_all.deb",
    "SHA256SUMS",
}
DIST = "extension/setup/dist"


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )


def fails(*command: str | Path, folder: Path) -> str:
    """What a command that fails says."""
    ran = run(*command, folder=folder)
    assert ran.returncode != 0, ran.stdout
    return ran.stderr


# ---- What is made


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A repository with this tree; with this checkout's Python, and something for what others build."""
    checkout = repository(tmp_path_factory.mktemp("dist") / "checkout")
    site = checkout / "build/playground/site"
    site.mkdir(parents=True)
    (site / "index.html").write_text("<!doctype html>")
    package = checkout / "build/deb" / f"postgresql-15-gpt2_{VERSION}-1_all.deb"
    package.parent.mkdir()
    package.touch()
    before = package.with_name("postgresql-15-gpt2_0.0.1-1_all.deb")  # of another commit
    before.touch()
    os.utime(before, (0, 0))
    (checkout / "build/venv").symlink_to(ROOT / "build/venv")
    return checkout


@pytest.fixture(scope="module")
def dist(checkout, tmp_path_factory) -> Path:
    made = run(checkout / DIST, folder=checkout)
    assert made.returncode == 0, made.stderr
    # the files alone, as somebody has fetched them
    return shutil.copytree(checkout / "build/dist", tmp_path_factory.mktemp("fetched") / "dist")


def test_files(dist):
    assert {path.name for path in dist.iterdir()} == FILES
    checked = run("sha256sum", "--check", "--strict", "SHA256SUMS", folder=dist)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count(": OK\n") == len(FILES) - 1
    assert not [path.name for path in dist.iterdir() if path.stat().st_mode & 0o044 != 0o044]


@pytest.mark.long
def test_same_commit_same_bytes(dist, checkout):
    """At another time, in another folder, with another umask."""
    moved = checkout.with_name("moved")
    checkout.rename(moved)
    try:
        made = run("bash", "-c", f"umask 027; {DIST}", folder=moved, TZ="Asia/Tokyo")
        assert made.returncode == 0, made.stderr
        sums = (moved / "build/dist/SHA256SUMS").read_text()
    finally:
        moved.rename(checkout)
    assert sums == (dist / "SHA256SUMS").read_text()


def test_archive_is_what_is_committed(dist, checkout):
    """All of it, under a folder as PGXN asks for; nothing that was built."""
    with zipfile.ZipFile(dist / f"gpt2-{VERSION}.zip") as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        meta = json.loads(archive.read(f"gpt2-{VERSION}/META.json"))
    listed = git("ls-files", "-z", folder=checkout).split("\0")
    assert names == {f"gpt2-{VERSION}/{name}" for name in listed if name}
    assert (meta["name"], meta["version"]) == ("gpt2", VERSION)


def test_refused_where_something_is_not_committed(checkout):
    (checkout / "sql/more.sql").touch()
    try:
        said = fails(checkout / DIST, folder=checkout)
    finally:
        (checkout / "sql/more.sql").unlink()
    assert said.startswith("error: the tree has changes that are not committed:\n?? sql/more.sql\n")


def test_refused_in_a_released_archive(dist, tmp_path):
    with zipfile.ZipFile(dist / f"gpt2-{VERSION}.zip") as archive:
        archive.extractall(tmp_path)
    released = tmp_path / f"gpt2-{VERSION}"
    said = fails("bash", DIST, folder=released)
    assert said.startswith("error: the archive is made from a git checkout, and ")


# ---- What is typed


def section(heading: str) -> list[str]:
    """The shell lines of a section of docs/install.md, a text a block."""
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    [text] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_every_line_is_typed_here():
    """What is marked `sh` on the page: the tests below have each section that has some."""
    typed = ["Your own server", "A managed service with pgvector"]
    typed += ["A managed service with pg_tle", "A model"]
    lines = [line for heading in typed for line in section(heading)]
    assert lines == pages.blocks("docs/install.md")


class Server:
    """A cluster of a server without gpt2, whose programs are the first ones in the PATH, and a role
    without rights of its own, but that it may make databases."""

    def __init__(self, folder: Path):
        self.pg_config = relocated(
            folder, "postgres", "pg_config", "pg_ctl", "initdb", without="gpt2"
        )
        sharedir = subprocess.check_output([self.pg_config, "--sharedir"], text=True).strip()
        self.extensions = Path(sharedir) / "extension"
        control = (self.extensions / "vector.control").read_text()
        (self.extensions / "vector.control").unlink()
        # as managed services have it: who owns a database may have vector in it
        (self.extensions / "vector.control").write_text(f"{control}\ntrusted = true\n")
        self.cluster: Cluster | None = None

    def type(self, lines: str, folder: Path, user: str = "postgres") -> str:
        """What a shell prints, standard error too, that runs the lines in a folder as libpq's user."""
        ran = run(
            *("bash", "-v", "-e", "-o", "pipefail", "-c", f"exec 2>&1; {lines}"),
            folder=folder,
            PGUSER=user,
            PGHOST=self.cluster.host,
            PGPORT="5432",
            PGDATABASE="postgres",
            HF_HUB_OFFLINE="1",
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def connect(self, database: str = "texts", user: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.cluster.dsn(database, user), autocommit=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="gpt2-server-", dir="/var/tmp"))
    folder.chmod(0o755)
    commands = tmp_path_factory.mktemp("commands")
    # not pgxnclient's own script, which cannot run from a path with a space
    client = "import sys, pgxnclient.cli as c; c.main(sys.argv[1:])"
    (commands / "pgxn").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{client}" "$@"\n'
    )
    (commands / "pgxn").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        made = Server(folder)
        others = os.environ["PATH"].replace(f"{ROOT}/build/venv/bin:", "")
        patch.setenv("PATH", f"{made.pg_config.parent}:{commands}:{others}")
        patch.setenv("PG_CONFIG", str(made.pg_config))
        for name in [name for name in os.environ if name.startswith("PG") and name != "PG_CONFIG"]:
            patch.delenv(name)
        made.cluster = Cluster().start()
        with made.connect("postgres") as admin:
            admin.execute("CREATE ROLE tenant LOGIN CREATEDB")
        yield made
        made.cluster.remove()
    shutil.rmtree(folder)


@pytest.fixture
def texts(server) -> Iterator[None]:
    """The page's database is gone after the test."""
    yield
    with server.connect("postgres") as admin:
        admin.execute("DROP DATABASE IF EXISTS texts WITH (FORCE)")


def installed(server: Server) -> set[str]:
    return {path.name for path in server.extensions.glob("gpt2*")}


def versions(connection: psycopg.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT extname, extversion FROM pg_extension").fetchall())


def test_pgxn(server, dist, texts):
    install, back = section("Your own server")
    server.type(install, dist)
    scripts = {f"{name}--{VERSION}.sql" for name in ("gpt2", "gpt2_plpython3u")}
    assert installed(server) == {"gpt2.control", "gpt2_plpython3u.control"} | scripts
    with server.connect() as connection:
        assert versions(connection) == {
            "gpt2": VERSION,
            "plpgsql": "1.0",
            "vector": versions(connection)["vector"],
        }
        assert one(connection, "SELECT gpt2_tokenize('Happy New Year!')") == [25082, 968, 6280, 0]
    assert re.search(r"All \d+ tests passed", server.type(back, dist))
    assert installed(server) == set()
    with server.connect() as connection:
        assert "gpt2" not in versions(connection)
        assert connection.execute("SELECT to_regnamespace('gpt2')").fetchone() == (None,)


def of_an_owner(connection: psycopg.Connection) -> list[tuple]:
    """The objects, whoever has made them."""
    me = one(connection, "SELECT current_user")
    return [
        (
            kind,
            name,
            re.sub(rf"\b{me}\b", "owner", value or "") if kind == "acl" else value,
            comment,
        )
        for kind, name, value, comment in objects(connection)
    ]


def without_cache(listed: str) -> list[str]:
    """What `pip show --files` prints, but for who installed it, and how."""
    return [line for line in listed.splitlines() if not re.search(r"__pycache__|direct_url", line)]


def test_plain_script_and_loader(server, dist, texts, conn, tmp_path):
    """As a role that is no superuser, on a server without files of gpt2: the objects are the
    extension's, and the loader's wheel, in an environment of its own, puts a model into them."""
    [script] = section("A managed service with pgvector")
    [model] = section("A model")
    folder = shutil.copytree(dist, tmp_path / "dist")
    assert installed(server) == set()
    server.type(script, folder, "tenant")
    with server.connect(user="tenant") as connection:
        assert not one(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert "gpt2" not in versions(connection)
        own = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE proname ~ '^gpt2_'"
        assert connection.execute(own).fetchall() == [("tenant",)]
        assert of_an_owner(connection) == of_an_owner(conn)
    printed = server.type(model, folder, "tenant")
    assert 'loaded model "demo": 17,' in printed
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [expected] = re.findall(
        r"SELECT gpt2_generate\('Happy New Year!'\);\n```\n```text\n(.*?)```", readme, re.DOTALL
    )
    assert expected.strip() in printed

    # the source distribution is the same, for pip at least
    files = "python -m pip show --files gpt2-loader"
    activate = ". loader/bin/activate; "
    wheel = server.type(activate + files, folder)
    assert "gpt2_loader/models/demo/model.safetensors" in wheel
    again = "python -m pip install --quiet --no-deps --force-reinstall gpt2_loader-*.tar.gz; "
    assert (
        without_cache(server.type(activate + again + files, folder))[1:] == without_cache(wheel)[1:]
    )
    assert f"gpt2-loader {VERSION}" in server.type("loader/bin/gpt2-loader --version", folder)


# ---- pg_tle

#: What pg_tle does with what it is given, as its documentation says
#: (https://github.com/aws/pg_tle/blob/main/docs/03_managing_extensions.md): it makes functions that
#: return the files. It reads them in place of files at CREATE EXTENSION, by a hook in C, which SQL
#: cannot have: `as_files` stands for that.
PG_TLE = r"""
CREATE FUNCTION pgtle._keep(file text, content text, instead boolean) RETURNS boolean LANGUAGE plpgsql AS $keep$
BEGIN
    IF content ~ '\$_pgtle_[oi]_\$' THEN
        RAISE EXCEPTION 'invalid character in extension definition';
    END IF;
    EXECUTE format('CREATE %s FUNCTION pgtle.%I() RETURNS text LANGUAGE sql AS %L',
                   CASE WHEN instead THEN 'OR REPLACE' END, file,
                   format('SELECT $_pgtle_i_$%s$_pgtle_i_$', content));
    RETURN true;
END $keep$;

CREATE FUNCTION pgtle.install_extension(
    name text, version text, description text, ext text, requires text[] DEFAULT NULL, schema text DEFAULT NULL)
RETURNS boolean LANGUAGE sql
SET search_path = pgtle AS $$
    SELECT pgtle._keep(name || '--' || version || '.sql', ext, false)
       AND pgtle._keep(name || '.control', format(
               E'default_version = %L\ncomment = %L\nrelocatable = false\nsuperuser = false\n'
               'trusted = false\nrequires = %L\n',
               version, description, array_to_string(requires || '{pg_tle}'::text[], ',')), true)
$$;

CREATE FUNCTION pgtle.install_update_path(name text, fromvers text, tovers text, ext text) RETURNS boolean
LANGUAGE sql SET search_path = pgtle
AS $$ SELECT pgtle._keep(name || '--' || fromvers || '--' || tovers || '.sql', ext, false) $$;

CREATE FUNCTION pgtle.uninstall_update_path_if_exists(extname text, fromvers text, tovers text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pgtle AS $$
DECLARE
    file text := extname || '--' || fromvers || '--' || tovers || '.sql';
BEGIN
    IF to_regproc(format('pgtle.%I', file)) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP FUNCTION pgtle.%I()', file);
    RETURN true;
END $$;
"""


@pytest.fixture
def pg_tle(server, texts) -> Iterator[None]:
    """The stand-in, as an extension that the role without rights may create; without its roles."""
    control = "default_version = '1.5.0'\nschema = pgtle\ntrusted = true\n"
    grant = "GRANT CREATE, USAGE ON SCHEMA pgtle TO PUBLIC;"
    (server.extensions / "pg_tle.control").write_text(control)
    (server.extensions / "pg_tle--1.5.0.sql").write_text(PG_TLE + grant)
    yield
    for path in [*server.extensions.glob("pg_tle*"), *server.extensions.glob("gpt2*")]:
        path.unlink()


def as_files(server: Server) -> dict[str, str]:
    """What is registered, by its name, and as the server's files, where CREATE EXTENSION finds it."""
    kept = (
        "SELECT proname FROM pg_proc WHERE pronamespace = 'pgtle'::regnamespace AND proname ~ '[.]'"
    )
    with server.connect() as connection:
        found = {
            name: one(connection, f'SELECT pgtle."{name}"()')
            for (name,) in connection.execute(kept).fetchall()
        }
    for name, text in found.items():
        (server.extensions / name).write_text(text)
    return found


def test_pg_tle(server, dist, pg_tle, tmp_path):
    register, create = section("A managed service with pg_tle")
    server.type(register, dist, "tenant")
    found = as_files(server)
    assert set(found) == {"gpt2.control", f"gpt2--{VERSION}.sql"}
    assert found[f"gpt2--{VERSION}.sql"] == (ROOT / f"build/gpt2--{VERSION}.sql").read_text()
    assert re.findall(
        r"^(?:requires|comment|default_version) = .*", found["gpt2.control"], re.M
    ) == [
        f"default_version = '{VERSION}'",
        "comment = 'GPT-2 as pure SQL over pgvector'",
        "requires = 'vector,pg_tle'",
    ]
    server.type(create, dist, "tenant")
    with server.connect(user="tenant") as connection:
        owner = "SELECT extowner::regrole::text FROM pg_extension WHERE extname = 'gpt2'"
        assert one(connection, owner) == "tenant"
        assert one(connection, "SELECT gpt2_tokenize('Happy New Year!')") == [25082, 968, 6280, 0]
        needed = """SELECT array_agg(e.extname::text ORDER BY e.extname)
                    FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                    WHERE d.objid = (SELECT oid FROM pg_extension WHERE extname = 'gpt2')"""
        assert one(connection, needed) == ["pg_tle", "vector"]


def test_pg_tle_updates(server, dist, pg_tle, tmp_path):
    """From a version that was registered before, by the step that a newer script brings; a step that
    is there already is replaced, and a version that is there already is refused."""
    register, create = section("A managed service with pg_tle")
    built = ROOT / f"build/gpt2--{VERSION}.sql"
    old, new, step = (tmp_path / f"gpt2--{name}.sql" for name in ("0.0.1", "0.0.2", "0.0.1--0.0.2"))
    shutil.copy(built, old)
    shutil.copy(built, new)
    step.write_text("COMMENT ON SCHEMA gpt2 IS 'it''s $new$';\n")
    control = tmp_path / "gpt2.control"
    for files in ([old], [new, step]):
        version = files[0].stem.removeprefix("gpt2--")
        control.write_text(
            (ROOT / "build/gpt2.control").read_text().replace(f"'{VERSION}'", f"'{version}'")
        )
        made = run(ROOT / "extension/pg_tle", control, *files, folder=tmp_path)
        assert made.returncode == 0, made.stderr
        (tmp_path / f"gpt2_pg_tle-{version}.sql").write_text(made.stdout)
    server.type(register.replace("gpt2_pg_tle-*", "gpt2_pg_tle-0.0.1"), tmp_path, "tenant")
    as_files(server)
    server.type(create, tmp_path, "tenant")
    with server.connect(user="tenant") as connection:
        # as if an older script had had a step of that name
        connection.execute("SELECT pgtle.install_update_path('gpt2', '0.0.1', '0.0.2', 'broken')")
    server.type("psql -d texts -q -f gpt2_pg_tle-0.0.2.sql", tmp_path, "tenant")
    assert as_files(server)["gpt2--0.0.1--0.0.2.sql"] == step.read_text()
    with server.connect(user="tenant") as connection:
        connection.execute("ALTER EXTENSION gpt2 UPDATE")
        assert versions(connection)["gpt2"] == "0.0.2"
        assert one(connection, "SELECT obj_description('gpt2'::regnamespace)") == "it's $new$"
    again = server.type("! psql -d texts -q -f gpt2_pg_tle-0.0.2.sql", tmp_path, "tenant")
    assert 'function "gpt2--0.0.2.sql" already exists' in again


@pytest.mark.parametrize("word", ["$extension_script$", "$_pgtle_o_$", "$_pgtle_i_$"])
def test_pg_tle_quotes(tmp_path, word):
    """What would end the string in which the script goes over is refused."""
    script = tmp_path / "gpt2--1.sql"
    script.write_text(f"SELECT {word}{word};\n")
    said = fails(ROOT / "extension/pg_tle", ROOT / "build/gpt2.control", script, folder=tmp_path)
    assert said == f"error: {script} contains {word}\n"
