#!/usr/bin/env bash
# What tpu_vm.sh and gke.sh run on each worker:
#
#   worker.sh setup             installs Python, the package and gcsfuse
#   worker.sh start BUCKET RUN GIN_FILE [--gin.NAME=VALUE ...]
#                               mounts the bucket and starts a run that outlives
#                               the connection; nothing if it goes on already
#   worker.sh exec RUN GIN_FILE [--gin.NAME=VALUE ...]
#                               runs in the foreground (the bucket is mounted)
#   worker.sh status [RUN]      HOST running | exited N | stopped | lost | none, or
#                               busy with another run
#   worker.sh log [LINES]       the end of the log
#   worker.sh stop              SIGTERM: the run saves and ends; after two minutes
#                               (PAV_STOP_SECONDS) SIGKILL
#
# A run's results go to runs/RUN in the bucket, its log to runs/RUN/logs. The
# experiment runs in the checkout, whose out/ is runs/ of the bucket.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
mount=${PAV_MOUNT:-/mnt/bucket}
records=${PAV_RECORDS:-$HOME/.pav_jax}

# Sets PYTHON for local.sh; TPU VMs come with Python 3.10.
choose_python() {
  local candidate
  local fits='import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
  for candidate in python3.12 python3.11 python3.13 python3; do
    if "$candidate" -c "$fits" 2>/dev/null; then
      export PYTHON=$candidate
      return
    fi
  done
  python3 -m uv --version >/dev/null 2>&1 ||
    python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.12
  PYTHON=$(python3 -m uv python find 3.12)
  export PYTHON
}

install_package() {
  choose_python
  # shellcheck source-path=SCRIPTDIR source=setup.sh
  (source "$here/setup.sh" && set_up)
}

install_gcsfuse() {
  ! command -v gcsfuse >/dev/null || return 0
  local key=/usr/share/keyrings/cloud.google.asc
  local url=https://packages.cloud.google.com/apt
  curl -fsSL "$url/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $url gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A fresh VM may be updating itself.
  sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
  sudo apt-get -o DPkg::Lock::Timeout=300 install -qq -y gcsfuse
}

# Without caches of names, so that each worker sees what others have written.
# Files are uploaded when they are closed or synchronised, not while they grow.
mount_bucket() {
  ! mountpoint -q "$mount" || return 0
  sudo mkdir -p "$mount"
  sudo chown "$(id -u):$(id -g)" "$mount"
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
    --metadata-cache-negative-ttl-secs=0 --rename-dir-limit=100000 \
    --enable-streaming-writes=false "$1" "$mount" >/dev/null
}

# Runs as a child, to which SIGTERM is passed on. Ends with the child's status,
# or with 75 if it was told to stop, for then it is not finished.
execute() {
  local run=$1 child='' stopped='' status=0
  shift
  choose_python
  mkdir -p "$mount/runs/$run"
  cd "$here/.."
  ln -sfn "$mount/runs" out
  trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || :' TERM
  JAX_COMPILATION_CACHE_DIR=$mount/jax_cache \
    "$here/local.sh" "$@" --workdir="$mount/runs/$run" &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child" 2>/dev/null || :
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  trap - TERM
  [ -z "$stopped" ] || status=75
  return "$status"
}

is_running() {
  # After a reboot the number may be another process's.
  [ -s "$records/pid" ] &&
    grep -qs supervise "/proc/$(cat "$records/pid")/cmdline"
}

# In a process of its own.
supervise() {
  local run=$1 status=0
  echo "$$" >"$records/pid"
  execute "$@" || status=$?
  echo "$status" >"$records/ended"
  mkdir -p "$mount/runs/$run/logs"
  cp "$records/log" "$mount/runs/$run/logs/$(hostname).log" || :
  exit "$status"
}

start() {
  local bucket=$1 command=$*
  shift
  mkdir -p "$records"
  if is_running; then
    [ "$(cat "$records/command")" = "$command" ] || {
      echo "error: another run goes on: $(cat "$records/command")" >&2
      exit 1
    }
    return
  fi
  mount_bucket "$bucket"
  rm -f "$records/ended"
  printf '%s' "$command" >"$records/command"
  : >"$records/pid"
  echo "--- $(date -u +%FT%TZ) $command" >>"$records/log"
  nohup setsid "$here/worker.sh" supervise "$@" >>"$records/log" 2>&1 </dev/null &
  until [ -s "$records/pid" ]; do
    sleep 0.1
  done
}

status() {
  local word=none run=
  [ ! -f "$records/command" ] || read -r _ run _ <"$records/command" || :
  if [ -n "${1:-}" ] && [ "$run" != "$1" ]; then
    ! is_running || word=busy
  elif is_running; then
    word=running
  elif [ -f "$records/ended" ]; then
    word="exited $(cat "$records/ended")"
    [ "$word" != "exited 75" ] || word=stopped
  elif [ -f "$records/command" ]; then
    word=lost
  fi
  echo "$(hostname) $word"
}

stop() {
  is_running || return 0
  local pid deadline=$((SECONDS + ${PAV_STOP_SECONDS:-120}))
  pid=$(cat "$records/pid")
  kill -TERM "$pid"
  while is_running && [ "$SECONDS" -lt "$deadline" ]; do
    sleep 0.1
  done
  ! is_running || kill -KILL -- "-$pid"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  setup)
    export EXTRAS=${EXTRAS-tpu,data,math}
    install_package
    install_gcsfuse
    ;;
  exec)
    export EXTRAS=${EXTRAS-tpu,data,math}
    execute "$@"
    ;;
  supervise)
    export EXTRAS=${EXTRAS-tpu,data,math}
    supervise "$@"
    ;;
  start) start "$@" ;;
  status) status "$@" ;;
  log) tail -n "${1:-50}" "$records/log" ;;
  stop) stop ;;
  *)
    sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
    ;;
esac
