"""The files of a model directory."""

from __future__ import annotations

import hashlib
import json
import os

from gpt2_loader.errors import MALFORMED_FILE, LoadError


def read_text(path):
    """The text of a UTF-8 file."""
    with open(path, encoding="utf-8", newline="\n") as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise LoadError(
                MALFORMED_FILE, f'file "{path}" is not UTF-8 text', f"{error}."
            ) from None


def read_json(path):
    """The object that a JSON file holds."""
    return parse_json(read_text(path), path)


def parse_json(text, path):
    """The object in a JSON text; a key may not be there twice. path is for the error."""

    def unique(pairs):
        keys = dict(pairs)
        if len(keys) < len(pairs):
            seen = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f'Key "{twice}" is there twice')
        return keys

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise LoadError(MALFORMED_FILE, f'file "{path}" is not valid JSON', f"{error}.") from None
    if not isinstance(value, dict):
        raise LoadError(MALFORMED_FILE, f'file "{path}" is not valid', "Its JSON is not an object.")
    return value


def has(directory, name):
    """Whether a directory has a file of this name."""
    return os.path.isfile(os.path.join(directory, name))


def sha256(paths):
    """Hash of the files one after the other, in hexadecimal: what cat | sha256sum prints."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
