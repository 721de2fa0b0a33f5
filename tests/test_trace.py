"""Activations as rows equal TransformerLens' (fixtures by tests/oracle/make_trace_fixtures.py), and
so do passes in which some are replaced or added to; then what the arguments mean, on the tests'
model, and editing the weights in a transaction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import DEMO, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.checkpoints import N_TRACED, SHAPES, steering
from oracle.compare import assert_close
from safetensors.numpy import load_file

FIXTURES = np.load(Path(__file__).parent / "oracle" / "trace.npz")
PROMPT = "PostgreSQL is"
N_PROMPT, N_LAYER, N_HEAD, N_EMBD = 7, 6, 4, 128
#: an activation by its place, and the arrays of activations by hook point
Rows = dict[tuple, np.ndarray]


def hooks_of(name: str) -> list[str]:
    """Full names of the hook points of a shape's fixture."""
    return [
        key.split("/")[1]
        for key in FIXTURES.files
        if key.startswith(f"{name}/") and "hook" in key and "/patched/" not in key
    ]


def activations(conn: psycopg.Connection, query: str, *arguments) -> dict[str, np.ndarray]:
    """Full name of a hook point -> [n_seq, width] or [n_head, n_seq, width], of a query that gives
    rows of gpt2_trace. What a position cannot see is 0."""
    conn.execute("SET jit = off")  # compiling the inlined pass takes seconds
    cursor = conn.cursor(binary=True)
    cursor.execute(
        f"""SELECT gpt2._full_name(a.hook, a.block), a.head, a."position",
                              a.value::float4[] FROM ({query}) AS a""",
        arguments,
    )
    places: dict[str, dict[tuple, list]] = {}
    for name, head, position, value in cursor:
        assert (head, position) not in places.setdefault(name, {}), (name, head, position)
        places[name][head, position] = value
    result = {}
    for name, values in places.items():
        n_seq = 1 + max(position for _, position in values)
        width = max(map(len, values.values()))
        heads = sorted({head for head, _ in values}, key=lambda head: head or 0)
        array = np.zeros((len(heads), n_seq, width), dtype=np.float32)
        for (head, position), value in values.items():
            array[heads.index(head), position, : len(value)] = value
        assert len(values) == len(heads) * n_seq
        result[name] = array[0] if heads == [None] else array
    return result


#: gpt2_trace, but of tokens
FORWARD = """SELECT a.*
    FROM (SELECT i.*, gpt2._wanted(hooks, NULL, m) AS wanted,
                 gpt2._patch(patch, cardinality(tokens), m) AS patch,
                 gpt2._steering(steer, m) AS steer
          FROM (SELECT *
                FROM (SELECT %s::text AS name, %s::int[] AS tokens, %s::text[] AS hooks,
                             %s::gpt2.activation[] AS patch, %s::gpt2.steering[] AS steer) AS i
                CROSS JOIN LATERAL (SELECT c AS m FROM gpt2._chosen_model(i.name) AS c) AS m
                OFFSET 0) AS i (name, tokens, hooks, patch, steer, m)
          OFFSET 0) AS i (name, tokens, h, p, s, m, wanted, patch, steer)
    CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, i.wanted, i.patch, i.steer) AS a"""


# ---- Equal to TransformerLens


@pytest.mark.parametrize("name", SHAPES)
def test_activations(shapes, name):
    ours = activations(shapes, FORWARD, name, FIXTURES[f"{name}/tokens"].tolist(), None, None, None)
    assert sorted(ours) == sorted(hooks_of(name))
    for hook, value in ours.items():
        theirs = FIXTURES[f"{name}/{hook}"]
        assert_close(value, np.where(np.isfinite(theirs), theirs, 0), hook)


