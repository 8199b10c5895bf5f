#!/usr/bin/env bash
# Remakes constraints.txt from setup.py for Python 3.11 to 3.13, keeping the
# pins that still fit. --upgrade renews all, --upgrade-package NAME one. What
# only the extra `bench` needs is not pinned. Needs uv (pip install uv).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv pip compile setup.py --extra all --extra tpu --universal \
  --python-version 3.11 --no-annotate \
  --custom-compile-command launch/lock.sh --output-file constraints.txt --quiet "$@"
