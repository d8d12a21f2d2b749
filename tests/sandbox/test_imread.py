"""`cv2.imread` in the sandbox decodes without a copy and gives what OpenCV gives."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from swift_thyme.sandbox.shims import _imread_in_place

READ = _imread_in_place(cv2)
COLOUR = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
ALPHA = np.dstack([COLOUR, COLOUR[:, :, 0]])
FLAGS = [
    (),
    (cv2.IMREAD_COLOR,),
    (cv2.IMREAD_GRAYSCALE,),
    (cv2.IMREAD_UNCHANGED,),
    (cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH,),
    (cv2.IMREAD_REDUCED_COLOR_2,),
    (cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,),
    (None,),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of many kinds, some of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for suffix in ("jpg", "png", "bmp", "webp", "tiff", "ppm"):
        assert cv2.imwrite(str(folder / f"colour.{suffix}"), COLOUR)
    assert cv2.imwrite(str(folder / "grey.jpg"), COLOUR[:, :, 0])
    assert cv2.imwrite(str(folder / "alpha.png"), ALPHA)
    assert cv2.imwrite(str(folder / "deep.png"), COLOUR.astype(np.uint16) * 257)
    assert cv2.imwrite(str(folder / "real.tiff"), COLOUR.astype(np.float32) / 255)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(COLOUR).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(COLOUR).quantize(16).save(folder / "palette.png")
    for name in ("colour.jpg", "colour.png"):
        data = (folder / name).read_bytes()
        (folder / f"half-{name}").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.png").touch()
    return [*sorted(folder.iterdir()), folder / "missing.png"]


def test_it_is_another_function_with_the_opencv_of_this_project() -> None:
    assert READ is not cv2.imread


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_pictures_are_the_ones_that_opencv_reads(pictures: list[Path], flags: tuple[int]) -> None:
    read = 0
    for path in pictures:
        expected, found = cv2.imread(str(path), *flags), READ(str(path), *flags)
        assert (found is None) == (expected is None), path
        if expected is not None:
            read += 1
            assert found.dtype == expected.dtype and found.strides == expected.strides, path
            assert np.array_equal(found, expected), path
            assert found.flags.owndata and found.flags.writeable
    assert read >= 12


def test_other_ways_to_call_it_are_opencvs(pictures: list[Path]) -> None:
    path = str(next(path for path in pictures if path.name == "colour.png"))
    grey = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(READ(path, flags=cv2.IMREAD_GRAYSCALE), grey)
    assert np.array_equal(READ(filename=path), COLOUR)
    assert np.array_equal(READ(Path(path)), COLOUR)
    target = np.zeros_like(COLOUR)
    assert np.array_equal(READ(path, target), COLOUR)
    assert np.array_equal(READ(path, dst=target), COLOUR)
    assert np.array_equal(READ(path, target, cv2.IMREAD_COLOR), COLOUR)
    for wrong in ((5,), (path, "grey"), (path, None, None, None)):
        with pytest.raises(cv2.error):
            READ(*wrong)
        with pytest.raises(cv2.error):
            cv2.imread(*wrong)
