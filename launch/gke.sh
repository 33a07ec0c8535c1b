#!/usr/bin/env bash
# One run on TPUs of a GKE cluster, through xpk.
#
#   launch/gke.sh cluster --cluster C --zone Z --topology v5e:16x16 [--spot]
#   launch/gke.sh run     --cluster C --zone Z --topology v5e:16x16 --name N \
#                         --image IMAGE --file FILE --workdir FOLDER
#   launch/gke.sh logs | status | delete --cluster C --zone Z --name N
#
# --project P; --dry-run prints the exact commands; --no-check leaves out the check that
# names, sizes and memory fit. IMAGE has o1jax installed, this tree as its working
# directory. FOLDER is a bucket (gs://...; IMAGE has o1jax[buckets]), or one that
# all hosts share, mounted. A run that is preempted ends with code 75, which restarts it.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

begin "$@"
need cluster zone
where=(--cluster "$cluster" --zone "$zone")
[[ -z $project ]] || where+=(--project "$project")

# What xpk calls the slice.
kind() {
  slice
  case $chip in
    v4) echo "v4-$((2 * chips))" ;; # in cores, two a chip
    v5e) echo "v5litepod-$chips" ;;
    v5p) echo "v5p-$((2 * chips))" ;;
    v6e) echo "v6e-$chips" ;;
    tpu7x) echo "tpu7x-$((2 * chips))" ;;
  esac
}

case $action in
  cluster)
    tpu=$(kind)
    run xpk cluster create "${where[@]}" --tpu-type="$tpu" --num-slices=1 ${spot:+--spot}
    ;;
  run)
    limit "a workload of xpk" 39
    need image file workdir
    slice
    preflight
    tpu=$(kind)
    printf -v command '%q ' launch/worker.sh o1jax run "$file" --workdir "$workdir"
    run xpk workload create "${where[@]}" --workload "$name" --tpu-type="$tpu" \
      --num-slices=1 --docker-image="$image" --command="${command% }" \
      --env O1JAX_COORDINATOR=auto --max-restarts=100 --restart-on-exit-codes=75
    ;;
  logs)
    need name
    run kubectl logs --follow --tail=100 --prefix \
      --selector="jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
    ;;
  status) run xpk workload list "${where[@]}" ${name:+--filter-by-job="$name"} ;;
  delete)
    need name
    run xpk workload delete "${where[@]}" --workload "$name" --force
    ;;
  *) die "unknown action $action: see --help" ;;
esac
