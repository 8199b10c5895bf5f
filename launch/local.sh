#!/usr/bin/env bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
  cat <<'USAGE'
usage: launch/local.sh GIN_FILE [--workdir=DIR] [--gin.NAME=VALUE ...]

Installs what is needed into .venv, once, and runs the experiment. Results go
to out/EXPERIMENT/ unless --workdir is given. PYTHON=python3.12 in front picks
an interpreter, which gets a .venv-3.12 of its own.

experiments:
USAGE
  (cd "$root" && printf '  %s\n' gin/experiments/*.gin)
}

case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
  '' | -*)
    usage >&2
    exit 2
    ;;
esac
gin_file=$1
shift
[ -f "$gin_file" ] || gin_file=$root/$gin_file
if [ ! -f "$gin_file" ]; then
  echo "error: no gin file ${gin_file#"$root/"}" >&2
  usage >&2
  exit 2
fi

workdir=(--workdir="$root/out/$(basename "$gin_file" .gin)")
for arg; do
  [[ $arg != --workdir && $arg != --workdir=* ]] || workdir=()
done

set_up
exec "$python" -m pav_jax.main --gin_file="$gin_file" \
  ${workdir[@]+"${workdir[@]}"} "$@"
