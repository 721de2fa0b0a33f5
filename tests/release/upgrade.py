"""The script that makes one version of an extension of another: `script`, from the parts of both as
catalog.py reads them.

- What keeps its identity is changed in its place (CREATE OR REPLACE, ALTER), and what users have
  built on it stays.
- What cannot (another argument, another result) is renamed, made anew, and at last dropped. Where an
  object of a user's depends on it, that is the server's own error.
- What of the extension uses something that is made anew is replaced too, with the same words: a body
  is bound to the objects that its names meant when it was made.
- All is made in the order of the new version's script, in which what is used comes first, and dropped
  in the order opposite to the old one's.

What would lose data, or guess at it, such as a column that is gone or has another name, and what
would be executed before the check of what it is bound to, is Refused: a file by hand has to say it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator

from release.catalog import PLAIN_AGGREGATE, SCHEMA, Key, Part, Refused
from release.releases import ROOT

Parts = dict[Key, Part]
BUILD = ROOT / "extension/build"

#: around what comes to an installation that is there, as gpt2_plpython3u does too: what others had
#: hung on the tables before, as a trigger, is theirs
KNOWN = (ROOT / "plpython/known.sql").read_text(encoding="utf-8").strip()
CHECK = (ROOT / "plpython/dependencies.sql").read_text(encoding="utf-8")
#: what is executed at once may only mean PostgreSQL's own, or what is named with its schema
AT_ONCE = """\
SELECT pg_catalog.set_config('gpt2.path', pg_catalog.current_setting('search_path'), true);
SET LOCAL search_path = pg_catalog, pg_temp;
{}
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('gpt2.path'), true);"""
#: PostgreSQL 14 has no such option of a view: sql/install/views.sql
SECURITY_INVOKER = """\
DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int >= 150000 THEN
        {}
    END IF;
