#!/usr/bin/env bash
# Runs a command on TPU slices of a GKE cluster, as the JobSet of gke_jobset.yaml.
#
#   tpu_scripts/gke.sh --name=NAME --image=IMAGE --accelerator=tpu-v6e-slice --topology=8x8 \
#     --claim=CLAIM -- python -m experiments.pretrain --workdir=/mnt/shared/a ...
#   tpu_scripts/gke.sh --action=delete --name=NAME
#
# Its own flags:
#   --image=IMAGE        made from tpu_scripts/Dockerfile
#   --accelerator=KIND   tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice, tpu7x
#   --topology=8x8       of one slice, in chips, as its node pool has it
#   --chips_per_host=4   as the node pool's machines have
#   --claim=CLAIM        a ReadWriteMany PersistentVolumeClaim, mounted at /mnt/shared
#   --max_restarts=100   of all hosts together, preemptions too
#   --action=apply       or delete
# Of the shared flags it reads --name, --slices, --spot, --dry_run and the command.
# Again is no error: kubectl finds nothing to change, or to delete.
# shellcheck disable=SC2034  # the loop over the manifest's @...@ reads variables by their names
set -euo pipefail
# shellcheck source=tpu_scripts/flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
parse "$@"
need name

case ${action:-apply} in
  delete)
    call kubectl delete jobset "$name" --ignore-not-found
    exit
    ;;
  apply) ;;
  *) refuse "--action=$action: it is apply or delete" ;;
esac
need image accelerator topology claim
((${#COMMAND[@]})) || refuse "no command is given: write it behind --"
for key in image accelerator claim; do
  [[ ${!key} =~ ^[A-Za-z0-9_./:@-]+$ ]] || refuse "--$key=${!key}: that is no name of one"
done
[[ $topology =~ ^[0-9]+x[0-9]+(x[0-9]+)?$ ]] ||
  refuse "--topology=$topology: write it as 4x4 or 4x4x8"
chips=$((${topology//x/*}))
((chips_per_host > 0 && chips % chips_per_host == 0)) ||
  refuse "--topology=$topology has $chips chips: no multiple of --chips_per_host=$chips_per_host"

hosts=$((chips / chips_per_host))
# Kubernetes puts variables in for $(NAME), and makes one dollar of two.
escape='import json, sys; print(json.dumps([word.replace("$", "$$") for word in sys.argv[1:]]))'
args=$(python3 -c "$escape" "${COMMAND[@]}")
manifest=$(grep -v '^#' "$(dirname "${BASH_SOURCE[0]}")/gke_jobset.yaml")
$spot || manifest=$(grep -v 'gke-spot' <<<"$manifest")
for key in name image accelerator topology claim slices hosts chips_per_host max_restarts args; do
  manifest=${manifest//"@$key@"/"${!key}"} # the quotes keep an & what it is
done

if $dry_run; then
  printf "kubectl apply -f - <<'END'\n%s\nEND\n" "$manifest"
else
  kubectl apply -f - <<<"$manifest"
fi
