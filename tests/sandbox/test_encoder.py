"""What the encoder does with the files that it is given."""

import io

import numpy as np
import pytest
from PIL import Image

from swift_thyme.sandbox.encoder import Refused, encode_image
from tests.pictures import camera_file, is_upright
from tests.sandbox.conftest import jpeg


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def recoded_by_pillow(data: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).save(file, "JPEG", quality=95)
    return file.getvalue()


def with_orientation(data: bytes, orientation: int) -> bytes:
    image = Image.open(io.BytesIO(data))
    exif = image.getexif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("source", [jpeg(), jpeg(201, 77), with_orientation(jpeg(), 1)])
def test_a_jpeg_is_recoded_as_pillow_would(source: bytes) -> None:
    encoded = encode_image(source, 1e6, 1e6)
    expected = pixels(recoded_by_pillow(source))
    assert (encoded.height, encoded.width) == expected.shape[:2]
    assert np.array_equal(pixels(encoded.data), expected)
    assert encoded.data != source


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("returned_pixels", [1e6, 80 * 48 / 2])
def test_an_image_comes_back_as_it_is_meant_to_be_seen(
    kind: str, orientation: int, returned_pixels: float
) -> None:
    encoded = encode_image(camera_file(kind, orientation), 1e6, returned_pixels)
    assert is_upright(pixels(encoded.data))
    assert (encoded.width, encoded.height) == pixels(encoded.data).shape[1::-1]


def test_fractions_from_black_to_white_come_back_so() -> None:
    file = io.BytesIO()
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    Image.fromarray(ramp).save(file, "TIFF")
    found = pixels(encode_image(file.getvalue(), 1e6, 1e6).data)
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_jpeg_that_ends_early_is_refused(share: float) -> None:
    data = jpeg()
    with pytest.raises(Refused):
        encode_image(data[: int(len(data) * share)], 1e6, 1e6)


def test_a_grey_jpeg_comes_back_in_colour() -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg())).convert("L").save(file, "JPEG")
    assert pixels(encode_image(file.getvalue(), 1e6, 1e6).data).shape == (100, 200, 3)
