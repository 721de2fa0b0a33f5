#!/bin/bash
# Run by the image's entrypoint when the data directory is new: the extension and the bundled model,
# in the database that POSTGRES_DB names.
set -euo pipefail

pg_restore --no-password --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --no-owner --exit-on-error \
    "/usr/share/postgresql/$PG_MAJOR/gpt2-demo.dump"
# a dump has no statistics
vacuumdb --quiet --no-password --username "$POSTGRES_USER" --analyze "$POSTGRES_DB"
