"""Variants store what differs from their base and read as a full copy; two models side by side."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from calls import count_calls
from conftest import DEMO, cases, load_model, number, one, reads
from oracle.checkpoints import SHAPES, write_checkpoint
from psycopg import errors

DTYPES = ["float32", "float16"]
MODELS = [
    f"{shape}_{dtype}" for shape in ("odd_widths", "untied", "narrow_mlp") for dtype in DTYPES
]
#: each of what the others are more of, once
SOME = ["untied_float16", "narrow_mlp_float32"]
#: tables of weights
TABLES = ["matrix_page", "bias", "wpe", "layer_norm"]
PROMPT = "The cat"


@pytest.fixture(scope="module")
def uri(new_database, tmp_path_factory) -> str:
    """A database with each of MODELS, a copy of it as X_copy, other weights as X_other, and the
    tests' model as 'demo' and, in float16, as 'demo_half'."""
    dsn = new_database(holds="extension")
    for name in MODELS:
        shape, dtype = name.rsplit("_", 1)
        directory = write_checkpoint(tmp_path_factory.mktemp(shape), SHAPES[shape])
        for suffix in ("", "_copy"):
            load_model(dsn, directory, name + suffix, "--dtype", dtype)
        load_model(
            dsn,
            write_checkpoint(directory, SHAPES[shape], seed=1),
            f"{name}_other",
            "--dtype",
            dtype,
        )
    load_model(dsn, DEMO, "demo")
    load_model(dsn, DEMO, "demo_half", "--dtype", "float16")
    return dsn


@pytest.fixture
def tx(uri: str) -> Iterator[psycopg.Connection]:
    """A connection in a transaction that leaves nothing behind."""
    with psycopg.connect(uri) as connection:
        yield connection
        connection.rollback()


def create(conn: psycopg.Connection, name: str, base: str) -> None:
    assert one(conn, "SELECT gpt2_create_variant(%s, %s)", name, base) == name


def stored(conn: psycopg.Connection, name: str) -> int:
    """Pages of matrices that a model stores."""
    return one(conn, "SELECT count(*) FROM gpt2.matrix_page WHERE model = %s", number(conn, name))


def n_bytes(conn: psycopg.Connection, name: str) -> int:
    """Bytes of the rows that a model stores."""
    return sum(
        one(
            conn,
            f"SELECT coalesce(sum(pg_column_size(t)), 0) FROM gpt2.{table} AS t WHERE model = %s",
            number(conn, name),
        )
        for table in TABLES
    )


def results(conn: psycopg.Connection, name: str) -> list:
    """What a model computes: by each function that reads weights, past a chunk's end too."""
    tokens = one(conn, "SELECT gpt2_tokenize(%s, %s)", PROMPT, name)
    return [
        one(conn, "SELECT gpt2_generate(%s, 20, model => %s)", PROMPT, name),
        conn.execute(
            "SELECT * FROM gpt2_next_token(%s, NULL, model => %s)", [PROMPT, name]
        ).fetchall(),
        one(conn, "SELECT gpt2_forward(%s::int[], %s)::text", tokens, name),
        one(
            conn,
            "SELECT gpt2_block(gpt2_embeddings(%s::int[], %s), 1, %s)::text",
            tokens,
            name,
            name,
        ),
    ]


VIEWS = {
    "linear": "block, layer, slice, unit, bias, weight",
    "wte": "token, weight",
    "lm_head": "token, weight",
    "bias": "block, layer, bias",
    "wpe": '"position", weight',
    "layer_norm": "block, layer, weight, bias",
}


def weights(conn: psycopg.Connection, name: str) -> dict[str, list]:
    """What the views show of a model: how many rows, and a hash of them all."""
    return {
        view: conn.execute(
            f"""SELECT count(*), sum(hashtextextended(ROW({columns})::text, 0))
            FROM gpt2.{view} WHERE model = %s""",
            [number(conn, name)],
        ).fetchone()
        for view, columns in VIEWS.items()
    }


# ---- Reading


@pytest.mark.parametrize("name", [*MODELS, "demo", "demo_half"])
def test_unedited(tx, name):
    """A new variant stores no page, and is its base in every number."""
    create(tx, "variant", name)
    assert stored(tx, "variant") == 0
    assert results(tx, "variant") == results(tx, name)
    assert weights(tx, "variant") == weights(tx, name)
    assert tx.execute("SELECT * FROM gpt2_model_diff(%s, 'variant')", [name]).fetchall() == []


