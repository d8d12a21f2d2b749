"""A sample of a training run's trajectories, kept with their images under the job's output folder.

``OUTPUT_DIR/trajectories/rank<N>/`` holds what one process kept, in the format of
:mod:`swift_thyme.core.trajectory_files`; ``thyme view OUTPUT_DIR`` shows it. What a record says is
read off the sample that ms-swift is about to train on, after it was scored: the ids, the loss mask,
the images as they were sent, the rewards. So a record cannot differ from what was trained.

Which samples: with equal chance from all of a logging interval, drawn with a generator of our own,
so that a run with and one without kept trajectories sample alike.

Disk: when a process has used up its share of ``THYME_KEEP_MB``, every second kept step is removed
and keeping goes on. Recent steps stay dense, older ones become sparse, and the first one stays.
"""

from __future__ import annotations

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
from swift_thyme.core.placeholders import show_images
from swift_thyme.core.protocol import IMAGE_TAG, parse_user_prompt
from swift_thyme.core.rollout_infos import read_infos
from swift_thyme.core.samples import read_samples
from swift_thyme.core.segment import (
    Segment,
    SegmentKind,
    observation_segment,
    split_sampled_text,
    with_opening,
)
from swift_thyme.core.summary import TrajectorySummary
from swift_thyme.core.trajectory_files import (
    FILE_NAME,
    IMAGE_FOLDER,
    ImageRef,
    TrajectoryRecord,
    TrajectoryWriter,
)
from swift_thyme.host.response_prefix import NO_PREFIX, ResponsePrefix

__all__ = ["FOLDER", "KeepSettings", "Keeper", "TrajectoryStore", "record_of"]

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
            per_step=read.count("THYME_KEEP_TRAJECTORIES"), disk_mb=read.count("THYME_KEEP_MB")
        )


class Kept(NamedTuple):
    """A trajectory before it is written: its images still are what ms-swift carries around."""

    record: TrajectoryRecord
    """The record; its image references are empty."""
    images: list[Any]
    """The prompt's images, then those of the observations."""
    prompt_images: int
    """How many of ``images`` belong to the prompt."""


def record_of(
    sample: Any,
    decode: Callable[[list[int]], str],
    prefix: ResponsePrefix = NO_PREFIX,
) -> Kept:
    """Return the record of an ms-swift GRPO sample after its rollout.

    Args:
        sample: ``GRPOSample``; its ``rollout_infos`` hold what the o3 scheduler recorded.
        decode: Token ids to text, special tokens included.
        prefix: What the template put in front of the assistant's turn.
    """
    summary = read_infos(sample.rollout_infos)
    segments = _segments(sample, summary, decode, prefix)
    text = "".join(segment.text for segment in segments)
    prompt, system = _prompt(sample.messages)
    columns = {name: [value] for name, value in sample.extra.items()}
    (read,) = read_samples([text], {**columns, "messages": [sample.messages]})
    images = list(sample.images or [])
    returned = sum(_images_in(segment) for segment in segments)
    record = TrajectoryRecord(
        id=str(sample.request_id),
        question=read.question,
        segments=segments,
        system=system,
        prompt=prompt,
        answer=read.answer,
        reference=read.references,
        prompt_tokens=_prompt_tokens(sample, segments),
        meta={"prompt_id": str(sample.prompt_id)},
    )
    if summary is not None:
        record = replace(
            record,
            end_reason=summary.end_reason.value if summary.end_reason else None,
            tool_used=summary.tool_used,
            statuses=tuple(summary.statuses),
            repairs=tuple(summary.repairs),
            turns=summary.turns,
            sampled_tokens=summary.sampled_tokens,
            timings={"sandbox_s": round(summary.sandbox_s, 4)},
        )
    return Kept(record, images, max(len(images) - returned, 0))


def _images_in(segment: Segment[ImageRef]) -> int:
    return segment.text.count(IMAGE_TAG) if segment.kind is SegmentKind.OBSERVATION else 0