@pytest.mark.parametrize("name", SHAPES)
def test_patched(shapes, name):
    """Each hook point in turn, of every head and position, with its values of another prompt."""
    other = shapes.execute(
        f"""SELECT gpt2._full_name(a.hook, a.block), array_agg(ROW(
                       a.block, a.head,
                       CASE a.hook WHEN 'hook_pos_embed' THEN 4 - a."position"
                                   ELSE a."position" END, a.hook, a.value)::gpt2.activation)::text
            FROM ({FORWARD}) AS a GROUP BY 1""",
        [name, FIXTURES[f"{name}/source"].tolist(), None, None, None],
    ).fetchall()
    assert sorted(hook for hook, _ in other) == sorted(hooks_of(name))
    for hook, patch in other:
        ours = activations(
            shapes,
            FORWARD,
            name,
            FIXTURES[f"{name}/tokens"].tolist(),
            ["ln_final_out"],
            patch,
            None,
        )
        assert_close(ours["ln_final.hook_out"], FIXTURES[f"{name}/patched/{hook}"])


def as_steering(rows) -> str:
    """The steering of oracle.checkpoints as an array's text."""
    return (
        "{"
        + ",".join(
            '"({},{},\\"[{}]\\",{})"'.format(
                block,
                "" if position is None else position,
                ",".join(map(str, vector.tolist())),
                scale,
            )
            for block, position, vector, scale in rows
        )
        + "}"
    )


@pytest.mark.parametrize("name", SHAPES)
def test_steered(shapes, name):
    ours = activations(
        shapes,
        FORWARD,
        name,
        FIXTURES[f"{name}/tokens"].tolist(),
        ["ln_final_out"],
        None,
        as_steering(steering(SHAPES[name])),
    )
    assert_close(ours["ln_final.hook_out"], FIXTURES[f"{name}/steered"])


@pytest.mark.parametrize("name", SHAPES)
def test_cached_pass_is_steered_alike(shapes, name):
    """Generation has the same activations after the last position, one token at a time too."""
    shapes.execute("SET jit = off")
    steer = as_steering(steering(SHAPES[name]))
    for n in (N_TRACED, N_TRACED - 1):
        y = shapes.execute(
            """SELECT (gpt2._run(gpt2._begin(%s::int[], m.m), m.m, %s, steer =>
                           gpt2._steering(%s::gpt2.steering[], m.m))).y[%s]::real[]
               FROM (SELECT c AS m FROM gpt2._chosen_model(%s::text) AS c OFFSET 0) AS m""",
            [FIXTURES[f"{name}/tokens"].tolist()[:n], n, steer, n, name],
        ).fetchone()[0]
        assert_close(np.array(y, dtype=np.float32), FIXTURES[f"{name}/steered"][n - 1])


# ---- What is asked for


@pytest.fixture(scope="module")
def whole(demo_dsn) -> dict[str, np.ndarray]:
    with psycopg.connect(demo_dsn) as conn:
        return activations(conn, "SELECT * FROM gpt2_trace(%s)", PROMPT)


def test_whole_trace(demo, whole):
    """Every hook point of the list, in its order, at every position and head."""
    listed = demo.execute("SELECT hook, per_head, width FROM gpt2_hooks()").fetchall()
    rows = demo.execute(
        """SELECT hook, block, count(*), array_agg(DISTINCT head),
                                  min("position"), max("position"),
                                  bool_and(vector_dims(value) = CASE hook
                                      WHEN 'attn.hook_pattern' THEN "position" + 1
                                      WHEN 'attn.hook_attn_scores' THEN "position" + 1
                                      ELSE %s END) OR hook !~ 'attn_scores|pattern'
                           FROM gpt2_trace(%s) WITH ORDINALITY AS t (block, head, "position", hook,
                                                                     value, n)
                           GROUP BY hook, block ORDER BY min(n)""",
        (0, PROMPT),
    ).fetchall()
    expected = [(hook, None) for hook, _, _ in listed[:2]]
    expected += [(hook, block) for block in range(N_LAYER) for hook, _, _ in listed[2:-2]]
    expected += [(hook, None) for hook, _, _ in listed[-2:]]
    assert [row[:2] for row in rows] == expected
    for hook, _block, n, heads, first, last, fits in rows:
        per_head = dict((row[0], row[1]) for row in listed)[hook]
        assert heads == (list(range(N_HEAD)) if per_head else [None])
        assert (n, first, last) == (N_PROMPT * len(heads), 0, N_PROMPT - 1)
        assert fits
    widths = {"n_embd": 128, "n_inner": 512, "d_head": 32, "position + 1": N_PROMPT}
    for hook, _, width in listed:
        name = hook if hook in whole else f"blocks.3.{hook}"
        assert whole[name].shape[-1] == widths[width]


