#!/usr/bin/env bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source-path=SCRIPTDIR source=cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
# shellcheck source-path=SCRIPTDIR source=tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"

usage() {
  cat <<'USAGE'
usage: launch/tpu_vm.sh COMMAND [GIN_FILE] [FLAGS] [--gin.NAME=VALUE ...]

Runs an experiment on a TPU VM or a pod slice. launch/README.md says what a
project needs.

  launch GIN_FILE  all of this: creates the TPU, sets it up, runs, goes on after
                   preemptions, fetches the results, and deletes the TPU
  bucket           creates the bucket
  create           creates the TPU, trying again until there is capacity
  setup            brings this checkout to all workers and installs it
  run GIN_FILE     starts the experiment on all workers; it outlives connections
  status           of the TPU, and of the run on each worker
  log              the end of a worker's log
  stop             tells the run to save and end
  fetch GIN_FILE   copies the run's results to out/RUN
  delete           deletes the TPU; what is in the bucket stays

flag                  instead             default
  --project=ID        PAV_PROJECT
  --zone=ZONE         PAV_ZONE
  --accelerator=TYPE  PAV_ACCELERATOR                      as v5litepod-16
  --bucket=BUCKET     PAV_BUCKET
  --name=NAME         PAV_NAME            pav-jax          of the TPU
  --runtime=VERSION   PAV_RUNTIME         by accelerator   of its software
  --run=RUN                               the gin file's   in the bucket: runs/RUN
  --spot                                  on demand
  --queue                                 no; a queued resource
  --keep                                  no; launch leaves the TPU
  --weights                               no; fetch brings networks too
  --worker=N                              0                of log
  --retry_seconds=N                       60               between tries to create
  --poll_seconds=N                        60               between looks at a run
  --reruns=N                              2                after errors
  --dry_run                               no; prints what would be called
USAGE
}

keep=
worker=0
poll_seconds=60
reruns=2

values=(
  project zone accelerator bucket name runtime run worker retry_seconds
  poll_seconds reruns
)
switches=(spot queue keep weights dry_run help)

# The words of a command on worker `which`, or on all.
on_workers() {
  local which=$1
  shift
  in_shell_of "$which" "$(quoted "$@")"
}

in_shell_of() {
  tpu tpu-vm ssh "$name" "--worker=$1" "--command=$2"
}

setup() {
  need project zone
  local copy=$root/out/.checkout
  if [ -z "$dry_run" ]; then
    copy_checkout "$copy" &&
      tar -czf "$copy.tar.gz" -C "$copy" . || return
  fi
  tpu tpu-vm scp "$copy.tar.gz" "$name:pav_jax.tar.gz" --worker=all
  say "bringing the checkout to all workers ..."
  call "${words[@]}" || return
  say "installing (minutes, the first time) ..."
  # What the checkout no longer has goes; installations stay.
  local unpack='mkdir -p pav_jax && cd pav_jax'
  unpack+=" && find . -mindepth 1 -maxdepth 1 ! -name '.venv*' -exec rm -rf {} +"
  unpack+=' && tar -xzf ../pav_jax.tar.gz'
  in_shell_of all "$unpack && launch/worker.sh setup"
  call "${words[@]}"
}

run_experiment() {
  need project zone bucket
  on_workers all pav_jax/launch/worker.sh start "$bucket" "$run" "$gin_file" \
    ${passed[@]+"${passed[@]}"}
  call "${words[@]}" || return
  say "started $gin_file on all workers; results go to gs://$bucket/runs/$run"
}

# Sets `num_workers`; fails if the TPU is gone.
count_workers() {
  tpu tpu-vm describe "$name" '--format=value(networkEndpoints[].ipAddress)'
  while :; do
    if ask 10.0.0.1 "${words[@]}"; then
      # None have been told while the TPU comes up.
      num_workers=$(grep -cE '[0-9]+(\.[0-9]+){3}' <<<"${answer//;/$'\n'}" || :)
      [ "$num_workers" -eq 0 ] || return 0
      say "$name has no addresses yet"
    elif is_absent; then
      return 1
    else
      bear "cannot look at $name"
    fi
    doze "$retry_seconds"
  done
}

