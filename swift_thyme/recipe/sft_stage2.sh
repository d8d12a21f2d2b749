#!/usr/bin/env bash
# usage: MODEL=stage1/checkpoint DATASET="..." SAVE_PATH=... sh sft_stage2.sh [flags of swift sft]
# Supervised training, second stage (annealing): as the first, from its checkpoint, with a tenth of
# its learning rate. Flags given here override.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=swift_thyme/recipe/common.sh
. "$here/common.sh"
need MODEL "the checkpoint of the first stage"
need DATASET "the rows to anneal on: one or more files, separated by blanks"
need SAVE_PATH "the folder for checkpoints"

exec bash "$here/sft_stage1.sh" --learning_rate 1e-6 "$@"
