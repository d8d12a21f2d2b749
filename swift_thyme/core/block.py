"""One record of a code block: what was written, how it ended, and what the model saw of it.

The trajectory makes it, the turn's outcome carries it, and everything else is derived from it: the
summary of a trajectory, metrics, ``rollout_infos``, kept rollouts, inference events, and the
observations of trajectories on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from swift_thyme.core.execution import ExecutionStatus, ReturnedImage

__all__ = ["BlockRecord"]


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """A block that was executed."""

    status: str
    """A value of :class:`~swift_thyme.core.execution.ExecutionStatus`."""
    turn: int = 0
    """Number of the turn that ended with it, from 1; 0 where unknown."""
    code: str = ""
    """The program, without tags and fences; empty in a record that was read back."""
    output: str = ""
    """The observation's text, one ``<image>`` per image; empty in a record that was read back."""
    images: tuple[ReturnedImage, ...] = ()
    """The images of the observation, in order; without bytes in a record that was read back."""
    repairs: tuple[str, ...] = ()
    """Names of the repairs that were applied, in order, each once."""
    duration_s: float = 0.0
    """Wall time in the sandbox, in seconds."""
    offset: int = 0
    """Ids of the trajectory before the observation: sampled and appended ones."""
    n_ids: int = 0
    """Length of the observation in ids, ONE placeholder per image; 0 where it did not enter."""
    tokens: int | None = None
    """Length of the observation in tokens, images expanded; None where it did not enter the context
    or the length is unknown."""
    entered: bool = True
    """Whether the observation entered the context; over a limit it does not."""

    @property
    def ran(self) -> bool:
        """Whether the block ran to its end."""
        return self.status == ExecutionStatus.OK.value
