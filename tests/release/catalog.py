"""What an extension is made of, as the server's catalogs have it: `read` gives its parts, and
`differences` tells two installations apart.

A part is what one CREATE or ADD makes: a function, an aggregate, a type, a table, a column, a
constraint, an index, a trigger, a view, a sequence, a schema; and the extension itself. What an
extension has and this module does not know is an error, not something that is left out.

The extension lies in a schema of the name SCHEMA, so that a definition becomes one for a script where
@extschema@ stands in its place. What the extension requires lies in the
search_path, as it does when a script runs, and is named without its schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg

SCHEMA = "schema_of_the_extension"
LAST = 1 << 32  # no oid is as large


class Refused(Exception):
    """What is left to somebody who knows what it means."""


class Key(NamedTuple):
    kind: str
    name: str  # as SQL names it: gpt2._erf(double precision); of a column: name ON gpt2.model

    def __str__(self) -> str:
        return " ".join(self)


@dataclass
class Part:
    key: Key
    relation: str | None  # of a column, a constraint, an index, a trigger: what it belongs to
    order: tuple[int, ...]  # that of their making: an oid, a column's number
    definition: dict
    comment: str | None
    privileges: set[str]  # 'PUBLIC SELECT', the role that owns it as 'owner'
    initial: set[str]  # those that the extension's script gave; pg_dump leaves them out
    #: what it refers to: parts of the extension, and descriptions of what is none
    uses: set[Key | str] = field(default_factory=set)
    #: those of them without which it would be another: the types of arguments, of columns
    signature: set[Key] = field(default_factory=set)

    @property
    def own_name(self) -> str:
        """Its name without its relation's."""
        return self.key.name.removesuffix(f" ON {self.relation}")


def acl(column: str, default: str, owner: str) -> str:
    """SQL: privileges as texts. default: the letter of acldefault()."""
    return f"""ARRAY(
        SELECT concat_ws(' ', CASE a.grantee WHEN 0 THEN 'PUBLIC' WHEN {owner} THEN 'owner'
                                  ELSE a.grantee::regrole::text END,
                         a.privilege_type, CASE WHEN a.is_grantable THEN 'WITH GRANT OPTION' END)
        FROM aclexplode(coalesce({column}, acldefault('{default}', {owner}))) AS a)"""


def initial(catalog: str, oid: str, default: str, owner: str, column: str = "0") -> str:
    """SQL: the privileges that an extension's script gave, which pg_dump takes for granted."""
    given = f"""(SELECT i.initprivs FROM pg_init_privs AS i
                WHERE i.classoid = '{catalog}'::regclass AND i.objoid = {oid} AND i.objsubid = {column})"""
    return acl(given, default, owner)


# 16384 is the first oid that initdb has not given away. Each query gives: kind, name, relation, catalog, oid, column's number, definition, comment,
# privileges, initial privileges, oids of the types in its signature.
SCHEMAS = f"""
SELECT 'schema', quote_ident(n.nspname), NULL, 'pg_namespace', n.oid, 0, '{{}}'::jsonb,
       obj_description(n.oid, 'pg_namespace'), {acl("n.nspacl", "n", "n.nspowner")},
       {initial("pg_namespace", "n.oid", "n", "n.nspowner")}, NULL::oid[]
FROM pg_namespace AS n"""

FUNCTIONS = f"""
SELECT 'function', p.oid::regprocedure::text, NULL, 'pg_proc', p.oid, 0,
       jsonb_build_object(
           'create', pg_get_functiondef(p.oid),
           'arguments', pg_get_function_identity_arguments(p.oid),
           'result', pg_get_function_result(p.oid), 'kind', p.prokind,
           'defaults', p.pronargdefaults),
       obj_description(p.oid, 'pg_proc'), {acl("p.proacl", "f", "p.proowner")},
       {initial("pg_proc", "p.oid", "f", "p.proowner")},
       coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype
FROM pg_proc AS p WHERE p.oid >= 16384 AND p.prokind IN ('f', 'w')"""

