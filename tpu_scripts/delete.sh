#!/usr/bin/env bash
# Deletes a queued resource with its nodes, and waits until it is gone.
#
#   tpu_scripts/delete.sh --name=NAME --project=PROJECT --zone=ZONE
#
# What is not there is no error. The hosts' own disks go with it: copy.sh first.
set -euo pipefail
# shellcheck source=tpu_scripts/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
parse "$@"
need name project zone

# --force: the nodes too; --quiet: no question.
delete=(gcloud compute tpus queued-resources delete "$name" "${WHERE[@]}" --force --quiet)
if $dry_run; then
  call "${delete[@]}"
  exit
fi
while true; do
  now=$(state)
  case $now in
    ABSENT) break ;;
    DELETING | SUSPENDING) sleep "$poll" ;;
    *) "${delete[@]}" ;;
  esac
done
say "$name is not there"
