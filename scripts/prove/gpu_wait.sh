#!/usr/bin/env bash
# usage: OUT=FOLDER bash scripts/prove/gpu_wait.sh SECONDS [models]
# Waits until gpu_main.sh is done or the seconds are over, shows how far it is, and puts logs and
# evaluations (with `models` also checkpoints, in bfloat16) into OUT in pieces of 15 MiB.
set -u
until=$(($(date +%s) + $1))
while [ "$(cat /tmp/r/phase 2>/dev/null)" != "done" ] && [ "$(date +%s)" -lt $until ]; do sleep 2; done
tail -60 /tmp/main.log
cp /tmp/main.log /tmp/r/log/main.log
nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
uptime
for log in /tmp/r/rl/*/logging.jsonl; do
  echo "$(basename "$(dirname "$log")") $(tail -1 "$log" | grep -oE '"(global_step/max_steps|reward|step_time|thyme/tool_use_rate|rewards/VqaORM/mean)": "?[0-9./]*' | tr '\n' ' ')"
done
cd /tmp/r || exit
for log in log/sft.*.log log/rl.*.log log/eval.*.log; do
  if grep -q Traceback "$log"; then echo "== $log"; grep -E "Error|error:" "$log" | tail -3 | cut -c1-300; fi
done
rm -rf /tmp/pack && mkdir -p /tmp/pack/models
{
  find . -name logging.jsonl -o -name args.json -o -name trajectories.jsonl | grep -v checkpoint
  find eval log -type f -size -3M
  ls steps.json phase engine 2>/dev/null
} >/tmp/pack/list
tar -czf /tmp/pack/results.tgz -T /tmp/pack/list
cp /tmp/pack/results.tgz "$OUT/"
if [ "${2:-}" = models ]; then
  . /tmp/site/env.sh
  python3 - <<'PY'
import shutil, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
root = Path("/tmp/r")
found = sorted([*root.glob("sft/*.tool.*.2/model"), *root.glob("rl/*.main.*/model")])
if any(root.glob("rl/*")):
    found = [path for path in found if path.parts[3] == "rl"]
for source in found:
    name = str(source.relative_to(root))
    if not (source / "model.safetensors").exists():
        continue
    target = Path("/tmp/pack/models", name.replace("/", "_").removesuffix("_model"))
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copyfile(file, target / file.name)
    tensors = {k: v.to(torch.bfloat16) for k, v in load_file(source / "model.safetensors").items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
PY
  tar -C /tmp/pack -czf /tmp/pack/models.tgz models
  split -b 15M -d /tmp/pack/models.tgz "$OUT/models.tgz."
fi
ls -la "$OUT"