#: what is edited -> statement, pages stored after it
EDITS = {
    "linear weight": (
        """UPDATE gpt2.linear SET weight = weight + weight
           WHERE model = %s AND block = 1 AND layer = 'mlp.c_fc' AND unit = 7""",
        1,
    ),
    "values": (
        """UPDATE gpt2.linear SET weight = weight + weight WHERE model = %s AND block = 0
           AND layer = 'attn.c_attn' AND unit IN
               (SELECT max(unit) FROM gpt2.linear WHERE layer = 'attn.c_attn' AND model = %s)""",
        1,
    ),
    "last slice": (
        """UPDATE gpt2.linear SET weight = weight + weight
           WHERE model = %s AND block = 1 AND layer = 'mlp.c_proj' AND unit = 0
             AND slice = (SELECT max(slice) FROM gpt2.linear WHERE model = %s)""",
        1,
    ),
    "bias of a neuron": (
        """UPDATE gpt2.linear SET bias = bias + 1
           WHERE model = %s AND block = 1 AND layer = 'attn.c_proj' AND unit = 3 AND slice = 0""",
        0,
    ),
    "neuron": (
        """UPDATE gpt2.linear SET bias = bias + 1, weight = weight + weight
           WHERE model = %s AND block = 0 AND layer = 'attn.c_proj' AND unit = 2""",
        1,
    ),
    "bias": (
        """UPDATE gpt2.bias SET bias = bias + bias
                WHERE model = %s AND block = 0 AND layer = 'mlp.c_fc'""",
        0,
    ),
    "wte": (
        """UPDATE gpt2.wte SET weight = weight + weight
               WHERE model = %s AND token = (SELECT (gpt2_tokenize('The', name))[1]
                                             FROM gpt2.model WHERE model = %s)""",
        1,
    ),
    "lm_head": (
        "UPDATE gpt2.lm_head SET weight = weight + weight WHERE model = %s AND token = 40",
        1,
    ),
    "wpe": ('UPDATE gpt2.wpe SET weight = weight + weight WHERE model = %s AND "position" = 1', 0),
    "ln_1": (
        """UPDATE gpt2.layer_norm SET weight = weight + weight
                WHERE model = %s AND block = 1 AND layer = 'ln_1'""",
        0,
    ),
    "ln_2": (
        """UPDATE gpt2.layer_norm SET bias = bias + weight
                WHERE model = %s AND block = 0 AND layer = 'ln_2'""",
        0,
    ),
    "ln_f": (
        """UPDATE gpt2.layer_norm SET weight = weight + bias
                WHERE model = %s AND layer = 'ln_f'""",
        0,
    ),
}


def edit(conn: psycopg.Connection, statement: str, name: str) -> None:
    changed = conn.execute(statement, [number(conn, name)] * statement.count("%s"))
    assert changed.rowcount == 1


@pytest.mark.parametrize("what", EDITS)
@pytest.mark.parametrize("name", cases(MODELS, SOME))
def test_edited(tx, name, what):
    """One row of each kind: the variant is what a full copy is with the same edit."""
    if what == "lm_head" and not name.startswith("untied"):
        pytest.skip("a tied model has no lm_head")
    statement, pages = EDITS[what]
    before = results(tx, name)
    create(tx, "variant", name)
    for model in ("variant", f"{name}_copy"):
        edit(tx, statement, model)
    assert stored(tx, "variant") == pages
    edited = results(tx, "variant")
    assert edited == results(tx, f"{name}_copy")
    assert edited != before and results(tx, name) == before
    if what in ("linear weight", "wte", "ln_f"):
        # once more: the row is there already
        for model in ("variant", f"{name}_copy"):
            edit(tx, statement, model)
        assert stored(tx, "variant") == pages
        assert results(tx, "variant") == results(tx, f"{name}_copy") != edited


@pytest.mark.parametrize("name", MODELS)
def test_everything_edited(tx, name):
    create(tx, "variant", name)
    for model in ("variant", f"{name}_copy"):
        for table in ("linear", "wte", "lm_head", "wpe", "layer_norm"):
            tx.execute(
                f"UPDATE gpt2.{table} SET weight = weight + weight WHERE model = %s",
                [number(tx, model)],
            )
        tx.execute("UPDATE gpt2.bias SET bias = bias + bias WHERE model = %s", [number(tx, model)])
    assert stored(tx, "variant") == stored(tx, name)
    assert results(tx, "variant") == results(tx, f"{name}_copy")
    assert weights(tx, "variant") == weights(tx, f"{name}_copy") != weights(tx, name)


def test_a_weight_that_float16_has_not(tx):
    """A float32 model's may be any."""
    name = "untied_float32"
    tx.execute(
        "UPDATE gpt2.wte SET weight = array_fill(70000, ARRAY[64])::vector "
        "WHERE model = %s AND token = 5",
        [number(tx, name)],
    )
    assert tx.execute(
        "SELECT vector_norm(weight) FROM gpt2.wte WHERE model = %s AND token = 5",
        [number(tx, name)],
    ).fetchone() == (70000 * 8,)


