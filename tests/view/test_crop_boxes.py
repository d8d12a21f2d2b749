"""Where a returned picture lies in the prompt's picture: certain, or nothing."""

import io
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageOps

from swift_thyme.core.segment import Segment, SegmentKind
from swift_thyme.core.trajectory_files import TrajectoryRecord, TrajectoryWriter
from swift_thyme.view.crop_boxes import FoundBox, Trajectory, find_boxes
from swift_thyme.view.crop_code import Box, boxes_in
from tests.view.samples import picture

SIZE = (448, 336)
# Its noise is not repeatable, so it is made once.
PICTURE = picture(3, *SIZE, "JPEG")
BOX = Box(96, 64, 240, 208)
CODE = "image = Image.open(image_path)\ncrop = image.crop((96, 64, 240, 208))"


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def look(
    folder: Path, returned: list[Image.Image], *programs: str, originals: list[bytes] | None = None
) -> list[FoundBox]:
    """Find the boxes of a trajectory whose last block returned some pictures."""
    with TrajectoryWriter(folder) as writer:
        prompt = [writer.add_image(data) for data in originals or [PICTURE]]
        back = tuple(writer.add_image(png(image)) for image in returned)
    segments = [
        *(Segment(SegmentKind.CODE, program) for program in programs),
        Segment(SegmentKind.OBSERVATION, "<image>" * len(back), images=back),
    ]
    record = TrajectoryRecord("t", "?", tuple(segments), images=tuple(prompt))
    (found,) = find_boxes([Trajectory(record, folder, programs)])
    return found


def original() -> Image.Image:
    with Image.open(io.BytesIO(PICTURE)) as image:
        return image.convert("RGB")


@pytest.mark.parametrize(
    "program",
    [
        CODE,
        "left, top = 96, 64\nbox = (left, top, left + 144, top + 144)\ncrop = image.crop(box)",
        "crop = cv2.imread(image_path)[64:208, 96:240]",
        "w, h = image.size\ncrop = image.crop((int(w * 3 / 14), h // 5 - 3, 240, 208))",
        "if True:\n    crop = image.crop(box=[96, 64, 240, 208])",
        "h, w = image.shape[:2]\ncrop = image[64:h - 128, 96:w - 208]",
    ],
)
def test_a_crop_that_the_program_names_has_its_box(tmp_path: Path, program: str) -> None:
    assert look(tmp_path, [original().crop(BOX)], program) == [FoundBox(0, 1, BOX)]


@pytest.mark.parametrize("size", [(112, 112), (640, 640), (300, 200)])
def test_a_crop_that_was_resized_has_it_too(tmp_path: Path, size: tuple[int, int]) -> None:
    (found,) = look(tmp_path, [original().crop(BOX).resize(size)], CODE)
    assert found.box == BOX


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.rotate(90),
        lambda image: ImageOps.mirror(image),
        lambda image: ImageEnhance.Contrast(image).enhance(3),
        lambda image: ImageOps.invert(image),
        lambda image: image.crop((0, 0, 60, 60)),
    ],
    ids=["turned", "mirrored", "contrast", "inverted", "cropped again"],
)
def test_a_picture_that_is_no_plain_part_has_none(tmp_path: Path, change: object) -> None:
    assert callable(change)
    assert look(tmp_path, [change(original().crop(BOX))], CODE) == []


def test_numbers_that_are_not_those_of_the_crop_have_none(tmp_path: Path) -> None:
    for program in ("crop = image.crop((120, 64, 264, 208))", "crop = image.crop(find_box(image))"):
        assert look(tmp_path, [original().crop(BOX)], program) == []


@pytest.mark.parametrize(
    "program",
    [
        "x = 86\nx += 10\ncrop = image.crop((x, 64, 240, 208))",
        "x: int = 96\ncrop = image.crop((x, 64, 240, 208))",
        "with open(p) as f:\n    x = 96\ncrop = image.crop((x, 64, 240, 208))",
        "for x in (1, 2):\n    x = 96\n    crop = image.crop((x, 64, 240, 208))",
        "try:\n    crop = image.crop((96, 64, 240, 208))\nexcept OSError:\n    pass",
    ],
)
def test_changes_of_a_name_are_followed(program: str) -> None:
    assert boxes_in([program], SIZE) == [BOX]


