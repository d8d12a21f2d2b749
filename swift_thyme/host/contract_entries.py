"""What an entry of :mod:`swift_thyme.host.contract_table` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from swift_thyme.host.compiled_names import Scope, find_scope

__all__ = ["JOB_GROUPS", "Group", "Kind", "Piece", "Use"]


class Group(Enum):
    """A feature that needs names of ms-swift; the value says it in a message."""

    FLAG = "the flag --O3"
    ROLLOUT = "multi-turn rollouts"
    IMAGES = "images that code returns"
    PICTURES = "upright pictures"
    REWARDS = "the rewards"
    LOSS_SCALE = "the loss scale thyme"
    CALLBACK = "metrics and kept trajectories"
    SAMPLING = "the sampling hook in transformers"
    INFERENCE = "inference with a local model"
    TESTBED = "the testbed"


JOB_GROUPS = (
    Group.FLAG,
    Group.ROLLOUT,
    Group.IMAGES,
    Group.PICTURES,
    Group.REWARDS,
    Group.LOSS_SCALE,
    Group.CALLBACK,
    Group.SAMPLING,
)
"""What the plugin of the main job needs."""


class Kind(Enum):
    """What is expected of a name; the value says it in a message."""

    DEFINED = "{place}.{name}"
    """The owner defines, imports or annotates it."""
    PARAMETER = "the parameter {name} of {place}"
    """The owner, a function, takes it."""
    VARIABLE = "the variable {name} in {place}"
    """The owner, a function, keeps it as a local variable."""
    MENTIONED = "any use of {name} in {place}"
    """The owner's code uses it: an attribute of its object, a method that it calls, or a key."""


class Piece(NamedTuple):
    """One name."""

    module: str
    owner: str
    """Dotted path of a class or function in the module; empty for the module itself."""
    kind: Kind
    name: str

    def __str__(self) -> str:
        place = f"{self.module}.{self.owner}" if self.owner else self.module
        return self.kind.value.format(place=place, name=self.name)

    def is_there(self, module: Scope) -> bool:
        """Look the name up in its module."""
        owner = find_scope(module, self.owner)
        if owner is None:
            return False
        look = {
            Kind.DEFINED: owner.defines,
            Kind.PARAMETER: owner.takes,
            Kind.VARIABLE: owner.holds,
            Kind.MENTIONED: owner.mentions,
        }
        return look[self.kind](self.name)


@dataclass(frozen=True, slots=True)
class Use:
    """Names of one owner that are used for one purpose."""

    group: Group
    module: str
    owner: str
    kind: Kind
    names: str
    """Separated by spaces."""
    used_in: str
    """Modules of ``swift_thyme.host`` that use them, separated by spaces."""
    why: str

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The names one by one."""
        return tuple(Piece(self.module, self.owner, self.kind, name) for name in self.names.split())