@pytest.mark.parametrize("name", ["odd_widths_float32", "untied_float16"])
def test_an_update_to_the_same_stores_nothing(tx, name):
    create(tx, "variant", name)
    for view in ("linear", "wte", "lm_head", "wpe", "layer_norm"):
        tx.execute(
            f"UPDATE gpt2.{view} SET weight = weight WHERE model = %s", [number(tx, "variant")]
        )
    tx.execute("UPDATE gpt2.bias SET bias = bias WHERE model = %s", [number(tx, "variant")])
    assert stored(tx, "variant") == 0


@pytest.mark.parametrize("name", ["demo", "demo_half"])
def test_calls(tx, name):
    """Nothing is computed twice: every function is called as often as for the base."""
    query = "SELECT gpt2_generate('The', 20, model => '{}')"
    base = count_calls(tx, query.format(name))
    create(tx, "variant", name)
    assert count_calls(tx, query.format("variant")) == base
    for what in ("linear weight", "last slice", "wte"):
        edit(tx, EDITS[what][0], "variant")
    assert count_calls(tx, query.format("variant")) == base


def test_reads(tx):
    """An unedited layer is read as the base's; an edited one once, with the pages that replace."""
    query = "SELECT gpt2_forward('{1,2,3}', %s)"
    base = reads(tx, query, "demo")
    create(tx, "variant", "demo")
    assert reads(tx, query, "variant") == base
    edit(tx, EDITS["linear weight"][0], "variant")
    # for each position: its own pages' numbers, the base's last one, and the page itself
    assert base < reads(tx, query, "variant") <= base + 3 * 3


def test_a_matrix_of_its_own_is_read_alone(tx):
    """Where a variant has every page of a matrix, its base's are not read."""
    query = "SELECT gpt2_forward('{1,2,3}', %s)"
    base = reads(tx, query, "demo")
    create(tx, "variant", "demo")
    variant = number(tx, "variant")
    tx.execute(
        """UPDATE gpt2.linear SET weight = weight + weight
           WHERE model = %s AND block = 0 AND layer = 'attn.c_attn'""",
        [variant],
    )
    own = one(tx, "SELECT count(*) FROM gpt2.matrix_page WHERE model = %s", variant)
    assert own > 3
    # for each position and slice: the numbers of its pages, and the base's last one
    slices = 3
    assert reads(tx, query, "variant") <= base + 3 * (own + slices)


def test_choice_reads_one_page(tx):
    """The look whether there are weights: of the chosen model alone, however many there are."""
    for k in range(20):
        create(tx, f"variant_{k}", "demo")
    assert reads(tx, "SELECT * FROM gpt2._chosen_model('demo')") == 1
    assert reads(tx, "SELECT * FROM gpt2._chosen_model('variant_19')") == 1


def test_diff_reads_what_is_stored(tx):
    """Of two with the same base, only the pages that either stores."""
    create(tx, "first", "demo")
    create(tx, "second", "demo")
    query = "SELECT count(*) FROM gpt2_model_diff(%s, %s)"
    # the look whether there are weights at all
    looks = 2 * reads(tx, "SELECT * FROM gpt2._chosen_model('demo')")
    for pair in (("demo", "first"), ("first", "second")):
        assert reads(tx, query, *pair) == looks
    edit(tx, EDITS["linear weight"][0], "first")
    # its key, and the page of each
    for pair in (("demo", "first"), ("first", "demo"), ("first", "second")):
        assert looks < reads(tx, query, *pair) <= looks + 6


# ---- Bases


def test_listed(tx):
    create(tx, "variant", "demo_half")
    query = "SELECT base, size, source, n_parameters, dtype FROM gpt2_models() WHERE name = %s"
    assert tx.execute(query, ["variant"]).fetchone() == (
        "demo_half",
        one(tx, "SELECT pg_size_pretty(%s::bigint)", n_bytes(tx, "variant")),
        'variant of "demo_half"',
        2271232,
        "float16",
    )
    assert tx.execute(query, ["demo_half"]).fetchone()[:2] == (None, "4436 kB")
    edit(tx, EDITS["linear weight"][0], "variant")
    size = one(tx, "SELECT pg_size_pretty(%s::bigint)", n_bytes(tx, "variant"))
    assert tx.execute(query, ["variant"]).fetchone()[1] == size


