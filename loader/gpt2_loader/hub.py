"""A model of the Hugging Face hub: which of its files are wanted, how they come, and what it means
where they do not.

huggingface_hub keeps what it fetches in a cache, which other programs share: a snapshot of a
repository there may lack any file that they did not want. So where a model comes from depends on
what is known of its repository.

The hub answers: its listing says what the repository has. What cannot be loaded is refused before
the weights are fetched, then every wanted file is in the snapshot or there is an error. A snapshot
without a vocabulary is a repository without one: it means what a directory without one means.

The hub is away (offline, no network, hub down, rate limited): the cache's snapshot is taken, and a
notice says so. Where no listing is in the cache either, a file that is not in the snapshot may be
in the repository, so a snapshot without a vocabulary is refused, unless the caller says which is
meant.

The hub refuses (gated, unknown): an error, whatever the cache has. HF_HUB_OFFLINE=1 takes that.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from http.client import responses
from typing import NamedTuple

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import (
    DisabledRepoError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    disable_progress_bars,
    filter_repo_objects,
)

from gpt2_loader import files
from gpt2_loader.checkpoint import GENERATION, INDEX, WEIGHTS, read_config
from gpt2_loader.client import SOURCES
from gpt2_loader.errors import BAD_ARGUMENT, IO_ERROR, NO_FILE, NO_PRIVILEGE, LoadError
from gpt2_loader.vocabulary import OTHERS

CONFIG = "config.json"
VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", *OTHERS)
SMALL = (
    CONFIG,
    GENERATION,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *VOCABULARY,
)

# opens pull requests that add a repository's weights as safetensors
CONVERTER = "SFconvertbot"

_LOGIN = "hf auth login, or set HF_TOKEN"
_AGAIN = "run the same command again"


class Snapshot(NamedTuple):
    """directory: where the files are; commit: of the repository; notice: what the user should
    know, or None."""

    directory: str
    commit: str
    notice: str | None = None


class _Away(LoadError):
    """The hub has not answered what it was asked; the cache may have the model."""


def fetch(hub_id, revision=None, tokenizer=None):
    """The Snapshot of a model, from the hub or, where that is away, from the cache.

    revision: branch, tag, commit or refs/pr/N; tokenizer: as for a Checkpoint.
    """
    try:
        repository = _ask(hub_id, revision)
    except _Away as away:
        return _from_cache(hub_id, revision, tokenizer, away)
    _check(hub_id, revision, repository)
    return _download(hub_id, revision, repository)


def _ask(hub_id, revision):
    """What the hub says of a repository: a ModelInfo with the commit and the files."""
    with _errors(hub_id, revision):
        return HfApi().model_info(
            hub_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )


def _names(repository):
    return [file.rfilename for file in repository.siblings or []]


def _wanted(names):
    """Those of a repository's files that a model is loaded from."""
    weights = [WEIGHTS] if WEIGHTS in names else [INDEX, "model*.safetensors"]
    at_the_top = [name for name in names if "/" not in name]
    return list(filter_repo_objects(at_the_top, allow_patterns=[*SMALL, *weights]))


def _has_weights(names):
    return WEIGHTS in names or INDEX in names


def _check(hub_id, revision, repository):
    """Refuses a repository without configuration or weights."""
    names = _names(repository)
    if CONFIG not in names:
        lora = "adapter_config.json" in names
        raise LoadError(
            NO_FILE,
            f'"{hub_id}" on the hub has no {CONFIG}',
            "It holds an adapter, not a model." if lora
            else "A model is config.json and model.safetensors.",
            "Merge the adapter into its model and save that." if lora else None,
        )  # fmt: skip
    if not _has_weights(names):
        others = sorted(name for name in names if name.endswith((".bin", ".h5", ".msgpack")))
        converted = None if revision else _converted(hub_id, repository)
        raise LoadError(
            NO_FILE,
            f'"{hub_id}" on the hub has no {WEIGHTS}',
            f"It has {', '.join(others)}. Nothing was fetched." if others
            else f"It has no {INDEX} either. Nothing was fetched.",
            f"The hub's {CONVERTER} has converted it: gpt2-loader load {hub_id} "
            f"--revision {converted}" if converted
            else f"Convert it: transformers' AutoModelForCausalLM.from_pretrained({hub_id!r})"
            ".save_pretrained(DIRECTORY), AutoTokenizer's beside it; then load DIRECTORY.",
        )  # fmt: skip


