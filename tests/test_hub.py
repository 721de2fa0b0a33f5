"""gpt2-loader and the Hugging Face hub: a server in this process answers as the hub does."""

import fcntl
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
from types import SimpleNamespace

import gpt2_loader.hub
import huggingface_hub
import pytest
from gpt2_loader.errors import LoadError
from hub import CONVERTER, Hub, sha256
from oracle.checkpoints import write_checkpoint
from oracle.checkpoints import write_vocabulary as write_own
from psycopg.conninfo import make_conninfo
from safetensors.numpy import load_file, save_file
from test_loader import (  # noqa: F401  fixtures among them
    CONFIG,
    check_rows,
    database,
    db,
    directory,
    make_tensors,
    write,
)

PROGRAM = [sys.executable, "-c", "from gpt2_loader.cli import app; app()"]
ID = "some-one/gpt2-tiny"
SMALL = {"config.json", "merges.txt", "vocab.json"}
#: with a row for each of GPT-2's own tokens; huggingface_hub keeps what came in steps of 10 MiB
LARGE = dict(n_layer=1, n_head=1, n_embd=64, n_positions=16, vocab_size=50257)


@pytest.fixture
def hub():
    with Hub().running() as hub:
        yield hub


@pytest.fixture
def model(tmp_path):
    """A small model's directory, with files that a load does not need."""
    model = tmp_path / "model"
    (model / "onnx").mkdir(parents=True)
    write(model, make_tensors(CONFIG))
    write_own(model, CONFIG["vocab_size"])
    for name in ("README.md", "pytorch_model.bin", "model.fp16.safetensors", "onnx/vocab.json"):
        (model / name).write_text("not needed")
    return model


@pytest.fixture
def large(tmp_path):
    """A model of 13 MB without a vocabulary, which has GPT-2's number of tokens."""
    large = write_checkpoint(tmp_path / "large", LARGE)
    (large / "vocab.json").unlink()
    (large / "merges.txt").unlink()
    return large


def environment(database, hub, tmp_path):  # noqa: F811
    """The process's, with a cache of its own, the hub here and no token."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"HF_|HUGGING|TRANSFORMERS_|.*_proxy$", name, re.IGNORECASE)
    }
    return kept | {
        "GPT2_DSN": database,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_ENDPOINT": hub.url,
    }


@pytest.fixture
def load(db, database, hub, tmp_path):  # noqa: F811
    """load(*arguments, **environment): the finished process of gpt2-loader load."""

    def load(*arguments, **changes):
        return subprocess.run(
            [*PROGRAM, "load", *map(str, arguments)],
            env=environment(database, hub, tmp_path) | changes,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return load


def snapshot(tmp_path, hub_id=ID):
    """The snapshots' folder of a model in the cache."""
    return tmp_path / "cache" / "hub" / f"models--{hub_id.replace('/', '--')}" / "snapshots"


def check_loaded(db, process, commit):  # noqa: F811
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith('loaded model "gpt2-tiny": ')
    origin = db.execute("SELECT source, revision FROM gpt2.model").fetchone()
    assert origin == (ID, commit)


def check_error(process, message, *texts):
    """Whether it ended with this error: message, DETAIL and HINT, a line each, with these texts."""
    assert (process.returncode, process.stdout) == (1, ""), process.stderr
    lines = process.stderr.splitlines()[-3:]
    assert lines[0] == f"gpt2-loader: error: {message}", process.stderr
    assert lines[1].startswith("DETAIL: ")
    assert lines[2].startswith("HINT: ")
    for text in texts:
        assert text in "\n".join(lines[1:]), process.stderr


# What is fetched


def test_whole(db, hub, load, model):  # noqa: F811
    """Source and commit are the model's, what is not needed is not asked for, and standard error,
    which is no terminal here, shows nothing."""
    commit = hub.add(ID, model).commit("main")
    process = load(ID)
    check_loaded(db, process, commit)
    check_rows(db, make_tensors(CONFIG), "gpt2-tiny")
    assert process.stderr == ""
    assert hub.fetched() == SMALL | {"model.safetensors"}


