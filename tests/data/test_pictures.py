"""Pictures of every kind become upright RGB JPEGs, and broken ones a reason."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from faulty_data import PICTURE_KINDS, picture_bytes
from PIL import Image

from swift_thyme.data.pictures import ImageStore, normalise, raw_bytes
from swift_thyme.data.reasons import Reason, RowRejected

MAX_PIXELS = 1e8


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


def reason_of(data: bytes, max_pixels: float = MAX_PIXELS) -> Reason:
    with pytest.raises(RowRejected) as error:
        normalise(data, max_pixels)
    return error.value.reason


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_every_kind_becomes_an_rgb_jpeg_of_its_size(kind: str) -> None:
    picture = normalise(picture_bytes(kind, np.random.default_rng(0), (90, 60)), MAX_PIXELS)
    size = (60, 90) if kind == "sideways jpeg" else (90, 60)
    assert decode(picture.data).size == (picture.width, picture.height) == size


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg"])
def test_an_upright_rgb_jpeg_keeps_its_bytes(kind: str) -> None:
    data = picture_bytes(kind, np.random.default_rng(0), (90, 60))
    assert normalise(data, MAX_PIXELS).data == data


def test_all_eight_orientations_are_turned_upright() -> None:
    upright = Image.new("RGB", (80, 48), (255, 255, 255))
    upright.paste((200, 0, 0), (0, 0, 40, 24))
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, operation in turned.items():
        stored = upright if operation is None else upright.transpose(operation)
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("JPEG", "PNG"):
            result = decode(normalise(encode(stored, kind, exif=exif), MAX_PIXELS).data)
            assert result.size == (80, 48)
            red, white = result.getpixel((20, 12)), result.getpixel((60, 36))
            assert red[0] > 180 and red[1] < 40, (orientation, kind)
            assert min(white) > 240


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode: str) -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (32, 0, 64, 64))
    result = decode(normalise(encode(image.convert(mode), "PNG"), MAX_PIXELS).data)
    assert min(result.getpixel((8, 32))) > 245
    assert max(result.getpixel((56, 32))) < 10


def test_half_transparency_is_mixed_with_white() -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    result = decode(normalise(encode(image, "PNG"), MAX_PIXELS).data)
    assert result.getpixel((32, 32)) == pytest.approx((127, 127, 127), abs=2)


def test_sixteen_bits_keep_their_scale() -> None:
    values = np.full((32, 64), 65535, dtype=np.uint16)
    values[:, :32] = 32768
    result = decode(normalise(encode(Image.fromarray(values), "PNG"), MAX_PIXELS).data)
    assert result.getpixel((8, 16)) == pytest.approx((128, 128, 128), abs=2)
    assert min(result.getpixel((56, 16))) > 250


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decode(normalise(data, MAX_PIXELS).data).getpixel((16, 16))[0] > 230, kind


@pytest.mark.parametrize(
    "kind", ["jpeg", "progressive jpeg", "png", "gif", "webp with transparency"]
)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_picture_that_ends_early_is_broken(kind: str, share: float) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8))
    data = PICTURE_KINDS[kind](noise)
    assert reason_of(data[: int(len(data) * share)]) is Reason.IMAGE_BROKEN


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_broken(kind: str) -> None:
    data = picture_bytes(kind, np.random.default_rng(0), (90, 60))
    assert reason_of(data[:-2]) is Reason.IMAGE_BROKEN


def test_what_cannot_be_used_has_a_reason() -> None:
    assert reason_of(b"") is Reason.IMAGE_EMPTY
    assert reason_of(b"<html>") is Reason.IMAGE_FORMAT
    assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") is Reason.IMAGE_FORMAT
    wide = encode(Image.new("RGB", (2001, 10)), "PNG")
    assert reason_of(wide) is Reason.IMAGE_ASPECT
    assert reason_of(encode(Image.new("RGB", (200, 200)), "PNG"), 39_999) is Reason.IMAGE_TOO_LARGE


def test_an_image_may_be_given_in_every_published_way(tmp_path: Path) -> None:
    data = picture_bytes("png", np.random.default_rng(0), (20, 10))
    (tmp_path / "a b.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    ways = [
        data,
        text,
        f"data:image/png;base64,{text}",
        "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        text.replace("+", "-").replace("/", "_"),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(tmp_path / "a b.png")},
        "a b.png",
        f"file://{tmp_path}/a b.png",
    ]
    for value in ways:
        assert raw_bytes(value, tmp_path, "image 1")[0] == data, value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.IMAGE_EMPTY),
        ("", Reason.IMAGE_EMPTY),
        (3.5, Reason.WRONG_TYPE),
        ("https://example.org/a.png", Reason.IMAGE_URL),
        ("pictures/none.jpg", Reason.IMAGE_FILE),
        ("/no/such/file", Reason.IMAGE_FILE),
        ("not base64", Reason.IMAGE_BASE64),
        ("A" * 4001 + "!", Reason.IMAGE_BASE64),
        ("A" * 5001, Reason.IMAGE_BASE64),
    ],
)
def test_an_image_that_cannot_be_found_has_a_reason(
    value: object, reason: Reason, tmp_path: Path
) -> None:
    with pytest.raises(RowRejected) as error:
        raw_bytes(value, tmp_path, "image 1")
    assert error.value.reason is reason


def test_the_store_keeps_equal_bytes_once_and_mends_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    store = ImageStore(tmp_path / "images", tmp_path / "tmp")
    picture = normalise(picture_bytes("png", np.random.default_rng(0), (20, 10)), MAX_PIXELS)
    path = store.path(b"source")
    assert store.size(path) is None
    store.put(path, picture.data)
    assert store.size(path) == (20, 10)
    assert store.path(b"source") == path != store.path(b"other")
    path.write_bytes(b"")
    assert store.size(path) is None
    assert not list((tmp_path / "tmp").iterdir())
