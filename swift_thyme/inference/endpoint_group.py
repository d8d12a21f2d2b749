"""Several endpoints that serve one model, behind one queue.

A trajectory stays at the endpoint that it began at, whose prefix cache knows it. A new one begins
where the fewest are open. An endpoint that failed is left alone for a while, so that it does not
draw all new trajectories by ending them at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swift_thyme.core.errors import EngineError
from swift_thyme.inference.endpoint import EndpointEngine, connect
from swift_thyme.inference.engine import Conversation
from swift_thyme.inference.task import Task

if TYPE_CHECKING:
    import httpx

    from swift_thyme.inference.model_settings import ModelSettings

__all__ = ["EndpointGroup", "connect_all"]

_PAUSE_S = 30.0
"""After a failure."""


class EndpointGroup:
    """Generates at several servers; made by :func:`connect_all`.

    Args:
        members: The servers, all with the same model.
    """

    def __init__(self, members: Sequence[EndpointEngine]) -> None:
        self._members = members
        first = members[0]
        self.model_name = first.model_name
        self.max_images = first.max_images
        self.max_total_tokens = first.max_total_tokens

    async def begin(self, task: Task) -> Conversation:
        """Begin a conversation where the fewest are open; nothing is sent before its first turn."""
        now = time.monotonic()
        member = min(
            self._members, key=lambda member: (now - member.failed_s < _PAUSE_S, len(member.open))
        )
        return await member.begin(task)

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        for member in self._members:
            await member.close()


async def connect_all(
    settings: ModelSettings, transport: httpx.AsyncBaseTransport | None = None
) -> EndpointEngine | EndpointGroup:
    """Connect to the endpoints of settings, one or several.

    Args:
        settings: Where they are.
        transport: Stands in for the network.

    Raises:
        EngineError: One cannot be used, or serves another model.
    """
    members: list[EndpointEngine] = []
    try:
        for url in settings.endpoints:
            members.append(await connect(replace(settings, endpoint=url), transport))
            first, last = members[0], members[-1]
            if last.model_name != first.model_name:
                raise EngineError(
                    f"--endpoint: {first.url} serves {first.model_name} and {last.url} "
                    f"{last.model_name}; --model names one that all have"
                )
    except BaseException:
        for member in members:
            await member.close()
        raise
    return members[0] if len(members) == 1 else EndpointGroup(members)
