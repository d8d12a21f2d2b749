#!/usr/bin/env bash
# usage: MODEL=... DATASET="a.jsonl b.jsonl" SAVE_PATH=... sh sft_stage1.sh [flags of swift sft]
# Supervised training, first stage of the published recipe (8 GPUs). Flags given here override.
# Several nodes: HOSTFILE=... (hostfile.example). Data: thyme data sft.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=swift_thyme/recipe/common.sh
. "$here/common.sh"
need MODEL "the model to start from, such as Qwen/Qwen2.5-VL-7B-Instruct"
need DATASET "the rows that thyme data sft wrote: one or more files, separated by blanks"
need SAVE_PATH "the folder for checkpoints"
find_plugin

export MAX_PIXELS=${MAX_PIXELS:-3211264}
# shellcheck disable=SC2086 # DATASET may name several files
launch sft \
  --model "$MODEL" \
  --dataset $DATASET \
  --system "$here/prompt.txt" \
  --external_plugins "$plugin" \
  --O3 true \
  --tuner_type full --freeze_vit true \
  --torch_dtype bfloat16 --attn_impl flash_attn \
  --deepspeed zero2 \
  --learning_rate 1e-5 --warmup_ratio 0.05 \
  --num_train_epochs 3 \
  --per_device_train_batch_size 1 --gradient_accumulation_steps 16 \
  --max_length 10240 \
  --dataloader_num_workers 4 --dataset_num_proc 4 \
  --save_steps 500 --save_total_limit 2 --logging_steps 1 --report_to tensorboard \
  --output_dir "$SAVE_PATH" "$@"
