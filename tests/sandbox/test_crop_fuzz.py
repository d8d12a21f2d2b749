"""Crop programs made at random: those that succeed in plain Python are never altered."""

import contextlib
import io
import random
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from PIL import Image

from swift_thyme.sandbox import InputImage, SandboxPool
from tests.sandbox.conftest import IMAGE_PATH, jpeg

PROGRAMS = 2000
BLOCKS_OF_A_SESSION = 100

Bounds = tuple[float | None, float | None, float | None, float | None]


@dataclass
class Crops:
    """A program and what its crops are."""

    code: str
    is_right: bool
    """Whether every crop gives a part of its picture, or the picture with a border."""


@dataclass
class Writer:
    """Writes one program.

    Args:
        random: Where chance comes from.
    """

    random: random.Random
    lines: list[str] = field(default_factory=list)
    right: bool = True

    def span(self, length: int) -> tuple[float | None, float | None]:
        """Return the ends of one side of a box."""
        r = self.random
        kind = r.choice(["inside"] * 12 + ["none", "end", "over", "under", "out", "back", "zero"])
        start = r.randrange(0, length - 1)
        end = r.randrange(start + 1, length + 1)
        if kind == "none":
            return (None, end) if r.random() < 0.5 else (start, None)
        changed: dict[str, tuple[int, int]] = {
            "inside": (start, end),
            "end": (-end, -start or length),
            "over": (start, length + r.randrange(1, 90)),
            "under": (-r.randrange(1, 90), end),
            "out": (length + r.randrange(0, 300), length + r.randrange(301, 900)),
            "back": (end, start),
            "zero": (start, start),
        }
        return changed[kind]

    def bounds(self, width: int, height: int) -> Bounds:
        """Return x1, y1, x2, y2."""
        (x1, x2), (y1, y2) = self.span(width), self.span(height)
        if self.random.random() < 0.06:
            scale = self.random.choice([1, width])
            a, b = sorted(round(self.random.random(), 3) for _ in range(2))
            return a * scale, a, b * scale, b
        if self.random.random() < 0.06:
            return tuple(None if b is None else b + 0.25 for b in (x1, y1, x2, y2))  # type: ignore[return-value]
        return x1, y1, x2, y2

    def slice_of(self, name: str, shape: tuple[int, int]) -> str:
        """Return a crop by slices, and note whether it is right."""
        height, width = shape
        x1, y1, x2, y2 = self.bounds(width, height)
        given = [b for b in (x1, y1, x2, y2) if b is not None]
        self.right &= not any(isinstance(b, float) for b in given) and bool(
            np.zeros((height, width))[y1:y2, x1:x2].size  # type: ignore[misc]
        )
        rows, columns = (
            f"{'' if a is None else a}:{'' if b is None else b}" for a, b in ((y1, y2), (x1, x2))
        )
        return f"{name}[{rows}, {columns}]"

    def box_of(self, name: str, shape: tuple[int, int]) -> str:
        """Return a crop by Pillow, and note whether it is right."""
        height, width = shape
        given = self.bounds(width, height)
        box = [d if b is None else b for b, d in zip(given, (0, 0, width, height), strict=True)]
        x1, y1, x2, y2 = map(round, box)
        inside = 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        border = x1 <= 0 and y1 <= 0 and x2 >= width and y2 >= height
        is_share = all(0 <= b <= 1 for b in box) and any(b != int(b) for b in box)
        self.right &= (inside or (border and x1 < x2 and y1 < y2)) and not is_share
        return f"{name}.crop({tuple(box)})"

    def write(self) -> Crops:
        """Return the program."""
        r = self.random
        height, width = r.choice([(100, 160), (90, 40), (300, 300), (31, 777)])
        by_slices = r.random() < 0.6
        self.lines.append(f"a = np.arange({height * width * 3}).reshape({height}, {width}, 3)")
        kind = r.choice(["np.uint8"] * 4 + ["np.int64"]) if by_slices else "np.uint8"
        self.lines.append(f"img = (a % 251).astype({kind})")
        if not by_slices:
            self.lines.append("img = Image.fromarray(img)")
        crop = self.slice_of if by_slices else self.box_of
        show = "c.shape, int(c.sum())" if by_slices else "c.size, sum(c.tobytes())"
        for _ in range(r.randrange(1, 4)):
            part = crop("img", (height, width))
            form = r.choice(["{}", "{}", "(lambda: {})()", "[{}][0]", "get(lambda: {})"])
            if form.startswith("get"):
                self.lines.append("def get(f): return f()")
            self.lines += [f"c = {form.format(part)}", f"print({show})"]
        if r.random() < 0.2:
            body = "\n".join(f"    {line}" for line in self.lines)
            self.lines = [f"try:\n{body}\nexcept Exception as e:\n    print(type(e).__name__)"]
        return Crops("\n".join(self.lines), self.right)


def in_plain_python(code: str) -> str | None:
    """Return what a program prints, or None where it fails."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(compile(code, "crops", "exec"), {"np": np, "cv2": cv2, "Image": Image})
        except Exception:  # noqa: BLE001 - whatever it is, the program failed
            return None
    return output.getvalue()


@pytest.mark.ci
def test_what_succeeds_in_plain_python_is_never_altered(pool: SandboxPool) -> None:
    chance = random.Random(20)
    programs = [Writer(chance).write() for _ in range(PROGRAMS)]
    right = 0
    for start in range(0, PROGRAMS, BLOCKS_OF_A_SESSION):
        with pool.open_sync([InputImage(IMAGE_PATH, jpeg())]) as session:
            for program in programs[start : start + BLOCKS_OF_A_SESSION]:
                plain = in_plain_python(program.code)
                result = session.run_sync(program.code)
                if plain is None:
                    # It is repaired, or it fails here too.
                    assert result.ok == bool(result.repairs), program.code
                elif program.is_right:
                    right += 1
                    assert (result.ok, result.stdout) == (True, plain), program.code
                    assert (result.repairs, result.program) == ((), None), program.code
                else:
                    # Some crop gives nothing: as it is, or with a repair that has a name.
                    assert result.ok, program.code
                    assert bool(result.repairs) or result.stdout == plain, program.code
    assert right > PROGRAMS // 3
