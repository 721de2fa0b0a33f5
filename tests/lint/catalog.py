"""The objects of the extension and what each uses, as the server's catalog has them.

The catalog knows what a BEGIN ATOMIC body, a view, a type, an aggregate or a trigger uses. A body
that is a string is only text to it, and so is a statement such as INSERT: there names are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from lint.source import Place, Source, Statement

# Those of one name are in the order in which they were made, which is that of their oids.
OBJECTS = """
SELECT o.class, o.oid, o.kind,
       CASE WHEN n.nspname = 'gpt2' AND o.kind <> 'trigger' THEN 'gpt2.' ELSE '' END || o.name,
       coalesce(obj_description(o.oid, o.class), obj_description(o.row_type, 'pg_type')),
       o.is_bound
FROM (
    SELECT 'pg_proc' AS class, oid,
           CASE prokind WHEN 'a' THEN 'aggregate' ELSE 'function' END AS kind,
           pronamespace AS namespace, proname AS name, 0 AS row_type,
           prokind = 'a' OR prosqlbody IS NOT NULL AS is_bound
    FROM pg_proc
UNION ALL
    SELECT 'pg_class', oid, CASE relkind WHEN 'v' THEN 'view' WHEN 'c' THEN 'type' ELSE 'table' END,
           relnamespace, relname, reltype, true
    FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'c')
UNION ALL
    SELECT 'pg_type', oid, 'type', typnamespace, typname, 0, true
    FROM pg_type WHERE typrelid = 0 AND typcategory <> 'A'
UNION ALL
    SELECT 'pg_trigger', t.oid, 'trigger', c.relnamespace,
           t.tgname || ' on gpt2.' || c.relname, 0, true
    FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
) AS o JOIN pg_namespace AS n ON n.oid = o.namespace
WHERE n.nspname = 'gpt2' OR o.name ~ '^gpt2_'
ORDER BY o.oid"""

# What is part of another object, which uses what it uses.
PARTS = """
SELECT 'pg_rewrite', oid, 'pg_class', ev_class FROM pg_rewrite
UNION ALL SELECT 'pg_attrdef', oid, 'pg_class', adrelid FROM pg_attrdef
UNION ALL SELECT 'pg_constraint', oid, 'pg_class', conrelid FROM pg_constraint WHERE conrelid <> 0
UNION ALL SELECT 'pg_class', indexrelid, 'pg_class', indrelid FROM pg_index
UNION ALL SELECT 'pg_type', oid, 'pg_class', typrelid FROM pg_type WHERE typrelid <> 0
UNION ALL SELECT 'pg_type', typarray, 'pg_type', oid FROM pg_type WHERE typarray <> 0"""

USES = "SELECT classid::regclass::text, objid, refclassid::regclass::text, refobjid FROM pg_depend"


@dataclass(eq=False)
class Object:
    kind: str
    name: str  # with the schema gpt2, if it is in that
    comment: str | None
    is_bound: bool  # the catalog knows what it uses
    statement: Statement | None = None  # that makes it

    @property
    def place(self) -> Place:
        return self.statement.place if self.statement else Place("", 0)


class Use(NamedTuple):
    user: Object | None  # none: a statement that makes no object
    source: Source
    place: Place
    used: tuple[Object, ...]  # of a name in a text, all that it may mean


def read_catalog(
    connection: psycopg.Connection, sources: list[Source]
) -> tuple[list[Object], list[Use]]:
    """The objects in the schema gpt2 or named gpt2_*, and what they use of each other."""
    objects = {(row[0], row[1]): Object(*row[2:]) for row in connection.execute(OBJECTS)}
    locate(list(objects.values()), sources)
    parts = {(row[0], row[1]): row[2:] for row in connection.execute(PARTS)}

    def whole(address: tuple[str, int]) -> Object | None:
        while address in parts:
            address = parts[address]
        return objects.get(address)

    pairs = {(whole(row[:2]), whole(row[2:])) for row in connection.execute(USES)}
    uses = [
        Use(user, user.statement.source, user.place, (used,))
        for user, used in pairs
        if user and used and user is not used and user.statement
    ]
    return list(objects.values()), uses + list(text_uses(list(objects.values()), sources))


def locate(objects: list[Object], sources: list[Source]) -> None:
    """Tells each object which statement makes it: of a name, the first makes the first."""
    makers = defaultdict(list)
    for source in sources:
        for statement in source.statements:
            for made in statement.made:
                makers[made].append(statement)
    for item in objects:
        if found := makers[item.kind, item.name]:
            item.statement = found.pop(0) if len(found) > 1 else found[0]


def text_uses(objects: list[Object], sources: list[Source]) -> Iterator[Use]:
    """The names in statements of which the catalog does not know what they use."""
    named, makes = defaultdict(list), {}
    for item in objects:
        named[item.name].append(item)
        makes[id(item.statement)] = item
    for source in sources:
        for statement in source.statements:
            user = makes.get(id(statement)) if statement.verb == "CREATE" else None
            if statement.verb in ("COMMENT", "GRANT", "REVOKE") or (user and user.is_bound):
                continue
            for name, place in statement.names():
                if name in named:
                    yield Use(user, source, place, tuple(named[name]))