def test_default_model(tx):
    """The variant of NULL is one of the default model, and can become that itself."""
    tx.execute("SELECT gpt2_default_model('untied_float32')")
    assert one(tx, "SELECT gpt2_create_variant('variant')") == "variant"
    assert one(tx, "SELECT base FROM gpt2_models() WHERE name = 'variant'") == "untied_float32"
    edit(tx, EDITS["ln_f"][0], "variant")
    tx.execute("SELECT gpt2_default_model('variant')")
    assert one(tx, "SELECT gpt2_generate('The', 8)") == one(
        tx, "SELECT gpt2_generate('The', 8, model => 'variant')"
    )


def test_variant_of_a_variant(tx):
    """It begins with what the other has, and goes its own way."""
    name = "untied_float32"
    create(tx, "first", name)
    for what in EDITS:
        edit(tx, EDITS[what][0], "first")
    create(tx, "second", "first")
    assert one(tx, "SELECT base FROM gpt2_models() WHERE name = 'second'") == name
    assert one(tx, "SELECT source FROM gpt2_models() WHERE name = 'second'") == 'variant of "first"'
    assert stored(tx, "second") == stored(tx, "first") != 0
    expected = results(tx, "first")
    assert results(tx, "second") == expected
    edit(tx, EDITS["linear weight"][0], "first")
    edit(tx, EDITS["wte"][0], "first")
    assert results(tx, "first") != expected == results(tx, "second")
    token = one(tx, "SELECT (gpt2_tokenize('The', %s))[1]", name)
    edit(tx, EDITS["wpe"][0], "second")
    assert [row[:3] for row in tx.execute("SELECT * FROM gpt2_model_diff('first', 'second')")] == [
        ("wte", None, token),
        ("wpe", None, 1),
        ("mlp.c_fc", 1, 7),
    ]
    second = results(tx, "second")
    tx.execute("SELECT gpt2_drop_model('first')")
    assert results(tx, "second") == second


def test_edits_of_the_base_show_through(tx):
    """Where the variant has no page of its own; what is no matrix is its own."""
    name = "odd_widths_float32"
    create(tx, "variant", name)
    edit(tx, EDITS["ln_1"][0], "variant")
    edit(tx, EDITS["linear weight"][0], "variant")
    for what in ("ln_1", "wte", "linear weight", "values"):
        edit(tx, EDITS[what][0], name)
    diff = tx.execute("SELECT layer, block, unit FROM gpt2_model_diff('variant', %s)", [name])
    # the variant has the doubled weights of the base now, and the neighbours in their page
    assert diff.fetchall() == []
    for what in ("linear weight", "ln_2", "ln_f", "bias of a neuron"):
        edit(tx, EDITS[what][0], name)
    diff = tx.execute("SELECT layer, block, unit FROM gpt2_model_diff('variant', %s)", [name])
    assert diff.fetchall() == [
        ("ln_2", 0, None),
        ("attn.c_proj", 1, 3),
        ("mlp.c_fc", 1, 7),
        ("ln_f", 4, None),
    ]


def test_a_page_given_back(tx):
    """A variant without its page is its base again."""
    name = "untied_float16"
    expected = results(tx, name)
    create(tx, "variant", name)
    for what in ("linear weight", "values", "last slice", "wte", "lm_head"):
        edit(tx, EDITS[what][0], "variant")
    assert results(tx, "variant") != expected
    tx.execute("DELETE FROM gpt2.matrix_page WHERE model = %s", [number(tx, "variant")])
    assert results(tx, "variant") == expected


def test_drop(tx):
    name = "untied_float16"
    expected = results(tx, name)
    create(tx, "variant", name)
    for what in EDITS:
        edit(tx, EDITS[what][0], "variant")
    model = number(tx, "variant")
    for call in ("gpt2_drop_model(%s)", "gpt2._add_model(%s, '{}', true)"):
        with pytest.raises(errors.DependentObjectsStillExist) as error, tx.transaction():
            tx.execute(f"SELECT {call}", [name])
        assert error.value.diag.message_primary == f'model "{name}" has variants'
    # the HINT, as it is
    tx.execute(error.value.diag.message_hint.removeprefix("Drop them first: "))
    for table in TABLES:
        assert one(tx, f"SELECT count(*) FROM gpt2.{table} WHERE model = %s", model) == 0
    assert results(tx, name) == expected
    tx.execute("SELECT gpt2_drop_model(%s)", [name])


def test_replaced_by_a_load(uri):
    """A variant may be; its base may not."""
    with psycopg.connect(uri, autocommit=True) as conn:
        create(conn, "variant", "demo")
        try:
            with pytest.raises(AssertionError, match='model "demo" has variants'):
                load_model(uri, DEMO, "demo", "--replace")
            load_model(uri, DEMO, "variant", "--replace")
            assert one(conn, "SELECT base FROM gpt2_models() WHERE name = 'variant'") is None
        finally:
            conn.execute("SELECT gpt2_drop_model('variant')")


