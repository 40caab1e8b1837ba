# Goes back from what an update module did. $1: before the saved files are brought back, or after; $2: the
# module's work folder; $3: the module; $4: how long one call may take, seconds; $5: what boots the host.
# Where systemd makes a unit for each call, $5 is `systemctl`; $6: `systemd-run`; $7: the unit; $8: the module's
# file tree, and $9: the unit's options, both as `systemd-run` takes them. Safe to repeat: what was entered stands
# in $2/state. Never fails because of the module: what it could not do stands in $2/inconsistent, and the saved
# files are brought back all the same.
cd "$2" 2>/dev/null && [ -e state ] && [ -d tree ] || exit 0
work=$2 module=$3 limit=$4 boots=$5 run=${6-} unit=${7-} tree=${8-} options=${9-}
state='' phase=''
read -r state phase <state || :
note() { printf '%s\n' "$2" >"$1.new" && sync "$1.new" && mv "$1.new" "$1" && sync .; }
to() { state=$1 phase=$2; note state "$1 $2" || :; }
broken() { [ -e inconsistent ] || note inconsistent "$1: $(tail -c 1000 said)" || :; }
ask() { timeout -k 10 60 "$boots" "$@" </dev/null 2>/dev/null; }
end() { ask stop "$unit"; ask reset-failed "$unit"; }
# Makes the call $1 in a unit of its own; what it writes goes to $2 and $3. The unit stays until it is ended here,
# so that systemd can tell whether it ever began. 125: it did not, and it will not.
call_in_unit() {
  [ "$run" ] && ask show --property=Id "$unit" >/dev/null || return 125
  end
  # shellcheck disable=SC2086
  timeout -k 10 $((limit + 60)) "$run" $options "--working-directory=$work/tree" \
    "--property=StandardOutput=append:$work/$2" "--property=StandardError=append:$work/$3" \
    -- "$module" "$1" "$tree" </dev/null >/dev/null 2>&1 && { end; return 0; }
  how=$(ask show --property=ExecMainPID,Job,Result "$unit") || how='nothing'
  end
  case $how in
  *Job=[1-9]* | *Result=exit-code*) ;;
  *ExecMainPID=0*) return 125 ;;
  *) echo "systemd says:" $how >>"$3" ;;
  esac
  return 1
}
# Where systemd starts no unit there is `timeout`, from then on. Nothing else than systemd's own word that the call
# was never begun leads there: none is made twice.
call() {
  true >"$2" && true >"$3" || return 1
  call_in_unit "$@"
  result=$?
  [ "$result" = 125 ] || return "$result"
  run=''
  (cd tree && exec timeout -k 10 "$limit" "$module" "$1" "$work/tree" </dev/null >>"../$2" 2>>"../$3")
}
enter() { to "$1" entered; call "$1" said said; }
query() {
  answer=''
  call "$1" answer said && [ "$(wc -l <answer)" -le 1 ] || return 1
  answer=$(cat answer)
  case $answer in '' | No | Yes | Automatic) ;; *) cp answer said; return 1 ;; esac
}
before() {
  case "$state $phase" in
  ProvidePayloadFileSizes* | Download*) return ;;
  'ArtifactRollback entered') ;;
  ArtifactRollback* | ArtifactVerifyRollbackReboot* | ArtifactFailure* | Cleanup*) return ;;
  *)
    query SupportsRollback || broken SupportsRollback
    [ "$answer" != Automatic ] || broken SupportsRollback
    [ "$answer" = Yes ] || { to ArtifactFailure due; return; }
    ;;
  esac
  if enter ArtifactRollback; then to ArtifactRollback 'done'; else
    broken ArtifactRollback
    to ArtifactFailure due
  fi
}
reboot_back() {
  reboots=$(($(cat reboots 2>/dev/null || echo 0) + 1))
  [ "$reboots" -le 10 ] && note reboots "$reboots" || return 1
  if [ "$(cat rollback-reboot)" = Yes ]; then enter ArtifactRollbackReboot || :; else
    to ArtifactRollbackReboot entered
    "$boots" reboot && sleep 600
  fi
  :
}
after() {
  while :; do
    case "$state $phase" in
    ProvidePayloadFileSizes* | Download* | Cleanup*)
      enter Cleanup || :
      break
      ;;
    'ArtifactRollback done')
      query NeedsArtifactReboot || broken NeedsArtifactReboot
      case $answer in
      Yes | Automatic)
        note rollback-reboot "$answer" && reboot_back || broken ArtifactRollbackReboot
        to ArtifactVerifyRollbackReboot due
        ;;
      *) to ArtifactFailure due ;;
      esac
      ;;
    ArtifactRollbackReboot* | ArtifactVerifyRollbackReboot*)
      if enter ArtifactVerifyRollbackReboot; then to ArtifactFailure due; else
        reboot_back || { echo 'it never came up as before' >said; broken ArtifactVerifyRollbackReboot; break; }
        to ArtifactVerifyRollbackReboot due
      fi
      ;;
    *)
      enter ArtifactFailure || broken ArtifactFailure
      to Cleanup due
      ;;
    esac
  done
  rm -rf tree && sync .
}
"$1"
exit 0