AGGREGATES = f"""
SELECT 'aggregate', p.oid::regprocedure::text, NULL, 'pg_proc', p.oid, 0,
       jsonb_build_object(
           'name', p.pronamespace::regnamespace || '.' || quote_ident(p.proname),
           'arguments', pg_get_function_arguments(p.oid), 'result', pg_get_function_result(p.oid),
           'kind', a.aggkind, 'others', (
               to_jsonb(a) - '{{aggfnoid,aggkind,aggtransfn,aggtranstype,aggfinalfn,aggfinalextra,
                               aggfinalmodify,aggmfinalmodify,aggcombinefn,agginitval}}'::text[]),
           'options', (
               SELECT jsonb_agg(o.name || coalesce(' = ' || o.value, '') ORDER BY o.n)
               FROM (VALUES
                   (1, 'SFUNC', a.aggtransfn::text, true),
                   (2, 'STYPE', format_type(a.aggtranstype, NULL), true),
                   (3, 'FINALFUNC', a.aggfinalfn::text, a.aggfinalfn <> 0),
                   (4, 'FINALFUNC_EXTRA', NULL, a.aggfinalextra),
                   (5, 'FINALFUNC_MODIFY', CASE a.aggfinalmodify WHEN 's' THEN 'SHAREABLE'
                                           ELSE 'READ_WRITE' END, a.aggfinalmodify <> 'r'),
                   (6, 'COMBINEFUNC', a.aggcombinefn::text, a.aggcombinefn <> 0),
                   (7, 'INITCOND', quote_literal(a.agginitval), a.agginitval IS NOT NULL),
                   (8, 'PARALLEL', CASE p.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED'
                                   ELSE 'UNSAFE' END, true)
               ) AS o (n, name, value, is_set) WHERE o.is_set)),
       obj_description(p.oid, 'pg_proc'), {acl("p.proacl", "f", "p.proowner")},
       {initial("pg_proc", "p.oid", "f", "p.proowner")}, p.proargtypes::oid[] || p.prorettype
FROM pg_proc AS p JOIN pg_aggregate AS a ON a.aggfnoid = p.oid WHERE p.oid >= 16384"""
#: an aggregate's other properties, where none is set
PLAIN_AGGREGATE = {
    "aggnumdirectargs": 0,
    "aggserialfn": "-",
    "aggdeserialfn": "-",
    "aggmtransfn": "-",
    "aggminvtransfn": "-",
    "aggmfinalfn": "-",
    "aggmfinalextra": False,
    "aggsortop": "0",
    "aggtransspace": 0,
    "aggmtranstype": "0",
    "aggmtransspace": 0,
    "aggminitval": None,
}

ENUMS = f"""
SELECT 'type', format_type(t.oid, NULL), NULL, 'pg_type', t.oid, 0,
       jsonb_build_object('labels', (
           SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum AS e
           WHERE e.enumtypid = t.oid)),
       obj_description(t.oid, 'pg_type'), {acl("t.typacl", "T", "t.typowner")},
       {initial("pg_type", "t.oid", "T", "t.typowner")}, NULL::oid[]
FROM pg_type AS t WHERE t.typtype = 'e'"""

#: of a relation c, those that are there, in their order
COLUMNS_OF = """
SELECT jsonb_agg(jsonb_build_array(
           quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.attcollation <> y.typcollation THEN a.attcollation::regcollation END)
       ORDER BY a.attnum)
FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"""
TYPES_OF = """
SELECT array_agg(a.atttypid) FROM pg_attribute AS a
WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"""

# 'pg_class' and not 'pg_type': it is the relation to which columns belong
COMPOSITES = f"""
SELECT 'type', format_type(t.oid, NULL), NULL, 'pg_class', c.oid, 0,
       jsonb_build_object('columns', ({COLUMNS_OF})),
       obj_description(t.oid, 'pg_type'), {acl("t.typacl", "T", "t.typowner")},
       {initial("pg_type", "t.oid", "T", "t.typowner")}, ({TYPES_OF})
FROM pg_class AS c JOIN pg_type AS t ON t.oid = c.reltype WHERE c.relkind = 'c'"""

TABLES = f"""
SELECT 'table', c.oid::regclass::text, NULL, 'pg_class', c.oid, 0,
       jsonb_build_object(
           'persistence', c.relpersistence, 'security', c.relrowsecurity,
           'forced', c.relforcerowsecurity, 'identity', c.relreplident,
           'method', (SELECT m.amname FROM pg_am AS m WHERE m.oid = c.relam),
           'options', (SELECT jsonb_agg(o ORDER BY o) FROM unnest(c.reloptions) AS o)),
       obj_description(c.oid, 'pg_class'), {acl("c.relacl", "r", "c.relowner")},
       {initial("pg_class", "c.oid", "r", "c.relowner")}, ({TYPES_OF})
FROM pg_class AS c WHERE c.oid >= 16384 AND c.relkind = 'r'"""

