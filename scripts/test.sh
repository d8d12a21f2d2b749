#!/usr/bin/env bash
# usage: bash scripts/test.sh [arguments of pytest]
# Lint, types and tests, the slow ones included. Tests marked `ci` run with CI=true alone.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
bash scripts/setup.sh
# shellcheck source=scripts/cpu_env.sh
. scripts/cpu_env.sh
ruff check .
ruff format --check .
mypy
# Two files of tests at a time: jobs and sandboxes wait much. More would fight for memory.
python -m pytest --numprocesses "$(($(nproc) > 1 ? 2 : 1))" --dist loadfile "${@:--q}"
