"""Other programs of `make bench PEERS=1` compute what transformers does, ours among them, and what
does not is refused. Nothing is timed. `make test-oracle`, where their packages are installed.
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import load_model
from oracle.checkpoints import SHAPES, write_checkpoint

from bench.peers import same

SHAPE = SHAPES["five_blocks"]
PROGRAMS = [
    "float32",
    "float16",
    "ctranslate2 float32",
    "ctranslate2 int8",
    "llama f16",
    "llama q8_0",
]


class Said:
    """A program that says what it is told, and the same after any prompt."""

    name, tolerance = "this program", 0.01

    def __init__(self, logits: list[float], tokens: list[int] | None = None, text: str = "?"):
        logits = np.array(logits)
        with np.errstate(invalid="ignore"):
            self.row = logits - np.logaddexp.reduce(logits)
        self.tokens = tokens or [int(self.row.argmax())] * same.N
        self.words = text
        self.text = self  # the tokenizer

    def log_probabilities(self, tokens):
        return self.row

    def every_log_probability(self, tokens):
        return np.tile(self.row, (len(tokens), 1))

    def generate(self, tokens, n):
        return self.tokens

    def complete(self, texts, n):
        return [self.words]

    def encode(self, texts):
        return [[0]]

    def decode(self, rows):
        return ["?"]


REFERENCE = Said([0.0, 1.0, 2.0, 3.0])


def test_the_same_passes():
    same.check(Said([0.0, 1.0, 2.0, 3.001]), REFERENCE, 4)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (Said([0.0, 1.0, 2.1, 3.0]), "the error of its log probabilities is 0.0"),
        (Said([0.0, 1.0, 2.0, float("nan")]), "the error of its log probabilities is nan"),
        (Said([0.0, 1.0, 2.0]), r"\(3,\) log probabilities, not \(4,\)"),
        (Said([0.0, 1.0, 2.0, 3.0], [3] * 15), "15 tokens after a prompt of 1, not 16"),
        (Said([0.0, 1.0, 2.0, 3.0], [3] * 15 + [2]), "its token 15 is 2, where another is"),
        (Said([0.0, 1.0, 2.0, 3.0], text="!"), "it completes .* by '!', its tokens are '\\?'"),
    ],
)
def test_what_differs_ends_the_benchmark(program, said):
    with pytest.raises(SystemExit, match=f"^this program does not compute what .* does: .*{said}"):
        same.check(program, REFERENCE, 4)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    # none of 1,000 tokens is as rare as one of 50,000: <|endoftext|> must not be chosen, see Peer
    return write_checkpoint(tmp_path_factory.mktemp("peers") / "model", SHAPE, seed=1, end=-20)


@pytest.fixture(scope="module")
def reference(directory):
    from bench.peers.in_pytorch import Transformers

    return Transformers(directory)


@pytest.fixture(params=PROGRAMS)
def peer(request, directory, tmp_path, new_database):
    program, _, kind = request.param.rpartition(" ")
    if program == "ctranslate2":
        pytest.importorskip("ctranslate2", reason="installed by make bench PEERS=1")
        from bench.peers.in_ctranslate2 import CTranslate2

        peer = CTranslate2(directory, tmp_path / kind, kind)
    elif program == "llama":
        pytest.importorskip("xllamacpp", reason="installed by make bench PEERS=1")
        from bench.peers.in_llama_cpp import LlamaCpp

        peer = LlamaCpp(directory, tmp_path / kind, kind)
    else:
        from bench.peers.in_sql import InSQL

        uri = new_database(holds="extension")
        load_model(uri, directory, "peer", "--dtype", kind)
        peer = InSQL(uri, "peer", kind)
    yield peer
    peer.close()


@pytest.mark.oracle
def test_a_program_computes_the_same(peer, reference):
    same.check(peer, reference, SHAPE["vocab_size"])
    prompt = same.prompts(SHAPE["vocab_size"])[1]
    before = peer.clock()
    peer.first_token(prompt)
    for n in (1, 17):
        peer.extend(prompt, n)
    assert peer.clock() > before
    assert len(peer.complete(["To create", "an index"], 3)) == 2


@pytest.mark.oracle
def test_another_checkpoint_is_refused(peer, reference, tmp_path):
    from bench.peers.in_pytorch import Transformers

    other = Transformers(write_checkpoint(tmp_path / "other", SHAPE, seed=2))
    with pytest.raises(SystemExit, match="the error of its log probabilities is"):
        same.check(peer, other, SHAPE["vocab_size"])
