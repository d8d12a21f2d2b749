"""What the encoder does with the files that it is given."""

import io
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swift_thyme.core import pictures
from swift_thyme.core.execution import ExecutionStatus
from swift_thyme.core.observation import render_observation
from swift_thyme.sandbox.encoder import Refused, _Encoder, encode_image
from swift_thyme.sandbox.frames import FrameReader
from swift_thyme.sandbox.message_codec import decode_frame, encode_frame
from swift_thyme.sandbox.messages import MAX_REASON_CHARS, FindImages, FoundImage, ImagesFound
from swift_thyme.sandbox.output import assemble, changed_limit
from swift_thyme.sandbox.rootfs import PrivateFolders
from swift_thyme.sandbox.session_config import Confinement, SessionConfig
from tests.pictures import camera_file, is_upright
from tests.sandbox.conftest import jpeg, small_settings


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The output folder of a session."""
    for name in ("output", "tmp", "shm"):
        (tmp_path / name).mkdir()
    return tmp_path / "output"


def encoder_of(folder: Path, **changes: object) -> _Encoder:
    """Return an encoder that is not confined."""
    base = folder.parent
    folders = PrivateFolders(str(folder), str(base / "tmp"), str(base / "shm"))
    confinement = Confinement(False, False, False, 0)
    settings = small_settings(**changes)
    place = (folders, str(base), None, settings.disk_mb << 20)
    config = SessionConfig(settings, confinement, (), *place)
    return _Encoder(config)


def found_in(
    encoder: _Encoder, printed: str = "", budget_s: float = 60.0
) -> tuple[FoundImage, ...]:
    request = FindImages(printed, (), {}, (), budget_s)
    (frame,) = FrameReader().feed(encode_frame(encoder.answer(request)))  # type: ignore[arg-type]
    return decode_frame(frame, ImagesFound).images


def picture(folder: Path, name: str, side: int = 40) -> Path:
    path = folder / name
    Image.new("RGB", (side, side)).save(path, "PNG")
    return path


def make_folder(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "make", [make_folder, make_socket, make_loop, make_link, make_endless, os.mkfifo, Path.touch]
)
def test_a_path_that_is_no_file_costs_nothing(
    folder: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(folder)
    monkeypatch.chdir(folder)  # a socket's path has at most 108 characters
    make(Path("crops.png"))
    picture(folder, "good.png")
    images = found_in(encoder, "crops.png\ngood.png\n")
    assert [image.name for image in images if image.data] == ["good.png"]
    assert len(images) == 1


@pytest.mark.parametrize(
    "name",
    [
        "a\0b.png",
        "a" * 300 + ".png",
        "/".join(["a" * 200] * 40) + ".png",
        "good.png/a.png",
        "../" * 50 + "etc/passwd.png",
        "/tmp/\ufffd\u202e.png",
        ".png",
        "\n.png",
        "%s%n.png",
    ],
)
def test_a_printed_name_that_is_no_path_costs_nothing(folder: Path, name: str) -> None:
    encoder = encoder_of(folder)
    picture(folder, "good.png")
    images = found_in(encoder, f"{name}\ngood.png\n")
    assert [image.name for image in images if image.data] == ["good.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(folder: Path) -> None:
    encoder = encoder_of(folder)
    picture(folder, "closed.png").chmod(0)
    (image,) = found_in(encoder, "closed.png\n")
    assert image.refused == "the file may not be read"


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        ValueError("x"),
        MemoryError(),
        RecursionError(),
        struct.error("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        SystemError("x"),
        AssertionError(),
        RuntimeError("\ud800" * 2000),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["os.read", "swift_thyme.core.pictures.open_image"])
def test_an_error_of_any_kind_costs_its_own_image_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    encoder = encoder_of(folder)
    picture(folder, "a.png")
    picture(folder, "b.png", 41)
    real = pictures.open_image if where.endswith("open_image") else os.read
    seen = []

    def fail_once(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(where, fail_once)
    first, second = found_in(encoder, "a.png\nb.png\n")
    assert first.refused == "it cannot be decoded" and first.data is None
    assert second.width == 41


def test_a_file_that_changes_while_it_is_read_is_taken_as_it_was_or_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(folder)
    path = picture(folder, "a.png", 400)
    size = path.stat().st_size
    data = path.read_bytes()
    real = os.read

    def read(descriptor: int, count: int) -> bytes:
        piece = real(descriptor, min(count, size // 2))  # and less than was asked for
        os.truncate(path, changed_size)
        return piece

    monkeypatch.setattr(os, "read", read)
    changed_size = size * 3
    (image,) = found_in(encoder, "a.png\n")
    assert image.width == 400
    path.write_bytes(data)
    changed_size = size // 2
    (image,) = found_in(encoder, "a.png\n")
    assert image.refused is not None and image.data is None


def test_after_the_time_of_the_block_no_image_is_begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("swift_thyme.sandbox.encoder.time.monotonic", lambda: now)

    def slow(*arguments: Any, **more: Any) -> Any:
        nonlocal now
        now += 4.0
        return encode_image(*arguments, **more)

    monkeypatch.setattr("swift_thyme.sandbox.encoder.encode_image", slow)
    encoder = encoder_of(folder)
    for number in range(4):
        picture(folder, f"{number}.png")
    (folder / "text.png").write_text("no image")
    printed = "".join(f"{number}.png\n" for number in range(4)) + "text.png\nnot_there.png\n"
    images = found_in(encoder, printed, budget_s=6.0)
    assert [image.refused for image in images] == [None, None] + 2 * [
        "the time of the block was over"
    ]


def test_the_images_of_a_block_have_one_size_together(folder: Path) -> None:
    encoder = encoder_of(folder, returned_mb=1, image_mb=8)
    rng = np.random.default_rng(0)
    for number, side in enumerate([400, 400, 400, 40]):
        noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    images = found_in(encoder, "".join(f"{number}.png\n" for number in range(4)))
    assert [image.data[:2] if image.data else None for image in images] == [
        b"\x89P",  # a PNG of 480 kB
        b"\x89P",
        None,
        b"\x89P",
    ]
    assert images[2].refused == "the images of a block can have 1 MiB together"
    assert sum(len(image.data or b"") for image in images) <= 1 << 20


def test_more_files_than_can_be_told_are_left_out(folder: Path) -> None:
    encoder = encoder_of(folder, images=1)
    for number in range(100):
        picture(folder, f"{number}.png", 28)
    printed = "".join(f"not_there_{number}.png\n" for number in range(9000))
    printed += "".join(f"{number}.png\n" for number in range(100))
    images = found_in(encoder, printed)
    assert len(images) == changed_limit(small_settings(images=1))
    assert [image.refused for image in images[1:]] == ["a block can return 1 images"] * 67


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31m.png", "a\ufffd[31m.png"),
        ("gnp.\u202eexe.png", "gnp.\ufffdexe.png"),
        ("a\tb\nc.png", "a\ufffdb\ufffdc.png"),
        ("\u2028\x7f\x85.png", "\ufffd\ufffd\ufffd.png"),
        ("stra\u00dfe \u4e16.png", "stra\u00dfe \u4e16.png"),
    ],
)
def test_a_name_is_shown_with_every_character_of_it(folder: Path, name: str, shown: str) -> None:
    encoder = encoder_of(folder)
    picture(folder, name)
    (image,) = found_in(encoder)
    assert image.name == shown


def test_notes_are_counted_where_there_are_many() -> None:
    refused = tuple(FoundImage(2, 2, f"{n}.png", "it cannot be decoded") for n in range(40))
    result = assemble("ab\ncd\n", ImagesFound(refused, ()), (), ExecutionStatus.TIMEOUT, "E" * 9000)
    text = render_observation(result).text
    assert text.count("it cannot be decoded") == 8
    assert "[32 more images are not returned]" in text and "cd" in text
    assert result.error is not None and len(result.error) == MAX_REASON_CHARS


def test_an_encoder_that_takes_the_place_of_another_reads_no_file_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(tmp_path)
    (tmp_path / "slow.jpg").write_bytes(jpeg())
    read: list[str] = []
    real = encoder._read

    def note(path: str, *rest: Any) -> Any:
        read.append(path)
        return real(path, *rest)

    monkeypatch.setattr(encoder, "_read", note)
    encoder.rehearse()
    assert str(tmp_path / "slow.jpg") not in read
    assert read


def test_what_a_program_saves_before_its_encoder_is_ready_comes_back(folder: Path) -> None:
    encoder = encoder_of(folder)
    picture(folder, "early.png")
    encoder.rehearse()
    assert [image.name for image in found_in(encoder)] == ["early.png"]
