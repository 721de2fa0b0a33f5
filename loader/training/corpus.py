"""Makes the text that the bundled model is trained and tested on, of documentation in Debian.

Usage: build/venv/bin/python loader/training/corpus.py   (needs the group `training`, apt, mandoc)

Writes to build/training:
  packages/            the packages, as `apt-get download` fetched them, and their copyrights
  train.npy            uint16 [n]: GPT-2's tokens, each document after an <|endoftext|>; those of
                       the first package, PostgreSQL's manual, come first
  test_postgresql.npy  documents of that manual that are not in train.npy, likewise
  test_unseen.npy      the manual's end, not in train.npy either: the part of the manual on which
                       the model that was bundled before (tests/models/manual) was not trained
  test_other.npy       documents of the other packages that are not in train.npy
  corpus.json          a row for each package: its version, its licence, what was taken
A document is a page. Which ones are for the test is decided by a hash of their paths.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from extract import text_of_html, text_of_man, text_of_wrapped
from sources import SOURCES, Source

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/oracle"))
from tokenizer import tokenizer  # noqa: E402

END = 50256
READERS = {"html": text_of_html, "man": text_of_man, "wrapped": text_of_wrapped}
#: pages that are lists, of other pages or of names, or of what changed
NO_TEXT = re.compile(
    r"(genindex|modindex|bookindex|/search|/index-|_sources/|_modules/|_static/|release|changelog"
    r"|changes|whatsnew|/news|licen[cs]e|copyright|authors|contributors|thanks|keywords-appendix"
    r"|legalnotice|biblio|404|all\.html|copying|acknowledg|/toc|sitemap|glossary-index)",
    re.IGNORECASE,
)
#: of a hundred documents
PERCENT_TEST = {"postgresql": 3.0, "other": 1.5}
#: the manual's last pages by name, where the model that was bundled before had its held-out tokens
N_UNSEEN = 20_000
PARTS = ("train", "test_postgresql", "test_unseen", "test_other")
#: characters of the shortest document
SHORTEST = 500
COMMON_WORDS = frozenset(
    """a an and are as at be been but by can for from has have if in is it its not of on one or that
    the then there these this to used when which will with you""".split()
)
#: the least share of common words in an English document, code included
LEAST_COMMON = 0.15
#: a paragraph of at least so many characters, in more documents than that, is boilerplate
BOILERPLATE = (30, 6)
#: a document for training is left out where so much of a document for the test stands in it
N_SHINGLE, NEAR_COPY = 12, 0.3


class Document(NamedTuple):
    source: Source
    path: str
    text: str

    @property
    def part(self) -> str:
        return "postgresql" if self.source is SOURCES[0] else "other"


def fetch(folder: Path) -> dict[str, Path]:
    """{package: its file}, downloaded where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {file.name.split("_")[0]: file for file in sorted(folder.glob("*.deb"))}
    missing = [source.package for source in SOURCES if source.package not in files]
    if missing:
        subprocess.run(["apt-get", "download", "-q", *missing], cwd=folder, check=True)
        return fetch(folder)
    return files


