#!/usr/bin/env bash
# Copies a directory from the first host to this machine: a work directory, logs.
#
#   tpu_scripts/copy.sh --name=NAME --project=PROJECT --zone=ZONE --from=/mnt/shared/a --to=runs/a
#   tpu_scripts/copy.sh ... -- --exclude=checkpoints      options of tar, behind --
#
# Again is no error: it brings what is there now. On a share all hosts' files are the first one's.
set -euo pipefail
# shellcheck source=tpu_scripts/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
parse "$@"
need name project zone from to

# As a stream: scp leaves open who reads a path's spaces and quotes.
pack=$(quoted tar -c "${COMMAND[@]}" -C "$from" .)
unpack=(tar -x -C "$to")
if $dry_run; then
  echo "$(on_hosts first "$pack") | $(quoted "${unpack[@]}")"
  exit
fi
mkdir -p "$to"
on_hosts first "$pack" | "${unpack[@]}"
say "$from of $name is in $to"