def test_prewarm(tx):
    """Reads what the base has and what the variant has."""
    base = one(tx, "SELECT gpt2_prewarm('demo')")
    create(tx, "variant", "demo")
    assert one(tx, "SELECT gpt2_prewarm('variant')") == base + n_bytes(tx, "variant")
    edit(tx, EDITS["linear weight"][0], "variant")
    assert one(tx, "SELECT gpt2_prewarm('variant')") == base + n_bytes(tx, "variant")


@pytest.mark.parametrize(
    "change, code, message",
    [
        ('wpe SET "position" = 5', "0A000", "cannot move a row of gpt2.wpe"),
        ("wpe SET weight = '[1,2]'", "22023", "the weight does not fit gpt2.wpe"),
        ("wpe SET weight = NULL", "22023", "the weight does not fit gpt2.wpe"),
        ("layer_norm SET block = 9", "0A000", "cannot move a row of gpt2.layer_norm"),
        ("layer_norm SET weight = '[1,2]'", "22023", "the weight does not fit gpt2.layer_norm"),
        ("layer_norm SET bias = NULL", "22023", "the bias does not fit gpt2.layer_norm"),
        ("bias SET layer = 'mlp.c_fc'", "0A000", "cannot move a row of gpt2.bias"),
        ("bias SET bias = '[1]'", "22023", "the bias does not fit gpt2.bias"),
        ("lm_head SET weight = '[1,2]'", "22023", "the weight does not fit gpt2.lm_head"),
    ],
)
def test_bad_edit(tx, change, code, message):
    create(tx, "variant", "untied_float32")
    with pytest.raises(psycopg.Error) as error:
        tx.execute(f"UPDATE gpt2.{change} WHERE model = %s", [number(tx, "variant")])
    diag = error.value.diag
    assert (diag.sqlstate, diag.message_primary) == (code, message)
    assert diag.message_detail and diag.message_hint


# ---- Several sessions


def test_others_see_it_at_commit(uri):
    name = "untied_float32"
    with psycopg.connect(uri) as writer, psycopg.connect(uri, autocommit=True) as reader:
        before = results(reader, name)
        create(writer, "variant", name)
        assert one(reader, "SELECT count(*) FROM gpt2_models() WHERE base IS NOT NULL") == 0
        with pytest.raises(errors.InvalidParameterValue, match='"variant" does not exist'):
            results(reader, "variant")
        writer.commit()
        try:
            assert results(reader, "variant") == before
            for what in ("linear weight", "wte", "wpe", "ln_1", "bias"):
                edit(writer, EDITS[what][0], "variant")
            edited = results(writer, "variant")
            assert edited != before
            assert results(reader, "variant") == before and stored(reader, "variant") == 0
            writer.rollback()
            assert results(reader, "variant") == before and stored(writer, "variant") == 0
            writer.rollback()
            for what in ("linear weight", "wte", "wpe", "ln_1", "bias"):
                edit(writer, EDITS[what][0], "variant")
            writer.commit()
            assert results(reader, "variant") == edited
            assert results(reader, name) == before
        finally:
            writer.rollback()
            reader.execute("SELECT gpt2_drop_model('variant')")


