#!/usr/bin/env bash
# What each host of a run does; sky.yaml calls it, and the command for xpk.
#
#   host.sh setup   installs Python 3.12 and what constraints.txt pins
#   host.sh run     runs the gin file EXPERIMENT with each line of OVERRIDES as
#                   --gin.LINE (or as it is, if it begins with --). Results go to
#                   runs/RUN in the bucket, and out/ of the checkout is runs/.
#
# The status is the experiment's. After SIGTERM it is 75, for the run has saved
# and is not finished. A file `stop` beside the results ends a run in the same
# way, but for good, with status 0.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mount=${PAV_MOUNT:-/mnt/bucket}
venv=$HOME/.pav_jax

install_package() {
  local accelerator=tpu
  ! nvidia-smi -L &>/dev/null || accelerator=cuda
  export PATH=$HOME/.local/bin:$PATH
  command -v uv >/dev/null || python3 -m pip install --quiet --user uv
  uv venv --quiet --allow-existing --python 3.12 "$venv"
  uv pip install --quiet --python "$venv/bin/python" \
    --constraint constraints.txt \
    --editable ".[$accelerator,${EXTRAS:-data,math}]"
}

# SkyPilot's setup has either of the two.
several_hosts() {
  [ "${SKYPILOT_NUM_NODES:-1}" -gt 1 ] ||
    [[ ${SKYPILOT_SETUP_NODE_IPS:-} == *$'\n'* ]]
}

# SkyPilot lets names be cached for some seconds, in which a host does not see
# what another has just written.
mount_without_caches() {
  sudo umount "$mount"
  gcsfuse --implicit-dirs --stat-cache-ttl=0s --type-cache-ttl=0s \
    --rename-dir-limit=100000 "$BUCKET" "$mount"
}

# On TPUs and GKE each process asks the machine who it is, see runs/hosts.py.
name_process() {
  several_hosts && [ "${SKYPILOT_NUM_GPUS_PER_NODE:-0}" -gt 0 ] || return 0
  export JAX_COORDINATOR_ADDRESS=${SKYPILOT_NODE_IPS%%$'\n'*}:8476
  export JAX_NUM_PROCESSES=$SKYPILOT_NUM_NODES
  export JAX_PROCESS_ID=$SKYPILOT_NODE_RANK
}

read_overrides() {
  local line
  flags=()
  while read -r line; do
    case $line in
      '') ;;
      --*) flags+=("$line") ;;
      *) flags+=("--gin.$line") ;;
    esac
  done <<<"${OVERRIDES:-}"
}

run_experiment() {
  local run=${RUN:-$(basename "$EXPERIMENT" .gin)}
  local results=$mount/runs/$run child='' stopped='' status=0 watcher
  name_process
  read_overrides
  mkdir -p "$results"
  ln -sfn "$mount/runs" out
  rm -f "$results/stop"
  trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || :' TERM
  JAX_COMPILATION_CACHE_DIR=$mount/jax_cache "$venv/bin/python" \
    -m pav_jax.main --gin_file="$EXPERIMENT" --workdir="$results" \
    ${flags[@]+"${flags[@]}"} &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child" 2>/dev/null || :
  (
    until [ -e "$results/stop" ]; do
      sleep 10
    done
    kill -TERM "$child"
  ) &>/dev/null &
  watcher=$!
  # A signal ends `wait`, but not the child.
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  kill "$watcher" 2>/dev/null || :
  if [ -n "$stopped" ]; then
    status=75
  elif [ -e "$results/stop" ]; then
    echo "stopped by $results/stop, with status $status" >&2
    status=0
  fi
  return "$status"
}

case ${1:-} in
  setup)
    install_package
    ! several_hosts || mount_without_caches
    ;;
  run) run_experiment ;;
  *)
    sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
    ;;
esac
