#!/usr/bin/env bash
# usage: bash scripts/prove/gpu_pack.sh PARTS FOLDER [FILE...]
# Puts what an offline GPU host needs into FOLDER: the parts with ms-swift and vLLM, this checkout's
# package, plugins and scripts (CODE: other paths) as one archive, and further files (checkpoints). The embedded model
# travels with the checkout.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
parts=$1 folder=$2
shift 2
rm -rf "$folder"/*
mkdir -p "$folder"
cp -r "$parts" "$folder/parts"
cp "$parts/../scripts/install_parts.sh" "$folder/"
# shellcheck disable=SC2086 # CODE names several paths
git -C "$root" archive HEAD ${CODE:-swift_thyme plugin scripts tests/__init__.py tests/scripted_logits.py} ":(exclude)swift_thyme/testbed/model" \
  ":(exclude)scripts/prove/start_2m" | gzip -9 >"$folder/code.tgz"
for file in "$@"; do cp "$file" "$folder/"; done
du -sb "$folder"