END;
$$;"""
LONGEST_NAME = 63

#: what is dropped at last, and where its name is taken again, renamed before
DROPPED = ("function", "aggregate", "type", "view")
#: what belongs to a table or a view, has no dependents, and is dropped first
HANGING = ("constraint", "index", "trigger")
#: what everybody may do with what is new
DEFAULT = {
    "function": {"PUBLIC EXECUTE"},
    "aggregate": {"PUBLIC EXECUTE"},
    "type": {"PUBLIC USAGE"},
}
STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
ENABLED = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


def script(extension: str, before: str, old: Parts, new: Parts, by_hand: str = "") -> str:
    """The upgrade script's text. before: the old version's name; by_hand: statements that come first,
    whose effect old has already."""
    return text(extension, statements(before, old, new), by_hand)


def text(extension: str, made: Iterable[list[str]], by_hand: str = "") -> str:
    """A script of these statements, and what such a script needs around them."""
    parts = [KNOWN, *([AT_ONCE.format(by_hand.strip())] if by_hand else [])]
    parts += ["\n".join(part) for part in made]
    body = "\n\n".join([*parts, CHECK]).replace(SCHEMA, "@extschema@")
    # strings that mean the same whatever the session's standard_conforming_strings
    body = subprocess.run(
        [BUILD, "--escape"], input=body, capture_output=True, check=True, text=True
    )
    first = f'\\echo Use "ALTER EXTENSION {extension} UPDATE" to load this file. \\quit'
    return f"{first}\n\n{body.stdout}"


def statements(before: str, old: Parts, new: Parts) -> Iterator[list[str]]:
    """In their order, those of a part together."""
    both = old.keys() & new.keys()
    changes = {
        key: change(old[key], new[key])
        for key in both
        if old[key].definition != new[key].definition
    }
    # what does not stay what it was: the new version has nothing of its name, or something else
    lost = (old.keys() - new.keys()) | {key for key, found in changes.items() if found is None}
    while more := {key for key in both - lost if goes_with(old[key], lost)}:
        lost |= more
    check_data(lost, old, new)
    check_places(old, new)
    renamed = new_names(before, lost, new)
    last_made_first = sorted(lost, key=lambda key: old[key].order, reverse=True)

    for key in last_made_first:
        if key in renamed:
            yield [f"ALTER {noun(key)} {key.name} RENAME TO {name_of_old(key, before)};"]
        elif key.kind in HANGING and not relation(old[key], old) & lost:
            yield [drop_hanging(old[key])]
    for key in sorted(new, key=lambda key: new[key].order):
        part, stays = new[key], key in both - lost
        if not stays:
            made = create(part, has_rows=bool(relation(part, new) & old.keys()))
        else:
            made = changes.get(key, [])
            if old[key].uses & lost and (key.kind == "column" or not made):
                made = made + again(part)
        made = made + describe(part, old[key] if stays else None)
        if made:
            yield made
    for key in last_made_first:
        if key.kind in DROPPED:
            yield [f"DROP {noun(key)} {renamed.get(key) or with_new_names(key.name, renamed)};"]


# ---- What is lost, and under which name it stays until it is dropped


def relation(part: Part, parts: Parts) -> set[Key]:
    """The table, view or type that it belongs to."""
    kinds = ("table", "view", "type")
    return {key for kind in kinds if (key := Key(kind, part.relation or "")) in parts}


def goes_with(part: Part, lost: set[Key]) -> bool:
    """Whether it cannot stay where others are lost: what its columns or arguments are of, what it
    belongs to, and what a constraint, an index or a trigger calls."""
    needs = part.signature | {key for key in lost if key.name == part.relation}
    return bool((needs | (part.uses if part.key.kind in HANGING else set())) & lost)


def check_data(lost: set[Key], old: Parts, new: Parts) -> None:
    """Refuses what would lose rows."""
    for key in sorted(lost, key=lambda key: (key.kind != "table", key)):
        of_table = any(k.kind == "table" for k in relation(old[key], old))
        if key.kind in ("table", "sequence", "schema") or (key.kind == "column" and of_table):
            why = "it is in the old version only" if key not in new else "it would be made anew"
            types = ", ".join(sorted(k.name for k in old[key].signature & lost))
            raise Refused(f"{key}: {why}{types and ', with ' + types}; its data would be lost")
    for key in old.keys() & new.keys():
        if key.kind == "extension":
            was, now = (parts[key].definition["dumped"] or {} for parts in (old, new))
            if kept := was.keys() - now.keys():
                raise Refused(f"{key}: pg_dump would not take {', '.join(sorted(kept))}")


def check_places(old: Parts, new: Parts) -> None:
    """Refuses a column that would not be where it is in a new installation."""
    for table in (key for key in old.keys() & new.keys() if key.kind == "table"):
        was, now = (
            sorted(
                (p.order, p.own_name)
                for p in parts.values()
                if p.key.kind == "column" and p.relation == table.name
            )
            for parts in (old, new)
        )
        for (_, one), (_, other) in zip(was, now, strict=False):
            if one != other:
                raise Refused(f"{table}: {other} is where {one} was; a new column comes last")


def new_names(before: str, lost: set[Key], new: Parts) -> dict[Key, str]:
    """For what is in the way of something new: while it has its name, a call of the new one could mean
    it."""
    taken = {key.name.partition("(")[0] for key in new}
    found: dict[Key, str] = {}
    for key in sorted(lost):
        name, bracket, types = key.name.partition("(")
        if key.kind in DROPPED and name in taken:
            schema, _, _ = name.rpartition(".")
            found[key] = f"{schema}.{name_of_old(key, before)}{bracket}{types}"
    return {key: with_new_names(name, found) for key, name in found.items()}


def name_of_old(key: Key, before: str) -> str:
    _, _, own = key.name.partition("(")[0].rpartition(".")
    name = f"{own} of {before}"
    if len(name.encode()) > LONGEST_NAME:
        raise Refused(f"{key}: {name} is longer than a name can be")
    return f'"{name}"'


def with_new_names(name: str, renamed: dict[Key, str]) -> str:
    """A function's name, with the names that the types of its arguments have by now."""
    name, bracket, types = name.partition("(")
    now = {key.name: other for key, other in renamed.items() if key.kind in ("type", "view")}
    listed = [
        now.get(element, element) + each.removeprefix(element)
        for each in types.removesuffix(")").split(",")
        for element in [each.removesuffix("[]")]
    ]
    return f"{name}({','.join(listed)})" if bracket else name


# ---- What is made


