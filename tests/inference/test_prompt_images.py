"""Images of a prompt: what is kept, what is encoded again, what is refused."""

import io
import struct
import zlib

import pytest
from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.pictures import ImageLimits
from swift_thyme.inference.prompt_images import read_image

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