@pytest.mark.parametrize(
    "program",
    [
        "x = 96\nfor x in edges: pass\nimage.crop((x, 64, 240, 208))",
        "x = 96\nwhile True:\n    image.crop((x, 64, 240, 208))\n    x += 8",
        "x = 96\nif wide: x = 100\nimage.crop((x, 64, 240, 208))",
        "x = 96\n(x := edge())\nimage.crop((x, 64, 240, 208))",
        "x = 96\ndel x\nimage.crop((x, 64, 240, 208))",
        "x = 96\nx **= 2\nimage.crop((x, 64, 240, 208))",
        "x = 96\ntry: x = 1\nexcept OSError: x = 2\nimage.crop((x, 64, 240, 208))",
        "def look(x=96):\n    image.crop((x, 64, 240, 208))",
        "x = 96\nparts = [image.crop((x, 64, 240, 208)) for x in edges]",
        "x = 96\nlook = lambda x: image.crop((x, 64, 240, 208))",
        "image.crop(*edges)\nimage.crop(box)",
    ],
)
def test_what_cannot_be_followed_is_unknown(program: str) -> None:
    assert boxes_in([program], SIZE) == []


@pytest.mark.parametrize("off", [5, 8, 12])
def test_a_box_that_is_a_little_off_is_not_shown(tmp_path: Path, off: int) -> None:
    program = f"image.crop(({96 + off}, 64, {240 + off}, 208))"
    assert look(tmp_path, [original().crop(BOX)], program) == []


def test_an_even_surface_has_none(tmp_path: Path) -> None:
    flat = Image.new("RGB", SIZE, (90, 120, 150))
    assert look(tmp_path, [flat.crop(BOX)], CODE, originals=[png(flat)]) == []


def test_the_picture_is_found_among_several_and_not_in_two_alike(tmp_path: Path) -> None:
    other = picture(4, *SIZE, "JPEG")
    crop = original().crop(BOX)
    assert look(tmp_path, [crop], CODE, originals=[other, PICTURE]) == [FoundBox(1, 1, BOX)]
    assert look(tmp_path, [crop], CODE, originals=[PICTURE, other, PICTURE]) == []


def test_each_returned_picture_has_its_own_box(tmp_path: Path) -> None:
    second = Box(10, 20, 110, 90)
    program = f"{CODE}\nsecond = image.crop((10, 20, 110, 90))"
    found = look(tmp_path, [original().crop(second), original().crop(BOX)], program)
    assert found == [FoundBox(0, 1, second), FoundBox(0, 2, BOX)]


def test_names_of_an_earlier_block_are_known(tmp_path: Path) -> None:
    programs = ("x, y = 96, 64", "crop = image.crop((x, y, x + 144, y + 144))")
    assert look(tmp_path, [original().crop(BOX)], *programs) == [FoundBox(0, 1, BOX)]


def test_a_picture_that_is_lost_has_none(tmp_path: Path) -> None:
    assert look(tmp_path, [original().crop(BOX)], CODE, originals=[b"no picture"]) == []


@pytest.mark.parametrize(
    "program",
    [
        "image.crop((",
        "image.crop(" + "(" * 5000,
        "x" + "+1" * 5000 + "\nimage.crop((x, x, x, x))",
        "image.crop((1e308 * 10, 0, 1, 1))",
        "image.crop((10**9999999, 0, 1, 1))",
        "a = (1,) * 10**9\nimage.crop(a)",
        "n = 9999999\nn = n * n * n\nimage.crop((n, n, n, n))",
        "image.crop('abcd')\nimage.crop((1, 2))\nimage.crop()\nimage.crop(*box)",
        "image[1:2, ...]\nimage[::2, 1:3]\nimage[True, None]\nimage[1:2, 3:4, 5:6]",
        "image.crop((1 / 0, 0, 5 // 0, 9))",
        "a, b = 1\nmax()\nimage.crop((a, b, max(), 4))",
        "\0",
        "x = '\\d'\nimage.crop((0, 0, 5, 0))",
        "image.crop((nan, 0, inf, 1))\nimage.crop((float('nan'), 0, 1, 1))",
        "image.crop((-5, -5, -1, -1))\nimage[5:1, 5:1]",
    ],
)
def test_a_program_of_any_kind_is_only_read(program: str) -> None:
    assert [box for box in boxes_in([program], SIZE) if box != Box(3, 1, 4, 2)] == []


def test_boxes_end_at_the_edge_of_the_picture() -> None:
    assert boxes_in(["image.crop((-9, 300, 9999, 9999))"], SIZE) == [Box(0, 300, 448, 336)]
    assert len(boxes_in([f"image.crop(({i}, 0, 99, 99))" for i in range(90)], SIZE)) == 24
