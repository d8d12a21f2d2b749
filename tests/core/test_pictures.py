"""One picture for every reader: upright, on white, in 8 bits; and checks before a pixel."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from swift_thyme.core import pictures
from swift_thyme.core.images import ImageError, ImageFault
from swift_thyme.core.pictures import ImageLimits
from tests.pictures import camera_file, is_upright, upright_picture

KINDS = [kind for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") if kind in pictures.FORMATS]


def by_opencv(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_bytes_are_the_same_picture_for_pillow_and_opencv(
    kind: str, orientation: int
) -> None:
    data = camera_file(kind, orientation)
    header = pictures.header(data)
    assert (header.orientation, header.size) == (orientation, (80, 48))
    upright = pictures.upright_bytes(data)
    assert (upright is data) == (orientation == 1)
    assert pictures.header(upright)[2:] == ((80, 48), 1)
    assert is_upright(Image.open(io.BytesIO(upright)))
    for flags in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED):
        pixels = by_opencv(upright, flags)
        assert pixels is not None and is_upright(pixels)
    with Image.open(io.BytesIO(data)) as image:
        assert is_upright(pictures.flat(pictures.upright(image)))
        assert pictures.header_of(image).size == (80, 48)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_turning_loses_nothing_where_the_format_loses_nothing(kind: str) -> None:
    rng = np.random.default_rng(0)
    stored = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 8
    buffer = io.BytesIO()
    stored.save(buffer, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    turned = Image.open(io.BytesIO(pictures.upright_bytes(buffer.getvalue())))
    assert turned.format == kind
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(stored)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16"])
def test_other_modes_are_turned_in_their_mode(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000)
    else:
        picture = upright_picture((8, 6)).convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    turned = Image.open(io.BytesIO(pictures.upright_bytes(buffer.getvalue())))
    assert (turned.mode, turned.size) == (mode, (6, 8))
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(picture), -1))


def with_chunk(data: bytes, kind: bytes, body: bytes, *, behind_pixels: bool) -> bytes:
    chunk = struct.pack(">I", len(body)) + kind + body
    chunk += struct.pack(">I", zlib.crc32(kind + body))
    at = data.index(b"IEND") - 4 if behind_pixels else data.index(b"IDAT") - 4
    return data[:at] + chunk + data[at:]


def plain_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "PNG")
    return buffer.getvalue()


XMP = (
    b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF "
    b"xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description "
    b"xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation=\"6\"/></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("behind_pixels", [False, True])
def test_a_png_may_say_it_in_front_of_its_pixels_or_behind_them(behind_pixels: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    for kind, text in ((b"eXIf", body), (b"iTXt", XMP)):
        data = with_chunk(plain_png(), kind, text, behind_pixels=behind_pixels)
        assert pictures.header(data).size == (6, 8), kind
        upright = pictures.upright_bytes(data)
        assert pictures.header(upright)[2:] == ((6, 8), 1)
        assert by_opencv(upright).shape == (8, 6, 3)


def test_an_upright_picture_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    loads = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: (loads.append(self.format), load(self))[1]
    )
    late_text = with_chunk(plain_png(), b"tEXt", b"date\0today", behind_pixels=True)
    for data in [*(camera_file(kind, 1) for kind in ("JPEG", "PNG", "WEBP")), late_text]:
        assert pictures.upright_bytes(data) is data
        assert pictures.header(data).orientation == 1
    assert loads == []
    pictures.upright_bytes(camera_file("JPEG", 6))
    assert loads


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Possibly corrupt EXIF")
def test_damaged_metadata_turn_nothing() -> None:
    data = camera_file("JPEG", 6)
    at = data.index(b"Exif\0\0")
    for damaged in (b"Exif\0\0XX" + data[at + 8 : at + 14], b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        broken = data[:at] + damaged + data[at + len(damaged) :]
        assert pictures.header(broken).orientation == 1
        assert pictures.upright_bytes(broken) is broken
    for value in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        buffer = io.BytesIO()
        upright_picture().save(buffer, "JPEG", exif=exif)
        assert pictures.header(buffer.getvalue()).orientation == 1


def test_transparency_becomes_white() -> None:
    for mode in ("RGBA", "LA", "P"):
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
        if mode == "P":
            image.info["transparency"] = image.getpixel((0, 0))
        assert pictures.flat(image).getpixel((4, 4)) == (255, 255, 255), mode
    mixed = pictures.flat(Image.new("RGBA", (8, 8), (0, 0, 0, 128)))
    assert mixed.getpixel((4, 4)) == pytest.approx((127, 127, 127), abs=1)
    plain = Image.new("RGB", (8, 8))
    assert pictures.flat(plain) is plain


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 128, 255], np.uint16, [0, 128, 255]),
        ([0, 128, 255], np.int32, [0, 128, 255]),
        ([0, 32768, 65535], np.uint16, [0, 128, 255]),
        ([0, 2048, 4095], np.uint16, [0, 128, 255]),
        ([-100, 0, 100], np.int32, [0, 128, 255]),
        ([0, 50_000, 100_000], np.int32, [0, 128, 255]),
        ([0.0, 0.5, 1.0], np.float32, [0, 128, 255]),
        ([0.0, 0.2, 0.4], np.float32, [0, 51, 102]),
        ([0.0, 100.0, 255.0], np.float32, [0, 100, 255]),
        ([-1.0, 0.0, 1.0], np.float32, [0, 128, 255]),
        ([-0.1, 0.5, 1.2], np.float32, [0, 128, 255]),
        ([-0.2, -0.1, 0.0], np.float32, [0, 128, 255]),
        ([float("nan"), float("inf"), 1.0], np.float32, [0, 0, 255]),
        ([7, 7, 7], np.uint16, [7, 7, 7]),
        ([-5, -5, -5], np.int32, [0, 0, 0]),
    ],
)
def test_deep_grey_keeps_black_and_white(
    values: list[float], kind: type, expected: list[int]
) -> None:
    image = Image.fromarray(np.array([values], dtype=kind))
    flat = pictures.flat(image)
    assert flat.mode == "RGB"
    assert [flat.getpixel((x, 0))[0] for x in range(3)] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("data", "limits", "fault"),
    [
        (b"", ImageLimits(), ImageFault.EMPTY),
        (b"<svg/>", ImageLimits(), ImageFault.FORMAT),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ImageLimits(), ImageFault.FORMAT),
        (camera_file("JPEG", 1), ImageLimits(max_bytes=100), ImageFault.TOO_LARGE),
        (camera_file("JPEG", 1), ImageLimits(max_pixels=80 * 48 - 1), ImageFault.TOO_LARGE),
        (camera_file("PNG", 1, (201, 1)), ImageLimits(), ImageFault.ASPECT),
        (camera_file("PNG", 1)[:20], ImageLimits(), ImageFault.BROKEN),
    ],
)
def test_what_is_over_a_limit_is_refused_by_its_header(
    data: bytes, limits: ImageLimits, fault: ImageFault
) -> None:
    with pytest.raises(ImageError, match=r"^picture 4 ") as error:
        pictures.open_image(data, "picture 4", limits)
    assert error.value.fault is fault


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + b"IHDR" + head
    bomb += struct.pack(">I", zlib.crc32(b"IHDR" + head))
    bomb = with_chunk(bomb + plain_png()[33:], b"tEXt", b"a\0b", behind_pixels=True)
    with pytest.raises(ImageError) as error:
        pictures.open_image(bomb)
    assert error.value.fault is ImageFault.TOO_LARGE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_ends_early_is_broken_and_says_which(kind: str) -> None:
    data = camera_file(kind, 6, (400, 300))
    with pytest.raises(ImageError, match=r"^picture 4 ") as error:
        pictures.upright_bytes(data[: len(data) * 2 // 3], "picture 4")
    assert error.value.fault is ImageFault.BROKEN
