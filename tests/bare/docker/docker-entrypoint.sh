#!/bin/bash
# What the official image's entrypoint does as far as packaging/docker relies on it. Into an empty
# data directory: a cluster whose superuser is POSTGRES_USER, a password for whoever comes over TCP
# but for the container's own addresses, and the init scripts, with a server that has no TCP yet.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
    chown postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    export POSTGRES_USER=${POSTGRES_USER:-postgres}
    export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
    : "${POSTGRES_PASSWORD:?has to be set}"
    initdb --username "$POSTGRES_USER" --pwfile <(echo "$POSTGRES_PASSWORD")
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    pg_ctl start --wait --options "${*:2} -c listen_addresses="
    [ "$POSTGRES_DB" = postgres ] || createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
    for script in /docker-entrypoint-initdb.d/*; do
        "$script"
    done
    pg_ctl stop --wait
fi
exec "$@"
