"""Every error message of the sources, and which of them no test triggers.

What a source can say is read from it: in SQL calls of gpt2._raise and gpt2._assert and RAISE, in
Python LoadError and its kinds. A message is taken with its detail, as `_malformed` or `_check_range`
have one message for many; where it names an argument of the function around it, the calls of that
function are read too. What was said is recorded: the server's in its log, the loader's by
tests/hearing.

`make test` begins and ends with it, unless PYTEST_ARGS chooses among the tests:

    python -m messages begin   # from here on counts what is said
    python -m messages check   # fails where a message was never said, or a HINT's SQL is none
    python -m messages list    # every message, and whether it was said
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg

from lint.__main__ import extension_database
from lint.source import Place, Source, read_sources
from lint.tokens import Token, code, name_at

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "build/messages"

#: an exception of the loader's that becomes the detail of another's message
DETAIL_ONLY = "_Invalid"
#: part of a message -> from which version of the server on nothing can say it
GONE_FROM = {"needs erf(), which came with PostgreSQL 16": 160000}


class Said(NamedTuple):
    message: str
    detail: str
    hint: str


class Name(NamedTuple):
    """An argument of the function around it, in a template."""

    name: str


ANY = Name("")
#: pieces of a text: what is known of it, and what is not
Template = tuple["str | Name", ...]


class Message(NamedTuple):
    """What a place can say: its message and, after a newline, its detail."""

    place: Place
    function: str  # around it
    template: Template


def pattern(template: Template) -> str:
    return "".join(".*" if isinstance(part, Name) else re.escape(part) for part in template)


def shown(template: Template) -> str:
    text = "".join("%" if isinstance(part, Name) else part for part in template)
    return text.replace("\n", " | ").removesuffix(" | %")


def joined(pieces: Iterable[list[Template]]) -> list[Template]:
    """The pieces end to end; each piece may be one of several."""
    return [sum(found, ()) for found in itertools.product(*pieces)]


def filled(template: Template, values: dict[str, list[Template]]) -> list[Template]:
    """The template with values in the place of names."""
    names = {part.name for part in template if isinstance(part, Name)}
    chosen = [[(name, value) for value in values.get(name, [(ANY,)])] for name in names]
    found = []
    for choice in itertools.product(*chosen):
        value_of = dict(choice)
        found.append(sum((value_of[p.name] if isinstance(p, Name) else (p,) for p in template), ()))
    return found


def unnamed(template: Template) -> Template:
    return tuple(ANY if isinstance(part, Name) else part for part in template)


class Call(NamedTuple):
    """Of a function: what each argument may be, by its place or its name."""

    arguments: dict[int | str, list[Template]]


def expanded(
    messages: list[Message], parameters: dict[str, list[str]], calls: dict[str, list[Call]]
) -> Iterator[Message]:
    """A message for each call of the function whose arguments it names."""
    for message in messages:
        names = parameters.get(message.function, [])
        values = [
            {
                name: [
                    unnamed(value) for value in call.arguments.get(name, call.arguments.get(i, []))
                ]
                or [(ANY,)]
                for i, name in enumerate(names)
            }
            for call in calls.get(message.function, [])
        ]
        for value in values or [{}]:
            for template in filled(message.template, value):
                yield message._replace(template=unnamed(template))


def is_worded(template: Template) -> bool:
    """Whether its message is more than what somebody else says."""
    text = "".join(part for part in template if isinstance(part, str))
    return bool(re.search("[a-z]{2}", text))


# SQL


def unquoted(token: Token) -> str:
    return token.text.strip("eE")[1:-1].replace("''", "'")


def split(tokens: list[Token], separator: str = ",") -> list[list[Token]]:
    """The parts between separators that stand in no parentheses and no CASE."""
    parts, depth = [[]], 0
    for token in tokens:
        depth += (token.text in "([" or token.key == "CASE") - (
            token.text in ")]" or token.key == "END"
        )
        if token.key == separator and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def within(tokens: list[Token], start: int) -> list[Token]:
    """What is in the parentheses that open there."""
    depth = 0
    for end, token in enumerate(tokens[start:], start):
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0:
            return tokens[start + 1 : end]
    return tokens[start + 1 :]


def sql_templates(tokens: list[Token], names: list[str]) -> list[Template]:
    """What an expression may be."""
    if tokens[:2] and [token.text for token in tokens[:2]] == ["pg_catalog", "."]:
        tokens = tokens[2:]
    if not tokens:
        return [(ANY,)]
    if all(token.kind == "string" for token in tokens):
        return [("".join(map(unquoted, tokens)),)]
    if len(tokens) == 1 and tokens[0].text.strip('"') in names:
        return [(Name(tokens[0].text.strip('"')),)]
    texts = [token.text for token in tokens]
    if texts[:2] == ["format", "("] and len(within(tokens, 1)) == len(tokens) - 3:
        form, *values = split(within(tokens, 1))
        return [t for text in sql_templates(form, names) for t in formatted(text, values, names)]
    if tokens[0].key == "CASE" and tokens[-1].key == "END":
        branches = [
            split(part, "ELSE" if "ELSE" in [t.key for t in part] else "WHEN")
            for part in split(tokens[1:-1], "THEN")[1:]
        ]
        return [t for branch in branches for part in branch[:1] + branch[1:][-1:] if branch
                for t in sql_templates(part, names)]  # fmt: skip
    return [(ANY,)]


def formatted(form: Template, values: list[list[Token]], names: list[str]) -> list[Template]:
    """What format() may give."""
    if form == (ANY,):
        return [form]
    pieces = re.split(r"(%[sIL]|%%)", "".join(map(str, form)))
    rest = iter(values)
    return joined(
        [("%",)] if piece == "%%"
        else sql_templates(next(rest, []), names) if re.fullmatch("%[sIL]", piece)
        else [(piece,)]
        for piece in pieces
    )  # fmt: skip


def flat(tokens: list[Token]) -> Iterator[Token]:
    """In the place of every string in dollars its tokens."""
    for token in tokens:
        if token.kind == "dollar":
            tag = token.text.index("$", 1) + 1
            yield from flat(code(token.text[tag:-tag], token.line))
        else:
            yield token


def sql_messages(root: Path) -> Iterator[Message]:
    """What the SQL of the tree can say."""
    sources = [*read_sources(root)]
    if (root / "extension/plain.sql").exists():
        sources.append(Source(root, "extension/plain.sql", Place("", 0), len(sources)))
    messages: list[Message] = []
    parameters: dict[str, list[str]] = {}
    calls: dict[str, list[Call]] = defaultdict(list)
    for source in sources:
        for statement in source.statements:
            tokens = list(flat(statement.tokens))
            function = next((name for kind, name in statement.made if kind == "function"), "")
            if function in ("gpt2._raise", "gpt2._assert"):
                continue
            names = sql_parameters(tokens) if function else []
            parameters.setdefault(function, names)
            for i, token in enumerate(tokens):
                following = tokens[i + 1].text if i + 1 < len(tokens) else ""
                if token.text == "gpt2" and tokens[i + 3 : i + 4] and tokens[i + 3].text == "(":
                    name = name_at(tokens, i)
                    found = [sql_templates(a, names) for a in split(within(tokens, i + 3))]
                    if name in ("gpt2._raise", "gpt2._assert"):
                        said = joined([*found[2:3], [("\n",)], *found[3:4]])
                    else:
                        if name != function:
                            calls[name].append(Call(dict(enumerate(found))))
                        continue
                elif (
                    token.key == "RAISE"
                    and following == "EXCEPTION"
                    and (tokens[i + 2].kind == "string")
                ):
                    said = raised(tokens, i + 2, names)
                else:
                    continue
                messages += [
                    Message(source.places[token.line - 1], function, template)
                    for template in said
                    if is_worded(template[: template.index("\n")])
                ]
    yield from expanded(messages, parameters, calls)


def sql_parameters(tokens: list[Token]) -> list[str]:
    start = next(i for i, token in enumerate(tokens) if token.text == "(")
    return [
        next(t.text.strip('"') for t in part if t.key not in ("OUT", "IN", "INOUT", "VARIADIC"))
        for part in split(within(tokens, start))
        if part
    ]


def raised(tokens: list[Token], at: int, names: list[str]) -> list[Template]:
    """What the RAISE says whose format is the token there."""
    end = next((i for i in range(at, len(tokens)) if tokens[i].text == ";"), len(tokens))
    pieces = re.split(r"(%)", unquoted(tokens[at]))
    message = tuple(ANY if piece == "%" else piece for piece in pieces)
    detail = [(ANY,)]
    for part in split(tokens[at:end]):
        keys = [token.key for token in part]
        if "DETAIL" in keys:
            detail = sql_templates(part[keys.index("DETAIL") + 2 :], names)
    return joined([[message], [("\n",)], detail])


# Python


class Reader(ast.NodeVisitor):
    """What a module can say, and how it calls functions."""

    def __init__(self, path: str, kinds: set[str], constants: dict[str, Template]) -> None:
        self.path, self.kinds, self.constants = path, kinds, constants
        self.around: list[tuple[str, list[str]]] = []
        self.messages: list[Message] = []
        self.parameters: dict[str, list[str]] = {}
        self.calls: dict[str, list[Call]] = defaultdict(list)

    def key(self, name: str) -> str:
        """A private function is its module's."""
        return f"{self.path}:{name}" if name.startswith("_") else name

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        names = [argument.arg for argument in node.args.args if argument.arg != "self"]
        self.parameters[self.key(node.name)] = names
        self.around.append((self.key(node.name), names))
        self.generic_visit(node)
        self.around.pop()

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        function, names = self.around[-1] if self.around else ("", [])
        found = [self.templates(argument, names) for argument in node.args]
        if name in self.kinds and len(found) > 2:
            self.messages += [
                Message(Place(self.path, node.lineno), function, template)
                for template in joined([found[1], [("\n",)], found[2]])
                if is_worded(template[: template.index("\n")])
            ]
        elif name == DETAIL_ONLY and found:
            self.messages += [
                Message(Place(self.path, node.lineno), function, (ANY, "\n", *template))
                for template in found[0]
                if template != (ANY,)
            ]
        elif name:
            by_name = {k.arg: self.templates(k.value, names) for k in node.keywords if k.arg}
            self.calls[self.key(name)].append(Call(dict(enumerate(found)) | by_name))
        self.generic_visit(node)

    def templates(self, node: ast.expr, names: list[str]) -> list[Template]:
        """What an expression may be."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [(node.value,)]
        if isinstance(node, ast.JoinedStr):
            return joined(self.templates(part, names) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self.templates(node.value, names)
        if isinstance(node, ast.IfExp):
            return self.templates(node.body, names) + self.templates(node.orelse, names)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return joined([self.templates(node.left, names), self.templates(node.right, names)])
        if isinstance(node, ast.Name) and node.id in names:
            return [(Name(node.id),)]
        if isinstance(node, ast.Name) and node.id in self.constants:
            return [self.constants[node.id]]
        return [(ANY,)]


def python_messages(root: Path) -> Iterator[Message]:
    """What the Python of the tree can say."""
    paths = [*sorted(root.glob("loader/gpt2_loader/*.py")), *sorted(root.glob("plpython/*.py"))]
    trees = {path.relative_to(root).as_posix(): ast.parse(path.read_text()) for path in paths}
    kinds, constants = {"LoadError"}, {}
    for node in itertools.chain.from_iterable(tree.body for tree in trees.values()):
        if isinstance(node, ast.ClassDef) and "LoadError" in [ast.unparse(b) for b in node.bases]:
            kinds.add(node.name)
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.JoinedStr)):
            [value] = Reader("", kinds, {}).templates(node.value, [])
            constants |= {ast.unparse(target): value for target in node.targets if value != (ANY,)}
    readers = []
    for path, tree in trees.items():
        readers.append(Reader(path, kinds, constants))
        readers[-1].visit(tree)
    parameters = {name: names for reader in readers for name, names in reader.parameters.items()}
    calls: dict[str, list[Call]] = defaultdict(list)
    for reader in readers:
        for name, found in reader.calls.items():
            calls[name] += found
    yield from expanded([m for reader in readers for m in reader.messages], parameters, calls)


def all_messages(root: Path) -> dict[str, Message]:
    """Pattern -> the first place that says it."""
    found: dict[str, Message] = {}
    for message in [*sql_messages(root), *python_messages(root)]:
        found.setdefault(pattern(message.template), message)
    return found


# What was said

LINE = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \S+ \[(\d+)\] ([A-Z]+):  (.*)")


def log_entries(lines: Iterable[str]) -> Iterator[Said]:
    """The errors of a server's log, whose lines begin as they do where nobody has set it."""
    entries: dict[str, dict[str, str]] = {}  # by process
    entry, part = None, ""
    for line in lines:
        match = LINE.match(line)
        if match:
            process, part, text = match.groups()
            if part in ("ERROR", "FATAL", "LOG", "WARNING", "NOTICE"):
                if process in entries:
                    yield said(entries.pop(process))
                entry = entries[process] = {} if part == "ERROR" else None
                if entry is None:
                    del entries[process]
            else:
                entry = entries.get(process)
            if entry is not None:
                entry[part] = text
        elif entry is not None and line.startswith("\t"):
            entry[part] += "\n" + line[1:].rstrip("\n")
    for entry in entries.values():
        yield said(entry)


