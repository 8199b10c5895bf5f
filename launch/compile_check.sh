#!/usr/bin/env bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
  cat <<'USAGE'
usage: launch/compile_check.sh GIN_FILE --topology=KIND:AxB[xC] [--spare=SHARE]
         [--gin.NAME=VALUE ...]
       launch/compile_check.sh --table [FLAGS OF benchmarks/tpu_fit.py]

Compiles what an experiment runs for a slice of TPUs, without a TPU, and says
whether it fits: KIND is v5e, v5p or v6e, as in v5e:4x4 and v5p:2x2x2. The first
time, libtpu is downloaded into .venv/libtpu (210 MB).

Nothing but config.json is read of checkpoints, and instead of a directory a
preset's name will do. A problem without its data is --gin.PROBLEM='@Outline()'.

exit status: 0 everything fits, 1 something does not, 2 bad input
USAGE
}

case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
  --table) ;;
  '' | -*)
    usage >&2
    exit 2
    ;;
esac

set_up
# Beside the other packages: JAX looks for a TPU wherever it finds libtpu.
export PYTHONPATH=$venv/libtpu:$root${PYTHONPATH:+:$PYTHONPATH}
if ! "$python" -c 'import libtpu' &>/dev/null; then
  echo "Installing libtpu (once) ..." >&2
  log=$venv/install.log
  "$python" -m pip install -c "$root/constraints.txt" --no-deps \
    --target "$venv/libtpu" libtpu >"$log" 2>&1 || {
    cat "$log" >&2
    die "installation failed (output above)"
  }
fi
export JAX_PLATFORMS=cpu

if [ "$1" = --table ]; then
  shift
  cd "$root"
  exec "$python" -m benchmarks.tpu_fit "$@"
fi
gin_file=$1
shift
[ -f "$gin_file" ] || gin_file=$root/$gin_file
[ -f "$gin_file" ] || {
  echo "error: no gin file ${gin_file#"$root/"}" >&2
  exit 2
}
exec "$python" -m tools.compile_check --gin_file="$gin_file" "$@"
