#!/usr/bin/env bash
# On one host of a slice: tells a command where it belongs, and becomes it.
#
#   launch/worker.sh .venv/bin/o1jax run FILE --workdir FOLDER
#
# A Cloud TPU VM learns from its metadata server who the hosts are; elsewhere jax finds
# out by itself. Its process id is in ~/o1jax.pid. A run that was told to stop ends with
# code 75, so that whoever started it can tell that from one that is done.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
help_first "$@"

attribute() {
  curl -sf -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

export O1JAX_PREEMPTED_EXIT=75
if [[ -z ${O1JAX_COORDINATOR:-} ]]; then
  if ends=$(attribute worker-network-endpoints) && own=$(attribute agent-worker-number); then
    IFS=, read -ra workers <<<"$ends" # unknown:unknown:10.0.0.2,...
    if ((${#workers[@]} > 1)); then
      export O1JAX_COORDINATOR="${workers[0]##*:}:8476"
      export O1JAX_PROCESSES=${#workers[@]} O1JAX_PROCESS_ID=$own
    fi
  else
    export O1JAX_COORDINATOR=auto
  fi
fi
echo "$$" >~/o1jax.pid
exec "$@"
