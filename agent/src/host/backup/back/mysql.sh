#!/bin/sh
# Brings a MySQL or MariaDB database back from a dump. What is there now is dumped first, and kept. Safe to
# repeat after a cut anywhere. Run by the way back, so that it needs neither the agent nor its settings.
#
# DUMP (or - : there was none) DATABASE ASIDE UID GID CLIENT DUMPER [words by which they find the server]
set -eu
umask 077
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
dump=$1 name=$2 aside=$3 uid=$4 gid=$5 client=$6 dumper=$7
shift 7
HOME=$(getent passwd "$uid" | cut -d: -f6)
export HOME

as_user() {
    if [ "$(id -u)" = "$uid" ]; then "$@"; else setpriv --reuid="$uid" --regid="$gid" --clear-groups -- "$@"; fi
}
# The name was checked: letters, digits, _, - and . alone.
sql() { as_user "$client" "$@" --batch --raw --skip-column-names; }

# Tables by name: a view that the release has broken must not stand in the way, and holds no data.
whole_dump() {
    tables=$(echo "SELECT table_name FROM information_schema.tables
        WHERE table_schema = '$name' AND table_type = 'BASE TABLE';" | sql "$@")
    IFS='
'
    set -f
    # shellcheck disable=SC2086
    as_user "$dumper" "$@" --single-transaction --quick --routines --triggers --events --hex-blob \
        --default-character-set=utf8mb4 "$name" $tables
}

if [ ! -e "$aside" ]; then
    there=$(echo "SELECT 1 FROM information_schema.schemata WHERE schema_name = '$name';" | sql "$@")
    if [ -n "$there" ]; then
        whole_dump "$@" > "$aside.new"
        # A dump that is not whole does not say so at its end.
        tail -c 200 "$aside.new" | grep -q '^-- Dump completed'
    else
        : > "$aside.new"
    fi
    sync "$aside.new"
    mv "$aside.new" "$aside"
    sync "$(dirname "$aside")"
fi
echo "DROP DATABASE IF EXISTS \`$name\`;" | sql "$@"
if [ "$dump" != - ]; then
    echo "CREATE DATABASE \`$name\`;" | sql "$@"
    as_user "$client" "$@" --batch "$name" < "$dump"
fi
