#!/usr/bin/env bash
# usage: MODEL=... DATA=rows.jsonl OUT=... SEED=0 bash scripts/prove/train.sh {sft|grpo} [flags of swift]
# One training of the proof, by this project's own commands. The last checkpoint is linked as
# OUT/model. ENGINE=transformers samples without vLLM, ATS=off samples code as text. SWIFT="python3 -m swift.cli.main" where the command swift is not installed; CPU=1 on a
# machine without a GPU. The flags given are added and override.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
what=${1:?usage: train.sh sft or grpo}
shift
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" MODELSCOPE_OFFLINE=1 HF_HUB_OFFLINE=1
read -r -a swift <<<"${SWIFT:-swift}"
flags=(--model "$MODEL" --model_type qwen2_5_vl --template thyme_tiny --dataset "$DATA"
  --external_plugins "$root/plugin/agent_rm.py" "$root/plugin/testbed.py" "$root/scripts/prove/plugin.py"
  --O3 true --output_dir "$OUT" --add_version false
  --tuner_type full --torch_dtype float32 --attn_impl sdpa --freeze_vit true
  --seed "${SEED:-0}" --data_seed "${SEED:-0}" --report_to none --save_only_model true
  --gradient_accumulation_steps 1 --gradient_checkpointing false --split_dataset_ratio 0
  --use_hf true --check_model false --load_from_cache_file false)
if [ -n "${CPU:-}" ]; then flags+=(--use_cpu true); fi
if [ "$what" = sft ]; then
  "${swift[@]}" sft "${flags[@]}" \
    --per_device_train_batch_size 32 --learning_rate 5e-4 --lr_scheduler_type cosine --warmup_ratio 0.05 \
    --max_length 1536 --dataloader_num_workers "${LOADERS:-4}" --logging_steps 20 \
    --save_strategy steps --save_steps 100000 "$@"
else
  engine=(--use_vllm true --vllm_mode colocate --vllm_max_model_len 1536
    --vllm_gpu_memory_utilization 0.1 --vllm_engine_kwargs "${ENGINE_KWARGS:-"{}"}")
  if [ -n "${CPU:-}" ]; then engine+=(--vllm_enforce_eager true); fi
  if [ "${ENGINE:-vllm}" = transformers ]; then engine=(--use_vllm false); fi
  # GRPO-ATS: code is sampled greedily.
  if [ "${ATS:-on}" = on ]; then engine+=(--stop_words '<code>'); fi
  "${swift[@]}" rlhf --rlhf_type grpo "${flags[@]}" "${engine[@]}" \
    --reward_funcs fmt_orm vqa_orm cst_orm \
    --learning_rate 1e-4 --lr_scheduler_type constant_with_warmup --warmup_ratio 0.05 --beta 0 \
    --per_device_train_batch_size 64 --num_generations 8 --temperature 1.0 --top_p 0.9 --top_k 50 \
    --max_length 1024 --max_completion_length 500 \
    --dataloader_num_workers 0 --logging_steps 1 --log_completions false \
    --save_strategy steps --save_steps 100000 "$@"
fi
last=$(find "$OUT" -maxdepth 1 -name "checkpoint-*" | sort -V | tail -1)
for file in "$MODEL"/*.json "$MODEL"/*.jinja; do
  if [ ! -e "$last/$(basename "$file")" ]; then cp "$file" "$last/"; fi
done
ln -sfn "$(basename "$last")" "$OUT/model"
