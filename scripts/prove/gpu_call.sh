#!/usr/bin/env bash
# usage: in the packed folder: OUT=FOLDER PHASE=sft|rl bash scripts/prove/gpu_call.sh SECONDS
# One call of at most ten minutes on the GPU host: unpacks models, runs a phase of gpu_main.sh for
# at most SECONDS, and puts results and checkpoints into OUT. A call needs nothing of an earlier one
# but the files in the packed folder: a machine does not wait between calls.
set -u
mkdir -p /tmp/pre /tmp/r/sft
rm -f /tmp/r/phase # of an earlier call on the same machine
for file in *_b.tgz; do [ -e "$file" ] && tar -xzf "$file" -C /tmp/pre; done
if ls models.tgz* >/dev/null 2>&1; then
  # What gpu_wait.sh packed: models/sft_2m.tool.0.2 becomes sft/2m.tool.0.2/model.
  cat models.tgz* | tar -xzf - -C /tmp/r
  for folder in /tmp/r/models/sft_*; do
    name=$(basename "$folder")
    mkdir -p "/tmp/r/sft/${name#sft_}" && mv "$folder" "/tmp/r/sft/${name#sft_}/model"
  done
fi
setsid bash scripts/prove/gpu_main.sh >/tmp/main.log 2>&1 &
bash scripts/prove/gpu_wait.sh "$1" models
