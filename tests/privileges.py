"""Who may do what: a line for each object of the extensions and each public function, a column for
each role. tests/expected/privileges.txt holds it, so that any change is seen as a difference:

    extension/setup/cluster run env PYTHONPATH=tests build/venv/bin/python -m privileges

writes that file anew. What the server says of each object is in letters, as psql's \\dp shows them;
what came of a call is 'yes' or the code of its error.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from conftest import ROOT, load_model
from oracle.checkpoints import SHAPES, write_checkpoint
from psycopg.conninfo import make_conninfo
from test_loader import directory, readable

#: of the model that is called
SHAPE = SHAPES["one_block"] | {"tie_word_embeddings": False}
EXPECTED = ROOT / "tests/expected/privileges.txt"
#: those of the cluster, with this before their names
PREFIX = "gpt2_privileges_"
GRANTS = {
    "nobody": "",
    "reader": "GRANT SELECT ON ALL TABLES IN SCHEMA gpt2 TO {role}",
    "writer": "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gpt2 TO {role}",
    # who may read the server's files, and no more; and a writer who may
    "files": "GRANT pg_read_server_files TO {role}",
    "loader": """GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gpt2 TO {role};
                 GRANT pg_read_server_files TO {role}""",
    # who has made the extension gpt2, and is no superuser
    "owner": "",
    "superuser": "ALTER ROLE {role} SUPERUSER",
}
HEADER = """\
nobody: nothing was granted. reader: SELECT on the tables. writer: and INSERT, UPDATE, DELETE.
files: a member of pg_read_server_files. loader: a writer who is that too. owner: has made the
extension gpt2, and is no superuser. A '-' is no privilege.
"""

MEMBERS = """
SELECT d.classid::regclass::text, d.objid
FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname ~ '^gpt2'"""
#: kind and name of each object, and a row (letter, whether a role $1 has the privilege) a privilege
OBJECTS = f"""
WITH member (catalog, oid) AS ({MEMBERS}), object AS (
    SELECT 1 AS n, 'schema' AS kind, s.nspname::text AS name, s.oid,
           '{{U:USAGE,C:CREATE}}'::text[] AS privileges
    FROM pg_namespace AS s JOIN member AS m ON m.catalog = 'pg_namespace' AND m.oid = s.oid
UNION ALL
    SELECT CASE c.relkind WHEN 'r' THEN 2 WHEN 'v' THEN 3 ELSE 4 END,
           CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' ELSE 'sequence' END,
           c.oid::regclass::text, c.oid,
           CASE c.relkind WHEN 'S' THEN '{{r:SELECT,w:UPDATE,U:USAGE}}'::text[] ELSE
               '{{r:SELECT,a:INSERT,w:UPDATE,d:DELETE,D:TRUNCATE,x:REFERENCES,t:TRIGGER}}' END
    FROM pg_class AS c JOIN member AS m ON m.catalog = 'pg_class' AND m.oid = c.oid
    WHERE c.relkind IN ('r', 'v', 'S')
UNION ALL
    SELECT 5, 'type', t.oid::regtype::text, t.oid, '{{U:USAGE}}'
    FROM pg_type AS t JOIN member AS m ON m.catalog = 'pg_type' AND m.oid = t.oid
    WHERE t.typcategory <> 'A'
      AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
UNION ALL
    SELECT 6, 'function', p.oid::regproc::text, p.oid, '{{X:EXECUTE}}'
    FROM pg_proc AS p JOIN member AS m ON m.catalog = 'pg_proc' AND m.oid = p.oid
)
SELECT o.kind || ' ' || o.name, string_agg(
    CASE WHEN CASE o.kind
        WHEN 'schema' THEN has_schema_privilege(%(role)s, o.oid, p.name)
        WHEN 'type' THEN has_type_privilege(%(role)s, o.oid, p.name)
        WHEN 'function' THEN has_function_privilege(%(role)s, o.oid, p.name)
        WHEN 'sequence' THEN has_sequence_privilege(%(role)s, o.oid, p.name)
        ELSE has_table_privilege(%(role)s, o.oid, p.name) END
    THEN p.letter ELSE '' END, '' ORDER BY p.i)
