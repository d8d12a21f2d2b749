"""Processors of a host that one worker has for itself, whichever job it belongs to.

A claim is a name in Linux's abstract socket space. One socket has it at a time, in all processes of
a network namespace, and it is free again when that socket is closed, however its process ended. So
nothing is left behind. Jobs in containers with networks of their own do not see each other's.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Claim", "claim_processor"]

_NAME = "swift-thyme-processor"


class Claim(NamedTuple):
    """A processor that is taken until `held` is closed."""

    processor: int
    held: socket.socket


def claim_processor(processors: Sequence[int]) -> Claim | None:
    """Take one of some processors that no worker of the host has, at random.

    Args:
        processors: Their numbers.

    Returns:
        The claim; None where all are taken, or the host has no such names.
    """
    for processor in random.sample(processors, len(processors)):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0{_NAME}-{processor}")
        except OSError:
            held.close()
        else:
            return Claim(processor, held)
    return None
