"""Puts trajectories into the page: data as JSON, pictures once each, script and style inline."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from swift_thyme.core.errors import DataError
from swift_thyme.core.protocol import CODE_OPEN
from swift_thyme.core.reading import program_of, read
from swift_thyme.core.segment import Segment, SegmentKind
from swift_thyme.core.trajectory_files import ImageRef, TrajectoryRecord
from swift_thyme.view.crop_boxes import FoundBox, Trajectory, find_boxes
from swift_thyme.view.embedded_pictures import Embedded, embed_all
from swift_thyme.view.highlight import highlight
from swift_thyme.view.sources import Loaded

__all__ = ["PageReport", "Sheet", "build_page"]

SCRIPTS = ("page_curves.js", "page_questions.js", "page.js")
"""Parts of the page's script; the last one uses the others."""


class PageReport(NamedTuple):
    """What a page holds."""

    shown: int
    """Trajectories in the page."""
    found: int
    """Trajectories that were found."""
    images: int
    """Pictures in the page, each counted once."""
    missing_images: int
    """Pictures whose file is missing or cannot be read."""
    bytes: int
    """Size of the page."""


class Sheet(NamedTuple):
    """What a page shows in front of its trajectories, such as the numbers of an evaluation."""

    name: str
    """Text of the button that shows it."""
    data: Mapping[str, Any]
    """JSON values, which the script finds in the element ``sheet-data``."""
    style: str
    script: str
    """Runs after the page's own script, which offers it ``window.thymePage``."""


def build_page(
    loaded: Sequence[Loaded],
    output: str | Path,
    *,
    title: str,
    sheet: Sheet | None = None,
    max_trajectories: int = 2000,
    max_image_side: int = 640,
    curves: Sequence[Mapping[str, Any]] = (),
) -> PageReport:
    """Write the page.

    Args:
        loaded: Trajectories, in the order in which they are listed.
        output: The page's file; replaced once the new page is complete.
        title: Shown at the top.
        sheet: Stands in front of the trajectories; a number of it can lead to some of them.
        max_trajectories: With more, evenly spaced ones are shown.
        max_image_side: Larger pictures are reduced to this many pixels on their longer side.
        curves: Metrics of the runs, as ``curves.as_json`` gives them.

    Raises:
        DataError: The file cannot be written.
    """
    shown = _spread(loaded, max_trajectories)
    numbers: dict[str, int] = {}
    image_files: list[Path] = []
    for item in shown:
        for ref in item.record.all_images:
            # Files are named by their content, so equal names in different folders are equal.
            if ref.file not in numbers:
                numbers[ref.file] = len(image_files)
                image_files.append(item.folder / ref.file)
    images = embed_all(image_files, max_image_side)
    thumbnails = [image.thumbnail if image else None for image in images]
    identifiers = _unique([item.record.id for item in shown])
    boxes = find_boxes([Trajectory(i.record, i.folder, _programs(i.record)) for i in shown])
    data = {
        "title": title,
        "found": len(loaded),
        "textOnly": sum(item.text_only for item in shown),
        "images": [_image_json(image) for image in images],
        "curves": curves,
        "trajectories": [
            _trajectory_json(item.record, identifier, numbers, thumbnails, found)
            for item, identifier, found in zip(shown, identifiers, boxes, strict=True)
        ],
    }
    size = _write(Path(output), _html(title, data, images, sheet))
    missing = sum(image is None for image in images)
    return PageReport(len(shown), len(loaded), len(images) - missing, missing, size)


def _spread(items: Sequence[Loaded], most: int) -> Sequence[Loaded]:
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]