@pytest.mark.parametrize(
    "hooks, blocks, expected",
    [
        (["embed"], None, ["hook_embed"]),
        (["hook_pos_embed", "ln_final"], None, ["hook_pos_embed", "ln_final.hook_normalized"]),
        (["resid_pre"], [0, 5], ["blocks.0.hook_resid_pre", "blocks.5.hook_resid_pre"]),
        (["attn.hook_z", "mlp_out"], [2], ["blocks.2.attn.hook_z", "blocks.2.hook_mlp_out"]),
        (["blocks.3.mlp.hook_post", "embed"], None, ["blocks.3.mlp.hook_post", "hook_embed"]),
        (
            ["blocks.3.mlp.hook_post", "pre"],
            [1],
            ["blocks.1.mlp.hook_pre", "blocks.3.mlp.hook_post"],
        ),
        (
            ["ln1", "ln2", "ln_final"],
            [4],
            [
                "blocks.4.ln1.hook_normalized",
                "blocks.4.ln2.hook_normalized",
                "ln_final.hook_normalized",
            ],
        ),
        (["pattern"], None, [f"blocks.{b}.attn.hook_pattern" for b in range(6)]),
        ([], None, []),
        ([], [3], []),
        (["q"], [], []),
        (None, [], []),
    ],
)
def test_asked(demo, whole, hooks, blocks, expected):
    """Just what is asked for, and the same as in the whole trace."""
    ours = activations(demo, "SELECT * FROM gpt2_trace(%s, %s, %s)", PROMPT, hooks, blocks)
    assert sorted(ours) == sorted(expected)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, whole[name])


def test_blocks_alone(demo, whole):
    ours = activations(demo, "SELECT * FROM gpt2_trace(%s, blocks => '{1,4}')", PROMPT)
    assert sorted(ours) == sorted(n for n in whole if n.startswith(("blocks.1.", "blocks.4.")))


def test_short_names_are_distinct(demo):
    names = demo.execute("SELECT hook, short FROM gpt2_hooks()").fetchall()
    assert len({name for row in names for name in row}) == 2 * len(names) == 42


@pytest.mark.parametrize(
    "hooks, n_blocks",
    [
        ("{embed}", 0),
        ("{blocks.0.hook_resid_pre}", 1),
        ("{blocks.3.attn.hook_q}", 4),
        ("{ln_final}", 6),
        ("{resid_post}", 6),
        ("{}", 0),
    ],
)
def test_later_blocks_are_not_computed(demo, hooks, n_blocks):
    count = """SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int
               FROM pg_stat_xact_user_tables WHERE relid = 'gpt2.matrix_page'::regclass"""
    with demo.transaction():
        pages = demo.execute("SELECT count(*) FROM gpt2.matrix_page WHERE block >= 0").fetchone()[0]
        before = demo.execute(count).fetchone()[0]
        demo.execute("SELECT * FROM gpt2_trace(%s, %s)", (PROMPT, hooks))
        read = demo.execute(count).fetchone()[0] - before - N_PROMPT * pages * n_blocks / N_LAYER
        # a few rows more: the tokens' embeddings, and the look whether there are weights at all
        assert 0 <= read <= N_PROMPT + 2


def test_same_as_the_forward_pass(demo, whole):
    tokens = demo.execute("SELECT gpt2_tokenize(%s)", [PROMPT]).fetchone()[0]
    (y,) = demo.execute(
        "SELECT ARRAY(SELECT v::real[] FROM unnest(gpt2_forward(%s::int[])) AS v)", [tokens]
    ).fetchone()
    np.testing.assert_array_equal(np.array(y, dtype=np.float32), whole["ln_final.hook_out"])
    for block in range(N_LAYER):
        (x,) = demo.execute(
            """SELECT ARRAY(SELECT v::real[] FROM unnest(gpt2_block(
                   (SELECT array_agg(value ORDER BY "position") FROM gpt2_trace(%s, %s)), %s)) AS v)
            """,
            [PROMPT, [f"blocks.{block}.hook_resid_pre"], block],
        ).fetchone()
        np.testing.assert_array_equal(
            np.array(x, dtype=np.float32), whole[f"blocks.{block}.hook_resid_post"]
        )


