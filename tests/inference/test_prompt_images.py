"""Images of a prompt: what is kept, what is encoded again, what is refused."""

import io
import struct
import zlib

import pytest
from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.pictures import ImageLimits
from swift_thyme.inference.prompt_images import read_image
from tests.pictures import camera_file, is_upright

from .builders import image_bytes


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_plain_images_are_kept_byte_for_byte(kind: str) -> None:
    data = image_bytes(kind=kind)
    image = read_image(data, 3)
    assert image.data == data
    assert (image.width, image.height) == (64, 48)
    assert image.path == f"/mnt/data/images/3.{'jpg' if kind == 'JPEG' else 'png'}"


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("WEBP", "RGB"), ("GIF", "P")])
def test_other_images_become_plain_ones(kind: str, mode: str) -> None:
    image = read_image(image_bytes(kind=kind, mode=mode))
    with Image.open(io.BytesIO(image.data)) as opened:
        assert opened.format == "PNG"
        assert opened.mode == "RGB"
        assert opened.size == (64, 48)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<svg/>", "not an image"),
        (b"", "not an image"),
        (image_bytes()[:60], "cannot be decoded"),
        (png_that_claims(60_000, 60_000), "too large|pixels"),
        (png_that_claims(12_000, 8_000), "pixels|too large"),
        (image_bytes((2500, 4)), "aspect ratio"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_image(data)


def test_the_file_size_is_limited() -> None:
    with pytest.raises(DataError, match="at most 10"):
        read_image(image_bytes(), limits=ImageLimits(max_bytes=10))


@pytest.mark.parametrize(("kind", "orientation"), [("JPEG", 6), ("PNG", 8), ("WEBP", 3)])
def test_a_camera_picture_is_upright_for_prompt_model_and_code(kind: str, orientation: int) -> None:
    image = read_image(camera_file(kind, orientation))
    assert (image.width, image.height) == (80, 48)
    assert image.path.endswith(".jpg" if kind == "JPEG" else ".png")
    with Image.open(io.BytesIO(image.data)) as opened:
        assert opened.getexif().get(0x0112) is None
        assert is_upright(opened)


def test_fractions_of_grey_are_not_black() -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("F").point(lambda value: value / 255).save(buffer, "TIFF")
    with Image.open(io.BytesIO(read_image(buffer.getvalue()).data)) as opened:
        assert opened.convert("L").getextrema() == (0, 255)