def wait_for_lock(conn: psycopg.Connection, pid: int) -> None:
    deadline = time.monotonic() + 10
    while not one(conn, "SELECT cardinality(pg_blocking_pids(%s)) > 0", pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_drop_waits_for_a_variant(uri):
    """A base that is dropped while a variant of it is created stays."""
    with (
        psycopg.connect(uri) as writer,
        psycopg.connect(uri, autocommit=True) as dropper,
        psycopg.connect(uri, autocommit=True) as watcher,
    ):
        create(writer, "variant", "demo")
        raised = []

        def drop():
            try:
                dropper.execute("SELECT gpt2_drop_model('demo')")
            except psycopg.Error as error:
                raised.append(error)

        thread = threading.Thread(target=drop)
        thread.start()
        wait_for_lock(watcher, dropper.info.backend_pid)
        writer.commit()
        thread.join()
        dropper.execute("SELECT gpt2_drop_model('variant')")
        assert [type(error) for error in raised] == [errors.DependentObjectsStillExist]


def test_a_variant_waits_for_a_drop(uri):
    """There is no variant of a base that was being dropped meanwhile."""
    with (
        psycopg.connect(uri, autocommit=True) as watcher,
        psycopg.connect(uri) as dropper,
        psycopg.connect(uri, autocommit=True) as writer,
    ):
        watcher.execute("SELECT gpt2_average('base', 'untied_float32', 'untied_float32')")
        dropper.execute("SELECT gpt2_drop_model('base')")
        raised = []

        def create_it():
            try:
                create(writer, "variant", "base")
            except psycopg.Error as error:
                raised.append(error.diag.message_primary)

        thread = threading.Thread(target=create_it)
        thread.start()
        wait_for_lock(watcher, writer.info.backend_pid)
        dropper.commit()
        thread.join()
        assert raised == ['model "base" does not exist']


def test_two_edit_one_page(uri):
    """Both copy the same page, and neither loses the other's neuron."""
    with (
        psycopg.connect(uri) as first,
        psycopg.connect(uri) as second,
        psycopg.connect(uri, autocommit=True) as watcher,
    ):
        create(watcher, "variant", "demo_half")
        try:
            statement = EDITS["linear weight"][0]
            edit(first, statement, "variant")
            thread = threading.Thread(
                target=edit, args=(second, statement.replace("unit = 7", "unit = 8"), "variant")
            )
            thread.start()
            wait_for_lock(watcher, second.info.backend_pid)
            first.commit()
            thread.join()
            second.commit()
            assert stored(watcher, "variant") == 1
            assert [
                row[:3]
                for row in watcher.execute("SELECT * FROM gpt2_model_diff('demo_half', 'variant')")
            ] == [("mlp.c_fc", 1, 7), ("mlp.c_fc", 1, 8)]
        finally:
            first.rollback()
            watcher.execute("SELECT gpt2_drop_model('variant')")


# ---- Differences


def random_edits(
    conn: psycopg.Connection, name: str, rng: random.Random, models: list[str]
) -> set[tuple]:
    """Sets rows drawn at random to the same new values in all of the models; gives the keys."""
    row = dict(
        zip(
            ("n_layer", "n_embd", "n_inner", "n_vocab", "n_ctx", "tied"),
            conn.execute(
                """SELECT n_layer, n_embd, n_inner, n_vocab, n_ctx, tie_word_embeddings
           FROM gpt2.model WHERE name = %s""",
                [name],
            ).fetchone(),
            strict=False,
        )
    )
    width = row["n_embd"]
    n_out = {
        "attn.c_attn": 3 * width,
        "attn.c_proj": width,
        "mlp.c_fc": row["n_inner"],
        "mlp.c_proj": width,
    }
    edited = set()
    for _ in range(12):
        kind = rng.choice(
            ["linear", "bias", "wte", "wpe", "layer_norm"] + ([] if row["tied"] else ["lm_head"])
        )
        block, layer = rng.randrange(row["n_layer"]), rng.choice(list(n_out))
        unit, step = rng.randrange(n_out[layer]), rng.randrange(1, 4)
        token, position = rng.randrange(row["n_vocab"]), rng.randrange(row["n_ctx"])
        norm = rng.choice([(block, "ln_1"), (block, "ln_2"), (row["n_layer"], "ln_f")])
        # a step of one element, or of all
        delta = [0.0] * width
        for i in range(width) if rng.random() < 0.5 else [rng.randrange(width)]:
            delta[i] = step / 4
        if kind == "linear":
            n_slice = (row["n_inner"] - 1) // width + 1 if layer == "mlp.c_proj" else 1
            statement = """UPDATE gpt2.linear SET weight = weight + subvector(%s::vector, 1,
                               vector_dims(weight))
                           WHERE block = %s AND layer = %s AND unit = %s AND slice = %s"""
            delta[0] = step  # the last slice may be short
            arguments = [str(delta), block, layer, unit, rng.randrange(n_slice)]
            key = (layer, block, unit)
        elif kind == "bias":
            statement = """UPDATE gpt2.linear SET bias = bias + %s
                           WHERE block = %s AND layer = %s AND unit = %s AND slice = 0"""
            arguments, key = [step, block, layer, unit], (layer, block, unit)
        elif kind in ("wte", "lm_head"):
            statement = f"UPDATE gpt2.{kind} SET weight = weight + %s::vector WHERE token = %s"
            arguments, key = [str(delta), token], (kind, None, token)
        elif kind == "wpe":
            statement = """UPDATE gpt2.wpe SET weight = weight + %s::vector
                           WHERE "position" = %s"""
            arguments, key = [str(delta), position], ("wpe", None, position)
        else:
            column = rng.choice(["weight", "bias"])
            statement = f"""UPDATE gpt2.layer_norm SET {column} = {column} + %s::vector
                            WHERE block = %s AND layer = %s"""
            arguments, key = [str(delta), *norm], (norm[1], norm[0], None)
        for model in models:
            changed = conn.execute(f"{statement} AND model = %s", [*arguments, number(conn, model)])
            assert changed.rowcount == 1
        edited.add(key)
    return edited


ORDER = [
    "wte",
    "wpe",
    "ln_1",
    "attn.c_attn",
    "attn.c_proj",
    "ln_2",
    "mlp.c_fc",
    "mlp.c_proj",
    "ln_f",
    "lm_head",
]


def in_order(keys: set[tuple]) -> list[tuple]:
    return sorted(
        keys,
        key=lambda key: (
            key[0] == "lm_head",
            -1 if key[1] is None else key[1],
            ORDER.index(key[0]),
            key[2] or 0,
        ),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MODELS)
def test_diff_lists_the_edits(tx, name, seed):
    """Exactly the rows that were edited: in a variant, and in a copy that shares no base."""

    def diff(a, b):
        return tx.execute("SELECT * FROM gpt2_model_diff(%s, %s)", [a, b]).fetchall()

    rng = random.Random(seed)
    create(tx, "variant", name)
    edited = random_edits(tx, name, rng, ["variant", f"{name}_copy"])
    rows = diff(name, "variant")
    assert [row[:3] for row in rows] == in_order(edited)
    assert all(row[3] > 0 and row[4] > 0 for row in rows)
    assert [row[:4] for row in diff("variant", name)] == [row[:4] for row in rows]
    assert diff(name, f"{name}_copy") == rows
    assert diff("variant", f"{name}_copy") == []
    create(tx, "second", name)
    other = random_edits(tx, name, rng, ["second"])
    both = {row[:3] for row in diff("variant", "second")}
    # a row that both edited may be the same in both
    assert edited ^ other <= both <= edited | other


def test_distance(tx):
    """Of a neuron: over its bias and all of its slices."""
    name = "odd_widths_float32"
    create(tx, "variant", name)
    model = number(tx, "variant")

    def neuron(name, layer, unit):
        return np.concatenate(
            [
                np.array([bias, *weight])
                for bias, weight in tx.execute(
                    """SELECT bias, weight::real[] FROM gpt2.linear
               WHERE model = %s AND block = 2 AND layer = %s AND unit = %s ORDER BY slice""",
                    [number(tx, name), layer, unit],
                ).fetchall()
            ]
        )

    tx.execute(
        """UPDATE gpt2.linear SET weight = weight + weight WHERE model = %s AND block = 2
                  AND layer = 'mlp.c_proj' AND unit = 20 AND slice IN (1, 3)""",
        [model],
    )
    tx.execute(
        """UPDATE gpt2.linear SET bias = bias - 2 WHERE model = %s AND block = 2
                  AND layer = 'mlp.c_proj' AND unit = 20 AND slice = 0""",
        [model],
    )
    tx.execute(
        "UPDATE gpt2.wte SET weight = weight - weight WHERE model = %s AND token = 3", [model]
    )
    tx.execute(
        """UPDATE gpt2.layer_norm SET weight = weight + weight, bias = bias - bias
                  WHERE model = %s AND block = 0 AND layer = 'ln_1'""",
        [model],
    )
    rows = tx.execute("SELECT * FROM gpt2_model_diff(%s, 'variant')", [name]).fetchall()
    assert [row[:3] for row in rows] == [("wte", None, 3), ("ln_1", 0, None), ("mlp.c_proj", 2, 20)]
    assert [row[4] for row in rows[:2]] == pytest.approx([1, 1])
    old, new = (neuron(model, "mlp.c_proj", 20) for model in (name, "variant"))
    assert rows[2][3] == pytest.approx(np.linalg.norm(new - old), rel=1e-6)
    assert rows[2][4] == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-6)
    back = tx.execute("SELECT * FROM gpt2_model_diff('variant', %s)", [name]).fetchall()
    # no norm of the variant's row to be relative to
    assert back[0][3] == rows[0][3] and back[0][4] is None