def test_null_and_empty_prompts(demo):
    assert demo.execute("SELECT * FROM gpt2_trace(NULL)").fetchall() == []
    ours = activations(demo, "SELECT * FROM gpt2_trace('')")
    wte = load_file(DEMO / "model.safetensors")["transformer.wte.weight"]
    np.testing.assert_array_equal(ours["hook_embed"], wte[[8191]].astype(np.float32))
    np.testing.assert_array_equal(ours["blocks.0.attn.hook_pattern"], np.ones((4, 1, 1)))


def test_traces_of_a_table(demo):
    """A row of the table at a time, joined laterally."""
    rows = demo.execute(
        """SELECT p.n, count(*), count(DISTINCT t."position")
           FROM (VALUES (1, 'The'), (2, ' table index'), (3, NULL)) AS p (n, prompt)
           LEFT JOIN LATERAL gpt2_trace(p.prompt, '{z}', '{0}') AS t ON true
           GROUP BY p.n ORDER BY p.n"""
    ).fetchall()
    assert rows == [(1, 4, 1), (2, 8, 2), (3, 1, 0)]


def test_trace_with_fields_of_a_view(demo):
    """Rows can be kept in a table of the type, and come back from it."""
    with demo.transaction(force_rollback=True):
        demo.execute("CREATE TABLE kept OF gpt2.activation")
        demo.execute("INSERT INTO kept SELECT * FROM gpt2_trace(%s)", [PROMPT])
        assert (
            demo.execute(
                """SELECT gpt2_generate(%s, 8, patch => (SELECT array_agg(k::gpt2.activation)
                                                      FROM kept AS k))""",
                [PROMPT],
            ).fetchone()
            == demo.execute("SELECT gpt2_generate(%s, 8)", [PROMPT]).fetchone()
        )


# ---- Patching and steering generation


TEXTS = [
    "PostgreSQL is",
    "To create an index",
    "The default value is",
    "é",
    "",
    "CREATE TABLE t (",
    " the of table index" * 8,
]


@pytest.mark.parametrize("text", TEXTS)
def test_own_activations_change_nothing(demo, text):
    """Read by the forward pass instead of the cached one, a prompt continues alike."""
    plain, patched = demo.execute(
        """SELECT gpt2_generate(%(t)s, 24),
                  gpt2_generate(%(t)s, 24, patch => ARRAY(SELECT t FROM gpt2_trace(%(t)s) AS t))""",
        {"t": text},
    ).fetchone()
    assert patched == plain
    plain, patched = demo.execute(
        """SELECT gpt2_generate(%(t)s, 24, 1, 40, seed => 5),
                  gpt2_generate(%(t)s, 24, 1, 40, seed => 5, patch => ARRAY(
                      SELECT t FROM gpt2_trace(%(t)s, '{embed}') AS t))""",
        {"t": text},
    ).fetchone()
    assert patched == plain


@pytest.mark.parametrize(
    "hook, block",
    [("hook_embed", None), ("hook_resid_pre", 0), ("hook_resid_post", 3), ("hook_resid_mid", 2)],
)
@pytest.mark.parametrize("source", ["The table and the SQL", " index", "a b c d e f g h"])
def test_another_prompt_in_its_place(demo, hook, block, source):
    """The whole stream of another prompt makes the first token that follows the other: at one
    position less than all, or at other ones, it would not."""
    tokens = demo.execute("SELECT gpt2_tokenize(%s)", [source]).fetchone()[0]
    prompt = " the" * len(tokens)
    rows = demo.execute(
        """SELECT n.token, n.logit FROM gpt2_next_token(%(prompt)s, 5, patch => ARRAY(
               SELECT t FROM gpt2_trace(%(source)s) AS t
               WHERE t.hook = %(hook)s AND t.block IS NOT DISTINCT FROM %(block)s)) AS n""",
        {"prompt": prompt, "source": source, "hook": hook, "block": block},
    ).fetchall()
    expected = demo.execute("SELECT token, logit FROM gpt2_next_token(%s, 5)", [source]).fetchall()
    assert [row[0] for row in rows] == [row[0] for row in expected]
    np.testing.assert_allclose([row[1] for row in rows], [row[1] for row in expected], rtol=1e-4)


