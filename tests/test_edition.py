"""gpt2.model.edition and gpt2._edition: what tells a model's weights from those it had before."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator

import psycopg
import pytest
from conftest import load_model, number, one
from oracle.checkpoints import SHAPES, write_checkpoint
from psycopg import errors

#: view or table -> column to double, and a row that the statement is to change
VIEWS = {
    "linear": ("weight", "block = 1 AND layer = 'mlp.c_fc' AND unit = 7"),
    "linear bias": ("bias", "block = 1 AND layer = 'mlp.c_fc' AND unit = 7"),
    "wte": ("weight", "token = 5"),
    "lm_head": ("weight", "token = 5"),
    "bias": ("bias", "block = 1 AND layer = 'mlp.c_fc'"),
    "wpe": ("weight", '"position" = 2'),
    "layer_norm": ("weight", "block = 0 AND layer = 'ln_2'"),
    "layer_norm bias": ("bias", "block = 0 AND layer = 'ln_2'"),
}
#: table -> the columns that are not in its key, without model
TABLES = {
    "matrix_page": "block, layer, slice, page, weight, half",
    "bias": "block, layer, bias",
    "wpe": '"position", weight',
    "layer_norm": "block, layer, weight, bias",
}
#: table -> what changes a row t of it
CHANGES = {
    "matrix_page": "weight = t.weight[2:] || t.weight[:1], half = t.half[2:] || t.half[:1]",
    "bias": "bias = t.bias + t.bias",
    "wpe": "weight = t.weight + t.weight",
    "layer_norm": "weight = t.weight + t.weight",
}
MODELS = ["full", "half", "variant", "half_variant"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("untied"), SHAPES["untied"])


@pytest.fixture(scope="module")
def uri(new_database, checkpoint) -> str:
    """A database with MODELS: the first two are full, the others their variants, each with a page of
    three matrices; and one more model, 'other', with a variant, 'other_variant', of which nothing
    is changed."""
    dsn = new_database(holds="extension")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name, dtype in (("full", "float32"), ("half", "float16"), ("other", "float32")):
            load_model(dsn, checkpoint, name, "--dtype", dtype)
        for base, name in (
            ("full", "variant"),
            ("half", "half_variant"),
            ("other", "other_variant"),
        ):
            connection.execute("SELECT gpt2_create_variant(%s, %s)", [name, base])
            for view in VIEWS:
                edit(connection, view, name)
    return dsn


@pytest.fixture
def tx(uri: str) -> Iterator[psycopg.Connection]:
    """A connection in a transaction that leaves nothing behind."""
    with psycopg.connect(uri) as connection:
        yield connection
        connection.rollback()


def edit(conn: psycopg.Connection, view: str, name: str, where: str | None = None) -> int:
    """Doubles a row of a view or table, or more."""
    column, row = VIEWS[view]
    return conn.execute(
        f"UPDATE gpt2.{view.split()[0]} SET {column} = {column} + {column} + "
        f"{'1' if view == 'linear bias' else column} "
        f"WHERE model = %s AND {where or row}",
        [number(conn, name)],
    ).rowcount


def editions(conn: psycopg.Connection) -> dict[str, list[int]]:
    """Model -> what a cache would remember of it."""
    return dict(conn.execute("SELECT name, gpt2._edition(m) FROM gpt2.model AS m").fetchall())


def moved(conn: psycopg.Connection, before: dict[str, list[int]]) -> set[str]:
    """The models whose edition is another one. No number is negative, or that of two models."""
    after = editions(conn)
    numbers = [n for (n,) in conn.execute("SELECT edition FROM gpt2.model")]
    assert min(numbers) > 0 and len(set(numbers)) == len(numbers)
    return {name for name in before if name not in after or before[name] != after[name]}


def affected(name: str) -> set[str]:
    """A variant depends on its base too."""
    return {"full": {"full", "variant"}, "half": {"half", "half_variant"}}.get(name, {name})


# ---- What changes weights


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", MODELS)
def test_update_of_a_view(tx, name, view):
    """Each time, within a transaction too."""
    seen = [editions(tx)]
    for _ in range(3):
        assert edit(tx, view, name) == 1
        assert moved(tx, seen[-1]) == affected(name)
        seen.append(editions(tx))
    assert len({str(edition[name]) for edition in seen}) == 4
    assert seen[3][name][0] - seen[1][name][0] == 2


@pytest.mark.parametrize("view", VIEWS)
def test_first_update_of_a_variant(tx, view):
    """Which copies the page of the base, if it is of a matrix."""
    tx.execute("SELECT gpt2_create_variant('new', 'full')")
    before = editions(tx)
    edit(tx, view, "new")
    assert moved(tx, before) == {"new"}
    # without looking at how many rows it stores
    assert editions(tx)["new"][0] != before["new"][0]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", MODELS)
def test_update_of_a_table(tx, name, table):
    for _ in range(2):
        before = editions(tx)
        tx.execute(
            f"UPDATE gpt2.{table} AS t SET {CHANGES[table]} WHERE model = %s", [number(tx, name)]
        )
        assert moved(tx, before) == affected(name)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", MODELS)
def test_delete_and_insert(tx, name, table):
    """As a variant's row is given back to its base, or copied from another variant."""
    columns, model = TABLES[table], number(tx, name)
    tx.execute(
        f"CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM gpt2.{table} "
        f"WHERE model = {model} LIMIT 1"
    )
    key = " AND ".join(
        f"p.{column} = k.{column}"
        for column in columns.split(", ")
        if column not in ("weight", "half", "bias")
    )
    before = editions(tx)
    assert (
        tx.execute(
            f"DELETE FROM gpt2.{table} AS p USING kept AS k WHERE p.model = {model} AND {key}"
        ).rowcount
        == 1
    )
    assert moved(tx, before) == affected(name)
    between = editions(tx)
    tx.execute(f"INSERT INTO gpt2.{table} (model, {columns}) SELECT model, {columns} FROM kept")
    assert moved(tx, before) == affected(name)
    if name.endswith("variant") and table == "matrix_page":
        assert moved(tx, between) == {name}
    # and gone again, which is not what it was the first time
    tx.execute(f"DELETE FROM gpt2.{table} AS p USING kept AS k WHERE p.model = {model} AND {key}")
    assert moved(tx, before) == moved(tx, between) == affected(name)


