# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by tpu_vm.sh, behind cloud.sh: a TPU, or a queued resource that becomes
# one, is looked at, created and deleted.

runtime=${PAV_RUNTIME:-}
queue=
retry_seconds=60
# Whether a network that is down is borne with, see `bear`.
patient=

read_runtime() {
  [ -z "$runtime" ] || return 0
  case $accelerator in
    v5litepod-* | v5e-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
    *) usage_error "--runtime is needed for --accelerator=$accelerator" ;;
  esac
}

# tpu VERB ARGUMENT …: the words of a gcloud command, in `words`.
tpu() {
  words=(
    gcloud compute tpus "$@" "--project=$project" "--zone=$zone" --quiet
  )
}

# Sets `tpu_state`: READY, PREEMPTED, … or ABSENT.
look() {
  local assumed=$1
  tpu tpu-vm describe "$name" '--format=value(state)'
  if ask "$assumed" "${words[@]}"; then
    tpu_state=${answer:-UNKNOWN}
  elif is_absent; then
    tpu_state=ABSENT
  else
    tpu_state=UNKNOWN
    bear "cannot look at $name"
  fi
}

# Ends the script with what gcloud complained of; not so while a run goes on, of
# which a network that is down for a while should not make an end.
bear() {
  [ -n "$patient" ] || die "$1: $complaint"
  say "$1; trying again: ${complaint##*$'\n'}"
}

is_absent() {
  [[ $complaint == *NOT_FOUND* || $complaint == *"not found"* ]]
}

# Sets `queue_state`: ACTIVE, WAITING_FOR_RESOURCES, … or ABSENT.
look_at_queue() {
  tpu queued-resources describe "$name" '--format=value(state.state)'
  if ask "$1" "${words[@]}"; then
    queue_state=${answer:-UNKNOWN}
  elif is_absent; then
    queue_state=ABSENT
  else
    queue_state=UNKNOWN
    bear "cannot look at the queued resource $name"
  fi
}

# Whether gcloud complained of what may pass: no capacity, or an error of its own.
may_pass() {
  local text=${complaint,,}
  [[ $text != *quota* ]] || return 1
  [[ $text =~ capacity|resource_exhausted|resource\ exhausted|stockout ||
    $text =~ resources\ available|unavailable|internal\ error|deadline ||
    $text =~ timed\ out|connection|unable\ to\ find\ the\ server ]]
}

create() {
  need project zone accelerator
  read_runtime
  local kind=(--accelerator-type="$accelerator")
  [ -z "$spot" ] || kind+=(--spot)
  if [ -n "$queue" ]; then
    create_by_queue
  else
    create_directly
  fi
  say "$name is ready"
}

create_directly() {
  while :; do
    look ABSENT
    case $tpu_state in
      READY) return ;;
      ABSENT) ;;
      CREATING | STARTING | RESTARTING | REPAIRING | UNKNOWN)
        say "$name is $tpu_state"
        doze "$retry_seconds"
        continue
        ;;
      *)
        say "$name is $tpu_state; deleting it"
        delete || doze "$retry_seconds"
        continue
        ;;
    esac
    tpu tpu-vm create "$name" "${kind[@]}" --version="$runtime"
    say "creating $name ($accelerator in $zone) ..."
    if ask '' "${words[@]}"; then
      return
    fi
    may_pass || die "cannot create $name: $complaint"
    say "no capacity; trying again in $retry_seconds s: ${complaint##*$'\n'}"
    doze "$retry_seconds"
  done
}

create_by_queue() {
  local before=''
  look_at_queue ABSENT
  while :; do
    case $queue_state in
      ACTIVE)
        look READY
        [ "$tpu_state" != READY ] || return 0
        say "$name is $tpu_state; deleting it"
        delete || doze "$retry_seconds"
        look_at_queue ABSENT
        ;;
      ABSENT)
        tpu queued-resources create "$name" --node-id="$name" "${kind[@]}" \
          --runtime-version="$runtime"
        say "queueing for $name ($accelerator in $zone) ..."
        if ! ask '' "${words[@]}"; then
          may_pass || die "cannot queue for $name: $complaint"
          doze "$retry_seconds"
        fi
        look_at_queue ACTIVE
        ;;
      FAILED | SUSPENDED)
        say "the queued resource $name is $queue_state; asking again"
        delete || :
        doze "$retry_seconds"
        look_at_queue ABSENT
        ;;
      *)
        [ "$queue_state" = "$before" ] || say "$name is $queue_state"
        before=$queue_state
        doze "$retry_seconds"
        look_at_queue ACTIVE
        ;;
    esac
  done
}

delete() {
  need project zone
  if [ -n "$queue" ]; then
    tpu queued-resources delete "$name" --force
  else
    tpu tpu-vm delete "$name"
  fi
  call "${words[@]}"
}