def test_endoftext_after_a_patch(demo):
    """The prompt's last token chooses the first new one, and the end is an end."""
    ending = (
        "Compatibility\nThis command is a PostgreSQL extension.\nSee Also\n"
        "ALTER INDEX, DROP INDEX, REINDEX"
    )
    assert demo.execute(
        """SELECT gpt2_generate(%(t)s, 20, patch => ARRAY(
               SELECT t FROM gpt2_trace(%(t)s, '{resid_post}', '{5}') AS t))""",
        {"t": ending},
    ).fetchone() == (ending,)


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 16, 17, 33])
def test_lengths_after_a_patch(demo, max_tokens):
    assert demo.execute(
        """SELECT gpt2_generate(%(t)s, %(n)s, patch => ARRAY(
                      SELECT t FROM gpt2_trace(%(t)s, '{k}') AS t))
                  = gpt2_generate(%(t)s, %(n)s)""",
        {"t": " table index the" * 6, "n": max_tokens},
    ).fetchone() == (True,)


STEER = """ARRAY(SELECT ROW(block, "position", (gpt2_embeddings(ARRAY[900 + block]))[1], scale)
                 ::gpt2.steering FROM (VALUES (0, NULL, -3), (2, 4, 5.5), (6, NULL, 0.25))
                 AS s (block, "position", scale))"""


@pytest.mark.parametrize("n", [1, 5, 15, 16, 17, 40])
def test_steered_alike_token_by_token(demo, n):
    """Each steered token is the likeliest after one steered forward pass over all before it."""
    wte = load_file(DEMO / "model.safetensors")["transformer.wte.weight"].astype(np.float64)
    (steer,) = demo.execute(f"SELECT {STEER}::text").fetchone()
    (text,) = demo.execute(
        f"SELECT gpt2_generate('The table', %s, steer => {STEER})", [n]
    ).fetchone()
    assert text != demo.execute("SELECT gpt2_generate('The table', %s)", [n]).fetchone()[0]
    tokens = demo.execute("SELECT gpt2_tokenize('The table')").fetchone()[0]
    for _ in range(n):
        ours = activations(demo, FORWARD, "demo", tokens, ["ln_final_out"], None, steer)
        tokens.append(int(np.argmax(wte @ ours["ln_final.hook_out"][-1])))
    assert demo.execute("SELECT gpt2_detokenize(%s::int[])", [tokens]).fetchone()[0] == text


def test_steering_of_nothing(demo):
    """No rows, a scale of 0, and positions that never come leave the text as it is."""
    for steer in (
        "'{}'",
        "NULL",
        "ARRAY[ROW(1, NULL, (gpt2_embeddings('{9}'))[1], 0)::gpt2.steering]",
        "ARRAY[ROW(1, 200, (gpt2_embeddings('{9}'))[1], 9)::gpt2.steering]",
    ):
        assert demo.execute(f"""SELECT gpt2_generate('The', 8, steer => {steer})
                                       = gpt2_generate('The', 8)""").fetchone() == (True,)


def test_null_scale_is_one(demo):
    call = """SELECT gpt2_generate('The', 8, steer => ARRAY[
                  ROW(2, NULL, (gpt2_embeddings('{300}'))[1], %s)::gpt2.steering])"""
    assert demo.execute(call, [None]).fetchone() == demo.execute(call, [1.0]).fetchone()
    assert demo.execute(call, [1.0]).fetchone() != demo.execute(call, [20.0]).fetchone()