@pytest.mark.parametrize("table", TABLES)
def test_an_incomplete_model_computes_nothing(tx, table):
    """Hence an INSERT into a full model, which is not noticed, cannot change what it computes."""
    where = {"wpe": '"position" = 0', "matrix_page": "layer = 'wte' AND page = 1"}
    tx.execute(
        f"DELETE FROM gpt2.{table} WHERE model = %s AND {where.get(table, 'block = 1')}",
        [number(tx, "full")],
    )
    with pytest.raises(psycopg.DataError):
        tx.execute("SELECT * FROM gpt2_next_token('A', model => 'full')")


def test_a_page_moved_to_another_model(tx):
    tx.execute("SELECT gpt2_create_variant('new', 'full')")
    before = editions(tx)
    tx.execute(
        "UPDATE gpt2.matrix_page SET model = %s WHERE model = %s",
        [number(tx, "new"), number(tx, "variant")],
    )
    assert moved(tx, before) == {"new", "variant"}
    assert editions(tx)["new"][0] != before["new"][0]


@pytest.mark.parametrize("table", TABLES)
def test_truncate(tx, table):
    before = editions(tx)
    tx.execute(f"TRUNCATE gpt2.{table}")
    assert moved(tx, before) == set(before)


@pytest.mark.parametrize("table", TABLES)
def test_upsert(tx, table):
    columns = TABLES[table]
    key = [c for c in columns.split(", ") if c not in ("weight", "half", "bias")]
    before = editions(tx)
    tx.execute(
        f"""INSERT INTO gpt2.{table} AS t (model, {columns})
                   SELECT * FROM (SELECT model, {columns} FROM gpt2.{table} WHERE model = %s) AS p
                   ON CONFLICT (model, {", ".join(key)}) DO UPDATE SET {CHANGES[table]}
                   """,
        [number(tx, "variant")],
    )
    assert moved(tx, before) == {"variant"}


