#!/usr/bin/env bash
# Starts a command on every host, in the background: it outlives the connection.
#
#   tpu_scripts/run.sh --name=NAME --project=PROJECT --zone=ZONE --logs=/mnt/shared/a/logs -- \
#     python -m experiments.pretrain --workdir=/mnt/shared/a ...
#   tpu_scripts/run.sh --action=status ...   a line a host: HOST running|absent|exited CODE
#   tpu_scripts/run.sh --action=stop ...     SIGTERM, so that it saves; SIGKILL after two minutes
#
# A second start leaves a host that runs something alone. Its logs stand in --logs, which is a
# path on the hosts; relative ones are below ~/llm_jax.
set -euo pipefail
# shellcheck source=tpu_scripts/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
parse "$@"
need name project zone

case ${action:-start} in
  start)
    ((${#COMMAND[@]})) || refuse "no command is given: write it behind --"
    start=(tpu_scripts/on_host.sh start "--logs=$logs" -- "${COMMAND[@]}")
    on_hosts all "cd llm_jax && $(quoted "${start[@]}")"
    ;;
  stop) on_hosts all "cd llm_jax && tpu_scripts/on_host.sh stop" ;;
  status)
    # A host that was just made has no script to ask.
    on_hosts all "llm_jax/tpu_scripts/on_host.sh status 2>/dev/null || echo new-host absent"
    ;;
  *) refuse "--action=$action: it is start, stop or status" ;;
esac