VIEWS = f"""
SELECT 'view', c.oid::regclass::text, NULL, 'pg_class', c.oid, 0,
       jsonb_build_object(
           'query', pg_get_viewdef(c.oid), 'columns', ({COLUMNS_OF}),
           'options', (SELECT jsonb_agg(o ORDER BY o) FROM unnest(c.reloptions) AS o)),
       obj_description(c.oid, 'pg_class'), {acl("c.relacl", "r", "c.relowner")},
       {initial("pg_class", "c.oid", "r", "c.relowner")}, ({TYPES_OF})
FROM pg_class AS c WHERE c.oid >= 16384 AND c.relkind = 'v'"""

SEQUENCES = f"""
SELECT 'sequence', c.oid::regclass::text, NULL, 'pg_class', c.oid, 0,
       to_jsonb(s) - 'seqrelid'::text - 'seqtypid'::text
       || jsonb_build_object(
           'type', format_type(s.seqtypid, NULL), 'of', (
               SELECT quote_ident(a.attname) || ' ON ' || d.refobjid::regclass
               FROM pg_depend AS d
               JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
               WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i')),
       obj_description(c.oid, 'pg_class'), {acl("c.relacl", "s", "c.relowner")},
       {initial("pg_class", "c.oid", "s", "c.relowner")}, NULL::oid[]
FROM pg_class AS c JOIN pg_sequence AS s ON s.seqrelid = c.oid"""

# A column of a view or of a type is defined with it.
COLUMNS = f"""
SELECT 'column', quote_ident(a.attname) || ' ON ' || r.name, r.name, 'pg_class', c.oid, a.attnum,
       CASE WHEN c.relkind <> 'r' THEN '{{}}' ELSE jsonb_build_object(
           'type', format_type(a.atttypid, a.atttypmod),
           'collation', CASE WHEN a.attcollation <> y.typcollation
                        THEN a.attcollation::regcollation END,
           'not null', a.attnotnull, 'default', pg_get_expr(d.adbin, d.adrelid),
           'generated', a.attgenerated, 'identity', a.attidentity,
           'start', (SELECT s.seqstart FROM pg_sequence AS s WHERE s.seqrelid = pg_get_serial_sequence(
                         c.oid::regclass::text, a.attname)::regclass),
           'storage', CASE WHEN a.attstorage <> y.typstorage THEN a.attstorage END,
           'compression', a.attcompression, 'statistics', nullif(a.attstattarget, -1),
           -- pg_attver is what some servers write there themselves
           'options', (SELECT jsonb_agg(o ORDER BY o) FROM unnest(a.attoptions) AS o
                       WHERE o NOT LIKE 'pg_attver=%'), 'place', (
               SELECT count(*) FROM pg_attribute AS b
               WHERE b.attrelid = c.oid AND b.attnum BETWEEN 1 AND a.attnum AND NOT b.attisdropped))
       END,
       col_description(c.oid, a.attnum), {acl("a.attacl", "c", "c.relowner")},
       {initial("pg_class", "c.oid", "c", "c.relowner", "a.attnum")}, NULL::oid[]
FROM pg_class AS c
CROSS JOIN LATERAL (SELECT c.oid::regclass::text) AS r (name)
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS y ON y.oid = a.atttypid
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.oid >= 16384 AND c.relkind IN ('r', 'v', 'c')"""

# From PostgreSQL 18 on NOT NULL is one, too: of a column.
CONSTRAINTS = """
SELECT 'constraint', quote_ident(k.conname) || ' ON ' || k.conrelid::regclass,
       k.conrelid::regclass::text, 'pg_constraint', k.oid, 0,
       jsonb_build_object('constraint', pg_get_constraintdef(k.oid)),
       obj_description(k.oid, 'pg_constraint'), '{}'::text[], '{}'::text[], NULL::oid[]
FROM pg_constraint AS k WHERE k.conrelid <> 0 AND k.contype IN ('c', 'f', 'p', 'u', 'x')"""