def test_several_models_in_one_statement(tx):
    before = editions(tx)
    tx.execute(
        'UPDATE gpt2.wpe SET weight = weight + weight WHERE "position" < 3 AND model IN (%s, %s)',
        [number(tx, "full"), number(tx, "half_variant")],
    )
    assert moved(tx, before) == {"full", "variant", "half_variant"}
    before = editions(tx)
    tx.execute(
        "WITH a AS (DELETE FROM gpt2.wpe WHERE model = %s), "
        "b AS (UPDATE gpt2.bias SET bias = bias + bias WHERE model = %s) "
        "UPDATE gpt2.wte SET weight = weight + weight WHERE model = %s AND token = 1",
        [number(tx, name) for name in ("variant", "half_variant", "half")],
    )
    assert moved(tx, before) == {"variant", "half", "half_variant"}


def test_in_a_trigger_of_somebody_else(tx):
    """Where no statement of ours is the outermost one: each edit, of tables and of views."""
    tx.execute(f"""
        CREATE TABLE job (what text);
        CREATE FUNCTION run() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE m int := (SELECT model FROM gpt2.model WHERE name = 'variant');
        BEGIN
            CASE new.what
                WHEN 'table' THEN
                    UPDATE gpt2.matrix_page AS t SET {CHANGES["matrix_page"]} WHERE model = m;
                WHEN 'view' THEN
                    UPDATE gpt2.wte SET weight = weight + weight WHERE model = m AND token < 9;
                WHEN 'delete' THEN DELETE FROM gpt2.bias WHERE model = m;
            END CASE;
            RETURN NULL;
        END $$;
        CREATE TRIGGER run AFTER INSERT ON job FOR EACH ROW EXECUTE FUNCTION run();""")
    for what in ("table", "table", "view", "view", "table", "delete"):
        before = editions(tx)
        tx.execute("INSERT INTO job VALUES (%s)", [what])
        assert moved(tx, before) == {"variant"}, what


def test_while_a_statement_edits(tx):
    """What somebody computes from half of an edit is worth nothing after it."""
    tx.execute("""
        CREATE TABLE seen (edition bigint[]);
        CREATE FUNCTION look(x vector) RETURNS vector LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO seen SELECT gpt2._edition(m) FROM gpt2.model AS m WHERE name = 'variant';
            RETURN x + x;
        END $$""")
    before = editions(tx)["variant"]
    for statement in (
        "UPDATE gpt2.wte SET weight = look(weight) WHERE token < 3",
        'UPDATE gpt2.wpe SET weight = look(weight) WHERE "position" < 3',
    ):
        tx.execute("DELETE FROM seen")
        tx.execute(f"{statement} AND model = %s", [number(tx, "variant")])
        assert one(tx, "SELECT count(*) FROM seen") > 0
        assert (
            one(tx, "SELECT bool_or(edition = %s::bigint[]) FROM seen", editions(tx)["variant"])
            is False
        )
        assert editions(tx)["variant"] != before
        before = editions(tx)["variant"]


def test_one_version_a_statement(tx):
    """However many rows: the row in gpt2.model is not written for each."""
    query = "SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relid = 'gpt2.model'::regclass"
    for statement, at_least in (
        (
            "UPDATE gpt2.linear SET weight = weight + weight, bias = bias + 1 "
            "WHERE slice = 0 AND model = %s",
            300,
        ),
        ("UPDATE gpt2.wpe SET weight = weight + weight WHERE model = %s", 100),
        (f"UPDATE gpt2.matrix_page AS t SET {CHANGES['matrix_page']} WHERE model = %s", 30),
        ("DELETE FROM gpt2.matrix_page WHERE model = %s", 30),
    ):
        before = one(tx, query)
        assert tx.execute(statement, [number(tx, "half_variant")]).rowcount >= at_least
        assert one(tx, query) - before == 2


