#!/usr/bin/env bash
# usage: bash scripts/quickstart.sh [flags of swift rlhf]
# From nothing to a trained step on a machine without a GPU: installs the environment, makes data,
# and lets unmodified ms-swift train the embedded tiny model with the real vLLM engine (CPU build).
# The flags given are added to the command and override its own.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
bash scripts/setup.sh
# shellcheck source=scripts/cpu_env.sh
. scripts/cpu_env.sh
exec python scripts/quickstart.py "${QUICKSTART_DIR:-$root/output/quickstart}" "$@"