def version(package: Path) -> str:
    made = subprocess.run(
        ["dpkg-deb", "--field", package, "Version"], capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


def members(package: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of each file of a package."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
    ) as unpacked:
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as archive:
            for member in archive:
                if member.isfile():
                    yield member.name.lstrip("."), archive.extractfile(member).read()
        unpacked.stdout.read()


def documents(source: Source, package: Path) -> list[Document]:
    """What is English in the pages of a package, by path."""
    found = []
    for path, content in members(package):
        if path == f"/usr/share/doc/{source.package}/copyright":
            (package.parent / f"{source.package}.copyright").write_bytes(content)
        if not re.search(source.pages, path) or NO_TEXT.search(path):
            continue
        if path.endswith(".gz"):
            content = gzip.decompress(content)
        if source.only is not None and not re.search(source.only, content):
            continue
        text = READERS[source.kind](content)
        if len(text) >= SHORTEST and (source is SOURCES[0] or is_english(text)):
            found.append(Document(source, path, text))
    return sorted(found, key=lambda document: document.path)


def is_english(text: str) -> bool:
    words = re.findall(r"[^\W\d_]+", text.lower())
    return sum(word in COMMON_WORDS for word in words) >= LEAST_COMMON * max(len(words), 1)


def without_boilerplate(all_documents: list[Document]) -> list[Document]:
    """The documents, each once, without the paragraphs that many have. The manual stays whole."""
    shortest, most = BOILERPLATE
    seen: Counter = Counter()
    for document in all_documents:
        if document.part == "other":
            seen.update({line for line in document.text.split("\n") if len(line) >= shortest})
    kept, known = [], set()
    for document in all_documents:
        text = document.text
        if document.part == "other":
            text = "\n".join(line for line in text.split("\n") if seen[line] <= most)
        content = hashlib.sha256(re.sub(r"\W+", " ", text).lower().encode()).digest()
        if len(text) >= SHORTEST and content not in known:
            known.add(content)
            kept.append(document._replace(text=text))
    return kept


def is_test(document: Document) -> bool:
    name = f"{document.source.package}{document.path}".encode()
    place = int.from_bytes(hashlib.sha256(name).digest()[:4], "big") / 2**32
    return place < PERCENT_TEST[document.part] / 100


def shingles(tokens: np.ndarray) -> np.ndarray:
    """uint64: a hash of each run of N_SHINGLE tokens, each once."""
    hashes = np.zeros(max(len(tokens) - N_SHINGLE + 1, 0), np.uint64)
    for i in range(N_SHINGLE):
        hashes = hashes * np.uint64(0x100000001B3) + tokens[i : i + len(hashes)].astype(np.uint64)
    return np.unique(hashes)


def is_near_copy(tokens: np.ndarray, tested: dict[str, np.ndarray]) -> bool:
    """Whether much of a document for the test stands in a document.

    tested: hashes (sorted) and owners (the document of each), sizes of the documents.
    """
    own = shingles(tokens)
    place = np.searchsorted(tested["hashes"], own)
    own, place = own[place < len(tested["hashes"])], place[place < len(tested["hashes"])]
    place = place[tested["hashes"][place] == own]
    shared = np.bincount(tested["owners"][place], minlength=len(tested["sizes"]))
    return bool(np.any(shared > NEAR_COPY * tested["sizes"]))


def hashes_of(documents: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What is_near_copy takes."""
    each = [shingles(tokens) for tokens in documents]
    owners = np.repeat(np.arange(len(each)), [len(own) for own in each])
    hashes, first = np.unique(np.concatenate(each), return_index=True)
    sizes = np.array([max(len(own), 1) for own in each])
    return {"hashes": hashes, "owners": owners[first], "sizes": sizes}


def unseen_pages(manual: list[Document], sizes: list[int]) -> set[str]:
    """The paths of the last pages of the manual, in the order of their names, that make up the
    last N_UNSEEN tokens; no page that is partly in them."""
    paths, left = set(), N_UNSEEN
    for document, size in reversed(list(zip(manual, sizes, strict=True))):
        left -= size
        if left < 0:
            break
        paths.add(document.path)
    return paths


def split(found: list[Document], tokens: list[np.ndarray]) -> dict[str, list[int]]:
    """{part: the numbers of its documents}"""
    manual = [i for i, document in enumerate(found) if document.part == "postgresql"]
    unseen = unseen_pages([found[i] for i in manual], [len(tokens[i]) for i in manual])
    parts: dict[str, list[int]] = {name: [] for name in PARTS}
    for i, document in enumerate(found):
        part = "train"
        if document.part == "postgresql" and document.path in unseen:
            part = "test_unseen"
        elif is_test(document):
            part = f"test_{document.part}"
        parts[part].append(i)
    tested = hashes_of([tokens[i] for name in PARTS[1:] for i in parts[name]])
    copies = {i for i in parts["train"] if is_near_copy(tokens[i], tested)}
    for i in sorted(copies):
        print(f"left out, near a document for the test: {found[i].source.package}{found[i].path}")
    parts["train"] = [i for i in parts["train"] if i not in copies]
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build/training")
    output = parser.parse_args().output
    for program in ("apt-get", "dpkg-deb", "mandoc"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed: the texts are documentation of Debian 12")
    files = fetch(output / "packages")
    found = []
    for source in SOURCES:
        pages = documents(source, files[source.package])
        found += pages
        print(f"{source.package}: {len(pages)} pages", flush=True)
    found = without_boilerplate(found)
    encode = tokenizer().encode
    tokens = [np.array([END, *encode(document.text).ids], np.uint16) for document in found]
    parts = split(found, tokens)

    rows = []
    for source in SOURCES:
        row = {"package": source.package, "version": version(files[source.package]),
               "licence": source.licence, "taken": source.pages}  # fmt: skip
        for part, numbers in parts.items():
            own = [i for i in numbers if found[i].source is source]
            if own:
                row[part] = {"documents": len(own), "tokens": sum(len(tokens[i]) for i in own),
                             "bytes": sum(len(found[i].text.encode()) for i in own)}  # fmt: skip
        rows.append(row)
    (output / "corpus.json").write_text(json.dumps(rows, indent=1) + "\n")
    for part, numbers in parts.items():
        whole = np.concatenate([tokens[i] for i in numbers])
        np.save(output / f"{part}.npy", whole)
        print(f"{part}: {len(numbers)} documents, {len(whole)} tokens")


if __name__ == "__main__":
    main()
