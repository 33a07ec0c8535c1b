#!/usr/bin/env bash
# One run on a Cloud TPU slice, through queued resources.
#
#   launch/tpu.sh create --name N --zone Z --topology v5e:16x16 --file FILE [--spot]
#   launch/tpu.sh wait   --name N --zone Z       until the slice is there
#   launch/tpu.sh setup  --name N --zone Z       this tree and its packages, on all hosts
#   launch/tpu.sh run    --name N --zone Z --file FILE --workdir FOLDER
#   launch/tpu.sh logs | status | stop | delete  --name N --zone Z
#   launch/tpu.sh keep   (the options of create and run): all of it, again after each
#                        preemption, until the run is done; then deletes the slice
#
# --project P; --dry-run prints the exact commands; --no-check leaves out the check that
# names, sizes and memory fit. stop sends SIGTERM: the run saves, and `run` goes on.
# FOLDER is a bucket (gs://...), or one that all hosts share.

# shellcheck disable=SC2016  # what is quoted is for the hosts to expand
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

begin "$@"
need name zone
limit "a TPU" 61
where=(--zone "$zone")
[[ -z $project ]] || where+=(--project "$project")
tpus=(gcloud compute tpus)

# on WORKER COMMAND
on() { run "${tpus[@]}" tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"; }

create() {
  slice
  preflight
  local runtime kind
  case $chip in
    v4) runtime=tpu-ubuntu2204-base kind=(--type=v4 --topology="$sizes") ;;
    v5e) runtime=v2-alpha-tpuv5-lite kind=(--accelerator-type="v5litepod-$chips") ;;
    v5p) runtime=v2-alpha-tpuv5 kind=(--type=v5p --topology="$sizes") ;;
    v6e) runtime=v2-alpha-tpuv6e kind=(--accelerator-type="v6e-$chips") ;;
    *) die "--topology $topology: this generation is for launch/mig.sh or gke.sh" ;;
  esac
  run "${tpus[@]}" queued-resources create "$name" --node-id="$name" "${where[@]}" \
    "${kind[@]}" --runtime-version="$runtime" ${spot:+--spot}
}

state() {
  "${tpus[@]}" queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
}

# Until it is ACTIVE. 1: it never will be.
wait_for() {
  if [[ -n $dry ]]; then
    run "${tpus[@]}" queued-resources describe "$name" "${where[@]}" \
      --format='value(state.state)'
    return
  fi
  local now before=
  while :; do
    now=$(state)
    [[ $now == "$before" ]] || echo "$name is $now" >&2
    before=$now
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | SUSPENDING) return 1 ;;
    esac
    sleep "${O1JAX_POLL:-30}"
  done
}

setup() {
  pack
  run "${tpus[@]}" tpu-vm scp "$packed" "$name:o1jax.tar.gz" "${where[@]}" --worker=all
  on all "$install"
}

start() {
  need file workdir
  local command
  printf -v command '%q ' .venv/bin/o1jax run "$file" --workdir "$workdir"
  # The exit code is kept: nobody is connected when the run ends.
  on all "cd o1jax && rm -f ~/o1jax.exit && nohup setsid bash -c \
'launch/worker.sh ${command% }; echo \$? > ~/o1jax.exit' > ~/o1jax.log 2>&1 < /dev/null &"
}

delete() { run "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet; }

# Says how the run on worker 0 ended; nothing while it goes on.
ended() { on 0 'cat ~/o1jax.exit 2>/dev/null || true'; }

keep() {
  need file workdir
  local code
  while :; do
    create
    if wait_for; then
      setup
      start
      [[ -z $dry ]] || break
      while [[ $(state) == ACTIVE ]]; do
        code=$(ended) || code=
        case $code in
          0) break 2 ;;
          75) start ;; # SIGTERM, but the slice is still there
          '') ;;
          *)
            echo "the run failed with code $code; the slice is kept: see logs" >&2
            return 1
            ;;
        esac
        sleep "${O1JAX_POLL:-30}"
      done
    fi
    echo "$name was taken away: asking for another slice" >&2
    delete
  done
  delete
}

case $action in
  create) create ;;
  wait) wait_for || die "$name is $(state) and will not become active: delete it" ;;
  setup) setup ;;
  run) start ;;
  logs) on 0 'tail -n 100 -F ~/o1jax.log' ;;
  status) run "${tpus[@]}" queued-resources describe "$name" "${where[@]}" ;;
  stop) on all 'kill -TERM "$(cat ~/o1jax.pid)"' ;;
  delete) delete ;;
  keep) keep ;;
  *) die "unknown action $action: see --help" ;;
esac
