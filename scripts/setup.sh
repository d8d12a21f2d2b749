#!/usr/bin/env bash
# usage: bash scripts/setup.sh
# Installs the locked CPU environment into .venv at the root of the repository: ms-swift, torch and
# vLLM's CPU build, with every hash checked. A second call with an unchanged lock file does nothing.
# PYTHON=python3.11 chooses the interpreter (3.10, 3.11 or 3.12).
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

pick_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "setup: no Python 3.10, 3.11 or 3.12 found; set PYTHON to one" >&2
  return 1
}

wanted=$(cat requirements/*.lock pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/thyme-lock 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c 'import swift_thyme' 2>/dev/null; then
  exit 0
fi
python=$(pick_python)
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
  echo "setup: the locked environment is for Linux on x86_64, this is $(uname -s) on $(uname -m)" >&2
  exit 1
fi
echo "setup: installing into $root/.venv (about 7 GB on disk)" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
export VIRTUAL_ENV=$root/.venv
# The lock is complete, so nothing is resolved here: vLLM's CPU build pins a torch build that
# torchvision's ordinary wheel does not load with.
.venv/bin/uv pip sync --quiet --require-hashes requirements/uv.lock requirements/cpu.lock
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
echo "$wanted" > .venv/thyme-lock
