#!/usr/bin/env bash
# Keeps a run going until it has ended: makes the machines, sets them up, starts the command, and
# does so again after a preemption or a failure. Takes the flags of create, setup and run:
#
#   tpu_scripts/watch.sh --name=NAME --project=PROJECT --zone=ZONE --type=v6e-64 --spot \
#     --share=HOST:/PATH --logs=/mnt/shared/a/logs -- \
#     python -m experiments.pretrain --workdir=/mnt/shared/a ...
#
# It holds no state and may be stopped and started at will: it looks, and does what is missing.
# Ends with 0 when every host has ended well, 2 when the command refuses its flags, 1 after more
# than --max_failures. The machines stay, and cost: copy.sh and delete.sh are next.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=tpu_scripts/flags.sh
source "$here/flags.sh"
parse "$@"
need name project zone type
((${#COMMAND[@]})) || refuse "no command is given: write it behind --"

if $dry_run; then
  echo "# whenever it is not there, or was preempted:"
  "$here/delete.sh" "$@"
  "$here/create.sh" "$@"
  echo "# every $poll seconds:"
  "$here/run.sh" --action=status "$@"
  echo "# after a failure:"
  "$here/run.sh" --action=stop "$@"
  echo "# on new hosts:"
  "$here/setup.sh" "$@"
  echo "# to start, and to start again:"
  "$here/run.sh" "$@"
  exit
fi

failures=0
failed() {
  failures=$((failures + 1))
  say "$1 (failure $failures; at most $max_failures are borne)"
  if ((failures > max_failures)); then exit 1; fi
  sleep "$poll"
}

while true; do
  now=$(state) || { failed "the state of $name cannot be read" && continue; }
  case $now in
    ACTIVE) ;;
    FAILED)
      "$here/delete.sh" "$@" || failed "$name cannot be deleted"
      continue
      ;;
    *)
      say "$name is $now: it is made (again)"
      # New machines have not failed yet.
      if "$here/create.sh" "$@"; then failures=0; else failed "$name was not made"; fi
      continue
      ;;
  esac

  if ! hosts=$("$here/run.sh" --action=status "$@"); then
    failed "not every host answers" # perhaps they are being taken away
    continue
  fi
  if grep ' exited 2$' <<<"$hosts" >&2; then
    say "the command refuses what it was given; the hosts' logs in $logs say what"
    exit 2
  fi
  if ! grep -qv ' exited 0$' <<<"$hosts"; then
    say "ended well on every host"
    exit 0
  fi
  if ! grep -qvE ' (running|exited 0)$' <<<"$hosts"; then
    sleep "$poll"
    continue
  fi

  # Some hosts are new, were interrupted, or failed: all start together.
  echo "$hosts" >&2
  if grep -vE ' (running|absent|exited 0|exited 75)$' <<<"$hosts" >&2; then
    failed "the command failed on these hosts; logs: $logs"
  fi
  if grep -qv ' absent$' <<<"$hosts"; then "$here/run.sh" --action=stop "$@" || true; fi
  if grep -q ' absent$' <<<"$hosts" && ! "$here/setup.sh" "$@"; then
    failed "the hosts were not set up"
    continue
  fi
  "$here/run.sh" "$@" || failed "the command did not start on every host"
  sleep "$poll"
done
