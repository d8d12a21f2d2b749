"""What the engine's worker of a `swift rollout` without GPUs needs changed.

vLLM loads this module by name into the worker process that holds the model.
"""

from __future__ import annotations

from swift.pipelines.infer import rollout

from swift_thyme.host import cpu_transport, cpu_vllm

__all__ = ["WorkerExtension"]


class WorkerExtension(rollout.WeightSyncWorkerExtension):  # type: ignore[misc]  # untyped
    """ms-swift's own, which receives the weights."""


cpu_vllm.keep_plain_weights()
rollout.PyNcclCommunicator = cpu_transport.StoreCommunicator
rollout.synchronize = lambda *_: None  # it waits for a GPU