def create(part: Part, has_rows: bool = False) -> list[str]:
    """has_rows: it belongs to a table that may have some, for which its expressions are executed."""
    (kind, name), d = part.key, part.definition
    if kind == "schema":
        return [f"CREATE SCHEMA {name};"]
    if kind == "function":
        return [f"{d['create'].rstrip()};"]
    if kind == "aggregate":
        if d["others"] != PLAIN_AGGREGATE or d["kind"] != "n":
            raise Refused(f"{part.key}: it has properties that only CREATE AGGREGATE knows")
        options = ", ".join(d["options"])
        return [f"CREATE OR REPLACE AGGREGATE {d['name']}({d['arguments']}) ({options});"]
    if kind == "type" and "labels" in d:
        return [f"CREATE TYPE {name} AS ENUM ({', '.join(map(literal, d['labels']))});"]
    if kind == "type":
        return [f"CREATE TYPE {name} AS ({', '.join(map(attribute, d['columns']))});"]
    if kind == "table":
        plain = {"security": False, "forced": False, "identity": "d", "method": "heap"}
        if others := sorted(k for k, value in plain.items() if d[k] != value):
            raise Refused(f"{part.key}: it has {', '.join(others)}")
        unlogged = "UNLOGGED " if d["persistence"] == "u" else ""
        return [f"CREATE {unlogged}TABLE {name} ();", *set_options(part)]
    if kind == "view":
        return [f"CREATE OR REPLACE VIEW {name} AS\n{d['query']}", *set_options(part)]
    if kind == "column":
        return add_column(part, has_rows) if d else []
    if kind == "constraint":
        return at_once(
            part,
            has_rows,
            f"ALTER TABLE {part.relation} ADD CONSTRAINT {part.own_name} {d['constraint']};",
        )
    if kind == "index":
        return at_once(part, has_rows, f"{d['create']};")
    if kind == "trigger":
        made, enabled = [f"{d['create']};"], ENABLED.get(d["enabled"])
        if enabled:
            made.append(f"ALTER TABLE {part.relation} {enabled} TRIGGER {part.own_name};")
        return made
    if kind == "sequence" and d["of"]:
        return []  # its column made it
    raise Refused(f"{part.key}: it is new")


def again(part: Part) -> list[str]:
    """The same, bound to what its names mean now."""
    if part.key.kind == "column":
        return [alter_column(part, "default")]
    if part.key.kind not in ("function", "aggregate", "view"):
        raise Refused(f"{part.key}: it uses something that is made anew")
    return create(part)


def at_once(part: Part, has_rows: bool, statement: str) -> list[str]:
    """What is executed for each row, before it is checked what was bound."""
    if not has_rows:
        return [statement]
    foreign = [
        str(used)
        for used in part.uses
        if not isinstance(used, Key) or used.kind not in ("table", "column", "type")
    ]
    if foreign:
        raise Refused(f"{part.key}: it would call {', '.join(sorted(foreign))} for each row")
    return [AT_ONCE.format(statement)]


def attribute(column: list) -> str:
    name, type, collation = column
    return f"{name} {type}" + (f" COLLATE {collation}" if collation else "")


def set_options(part: Part, old: list[str] | None = None) -> list[str]:
    """old: those that it has already."""
    was, now = (
        {o.partition("=")[0]: o for o in options or []}
        for options in (old, part.definition["options"])
    )
    changes = [f"RESET ({name})" for name in was.keys() - now.keys()]
    changes += [f"SET ({option})" for name, option in now.items() if was.get(name) != option]
    alter = [f"ALTER {noun(part.key)} {part.key.name} {change};" for change in changes]
    return [SECURITY_INVOKER.format(one) if "(security_invoker" in one else one for one in alter]


def add_column(part: Part, has_rows: bool) -> list[str]:
    d = part.definition
    text = f"ALTER TABLE {part.relation} ADD COLUMN "
    text += attribute([part.own_name, d["type"], d["collation"]])
    if d["identity"]:
        always = "ALWAYS" if d["identity"] == "a" else "BY DEFAULT"
        text += f" GENERATED {always} AS IDENTITY (START WITH {d['start']})"
    elif d["generated"]:
        kept = "STORED" if d["generated"] == "s" else "VIRTUAL"
        text += f" GENERATED ALWAYS AS ({d['default']}) {kept}"
    elif d["default"]:
        text += f" DEFAULT {d['default']}"
    text += f"{' NOT NULL' if d['not null'] else ''};"
    found = at_once(part, has_rows, text) if d["default"] else [text]
    return found + [
        alter_column(part, name)
        for name in ("storage", "statistics", "compression")
        if d[name] not in (None, "")
    ]


def alter_column(part: Part, what: str) -> str:
    how = ALTER_COLUMN[what](part.definition[what])
    return f"ALTER TABLE {part.relation} ALTER COLUMN {part.own_name} {how};"


#: by what of a column can be changed in its place: how
ALTER_COLUMN = {
    "default": lambda value: f"SET DEFAULT {value}" if value else "DROP DEFAULT",
    "not null": lambda value: f"{'SET' if value else 'DROP'} NOT NULL",
    "storage": lambda value: f"SET STORAGE {STORAGE[value]}",
    "statistics": lambda value: f"SET STATISTICS {-1 if value is None else value}",
    "compression": lambda value: (
        f"SET COMPRESSION { {'p': 'pglz', 'l': 'lz4'}.get(value, 'default') }"
    ),
}


# ---- What is changed in its place


