#!/usr/bin/env bash
# First call on four GPUs: vision pre-training of both sizes (two each), and on the side a short run
# of everything else, to know the times. usage: bash gpu_first.sh SECONDS (in the packed folder)
set -u
seconds=${1:-400}
tar -xzf code.tgz scripts/prove/gpu_setup.sh
. scripts/prove/gpu_setup.sh
started=$(date +%s)
say() { echo "$(($(date +%s) - started)) s: $*"; }
pretrain() { # GPU NAME SIZE SEED LR
  CUDA_VISIBLE_DEVICES=$1 OMP_NUM_THREADS=2 python3 scripts/prove/pretrain.py /tmp/pre/$2 --size $3 --device cuda \
    --seed $4 --lr $5 --seconds $seconds --workers 12 >$OUT/pre_$2.log 2>&1
}
mkdir -p /tmp/pre /tmp/try
pretrain 0 2m_a 2m 0 1.2e-3 &
p0=$!
pretrain 1 2m_b 2m 1 2e-3 &
p1=$!
pretrain 2 14m_a 14m 0 5e-4 &
p2=$!
pretrain 3 14m_b 14m 1 1e-3 &
p3=$!
sleep 25
{
  export OMP_NUM_THREADS=4
  python3 scripts/prove/rows.py /tmp/try/data --stage1 600 --stage2 20 --rl 400 --eval 20 --workers 12
  say rows
  python3 -m swift_thyme.testbed.data /tmp/try/quick --n-sft 0 --n-rl 256 --n-eval 8 --seed 7
  export MODEL=/tmp/code/swift_thyme/testbed/model DATA=/tmp/try/quick/rl.jsonl
  CUDA_VISIBLE_DEVICES=0 OUT=/tmp/try/hf timeout 150 bash scripts/prove/train.sh grpo --max_steps 8 --use_vllm false
  say hf
} >$OUT/try_a.log 2>&1 &
a=$!
{
  export OMP_NUM_THREADS=4
  sleep 20
  python3 -m swift_thyme.testbed.data /tmp/try/quick2 --n-sft 0 --n-rl 256 --n-eval 8 --seed 7
  export MODEL=/tmp/code/swift_thyme/testbed/model DATA=/tmp/try/quick2/rl.jsonl
  export ENGINE_KWARGS='{"kv_cache_memory_bytes": 2000000000}'
  CUDA_VISIBLE_DEVICES=1 OUT=/tmp/try/vllm timeout 170 bash scripts/prove/train.sh grpo --max_steps 8
  say vllm
  CUDA_VISIBLE_DEVICES=1 timeout 100 python3 scripts/prove/evaluate.py $MODEL /tmp/try/data/eval.jsonl /tmp/try/eval.jsonl \
    --engine-kwargs "$ENGINE_KWARGS"
  say evaluate
} >$OUT/try_b.log 2>&1 &
b=$!
{
  export OMP_NUM_THREADS=4
  sleep 40
  python3 -m swift_thyme.testbed.data /tmp/try/quick3 --n-sft 0 --n-rl 256 --n-eval 8 --seed 7
  export MODEL=/tmp/code/swift_thyme/testbed/model DATA=/tmp/try/quick3/rl.jsonl
  export ENGINE_KWARGS='{"kv_cache_memory_bytes": 2000000000}'
  CUDA_VISIBLE_DEVICES=1 OUT=/tmp/try/vllm2 timeout 170 bash scripts/prove/train.sh grpo --max_steps 8 --vllm_enforce_eager true
  say vllm2
} >$OUT/try_c.log 2>&1 &
c=$!
wait $p0 $p1 $p2 $p3
say pretrained
# Supervised training on what came out, while the rest ends.
MODEL=/tmp/pre/2m_a DATA=/tmp/try/data/stage1.jsonl OUT=/tmp/try/sft CUDA_VISIBLE_DEVICES=0 LOADERS=8 \
  timeout 70 bash scripts/prove/train.sh sft --max_steps 120 >$OUT/try_sft.log 2>&1
say sft
wait $a $b $c
grep -h train_speed /tmp/try/*/logging.jsonl | tail -3
for name in hf vllm vllm2; do echo "== $name"; python3 -c "
import json
for l in open('/tmp/try/$name/logging.jsonl'):
    r = json.loads(l)
    print({k: v for k, v in r.items() if k in ('global_step/max_steps', 'step_time', 'reward', 'thyme/tool_use_rate', 'elapsed_time')})"; done
tail -n 3 $OUT/try_*.log
cat /tmp/pre/*.json
mkdir -p $OUT/m
best=$(python3 -c "
import json
score = lambda n: sum(json.load(open(f'/tmp/pre/{n}.pretrain.json'))[k] for k in ('whole', 'pair'))
print(max(('14m_a', '14m_b'), key=score))")
for name in 2m_a 2m_b $best; do tar -C /tmp/pre -czf /tmp/pre/$name.tgz $name $name.pretrain.json; done
cp /tmp/pre/2m_?.tgz $OUT/m/
split -b 15M -d /tmp/pre/$best.tgz $OUT/m/$best.tgz.
tar -C $OUT -czf $OUT/m/logs.tgz --exclude=./m .
rm -f $OUT/*.log
ls -la $OUT/m