def test_diff_of_a_model_with_itself(tx):
    query = "SELECT count(*) FROM gpt2_model_diff('odd_widths_float32', %s)"
    assert one(tx, query, "odd_widths_float32") == one(tx, query, "odd_widths_float32_copy") == 0


# ---- Averages


def matrices(conn: psycopg.Connection, name: str) -> dict[tuple, np.ndarray]:
    """Every weight of a model, by the key of its row."""
    cursor = conn.cursor(binary=True)
    cursor.execute(
        """
        SELECT 'linear', block::text, layer::text, slice, unit, weight::real[], bias
        FROM gpt2.linear WHERE model = %(model)s
        UNION ALL SELECT 'wte', '', '', 0, token, weight::real[], 0 FROM gpt2.wte
            WHERE model = %(model)s
        UNION ALL SELECT 'lm_head', '', '', 0, token, weight::real[], 0 FROM gpt2.lm_head
            WHERE model = %(model)s
        UNION ALL SELECT 'wpe', '', '', 0, "position", weight::real[], 0 FROM gpt2.wpe
            WHERE model = %(model)s
        UNION ALL SELECT 'bias', block::text, layer::text, 0, 0, bias::real[], 0 FROM gpt2.bias
            WHERE model = %(model)s
        UNION ALL SELECT 'layer_norm', block::text, layer::text, n::int, 0, w::real[], 0
            FROM gpt2.layer_norm, unnest(ARRAY[weight, bias]) WITH ORDINALITY AS u (w, n)
            WHERE model = %(model)s""",
        {"model": number(conn, name)},
    )
    return {tuple(row[:5]): np.array([*row[5], row[6]], dtype=np.float32) for row in cursor}