def _prompt(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Return the user's text and the system text."""
    texts: dict[str, str] = {}
    for message in messages:
        content = message.get("content")
        if message["role"] in ("system", "user") and isinstance(content, str):
            texts[message["role"]] = content
    return texts.get("user", ""), texts.get("system")


def _segments(
    sample: Any,
    summary: TrajectorySummary | None,
    decode: Callable[[list[int]], str],
    prefix: ResponsePrefix,
) -> tuple[Segment[ImageRef], ...]:
    """Split the sample's ids into what was sampled and what the sandbox said."""
    ids = [token_id for turn in sample.response_token_ids or [] for token_id in turn]
    mask = [m for turn in sample.response_loss_mask or [] for m in turn]
    if not ids:
        content = sample.messages[-1]["content"]
        pieces = split_sampled_text(content) if isinstance(content, str) else []
        return tuple(Segment(kind, text) for kind, text in pieces)
    if len(ids) != len(mask):
        # A rollout of one turn comes without a mask: all of it was sampled.
        mask = [1] * len(ids)
    ids, mask = prefix.split(ids, mask)
    if summary is None:
        segments = _by_mask(ids, mask, decode)
    else:
        segments = _by_record(ids, summary, decode)
    return with_opening(segments, prefix.text)


def _by_record(
    ids: list[int], summary: TrajectorySummary, decode: Callable[[list[int]], str]
) -> tuple[Segment[ImageRef], ...]:
    """Split by the record of the blocks, which says where each observation stands."""
    segments: list[Segment[ImageRef]] = []
    position = 0
    for block in summary.blocks:
        if not block.entered:
            continue
        start = block.offset
        segments += _sampled(ids[position:start], decode)
        position = start + block.n_ids
        text = show_images(decode(ids[start:position]))
        segments.append(observation_segment(block, text).with_images(()))
    return (*segments, *_sampled(ids[position:], decode))


def _by_mask(
    ids: list[int], mask: Sequence[int], decode: Callable[[list[int]], str]
) -> tuple[Segment[ImageRef], ...]:
    """Split a rollout of another scheduler by its loss mask: 1 was sampled, 0 was added."""
    segments: list[Segment[ImageRef]] = []
    position = 0
    for was_sampled, run in itertools.groupby(mask):
        end = position + len(list(run))
        piece, position = ids[position:end], end
        if was_sampled:
            segments += _sampled(piece, decode)
        else:
            text = show_images(decode(piece))
            segments.append(Segment(SegmentKind.OBSERVATION, text))
    return tuple(segments)


def _sampled(ids: list[int], decode: Callable[[list[int]], str]) -> list[Segment[ImageRef]]:
    """Split sampled ids into prose and code; an id counts where its last character stands."""
    text = decode(ids)
    pieces = split_sampled_text(text)
    if len(pieces) < 2:
        return [Segment(kind, piece, tokens=len(ids)) for kind, piece in pieces]
    ends, reached = [], 0
    for _, piece in pieces:
        reached += len(piece)
        ends.append(reached)
    counts = [0] * len(pieces)
    reached, index = 0, 0
    for token_id in ids:
        # Half a character decodes to one replacement character, so this is off by one at most.
        reached += len(decode([token_id]))
        while index < len(ends) - 1 and reached > ends[index]:
            index += 1
        counts[index] += 1
    return [
        Segment(kind, piece, tokens=count)
        for (kind, piece), count in zip(pieces, counts, strict=True)
    ]


def _prompt_tokens(sample: Any, segments: Sequence[Segment[ImageRef]]) -> int | None:
    """Return the prompt's length, from the length of the whole sample as it is trained on."""
    encoded = getattr(sample, "encoded", None) or {}
    total = encoded.get("length") or len(encoded.get("input_ids") or ())
    counts = [segment.tokens for segment in segments]
    if not total or None in counts:
        return None
    rest = int(total) - sum(count for count in counts if count is not None)
    return rest if rest > 0 else None


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
            replace(segment, images=tuple(itertools.islice(returned, _images_in(segment))))
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
        self._pending: dict[str, list[tuple[float, Kept]]] = {}

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
        drawn: list[tuple[float, int | Kept]] = [*self._pending.get(mode, [])]
        drawn += [(self._random.random(), index) for index in range(len(samples))]
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

    def flush(self, step: int) -> None:
        """Write what was drawn since the last call.

        A full disk or a lost folder ends keeping with an error in the log, and not the training.

        Args:
            step: The training step that the trainer is logging.
        """
        pending, self._pending = self._pending, {}
        items = [
            kept._replace(
                record=replace(kept.record, id=f"{mode}-{step}-{kept.record.id[-8:]}", step=step)
            )
            for mode, waiting in pending.items()
            for _, kept in waiting
        ]
        if not items or not self.active:
            return
        try:
            if self._store is None:
                self._store = TrajectoryStore(self._folder, self._budget)
            self._store.add(items)
        except (DataError, OSError) as error:
            logger.error("no more trajectories are kept: %s", error)
            self._quota = 0
