"""`make verify` on a model whose figures transformers computed: equal, and with one weight changed."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, load_model, one
from oracle.checkpoints import VERIFIED, write_checkpoint
from verify import __main__ as command
from verify import figures
from verify.ours import Ours, compare

RANDOM = ROOT / "tests/verify/random.json"


@pytest.fixture(scope="module")
def verified(new_database, tmp_path_factory):
    """A database with the model of random.json."""
    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as connection:
        load_model(uri, write_checkpoint(tmp_path_factory.mktemp("verified"), VERIFIED), "verified")
        yield connection


def rows(connection: psycopg.Connection, path: Path = RANDOM) -> list[figures.Row]:
    return list(compare(figures.read(path), Ours(connection, "verified")))


def test_every_figure_is_equal(verified):
    compared = rows(verified)
    assert [row for row in compared if not all(row.equal)] == []
    published = json.loads(RANDOM.read_text())

    def count(value) -> int:
        if isinstance(value, dict):
            return sum(count(v) for k, v in value.items() if k not in ("source", "prompt", "word"))
        return sum(map(count, value)) if isinstance(value, list) else 1

    assert sum(len(row.equal) for row in compared) == count(published)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("UPDATE gpt2.layer_norm SET bias = bias + array_fill(0.01, ARRAY[32])::vector"
         " WHERE layer = 'ln_f'", "ln_final.hook_out, position 0"),
        ("UPDATE gpt2.bias SET bias = bias + array_fill(0.01, ARRAY[96])::vector"
         " WHERE layer = 'attn.c_attn' AND block = 0", "blocks.0.attn.hook_q, head 0, position 0"),
        ("UPDATE gpt2.wpe SET weight = weight * array_fill(1.000001, ARRAY[32])::vector"
         " WHERE position = 2", "embedding, position 2"),
    ],
    ids=["final norm", "queries", "a position"],
)  # fmt: skip
def test_one_weight_changed(verified, change, first):
    """It is told from the first figure on that the weight touches."""
    with verified.transaction(force_rollback=True):
        verified.execute(change)
        different = [row for row in rows(verified) if not all(row.equal)]
    assert different[0].name == first
    assert "NOT EQUAL" in figures.text(different[0]) and "*" in figures.text(different[0])


def test_command(verified, capsys, monkeypatch):
    """Exit status 0 where all are equal, 1 where one is not."""
    uri = verified.info.dsn
    for path, status in ((RANDOM, 0), (command.ARTICLE, 1)):
        monkeypatch.setattr("sys.argv", ["verify", uri, "verified", "--figures", str(path)])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert int(ended.value.code) == status
        printed = capsys.readouterr().out.splitlines()
        assert printed[-1].startswith("model verified: ")
        assert printed[-1].endswith("figures are equal in every printed digit")
    assert "tokens of PostgreSQL is great: equal" in printed
    assert "embedding, position 0: NOT EQUAL" in printed


def test_the_articles_vocabulary(verified):
    """What needs no weights is equal without them: the article's tokens."""
    article = figures.read(command.ARTICLE)
    equal = {row.name for row in rows(verified, command.ARTICLE) if all(row.equal)}
    assert {f"tokens of {article['prompt']}", "merges of Mississippilessly"} <= equal
    assert one(verified, "SELECT gpt2_tokenize(%s)", article["prompt"]) == article["tokens"]


@pytest.mark.parametrize(
    ("published", "ours", "places", "equal"),
    [
        (["0.73"], [0.7349999], 2, [True]),
        (["0.73"], [0.735], 2, [False]),
        (["-0.001"], [-0.00051], 3, [True]),
        (["0.1"], [0.1049], 2, [True]),  # 0.10 was printed
        (["0.1"], [0.106], 2, [False]),
        (["2.3950911e-15"], [2.39509112e-15], None, [True]),
        (["2.3950911e-15"], [2.3950916e-15], None, [False]),
        (["0.5", "1.0"], [0.5], 1, [True, False]),
    ],
)
def test_digit_by_printed_digit(published, ours, places, equal):
    assert figures.rounded("x", [Decimal(x) for x in published], ours, places).equal == equal
