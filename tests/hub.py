"""A server that speaks the Hugging Face hub's protocol, as far as a model is fetched by it.

Directories are its repositories. What huggingface_hub asks for (the pinned range) is answered as the
hub does, by its documentation and by the client's own source:

    GET        /api/models/ID, /api/models/ID/revision/REVISION     commit and files
    GET        /api/models/ID/tree/COMMIT                           files, with sizes and hashes
    GET        /api/models/ID/discussions                           pull requests among them
    HEAD, GET  /ID/resolve/COMMIT/FILE                              a file; X-Repo-Commit, ETag
    GET        /cdn/SHA256                                          a large one; Range

Large files are redirected to another host, localhost for 127.0.0.1: the hub's are elsewhere too.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

CONVERTER = "SFconvertbot"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes = b""


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]


class Repository:
    """revisions: name -> directory; requests: (number, author, title) of its pull requests, whose
    files are the revision refs/pr/number."""

    def __init__(self, main: Path) -> None:
        self.revisions = {"main": main}
        self.requests: list[tuple[int, str, str]] = []

    def commit(self, revision: str) -> str:
        """Depends on the revision's name alone."""
        return hashlib.sha1(revision.encode()).hexdigest()

    def find(self, revision: str) -> tuple[str, Path] | None:
        """The commit and the directory of a revision, which may be a commit."""
        for name, directory in self.revisions.items():
            if revision in (name, self.commit(name)):
                return self.commit(name), directory
        return None


def is_large(path: Path) -> bool:
    """Whether the hub keeps a file elsewhere, as git's LFS does."""
    return path.suffix in (".safetensors", ".bin")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def blob(path: Path) -> str:
    """git's name of a file, or of the pointer to a large one."""
    content = path.read_bytes()
    if is_large(path):
        content = f"oid sha256:{sha256(path)}\nsize {len(content)}\n".encode()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(ThreadingHTTPServer):
    """requests: what was asked, in its order; refusals: (pattern of a path, Answer given instead);
    cuts: file -> how many bytes of its next answer come; before: file -> what is done first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.refusals: list[tuple[str, Answer]] = []
        self.cuts: dict[str, int] = {}
        self.before: dict[str, Callable[[], None]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def running(self) -> Iterator[Hub]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def add(self, hub_id: str, main: Path) -> Repository:
        self.repositories[hub_id] = Repository(main)
        return self.repositories[hub_id]

    def refuse(
        self, pattern: str, status: int, code: str = "", says: str = "", **headers: str
    ) -> None:
        """Every request whose path has the pattern gets this error."""
        self.refusals.append((pattern, error(status, code, says, **headers)))

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        asked = [r.path for r in self.requests if r.method == "GET" and "/api/" not in r.path]
        large = {
            sha256(path): path.name
            for repository in self.repositories.values()
            for directory in repository.revisions.values()
            for path in filter(is_large, directory.iterdir())
        }
        return {large.get(name, name) for name in (path.split("/")[-1] for path in asked)}

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is no error here."""


def error(status: int, code: str = "", says: str = "", **headers: str) -> Answer:
    """An error as the hub's: its words stand in a header and in the body."""
    answer = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    if code:
        answer["X-Error-Code"] = code
    if says:
        answer["X-Error-Message"] = says
    return Answer(status, answer, json.dumps({"error": says}).encode() if says else b"")


def _json(value: object) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def log_message(self, *_) -> None:
        pass

    def _respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/agent-harnesses":  # asked by some versions, of no model
            return self._send(Answer(404, {}))
        self.server.requests.append(Request(self.command, path, dict(self.headers)))
        for pattern, answer in self.server.refusals:
            if re.search(pattern, path):
                return self._send(answer)
        for pattern, method in (
            (r"/api/models/(.+)/revision/(.+)", self._info),
            (r"/api/models/(.+)/tree/([^/]+)", self._tree),
            (r"/api/models/(.+)/discussions", self._discussions),
            (r"/api/models/(.+)", self._info),
            (r"/(.+)/resolve/([^/]+)/(.+)", self._file),
            (r"/cdn/([0-9a-f]+)", self._large),
        ):
            if match := re.fullmatch(pattern, path):
                return method(*match.groups())
        return self._send(Answer(404, {}))

    def _find(self, hub_id: str, revision: str) -> tuple[str, Path] | None:
        """The commit and the directory; where there are none, the hub's answer is sent."""
        repository = self.server.repositories.get(hub_id)
        if repository is None:
            self._send(error(404, "RepoNotFound", "Repository not found"))
            return None
        found = repository.find(revision)
        if found is None:
            self._send(error(404, "RevisionNotFound", f"Invalid rev id: {revision}"))
        return found

    def _info(self, hub_id: str, revision: str = "main") -> None:
        if found := self._find(hub_id, revision):
            commit, directory = found
            siblings = [
                {"rfilename": file["path"], "blobId": file["oid"], "size": file["size"]}
                for file in _files(directory)
            ]
            self._send(_json({"id": hub_id, "sha": commit, "siblings": siblings}))

    def _tree(self, hub_id: str, revision: str) -> None:
        if found := self._find(hub_id, revision):
            self._send(_json(_files(found[1])))

    def _discussions(self, hub_id: str) -> None:
        discussions = [
            {
                "num": number,
                "author": {"name": author},
                "title": title,
                "status": "open",
                "isPullRequest": True,
                "createdAt": "2023-03-04T05:06:07.000Z",
                "repo": {"name": hub_id, "type": "model"},
            }
            for number, author, title in self.server.repositories[hub_id].requests
        ]
        self._send(_json({"discussions": discussions, "count": len(discussions), "start": 0}))

    def _file(self, hub_id: str, revision: str, name: str) -> None:
        found = self._find(hub_id, revision)
        if found is None:
            return
        commit, directory = found
        path = directory / name
        if not path.is_file():
            return self._send(error(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit))
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob(path)}"', "Accept-Ranges": "bytes"}
        if is_large(path):
            headers |= {
                "X-Linked-Size": str(path.stat().st_size),
                "X-Linked-ETag": f'"{sha256(path)}"',
                "Location": f"http://localhost:{self.server.server_port}/cdn/{sha256(path)}",
            }
            return self._send(Answer(302, headers))
        return self._send(Answer(200, headers, path.read_bytes()))

    def _large(self, digest: str) -> None:
        for repository in self.server.repositories.values():
            for directory in repository.revisions.values():
                for path in filter(is_large, directory.iterdir()):
                    if sha256(path) == digest:
                        return self._send_large(path)
        return self._send(Answer(403, {}))

    def _send_large(self, path: Path) -> None:
        self.server.before.get(path.name, lambda: None)()
        content = path.read_bytes()
        size = len(content)
        if asked := self.headers.get("Range"):
            start = int(re.fullmatch(r"bytes=(\d+)-(\d*)", asked)[1])
            headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
            answer = Answer(206, headers, content[start:])
        else:
            answer = Answer(200, {}, content)
        self._send(answer, self.server.cuts.pop(path.name, None))

    def _send(self, answer: Answer, cut: int | None = None) -> None:
        """Sends an answer; with a cut, so many bytes of its body, and the connection is closed."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(answer.body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def _files(directory: Path) -> list[dict]:
    """A directory's files as in the hub's listing of a tree."""
    listed = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        size = path.stat().st_size
        file = {
            "type": "file",
            "path": path.relative_to(directory).as_posix(),
            "oid": blob(path),
            "size": size,
        }
        if is_large(path):
            file["lfs"] = {"oid": sha256(path), "size": size, "pointerSize": 134}
        listed.append(file)
    return listed