@settings(max_examples=examples(12), deadline=None)
@given(st.data())
def test_patched_and_steered_trace(demo_dsn, data):
    """What is replaced is read back as it was put, what comes before it is as it was, and the
    residual stream is its parts: any rows of another prompt, of any hook points."""
    with psycopg.connect(demo_dsn) as conn:
        hooks = [row[0] for row in conn.execute("SELECT hook FROM gpt2_hooks()")]
        hook, block = data.draw(st.sampled_from(hooks)), data.draw(st.integers(0, N_LAYER - 1))
        head = data.draw(st.integers(0, N_HEAD - 1))
        position = data.draw(st.integers(0, N_PROMPT - 1))
        condition = """hook = %(hook)s AND coalesce(block, %(block)s) = %(block)s
            AND coalesce(head, %(head)s) = %(head)s AND "position" = %(position)s"""
        row = conn.execute(
            f"""WITH patch AS MATERIALIZED (
                    SELECT array_agg(t) AS patch
                    FROM gpt2_trace(' a table of the index and it') AS t
                    WHERE {condition})
                SELECT cardinality(p.patch),
                       (SELECT t.value = p.patch[1].value FROM gpt2_trace('PostgreSQL is',
                            patch => p.patch) AS t WHERE {condition}),
                       (SELECT count(*) FROM gpt2_trace('PostgreSQL is', patch => p.patch) AS t
                        JOIN gpt2_trace('PostgreSQL is') AS o USING (hook, "position")
                        WHERE t.block IS NOT DISTINCT FROM o.block
                          AND t.head IS NOT DISTINCT FROM o.head AND t.value <> o.value
                          AND (t."position" < %(position)s OR t.block < %(block)s
                               AND gpt2._in_blocks(%(hook)s))),
                       (SELECT count(*) FROM gpt2_trace('PostgreSQL is', patch => p.patch) AS t
                        JOIN gpt2_trace('PostgreSQL is') AS o USING (hook, "position")
                        WHERE t.block IS NOT DISTINCT FROM o.block
                          AND t.head IS NOT DISTINCT FROM o.head AND t.value <> o.value)
                FROM patch AS p""".replace("p.patch[1].value", "(p.patch[1]).value"),
            {"hook": hook, "block": block, "head": head, "position": position},
        ).fetchone()
        assert row[:3] == (1, True, 0)
        if (hook, position) != ("attn.hook_pattern", 0) and hook != "hook_pos_embed":
            assert row[3] > 0


# ---- Ablation: the weights edited in a transaction


@pytest.mark.parametrize(
    "recipe",
    [
        # as in docs/insight.md
        """UPDATE gpt2.linear SET bias = 0, weight = weight - weight
       WHERE block = 2 AND layer = 'attn.c_attn' AND slice = 0 AND unit BETWEEN 256 AND 287""",
        """UPDATE gpt2.linear SET bias = 0, weight = weight - weight
       WHERE block = 3 AND layer = 'mlp.c_fc' AND unit = 119""",
        """UPDATE gpt2.wte AS w SET weight = o.weight
       FROM (SELECT model, token, weight FROM gpt2.wte WHERE token IN (257, 407)) AS o
       WHERE w.model = o.model AND w.token IN (257, 407) AND w.token <> o.token""",
    ],
    ids=["zero a head", "zero a neuron", "swap two embeddings"],
)
def test_ablation(demo_dsn, recipe):
    """Within the transaction the model is another, for all others it is what it was, and so it is
    again after ROLLBACK."""
    question = """SELECT array_agg(n ORDER BY n.rank)::text FROM gpt2_next_token(%s, 50) AS n"""
    with psycopg.connect(demo_dsn) as one, psycopg.connect(demo_dsn) as other:
        before = one.execute(question, [PROMPT]).fetchone()
        assert one.execute(recipe).rowcount in (1, 2, 32)
        edited = one.execute(question, [PROMPT]).fetchone()
        assert edited != before
        assert other.execute(question, [PROMPT]).fetchone() == before
        one.rollback()
        assert one.execute(question, [PROMPT]).fetchone() == before


def test_zeroed_head_adds_nothing(demo_dsn):
    with psycopg.connect(demo_dsn) as conn:
        conn.execute("""UPDATE gpt2.linear SET bias = 0, weight = weight - weight
                        WHERE block = 2 AND layer = 'attn.c_attn' AND unit BETWEEN 256 AND 287""")
        ours = activations(conn, "SELECT * FROM gpt2_trace(%s, '{z}', '{2}')", PROMPT)
        z = ours["blocks.2.attn.hook_z"]
        assert not z[0].any() and z[1:].any(axis=(1, 2)).all()
        conn.rollback()