FROM object AS o CROSS JOIN LATERAL (
    SELECT left(u.p, 1), substr(u.p, 3), u.i FROM unnest(o.privileges) WITH ORDINALITY AS u (p, i)
) AS p (letter, name, i)
GROUP BY o.n, o.kind, o.name, o.oid ORDER BY o.n, o.name COLLATE "C", o.oid"""

#: a call of each function that reads a model, {m}
READS = [
    "SELECT gpt2_tokenize('a', {m})",
    "SELECT * FROM gpt2_tokens('a', {m})",
    "SELECT * FROM gpt2_bpe('hello', {m})",
    "SELECT gpt2_detokenize('{{1}}', {m})",
    "SELECT gpt2_embeddings('{{1}}', {m})",
    "SELECT gpt2_block(gpt2_embeddings('{{1}}'), 0, {m})",
    "SELECT gpt2_forward('{{1}}', {m})",
    "SELECT * FROM gpt2_next_token('a', model => {m})",
    "SELECT gpt2_generate('a', 2, model => {m})",
    "SELECT * FROM gpt2_stream('a', 2, model => {m})",
    "SELECT * FROM gpt2_complete('a', 2, model => {m})",
    "SELECT gpt2_completions(jsonb_build_object('prompt', 'a', 'max_tokens', 2, 'model', {m}))",
    "SELECT * FROM gpt2_beam('a', 2, 2, model => {m})",
    "SELECT gpt2_beam_search('a', 2, 2, model => {m})",
    "SELECT gpt2_prefix('a', {m})",
    "SELECT gpt2_prewarm({m})",
    "SELECT gpt2_fingerprint({m})",
    "SELECT * FROM gpt2_trace('a', '{{resid_post}}', model => {m})",
    "SELECT * FROM gpt2_attention('a', 0, 0, model => {m})",
    "SELECT * FROM gpt2_head_summary('a b', model => {m})",
    "SELECT * FROM gpt2_logit_lens('a', model => {m})",
    "SELECT * FROM gpt2_direct_logit_attribution('a', model => {m})",
    "SELECT * FROM gpt2_neurons('a', 0, 2, model => {m})",
    "SELECT gpt2_attention_svg('a b', 0, 0, model => {m})",
    "SELECT gpt2_heads_svg('a b', model => {m})",
    "SELECT gpt2_lens_svg('a b', model => {m})",
    "SELECT gpt2_surprisal_svg('a b', model => {m})",
    "SELECT gpt2_report('a b', model => {m})",
    "SELECT * FROM gpt2_attention_text('a b', 0, 0, model => {m})",
    "SELECT * FROM gpt2_surprisal_text('a b', model => {m})",
    "SELECT * FROM gpt2_score('a b', model => {m})",
    "SELECT gpt2_perplexity('a b', model => {m})",
    "SELECT * FROM gpt2_choose('a', '{{x,y}}', model => {m})",
    "SELECT gpt2_classify('a', '{{x,y}}', model => {m})",
    "SELECT gpt2_embed('a', model => {m})",
    "SELECT gpt2_similarity('a', 'b', model => {m})",
    "SELECT * FROM gpt2_model_diff({m}, {m})",
]
WRITES = [
    "SELECT gpt2_default_model('m')",
    "SELECT gpt2_drop_model('variant')",
    "SELECT gpt2_create_variant('new')",
    "SELECT gpt2_average('new', 'm', 'm')",
    "SELECT gpt2_load_model('{path}', 'new')",
    *(
        f"UPDATE gpt2.{table} SET weight = weight - weight WHERE {where}"
        for table, where in {
            "linear": "unit = 3 AND block = 0 AND layer = 'mlp.c_fc'",
            "wte": "token = 3",
            "lm_head": "token = 3",
            "wpe": '"position" = 3',
            "layer_norm": "block = 0",
        }.items()
    ),
    "UPDATE gpt2.bias SET bias = bias - bias WHERE block = 0",
    "UPDATE gpt2.model SET source = NULL",
    "DELETE FROM gpt2.matrix_page WHERE model = 2",
    "INSERT INTO gpt2.merge VALUES (9, 0, 1, 1, 1)",
    "TRUNCATE gpt2.wpe",
    "CREATE TABLE gpt2.mine ()",
    "ALTER TABLE gpt2.wpe ADD x int",
    "DROP EXTENSION gpt2_plpython3u",
    "DROP EXTENSION gpt2 CASCADE",
]


@contextmanager
def database(cluster: str, path: Path) -> Iterator[psycopg.Connection]:
    """A database in which each role has what GRANTS says, with the model at path, 'm', and a
    variant of it."""
    name = f"{PREFIX}{secrets.token_hex(4)}"
    uri = make_conninfo(cluster, dbname=name)
    roles = {role: PREFIX + role for role in GRANTS}
    with psycopg.connect(cluster, autocommit=True) as admin:
        for role in roles.values():
            admin.execute(f"DROP ROLE IF EXISTS {role}")
            admin.execute(f"CREATE ROLE {role}")
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 OWNER {roles['owner']}")
        try:
            with psycopg.connect(uri, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION vector; CREATE EXTENSION plpython3u")
                connection.execute(f"SET ROLE {roles['owner']}")
                connection.execute("CREATE EXTENSION gpt2")
                connection.execute("RESET ROLE; CREATE EXTENSION gpt2_plpython3u")
                load_model(uri, path, "m")
                connection.execute("SELECT gpt2_create_variant('variant')")
                for role, grant in GRANTS.items():
                    if grant:
                        connection.execute(grant.format(role=roles[role]))
                yield connection
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            for role in roles.values():
                admin.execute(f"DROP ROLE {role}")


def attempt(connection: psycopg.Connection, role: str, statement: str) -> str:
    """'yes', or the code of the error; nothing is left of it."""
    with connection.transaction(force_rollback=True):
        connection.execute(f"SET LOCAL ROLE {PREFIX}{role}")
        try:
            connection.execute(statement)
        except psycopg.Error as error:
            return error.sqlstate
    return "yes"


def lines(connection: psycopg.Connection, path: Path) -> Iterator[str]:
    """The file's lines. path: of a model that the server may read."""

    def line(what: str, cells: list[str]) -> str:
        return "  ".join([f"{what:<48}", *(f"{cell:<8}" for cell in cells)]).rstrip()

    yield from HEADER.splitlines()
    yield ""
    yield line("", list(GRANTS))
    columns = [connection.execute(OBJECTS, {"role": PREFIX + role}).fetchall() for role in GRANTS]
    for rows in zip(*columns, strict=True):
        yield line(rows[0][0], [letters or "-" for _, letters in rows])
    yield ""
    reads = [*READS, "SELECT * FROM gpt2_models()", "SELECT * FROM gpt2_hooks()"]
    for statement in [*reads, *WRITES]:
        what = re.sub(r"^SELECT (\* FROM )?|\(.*| (SET|WHERE|VALUES) .*", "", statement)
        statement = statement.format(path=path, m="'m'")
        yield line(what, [attempt(connection, role, statement) for role in GRANTS])


def main() -> None:
    for path in directory.__wrapped__():
        write_checkpoint(path, SHAPE)
        readable(path)
        with database(os.environ["GPT2_TEST_DSN"], path) as connection:
            EXPECTED.write_text("\n".join(lines(connection, path)) + "\n")


if __name__ == "__main__":
    main()
