"""The one exception of the importers: an error as PostgreSQL reports it."""

from __future__ import annotations

MALFORMED_FILE = "22P03"
WRONG_DATA = "22000"
BAD_ARGUMENT = "22023"
UNSUPPORTED = "0A000"
NO_FILE = "58P01"
NO_PRIVILEGE = "42501"
IO_ERROR = "58030"
NOT_READY = "55000"
TOO_LARGE = "54000"
WRONG_FILE = "42809"


class LoadError(Exception):
    """A model cannot be loaded. Message, detail and hint are worded as the server's."""

    def __init__(self, sqlstate, message, detail, hint=None):
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint


def from_os_error(error):
    """The LoadError of an OSError: a file that is not there or may not be read; of one without a
    name, which is a temporary one or open already, the operating system tells what is wrong."""
    sqlstate = {
        FileNotFoundError: NO_FILE,
        NotADirectoryError: NO_FILE,
        PermissionError: NO_PRIVILEGE,
    }.get(type(error), IO_ERROR)
    name = error.filename
    if isinstance(name, bytes):
        name = name.decode("utf-8", "backslashreplace")
    message = "could not read or write a file" if name is None else f'could not read "{name}"'
    return LoadError(sqlstate, message, f"{error.strerror}.")
