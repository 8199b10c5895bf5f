#!/usr/bin/env bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source-path=SCRIPTDIR source=cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"

usage() {
  cat <<'USAGE'
usage: launch/gke.sh COMMAND [GIN_FILE] [FLAGS] [--gin.NAME=VALUE ...]

Runs an experiment on a GKE cluster with TPUs, through xpk (pip install xpk).
launch/README.md says what a project needs.

  launch GIN_FILE  runs, waits until the run has ended, and fetches the results
  bucket           creates the bucket
  create           creates the cluster (once; half an hour) and gives it the bucket
  run GIN_FILE     starts the experiment on all workers
  status           of the cluster's runs
  log GIN_FILE     the end of worker 0's log
  stop GIN_FILE    tells the run to save and end
  fetch GIN_FILE   copies the run's results to out/RUN
  delete           deletes the cluster; what is in the bucket stays

flag                  instead             default
  --project=ID        PAV_PROJECT
  --zone=ZONE         PAV_ZONE
  --accelerator=TYPE  PAV_ACCELERATOR                      as v5litepod-16
  --bucket=BUCKET     PAV_BUCKET
  --name=NAME         PAV_NAME            pav-jax          of the cluster
  --image=IMAGE       PAV_IMAGE           python:3.12      to which this checkout is
                                                           added; has Python
  --slices=N                              1
  --run=RUN                               the gin file's   in the bucket: runs/RUN
  --spot                                  on demand
  --weights                               no; fetch brings networks too
  --restarts=N                            50               after preemptions, errors
  --dry_run                               no; prints what would be called
USAGE
}

image=${PAV_IMAGE:-python:3.12}
slices=1
restarts=50
values=(project zone accelerator bucket name image slices run restarts)
switches=(spot weights dry_run help)

# xpk NOUN VERB ARGUMENT …: the words of a command, in `words`.
use_xpk() {
  words=(xpk "$@" "--cluster=$name" "--project=$project" "--zone=$zone")
}

# Sets `workload`, a name that Kubernetes takes.
name_workload() {
  workload=$(tr '[:upper:]_.' '[:lower:]--' <<<"$run")
  [[ $workload =~ ^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$ ]] ||
    usage_error "--run is '$run', expected at most 39 characters, a letter first"
}

create() {
  need project zone accelerator bucket
  local kind=--on-demand
  [ -z "$spot" ] || kind=--spot
  use_xpk cluster create --tpu-type="$accelerator" --num-slices="$slices" \
    "$kind" --enable-gcsfuse-csi-driver
  call "${words[@]}"
  # As worker.sh mounts it on TPU VMs.
  local options=implicit-dirs,metadata-cache:ttl-secs:0
  options+=,metadata-cache:negative-ttl-secs:0
  options+=,file-system:rename-dir-limit:100000
  options+=,write:enable-streaming-writes:false
  use_xpk storage attach "$name-bucket" --type=gcsfuse --bucket="$bucket" \
    --mount-point=/mnt/bucket --readonly=false --size=1 --auto-mount=true \
    --mount-options="$options"
  call "${words[@]}"
}

run_experiment() {
  need project zone accelerator bucket
  local copy=$root/out/.checkout
  [ -n "$dry_run" ] || copy_checkout "$copy"
  # 1 may be a worker whose peer was lost, 75 one that was told to stop.
  use_xpk workload create --workload="$workload" --tpu-type="$accelerator" \
    --num-slices="$slices" --base-docker-image="$image" --script-dir="$copy" \
    --max-restarts="$restarts" --restart-on-exit-codes=1,75 \
    --command="$(quoted bash launch/worker.sh exec "$run" "$gin_file" \
      ${passed[@]+"${passed[@]}"})"
  call "${words[@]}"
  say "started $gin_file; results go to gs://$bucket/runs/$run"
}

launch() {
  local status=0
  run_experiment
  use_xpk workload list --wait-for-job-completion="$workload"
  call "${words[@]}" || status=$?
  [ "$status" -eq 0 ] || show_log || :
  fetch_results || :
  [ "$status" -eq 0 ] || die "the run failed; $(quoted "${words[@]}") says more"
  say "$run is finished"
}

show_status() {
  need project zone
  use_xpk workload list
  call "${words[@]}"
}

get_credentials() {
  call gcloud container clusters get-credentials "$name" \
    --location="${zone%-*}" --project="$project"
}

show_log() {
  need project zone
  get_credentials
  call kubectl logs --tail=50 \
    --selector="jobset.sigs.k8s.io/jobset-name=$workload,batch.kubernetes.io/job-completion-index=0"
}

# Deleting a workload sends SIGTERM to its workers.
stop_run() {
  need project zone
  use_xpk workload delete --workload="$workload" --force
  call "${words[@]}"
}

delete() {
  need project zone
  use_xpk cluster delete --force
  call "${words[@]}"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  -h | --help)
    usage
    exit
    ;;
  launch | bucket | create | run | status | log | stop | fetch | delete) ;;
  *)
    usage >&2
    exit 2
    ;;
esac
read_flags "$@"
if [ -n "$help" ]; then
  usage
  exit
fi
need_number slices restarts
read_bucket
case $command in
  launch | run | log | stop | fetch)
    read_gin_file
    name_workload
    ;;
  *) no_gin_file ;;
esac
case $command in
  launch) launch ;;
  bucket)
    need project zone bucket
    create_bucket
    ;;
  create) create ;;
  run) run_experiment ;;
  status) show_status ;;
  log) show_log ;;
  stop) stop_run ;;
  fetch)
    need project bucket
    fetch_results
    ;;
  delete) delete ;;
esac
