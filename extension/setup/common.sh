# shellcheck shell=bash
# Sourced by the set-up scripts: where the checkout and the server are, and how to speak.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# Settings of another server, or of the make that called, must not reach the tools used here.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE PGOPTIONS PGDATA PGSSLMODE
unset MAKEFLAGS MFLAGS MAKELEVEL CDPATH

say() { printf '==> %s\n' "$*" >&2; }
# meta KEY: a string of META.json, the first of that name
meta() { awk -F '"' -v key="$1" '$2 == key { print $4; exit }' "$root/META.json"; }
fail() { printf '%s\n' "error: $1" "${@:2}" >&2; exit 1; }

# need_root COMMAND...: sudo asks for its password here, before the output goes to a log.
need_root() {
    [ "$(id -u)" = 0 ] || sudo true \
        || fail "this needs root, and sudo is missing or refuses" "Run as root: $*"
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# logged NAME COMMAND...: quiet when all is well, else the end of what it said (build/log/NAME.log).
logged() {
    local log="$root/build/log/$1.log"
    shift
    mkdir -p "$root/build/log"
    if ! "$@" > "$log" 2>&1 < /dev/null; then
        tail -n 15 "$log" >&2
        printf 'All of it: %s\n' "$log" >&2
        return 1
    fi
}

apt_updated=
# apt_install PACKAGE...: from the machine's own package sources.
apt_install() {
    if ! command -v apt-get > /dev/null; then
        fail "cannot install $*: this machine has no apt-get" \
            "Install by hand what these Debian packages hold, then run make again."
    fi
    need_root apt-get install "$@"
    [ "$apt_updated" ] || logged apt as_root apt-get update || say "apt-get update failed: going on"
    apt_updated=yes
    logged apt as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "$@" \
        || fail "apt could not install: $*"
}

need_compiler() { command -v gcc > /dev/null || apt_install gcc libc6-dev; }

# The mirror that this machine's own sources name for Debian.
debian_mirror() {
    local mirror
    mirror=$(apt-get indextargets --format "\$(LABEL) \$(REPO_URI)" 'Created-By: Packages' \
        2> /dev/null | awk '$1 == "Debian" { print $2; exit }')
    echo "${mirror:-http://deb.debian.org/debian}"
}

# suite_apt DIRECTORY TYPE SUITE ARGUMENT...: apt-get in DIRECTORY, with the packages (TYPE deb)
# or the sources (deb-src) of one of Debian's suites alone. The list and apt's state lie in
# DIRECTORY, whose name has no spaces, which apt does not take everywhere: the machine's own stay
# as they are.
suite_apt() {
    local directory=$1 type=$2 suite=$3 keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    shift 3
    command -v apt-get > /dev/null || fail "this machine has no apt-get, which fetches from $suite"
    [ -e "$keyring" ] || apt_install debian-archive-keyring
    mkdir -p "$directory/lists/partial" "$directory/cache/archives/partial"
    echo "$type [signed-by=$keyring] $(debian_mirror) $suite main" > "$directory/sources.list"
    local apt=(apt-get -o Dir::Etc::SourceList="$directory/sources.list"
        -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$directory/lists"
        -o Dir::Cache="$directory/cache" -o APT::Sandbox::User=)
    (cd "$directory" && logged "apt-$suite" "${apt[@]}" update \
        && logged "apt-$suite" "${apt[@]}" "$@")
}

# The server's pg_config: what PG_CONFIG says, or the newest server that is installed.
# Sets bindir, sharedir and major for the script that sources this.
# shellcheck disable=SC2034
find_pg_config() {
    PG_CONFIG=${PG_CONFIG:-$("$root/extension/setup/pg_config")}
    [ "$PG_CONFIG" ] || return 1
    command -v "$PG_CONFIG" > /dev/null || return 1
    bindir=$("$PG_CONFIG" --bindir)
    sharedir=$("$PG_CONFIG" --sharedir)
    [ -x "$bindir/postgres" ] || return 1
    major=$("$bindir/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    export PG_CONFIG
}

need_server() {
    find_pg_config || fail "no PostgreSQL server found${PG_CONFIG:+ by $PG_CONFIG}" \
        "Install one with: make packages"
}