# Sets `words_of_workers`: `HOST STATE` lines of those that answered.
ask_workers() {
  on_workers all pav_jax/launch/worker.sh status ${run:+"$run"}
  ask "$1" "${words[@]}" || :
  words_of_workers=$(
    grep -E ' (running|exited [0-9]+|stopped|lost|none|busy)$' <<<"$answer" || :
  )
}

how_many() {
  grep -cE " ($1)\$" <<<"$words_of_workers" || :
}

# Sets `outcome`: finished, failed (for good), error or preempted.
await_end() {
  local patience=3
  while :; do
    ask_workers 'worker exited 0'
    if [ "$(how_many 'exited 0')" -eq "$num_workers" ]; then
      outcome=finished
      return
    fi
    if [ "$(how_many 'running|exited 0')" -eq "$num_workers" ]; then
      patience=3
      doze "$poll_seconds"
      continue
    fi
    look READY
    case $tpu_state in
      READY | UNKNOWN) ;;
      *)
        outcome=preempted
        return
        ;;
    esac
    # Workers that cannot be reached may be well; if not, others end too.
    if [ "$(how_many 'exited [1-9][0-9]*|stopped|lost|none')" -gt 0 ]; then
      if [ "$(how_many 'exited 2')" -gt 0 ]; then
        outcome=failed
        return
      fi
      # A preemption shows in a worker before it shows in the TPU's state.
      patience=$((patience - 1))
      if [ "$patience" -eq 0 ]; then
        outcome=error
        return
      fi
    fi
    doze "$poll_seconds"
  done
}

launch() {
  need project zone accelerator bucket
  local failures=0 status=0
  # What holds the TPU is what has to be deleted.
  local flags="--name=$name --project=$project --zone=$zone${queue:+ --queue}"
  # shellcheck disable=SC2064
  trap "say 'what was begun goes on: the same command waits for it again, and' \
    'launch/tpu_vm.sh delete $flags ends it'; exit 130" INT
  while :; do
    create
    patient=1
    if ! count_workers; then
      say "$name is gone; starting anew, from the last checkpoint"
      doze "$retry_seconds"
      continue
    fi
    if ! is_under_way; then
      if ! setup || ! run_experiment; then
        look READY
        [ "$tpu_state" != READY ] || failures=$((failures + 1))
        if [ "$failures" -gt "$reruns" ]; then
          status=1
          break
        fi
        say "could not start on all workers; trying again"
        doze "$retry_seconds"
        continue
      fi
    fi
    await_end
    case $outcome in
      finished) break ;;
      preempted)
        say "$name was preempted; starting anew, from the last checkpoint"
        continue
        ;;
      error) failures=$((failures + 1)) ;;
      failed) failures=$((reruns + 1)) ;;
    esac
    say "$words_of_workers"
    if [ "$failures" -gt "$reruns" ]; then
      status=1
      break
    fi
    say "a worker failed; running again ($failures of $reruns)"
    stop_run || :
    doze "$poll_seconds"
  done
  [ "$status" -eq 0 ] || show_log || :
  fetch_results || :
  [ -n "$keep" ] || delete
  [ "$status" -eq 0 ] || die "the run failed; logs, if any, are in out/$run/logs"
  say "$run is finished"
}

# Whether workers are running already, as when launch is called again.
is_under_way() {
  ask_workers 'worker none'
  [ "$(how_many busy)" -eq 0 ] ||
    die "another run goes on on $name; launch/tpu_vm.sh stop ends it"
  [ "$(how_many running)" -gt 0 ]
}

show_status() {
  need project zone
  look READY
  echo "$name $tpu_state"
  if [ "$tpu_state" = READY ]; then
    ask_workers 'worker running'
    [ -n "$dry_run" ] || echo "$words_of_workers"
  fi
}

show_log() {
  need project zone
  need_number worker
  on_workers "$worker" pav_jax/launch/worker.sh log
  call "${words[@]}"
}

stop_run() {
  need project zone
  on_workers all pav_jax/launch/worker.sh stop
  call "${words[@]}"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  -h | --help)
    usage
    exit
    ;;
  launch | run | fetch | bucket | create | setup | status | log | stop | delete) ;;
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
need_number retry_seconds poll_seconds reruns
read_bucket
case $command in
  launch | run | fetch) read_gin_file ;;
  *) no_gin_file ;;
esac
case $command in
  launch) launch ;;
  bucket)
    need project zone bucket
    create_bucket
    ;;
  create) create ;;
  setup) setup ;;
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
