#!/usr/bin/env bash
# Asks for a TPU slice (or several) as a queued resource, and waits until it is there.
#
#   tpu_scripts/create.sh --name=NAME --project=PROJECT --zone=ZONE --type=v6e-64 --spot
#
# Again is no error: a request that waits is waited for, one that is there is left alone. One that
# was preempted never comes back by itself: it is deleted and made again.
set -euo pipefail
# shellcheck source=tpu_scripts/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
parse "$@"
need name project zone type

# https://docs.cloud.google.com/tpu/docs/runtimes
case $type in
  v6e-*) image_of_type=v2-alpha-tpuv6e ;;
  v5p-*) image_of_type=v2-alpha-tpuv5 ;;
  v5litepod-*) image_of_type=v2-alpha-tpuv5-lite ;;
  v4-*) image_of_type=tpu-ubuntu2204-base ;;
  *) image_of_type="" ;;
esac
runtime=${runtime:-$image_of_type}
[[ -n $runtime ]] || refuse "no image is known for --type=$type: name it with --runtime=VERSION"

request=("$name" "${WHERE[@]}" "--accelerator-type=$type" "--runtime-version=$runtime")
if ((slices > 1)); then
  request+=("--node-count=$slices" "--node-prefix=$name")
else
  request+=("--node-id=$name")
fi
if $spot; then request+=(--spot); fi
if $reserved; then request+=(--reserved); fi
create=(gcloud compute tpus queued-resources create "${request[@]}")

if $dry_run; then
  call "${create[@]}"
  exit
fi
while true; do
  now=$(state)
  say "$name is $now"
  case $now in
    ACTIVE) exit 0 ;;
    ABSENT) "${create[@]}" ;;
    SUSPENDED) "$(dirname "${BASH_SOURCE[0]}")/delete.sh" "$@" ;;
    FAILED)
      gcloud compute tpus queued-resources describe "$name" "${WHERE[@]}" >&2
      say "the request failed for the reason above: delete.sh, then ask for something else"
      exit 1
      ;;
    *) sleep "$poll" ;; # WAITING_FOR_RESOURCES, PROVISIONING, SUSPENDING, DELETING, ...
  esac
done
