"""Weights from one process to another where both have CPUs only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch  # noqa: TID253 - it carries tensors

__all__ = ["StoreCommunicator", "send"]


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
