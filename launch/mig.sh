#!/usr/bin/env bash
# One run on a slice of TPU machines of Compute Engine, for v5p and newer.
#
#   launch/mig.sh create --name N --zone Z --topology v6e:4x4 --file FILE [--spot]
#   launch/mig.sh wait   --name N --zone Z
#   launch/mig.sh setup  --name N --zone Z       this tree and its packages, on all hosts
#   launch/mig.sh run    --name N --zone Z --file FILE --workdir FOLDER
#   launch/mig.sh logs | status | stop | delete  --name N --zone Z
#
# A template, a workload policy and a managed instance group, all named N. --image FAMILY
# is the family of the boot image (of the project ubuntu-os-accelerator-images).
# FOLDER is a bucket (gs://...), or one that all hosts share. --project P;
# --dry-run prints the exact commands; --no-check leaves out the check that names, sizes
# and memory fit.

# shellcheck disable=SC2016  # what is quoted is for the hosts to expand
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

begin "$@"
need name zone
limit "a managed instance group" 58 # its machines get -xxxx
region=${zone%-*}
of=()
[[ -z $project ]] || of+=(--project "$project")
compute=(gcloud compute)
group=("${compute[@]}" instance-groups managed)

# A line "NAME IP" a machine, the first of which is process 0.
machines() {
  if [[ -n $dry ]]; then
    echo "$name-0 IP-0"
    return
  fi
  "${compute[@]}" instances list "${of[@]}" --zones="$zone" --sort-by=name \
    --filter="name~^$name-[a-z0-9]{4}\$" --format='value(name,networkInterfaces[0].networkIP)'
}

# on MACHINE COMMAND
on() { run "${compute[@]}" ssh "$1" "${of[@]}" --zone "$zone" --command="$2" </dev/null; }

create() {
  slice
  preflight
  local machine
  case $chip in
    v5p) machine=ct5p-hightpu-4t ;;
    v6e) machine=ct6e-standard-$((chips / hosts))t ;;
    tpu7x) machine=tpu7x-standard-4t ;;
    *) die "--topology $topology: this generation is for launch/tpu.sh" ;;
  esac
  run "${compute[@]}" instance-templates create "$name" "${of[@]}" \
    --machine-type="$machine" --maintenance-policy=TERMINATE \
    --image-project=ubuntu-os-accelerator-images \
    --image-family="${image:-ubuntu-accelerator-2404-amd64-tpu-tpu7x}" \
    --scopes=cloud-platform \
    ${spot:+--provisioning-model=SPOT --instance-termination-action=DELETE}
  run "${compute[@]}" resource-policies create workload-policy "$name" "${of[@]}" \
    --region="$region" --type=HIGH_THROUGHPUT --accelerator-topology="$sizes"
  run "${group[@]}" create "$name" "${of[@]}" --zone="$zone" --template="$name" \
    --size="$hosts" --workload-policy="$name" --default-action-on-vm-failure=do-nothing
}

setup() {
  local machine
  pack
  while read -r machine _; do
    run "${compute[@]}" scp "$packed" "$machine:o1jax.tar.gz" "${of[@]}" --zone "$zone" \
      </dev/null
    on "$machine" "$install"
  done < <(machines)
}

start() {
  need file workdir
  local command machine
  printf -v command '%q ' .venv/bin/o1jax run "$file" --workdir "$workdir"
  while read -r machine _; do
    on "$machine" "cd o1jax && rm -f ~/o1jax.exit && nohup setsid bash -c \
'launch/worker.sh ${command% }; echo \$? > ~/o1jax.exit' > ~/o1jax.log 2>&1 < /dev/null &"
  done < <(machines)
}

each() {
  local machine
  while read -r machine _; do on "$machine" "$1"; done < <(machines)
}

first() { machines | { read -r machine _ && echo "$machine"; }; }

case $action in
  create) create ;;
  wait) run "${group[@]}" wait-until "$name" "${of[@]}" --zone="$zone" --stable ;;
  setup) setup ;;
  run) start ;;
  logs) on "$(first)" 'tail -n 100 -F ~/o1jax.log' ;;
  status) run "${group[@]}" list-instances "$name" "${of[@]}" --zone="$zone" ;;
  stop) each 'kill -TERM "$(cat ~/o1jax.pid)"' ;;
  delete)
    run "${group[@]}" delete "$name" "${of[@]}" --zone="$zone" --quiet
    run "${compute[@]}" resource-policies delete "$name" "${of[@]}" --region="$region" --quiet
    run "${compute[@]}" instance-templates delete "$name" "${of[@]}" --quiet
    ;;
  *) die "unknown action $action: see --help" ;;
esac
