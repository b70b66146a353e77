#!/usr/bin/env bash
# What happens on one host; the other scripts call it there.
#
#   on_host.sh setup [--share=HOST:/PATH]    Python and packages in ~/llm_jax/.venv; the mount
#   on_host.sh start [--logs=DIR] -- COMMAND in the background; where one runs, that one stays
#   on_host.sh exec -- COMMAND               in the foreground: containers and Slurm
#   on_host.sh status                        HOST running | HOST exited CODE | HOST absent
#   on_host.sh stop [--grace=120]            SIGTERM, and after that many seconds SIGKILL
#
# `exec` and `start` end with the command's code; with 75 where it ended well but says in its last
# line of stdout that it is not finished, as one does that SIGTERM made save and leave: then it is
# to be started again. A bad flag or configuration is 2, and never gets better.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/flags.sh
source "$here/flags.sh"
verb=${1:---help}
[[ $verb == --* ]] || shift
parse "$@"
[[ $verb != --* ]] || refuse "$verb: say what is to be done, or see --help"
cd "$here/.."
state_of=$PWD/runs/on_host
host=$(hostname)
PATH=$PWD/.venv/bin:$PATH

running() { [[ -e $state_of/lock ]] && ! flock --nonblock "$state_of/lock" true; }

foreground() {
  local out child signalled code=0
  out=$(mktemp)
  # It alone gets the signal, and once: a second one would end it before it has saved.
  trap 'signalled=true; kill -TERM "$child" 2>/dev/null || true' TERM INT
  "${COMMAND[@]}" >"$out" &
  child=$!
  while true; do
    signalled=false code=0
    wait "$child" || code=$?
    $signalled || break # a signal ends `wait`, not the child
  done
  cat "$out"
  if ((code == 0)) && grep -q '"finished": false' <<<"$(tail --lines=1 "$out")"; then code=75; fi
  rm "$out"
  return "$code"
}

case $verb in
  setup)
    if [[ -n $share ]] && ! mountpoint --quiet /mnt/shared; then
      # A new machine may still be at its own updates.
      sudo apt-get -o DPkg::Lock::Timeout=300 update --quiet
      sudo apt-get -o DPkg::Lock::Timeout=300 install --yes --quiet nfs-common
      sudo mkdir -p /mnt/shared
      sudo mount -t nfs "$share" /mnt/shared
      [[ -w /mnt/shared ]] || sudo chmod 1777 /mnt/shared
    fi
    # The images have Python 3.10; uv brings the version that constraints.txt was made with.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    [[ -x .venv/bin/python ]] || python3 -m uv venv --python=3.11 .venv
    python3 -m uv pip install --quiet --python=.venv/bin/python --constraint=constraints.txt \
      --editable='.[tpu]'
    echo "$host ready"
    ;;
  start)
    ((${#COMMAND[@]})) || refuse "no command is given: write it behind --"
    mkdir -p "$state_of" "$logs"
    # The lock is the run's as long as one of its processes lives; then it opens by itself.
    exec 9>"$state_of/lock"
    if ! flock --timeout=1 9; then
      echo "$host running already"
      exit 0
    fi
    rm -f "$state_of/code"
    set -m # a process group of its own, for `stop`
    (
      code=0
      foreground || code=$?
      echo "$code" >"$state_of/code"
    ) >>"$logs/$host.out" 2>>"$logs/$host.log" </dev/null &
    echo "$!" >"$state_of/pid"
    disown
    echo "$host started, log: $logs/$host.log"
    ;;
  exec)
    ((${#COMMAND[@]})) || refuse "no command is given: write it behind --"
    foreground
    ;;
  status)
    if running; then
      echo "$host running"
    elif [[ -e $state_of/code ]]; then
      echo "$host exited $(<"$state_of/code")"
    else
      echo "$host absent"
    fi
    ;;
  stop)
    for ((waited = 0; waited <= grace; waited++)); do
      running || break
      ((waited)) || kill -TERM "$(<"$state_of/pid")" || true
      sleep 1
    done
    if running; then kill -KILL -- "-$(<"$state_of/pid")"; fi
    rm -f "$state_of/code"
    echo "$host stopped"
    ;;
  *) refuse "$verb: it is setup, start, exec, status or stop" ;;
esac
