# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by tpu_vm.sh and gke.sh, which use and set what seems unused and unset
# here: flags, calls that --dry_run prints, and the files that workers get.

# Flags of both, and their defaults.
project=${PAV_PROJECT:-}
zone=${PAV_ZONE:-}
accelerator=${PAV_ACCELERATOR:-}
bucket=${PAV_BUCKET:-}
name=${PAV_NAME:-pav-jax}
run=
spot=
weights=
dry_run=
help=

usage_error() {
  echo "error: $*; launch/${0##*/} --help says more" >&2
  exit 2
}

# Reads flags into variables of their names, dashes aside: `values` names those
# with a value, `switches` those without. What else there is goes to `positional`
# and `passed` (--gin.NAME=VALUE and --debug, for the experiment).
read_flags() {
  positional=()
  passed=()
  local arg flag
  while [ $# -gt 0 ]; do
    arg=$1
    shift
    case $arg in
      --gin.*=* | --debug) passed+=("$arg") ;;
      --gin.*) usage_error "$arg lacks =VALUE" ;;
      --*=*)
        flag=${arg%%=*}
        flag=${flag#--}
        is_one_of "$flag" "${values[@]}" || usage_error "unknown flag --$flag"
        printf -v "$flag" %s "${arg#*=}"
        ;;
      --*)
        flag=${arg#--}
        if is_one_of "$flag" "${switches[@]}"; then
          printf -v "$flag" 1
        elif is_one_of "$flag" "${values[@]}"; then
          [ $# -gt 0 ] || usage_error "--$flag lacks a value"
          printf -v "$flag" %s "$1"
          shift
        else
          usage_error "unknown flag $arg"
        fi
        ;;
      *) positional+=("$arg") ;;
    esac
  done
}

is_one_of() {
  local wanted=$1 candidate
  shift
  for candidate; do
    [ "$candidate" != "$wanted" ] || return 0
  done
  return 1
}

# One error for all flags that are missing.
need() {
  local flag missing=()
  for flag; do
    [ -n "${!flag}" ] || missing+=("--$flag or PAV_${flag^^}")
  done
  [ ${#missing[@]} -eq 0 ] || usage_error "missing: $(join ', ' "${missing[@]}")"
}

need_number() {
  local flag
  for flag; do
    [[ ${!flag} =~ ^[0-9]+$ ]] ||
      usage_error "--$flag is '${!flag}', expected a whole number"
  done
}

join() {
  local separator=$1 text=$2 part
  shift 2
  for part; do
    text+=$separator$part
  done
  printf %s "$text"
}

# A command as one can paste it.
quoted() {
  local word text=
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    text+="$word "
  done
  printf %s "${text% }"
}

show() {
  quoted "$@"
  echo
}

# Calls, or with --dry_run prints.
call() {
  if [ -n "$dry_run" ]; then
    show "$@"
  else
    "$@"
  fi
}

# The answer of a call; --dry_run prints the call instead, and `assumed` is the
# answer. Leaves what it said on stderr in $complaint.
ask() {
  local assumed=$1 file status=0
  shift
  if [ -n "$dry_run" ]; then
    show "$@"
    answer=$assumed
    return
  fi
  file=$(mktemp)
  answer=$("$@" 2>"$file") || status=$?
  complaint=$(cat "$file")
  rm -f "$file"
  return "$status"
}

say() {
  [ -n "$dry_run" ] || echo "$*" >&2
}

doze() {
  [ -n "$dry_run" ] || sleep "$1"
}

# Sets gin_file, relative to the checkout, and run.
read_gin_file() {
  [ ${#positional[@]} -eq 1 ] || usage_error "expected one GIN_FILE"
  gin_file=${positional[0]#"$root/"}
  [ -f "$root/$gin_file" ] ||
    usage_error "no gin file $gin_file in the checkout, which workers get"
  [ -n "$run" ] || run=$(basename "$gin_file" .gin)
  [[ $run =~ ^[A-Za-z0-9._-]+$ ]] ||
    usage_error "--run is '$run', expected letters, digits, '.', '_' and '-'"
}

no_gin_file() {
  [ ${#positional[@]} -eq 0 ] || usage_error "unexpected ${positional[*]}"
}

read_bucket() {
  bucket=${bucket#gs://}
  bucket=${bucket%/}
  [[ $bucket != */* ]] ||
    usage_error "--bucket is $bucket, expected the name of a whole bucket"
}

# Copies the checkout's files, with changes that are not committed, to a
# directory, which is emptied first. What is not in git and looks like a secret
# stays here.
copy_checkout() {
  local file list
  rm -rf "$1"
  mkdir -p "$1"
  list=$(mktemp)
  # Names end with NUL: they may have any characters, and begin with a dash.
  git -C "$root" ls-files -z --cached --others --exclude-standard \
    -x .env -x '.env.*' -x .netrc -x '*.pem' -x '*.key' -x 'id_rsa*' \
    -x 'id_ed25519*' |
    while IFS= read -r -d '' file; do
      [ ! -f "$root/$file" ] || printf '%s\0' "$file"
    done >"$list"
  tar -cf - -C "$root" --null -T "$list" | tar -xf - -C "$1"
  rm -f "$list"
}

# Directories can be renamed at once in a bucket with hierarchical namespace.
create_bucket() {
  call gcloud storage buckets create "gs://$bucket" --project="$project" \
    --location="${zone%-*}" --uniform-bucket-level-access \
    --enable-hierarchical-namespace
}

fetch_results() {
  call mkdir -p "$root/out/$run"
  # Networks are large, and runs that need them find them in the bucket.
  local leave='(.*/)?checkpoints/.*'
  [ -n "$weights" ] || leave+='|.*\.safetensors'
  call gcloud storage rsync --recursive "gs://$bucket/runs/$run" \
    "$root/out/$run" --exclude="$leave" --project="$project"
  say "results are in $root/out/$run; look at them with"
  say "  tensorboard --logdir=$root/out/$run"
}