def test_swapped_embeddings_swap_the_logits(demo_dsn):
    with psycopg.connect(demo_dsn) as conn:
        query = "SELECT token, logit FROM gpt2_next_token(%s, NULL)"
        before = dict(conn.execute(query, [PROMPT]).fetchall())
        conn.execute("""UPDATE gpt2.wte AS w SET weight = o.weight
                        FROM (SELECT * FROM gpt2.wte WHERE token IN (257, 407)) AS o
                        WHERE w.token IN (257, 407) AND w.token <> o.token""")
        after = dict(conn.execute(query, [PROMPT]).fetchall())
        assert (after[407], after[257]) == (before[257], before[407])
        assert {t: v for t, v in after.items() if t not in (407, 257)} == {
            t: v for t, v in before.items() if t not in (407, 257)
        }
        conn.rollback()


# ---- Bad input


ROW = "ARRAY[ROW({})::gpt2.activation]"
STEERING = "ARRAY[ROW({})::gpt2.steering]"
X = "(gpt2_embeddings('{1}'))[1]"
BAD = [
    ("hooks => '{resid}'", 'hook point "resid" does not exist in model "demo"'),
    ("hooks => '{embed,NULL}'", 'hook point "NULL" does not exist in model "demo"'),
    (
        "hooks => '{blocks.6.hook_resid_pre}'",
        'hook point "blocks.6.hook_resid_pre" does not exist in model "demo"',
    ),
    ("blocks => '{0,6}'", 'block 6 does not exist in model "demo"'),
    ("blocks => '{-1}'", 'block -1 does not exist in model "demo"'),
    ("blocks => '{NULL}'", 'block NULL does not exist in model "demo"'),
    *[
        (f"patch => {ROW.format(row)}", message)
        for row, message in [
            (f"0, NULL, 0, 'hook_resid', {X}", 'hook point "hook_resid" does not exist'),
            (f"0, NULL, 0, NULL, {X}", 'hook point "NULL" does not exist'),
            *[
                (row, 'the patch does not fit model "demo"')
                for row in [
                    f"6, NULL, 0, 'hook_resid_pre', {X}",
                    f"NULL, NULL, 0, 'hook_resid_pre', {X}",
                    f"0, NULL, NULL, 'hook_resid_pre', {X}",
                    f"0, NULL, 7, 'hook_resid_pre', {X}",
                    f"0, NULL, -1, 'hook_resid_pre', {X}",
                    f"0, 1, 0, 'hook_resid_pre', {X}",
                    f"0, NULL, 0, 'attn.hook_z', '[{','.join('0' * 32)}]'",
                    f"0, 4, 0, 'attn.hook_z', '[{','.join('0' * 32)}]'",
                    f"0, 0, 0, 'attn.hook_z', {X}",
                    "0, 0, 2, 'attn.hook_pattern', '[1,0]'",
                    "0, NULL, 0, 'hook_resid_pre', NULL",
                    f"0, NULL, 0, 'hook_embed', {X}",
                    f"0, NULL, 0, 'mlp.hook_post', {X}",
                ]
            ],
        ]
    ],
    *[
        (f"steer => {STEERING.format(row)}", 'the steering does not fit model "demo"')
        for row in [
            f"7, NULL, {X}, 1",
            f"-1, NULL, {X}, 1",
            f"NULL, NULL, {X}, 1",
            f"0, -1, {X}, 1",
            "0, NULL, '[1,2]', 1",
            "0, NULL, NULL, 1",
            f"0, NULL, {X}, 'NaN'",
            f"0, NULL, {X}, 'Infinity'",
        ]
    ],
    ("patch => ARRAY[NULL]::gpt2.activation[]", 'hook point "NULL" does not exist'),
    ("steer => ARRAY[NULL]::gpt2.steering[]", 'the steering does not fit model "demo"'),
]


@pytest.mark.parametrize("argument, message", BAD, ids=[row[0][:50] for row in BAD])
def test_bad_input(demo, argument, message):
    functions = ["gpt2_trace"]
    if argument.startswith(("patch", "steer")):
        functions += ["gpt2_generate", "gpt2_next_token"]
    for function in functions:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
            demo.execute(f"SELECT {function}('PostgreSQL is', {argument})")
        diag = error.value.diag
        assert diag.message_primary == message
        assert diag.message_detail.endswith(".") and diag.message_hint
