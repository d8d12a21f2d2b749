"""ms-swift plugin of the tests: the second process waits, in its second turns, for the first one.

``THYME_GATE`` names a folder. The first process leaves the file ``done`` there when its rollout is
over; the second one goes on when the test has answered with ``go``. In the second rollout it fails.
"""

import asyncio
import os
from pathlib import Path

from swift_thyme.host import continuous_rollout
from swift_thyme.host.engine_feed import EngineFeed

PATIENCE_S = 200
GATE = Path(os.environ["THYME_GATE"])
RANK = int(os.environ["RANK"])

_infer_async = EngineFeed.infer_async
_roll_out = continuous_rollout.roll_out
rollouts = 0


async def infer_async(self, request, config):
    if RANK == 1 and request.messages[-1]["role"] == "assistant":
        if rollouts > 1:
            raise RuntimeError("a turn fails in the second process")
        for _ in range(PATIENCE_S * 10):
            if (GATE / "go").exists():
                break
            await asyncio.sleep(0.1)
        else:
            raise RuntimeError("the first process waits for the second")
    return await _infer_async(self, request, config)


def roll_out(*args, **kwargs):
    global rollouts
    rollouts += 1
    outputs = _roll_out(*args, **kwargs)
    if RANK == 0:
        (GATE / "done").touch()
    return outputs


EngineFeed.infer_async = infer_async
continuous_rollout.roll_out = roll_out