def said(entry: dict[str, str]) -> Said:
    return Said(entry["ERROR"], entry.get("DETAIL", ""), entry.get("HINT", ""))


def begin(connection: psycopg.Connection) -> None:
    """Forgets what was said, and remembers how long the server's log is."""
    [(data,)] = connection.execute("SHOW data_directory").fetchall()
    log = Path(data).parent / "server.log"
    shutil.rmtree(RECORDS, ignore_errors=True)
    RECORDS.mkdir(parents=True)
    (RECORDS / "log").write_text(f"{log}\n{log.stat().st_size}\n")


def all_said() -> set[Said]:
    """What the server and the loader have said since."""
    try:
        path, size = (RECORDS / "log").read_text().splitlines()
    except FileNotFoundError:
        raise SystemExit("nothing was recorded: run `make test` first") from None
    with open(path, encoding="utf-8", errors="replace", newline="\n") as log:
        log.seek(int(size))
        found = set(log_entries(log))
    for path in RECORDS.glob("*.json"):
        lines = path.read_text(encoding="utf-8").splitlines()
        found |= {Said(*json.loads(line)) for line in lines}
    return found


def unsaid(messages: dict[str, Message], found: set[Said], version: int) -> list[Message]:
    """The messages that nobody has said, but for those that this server cannot say."""
    texts = [f"{one.message}\n{one.detail}" for one in found]
    return [
        message
        for form, message in messages.items()
        if not any(re.fullmatch(form, text, re.DOTALL) for text in texts)
        if not any(
            part in shown(message.template) and version >= gone for part, gone in GONE_FROM.items()
        )
    ]


