"""A sample of a training run's trajectories, kept with their images under the job's output folder.

``OUTPUT_DIR/trajectories/rank<N>/`` holds what one process kept, in the format of
:mod:`swift_thyme.core.trajectory_files`; ``thyme view OUTPUT_DIR`` shows it. A record is made of
the sample that ms-swift is about to train on, after it was scored
(:mod:`swift_thyme.host.rollout_records`).

Which samples: questions are drawn with equal chance from all of a logging interval, and of a drawn
question all samples, as far as the number goes. So the samples of one GRPO group lie side by side.
Evaluations keep the same questions each time, so that one question can be seen before and after.
The draw has a generator of its own: a run with and one without kept trajectories sample alike.

Disk: when a process has used up its share of ``THYME_KEEP_MB``, every second kept step is removed
and keeping goes on. Recent steps stay dense, older ones become sparse, and the first one stays.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import DataError
from swift_thyme.core.images import read
from swift_thyme.core.protocol import parse_user_prompt
from swift_thyme.core.trajectory_files import (
    FILE_NAME,
    IMAGE_FOLDER,
    TrajectoryRecord,
    TrajectoryWriter,
)
from swift_thyme.host.response_prefix import NO_PREFIX, ResponsePrefix
from swift_thyme.host.rollout_records import Kept, images_in, record_of

__all__ = ["FOLDER", "KeepSettings", "Keeper", "TrajectoryStore"]

logger = logging.getLogger(__name__)

FOLDER = "trajectories"
"""Folder of the kept trajectories in a job's output folder."""