INDEXES = """
SELECT 'index', c.oid::regclass || ' ON ' || i.indrelid::regclass, i.indrelid::regclass::text,
       'pg_class', c.oid, 0, jsonb_build_object('create', pg_get_indexdef(c.oid)),
       obj_description(c.oid, 'pg_class'), '{}'::text[], '{}'::text[], NULL::oid[]
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS r ON r.oid = i.indrelid AND r.relkind = 'r'
WHERE NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = c.oid AND k.contype <> 'f')"""

TRIGGERS = """
SELECT 'trigger', quote_ident(t.tgname) || ' ON ' || t.tgrelid::regclass, t.tgrelid::regclass::text,
       'pg_trigger', t.oid, 0,
       jsonb_build_object('create', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled),
       obj_description(t.oid, 'pg_trigger'), '{}'::text[], '{}'::text[], NULL::oid[]
FROM pg_trigger AS t WHERE NOT t.tgisinternal"""

KINDS = (
    (SCHEMAS, FUNCTIONS, AGGREGATES, ENUMS, COMPOSITES, TABLES, VIEWS, SEQUENCES)
    + (COLUMNS, CONSTRAINTS, INDEXES, TRIGGERS)
)  # fmt: skip

# What has no name of its own: an array type, a row type, a view's rule, a default, an index of a
# constraint, what TOAST needs. It is part of the other one.
PIECES = """
SELECT 'pg_type', oid, 'pg_class', typrelid, 0 FROM pg_type WHERE typrelid <> 0
UNION ALL SELECT 'pg_type', typarray, 'pg_type', oid, 0 FROM pg_type WHERE typarray <> 0
UNION ALL SELECT 'pg_rewrite', oid, 'pg_class', ev_class, 0 FROM pg_rewrite WHERE rulename = '_RETURN'
UNION ALL SELECT 'pg_attrdef', oid, 'pg_class', adrelid, adnum FROM pg_attrdef
UNION ALL SELECT 'pg_constraint', oid, 'pg_class', conrelid, 0 FROM pg_constraint WHERE contype = 'n'
UNION ALL SELECT 'pg_class', conindid, 'pg_constraint', oid, 0
    FROM pg_constraint WHERE contype IN ('p', 'u', 'x')
UNION ALL SELECT 'pg_class', reltoastrelid, 'pg_class', oid, 0
    FROM pg_class WHERE reltoastrelid <> 0
UNION ALL SELECT 'pg_class', i.indexrelid, 'pg_class', i.indrelid, 0
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid WHERE c.relkind = 't'"""

# Its members, and what is part of them. A trigger or an index that somebody has hung on one of its
# tables is, too.
BELONGS = """
WITH RECURSIVE part (classid, objid) AS (
    SELECT d.classid, d.objid
    FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = %(extension)s
    UNION
    SELECT d.classid, d.objid
    FROM part AS p
    JOIN pg_depend AS d ON d.refclassid = p.classid AND d.refobjid = p.objid
    WHERE d.deptype IN ('a', 'i')
)
"""
DESCRIBED = (
    BELONGS
    + "SELECT classid::regclass::text, objid, pg_describe_object(classid, objid, 0) FROM part"
)
USES = (
    BELONGS
    + """
SELECT p.classid::regclass::text, p.objid, d.objsubid, d.refclassid::regclass::text, d.refobjid,
       d.refobjsubid, pg_describe_object(d.refclassid, d.refobjid, 0)
FROM part AS p JOIN pg_depend AS d ON d.classid = p.classid AND d.objid = p.objid"""
)

EXTENSION = """
SELECT jsonb_build_object(
           'dumped', (SELECT jsonb_object_agg(c.oid::regclass::text, c.condition)
                      FROM unnest(e.extconfig, e.extcondition) AS c (oid, condition))),
       obj_description(e.oid, 'pg_extension')
FROM pg_extension AS e WHERE e.extname = %(extension)s"""


