"""A gateway between OpenAI's client and gpt2_completions, in the place of PostgREST: it hands a
request's body to the function, and the answer back, with the status that the function has set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import psycopg
from psycopg.types.json import Jsonb


@contextmanager
def gateway(dsn: str) -> Iterator[str]:
    """The URL below which it answers POST /completions, for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/completions":
                self.send_error(404)
                return
            with psycopg.connect(dsn) as connection:
                [answer] = connection.execute(
                    "SELECT gpt2_completions(%s)", [Jsonb(body)]
                ).fetchone()
                [status] = connection.execute(
                    "SELECT nullif(current_setting('response.status', true), '')"
                ).fetchone()
            content = json.dumps(answer).encode()
            self.send_response(int(status or 200))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
