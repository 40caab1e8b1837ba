#!/bin/sh
# Runs a command of a package's that dumps or loads its database. Run by the way back, so that it needs
# neither the agent nor its settings.
#
# save FILE UID GID COMMAND...   keeps what it writes, once
# load FILE UID GID COMMAND...   has it read that
set -eu
umask 077
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
act=$1 file=$2 uid=$3 gid=$4
shift 4
HOME=$(getent passwd "$uid" | cut -d: -f6)
export HOME

as_user() {
    if [ "$(id -u)" = "$uid" ]; then "$@"; else setpriv --reuid="$uid" --regid="$gid" --clear-groups -- "$@"; fi
}

case $act in
save)
    if [ ! -e "$file" ]; then
        as_user "$@" > "$file.new"
        sync "$file.new"
        mv "$file.new" "$file"
        sync "$(dirname "$file")"
    fi
    ;;
load) as_user "$@" < "$file" ;;
esac
