# shellcheck shell=bash disable=SC2034  # the scripts that source this read its variables
# What the scripts of this folder share: their flags, dry runs, and the two questions they ask.
#
# Flags, for every script (one that does not need a flag passes over it):
#   --name=NAME          of the queued resource and its nodes
#   --project=PROJECT    the Google Cloud project
#   --zone=ZONE          where the chips are
#   --type=TYPE          accelerator and size: v5litepod-64, v5p-128, v6e-64
#   --runtime=VERSION    of the VM image; by default the one Google names for the type
#   --slices=1           more than one: slices joined by the data-centre network
#   --spot | --reserved  cheap, may be taken away | from a reservation; neither: on demand
#   --share=HOST:/PATH   an NFS share, mounted at /mnt/shared on every host
#   --logs=DIR           where each host writes HOST.log (stderr) and HOST.out (stdout);
#                        default: runs/logs
#   --from=PATH --to=DIR what to copy from the first host, and where to
#   --poll=60            seconds between two looks at what one waits for
#   --max_failures=5     of the run on one set of machines; being preempted is none
#   --dry_run            prints the exact commands instead of running them
#   --help
#   -- COMMAND ...       the command to run, word by word as it is to arrive

if ((BASH_VERSINFO[0] < 5)); then
  echo "error: bash $BASH_VERSION is too old: give 5 or newer (on a Mac: brew install bash)" >&2
  exit 2
fi

name="" project="" zone="" type="" runtime="" slices=1 spot=false reserved=false share=""
logs=runs/logs from="" to="" poll=60 max_failures=5 dry_run=false
# Of gke.sh and on_host.sh alone.
image="" accelerator="" topology="" chips_per_host=4 claim="" max_restarts=100 action="" grace=120
COMMAND=()
VALUES=" name project zone type runtime slices share logs from to poll max_failures image \
accelerator topology chips_per_host claim max_restarts action grace "

# parse ARGUMENTS: sets the variables above, and COMMAND to what follows `--`.
parse() {
  local key
  while (($#)); do
    key=${1%%=*} key=${key#--}
    case $1 in
      --help)
        comment_of "$0"
        [[ ${0##*/} == on_host.sh ]] || comment_of "${BASH_SOURCE[0]}"
        exit 0
        ;;
      --dry_run | --spot | --reserved) printf -v "$key" true ;;
      --) COMMAND=("${@:2}") && break ;;
      --*=*)
        [[ $VALUES == *" $key "* ]] || refuse "--$key is no flag: --help lists them"
        printf -v "$key" %s "${1#*=}"
        ;;
      *) refuse "$1 is no flag of the form --name=value: --help lists them" ;;
    esac
    shift
  done
  [[ -z $name || $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
    refuse "--name=$name: give small letters, digits and dashes, a letter first"
  [[ $poll =~ ^[0-9.]+$ ]] || refuse "--poll=$poll: give a number of seconds"
  for key in slices max_failures chips_per_host max_restarts grace; do
    [[ ${!key} =~ ^[0-9]+$ ]] || refuse "--$key=${!key}: give a whole number"
  done
  ! $spot || ! $reserved || refuse "--spot and --reserved exclude each other: give one of them"
  WHERE=("--project=$project" "--zone=$zone")
}

# comment_of FILE: its leading comment, which is its help.
comment_of() { sed -n '/^#!/d; /^# shellcheck/d; /^#/!q; s/^# \{0,1\}//p' "$1"; }

refuse() {
  echo "error: $*" >&2
  exit 2
}

say() { echo "$(date +%H:%M:%S) $*" >&2; }

# need FLAG ...: refuses where one of them was not given.
need() {
  local key
  for key; do
    [[ -n ${!key} ]] || refuse "--$key is missing: give it, or see --help"
  done
}

# quoted WORD ...: a text that any shell reads back as these words.
quoted() {
  local word line="" quote="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/"$quote"}'"
    line+=" $word"
  done
  echo "${line# }"
}

# call COMMAND ...: runs it, or in a dry run prints it.
call() {
  if $dry_run; then quoted "$@"; else "$@"; fi
}

# state: ABSENT, or what the queued resource is in: ACTIVE, SUSPENDED, ...
state() {
  local answer
  # A list of none is no error, so that what fails here did fail.
  answer=$(gcloud compute tpus queued-resources list "${WHERE[@]}" \
    --filter="name~/$name\$" --format="value(state.state)") || return
  echo "${answer:-ABSENT}"
}

# on_hosts HOSTS COMMAND: runs a line of shell on `all` hosts of all slices, or on the `first`.
on_hosts() {
  local number=0
  [[ $1 == first ]] || number=all
  call gcloud compute tpus queued-resources ssh "$name" "${WHERE[@]}" "--node=$number" \
    "--worker=$number" "--command=$2"
}
