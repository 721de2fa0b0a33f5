"""What both importers load, and what both refuse: the command line's and the server's.

Checkpoints are made here, tiny, with numpy and safetensors. Needs GPT2_TEST_DSN, the URI of a
superuser of a server that has the extensions.
"""

import json
import math
import shutil
import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import psycopg
import pytest
from gpt2_loader import client, importer, vocabulary
from gpt2_loader.checkpoint import Checkpoint
from gpt2_loader.errors import LoadError, from_os_error
from safetensors.numpy import save_file

TABLES = ("model", "wte", "wpe", "layer_norm", "bias", "linear", "lm_head")
VOCABULARY = ("tokenizer", "token", "merge")

# n_inner is not a multiple of n_embd: mlp.c_proj gets slices of 8, 8 and 4 inputs
CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 300,
    "n_positions": 16,
    "n_embd": 8,
    "n_head": 2,
    "n_layer": 2,
    "n_inner": 20,
}


# A database, and the two doors into it


@pytest.fixture(scope="module")
def database(new_database) -> str:
    """Connection string of a new database with both extensions, where the server has PL/Python."""
    dsn = new_database(holds="extension")
    with psycopg.connect(dsn, autocommit=True) as connection:
        if has_plpython(connection):
            connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
    return dsn


@pytest.fixture
def db(database):
    """Connection to that database, each statement its own transaction; no model is left there."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection
        connection.execute("SELECT gpt2_drop_model(name) FROM gpt2_models()")
        assert sum(count_rows(connection, TABLES).values()) == 0


@pytest.fixture
def directory():
    """A new directory that the server's operating system user can read."""
    path = Path(tempfile.mkdtemp(prefix="gpt2_test.", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class Refused(Exception):
    """A door's error: sqlstate, message, detail, hint."""

    def __init__(self, sqlstate, message, detail, hint):
        super().__init__(f"{sqlstate}: {message}; {detail}; {hint}")
        self.sqlstate, self.message, self.detail, self.hint = sqlstate, message, detail, hint


#: the vocabulary of a directory that write() has made
ITS_OWN = object()


def which_vocabulary(directory, tokenizer):
    """ITS_OWN is what a directory has, and GPT-2's where it has nothing."""
    if tokenizer is ITS_OWN:
        names = ("vocab.json", "merges.txt", "tokenizer.json")
        own = any((Path(directory) / name).exists() for name in names)
        return None if own else vocabulary.OWN
    return tokenizer


def load_by_client(dsn, directory, name="m", replace=False, tokenizer=ITS_OWN, dtype="float32"):
    try:
        with client.connect(dsn) as connection:
            tokenizer = which_vocabulary(directory, tokenizer)
            checkpoint = Checkpoint(str(directory), client.read_tensor, tokenizer=tokenizer)
            importer.load(
                client.Target(connection), checkpoint, name, str(directory), replace=replace,
                dtype=dtype,
            )  # fmt: skip
    except (LoadError, OSError) as error:
        error = from_os_error(error) if isinstance(error, OSError) else error
        raise Refused(error.sqlstate, error.message, error.detail, error.hint) from error
    except psycopg.Error as error:
        raise refused(error) from error


def has_plpython(connection):
    """Whether the server has PL/Python, which only gpt2_load_model needs."""
    return connection.execute(
        "SELECT count(*) FROM pg_available_extensions WHERE name = 'plpython3u'"
    ).fetchone() == (1,)


def readable(directory):
    """Lets the server's operating system user read a directory."""
    for path in directory.rglob("*"):
        if not path.is_symlink():  # what it leads to may be a device
            path.chmod(0o755 if path.is_dir() else 0o644)


def load_by_server(dsn, directory, name="m", replace=False, tokenizer=ITS_OWN, dtype="float32"):
    readable(directory)
    try:
        with psycopg.connect(dsn) as connection:
            if not has_plpython(connection):
                pytest.skip("the server has no PL/Python")
            connection.execute(
                "SELECT gpt2_load_model(%s, %s, %s, %s, %s)",
                (str(directory), name, replace, which_vocabulary(directory, tokenizer), dtype),
            )
    except psycopg.Error as error:
        raise refused(error) from error


def refused(error):
    """The Refused of a psycopg.Error."""
    fields = error.diag
    return Refused(
        fields.sqlstate, fields.message_primary, fields.message_detail, fields.message_hint
    )


DOORS = {"client": load_by_client, "server": load_by_server}


@pytest.fixture(params=DOORS)
def load(request, database):
    """load(directory, name="m", replace=False) by one door, then by the other."""
    return lambda *arguments, **options: DOORS[request.param](database, *arguments, **options)


# Checkpoints


def make_tensors(config, seed=1):
    """{name: array} of a model with random weights; names without "transformer."."""
    draw = np.random.default_rng(seed).standard_normal
    n, n_inner = config["n_embd"], config["n_inner"]
    shapes = {"wte.weight": (config["vocab_size"], n), "wpe.weight": (config["n_positions"], n)}
    for block in range(config["n_layer"]):
        for layer, *shape in (
            ("ln_1", n),
            ("ln_2", n),
            ("attn.c_attn", n, 3 * n),
            ("attn.c_proj", n, n),
            ("mlp.c_fc", n, n_inner),
            ("mlp.c_proj", n_inner, n),
        ):
            shapes[f"h.{block}.{layer}.weight"] = shape
            shapes[f"h.{block}.{layer}.bias"] = shape[-1:]
    shapes |= {"ln_f.weight": (n,), "ln_f.bias": (n,)}
    return {name: draw(shape, dtype=np.float32) for name, shape in shapes.items()}


def write(directory, tensors, config=CONFIG, prefix="transformer."):
    """Writes config.json and model.safetensors."""
    (directory / "config.json").write_text(json.dumps(config))
    tensors = {
        name if name == "lm_head.weight" else prefix + name: np.ascontiguousarray(tensor)
        for name, tensor in tensors.items()
    }
    save_file(tensors, directory / "model.safetensors")


def write_vocabulary(directory, extra=("<|endoftext|>",), suffix=""):
    """Writes vocab.json and merges.txt: the bytes, " t", " a", " th", and the extra tokens."""
    tokens = [*vocabulary.byte_encoder(), "Ġt", "Ġa", "Ġth", *extra]
    (directory / f"vocab.json{suffix}").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (directory / f"merges.txt{suffix}").write_text("#version: 0.2\nĠ t\nĠ a\nĠt h\n")
    return tokens


def tokenizer_json(tokens, added=(), **changes):
    """A file of the tokenizers library with the vocabulary of write_vocabulary."""
    return {
        "added_tokens": [{"id": i, "content": t, "special": True} for i, t in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": {"type": "ByteLevel"},
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "continuing_subword_prefix": "",
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": [["Ġ", "t"], "Ġ a", ["Ġt", "h"]],
        },
    } | changes


# What the tables hold


def vector(text):
    return [np.float32(x) for x in text[1:-1].split(",")]


def count_rows(db, tables):
    return {t: db.execute(f"SELECT count(*) FROM gpt2.{t}").fetchone()[0] for t in tables}


def contents(db, name="m"):
    """Every row of a model, without its number and what tells one import from another."""
    model = db.execute("SELECT model FROM gpt2.model WHERE name = %s", (name,)).fetchone()[0]
    rows = {}
    for table in TABLES:
        rows[table] = db.execute(
            f"""SELECT to_jsonb(t)
                       - '{{model,name,is_default,edition,loaded_at,source}}'::text[] AS r
                FROM gpt2.{table} AS t WHERE model = %s ORDER BY r""",
            (model,),
        ).fetchall()
    return rows


def check_rows(db, tensors, name="m"):
    """Whether the tables hold exactly these tensors (a bias that is not among them is 0)."""

    def matrix(table, key):
        rows = db.execute(
            f"""SELECT {key}, weight::text FROM gpt2.{table} JOIN gpt2.model USING (model)
                WHERE name = %s ORDER BY {key}""",
            (name,),
        ).fetchall()
        assert [row[0] for row in rows] == list(range(len(rows)))
        return np.array([vector(row[1]) for row in rows])

    def bias(layer):
        return tensors.get(f"{layer}.bias", np.zeros(tensors[f"{layer}.weight"].shape[-1]))

    np.testing.assert_array_equal(matrix("wte", "token"), tensors["wte.weight"])
    np.testing.assert_array_equal(matrix("wpe", '"position"'), tensors["wpe.weight"])
    if "lm_head.weight" in tensors:
        np.testing.assert_array_equal(matrix("lm_head", "token"), tensors["lm_head.weight"])
    else:
        assert db.execute("SELECT count(*) FROM gpt2.lm_head").fetchone() == (0,)

    norms = db.execute(
        """SELECT block, layer::text, l.weight::text, l.bias::text
           FROM gpt2.layer_norm AS l JOIN gpt2.model USING (model) WHERE name = %s""",
        (name,),
    ).fetchall()
    assert len(norms) == sum("ln_" in key and "weight" in key for key in tensors)
    for block, layer, weight, b in norms:
        tensor = layer if layer == "ln_f" else f"h.{block}.{layer}"
        np.testing.assert_array_equal(vector(weight), tensors[f"{tensor}.weight"])
        np.testing.assert_array_equal(vector(b), bias(tensor))

    units = {}  # {layer: {unit: [(slice, bias, weight)]}}
    for block, layer, slice_, unit, b, weight in db.execute(
        """SELECT block, layer::text, slice, unit, bias, l.weight::text
           FROM gpt2.linear AS l JOIN gpt2.model USING (model) WHERE name = %s
           ORDER BY block, layer, unit, slice""",
        (name,),
    ):
        rows = units.setdefault(f"h.{block}.{layer}", {}).setdefault(unit, [])
        assert slice_ == len(rows)
        rows.append((np.float32(b), vector(weight)))
    assert len(units) == sum(".c_" in key and "weight" in key for key in tensors)
    for layer, rows in units.items():
        assert sorted(rows) == list(range(tensors[f"{layer}.weight"].shape[1]))
        for unit, slices in rows.items():
            inputs = [x for _, weight in slices for x in weight]
            np.testing.assert_array_equal(inputs, tensors[f"{layer}.weight"][:, unit])
            assert slices[0][0] == bias(layer)[unit]
            assert all(b == 0 for b, _ in slices[1:])


# What is loaded


def test_rows(db, load, directory):
    tensors = make_tensors(CONFIG)
    write(directory, tensors)
    load(directory)
    check_rows(db, tensors)
    model = SimpleNamespace(**db.execute("SELECT to_jsonb(m) FROM gpt2.model AS m").fetchone()[0])
    assert (model.name, model.is_default, model.source) == ("m", True, str(directory))
    assert (model.n_vocab, model.n_ctx, model.n_embd, model.n_head) == (300, 16, 8, 2)
    assert (model.n_layer, model.n_inner) == (2, 20)
    assert (model.activation_function, model.layer_norm_epsilon) == ("gelu_new", 1e-5)
    assert (model.scale_attn_weights, model.tie_word_embeddings) == (True, True)
    assert model.scale_attn_by_inverse_layer_idx is False
    assert model.n_parameters == sum(tensor.size for tensor in tensors.values())
    sha256 = vocabulary.hashlib.sha256((directory / "model.safetensors").read_bytes())
    assert model.sha256 == sha256.hexdigest()


def test_both_doors_give_the_same_rows(db, database, directory):
    write(directory, make_tensors(CONFIG))
    write_vocabulary(directory)
    load_by_client(database, directory, "c")
    load_by_server(database, directory, "s")
    assert contents(db, "c") == contents(db, "s")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_dtypes(db, load, directory, dtype):
    tensors = {name: tensor.astype(dtype) for name, tensor in make_tensors(CONFIG).items()}
    write(directory, tensors)
    load(directory)
    check_rows(db, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def test_no_prefix(db, load, directory):
    tensors = make_tensors(CONFIG)
    write(directory, tensors, prefix="")
    load(directory)
    check_rows(db, tensors)


def test_buffers_are_ignored(db, load, directory):
    tensors = make_tensors(CONFIG)
    buffers = {
        "h.0.attn.bias": np.ones((1, 1, 16, 16), dtype=np.uint8),
        "h.1.attn.masked_bias": np.float32(-1e4),
    }
    write(directory, tensors | buffers)
    load(directory)
    check_rows(db, tensors)


def test_missing_biases_are_zero(db, load, directory):
    tensors = {name: t for name, t in make_tensors(CONFIG).items() if "weight" in name}
    write(directory, tensors)
    load(directory)
    check_rows(db, tensors)


@pytest.mark.parametrize("n_inner", [4, 8, 32])
def test_n_inner(db, load, directory, n_inner):
    config = CONFIG | {"n_inner": n_inner}
    tensors = make_tensors(config)
    write(directory, tensors, config | ({"n_inner": None} if n_inner == 32 else {}))
    load(directory)
    check_rows(db, tensors)


def test_untied(db, load, directory):
    tensors = make_tensors(CONFIG)
    tensors["lm_head.weight"] = make_tensors(CONFIG, seed=2)["wte.weight"]
    write(directory, tensors, CONFIG | {"tie_word_embeddings": False})
    load(directory)
    check_rows(db, tensors)


def test_tied_with_a_copy(db, load, directory):
    tensors = make_tensors(CONFIG)
    write(directory, tensors | {"lm_head.weight": tensors["wte.weight"]})
    load(directory)
    check_rows(db, tensors)
    n_parameters = db.execute("SELECT n_parameters FROM gpt2.model").fetchone()[0]
    assert n_parameters == sum(tensor.size for tensor in tensors.values())


def test_tied_under_the_other_name(db, load, directory):
    """save_model() of safetensors.torch writes the tensor that two names share once, as
    lm_head.weight; transformers reads it as both."""
    tensors = make_tensors(CONFIG)
    wte = tensors.pop("wte.weight")
    write(directory, tensors | {"lm_head.weight": wte})
    load(directory)
    check_rows(db, tensors | {"wte.weight": wte})
    n_parameters = db.execute("SELECT n_parameters FROM gpt2.model").fetchone()[0]
    assert n_parameters == wte.size + sum(tensor.size for tensor in tensors.values())


#: tensors of heads beside the language model's: trl's, and those of transformers
HEADS = {
    "v_head.summary.weight": (1, 8),
    "v_head.summary.bias": (1,),
    "score.weight": (2, 8),
    "summary.weight": (1, 8),
    "classifier.weight": (2, 8),
    "qa_outputs.weight": (2, 8),
    "multiple_choice_head.summary.weight": (1, 8),
}


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_heads_are_left_out(db, load, directory, prefix):
    tensors = make_tensors(CONFIG)
    write(directory, tensors, prefix=prefix)
    heads = {name: np.full(shape, np.nan, dtype=np.float32) for name, shape in HEADS.items()}
    save_file(
        {prefix + name: tensor for name, tensor in tensors.items()} | heads,
        directory / "model.safetensors",
    )
    load(directory)
    check_rows(db, tensors)
    n_parameters = db.execute("SELECT n_parameters FROM gpt2.model").fetchone()[0]
    assert n_parameters == sum(tensor.size for tensor in tensors.values())


@pytest.mark.parametrize(
    "architecture", ["GPT2Model", "GPT2DoubleHeadsModel", "GPT2HeadWithValueModel"]
)
def test_architectures(db, load, directory, architecture):
    tensors = make_tensors(CONFIG)
    write(directory, tensors, CONFIG | {"architectures": [architecture]})
    load(directory)
    check_rows(db, tensors)


def test_notice_of_the_server(database, db, directory):
    write(directory, make_tensors(CONFIG))
    notices = []
    with psycopg.connect(database, autocommit=True) as connection:
        if not has_plpython(connection):
            pytest.skip("the server has no PL/Python")
        connection.add_notice_handler(
            lambda diag: notices.append((diag.severity, diag.message_primary))
        )
        for tensors in ({}, dict.fromkeys(("v_head.a", "score.weight"), np.zeros(1))):
            write(directory, make_tensors(CONFIG) | tensors, prefix="")
            directory.joinpath("model.safetensors").chmod(0o644)
            directory.joinpath("config.json").chmod(0o644)
            connection.execute("SELECT gpt2_load_model(%s, 'm', true, 'gpt2')", (str(directory),))
    assert notices == [
        (
            "NOTICE",
            'left out "score.weight", "v_head.a": language modelling does not use them',
        )
    ]


def test_sharded(db, load, directory):
    tensors = make_tensors(CONFIG)
    shards = {f"model-0000{i}-of-00002.safetensors": {} for i in (1, 2)}
    for i, (name, tensor) in enumerate(tensors.items()):
        list(shards.values())[i % 2][name] = tensor
    write(directory, {})
    (directory / "model.safetensors").unlink()
    for shard, part in shards.items():
        save_file(part, directory / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    load(directory)
    check_rows(db, tensors)


def test_old_config(db, load, directory):
    """Keys that are missing have the defaults of transformers; n_ctx was n_positions."""
    config = CONFIG | {"n_ctx": 16}
    for key in ("n_positions", "architectures"):
        del config[key]
    tensors = make_tensors(CONFIG)
    write(directory, tensors, config)
    load(directory)
    check_rows(db, tensors)


@pytest.mark.parametrize(
    "activation", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"]
)
def test_synonyms_of_gelu_new(db, load, directory, activation):
    write(directory, make_tensors(CONFIG), CONFIG | {"activation_function": activation})
    load(directory)
    stored = db.execute("SELECT activation_function FROM gpt2.model").fetchone()
    assert stored == ("gelu_new",)


def test_gelu_needs_erf(db, load, directory):
    """From PostgreSQL 16 on it is math.erf; before, the model is refused."""
    write(directory, make_tensors(CONFIG), CONFIG | {"activation_function": "gelu"})
    if db.info.server_version >= 160000:
        load(directory)
        stored = db.execute("SELECT activation_function FROM gpt2.model").fetchone()
        assert stored == ("gelu",)
        xs = [-7.0, -1.5, -1e-3, 0.0, 0.4, 2.0, 30.0]
        query = "SELECT array_agg(gpt2._gelu(x, true) ORDER BY n) FROM unnest(%s::float8[]) WITH ORDINALITY AS u (x, n)"
        [gelu] = db.execute(query, [xs]).fetchone()
        expected = [x / 2 * (1 + math.erf(x / math.sqrt(2))) for x in xs]
        assert gelu == pytest.approx(expected, rel=1e-12, abs=1e-15)
    else:
        with pytest.raises(Refused) as refusal:
            load(directory)
        assert refusal.value.sqlstate == "0A000"
        assert "which came with PostgreSQL 16" in refusal.value.message
        assert "CREATE OR REPLACE FUNCTION gpt2._erf" in refusal.value.hint


def test_tiny_weights_are_zero(db, load, directory):
    """Products of weights below 1e-30 underflow, which pgvector raises as an error."""
    tensors = make_tensors(CONFIG)
    tensors["wte.weight"][0, :4] = [1e-31, -1e-40, 1e-29, -0.0]
    write(directory, tensors)
    load(directory)
    weight = db.execute("SELECT weight::text FROM gpt2.wte WHERE token = 0").fetchone()[0]
    assert weight.startswith("[0,0,1e-29,")


# Vocabularies


def loaded_vocabulary(db):
    """tokenizer, n_token, bos_token, eos_tokens of the only model."""
    return db.execute("SELECT tokenizer, n_token, bos_token, eos_tokens FROM gpt2.model").fetchone()


def test_own_vocabulary_is_in_the_extension(db):
    """Files that hold it are found by its hash; here it is computed in SQL from its rows."""
    stored, digest = db.execute(
        r"""SELECT (SELECT sha256 FROM gpt2.tokenizer WHERE tokenizer = 1),
                   encode(sha256(convert_to(t.lines || E'\n\n' || m.lines || E'\n', 'UTF8')), 'hex')
            FROM (SELECT string_agg(concat_ws(' ', encode(bytes, 'hex'),
                                     CASE special WHEN true THEN 'special' WHEN false THEN 'added'
                                     END), E'\n' ORDER BY token) AS lines
                  FROM gpt2.token WHERE tokenizer = 1) AS t,
                 (SELECT string_agg(concat_ws(' ', "left", "right", token), E'\n' ORDER BY rank)
                      AS lines FROM gpt2.merge WHERE tokenizer = 1) AS m"""
    ).fetchone()
    assert stored == digest


def test_files_of_own_vocabulary(db, load, directory):
    """vocab.json and merges.txt with GPT-2's own tokens mean tokenizer 1."""
    tokens = dict(db.execute("SELECT token, bytes FROM gpt2.token WHERE tokenizer = 1"))
    character = {byte: c for c, byte in vocabulary.byte_encoder().items()}
    text = {i: "".join(character[b] for b in token) for i, token in tokens.items()}
    merges = db.execute(
        'SELECT "left", "right" FROM gpt2.merge WHERE tokenizer = 1 ORDER BY rank'
    ).fetchall()
    (directory / "vocab.json").write_text(json.dumps({t: i for i, t in text.items()}))
    lines = [f"{text[left]} {text[right]}\n" for left, right in merges]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(lines))
    config = CONFIG | {"vocab_size": 50257, "n_embd": 2, "n_inner": 2}
    write(directory, make_tensors(config), config)
    load(directory)
    assert loaded_vocabulary(db) == (1, 50257, 50256, [50256])


# model's rows of wte, config's eos_token_id, extra tokens after 259 -> n_token, eos_tokens
OWN_FILES = {
    "the same size": (260, 259, ["<|endoftext|>"], 260, [259]),
    "eos_token_id counts": (260, 7, ["<|endoftext|>"], 260, [7]),
    "eos_token_id may be a list": (260, [8, 7], ["<|endoftext|>"], 260, [8, 7]),
    "eos_token_id is null": (260, None, ["<|endoftext|>"], 260, []),
    "eos_token_id is no id": (261, 50256, ["<|endoftext|>", "<pad>"], 261, []),
    "no <|endoftext|>": (260, 259, ["</s>"], 260, [259]),
    "padded": (300, 259, ["<|endoftext|>"], 260, [259]),
    "an added token has no row": (259, 7, ["<|endoftext|>"], 259, [7]),
}


@pytest.mark.parametrize("case", OWN_FILES)
@pytest.mark.parametrize("layout", ["vocab.json", "added_tokens.json", "tokenizer.json"])
def test_vocabulary_files(db, load, directory, layout, case):
    n_vocab, eos, extra, n_token, eos_tokens = OWN_FILES[case]
    if layout == "vocab.json":
        write_vocabulary(directory, extra)
    else:
        tokens = write_vocabulary(directory, [])
        added = list(enumerate(extra, len(tokens)))
        if layout == "added_tokens.json":
            content = {t: i for i, t in added}
        else:
            content = tokenizer_json(tokens, added)
        (directory / layout).write_text(json.dumps(content))
    config = CONFIG | {"vocab_size": n_vocab, "eos_token_id": eos}
    write(directory, make_tensors(config), config)
    load(directory)
    tokenizer, *loaded = loaded_vocabulary(db)
    assert tokenizer > 1 and loaded == [n_token, None, eos_tokens]
    sql = "SELECT convert_from(bytes, 'UTF8') FROM gpt2.token WHERE tokenizer = %s AND token > 255"
    loaded_tokens = [row[0] for row in db.execute(sql + " ORDER BY token", (tokenizer,))]
    # as in transformers, which adds it where it is not there
    default = [] if "<|endoftext|>" in extra else ["<|endoftext|>"]
    assert loaded_tokens == [" t", " a", " th", *extra, *default]
    merges = db.execute(
        """SELECT "left", "right", token FROM gpt2.merge WHERE tokenizer = %s ORDER BY rank""",
        (tokenizer,),
    ).fetchall()
    space, t, a, h = (list(vocabulary.byte_encoder()).index(c) for c in "Ġtah")
    assert merges == [(space, t, 256), (space, a, 257), (256, h, 258)]
    mergeable = db.execute(
        "SELECT count(*) FROM gpt2.token WHERE tokenizer = %s AND mergeable", (tokenizer,)
    ).fetchone()[0]
    assert mergeable == 259


@pytest.mark.parametrize(
    "n_vocab, eos, n_token, end",
    [
        (50257, {}, 50257, 50256),
        (50304, {}, 50257, 50256),
        (50304, {"bos_token_id": 9, "eos_token_id": 9}, 50257, 9),
    ],
)
def test_without_vocabulary_files(db, load, directory, n_vocab, eos, n_token, end):
    """GPT-2's own, where the model has a row for each of its tokens."""
    config = CONFIG | {"vocab_size": n_vocab, "n_embd": 2, "n_inner": 2} | eos
    write(directory, make_tensors(config), config)
    load(directory, tokenizer=None)
    assert loaded_vocabulary(db) == (1, n_token, end, [end])


@pytest.mark.parametrize(
    "eos, last, ends",
    [
        (299, b"<|endoftext|>", [299]),
        ([7, 299], b"<|endoftext|>", [7, 299]),
        ([7], b" n", [7]),
        (None, b" n", []),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_part_of_own_vocabulary(db, load, directory, eos, last, ends, file):
    """Where the caller says so: its first tokens, the last being <|endoftext|> if that ends."""
    config = CONFIG | {"eos_token_id": None, "bos_token_id": None}
    write(directory, make_tensors(config), config)
    said = json.loads((directory / file).read_text()) if file == "config.json" else {}
    (directory / file).write_text(json.dumps(said | {"eos_token_id": eos}))
    load(directory, tokenizer=vocabulary.OWN)
    tokenizer, *loaded = loaded_vocabulary(db)
    assert loaded == [300, None, ends]
    tokens = db.execute(
        "SELECT bytes, special FROM gpt2.token WHERE tokenizer = %s ORDER BY token", [tokenizer]
    ).fetchall()
    own = db.execute("SELECT bytes FROM gpt2.token WHERE tokenizer = 1 ORDER BY token LIMIT 299")
    assert [text for text, _ in tokens] == [text for (text,) in own] + [last]
    assert tokens[-1][1] is (True if last.startswith(b"<") else None)
    n_merges = db.execute(
        "SELECT count(*) FROM gpt2.merge WHERE tokenizer = %s", [tokenizer]
    ).fetchone()
    assert n_merges == (300 - 256 - last.startswith(b"<"),)


def test_the_vocabulary_of_another_directory(db, load, directory, tmp_path_factory):
    write(directory, make_tensors(CONFIG))
    other = directory / "other"
    other.mkdir(mode=0o755)
    tokens = write_vocabulary(other, ["</s>"])
    load(directory, tokenizer=str(other))
    assert loaded_vocabulary(db)[1] == len([*tokens, "<|endoftext|>"])


def test_equal_vocabularies_are_kept_once(db, load, directory):
    write(directory, make_tensors(CONFIG))
    tokens = write_vocabulary(directory)
    load(directory, "a")
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink()
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokens)))
    load(directory, "b")
    assert count_rows(db, ["tokenizer"]) == {"tokenizer": 2}


# Replacing and dropping


def test_name_is_taken(db, load, directory):
    write(directory, make_tensors(CONFIG))
    load(directory)
    before = contents(db)
    write(directory, make_tensors(CONFIG, seed=2))
    with pytest.raises(Refused) as refusal:
        load(directory)
    assert refusal.value.sqlstate == "42710"
    assert refusal.value.message == 'model "m" already exists'
    assert "replace" in refusal.value.hint
    assert contents(db) == before


@pytest.mark.parametrize("own", [False, True])
def test_replace(db, load, directory, own):
    """own: with a vocabulary of its own, which no other model keeps alive."""
    write(directory, make_tensors(CONFIG))
    if own:
        write_vocabulary(directory)
    load(directory)
    before = count_rows(db, TABLES + VOCABULARY)
    tensors = make_tensors(CONFIG, seed=2)
    write(directory, tensors)
    load(directory, replace=True)
    check_rows(db, tensors)
    assert count_rows(db, TABLES + VOCABULARY) == before
    assert db.execute("SELECT is_default FROM gpt2.model").fetchone() == (True,)


def test_drop(db, load, directory):
    before = count_rows(db, TABLES + VOCABULARY)
    write(directory, make_tensors(CONFIG))
    write_vocabulary(directory)
    load(directory)
    db.execute("SELECT gpt2_drop_model('m')")
    assert count_rows(db, TABLES + VOCABULARY) == before


# What is refused. Each case changes a directory that could be loaded.


def change(**changes):
    """Changes keys of config.json; None removes one."""

    def apply(directory):
        path = directory / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return apply


def tensors(**changes):
    """Changes tensors (keys with __ for .): None removes one, a function changes it."""

    def apply(directory):
        content = make_tensors(CONFIG)
        for key, value in changes.items():
            name = key.replace("__", ".")
            if value is None:
                del content[name]
            else:
                content[name] = value(content.get(name))
        write(directory, content)

    return apply


def text(name, content):
    """Writes a file; None removes it."""

    def apply(directory):
        if content is None:
            (directory / name).unlink()
        else:
            data = content if isinstance(content, str) else json.dumps(content)
            (directory / name).write_bytes(data.encode("utf-8", "surrogateescape"))

    return apply


def steps(*parts):
    def apply(directory):
        for part in parts:
            part(directory)

    return apply


def tokenizer(**changes):
    """A tokenizer.json with changed parts; model__x is x of its model."""

    def apply(directory):
        file = tokenizer_json([*vocabulary.byte_encoder(), "Ġt", "Ġa", "Ġth"])
        for key, value in changes.items():
            part, _, option = key.partition("__")
            if option:
                file[part] = file[part] | {option: value}
            else:
                file[part] = value
        (directory / "tokenizer.json").write_text(json.dumps(file))

    return apply


def vocab(change_tokens):
    """A vocab.json and merges.txt with a change of the ids."""

    def apply(directory):
        write_vocabulary(directory)
        path = directory / "vocab.json"
        ids = json.loads(path.read_text())
        change_tokens(ids)
        path.write_text(json.dumps(ids))

    return apply


def infinite(value):
    def apply(tensor):
        tensor[-1, -1] = value
        return tensor

    return apply


def of_dtype(dtype):
    return lambda tensor: tensor.astype(dtype)


def new(*shape):
    return lambda _: np.zeros(shape, dtype=np.float32)


REFUSALS = {
    # config.json
    "no config.json": (text("config.json", None), "58P01", "has no config.json"),
    "config.json is not JSON": (text("config.json", "{"), "22P03", "is not valid JSON"),
    "config.json is a list": (text("config.json", "[]"), "22P03", "is not valid"),
    "config.json is not UTF-8": (text("config.json", "\udcff"), "22P03", "is not UTF-8 text"),
    "a key twice": (text("config.json", '{"a": 1, "a": 2}'), "22P03", "is not valid JSON"),
    "deep JSON": (text("config.json", "[" * 100000), "22P03", "is not valid JSON"),
    "model_type": (change(model_type="llama"), "0A000", 'model_type "llama" is not supported'),
    "no model_type": (change(model_type=None, architectures=None), "0A000", "model_type"),
    "architecture": (
        change(architectures=["GPT2ForSequenceClassification"]),
        "0A000",
        'architecture "GPT2ForSequenceClassification" is not supported',
    ),
    "relu": (
        change(activation_function="relu"),
        "0A000",
        'activation_function "relu" is not supported',
    ),
    "gelu_10": (change(activation_function="gelu_10"), "0A000", 'activation_function "gelu_10"'),
    "inverse layer is text": (
        change(scale_attn_by_inverse_layer_idx="yes"),
        "22000",
        "scale_attn_by_inverse_layer_idx is not true or false",
    ),
    "cross-attention": (
        change(add_cross_attention=True),
        "0A000",
        "add_cross_attention is not supported",
    ),
    "quantized": (
        change(quantization_config={"bits": 4}),
        "0A000",
        "a quantized checkpoint is not supported",
    ),
    "too wide": (change(n_embd=4002, n_head=2), "0A000", "n_embd 4002 is not supported"),
    "context too long": (change(n_positions=16001), "0A000", "n_positions 16001 is not supported"),
    "n_inner too wide": (change(n_inner=16001), "0A000", "n_inner 16001 is not supported"),
    "heads": (change(n_head=3), "22000", "n_embd 8 is not a multiple of n_head 3"),
    "no heads": (change(n_head=0), "22000", "n_head is not a positive integer: 0"),
    "n_layer text": (change(n_layer="2"), "22000", 'n_layer is not a positive integer: "2"'),
    "n_layer true": (change(n_layer=True), "22000", "n_layer is not a positive integer: true"),
    "tie text": (
        change(tie_word_embeddings="no"),
        "22000",
        'tie_word_embeddings is not true or false: "no"',
    ),
    "epsilon": (change(layer_norm_epsilon=0), "22000", "layer_norm_epsilon is not between 0 and 1"),
    # weights
    "no weights": (text("model.safetensors", None), "58P01", "has no model.safetensors"),
    "pickled weights": (
        steps(text("model.safetensors", None), text("pytorch_model.bin", "x")),
        "58P01",
        "has no model.safetensors",
    ),
    "adapter": (
        steps(text("config.json", None), text("adapter_config.json", "{}")),
        "58P01",
        "has no config.json",
    ),
    "tensor missing": (
        tensors(h__1__mlp__c_fc__weight=None),
        "22000",
        'tensor "h.1.mlp.c_fc.weight" is missing',
    ),
    "untied without lm_head": (
        change(tie_word_embeddings=False),
        "22000",
        'tensor "lm_head.weight" is missing',
    ),
    "more blocks in the config": (
        change(n_layer=3),
        "22000",
        'tensor "h.2.ln_1.weight" is missing',
    ),
    "more blocks in the file": (
        change(n_layer=1),
        "0A000",
        'tensor "transformer.h.1.attn.c_attn.bias" is not one of GPT-2\'s',
    ),
    "cross-attention's tensor": (
        tensors(h__0__crossattention__c_attn__weight=new(8, 16)),
        "0A000",
        'tensor "transformer.h.0.crossattention.c_attn.weight" is not one of GPT-2\'s',
    ),
    "LoRA": (
        tensors(h__0__attn__c_attn__lora_A__weight=new(2, 8)),
        "0A000",
        'tensor "transformer.h.0.attn.c_attn.lora_A.weight" is not one of GPT-2\'s',
    ),
    "n_embd": (
        change(n_embd=16),
        "22000",
        'tensor "transformer.wte.weight" has shape [300, 8] instead of [300, 16]',
    ),
    "n_positions": (
        change(n_positions=15),
        "22000",
        'tensor "transformer.wpe.weight" has shape [16, 8] instead of [15, 8]',
    ),
    "n_inner": (
        change(n_inner=None),
        "22000",
        'tensor "transformer.h.0.mlp.c_fc.weight" has shape [8, 20] instead of [8, 32]',
    ),
    "bias's shape": (
        tensors(ln_f__bias=new(9)),
        "22000",
        'tensor "transformer.ln_f.bias" has shape [9] instead of [8]',
    ),
    "8 bits": (
        tensors(wpe__weight=of_dtype(np.int8)),
        "0A000",
        'tensor "transformer.wpe.weight" has the unsupported dtype I8',
    ),
    "64 bits": (
        tensors(wpe__weight=of_dtype(np.float64)),
        "0A000",
        'tensor "transformer.wpe.weight" has the unsupported dtype F64',
    ),
    "NaN": (
        tensors(h__1__mlp__c_proj__weight=infinite(np.nan)),
        "22000",
        'tensor "transformer.h.1.mlp.c_proj.weight" has a NaN or an infinity',
    ),
    "infinity": (
        tensors(wte__weight=infinite(-np.inf)),
        "22000",
        'tensor "transformer.wte.weight" has a NaN or an infinity',
    ),
    "untied without wte": (
        steps(
            tensors(lm_head__weight=new(300, 8), wte__weight=None),
            change(tie_word_embeddings=False),
        ),
        "22000",
        'tensor "wte.weight" is missing',
    ),
    "another head": (
        tensors(lm_head__bias=new(300)),
        "0A000",
        'tensor "transformer.lm_head.bias" is not one of GPT-2\'s',
    ),
    "lm_head is not wte": (
        tensors(lm_head__weight=new(300, 8)),
        "22000",
        'tensor "lm_head.weight" differs from "wte.weight"',
    ),
    # an index
    "index is not valid": (
        steps(
            text("model.safetensors", None),
            text("model.safetensors.index.json", {"weight_map": [1]}),
        ),
        "22000",
        "weight_map is not an object: [1]",
    ),
    "index names a path": (
        steps(
            text("model.safetensors", None),
            text("model.safetensors.index.json", {"weight_map": {"a": "../a.safetensors"}}),
        ),
        "22000",
        'names "../a.safetensors"',
    ),
    "shard is missing": (
        steps(
            text("model.safetensors", None),
            text("model.safetensors.index.json", {"weight_map": {"a": "a.safetensors"}}),
        ),
        "58P01",
        "could not read",
    ),
    "not in its shard": (
        lambda d: (
            (d / "model.safetensors").rename(d / "a.safetensors"),
            text("model.safetensors.index.json", {"weight_map": {"x": "a.safetensors"}})(d),
        ),
        "22000",
        'tensor "x" is missing',
    ),
    # vocabularies
    "no merges": (text("vocab.json", "{}"), "58P01", "has no merges.txt"),
    "no vocab": (text("merges.txt", ""), "58P01", "has no vocab.json"),
    "fewer ids than tokens": (
        steps(vocab(lambda ids: None), change(vocab_size=200), lambda d: tensors_of_200(d)),
        "22000",
        "the vocabulary has 260 tokens, the model 200",
    ),
    "no byte": (
        vocab(lambda ids: ids.update(xx=ids.pop("!"))),
        "0A000",
        "no token stands for the byte 0x21",
    ),
    "hole": (vocab(lambda ids: ids.update(xx=261)), "22000", "is not consistent"),
    "id twice": (vocab(lambda ids: ids.update(xx=5)), "22000", "is not consistent"),
    "id is text": (vocab(lambda ids: ids.update(xx="260")), "22000", "is not consistent"),
    "merge of no tokens": (
        steps(vocab(lambda ids: None), text("merges.txt", "a b\n")),
        "22000",
        "is not consistent",
    ),
    "merge twice": (
        steps(vocab(lambda ids: None), text("merges.txt", "Ġ t\nĠ t\n")),
        "22000",
        "is not consistent",
    ),
    "add_prefix_space": (
        text("tokenizer_config.json", {"add_prefix_space": True}),
        "0A000",
        "add_prefix_space is set",
    ),
    "WordPiece": (tokenizer(model__type="WordPiece"), "0A000", 'its model is "WordPiece", not BPE'),
    "normalizer": (tokenizer(normalizer={"type": "NFC"}), "0A000", "it has a normalizer"),
    "words": (
        tokenizer(pre_tokenizer={"type": "Whitespace"}),
        "0A000",
        'its pre_tokenizer is "Whitespace", not ByteLevel',
    ),
    "prefix space": (
        tokenizer(pre_tokenizer__add_prefix_space=True),
        "0A000",
        "add_prefix_space is set",
    ),
    "no pattern": (tokenizer(pre_tokenizer__use_regex=False), "0A000", "use_regex is not set"),
    "dropout": (tokenizer(model__dropout=0.1), "0A000", "dropout is set"),
    "whole words": (tokenizer(model__ignore_merges=True), "0A000", "ignore_merges is set"),
    "suffix": (tokenizer(model__end_of_word_suffix="</w>"), "0A000", "end_of_word_suffix is set"),
    "lstrip": (
        tokenizer(added_tokens=[{"id": 259, "content": "<mask>", "lstrip": True}]),
        "0A000",
        'lstrip is set for the added token "<mask>"',
    ),
    "overlap": (
        tokenizer(
            added_tokens=[
                {"id": 259, "content": "abc", "special": False, "normalized": True},
                {"id": 260, "content": "cd", "special": True, "normalized": False},
            ]
        ),
        "0A000",
        'the added tokens "cd" and "abc" overlap',
    ),
    "two ids": (
        tokenizer(added_tokens=[{"id": 259, "content": "a"}]),
        "22000",
        "is not consistent",
    ),
    "an added byte": (
        tokenizer(added_tokens=[{"id": 165, "content": "é"}]),
        "0A000",
        'the added token "é" is a byte',
    ),
    "no vocabulary": (lambda d: None, "58P01", "has no vocabulary"),
    "spiece.model": (text("spiece.model", ""), "0A000", "it is spiece.model"),
    "vocab.txt": (text("vocab.txt", ""), "0A000", "it is vocab.txt"),
    "class of the tokenizer": (
        text("tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}),
        "0A000",
        'its tokenizer_class is "T5Tokenizer"',
    ),
    "class in config.json": (
        steps(vocab(lambda ids: None), change(tokenizer_class="BertTokenizer")),
        "0A000",
        'its tokenizer_class is "BertTokenizer"',
    ),
    "eos beyond the tokens": (
        steps(vocab(lambda ids: None), change(eos_token_id=[1, 270])),
        "22000",
        "eos_token_id 270 is no token of the vocabulary",
    ),
    "bos beyond the tokens": (
        steps(vocab(lambda ids: None), change(bos_token_id=270)),
        "22000",
        "bos_token_id 270 is no token of the vocabulary",
    ),
    "eos is a text": (
        steps(vocab(lambda ids: None), change(eos_token_id="</s>")),
        "22000",
        'eos_token_id is not a token id: "</s>"',
    ),
    "added <s>": (
        tokenizer(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
            }
        ),
        "0A000",
        "its post_processor adds tokens",
    ),
    "not a tokenizer": (text("tokenizer.json", {"model": 1}), "22000", "model is not an object: 1"),
    "vocab is a list": (tokenizer(model__vocab=[1]), "22000", "vocab is not an object: [1]"),
    "merges is a number": (tokenizer(model__merges=1), "22000", "merges is not a list: 1"),
}


@pytest.mark.parametrize(
    "name",
    [
        "wte.weight",
        "wpe.weight",
        "h.0.ln_1.weight",
        "h.1.ln_2.bias",
        "h.0.attn.c_attn.weight",
        "h.1.mlp.c_proj.weight",
        "h.1.mlp.c_proj.bias",
        "ln_f.weight",
    ],
)
def test_weights_whose_products_overflow(db, load, directory, name):
    """float32 holds the weight itself, and pgvector raised an error at every call."""
    tensors = make_tensors(CONFIG)
    tensors[name].flat[-1] = 3e38
    write(directory, tensors)
    with pytest.raises(Refused) as refusal:
        load(directory)
    assert refusal.value.sqlstate == "22000"
    assert refusal.value.message == f'the weights of tensor "transformer.{name}" are too large'
    assert refusal.value.detail and refusal.value.hint
    assert count_rows(db, TABLES) == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize(
    "large, place",
    [
        (("wte.weight", "ln_f.weight"), "a logit"),
        (("h.0.ln_1.weight", "h.0.attn.c_attn.weight"), "attention in block 0"),
        (("h.1.attn.c_attn.weight", "h.1.attn.c_proj.weight"), "the residual stream after block 1"),
        (("h.1.ln_2.bias", "h.1.mlp.c_fc.weight"), "the perceptron in block 1"),
    ],
)
def test_weights_whose_activations_overflow(db, load, directory, large, place):
    """Each is far from float32's end, but one multiplies what the other has made."""
    tensors = make_tensors(CONFIG)
    for name in large:
        tensors[name].flat[-1] = 1e12
    write(directory, tensors)
    with pytest.raises(Refused) as refusal:
        load(directory)
    assert refusal.value.sqlstate == "22000"
    assert refusal.value.message == f"the weights are too large: {place} may overflow"
    assert f"transformer.{large[0]}" in refusal.value.detail or (
        f"transformer.{large[1]}" in refusal.value.detail
    )
    assert count_rows(db, TABLES) == dict.fromkeys(TABLES, 0)
    # one of them alone is no harm
    tensors[large[0]].flat[-1] = 1
    write(directory, tensors)
    load(directory)
    check_rows(db, tensors)
    assert db.execute("SELECT cardinality(gpt2_forward('{1,2,3}'))").fetchone() == (3,)


def tensors_of_200(directory):
    config = CONFIG | {"vocab_size": 200}
    write(directory, make_tensors(config), config)


#: which are of directories without a vocabulary
WITHOUT = (
    "no vocabulary",
    "spiece.model",
    "vocab.txt",
    "class of the tokenizer",
    "add_prefix_space",
)


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(db, load, directory, case):
    apply, sqlstate, message = REFUSALS[case]
    write(directory, make_tensors(CONFIG))
    apply(directory)
    before = count_rows(db, TABLES + VOCABULARY)
    with pytest.raises(Refused) as refusal:
        load(directory, tokenizer=None if case in WITHOUT else ITS_OWN)
    assert (refusal.value.sqlstate, message in refusal.value.message) == (sqlstate, True), refusal
    assert refusal.value.detail
    assert count_rows(db, TABLES + VOCABULARY) == before


@pytest.mark.parametrize(
    "case, hint",
    [
        ("pickled weights", "save_pretrained()"),
        ("adapter", "Merge the adapter"),
        ("LoRA", "merged"),
        ("relu", "gelu_new"),
        ("8 bits", "float32"),
        ("lm_head is not wte", '"tie_word_embeddings": false'),
    ],
)
def test_hints(load, directory, case, hint):
    write(directory, make_tensors(CONFIG))
    REFUSALS[case][0](directory)
    with pytest.raises(Refused) as refusal:
        load(directory)
    assert hint in refusal.value.hint


def test_no_such_directory(load):
    with pytest.raises(Refused) as refusal:
        load(Path("/nonexistent/model"))
    assert refusal.value.sqlstate == "58P01"
    assert refusal.value.message == 'could not read "/nonexistent/model"'


# Attacks: files that claim what is not so


def file_of(header, data=b"", n_header=None):
    """Bytes of a safetensors file; n_header is the length of the header that it claims."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if n_header is None else n_header) + header + data


def entry(start, end, shape=(2,), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]} | more


TWICE = b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 8)).encode(),) * 2)

ATTACKS = {
    "empty": (b"", "fewer than the length of a header has"),
    "no header": (b"\0\0\0", "fewer than the length of a header has"),
    "header too large": (file_of({}, n_header=2**62), "at most 10000000 are allowed"),
    "header beyond the end": (
        file_of({}, n_header=99),
        "Its header would have 99 bytes, the file has 10",
    ),
    "not JSON": (file_of(b"not JSON"), "Expecting value"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "not UTF-8"),
    "not an object": (file_of(b"[]"), "not an object"),
    "pickle": (b"\x80\x02}q\x00." * 3, "at most 10000000 are allowed"),
    "name twice": (file_of(TWICE, bytes(8)), 'Key "a" is there twice'),
    "entry is a list": (file_of({"a": []}), "needs dtype, shape and data_offsets"),
    "entry without dtype": (file_of({"a": {"shape": []}}), "needs dtype, shape and data_offsets"),
    "entry with more": (file_of({"a": entry(0, 8, x=1)}, bytes(8)), "needs dtype, shape and"),
    "unknown dtype": (file_of({"a": entry(0, 8, dtype="F33")}, bytes(8)), 'unknown dtype "F33"'),
    "dtype is a list": (file_of({"a": entry(0, 8, dtype=[])}, bytes(8)), "unknown dtype []"),
    "negative shape": (file_of({"a": entry(0, 8, shape=(-2, -1))}, bytes(8)), "shape [-2, -1]"),
    "fraction in a shape": (file_of({"a": entry(0, 8, shape=(2.0,))}, bytes(8)), "shape [2.0]"),
    "negative offset": (file_of({"a": entry(-8, 0)}, bytes(8)), "offsets [-8, 0]"),
    "offsets backwards": (file_of({"a": entry(8, 0)}, bytes(8)), "has 8 bytes, its offsets are"),
    "shape does not fit": (file_of({"a": entry(0, 8, shape=(3,))}, bytes(8)), "has 12 bytes"),
    "shape overflows": (
        file_of({"a": entry(0, 8, shape=(2**32, 2**32, 2**32))}, bytes(8)),
        "has the shape [4294967296, 4294967296, 4294967296]",
    ),
    "hole at the start": (file_of({"a": entry(4, 12)}, bytes(12)), '"a" does not begin where'),
    "hole": (
        file_of({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
        '"b" does not begin where',
    ),
    "overlap": (
        file_of({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
        '"b" does not begin where',
    ),
    "truncated": (file_of({"a": entry(0, 8)}, bytes(7)), "it is truncated"),
    "bytes left over": (file_of({"a": entry(0, 8)}, bytes(9)), "bytes are left over"),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_attacks(db, load, directory, case):
    data, detail = ATTACKS[case]
    write(directory, make_tensors(CONFIG))
    (directory / "model.safetensors").write_bytes(data)
    with pytest.raises(Refused) as refusal:
        load(directory)
    assert refusal.value.sqlstate == "22P03"
    assert str(directory / "model.safetensors") in refusal.value.message
    assert detail in refusal.value.detail
    assert count_rows(db, TABLES) == dict.fromkeys(TABLES, 0)


def test_truncated_download(db, load, directory):
    write(directory, make_tensors(CONFIG))
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(Refused, match="it is truncated"):
        load(directory)
