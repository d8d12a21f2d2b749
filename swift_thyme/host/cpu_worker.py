"""How weights get from a trainer to `swift rollout` where both have CPUs only.

vLLM loads this module by name into the worker process that holds the model: what that process
needs changed is changed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from swift.pipelines.infer import rollout

from swift_thyme.host import cpu_vllm

__all__ = ["StoreCommunicator", "WorkerExtension", "send"]


class StoreCommunicator:
    """What ms-swift uses of vLLM's `PyNcclCommunicator`, for tensors on the CPU.

    Args:
        group: vLLM's `StatelessProcessGroup` of the trainer and the server.
        device: Not used; the tensors are on the CPU.
    """

    def __init__(self, group: Any, device: object) -> None:
        self.group = group
        self.rank: int = group.rank
        self.device = torch.device("cpu")

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object = None) -> None:
        """Make every rank's tensor, of the same shape and type, that of rank `src`."""
        data = tensor.detach().contiguous().flatten().view(torch.uint8)
        sent = data.numpy().tobytes() if self.rank == src else None
        received = self.group.broadcast_obj(sent, src)
        if self.rank != src:
            data = torch.frombuffer(bytearray(received), dtype=torch.uint8)
            tensor.copy_(data.view(tensor.dtype).view(tensor.shape))


def send(communicator: StoreCommunicator, tensors: Iterable[torch.Tensor]) -> None:
    """Send the trainer's weights to the server."""
    for tensor in tensors:
        communicator.broadcast(tensor, src=communicator.rank)


class WorkerExtension(rollout.WeightSyncWorkerExtension):  # type: ignore[misc]  # untyped
    """ms-swift's own, which receives the weights."""


cpu_vllm.keep_plain_weights()
rollout.PyNcclCommunicator = StoreCommunicator
rollout.synchronize = lambda *_: None  # it waits for a GPU