# ---- What does not


@pytest.mark.parametrize(
    "query",
    [
        "SELECT gpt2_generate('The', 2, model => 'variant')",
        "SELECT * FROM gpt2_next_token('The', model => 'full')",
        "SELECT count(*) FROM gpt2_model_diff('full', 'variant')",
        "SELECT gpt2_prewarm('variant')",
        "SELECT gpt2_default_model('variant')",
        "SELECT count(*) FROM gpt2_models()",
        "SELECT count(*) FROM gpt2.linear",
        "ANALYZE gpt2.matrix_page",
        "UPDATE gpt2.wpe SET weight = weight",
        "UPDATE gpt2.linear SET weight = weight, bias = bias",
        "UPDATE gpt2.matrix_page SET weight = weight, half = half",
        "UPDATE gpt2.matrix_page SET weight = weight WHERE false",
        "DELETE FROM gpt2.matrix_page WHERE model = -1",
        "UPDATE gpt2.model SET source = 'x'",
        "SELECT gpt2_create_variant('new', 'variant')",
        "SELECT gpt2_average('new', 'full', 'variant')",
        "SELECT gpt2_drop_model('other_variant')",
    ],
)
def test_unmoved(tx, query):
    before = editions(tx)
    tx.execute(query)
    assert moved(tx, before) == ({"other_variant"} if "drop" in query else set())


def test_rolled_back(tx):
    """The weights are what they were, and so is the number; it is not given again."""
    before = editions(tx)
    tx.execute("SAVEPOINT a")
    edit(tx, "wpe", "full")
    lost = editions(tx)["full"]
    tx.execute("ROLLBACK TO a")
    assert editions(tx) == before
    edit(tx, "wpe", "full")
    assert editions(tx)["full"] not in (lost, before["full"])


def test_failed(tx):
    """A statement that fails half-way leaves nothing half-way."""
    before = editions(tx)
    tx.execute("SAVEPOINT a")
    with pytest.raises(errors.InvalidParameterValue):
        tx.execute(
            """UPDATE gpt2.wpe SET weight = CASE WHEN "position" < 5 THEN weight + weight END
                      WHERE model = %s""",
            [number(tx, "full")],
        )
    tx.execute("ROLLBACK TO a")
    assert editions(tx) == before
    edit(tx, "wpe", "full")
    assert moved(tx, before) == affected("full")


# ---- Models that come and go


def test_shape(tx):
    """A number; of a variant, its base's and the pages that it stores too."""
    tx.execute("SELECT gpt2_create_variant('new', 'variant')")
    full, variant, new = (editions(tx)[name] for name in ("full", "variant", "new"))
    # of mlp.c_fc, wte and lm_head
    assert len(full) == 1 and variant[1:] == [full[0], 3]
    assert new[1:] == variant[1:] and new[0] not in (full[0], variant[0])


def test_no_number_comes_back(new_database, checkpoint):
    """Neither of a model nor of an edition: by replacing, by dropping and loading, by a failure."""
    dsn = new_database(holds="extension")
    seen: list[tuple] = []
    with psycopg.connect(dsn, autocommit=True) as conn:

        def note() -> None:
            seen.append(
                conn.execute("SELECT model, edition FROM gpt2.model WHERE name = 'm'").fetchone()
            )

        load_model(dsn, checkpoint, "m")
        note()
        load_model(dsn, checkpoint, "m", "--replace")
        note()
        conn.execute("SELECT gpt2_drop_model('m')")
        load_model(dsn, checkpoint, "m")
        note()
        with conn.transaction(force_rollback=True):
            conn.execute("SELECT gpt2_drop_model('m')")
        note()
        assert seen.pop() == seen[-1]
        with conn.transaction(force_rollback=True):
            conn.execute("SELECT gpt2_average('x', 'm', 'm')")
            conn.execute("SELECT gpt2_drop_model('m')")
            conn.execute("UPDATE gpt2.model SET name = 'm' WHERE name = 'x'")
            note()
        conn.execute("SELECT gpt2_average('x', 'm', 'm')")
        conn.execute("SELECT gpt2_drop_model('m')")
        conn.execute("UPDATE gpt2.model SET name = 'm' WHERE name = 'x'")
        note()
    for numbers in zip(*seen, strict=True):
        assert len(set(numbers)) == len(seen) == 5