def _unique(names: Sequence[str]) -> list[str]:
    """Tell equal names of different files apart by a number."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        count = seen[name] = seen.get(name, 0) + 1
        result.append(name if count == 1 else f"{name}~{count}")
    return result


def _image_json(image: Embedded | None) -> dict[str, Any] | None:
    if image is None:
        return None
    return {
        "mime": image.mime,
        "width": image.width,
        "height": image.height,
        "reduced": image.reduced,
    }


def _trajectory_json(
    record: TrajectoryRecord,
    identifier: str,
    numbers: Mapping[str, int],
    thumbnails: Sequence[str | None],
    boxes: Sequence[FoundBox],
) -> dict[str, Any]:
    def refs(images: Sequence[ImageRef]) -> list[list[Any]]:
        return [[numbers[image.file], image.name] for image in images]

    return {
        "id": identifier,
        "run": record.run,
        "step": record.step,
        "question": record.question,
        "system": record.system,
        "prompt": record.prompt,
        "images": refs(record.images),
        "thumbnail": thumbnails[numbers[record.images[0].file]] if record.images else None,
        "answer": record.answer,
        "reference": record.reference,
        "end": record.end_reason,
        "tool": record.tool_used,
        "rewards": {name: _finite(value) for name, value in record.rewards.items()},
        "reward": _total(record),
        "statuses": record.statuses or [s.status for s in record.segments if s.status],
        "turns": record.turns,
        "promptTokens": record.prompt_tokens,
        "sampledTokens": record.sampled_tokens,
        "timings": record.timings,
        "meta": record.meta,
        "boxes": [_box_json(found) for found in boxes],
        "segments": [_segment_json(segment, refs(segment.images)) for segment in record.segments],
    }


def _box_json(found: FoundBox) -> list[float]:
    left, top, right, bottom = (round(edge, 1) for edge in found.box)
    return [found.prompt_image, left, top, right - left, bottom - top, found.returned]


def _programs(record: TrajectoryRecord) -> list[str]:
    return [_code_parts(s.text)[1] for s in record.segments if s.kind is SegmentKind.CODE]


def _total(record: TrajectoryRecord) -> float | None:
    """Return what the trainer made of the rewards, or else their sum."""
    total = record.meta.get("reward")
    if isinstance(total, (int, float)):
        return _finite(total)
    known = [value for value in record.rewards.values() if _finite(value) is not None]
    return sum(value for value in known if value is not None) if known else None


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def _segment_json(segment: Segment[ImageRef], images: list[list[Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {"kind": segment.kind.value, "tokens": segment.tokens}
    if segment.kind is SegmentKind.CODE:
        before, body, after = _code_parts(segment.text)
        return {**value, "text": [before, body, after], "runs": highlight(body)}
    value["text"] = segment.text
    if segment.kind is SegmentKind.OBSERVATION:
        value.update(
            images=images,
            status=segment.status,
            repairs=segment.repairs,
            seconds=segment.duration_s,
        )
    return value


def _code_parts(text: str) -> tuple[str, str, str]:
    """Split a code segment into its opening tag and fence, the program, and their ends."""
    blocks = read(text).blocks
    if not blocks or blocks[0].inner not in text:
        # Without its opening tag, or interrupted by an output that the model made up.
        return "", text, ""
    at = text.index(blocks[0].inner, len(CODE_OPEN))
    start, end = (at + offset for offset in program_of(blocks[0].inner, closed=blocks[0].closed))
    return text[:start], text[start:end], text[end:]


def _as_script_data(value: Any) -> str:
    """Return JSON that no HTML parser can take for the end of a script or for a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _html(
    title: str,
    data: Mapping[str, Any],
    images: Sequence[Embedded | None],
    sheet: Sheet | None,
) -> Iterator[str]:
    folder = files("swift_thyme.view")
    parts = {
        "style": folder.joinpath("page.css").read_text(encoding="utf-8"),
        "script": "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS),
        "title": html.escape(title),
    }
    parts["sheet"] = ""
    if sheet is not None:
        parts["style"] += sheet.style
        parts["script"] += sheet.script
        values = _as_script_data({"name": sheet.name, **sheet.data})
        parts["sheet"] = f'<script type="application/json" id="sheet-data">{values}</script>\n'
    parts["policy"] = (
        "default-src 'none'; img-src data:; "
        f"style-src '{_hash(parts['style'])}'; script-src '{_hash(parts['script'])}'; "
        "base-uri 'none'; form-action 'none'"
    )
    template = folder.joinpath("page.html").read_text(encoding="utf-8")
    # One pass, so that nothing that was filled in is looked at again.
    for piece in re.split(r"(\{\{\w+\}\})", template):
        name = piece[2:-2]
        if not piece.startswith("{{"):
            yield piece
        elif name == "data":
            yield _as_script_data(data)
        elif name == "images":
            for number, image in enumerate(images):
                if image is not None:
                    yield f'<script type="text/plain" id="image-{number}">{image.data}</script>\n'
        else:
            yield parts[name]


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _write(output: Path, pieces: Iterator[str]) -> int:
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            for piece in pieces:
                # Half a surrogate pair, which JSON allows and UTF-8 does not.
                file.write(piece.encode("utf-8", "replace"))
        size = partial.stat().st_size
        os.replace(partial, output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{output} cannot be written: {error}") from error
    return size
