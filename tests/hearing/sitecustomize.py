"""Records each LoadError of a Python process, for tests/messages.py.

`make test` puts this folder into PYTHONPATH, so that every Python that it starts imports this, the
programs that tests start among them, and names in GPT2_MESSAGES the folder of the records: a file a
process, a line an error, written at once, as a test may kill its process.
"""

import contextlib
import json
import os


def listen():
    from gpt2_loader.errors import LoadError

    make = LoadError.__init__
    heard = set()

    def hear(self, sqlstate, message, detail, hint=None):
        make(self, sqlstate, message, detail, hint)
        said = (message, detail or "", hint or "")
        folder = os.environ.get("GPT2_MESSAGES")
        if folder and said not in heard:
            heard.add(said)
            with open(os.path.join(folder, f"{os.getpid()}.json"), "a", encoding="utf-8") as file:
                file.write(json.dumps(said) + "\n")

    LoadError.__init__ = hear


if "GPT2_MESSAGES" in os.environ:
    with contextlib.suppress(ImportError):  # a Python that does not have the loader
        listen()