def _converted(hub_id, repository):
    """The revision in which the hub's bot has converted a repository's weights, or None.

    A pull request has the repository's files beside those that it adds: where the former are not
    the same files, it has converted others.
    """
    try:
        with _errors(hub_id, None):
            requests = list(HfApi().get_repo_discussions(hub_id, author=CONVERTER))
        for request in requests:
            if request.is_pull_request and request.author == CONVERTER:
                converted = _ask(hub_id, request.git_reference)
                if _has_weights(_names(converted)) and _pickled(converted) == _pickled(repository):
                    return request.git_reference
    except LoadError:
        pass  # there is the other way to convert it
    return None


def _pickled(repository):
    """The git objects of PyTorch's own files."""
    return {
        file.rfilename: file.blob_id
        for file in repository.siblings or []
        if file.rfilename.endswith(".bin")
    }


def _download(hub_id, revision, repository):
    """The Snapshot of a repository after every wanted file has come."""
    if not sys.stderr.isatty():
        disable_progress_bars()
    wanted = _wanted(_names(repository))
    try:
        with _errors(hub_id, revision):
            config = huggingface_hub.hf_hub_download(hub_id, CONFIG, revision=repository.sha)
        read_config(config, files.read_json(config))
        with _errors(hub_id, revision):
            # by the revision's name, under which the cache finds it again
            directory = huggingface_hub.snapshot_download(
                hub_id, revision=revision, allow_patterns=wanted
            )
    except _Away as away:
        raise LoadError(
            away.sqlstate,
            f'the download of "{hub_id}" broke off: {away.message}',
            away.detail,
            f"{away.hint} Files that came whole are kept.",
        ) from None
    commit = os.path.basename(directory)  # so the folder of a snapshot is named
    if commit != repository.sha or not all(files.has(directory, name) for name in wanted):
        raise LoadError(
            IO_ERROR,
            f'the download of "{hub_id}" is not whole',
            f"The hub has changed it, or went away: wanted was commit {repository.sha}.",
            f"{_AGAIN.capitalize()}.",
        )
    return Snapshot(directory, commit)


def _from_cache(hub_id, revision, tokenizer, away):
    """The Snapshot that the cache has, or what the hub's being away means without one."""
    listed = _listed_in_cache(hub_id, revision)
    try:
        directory = huggingface_hub.snapshot_download(
            hub_id, revision=revision, local_files_only=True, allow_patterns=_wanted(listed or [])
        )
        names = os.listdir(directory)
    except LocalEntryNotFoundError as error:
        # of a snapshot that is there, and lacks files that are listed, the error has the path
        raise _not_cached(hub_id, away, partly=hasattr(error, "snapshot_path")) from None
    if CONFIG not in names or not _has_weights(names):
        raise _not_cached(hub_id, away, partly=True)
    if tokenizer is None and listed is None and not any(name in names for name in VOCABULARY):
        raise LoadError(
            NO_FILE,
            f'{away.message}, and the cache has "{hub_id}" without a vocabulary',
            f"{away.detail} The repository may have one.",
            f"{away.hint} Where it is GPT-2's own, say so: --tokenizer gpt2.",
        )
    commit = os.path.basename(directory)
    notice = f'{away.message}: "{hub_id}" is taken from the cache, commit {commit[:12]}'
    if listed is None:
        notice += ", which may lack files"
    return Snapshot(directory, commit, notice)


def _listed_in_cache(hub_id, revision):
    """Names of all files of a repository as the hub listed them before; None where not known."""
    if not hasattr(huggingface_hub, "get_cached_repo_tree"):
        return None  # huggingface_hub before version 2 keeps no listings
    try:
        tree = huggingface_hub.get_cached_repo_tree(hub_id, revision=revision)
    except huggingface_hub.errors.CachedRepoTreeNotFoundError:
        return None
    return [file.path for file in tree]


