# shellcheck shell=bash
# shellcheck disable=SC2034  # most names are for the scripts that source this
# What the launch scripts share: help, options, slices, dry runs, the check before money
# is spent. Sourced.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# The comment at the top of the script.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

refuse() {
  usage >&2
  exit 2
}

# Help where it is asked for, and where nothing is.
help_first() {
  (($#)) || refuse
  [[ $1 != --help && $1 != -h ]] || {
    usage
    exit 0
  }
}

# begin ACTION OPTIONS...
begin() {
  name='' zone='' project='' topology='' file='' workdir='' cluster='' image=''
  spot='' dry='' check=1
  help_first "$@"
  action=$1
  shift
  options "$@"
}

options() {
  while (($#)); do
    case $1 in
      --name | --zone | --project | --topology | --file | --workdir | --cluster | --image)
        [[ $# -ge 2 && -n $2 ]] || die "$1 needs a value"
        printf -v "${1#--}" '%s' "$2"
        shift 2
        ;;
      --spot) spot=1 && shift ;;
      --dry-run) dry=1 && shift ;;
      --no-check) check='' && shift ;;
      --help | -h) help_first "$1" ;;
      *) die "unknown option $1" ;;
    esac
  done
}

need() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || die "--$option is missing"
  done
}

# Does it; in a dry run prints the exact command instead.
run() {
  if [[ -n $dry ]]; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}

# chip, chips and hosts of --topology CHIP:SIZES
slice() {
  need topology
  [[ $topology =~ ^(v4|v5e|v5p|v6e|tpu7x):([0-9]+(x[0-9]+){1,2})$ ]] ||
    die "--topology $topology is not CHIP:SIZES, such as v5e:16x16 or v5p:4x4x4"
  chip=${BASH_REMATCH[1]} sizes=${BASH_REMATCH[2]}
  chips=$((${sizes//x/*}))
  hosts=$(((chips + 3) / 4)) # 4 chips a host
  # One host of v5e and v6e may have 8.
  [[ $chip != v5e && $chip != v6e || $chips -gt 8 ]] || hosts=1
}

# limit KIND CHARACTERS: whether --name can be one of a KIND
limit() {
  need name
  [[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    die "--name $name: a name is lower-case letters, digits and -, a letter first"
  ((${#name} <= $2)) || die "--name $name: $1 has at most $2 characters, not ${#name}"
}

# All that can be known before money is spent; --no-check leaves it out.
preflight() {
  [[ -n $check ]] || return 0
  need file
  run "${O1JAX_PYTHON:-python3}" "$here/preflight.py" "$file" --topology "$topology"
}

# The tree as committed, in $packed; $install is what a host does with it.
packed=${TMPDIR:-/tmp}/o1jax.tar.gz
install="mkdir -p o1jax && tar xzf o1jax.tar.gz -C o1jax && cd o1jax && \
python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu,buckets]'"
pack() { run git -C "$here/.." archive --format=tar.gz --output="$packed" HEAD; }
