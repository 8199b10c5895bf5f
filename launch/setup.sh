# shellcheck shell=bash
# Sourced by local.sh and test.sh. set_up sets `venv` and `python`, and installs
# what constraints.txt pins unless that has been done. EXTRAS=tpu,data names
# other extras than `all`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

die() {
  echo "error: $*" >&2
  exit 1
}

# Read by any Python, however old, so that an unfit one can be named.
probe='
import sys
version = "%d.%d" % sys.version_info[:2]
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
  sys.exit("is Python %s; need 3.11, 3.12 or 3.13" % version)
try:
  import ensurepip, venv
except ImportError:
  sys.exit("lacks venv or ensurepip (Debian: install python%s-venv)" % version)
import hashlib
state = hashlib.sha256((sys.version + sys.argv[1]).encode())
for name in "launch/setup.sh", "setup.py", "pyproject.toml", "constraints.txt":
  with open(sys.argv[1] + "/" + name, "rb") as f:
    state.update(f.read())
print("%s %s %s" % (version, state.hexdigest(), sys._base_executable))
'

# Sets `version`, `base_python` and `state` by the first fit candidate.
find_python() {
  local candidate found hash reason="not found"
  for candidate in "$@"; do
    command -v "$candidate" >/dev/null || continue
    if found=$("$candidate" -c "$probe" "$root" 2>&1); then
      read -r version hash base_python <<<"${found##*$'\n'}"
      state="$base_python $hash ${EXTRAS:-all}"
      return
    fi
    reason="$candidate ${found%%$'\n'*}"
  done
  [ $# -gt 1 ] || die "PYTHON=$1 ${reason#"$1 "}"
  die "no Python 3.11, 3.12 or 3.13 on PATH ($reason); set PYTHON=PATH_OF_ONE"
}

is_installed() {
  [ "$(cat "$stamp" 2>/dev/null)" = "$state" ] && [ -x "$python" ]
}

install() {
  if [ -e "$venv" ] && [ ! -e "$stamp" ]; then
    die "$venv was not made by launch/; move it away first"
  fi
  echo "Installing for Python $version in ${venv##*/}" \
    "(once; a minute or two, by the connection) ..." >&2
  # An empty stamp marks an installation that was cut short.
  [[ $(cat "$stamp" 2>/dev/null) == "$base_python "* ]] || rm -rf "$venv"
  mkdir -p "$venv"
  : >"$stamp"
  local log=$venv/install.log
  local pip=("$python" -m pip install -c "$root/constraints.txt")
  if ! {
    "$base_python" -m venv "$venv" &&
      "${pip[@]}" setuptools &&
      "${pip[@]}" --no-build-isolation -e "${root}[${EXTRAS:-all}]"
  } >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    die "installation failed (output above)"
  fi
  echo "$state" >"$stamp"
}

set_up() {
  if [ -n "${PYTHON:-}" ]; then
    find_python "$PYTHON"
    venv=$root/.venv-$version
  else
    find_python python3.11 python3.12 python3.13 python3
    venv=$root/.venv
  fi
  python=$venv/bin/python
  stamp=$venv/.pav_jax

  if ! is_installed; then
    exec 9<"$root/setup.py"
    if command -v flock >/dev/null && ! flock --nonblock 9; then
      echo "Waiting for another installation ..." >&2
      flock 9
    fi
    is_installed || install
    exec 9<&-
  fi
  : "${JAX_COMPILATION_CACHE_DIR:=$venv/jax_cache}"
  export JAX_COMPILATION_CACHE_DIR
}