def _not_cached(hub_id, away, partly):
    return LoadError(
        away.sqlstate,
        f'{away.message}, and "{hub_id}" is not {"whole " if partly else ""}in the cache',
        away.detail,
        away.hint,
    )


@contextmanager
def _errors(hub_id, revision):
    """Turns what huggingface_hub raises into a LoadError."""
    try:
        yield
    except Exception as error:
        raise _load_error(hub_id, revision, error) from None


def _load_error(hub_id, revision, error):
    """The LoadError that tells what an exception of huggingface_hub means."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HFValidationError):
        return LoadError(
            BAD_ARGUMENT, f'"{hub_id}" is neither a directory nor a hub id', f"{error}", SOURCES
        )
    if isinstance(error, OfflineModeIsEnabled):
        return _Away(
            IO_ERROR,
            "offline",
            f'HF_HUB_OFFLINE is set, and "{hub_id}" is not a directory.',
            f"Let it ask the hub: HF_HUB_OFFLINE=0 gpt2-loader load {hub_id}",
        )
    if getattr(error, "response", None) is not None:
        return _answered(hub_id, revision, error)
    of_the_network = isinstance(error, (ConnectionError, TimeoutError))
    if isinstance(error, OSError) and error.strerror and not of_the_network:
        return LoadError(
            IO_ERROR,
            f'could not write to the hub\'s cache, "{constants.HF_HUB_CACHE}"',
            f"{error.strerror}.",
            "HF_HUB_CACHE names another directory.",
        )
    said = f"{error}".split("\n")[0].rstrip(".") or type(error).__name__
    return _Away(
        IO_ERROR,
        "no network",
        f"{constants.ENDPOINT} could not be reached: {said}.",
        f"Check the network, HTTPS_PROXY and HF_ENDPOINT, then {_AGAIN}.",
    )


def _answered(hub_id, revision, error):
    """The LoadError of an answer of the hub that is an error."""
    status = error.response.status_code
    answer = _sentence(error)
    if isinstance(error, GatedRepoError):
        return LoadError(
            NO_PRIVILEGE,
            f'"{hub_id}" on the hub is gated',
            answer,
            f"Ask for access at {constants.ENDPOINT}/{hub_id}, then {_LOGIN}.",
        )
    if isinstance(error, RevisionNotFoundError):
        return LoadError(
            NO_FILE,
            f'unknown revision "{revision}" of "{hub_id}" on the hub',
            answer,
            f"See {constants.ENDPOINT}/{hub_id}/tree/main for its branches and tags; without "
            "--revision it is main.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return LoadError(
            NO_FILE,
            f'unknown repository "{hub_id}" on the hub',
            f"It is not a directory either. {answer}",
            f"{SOURCES} For a private one: {_LOGIN}.",
        )
    if status in (401, 403) and not isinstance(error, DisabledRepoError):
        return LoadError(
            NO_PRIVILEGE, f'the hub refuses access to "{hub_id}"', answer, f"Log in: {_LOGIN}."
        )
    if status == 429:
        return _Away(
            IO_ERROR,
            "rate limited",
            answer,
            f"Wait, then {_AGAIN}. Who is logged in may ask more: {_LOGIN}.",
        )
    if status >= 500:
        return _Away(IO_ERROR, "hub down", answer, f"Wait, then {_AGAIN}.")
    return LoadError(
        NO_FILE,
        f'the hub does not give "{hub_id}"',
        answer,
        f"See {constants.ENDPOINT}/{hub_id}. {SOURCES}",
    )


def _sentence(error):
    """What the hub says in an answer that is an error: its own words, where it has any."""
    response = error.response
    said = (getattr(error, "server_message", None) or "").strip().split("\n")[0]
    said = said.strip().rstrip(".") or responses.get(response.status_code, "no reason")
    wait = response.headers.get("Retry-After", "")
    asks = f" It asks to wait {wait} seconds." if wait.isdigit() else ""
    return f"{constants.ENDPOINT} answers {response.status_code}: {said}.{asks}"