def test_shards(db, hub, load, model):  # noqa: F811
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    (model / "model.fp16.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    shard_of = {name: names[i % 2] for i, name in enumerate(tensors)}
    for shard in names:
        save_file({n: t for n, t in tensors.items() if shard_of[n] == shard}, model / shard)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    commit = hub.add(ID, model).commit("main")
    check_loaded(db, load(ID), commit)
    check_rows(db, make_tensors(CONFIG), "gpt2-tiny")


def test_revision(db, hub, load, model, tmp_path):  # noqa: F811
    repository = hub.add(ID, model)
    other = shutil.copytree(model, tmp_path / "other")
    tensors = make_tensors(CONFIG, seed=2)
    write(other, tensors)
    repository.revisions["refs/pr/3"] = other
    process = load(ID, "--revision", "refs/pr/3")
    check_loaded(db, process, repository.commit("refs/pr/3"))
    check_rows(db, tensors, "gpt2-tiny")


def test_bar_on_a_terminal(db, database, hub, model, tmp_path):  # noqa: F811
    hub.add(ID, model)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [*PROGRAM, "load", ID],
        env=environment(database, hub, tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux tells that nobody writes any more
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown
    # of the download, and then of the import
    assert re.search(rb"Fetching .*100%\|", shown), shown
    assert re.search(rb"gpt2-tiny: 100%\|", shown), shown


# A connection that is cut


def test_cut_and_resumed(db, hub, load, large):  # noqa: F811
    """What came before the cut is not asked for again: huggingface_hub resumes by itself, in some
    versions in the next run."""
    commit = hub.add(ID, large).commit("main")
    hub.cuts["model.safetensors"] = 12_000_000
    process = load(ID)
    if process.returncode:
        check_error(
            process, f'the download of "{ID}" broke off: no network', "could not be reached"
        )
        process = load(ID)
    check_loaded(db, process, commit)
    ranges = [
        r.headers["Range"] for r in hub.requests if "/cdn/" in r.path and "Range" in r.headers
    ]
    assert ranges == [f"bytes={10 << 20}-"]
    loaded = db.execute("SELECT sha256 FROM gpt2.model").fetchone()
    assert loaded == (sha256(large / "model.safetensors"),)


def test_cut_and_run_again(db, hub, load, large):  # noqa: F811
    """A run that failed half-way leaves nothing in the database; the next one does not ask for the
    files that came whole, and what it loads is right."""
    write_own(large, LARGE["vocab_size"])
    commit = hub.add(ID, large).commit("main")
    hub.cuts["model.safetensors"] = 12_000_000
    hub.before["model.safetensors"] = lambda: hub.refuse("/cdn/", 503, says="Being restarted")
    process = load(ID)
    assert process.returncode == 1
    assert f'gpt2-loader: error: the download of "{ID}" broke off: ' in process.stderr
    assert "run the same command again. Files that came whole are kept." in process.stderr
    assert db.execute("SELECT count(*) FROM gpt2.model").fetchone() == (0,)
    assert hub.fetched() >= SMALL

    hub.before.clear()
    hub.refusals.clear()
    hub.requests.clear()
    check_loaded(db, load(ID), commit)
    assert hub.fetched() == {"model.safetensors"}
    loaded = db.execute("SELECT sha256 FROM gpt2.model").fetchone()
    assert loaded == (sha256(large / "model.safetensors"),)


# What the hub refuses

GATED = f"Access to model {ID} is restricted and you are not in the authorized list. Visit it."
LOGIN = "hf auth login, or set HF_TOKEN"


@pytest.mark.parametrize(
    ("answer", "message", "texts"),
    [
        (
            (403, "GatedRepo", GATED),
            f'"{ID}" on the hub is gated',
            ["answers 403: Access to model", f"Ask for access at {{url}}/{ID}, then {LOGIN}."],
        ),
        (
            (401, "GatedRepo", GATED),
            f'"{ID}" on the hub is gated',
            ["answers 401: Access to model", f"Ask for access at {{url}}/{ID}, then {LOGIN}."],
        ),
        (
            (401, "RepoNotFound", "Repository not found"),
            f'unknown repository "{ID}" on the hub',
            ["not a directory", "answers 401: Repository not found.", "such as openai-", LOGIN],
        ),
        (
            (404, "RepoNotFound", "Repository not found"),
            f'unknown repository "{ID}" on the hub',
            ["not a directory", "answers 404: Repository not found.", "such as openai-", LOGIN],
        ),
        (
            (404, "RevisionNotFound", "Invalid rev id: v9"),
            f'unknown revision "v9" of "{ID}" on the hub',
            ["answers 404: Invalid rev id: v9.", "without --revision it is main"],
        ),
        (
            (401, "", "Invalid credentials in Authorization header"),
            f'the hub refuses access to "{ID}"',
            ["answers 401: Invalid credentials", f"HINT: Log in: {LOGIN}."],
        ),
        (
            (403, "", "Access to this resource is disabled."),
            f'the hub does not give "{ID}"',
            ["answers 403: Access to this resource is disabled.", f"See {{url}}/{ID}"],
        ),
        (
            (410, "", "This model is gone"),
            f'the hub does not give "{ID}"',
            ["answers 410: This model is gone.", f"See {{url}}/{ID}"],
        ),
    ],
)
def test_refused(hub, load, model, answer, message, texts):
    """Each error tells its own kind, in the hub's words, and what mends it; files are not asked."""
    hub.add(ID, model)
    hub.refuse("/api/", *answer)
    texts = [text.format(url=hub.url) for text in texts]
    check_error(load(ID, "--revision", "v9"), message, *texts)
    assert hub.fetched() == set()


def test_unknown(hub, load, model):
    """As the server in the tests answers by itself."""
    hub.add(ID, model)
    check_error(load("some-one/else"), 'unknown repository "some-one/else" on the hub')
    check_error(load(ID, "--revision", "v9"), f'unknown revision "v9" of "{ID}" on the hub')
    check_error(load("a--b"), '"a--b" is neither a directory nor a hub id', "openai-community/gpt2")


def test_gated_files(hub, load, model):
    """The hub lists the files of a gated model to everybody."""
    hub.add(ID, model)
    hub.refuse("/resolve/", 401, "GatedRepo", GATED)
    check_error(load(ID), f'"{ID}" on the hub is gated', f"Ask for access at {hub.url}/{ID}")


def test_refused_with_a_cache(hub, load, model, db):  # noqa: F811
    """A refusal is not passed over; offline, the cache's copy serves."""
    commit = hub.add(ID, model).commit("main")
    assert load(ID).returncode == 0
    hub.refuse("/api/", 403, "GatedRepo", GATED)
    check_error(load(ID, "--replace"), f'"{ID}" on the hub is gated')
    process = load(ID, "--replace", HF_HUB_OFFLINE="1")
    check_loaded(db, process, commit)


# The hub is away


def closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def down(hub):
    hub.refuse("/", 503, says="Service Unavailable")


def rate_limited(hub):
    hub.refuse("/", 429, says="We had to rate limit you", Retry_After="300")


#: what is done to the hub, what is set, message, texts
AWAY = {
    "offline": (
        None,
        {"HF_HUB_OFFLINE": "1"},
        "offline",
        [
            "HF_HUB_OFFLINE is set",
            f"HINT: Let it ask the hub: HF_HUB_OFFLINE=0 gpt2-loader load {ID}",
        ],
    ),
    "no network": (
        None,
        {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port()}"},
        "no network",
        [
            "could not be reached: ",
            "HINT: Check the network, HTTPS_PROXY and HF_ENDPOINT, then run",
        ],
    ),
    "down": (down, {}, "hub down", ["answers 503: Service Unavailable.", "HINT: Wait, then run"]),
    "rate limited": (
        rate_limited,
        {},
        "rate limited",
        ["answers 429: We had to rate limit you. It asks to wait 300 seconds.", LOGIN],
    ),
}


@pytest.fixture(params=AWAY)
def away(request, hub):
    """What load() is given when the hub is away, and the message and texts that tell how."""
    does, changes, message, texts = AWAY[request.param]
    if does:
        does(hub)
    return changes, message, texts


def test_away(hub, load, away):
    changes, message, texts = away
    check_error(load(ID, **changes), f'{message}, and "{ID}" is not in the cache', *texts)


def test_away_with_a_cache(db, hub, load, model):  # noqa: F811
    """The cache's copy is loaded, and a line says so."""
    commit = hub.add(ID, model).commit("main")
    assert load(ID).returncode == 0
    for goes, changes, message, _ in AWAY.values():
        hub.refusals.clear()
        if goes:
            goes(hub)
        process = load(ID, "--replace", **changes)
        check_loaded(db, process, commit)
        [line] = process.stderr.splitlines()
        assert line.startswith(
            f'gpt2-loader: {message}: "{ID}" is taken from the cache, commit {commit[:12]}'
        )


# What the cache is not known to have whole


def fill_cache(tmp_path, files):
    """A snapshot as another program leaves it that fetched single files."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = snapshot(tmp_path) / commit
    folder.mkdir(parents=True)
    (snapshot(tmp_path).parent / "refs").mkdir()
    (snapshot(tmp_path).parent / "refs" / "main").write_text(commit)
    for path in files:
        shutil.copy(path, folder)
    return commit


def test_no_vocabulary_in_the_cache(db, load, large, away, tmp_path):  # noqa: F811
    """The repository may have one: GPT-2's own is not taken for it unless that is asked for."""
    changes, message, texts = away
    commit = fill_cache(tmp_path, [large / "config.json", large / "model.safetensors"])
    check_error(
        load(ID, **changes),
        f'{message}, and the cache has "{ID}" without a vocabulary',
        "The repository may have one.",
        "Where it is GPT-2's own, say so: --tokenizer gpt2.",
        *texts,
    )
    assert db.execute("SELECT count(*) FROM gpt2.model").fetchone() == (0,)
    process = load(ID, "--tokenizer", "gpt2", **changes)
    check_loaded(db, process, commit)
    assert process.stderr == (
        f'gpt2-loader: {message}: "{ID}" is taken from the cache, commit {commit[:12]}, which may '
        "lack files\n"
    )
    assert db.execute("SELECT tokenizer FROM gpt2.model").fetchone() == (1,)


def test_the_hub_completes_the_cache(db, hub, load, model, tmp_path):  # noqa: F811
    """Where the hub answers, what a snapshot lacks is fetched."""
    commit = hub.add(ID, model).commit("main")
    folder = snapshot(tmp_path) / commit
    folder.mkdir(parents=True)
    shutil.copy(model / "config.json", folder)
    shutil.copy(model / "model.safetensors", folder)
    check_loaded(db, load(ID), commit)
    assert db.execute("SELECT tokenizer > 1 FROM gpt2.model").fetchone() == (True,)
    assert hub.fetched() == {"merges.txt", "vocab.json"}


def test_no_vocabulary_in_the_repository(db, hub, load, large):  # noqa: F811
    """The hub's listing says so: GPT-2's own is meant, as in a directory. Later, without the hub,
    the listing in the cache says the same."""
    commit = hub.add(ID, large).commit("main")
    check_loaded(db, load(ID), commit)
    assert db.execute("SELECT tokenizer FROM gpt2.model").fetchone() == (1,)
    process = load(ID, "--replace", HF_HUB_OFFLINE="1")
    if hasattr(huggingface_hub, "get_cached_repo_tree"):
        check_loaded(db, process, commit)
        assert "may lack" not in process.stderr
    else:
        check_error(process, f'offline, and the cache has "{ID}" without a vocabulary')


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_part_of_a_model_in_the_cache(load, model, missing, tmp_path):
    names = (SMALL | {"model.safetensors"}) - {missing}
    fill_cache(tmp_path, [model / name for name in names])
    check_error(
        load(ID, HF_HUB_OFFLINE="1"), f'offline, and "{ID}" is not whole in the cache', "_OFFLINE=0"
    )


@pytest.mark.skipif(
    not hasattr(huggingface_hub, "get_cached_repo_tree"), reason="the cache has no listings"
)
def test_part_of_a_vocabulary_in_the_cache(hub, load, model, tmp_path):
    """What the listing in the cache names, and the snapshot lacks."""
    commit = hub.add(ID, model).commit("main")
    assert load(ID).returncode == 0
    (snapshot(tmp_path) / commit / "vocab.json").unlink()
    check_error(
        load(ID, "--replace", HF_HUB_OFFLINE="1"), f'offline, and "{ID}" is not whole in the cache'
    )


# What is refused before it is fetched


@pytest.fixture
def pickled(hub, model):
    """A repository whose weights are PyTorch's own file."""
    (model / "model.safetensors").rename(model.parent / "model.safetensors")
    (model / "model.fp16.safetensors").unlink()
    return hub.add(ID, model)


def test_only_pytorch(hub, load, pickled):
    check_error(
        load(ID),
        f'"{ID}" on the hub has no model.safetensors',
        "DETAIL: It has pytorch_model.bin. Nothing was fetched.",
        "HINT: Convert it: ",
        "save_pretrained",
    )
    assert hub.fetched() == set()


def test_no_weights_at_all(hub, load, pickled):
    (pickled.revisions["main"] / "pytorch_model.bin").unlink()
    check_error(
        load(ID),
        f'"{ID}" on the hub has no model.safetensors',
        "DETAIL: It has no model.safetensors.index.json either. Nothing was fetched.",
    )


def test_cache_that_cannot_be_written(hub, load, model):
    hub.add(ID, model)
    check_error(
        load(ID, HF_HUB_CACHE="/dev/null/cache"),
        'could not write to the hub\'s cache, "/dev/null/cache"',
        "DETAIL: Not a directory.",
    )


def test_another_commit_comes(model, monkeypatch):
    """The hub has changed between its answer and the download."""
    files = [SimpleNamespace(rfilename=path.name) for path in model.iterdir()]
    repository = SimpleNamespace(sha="a" * 40, siblings=files)
    for name, given in {
        "hf_hub_download": model / "config.json",
        "snapshot_download": model,
    }.items():
        monkeypatch.setattr(huggingface_hub, name, lambda *_, given=given, **__: str(given))
    with pytest.raises(LoadError, match=f'the download of "{ID}" is not whole') as error:
        gpt2_loader.hub._download(ID, None, repository)
    assert "a" * 40 in error.value.detail


@pytest.mark.parametrize("author", [CONVERTER, "somebody"])
@pytest.mark.parametrize("same", [True, False])
def test_converted_by_the_bot(db, hub, load, pickled, author, same, tmp_path):  # noqa: F811
    """The hint names the pull request of the hub's bot, and of nobody else, where it has converted
    the weights that the repository has now; its command loads them."""
    pickled.requests = [(7, author, "Adding `safetensors` variant of this model")]
    converted = shutil.copytree(pickled.revisions["main"], tmp_path / "converted")
    shutil.copy(tmp_path / "model.safetensors", converted)
    pickled.revisions["refs/pr/7"] = converted
    if not same:
        (converted / "pytorch_model.bin").write_text("older")
    process = load(ID)
    command = f"gpt2-loader load {ID} --revision refs/pr/7"
    if author == CONVERTER and same:
        check_error(process, f'"{ID}" on the hub has no model.safetensors', command)
        check_loaded(db, load(*command.split()[2:]), pickled.commit("refs/pr/7"))
    else:
        check_error(process, f'"{ID}" on the hub has no model.safetensors', "HINT: Convert it: ")


@pytest.mark.parametrize(
    ("file", "texts"), [("adapter_config.json", ["Merge the adapter"]), ("gpt2.gguf", [])]
)
def test_no_config(hub, load, tmp_path, file, texts):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / file).write_text("{}")
    hub.add(ID, tmp_path / "model")
    process = load(ID)
    assert f'error: "{ID}" on the hub has no config.json' in process.stderr
    for text in texts:
        assert text in process.stderr
    assert hub.fetched() == set()


def test_what_is_not_supported(hub, load, model):
    """The configuration is looked at before the weights are fetched."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    hub.add(ID, model)
    process = load(ID)
    assert 'error: model_type "llama" is not supported' in process.stderr
    assert hub.fetched() == {"config.json"}


def test_database_is_asked_first(hub, load, model, directory):  # noqa: F811
    """What is wrong with the other arguments is told before anything is fetched."""
    hub.add(ID, model)
    check_error(load(ID, GPT2_DSN="host=/nonexistent"), "could not connect to the database")
    check_error(
        load(ID, GPT2_DSN=os.environ["GPT2_TEST_DSN"]),
        'database "postgres" does not have the extension gpt2',
    )
    shutil.copy(model / "config.json", directory)
    assert load(model, "--name", "gpt2-tiny").returncode == 0
    check_error(load(ID), 'model "gpt2-tiny" already exists', "--replace")
    assert (
        'could not read "nonexistent"' in load(ID, "--replace", "--tokenizer", "nonexistent").stderr
    )
    assert "may not be empty" in load(ID, "--name", "").stderr
    assert hub.requests == []
    assert load(ID, "--replace").returncode == 0


@pytest.mark.parametrize(
    ("setting", "refusal"),
    [
        ("role=test_hub", 'role "test_hub" may not load a model into database'),
        ("default_transaction_read_only=on", "is read-only"),
    ],
)
def test_who_may_not_load(db, database, hub, load, model, setting, refusal):  # noqa: F811
    hub.add(ID, model)
    db.execute("CREATE ROLE test_hub")
    try:
        process = load(ID, GPT2_DSN=make_conninfo(database, options=f"-c {setting}"))
    finally:
        db.execute("DROP ROLE test_hub")
    assert refusal in process.stderr
    assert hub.requests == []


def test_no_connection_meanwhile(db, hub, load, large):  # noqa: F811
    """A connection that waits for a download is what servers and routers cut."""
    hub.add(ID, large)
    asked, go = threading.Event(), threading.Event()

    def wait():
        asked.set()
        assert go.wait(60)

    hub.before["model.safetensors"] = wait
    finished = []
    thread = threading.Thread(target=lambda: finished.append(load(ID)))
    thread.start()
    assert asked.wait(60)
    connections = db.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gpt2-loader'"
    ).fetchone()
    go.set()
    thread.join()
    assert connections == (0,)
    assert finished[0].returncode == 0, finished[0].stderr
