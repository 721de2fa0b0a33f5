"""Whether a program computes what transformers does: what is timed has to be the same computation.

Two things are compared. The log probabilities of all tokens after a prompt: the error is the root
mean square of the differences, as a share of the standard deviation over the tokens, and how much of
it is allowed depends on the numbers that a program computes with. And what it generates, with the
keys and values that it keeps: by transformers, given the same text, each of its tokens has to be the
likeliest, or as near to it as that error explains.
"""

from __future__ import annotations

import random

import numpy as np

from bench.peers.peer import Peer

#: tokens that are generated after each prompt
N = 16
LENGTHS = (1, 17, 128)
#: by how many times the error allowed a token may be less likely than the likeliest: what decides are
#: the errors of a few tokens
DEVIATIONS = 5
#: of which the whole way is tried
TEXT = "To create an index on a table,"


def prompts(n_vocab: int) -> list[list[int]]:
    """Random tokens, <|endoftext|> not among them."""
    draw = random.Random(1)
    return [[draw.randrange(n_vocab - 1) for _ in range(length)] for length in LENGTHS]


def check(peer: Peer, reference: Peer, n_vocab: int) -> None:
    """Ends the benchmark where a program computes something else."""
    for prompt in prompts(n_vocab):
        check_probabilities(peer, reference, prompt)
        check_tokens(peer, reference, prompt)
    check_text(peer, reference)


def check_probabilities(peer: Peer, reference: Peer, prompt: list[int]) -> None:
    theirs, found = reference.log_probabilities(prompt), peer.log_probabilities(prompt)
    if found.shape != theirs.shape:
        fail(peer, reference, f"{found.shape} log probabilities, not {theirs.shape}")
    error = float(np.sqrt(np.mean((found - theirs) ** 2)) / theirs.std())
    if not error <= peer.tolerance:  # NaN is none
        fail(
            peer,
            reference,
            f"after a prompt of {len(prompt)} tokens the error of its log probabilities is"
            f" {error:.2g}, where {peer.tolerance:.2g} is allowed",
        )


def check_tokens(peer: Peer, reference: Peer, prompt: list[int]) -> None:
    made = peer.generate(prompt, N)
    if len(made) != N:
        fail(peer, reference, f"{len(made)} tokens after a prompt of {len(prompt)}, not {N}")
    rows = reference.every_log_probability([*prompt, *made])[len(prompt) - 1 : -1]
    lost = rows.max(axis=1) - rows[np.arange(N), made]  # [N]: how much likelier the likeliest is
    allowed = DEVIATIONS * peer.tolerance * rows.std(axis=1)
    for i in np.flatnonzero(lost > allowed):
        fail(
            peer,
            reference,
            f"after a prompt of {len(prompt)} tokens its token {i} is {made[i]}, where another is"
            f" exp({lost[i]:.2f}) times as likely",
        )


def check_text(peer: Peer, reference: Peer) -> None:
    """The whole way gives the text of the tokens that the program chooses. Programs write bytes that
    are no character differently."""
    [text] = peer.complete([TEXT], N)
    [tokens] = reference.text.encode([TEXT])
    [expected] = reference.text.decode([peer.generate(tokens, N)])
    if text.replace("\ufffd", "") != expected.replace("\ufffd", ""):
        fail(peer, reference, f"it completes {TEXT!r} by {text!r}, its tokens are {expected!r}")


def fail(peer: Peer, reference: Peer, what: str) -> None:
    raise SystemExit(
        f"{peer.name} does not compute what {reference.name} does: {what}. Nothing was timed"
    )
