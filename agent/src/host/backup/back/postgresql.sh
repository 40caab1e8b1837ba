#!/bin/sh
# Brings a PostgreSQL database back from a dump. What is there now is renamed first and kept. Safe to repeat
# after a cut anywhere. Run by the way back, so that it needs neither the agent nor its settings.
#
# DUMP (or - : there was none) DATABASE ASIDE UID GID PSQL PG_RESTORE [words by which they find the server]
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
dump=$1 name=$2 aside=$3 uid=$4 gid=$5 psql=$6 restore=$7
shift 7
HOME=$(getent passwd "$uid" | cut -d: -f6)
export HOME PGAPPNAME=refit-way-back PGCONNECT_TIMEOUT=30

as_user() {
    if [ "$(id -u)" = "$uid" ]; then "$@"; else setpriv --reuid="$uid" --regid="$gid" --clear-groups -- "$@"; fi
}
# Names are psql's variables, which it quotes.
sql() {
    as_user "$psql" -X -q -A -t -v ON_ERROR_STOP=1 -v name="$name" -v aside="$aside" "$@" -d postgres
}

kept=$(echo "SELECT 1 FROM pg_database WHERE datname = :'aside';" | sql "$@")
there=$(echo "SELECT 1 FROM pg_database WHERE datname = :'name';" | sql "$@")
if [ -z "$kept" ] && [ -n "$there" ]; then
    # Who is still connected can't write any more, and keeps it from being renamed no longer.
    sql "$@" <<'SQL'
ALTER DATABASE :"name" WITH ALLOW_CONNECTIONS false;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :'name' \g /dev/null
ALTER DATABASE :"name" RENAME TO :"aside";
SQL
elif [ -z "$kept" ]; then
    # The mark that all further is ours.
    echo 'CREATE DATABASE :"aside";' | sql "$@"
elif [ -n "$there" ]; then
    # Half of it, from a try that was cut.
    sql "$@" <<'SQL'
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :'name' \g /dev/null
DROP DATABASE :"name";
SQL
fi
# For whoever looks into it; nobody writes to it.
sql "$@" <<'SQL'
ALTER DATABASE :"aside" WITH ALLOW_CONNECTIONS true;
ALTER DATABASE :"aside" SET default_transaction_read_only = on;
SQL
if [ "$dump" != - ]; then
    as_user "$restore" "$@" --exit-on-error --create -d postgres < "$dump"
fi