# The SQL in a HINT

STATEMENT = re.compile(
    r"\b(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|GRANT|REVOKE|SET|RESET|ANALYZE|VACUUM)\b"
    r"[^;]*;"
)
#: what a HINT calls the reader's own values
OWN = "prompt text, text text, tokens int[], model text, choices text[], path text"


def statements(hint: str) -> list[str]:
    """The statements in a HINT that are whole."""
    return [found for found in STATEMENT.findall(hint) if "..." not in found]


def refusals(connection: psycopg.Connection, hints: Iterable[str]) -> Iterator[str]:
    """The statements in HINTs that the server would not take: it parses all, and looks up the names
    in SELECT, INSERT, UPDATE and DELETE."""
    for statement in sorted({found for hint in hints for found in statements(hint)}):
        try:
            with connection.transaction(force_rollback=True):
                body = statement.replace("$hint$", "")
                connection.execute(
                    f"CREATE FUNCTION pg_temp.hint({OWN}) RETURNS void AS $hint${body}$hint$ LANGUAGE sql"
                )
        except psycopg.Error as error:
            yield f"{statement}: {error.diag.message_primary}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="messages", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["begin", "check", "list"])
    command = parser.parse_args().command
    cluster = os.environ.get("GPT2_TEST_DSN")
    if not cluster:
        raise SystemExit("GPT2_TEST_DSN is not set: run it with `make messages`")
    if command == "begin":
        with psycopg.connect(cluster) as connection:
            begin(connection)
        return 0
    found = all_said()
    with extension_database(cluster) as connection:
        version = connection.info.server_version
        [(has_python,)] = connection.execute(
            "SELECT to_regproc('gpt2_load_model') IS NOT NULL"
        ).fetchall()
        messages = {
            form: message
            for form, message in all_messages(ROOT).items()
            if has_python or not message.place.path.startswith("plpython/")
        }
        wrong = list(refusals(connection, (one.hint for one in found)))
    never = unsaid(messages, found, version)
    listed = messages.values() if command == "list" else never
    for message in sorted(listed, key=lambda listed: (listed.place, shown(listed.template))):
        mark = "never " if message in never else ""
        print(f"{message.place.path}:{message.place.line}: {mark}said: {shown(message.template)}")
    for text in wrong:
        print(f"the SQL of a HINT is refused: {text}")
    print(
        f"messages: {len(messages)}, never said: {len(never)}; HINTs with SQL:",
        f"{sum(bool(statements(one.hint)) for one in found)}, refused: {len(wrong)}",
        file=sys.stderr,
    )
    return 1 if never or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
