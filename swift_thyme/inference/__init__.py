"""Trajectories outside training: one loop, three engines.

``loop`` runs a trajectory with the same parsing, sandbox, observation text and limits as training
(:class:`swift_thyme.core.trajectory.Trajectory`); ``hf_engine``, ``vllm_engine`` and ``endpoint``
sample the turns. ``thyme ask``, ``thyme serve`` and ``thyme eval`` are built on it::

    async with open_pool() as pool, open_engine(ModelSettings(model="...")) as engine:
        async for event in run_trajectory(engine, make_task("What is it?", [data]), pool):
            ...
"""

from swift_thyme.inference.engine import Chunk, Conversation, Engine, Sampling
from swift_thyme.inference.loop import (
    FinishedTrajectory,
    ObservationEvent,
    TextEvent,
    run_trajectory,
)
from swift_thyme.inference.model import ModelSettings, open_engine
from swift_thyme.inference.prompt_images import PromptImage, read_image
from swift_thyme.inference.task import Task, make_task

__all__ = [
    "Chunk",
    "Conversation",
    "Engine",
    "FinishedTrajectory",
    "ModelSettings",
    "ObservationEvent",
    "PromptImage",
    "Sampling",
    "Task",
    "TextEvent",
    "make_task",
    "open_engine",
    "read_image",
    "run_trajectory",
]
