"""Trajectories for the tests of the page: plain ones in any number, and one that is hostile."""

import dataclasses
import functools
import io
import random
from pathlib import Path

from PIL import Image, ImageDraw

from swift_thyme.core.segment import Segment, SegmentKind
from swift_thyme.core.trajectory_files import ImageRef, TrajectoryRecord, TrajectoryWriter

HOSTILE = (
    "</script><script>window.pwned = 1</script><!-- <script> --> "
    '<img src=x onerror="window.pwned = 2"> {{script}} \u202e\ud800'
)


def picture(seed: int, width: int, height: int, kind: str = "PNG") -> bytes:
    """Return a picture with something on it that differs by seed."""
    draw = random.Random(seed)
    small = Image.effect_noise((width // 8 + 1, height // 8 + 1), 60).convert("RGB")
    image = small.resize((width, height))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = draw.randrange(width), draw.randrange(height)
        colour = tuple(draw.randrange(256) for _ in range(3))
        pen.rectangle((x, y, x + width // 5, y + height // 7), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=90)
    return buffer.getvalue()


def crop_box(number: int) -> tuple[int, int, int, int]:
    """Return the part of the prompt's picture that a trajectory looks at."""
    return (number % 90, 20, 96, 116)


def cut(data: bytes, number: int) -> bytes:
    """Return the picture that the code of :func:`make_record` makes of the prompt's."""
    with Image.open(io.BytesIO(data)) as image:
        crop = image.crop(crop_box(number)).resize((112, 112))
    buffer = io.BytesIO()
    crop.save(buffer, format="PNG")
    return buffer.getvalue()


def make_record(
    number: int,
    prompt_image: ImageRef | None = None,
    returned: ImageRef | None = None,
    *,
    question: str | None = None,
    text: str = "Let me look closer. ",
    printed: str = "",
    answer: str = "red",
    status: str = "ok",
) -> TrajectoryRecord:
    """Return a trajectory of two turns; steps, rewards and end reasons vary with its number."""
    code = (
        "<code>\n```python\n# a closer look\nimage = Image.open(image_path)\n"
        f"crop = image.crop({crop_box(number)}).resize((112, 112))\n"
        'processed_path = "/mnt/data/temp_processed_images/crop.png"\n'
        "crop.save(processed_path)\nprint(processed_path)\n```\n</code>"
    )
    tag = "<image>" if returned else ""
    unanswered = number % 7 == 6
    tail = "It goes on" if unanswered else f"It is {answer}.</think>\n<answer>{answer}</answer>"
    right = number % 3 != 0
    return TrajectoryRecord(
        id=f"t{number}",
        question=question or f"Which colour has box {number}?",
        segments=(
            Segment(SegmentKind.TEXT, f"<think>{text}", tokens=8),
            Segment(SegmentKind.CODE, code, tokens=60),
            Segment(
                SegmentKind.OBSERVATION,
                f"<sandbox_output>{printed}{tag}</sandbox_output>",
                images=(returned,) if returned else (),
                tokens=20,
                status=status,
                repairs=("indentation",) if number % 5 == 1 else (),
                duration_s=0.04,
            ),
            Segment(SegmentKind.TEXT, tail, tokens=12),
        ),
        run="train",
        step=number // 4,
        system="You may write Python.",
        prompt=f'<image>\nWhich colour has box {number}?\n\nUser Image Path: "/data/{number}.jpg"',
        images=(prompt_image,) if prompt_image else (),
        answer=None if unanswered else answer,
        reference=("red",),
        end_reason="length_limit" if unanswered else "answer",
        tool_used=status == "ok",
        rewards={"fmt": 0.5 * (not unanswered), "vqa": None if number == 5 else float(right)},
        statuses=(status,),
        turns=2,
        prompt_tokens=130,
        sampled_tokens=80,
        timings={"sandbox_s": 0.04},
        meta={"advantage": 0.25},
    )


def write_folder(folder: Path, count: int, *, prompts: int | None = None) -> Path:
    """Write trajectories with pictures; with ``prompts``, they share so many prompt pictures."""
    prompts = prompts or count
    with TrajectoryWriter(folder) as writer:
        pictures = [picture(i, 448, 336, "JPEG") for i in range(prompts)]
        shown = [writer.add_image(data) for data in pictures]
        for number in range(count):
            crop = writer.add_image(cut(pictures[number % prompts], number), name="crop.png")
            status = "error" if number % 10 == 9 else "ok"
            writer.write(
                make_record(
                    number,
                    shown[number % prompts],
                    crop if status == "ok" else None,
                    printed=""
                    if status == "ok"
                    else "Error: NameError: name 'crop' is not defined",
                    status=status,
                )
            )
    return folder


def write_groups(folder: Path, steps: int, *, questions: int = 2, samples: int = 4) -> Path:
    """Write the same questions at each step, several samples each, with real crops."""
    with TrajectoryWriter(folder) as writer:
        for step in range(1, steps + 1):
            for number in range(questions * samples):
                question, sample = divmod(number, samples)
                data = _prompt_picture(question)
                prompt = writer.add_image(data, name=f"/data/{question}.jpg")
                crop = writer.add_image(cut(data, sample))
                record = make_record(sample, prompt, crop, question=f"Q{question}?")
                writer.write(
                    dataclasses.replace(
                        record,
                        id=f"s{step}-{question}-{sample}",
                        step=step,
                        prompt=f"<image>\nQ{question}?",
                        rewards={"fmt": 0.5, "vqa": float(sample < step)},
                    )
                )
    return folder


@functools.cache
def _prompt_picture(number: int) -> bytes:
    # Its noise is not repeatable.
    return picture(number, 448, 336, "JPEG")


def write_hostile(folder: Path) -> Path:
    """Write one trajectory whose every text tries to leave its place."""
    with TrajectoryWriter(folder) as writer:
        image = writer.add_image(picture(1, 64, 64), name=HOSTILE)
        writer.write(
            make_record(
                0, image, image, question=HOSTILE, text=HOSTILE, printed=HOSTILE, answer=HOSTILE
            )
        )
    return folder
