"""A database in which somebody was before: functions and operators that could be taken for
PostgreSQL's own.

Of two functions of one name that can take a call's arguments, PostgreSQL prefers the one whose
types match exactly. So for each name that the scripts use, and each signature of PostgreSQL's or
pgvector's that would need a conversion or is polymorphic, a trap is made whose types are exact.
A trap counts in the sequence `sprung`, which no rollback turns back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg

#: what an argument of the type can be without a conversion being written
ALSO = {
    "double precision": ("integer", "bigint", "smallint", "real"),
    "numeric": ("integer", "bigint", "smallint"),
    "bigint": ("integer", "smallint"),
    "text": ("character varying", "name", '"char"', "character"),
    "oid": ("regclass", "integer"),
    "anyelement": None,
    "anyarray": None,
    "anynonarray": None,
    "anycompatible": None,
    "anycompatiblearray": None,
    "anycompatiblenonarray": None,
    '"any"': None,
}
ELEMENTS = (
    "integer",
    "bigint",
    "real",
    "double precision",
    "text",
    "bytea",
    "boolean",
    "name",
    '"char"',
    "jsonb",
    "regclass",
    "vector",
    "halfvec",
)

SIGNATURES = """
SELECT p.proname, p.prokind = 'a', p.proretset, format_type(p.prorettype, NULL), NULL,
       ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t), p.provariadic <> 0
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.proname = ANY (%(names)s) AND p.prokind IN ('f', 'a')
  AND p.prorettype NOT IN ('internal'::regtype, 'trigger'::regtype, 'cstring'::regtype)
  AND NOT 'internal'::regtype = ANY (p.proargtypes) AND NOT 'cstring'::regtype = ANY (p.proargtypes)
UNION ALL
SELECT o.oprname, false, false, format_type(o.oprresult, NULL), o.oprname,
       ARRAY(SELECT format_type(t, NULL) FROM unnest(ARRAY[o.oprleft, o.oprright]) AS t
             WHERE t <> 0), false
FROM pg_operator AS o
WHERE o.oprname = ANY (%(operators)s)"""


def words(*scripts: Path) -> dict[str, list[str]]:
    """Names and operators that occur in the scripts."""
    text = "\n".join(script.read_text() for script in scripts)
    return {
        "names": sorted(set(re.findall(r"[a-z_][a-z0-9_]*", text))),
        "operators": sorted(set(re.findall(r"[-+*/<>=~!@#%^&|`?]+", text))),
    }


def exact(types: list[str], result: str, variadic: bool) -> Iterator[tuple[list[str], str]]:
    """Signatures that match exactly where the given one would convert, or is polymorphic."""
    polymorphic = {t for t in types if ALSO.get(t, ()) is None}
    if polymorphic:
        for element in ELEMENTS:

            def real(t: str, element: str = element) -> str:
                if "array" in t and "nonarray" not in t:
                    return f"{element}[]"
                return element if ALSO.get(t, ()) is None else t

            found = [real(t) for t in types]
            yield found, real(result)
            if '"any"' in types:  # format, concat: the last as often as you like
                yield [*found, element], real(result)
                yield [*found, "text"], real(result)
    else:
        for wide in set(types) & set(ALSO):
            for narrow in ALSO[wide]:
                yield [narrow if t == wide else t for t in types], result
                for i, t in enumerate(types):  # one of two
                    if t == wide and types.count(wide) > 1:
                        yield [*types[:i], narrow, *types[i + 1 :]], result


def traps(connection: psycopg.Connection, *scripts: Path) -> Iterator[str]:
    """The statements that make them, in public."""
    seen = set()
    for name, is_aggregate, is_set, result, operator, types, variadic in connection.execute(
        SIGNATURES, words(*scripts)
    ):
        for arguments, returned in exact(types, result, variadic):
            key = (name, tuple(arguments))
            if key in seen or not arguments:
                continue
            seen.add(key)
            made = f"trap_{len(seen)}" if operator or is_aggregate else f'"{name}"'
            taken = [returned, *arguments] if is_aggregate else arguments
            returns = "bigint" if ALSO.get(returned, ()) is None else returned
            if is_aggregate:
                taken[0] = returns
            yield (
                f"CREATE FUNCTION public.{made}({', '.join(taken)})"
                f" RETURNS {'SETOF ' if is_set else ''}{returns} LANGUAGE plpgsql PARALLEL SAFE AS"
                " $$ BEGIN PERFORM nextval('public.sprung');"
                f" RETURN{'' if is_set else ' NULL'}; END $$"
            )
            if operator:
                sides = ("LEFTARG", "RIGHTARG") if len(arguments) == 2 else ("RIGHTARG",)
                given = ", ".join(f"{s} = {t}" for s, t in zip(sides, arguments, strict=True))
                yield f"CREATE OPERATOR public.{name} (FUNCTION = public.{made}, {given})"
            elif is_aggregate:
                yield (
                    f'CREATE AGGREGATE public."{name}"({", ".join(arguments)})'
                    f" (SFUNC = public.{made}, STYPE = {returns})"
                )
