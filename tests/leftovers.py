"""What an operation that was killed or cancelled must not leave behind."""

from __future__ import annotations

from pathlib import Path

import psycopg

LEFT = {
    # rows of a model, or of a vocabulary, that is not there
    "rows of no model": """
        SELECT 'matrix_page', model FROM gpt2.matrix_page
        WHERE model NOT IN (SELECT model FROM gpt2.model)
        UNION SELECT 'bias', model FROM gpt2.bias
        WHERE model NOT IN (SELECT model FROM gpt2.model)
        UNION SELECT 'layer_norm', model FROM gpt2.layer_norm
        WHERE model NOT IN (SELECT model FROM gpt2.model)
        UNION SELECT 'wpe', model FROM gpt2.wpe
        WHERE model NOT IN (SELECT model FROM gpt2.model)
        UNION SELECT 'tokenizer', tokenizer FROM gpt2.tokenizer
        WHERE tokenizer > 1 AND tokenizer NOT IN (SELECT tokenizer FROM gpt2.model)
        UNION SELECT 'token', tokenizer FROM gpt2.token
        WHERE tokenizer NOT IN (SELECT tokenizer FROM gpt2.tokenizer)
        UNION SELECT 'merge', tokenizer FROM gpt2.merge
        WHERE tokenizer NOT IN (SELECT tokenizer FROM gpt2.tokenizer)""",
    # in the database's directory: 16384, 16384_fsm, 16384.1, t3_16384
    "files of no relation": """
        SELECT f.name
        FROM pg_database AS d CROSS JOIN LATERAL pg_ls_dir('base/' || d.oid) AS f (name)
        WHERE d.datname = current_database() AND f.name ~ '^t?[0-9]'
          AND NOT EXISTS (
              SELECT FROM pg_class AS c
              WHERE pg_relation_filenode(c.oid)::text = substring(f.name FROM '^[0-9]+'))""",
    "temporary files of the server": "SELECT * FROM pg_ls_dir('base/pgsql_tmp', true, false)",
    "locks": """
        SELECT l.locktype, l.mode, l.relation::regclass
        FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
        UNION ALL SELECT 'prepared', gid, NULL FROM pg_prepared_xacts""",
}


def assert_nothing_left(connection: psycopg.Connection, temporary: Path, after: str) -> None:
    """temporary: the folder for temporary files (TMPDIR) of the server and its clients; after: what
    an error says first."""
    for what, query in LEFT.items():
        left = connection.execute(query).fetchall()
        assert not left, f"{after}: {what}: {left}"
    left = [path.name for path in temporary.iterdir()]
    assert not left, f"{after}: in the folder of temporary files: {left}"