def test_the_setting_of_a_drop_hides_no_edit(tx):
    """A model that was dropped and is back, by a savepoint, is edited in the same transaction."""
    tx.execute("SAVEPOINT a")
    tx.execute("SELECT gpt2_drop_model('variant')")
    tx.execute("ROLLBACK TO a")
    before = editions(tx)
    tx.execute("DELETE FROM gpt2.wpe WHERE model = %s", [number(tx, "variant")])
    assert moved(tx, before) == {"variant"}
    tx.execute("SELECT gpt2_drop_model('variant')")
    before = editions(tx)
    tx.execute('DELETE FROM gpt2.wpe WHERE model = %s AND "position" = 3', [number(tx, "full")])
    assert moved(tx, before) == {"full"}


@pytest.mark.parametrize(
    "options",
    [[], ["--jobs=4"], ["plain"], ["--inserts"]],
    ids=["one job", "four jobs", "psql", "INSERT"],
)
def test_dump_and_restore(uri, new_database, tmp_path, options):
    """A model keeps its edition, and new ones are new."""
    target = new_database()
    if options in ([], ["--jobs=4"]):
        subprocess.run(["pg_dump", "--format=custom", f"--file={tmp_path}/dump", uri], check=True)
        subprocess.run(
            ["pg_restore", "--exit-on-error", f"--dbname={target}", *options, f"{tmp_path}/dump"],
            check=True,
        )
    else:
        subprocess.run(
            ["pg_dump", f"--file={tmp_path}/dump", *options[: options != ["plain"]], uri],
            check=True,
        )
        subprocess.run(
            [
                "psql",
                "-X",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-o",
                "/dev/null",
                "-f",
                f"{tmp_path}/dump",
                target,
            ],
            check=True,
        )
    with psycopg.connect(uri) as source, psycopg.connect(target) as other:
        before = editions(source)
        last = one(source, "SELECT last_value FROM gpt2.model_edition_seq")
        assert editions(other) == before
        assert edit(other, "wpe", "variant") == 1
        assert moved(other, before) == {"variant"}
        assert editions(other)["variant"][0] > last
        other.rollback()


# ---- Sessions beside one another


def test_two_sessions(new_database, checkpoint):
    """Until an edit is committed others see the old weights and the old number; two edits at the
    same time are two numbers."""
    dsn = new_database(holds="extension")
    with psycopg.connect(dsn, autocommit=True) as admin:
        load_model(dsn, checkpoint, "full")
        with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
            before = editions(admin)
            edit(first, "wpe", "full")
            assert editions(admin) == before != editions(first)
            changed: list[int] = []
            thread = threading.Thread(
                target=lambda: changed.append(edit(second, "wpe", "full", '"position" = 9'))
            )
            thread.start()
            while not one(admin, """SELECT count(*) FROM pg_locks WHERE NOT granted"""):
                assert thread.is_alive()
            mine = editions(first)
            first.commit()
            thread.join()
            second.commit()
            assert changed == [1]
            assert len({str(e) for e in (before, mine, editions(admin))}) == 3
            assert moved(admin, before) == {"full"}


def test_a_role_with_the_tables_alone(tx):
    """The sequence needs no grant of its own."""
    tx.execute("CREATE ROLE gpt2_test_editor")
    tx.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gpt2 TO gpt2_test_editor"
    )
    tx.execute("SET ROLE gpt2_test_editor")
    before = editions(tx)
    edit(tx, "linear", "variant")
    tx.execute("DELETE FROM gpt2.wpe WHERE model = %s", [number(tx, "half_variant")])
    assert moved(tx, before) == {"variant", "half_variant"}
    tx.execute("SELECT gpt2_create_variant('new', 'full')")
    assert "new" in editions(tx)
