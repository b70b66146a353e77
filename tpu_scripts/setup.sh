#!/usr/bin/env bash
# Brings this clone's commit to every host, installs it there, and mounts the share.
#
#   tpu_scripts/setup.sh --name=NAME --project=PROJECT --zone=ZONE --share=HOST:/PATH
#
# What is not committed does not go along; the script says so. Again is no error: the same commit
# changes nothing, another one replaces it.
set -euo pipefail
# shellcheck source=tpu_scripts/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
parse "$@"
need name project zone

tree=$(dirname "${BASH_SOURCE[0]}")/..
if [[ -n $(git -C "$tree" status --porcelain) ]]; then
  say "changes that are not committed stay here: $(git -C "$tree" rev-parse --short HEAD) goes"
fi
archive=$(mktemp -d)/llm_jax.tar.gz
trap 'rm -r "$(dirname "$archive")"' EXIT
call git -C "$tree" archive --format=tar.gz "--output=$archive" HEAD
call gcloud compute tpus queued-resources scp "$archive" "$name:llm_jax.tar.gz" "${WHERE[@]}" \
  --node=all --worker=all
on_hosts all "mkdir -p llm_jax && tar -xzf llm_jax.tar.gz -C llm_jax && cd llm_jax && \
$(quoted tpu_scripts/on_host.sh setup "--share=$share")"
