"""Makes vLLM's CPU build usable: in inference, and as the rollout engine of a training run.

vLLM plans with a share of all memory (0.9 where nobody says another) and stops where that much is
not free. On a CPU the rest of the machine is in the same memory, so the share has to follow it.

The CPU build repacks linear weights for oneDNN and frees the originals, so the first weight update
from the trainer finds parameters of size zero. For a test on a CPU the plain kernels will do. In
server mode ms-swift counts GPUs and sends the weights with NCCL; here one processor counts as one
device and the weights go through the store that the two sides meet at.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from typing import Any

from swift_thyme.core.errors import EngineError

__all__ = [
    "free_share",
    "is_cpu_build",
    "keep_plain_weights",
    "send_without_gpus",
    "serve_without_gpus",
]

_USED_OF_FREE = 0.8
"""Share of the free memory that the engine plans with; others need some while it loads."""
_LEAST_CACHE_BYTES = 2**30
_STARTING_BYTES = 3 * 2**29
"""What vLLM's processes take before they look at the free memory; 1.3 GiB were measured."""


def free_share(asked: float, weights_bytes: int = 0) -> float:
    """Return the share of the memory that vLLM can plan with; on a GPU what was asked for.

    Args:
        asked: ``gpu_memory_utilization``; the share is not larger.
        weights_bytes: What the weights take, 0 where that is not known.

    Raises:
        EngineError: Too little is free for the weights and a cache.
    """
    if not is_cpu_build():
        return asked
    from vllm.platforms import current_platform

    free, total = current_platform.mem_get_info()
    usable = _USED_OF_FREE * (free - _STARTING_BYTES)
    needed = weights_bytes + _LEAST_CACHE_BYTES
    if usable < needed:
        raise EngineError(
            f"vLLM needs about {(needed / _USED_OF_FREE + _STARTING_BYTES) / 2**30:.1f} GiB of "
            f"free memory on this CPU, and {free / 2**30:.1f} are free: end other programs, or use "
            "--engine transformers"
        )
    return float(min(asked, usable / total))


def is_cpu_build() -> bool:
    """Whether vLLM is here, and runs on processors."""
    if importlib.util.find_spec("vllm") is None:
        return False
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def keep_plain_weights() -> None:
    """Keep vLLM's CPU build from repacking weights; does nothing without vLLM or on a GPU."""
    if not is_cpu_build():
        return
    import vllm._custom_ops as ops

    ops._supports_onednn = False


def _name_worker() -> None:
    """Let engines that ms-swift would give its own worker extension have ours."""
    from vllm import EngineArgs

    original = EngineArgs.create_engine_config

    def create(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.worker_extension_cls.startswith("swift."):
            self.worker_extension_cls = "swift_thyme.host.cpu_worker.WorkerExtension"
        return original(self, *args, **kwargs)

    EngineArgs.create_engine_config = create


def serve_without_gpus() -> None:
    """Let `swift rollout` do without GPUs; does nothing where vLLM uses them.

    The process that ms-swift runs the engine in is forked, so that it has what is changed here;
    the worker below it is vLLM's and loads `cpu_worker`.
    """
    if not is_cpu_build():
        return
    from swift.arguments import deploy_args

    deploy_args.get_device_count = lambda: 1
    _name_worker()
    if multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("fork")


def send_without_gpus(vllm_client: Any) -> None:
    """Let a trainer send its weights to such a server.

    Args:
        vllm_client: The module `swift.rlhf_trainers.vllm_client`. A trainer connects before it
            loads plugins, so this has to be done where that module is imported.
    """
    from swift_thyme.host import cpu_transport

    vllm_client.PyNcclCommunicator = cpu_transport.StoreCommunicator
    vllm_client._broadcast_tensors_for_vllm_weight_sync = cpu_transport.send
