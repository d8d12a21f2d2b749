"""The accelerations of the sandbox, each of which can be left out.

None of them changes a result. `THYME_SANDBOX_FAST` leaves some or all of them out, to find the
cause of a fault. `scripts/bench_sandbox.py --without` measures each, and `docs/sandbox.md` has a
table of the gains. An acceleration that gives under 5 % does not stay.
"""

from __future__ import annotations

from enum import Enum
from functools import cache

from swift_thyme.core.environment import unusable

__all__ = ["Acceleration", "left_out"]


class Acceleration(str, Enum):
    """Something that is done for speed only."""

    MEMORY_IMAGE = "memory_image"
    """Map the memory of a worker from a sealed file, which makes forks cheap (`memory_image`)."""
    AFFINITY = "affinity"
    """Give each worker of a job a processor of its own (`worker_process`)."""
    DIRECT = "direct"
    """Let the caller's event loop send a block and read its answer itself (`loop_readers`)."""
    HELD_BLOCKS = "held_blocks"
    """Send a worker its next blocks while it runs one, which it then begins by itself."""
    LATE_COMMIT = "late_commit"
    """Commit or undo a block after its result is out."""
    REHEARSAL = "rehearsal"
    """Take the page faults of a block before it comes, by running one like it (`runner`)."""
    HURRY = "hurry"
    """Do without that rehearsal where the next block waits already."""
    ENCODER_REHEARSAL = "encoder_rehearsal"
    """Do the same in a new encoder."""
    EARLY_FAULTS = "early_faults"
    """Take the page faults of the template after it forked before the next request."""
    LARGE_FIRST = "large_first"
    """Settle a block that used much memory before any other block of its worker begins."""
    HUGE_PAGES = "huge_pages"
    """Let large arrays have huge pages."""
    IMREAD = "imread"
    """Let `cv2.imread` decode into the array that it returns (`shims`)."""
    SPARES = "spares"
    """Keep empty sessions ready."""

    def __str__(self) -> str:
        return self.value


@cache
def left_out(words: tuple[str, ...]) -> frozenset[Acceleration]:
    """Return the accelerations that `THYME_SANDBOX_FAST` leaves out.

    Args:
        words: `on`, `off`, or names with a `-` before each.

    Raises:
        SettingsError: A word is none of these; the message lists those that are.
    """
    if words == ("on",):
        return frozenset()
    if words == ("off",):
        return frozenset(Acceleration)
    names = {f"-{name}": name for name in Acceleration}
    if not set(words) <= set(names):
        raise unusable("THYME_SANDBOX_FAST", ",".join(words), "'on' and 'off' stand alone")
    return frozenset(names[word] for word in words)