def change(old: Part, new: Part) -> list[str] | None:
    """None: it cannot be."""
    (kind, name), before, after = new.key, old.definition, new.definition
    if kind in ("function", "aggregate"):
        same = all(before[k] == after[k] for k in ("arguments", "result", "kind"))
        if kind == "function":  # a default may be added, and not be taken away
            same = same and before["defaults"] <= after["defaults"]
        return create(new) if same else None
    if kind == "type" and "labels" in before and "labels" in after:
        return add_labels(name, before["labels"], after["labels"])
    if kind == "type" and "columns" in before and "columns" in after:
        n = len(before["columns"])
        if after["columns"][:n] != before["columns"]:
            return None
        return [f"ALTER TYPE {name} ADD ATTRIBUTE {attribute(c)};" for c in after["columns"][n:]]
    if kind == "view":
        if before["query"] == after["query"]:
            return set_options(new, before["options"])
        n = len(before["columns"])
        return create(new) if after["columns"][:n] == before["columns"] else None
    if kind == "column" and before:
        return change_column(old, new)
    if kind == "extension":
        return change_dumped(before["dumped"] or {}, after["dumped"] or {})
    if kind == "table":
        return change_table(old, new)
    if kind in HANGING or kind == "type":
        return None
    raise Refused(f"{new.key}: {differing(before, after)}")


def differing(before: dict, after: dict) -> str:
    """Says how two definitions differ."""
    return "; ".join(
        f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def add_labels(name: str, before: list[str], after: list[str]) -> list[str] | None:
    if [label for label in after if label in before] != before:
        return None
    return [
        f"ALTER TYPE {name} ADD VALUE {literal(label)}"
        + (f" AFTER {literal(after[n - 1])};" if n else f" BEFORE {literal(after[1])};")
        for n, label in enumerate(after)
        if label not in before
    ]


def change_dumped(before: dict, after: dict) -> list[str]:
    return [
        f"SELECT pg_catalog.pg_extension_config_dump({literal(table)}, {literal(condition)});"
        for table, condition in after.items()
        if condition != before.get(table)
    ]


def change_table(old: Part, new: Part) -> list[str]:
    before, after = ({**part.definition, "rows": None, "options": None} for part in (old, new))
    if before != after:
        raise Refused(f"{new.key}: {differing(before, after)}")
    return set_options(new, old.definition["options"])


def change_column(old: Part, new: Part) -> list[str]:
    before, after = old.definition, new.definition
    names = [name for name in after if before[name] != after[name] and name != "place"]
    if not set(names) <= ALTER_COLUMN.keys() or (after["generated"] and "default" in names):
        raise Refused(f"{new.key}: {differing(before, after)}")
    return [alter_column(new, name) for name in names]


def drop_hanging(part: Part) -> str:
    if part.key.kind == "constraint":
        return f"ALTER TABLE {part.relation} DROP CONSTRAINT {part.own_name};"
    if part.key.kind == "index":
        return f"DROP INDEX {part.own_name};"
    return f"DROP TRIGGER {part.key.name};"


# ---- Comments and privileges


def describe(part: Part, old: Part | None) -> list[str]:
    """old: None where the part is new."""
    found = []
    if part.comment != (old.comment if old else None):
        text = "NULL" if part.comment is None else literal(part.comment)
        name = {
            "column": f"{part.relation}.{part.own_name}",
            "index": part.own_name,
        }.get(part.key.kind, part.key.name)
        found.append(f"COMMENT ON {noun(part.key)} {name} IS {text};")
    given = (old.privileges if old else DEFAULT.get(part.key.kind, set())) - owners(part)
    wanted = part.privileges - owners(part)
    for verb, to, entries in (("REVOKE", "FROM", given - wanted), ("GRANT", "TO", wanted - given)):
        for entry in sorted(entries):
            role, privilege = entry.split(" ", 1)
            privilege, option, _ = privilege.partition(" WITH GRANT OPTION")
            on, name = noun(part.key), part.key.name
            if part.key.kind == "column":
                privilege, on, name = f"{privilege} ({part.own_name})", "TABLE", part.relation
            elif part.key.kind in ("view", "aggregate"):
                on = {"view": "TABLE", "aggregate": "FUNCTION"}[part.key.kind]
            found.append(
                f"{verb} {privilege} ON {on} {name} {to} {role}{option if to == 'TO' else ''};"
            )
    return found


def owners(part: Part) -> set[str]:
    """Its owner has all privileges, whatever the server's version has of them."""
    return {entry for entry in part.privileges if entry.startswith("owner ")}


def noun(key: Key) -> str:
    return key.kind.upper()


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
