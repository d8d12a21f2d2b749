# Sourced on the GPU host, in the folder that gpu_pack.sh filled: unpacks and sets the environment.
if [ ! -f /tmp/site/env.sh ]; then
  bash install_parts.sh parts /tmp/site || exit 1
  mkdir -p /tmp/code && tar -xzf code.tgz -C /tmp/code
  cp -r ../../swift_thyme/testbed/model /tmp/code/swift_thyme/testbed/
  # What gpu/families.sh packs beside them: DeepSpeed and Qwen's vocabulary.
  if [ -e more.txz ]; then
    python3 -m tarfile -e more.txz /tmp/site
    python3 -c 'import lzma; print(lzma.open("qwen.tiktoken.xz", "rt").read(), end="")' >/tmp/qwen.tiktoken
  fi
fi
# shellcheck disable=SC1091
. /tmp/site/env.sh
export PYTHONPATH="/tmp/code:/tmp/code/scripts:$PYTHONPATH" SWIFT="python3 -m swift.cli.main"
export MODELSCOPE_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export VLLM_LOGGING_LEVEL=WARNING THYME_KEEP_TRAJECTORIES=1 THYME_SANDBOX_WORKERS=4
cd /tmp/code || exit 1
