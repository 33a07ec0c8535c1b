#!/usr/bin/env bash
# One run in N processes of this machine, to try what happens on N hosts.
#
#   launch/local.sh [-d DEVICES] N COMMAND...
#   launch/local.sh -d 4 2 o1jax run experiments/quickstart.gin --workdir runs/two
#
# Each process gets DEVICES simulated devices (default: 8 / N) and meets the others at a
# free port. When one fails, the others are ended; the exit code is that of the first to
# fail. SIGTERM is passed on to all. Output of process 1, 2, ... is kept apart in LOGS
# (default: not shown unless it fails).

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
help_first "$@"

devices=
while getopts "d:" option; do
  case $option in
    d) devices=$OPTARG ;;
    *) refuse ;;
  esac
done
shift $((OPTIND - 1))
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] || refuse
count=$1
shift
devices=${devices:-$((count < 8 ? 8 / count : 1))}
[[ $devices =~ ^[1-9][0-9]*$ ]] || refuse

port=$(python3 -c '
import socket
with socket.socket() as free:
    free.bind(("localhost", 0))
    print(free.getsockname()[1])')
logs=${LOGS:-$(mktemp -d)}
mkdir -p "$logs"

export JAX_PLATFORMS=cpu O1JAX_COORDINATOR="localhost:$port" O1JAX_PROCESSES=$count
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"

pids=()
for ((i = 0; i < count; i++)); do
  if ((i == 0)); then
    O1JAX_PROCESS_ID=0 "$@" &
  else
    O1JAX_PROCESS_ID=$i "$@" >"$logs/$i.log" 2>&1 &
  fi
  pids+=($!)
  echo "$!" >"$logs/$i.pid"
done

pass_on() { ((${#pids[@]} == 0)) || kill -"$1" "${pids[@]}" 2>/dev/null || true; }
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
trap 'pass_on KILL' EXIT

code=0
while ((${#pids[@]})); do
  wait -n "${pids[@]}" 2>/dev/null || true # a trapped signal ends it too
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    one=0
    wait "${pids[i]}" 2>/dev/null || one=$?
    unset "pids[i]"
    if ((one && !code)); then
      code=$one
      echo "local.sh: process $i of $count ended with code $one" >&2
      ((i == 0)) || tail -n 20 "$logs/$i.log" >&2
      ((${#pids[@]} == 0)) || { sleep 1; pass_on KILL; } # they wait for it in vain
    fi
  done
  sleep 0.05
done
exit "$code"