@dataclass(frozen=True, slots=True)
class KeepSettings:
    """How much of a run is kept."""

    per_step: int = 4
    """Trajectories per logging step, all processes together (``THYME_KEEP_TRAJECTORIES``); 0 keeps
    none."""
    disk_mb: int = 2048
    """Disk that they may take, in MiB, all processes together (``THYME_KEEP_MB``)."""
    shown: int = 2
    """Kept trajectories that TensorBoard and W&B show at a time (``THYME_REPORT_TRAJECTORIES``); 0
    shows none."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> KeepSettings:
        """Read the settings from the environment.

        Args:
            environ: Variables to read; None reads those of this process.

        Raises:
            SettingsError: A value is not a whole number in its range; the message names it.
        """
        read = Reader(environ)
        return cls(
            per_step=read.count("THYME_KEEP_TRAJECTORIES"),
            disk_mb=read.count("THYME_KEEP_MB"),
            shown=read.count("THYME_REPORT_TRAJECTORIES"),
        )


class _Draw(NamedTuple):
    """By what samples are drawn: the smallest are kept."""

    question: str
    """The same for all samples of a question, in each process; evenly spread between questions."""
    sample: float
    """Uniform in [0, 1)."""


def _question_key(sample: Any, salt: str) -> str:
    prompt = [m.get("content") for m in sample.messages if m["role"] in ("system", "user")]
    # Where all rows ask the same, the picture tells them apart; its end is enough.
    picture = sample.images[0] if sample.images else None
    if isinstance(picture, Mapping):
        picture = picture.get("path") or picture.get("bytes")
    end = picture[-2048:] if isinstance(picture, (str, bytes)) else None
    return hashlib.sha256(repr((salt, prompt, end)).encode("utf-8", "replace")).hexdigest()


class TrajectoryStore:
    """A folder of kept trajectories that stays below a size.

    Args:
        folder: The folder; made if missing.
        budget_bytes: Most that its files may take.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder = folder
        self._budget = budget_bytes
        self._used = 0
        self._images: set[str] = set()
        self._take_stock()

    def _take_stock(self) -> None:
        """Look up what is there: sizes, and the names of the images."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        self._used = sum(path.stat().st_size for path in files)
        self._images = {f"{path.parent.name}/{path.name}" for path in files}

    def add(self, items: Sequence[Kept]) -> None:
        """Write trajectories with their images, then make room if that is needed.

        Raises:
            DataError: The folder cannot be written to, or an image cannot be read.
            OSError: The disk is full.
        """
        with TrajectoryWriter(self.folder) as writer:
            before = writer.path.stat().st_size
            records = [self._with_images(writer, item) for item in items]
            writer.write(*records)
            self._used += writer.path.stat().st_size - before
        while self._used > self._budget and self._thin():
            pass

    def _with_images(self, writer: TrajectoryWriter, item: Kept) -> TrajectoryRecord:
        refs = []
        found = parse_user_prompt(item.record.prompt)
        for index, image in enumerate(item.images):
            data = read(image)
            quoted = found.paths if found and index < item.prompt_images else ()
            name = quoted[index] if index < len(quoted) else ""
            refs.append(writer.add_image(data, name=name))
            if refs[-1].file not in self._images:
                self._images.add(refs[-1].file)
                self._used += len(data)
        returned = iter(refs[item.prompt_images :])
        segments = [
            replace(segment, images=tuple(itertools.islice(returned, images_in(segment))))
            for segment in item.record.segments
        ]
        return replace(
            item.record, images=tuple(refs[: item.prompt_images]), segments=tuple(segments)
        )

    def _thin(self) -> bool:
        """Remove every second step and the images that only they used; False if one is left."""
        path = self.folder / FILE_NAME
        lines = path.read_bytes().splitlines(keepends=True)
        values = [json.loads(line) for line in lines]
        steps = list(dict.fromkeys((value["run"], value["step"]) for value in values))
        if len(steps) < 2:
            return False
        kept_steps = set(steps[::2])
        kept = [i for i, v in enumerate(values) if (v["run"], v["step"]) in kept_steps]
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(b"".join(lines[i] for i in kept))
        # The new list first: a kill in between leaves images too many, never too few.
        os.replace(partial, path)
        records = [TrajectoryRecord.from_json(values[i]) for i in kept]
        wanted = {ref.file for record in records for ref in record.all_images}
        for image in (self.folder / IMAGE_FOLDER).iterdir():
            if f"{IMAGE_FOLDER}/{image.name}" not in wanted:
                image.unlink()
        self._take_stock()
        logger.info("%s: every second step removed, %d MiB left", self.folder, self._used >> 20)
        return True


class Keeper:
    """Keeps trajectories of one process of a job.

    Args:
        settings: How many, and how much disk.
        output_dir: The job's output folder.
        rank: Number of this process.
        world_size: Number of processes.
        seed: Makes the choice repeatable.
    """

    def __init__(
        self,
        settings: KeepSettings,
        output_dir: str | Path,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        share, rest = divmod(settings.per_step, world_size)
        self._quota = share + (rank < rest)
        self._rank = rank
        self._folder = Path(output_dir) / FOLDER / f"rank{rank}"
        self._budget = (settings.disk_mb << 20) // min(world_size, max(settings.per_step, 1))
        self._random = random.Random(f"{seed}/{rank}")
        self._store: TrajectoryStore | None = None
        self._seed = seed
        self._interval = 0
        self._pending: dict[str, list[tuple[_Draw, Kept]]] = {}

    @property
    def active(self) -> bool:
        """Whether this process keeps anything."""
        return self._quota > 0

    def consider(
        self,
        samples: Sequence[Any],
        mode: str,
        decode: Callable[[list[int]], str],
        rewards: Sequence[Mapping[str, float | None]],
        totals: Sequence[float | None],
        advantages: Sequence[float | None],
        prefix_of: Callable[[Any], ResponsePrefix] = lambda sample: NO_PREFIX,
    ) -> None:
        """Draw from scored samples; what is drawn waits for :meth:`flush`.

        Args:
            samples: Samples of this process.
            mode: ``train`` or ``eval``.
            decode: Token ids to text, special tokens included.
            rewards: Rewards by name, aligned with the samples.
            totals: What the trainer adds the rewards up to, aligned with the samples.
            advantages: Aligned with the samples.
            prefix_of: What the template put in front of a sample's turn.
        """
        if not self.active:
            return
        # The smallest keys of independent draws are an even sample of a stream of any length.
        drawn: list[tuple[_Draw, int | Kept]] = [*self._pending.get(mode, [])]
        # An evaluation draws as the last one did.
        salt = f"{self._seed}/{mode}/{self._interval if mode == 'train' else ''}"
        for index, sample in enumerate(samples):
            drawn.append((_Draw(_question_key(sample, salt), self._random.random()), index))
        drawn.sort(key=lambda item: item[0])
        waiting = []
        for key, what in drawn[: self._quota]:
            if isinstance(what, int):
                what = self._label(
                    record_of(samples[what], decode, prefix_of(samples[what])),
                    mode,
                    rewards[what],
                    {"reward": totals[what], "advantage": advantages[what], "rank": self._rank},
                )
            waiting.append((key, what))
        self._pending[mode] = waiting

    @staticmethod
    def _label(
        kept: Kept, mode: str, rewards: Mapping[str, float | None], meta: Mapping[str, Any]
    ) -> Kept:
        record = replace(
            kept.record, run=mode, rewards=dict(rewards), meta={**kept.record.meta, **meta}
        )
        return kept._replace(record=record)

    def flush(self, step: int) -> list[Kept]:
        """Write what was drawn since the last call, and return it.

        A full disk or a lost folder ends keeping with an error in the log, and not the training.

        Args:
            step: The training step that the trainer is logging.
        """
        pending, self._pending = self._pending, {}
        self._interval += 1
        items = [
            kept._replace(
                record=replace(kept.record, id=f"{mode}-{step}-{kept.record.id[-8:]}", step=step)
            )
            for mode, waiting in pending.items()
            for _, kept in waiting
        ]
        if not items or not self.active:
            return []
        try:
            if self._store is None:
                self._store = TrajectoryStore(self._folder, self._budget)
            self._store.add(items)
        except (DataError, OSError) as error:
            logger.error("no more trajectories are kept: %s", error)
            self._quota = 0
        return items
