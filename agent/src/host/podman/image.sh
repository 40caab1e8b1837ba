# Images of releases in podman's storage, where each has a name by the digest of its manifest. $1: what to do;
# $2: podman. Without the agent too: the units of the releases, and the way back, run it. Safe to repeat.
# It is handed on as one line: each statement ends with its mark, and lines of comments are left out.
program=$2;
# It waits for whoever holds its locks, however long; a way back may not.
podman() { timeout 60 "$program" "$@"; };
# Brings an image in from the OCI layout $3, as $4, and wants it to be $5 then. It gets its name when it is on
# the disk: podman itself syncs none of it, and after a power cut would take half of it for the image. Until then
# it has a name beside it, which `drop` and the agent take away with the other.
load() {
  [ "$(podman image inspect --format '{{.Id}}' "$4" 2>/dev/null)" = "$5" ] && return;
  new="${4#localhost/}-new"; work=$(mktemp -d) || return;
  mkdir -p "$work/${new%/*}" && ln -s "$3" "$work/$new" && cd "$work" || return;
  # What an earlier try has left.
  podman image rm "localhost/$new" >/dev/null 2>&1;
  [ -n "$(podman image inspect --format '{{range .RepoTags}}{{.}}{{end}}' "$5" 2>/dev/null || echo none)" ] ||
    podman image rm "$5" >/dev/null 2>&1;
  timeout 1200 "$program" pull --quiet "oci:$new" >/dev/null && is "$5" &&
    sync -f "$(podman info --format '{{.Store.GraphRoot}}')" && podman tag "$5" "$4";
  result=$?;
  # The name alone, where it has another by now; all of it, where it is not the one that was wanted.
  podman image rm "localhost/$new" >/dev/null 2>&1;
  cd / && rm -r "$work";
  return $result;
};
is() { podman image exists "$1" || { echo "its layout does not hold the image $1"; false; }; };
# On a way back: one image that does not come keeps no other service from starting.
try() { load "$@" || echo "the image $4 did not come"; };
# Removes containers and images by name. What something else still uses stays.
drop() {
  shift 2;
  for name do
    case $name in
    localhost/*) podman image rm "$name"; podman image rm "$name-new" ;;
    *) podman rm --force --volumes --ignore --time 10 "$name" ;;
    esac;
  done >/dev/null 2>&1;
};
"$1" "$@"; result=$?; [ "$1" = load ] || exit 0; exit $result