def read(connection: psycopg.Connection, extension: str, rows: bool = True) -> dict[Key, Part]:
    """The parts of an extension; rows: with a hash of what its tables hold."""
    names = {"extension": extension}
    with connection.transaction(force_rollback=True):
        connection.execute(
            """SELECT set_config('search_path', string_agg(DISTINCT n.nspname, ', '), true)
               FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
               WHERE e.extname IN ('vector', 'plpython3u')"""
        )
        described = {tuple(row[:2]): row[2] for row in connection.execute(DESCRIBED, names)}
        pieces = {tuple(row[:2]): tuple(row[2:]) for row in connection.execute(PIECES)}
        references = connection.execute(USES, names).fetchall()
        remake(connection, described)
        parts, keys, types = {}, {}, {}
        for query in KINDS:
            for (
                *head,
                relation,
                catalog,
                oid,
                column,
                definition,
                comment,
                acl,
                given,
                used,
            ) in connection.execute(query):
                if (catalog, oid) not in described:
                    continue
                key = Key(*head)
                keys[catalog, oid, column] = key
                types[key] = used or ()
                parts[key] = Part(
                    key, relation, (oid, column), definition, comment, set(acl), set(given)
                )  # fmt: skip

        def whole(catalog: str, oid: int, column: int = 0) -> Key | None:
            """The part that an object is, or belongs to."""
            while (catalog, oid) in pieces:
                catalog, oid, column = pieces[catalog, oid]
            return keys.get((catalog, oid, column)) or keys.get((catalog, oid, 0))

        for key, part in parts.items():
            if key.kind == "sequence" and part.definition["of"]:  # which is made with its column
                part.order = (*parts[Key("column", part.definition["of"])].order, 1)
        for address, description in described.items():
            if whole(*address) is None:
                raise Refused(f"{description}: tests/release/catalog.py cannot read it")
        for catalog, oid, column, *other, description in references:
            user, used = whole(catalog, oid, column), whole(*other)
            if user != used:
                parts[user].uses.add(used or description)
        for key, used in types.items():
            parts[key].signature = {
                found for oid in used if (found := whole("pg_type", oid)) not in (None, key)
            }
        definition, comment = connection.execute(EXTENSION, names).fetchone()
        key = Key("extension", extension)  # which is said of what it has, and so comes last
        parts[key] = Part(key, None, (LAST, 0), definition, comment, set(), set())
        for table in tables(parts) if rows else ():
            count, total = connection.execute(
                f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table.key.name} AS t"
            ).fetchone()
            table.definition["rows"] = [count, str(total)]
    return parts


#: what is a parsed query in the catalogs, and its text
PARSED = """
SELECT 'pg_proc', p.oid, pg_get_functiondef(p.oid) FROM pg_proc AS p
WHERE p.oid >= 16384 AND p.prosqlbody IS NOT NULL
UNION ALL
SELECT 'pg_class', c.oid,
       format('CREATE OR REPLACE VIEW %s %s AS %s', c.oid::regclass,
              'WITH (' || array_to_string(c.reloptions, ', ') || ')', pg_get_viewdef(c.oid))
FROM pg_class AS c WHERE c.oid >= 16384 AND c.relkind = 'v'"""


def remake(connection: psycopg.Connection, described: dict) -> None:
    """Makes views and bodies from the texts that the server gives of them, as an upgrade script and
    pg_dump do. Only then are two of the same meaning the same: `x BETWEEN 1 AND 2 AND y` comes back
    with parentheses, and without them the next time; a column without a name gets one."""
    for catalog, oid, text in connection.execute(PARSED).fetchall():
        if (catalog, oid) in described:
            # of a DELETE among several statements the first releases of PostgreSQL 14 give a text
            # that they do not take
            with suppress(psycopg.errors.UndefinedTable), connection.transaction():
                connection.execute(text)


def tables(parts: dict[Key, Part]) -> Iterator[Part]:
    return (part for part in parts.values() if part.key.kind == "table")


def differences(one: dict[Key, Part], other: dict[Key, Part]) -> list[str]:
    """What two installations do not have in common, a line each."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        if key not in one or key not in other:
            found.append(f"{key}: only in the {'first' if key in one else 'second'}")
            continue
        for what in ("definition", "comment", "privileges", "initial", "uses", "signature"):
            first, second = getattr(one[key], what), getattr(other[key], what)
            if first != second:
                found.append(f"{key}: {what}: {shown(first, second)}")
    return found


def shown(first: object, second: object) -> str:
    """Two values, or what is in only one of them."""
    if isinstance(first, dict) and isinstance(second, dict):
        names = [
            name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
        ]
        first, second = ({name: each.get(name) for name in names} for each in (first, second))
    elif isinstance(first, set) and isinstance(second, set):
        first, second = first - second, second - first
    return f"{first!r}, {second!r}"
