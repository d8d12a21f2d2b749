# Sourced by the other scripts: the environment in which jobs run on a machine without a GPU.
export PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv"
export CUDA_VISIBLE_DEVICES="" MODELSCOPE_OFFLINE=1 HF_HUB_OFFLINE=1 USE_HF=1
# Start-up imports thousands of files; without their compiled form it takes three times as long.
unset PYTHONDONTWRITEBYTECODE
# Idle threads must not spin while the engine and the trainer share the cores.
export OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" VLLM_LOGGING_LEVEL="${VLLM_LOGGING_LEVEL:-WARNING}"
# Compiling vLLM's sampler, or looking for what was compiled, takes longer than it saves in minutes.
export TORCH_COMPILE_DISABLE=1
