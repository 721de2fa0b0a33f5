#!/bin/bash
# Usage: docs/tour.sh DSN
#
# Shows docs/tour.sql in psql: each paragraph, each query and what it gives. On a terminal it waits
# for Enter before each step, unless PAUSE is set and empty. Elsewhere it prints Markdown, and that
# is docs/tour.md: make -s tour > docs/tour.md
#
# The session is read-only: wherever the reader stops, nothing of it stays in the database.
set -euo pipefail
. "$(dirname "$0")/../extension/setup/common.sh"

need_server
source=$(dirname "$0")/tour.sql
terminal='' pause=''
[ ! -t 1 ] || terminal=yes
[ ! -t 0 ] || pause=${terminal:+${PAUSE-yes}}

# The script that psql runs. In tour.sql a paragraph is lines of comment, a query lines that begin
# with another one, up to an empty one. Here each line is shown by \echo before the query is run.
script() {
    awk -v terminal="$terminal" -v pause="$pause" '
        function say(line) {
            gsub(/[\\\047]/, "&&", line) # double backslashes and quotes
            print "\\echo \047" line "\047"
        }
        function mark(fence) { if (!terminal) say(fence) }
        function run() {
            if (!n) return
            say("")
            mark("```sql")
            for (i = 1; i <= n; i++) say(terminal ? "\033[36m" query[i] "\033[0m" : query[i])
            mark("```")
            if (query[n] !~ /\\gset$/) mark("```text")
            if (terminal) say("")
            for (i = 1; i <= n; i++) print query[i]
            if (query[n] !~ /\\gset$/) mark("```")
            mark("")
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
            else if (!/^\[.*\]: /) say($0) # a link target
            next
        }
        /./ { query[++n] = $0; next }
        { run() }
        END { run() }' "$source"
}

tidy() { # psql ends a table with an empty line: not before the end of a fence
    if [ "$terminal" ]; then
        cat
    else
        awk 'empty && !/^```$/ { print "" } !(empty = $0 == "")'
    fi
}

export PGOPTIONS='-c default_transaction_read_only=on' PGCLIENTENCODING=UTF8 LC_ALL=C
"$bindir/psql" --no-psqlrc --quiet --set ON_ERROR_STOP=1 --pset pager=off \
    --dbname "$1" --file <(script) | tidy
