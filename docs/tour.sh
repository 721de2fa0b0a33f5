#!/bin/bash
# Usage: docs/tour.sh DSN
#
# Runs docs/tour.sql by psql: prints each paragraph, each query and what it gives. On a terminal it
# waits for Enter before each step, unless PAUSE is set and empty. Elsewhere it prints Markdown:
# docs/tour.md is what it printed, by `make -s tour > docs/tour.md`.
#
# The session is read-only, so nothing of it stays in the database, wherever the reader stops.
set -euo pipefail
. "$(dirname "$0")/../extension/setup/common.sh"

need_server
terminal='' pause=''
[ ! -t 1 ] || terminal=yes
[ ! -t 0 ] || pause=${terminal:+${PAUSE-yes}}

# The tour as a script that says what it does: paragraphs are comments, queries are runs of lines
# that begin with none, and each is shown by \echo before it is run.
script() {
    awk -v terminal="$terminal" -v pause="$pause" '
        function say(line) {
            gsub(/[\\\047]/, "&&", line)
            print "\\echo \047" line "\047"
        }
        function fence(line, color) { say(terminal ? color : line) }
        function show() {
            if (!n) return
            fence("```sql", "\033[36m")
            for (i = 1; i <= n; i++) say(query[i])
            fence("```", "\033[0m")
            if (results = query[n] !~ /\\gset$/) fence("```text", "")
            for (i = 1; i <= n; i++) print query[i]
            if (results) fence("```", "")
            say("")
            n = 0
        }
        !n && /^-- ## / && pause {
            print "\\prompt \047\033[7m Enter: go on   q: leave \033[0m \047 answer"
            print "SELECT :\047answer\047 = \047q\047 AS leave \\gset"
            print "\\if :leave\n\\q\n\\endif"
            say("")
        }
        !n && /^--/ {
            sub(/^-- ?/, "")
            if (!terminal) say($0)
            else if (/^#/) say("\033[1m" $0 "\033[0m")
            else if (!/^\[.*\]: /) say($0)
            after = 1
            next
        }
        /./ { if (after) say(""); after = 0; query[++n] = $0; next }
        { show() }
        END { show() }' "${0%/*}/tour.sql"
}

# psql ends a table with an empty line: not before the end of a fence.
tidy() {
    if [ "$terminal" ]; then
        cat
    else
        awk 'empty && !/^```$/ { print "" } !(empty = $0 == "")'
    fi
}

export PGOPTIONS='-c default_transaction_read_only=on' PGCLIENTENCODING=UTF8 LC_ALL=C
"$bindir/psql" --no-psqlrc --quiet --set ON_ERROR_STOP=1 --pset pager=off \
    --dbname "$1" --file <(script) | tidy