@pytest.mark.parametrize("weight", [0.5, 0.3, 1e-30, 0, 1])
@pytest.mark.parametrize("name", cases(MODELS, SOME))
def test_average(tx, name, weight):
    assert (
        one(tx, "SELECT gpt2_average('mean', %s, %s, %s)", name, f"{name}_other", weight) == "mean"
    )
    a, b, mean = (matrices(tx, model) for model in (name, f"{name}_other", "mean"))
    assert a.keys() == b.keys() == mean.keys()
    for key, value in mean.items():
        expected = (
            (1 - weight) * a[key].astype(np.float64) + weight * b[key].astype(np.float64)
        ).astype(np.float32)
        if name.endswith("float16") and key[0] in ("linear", "wte", "lm_head"):
            expected[:-1] = expected[:-1].astype(np.float16)
        assert (value == expected).all(), key
    if weight in (0, 1e-30, 1):
        same = f"{name}_other" if weight == 1 else name
        assert results(tx, "mean") == results(tx, same)
        assert one(tx, "SELECT count(*) FROM gpt2_model_diff('mean', %s)", same) == 0
    else:
        assert results(tx, "mean") not in (results(tx, name), results(tx, f"{name}_other"))


def test_average_of_variants(tx):
    """Half of an edit; a full model, which is left when base and variants go."""
    name = "untied_float32"
    create(tx, "variant", name)
    for what in EDITS:
        edit(tx, EDITS[what][0], "variant")
    tx.execute("SELECT gpt2_average('mean', %s, 'variant')", [name])
    tx.execute("SELECT gpt2_average('full', 'variant', 'variant', 0)")
    assert stored(tx, "mean") == stored(tx, "full") == stored(tx, name)
    assert one(tx, "SELECT count(*) FROM gpt2_model_diff('full', 'variant')") == 0
    whole, half = (
        tx.execute("SELECT * FROM gpt2_model_diff(%s, %s)", [name, other]).fetchall()
        for other in ("variant", "mean")
    )
    assert [row[:3] for row in whole] == [row[:3] for row in half]
    assert [row[3] for row in half] == pytest.approx([row[3] / 2 for row in whole], rel=1e-6)
    assert tx.execute("""SELECT base, source, is_default FROM gpt2_models()
                         WHERE name = 'mean'""").fetchone() == (
        None,
        f'average of "{name}" and "variant", weight 0.5',
        False,
    )
    expected = results(tx, "full")
    tx.execute("SELECT gpt2_drop_model('variant')")
    tx.execute("SELECT gpt2_drop_model(%s)", [name])
    assert results(tx, "full") == expected


@pytest.mark.parametrize(
    "call, detail",
    [
        (
            "gpt2_average('x', 'demo', 'demo_half')",
            "Of them, dtype is float32 and float16, page_size is 15 and 30.",
        ),
        ("gpt2_model_diff('untied_float32', 'narrow_mlp_float32')", "n_embd is 64 and 48"),
        (
            "gpt2_average('x', 'odd_widths_float16', 'untied_float16')",
            "tie_word_embeddings is true",
        ),
    ],
)
def test_shapes_differ(tx, call, detail):
    with pytest.raises(errors.InvalidParameterValue, match="do not have the same shape") as error:
        tx.execute(f"SELECT {call}")
    assert detail in error.value.diag.message_detail


def test_tokenizers_differ(tx):
    """The same shape, but token 7 means another thing."""
    own = one(tx, "SELECT tokenizer FROM gpt2.model WHERE name = 'untied_float32'")
    tokenizer = one(tx, "SELECT gpt2._add_tokenizer('other', 300)")
    tx.execute(
        "UPDATE gpt2.model SET tokenizer = %s WHERE name = 'untied_float32_copy'", [tokenizer]
    )
    with pytest.raises(errors.InvalidParameterValue) as error:
        tx.execute("SELECT gpt2_average('x', 'untied_float32', 'untied_float32_copy')")
    assert error.value.diag.message_detail == f"Of them, tokenizer is {own} and {tokenizer}."
