"""Files whose work has no bound are refused, others are not; and what comes back has a size."""

import io
import os
import resource
import struct
import time

import numpy as np
import pytest
from PIL import Image

from swift_thyme.core import pictures
from swift_thyme.core.images import ImageError, ImageFault
from swift_thyme.core.picture_work import is_lossy
from swift_thyme.core.pictures import ImageLimits
from swift_thyme.sandbox.encoder import Refused, encode_image
from tests.sandbox.picture_files import FINE, TOO_MUCH_WORK, chunk, noise, png_with, saved

BOUNDED = ImageLimits(max_pixels=120e6, bounded=True)
ROOM = 8 << 20
FORMAT_OF = {"avif": "AVIF", "webp": "WEBP", "jpeg 2000": "JPEG2000"}


def skip_without(name: str) -> None:
    for start, kind in FORMAT_OF.items():
        if start in name and kind not in pictures.FORMATS:
            pytest.skip(f"this build of Pillow has no {kind}")


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make decoding fail."""

    def load(self: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)


@pytest.mark.parametrize("name", TOO_MUCH_WORK)
def test_too_much_work_is_refused_before_a_pixel_is_decoded(name: str, no_pixels: None) -> None:
    skip_without(name)
    data = TOO_MUCH_WORK[name]()
    with pytest.raises(ImageError, match=r"^picture 4 takes too long to decode") as error:
        pictures.open_image(data, "picture 4", BOUNDED)
    assert error.value.fault is ImageFault.TOO_LARGE
    with pytest.raises(Refused, match="takes too long"):
        encode_image(data, 120e6, 1e6, ROOM)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FINE)
def test_what_data_sets_hold_is_decoded(name: str) -> None:
    skip_without(name)
    data = FINE[name]()
    with pictures.open_image(data, "it", BOUNDED) as image:
        expected = pictures.flat(pictures.upright(image)).size
    encoded = encode_image(data, 120e6, 1e6, ROOM)
    assert (encoded.width, encoded.height) == expected


@pytest.mark.parametrize("name", ["plain colour", "ppm of odd levels", "icon"])
def test_a_data_set_may_have_slow_formats(name: str) -> None:
    pictures.open_image(TOO_MUCH_WORK[name](), "it", ImageLimits()).close()


@pytest.mark.parametrize("name", [*TOO_MUCH_WORK, *FINE])
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_ends_anywhere_is_an_image_error_or_an_image(name: str) -> None:
    skip_without(name)
    data = (TOO_MUCH_WORK.get(name) or FINE[name])()
    for end in (*range(1, min(len(data), 300), 7), len(data) // 2, len(data) - 1):
        try:
            pictures.open_image(data[:end], "it", BOUNDED).close()
        except ImageError:
            continue


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_never_ends_the_encoder(seed: int) -> None:
    from swift_thyme.sandbox.encoder import NotAnImage

    rng = np.random.default_rng(seed)
    for name, make in FINE.items():
        if any(start in name and k not in pictures.FORMATS for start, k in FORMAT_OF.items()):
            continue
        data = bytearray(make())
        for at in rng.integers(0, min(len(data), 600), 8):
            data[at] = rng.integers(0, 256)
        try:
            encode_image(bytes(data), 4e6, 1e6, ROOM)
        except (Refused, NotAnImage):
            continue


def exif_of(body: bytes) -> bytes:
    return b"MM\0*\0\0\0\x08" + body


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "body",
    [
        # an orientation, and directories that name themselves
        struct.pack(">HHHIIHHIII", 2, 0x0112, 3, 1, 6 << 16, 0x8769, 4, 1, 8, 8),
        struct.pack(">HHHIIHHIII", 2, 0x0112, 3, 1, 6 << 16, 0x014A, 4, 1, 8, 8),
        # a value that lies outside of the data, and one of all of it
        struct.pack(">HHHIIHHIII", 2, 0x0112, 3, 1, 6 << 16, 0x011A, 5, 1, 1 << 30, 0),
        struct.pack(">HHHIII", 1, 0x0112, 3, 1 << 30, 8, 0),
        b"",
    ],
)
def test_exif_data_that_go_in_circles_end(body: bytes) -> None:
    encoded = encode_image(png_with(chunk(b"eXIf", exif_of(body))), 1e6, 1e6, ROOM)
    assert (encoded.width, encoded.height) == (64, 64)


def test_what_is_lossy_comes_back_as_a_jpeg_and_anything_else_without_loss() -> None:
    kinds = {
        "JPEG": {},
        "PNG": {},
        "TIFF": {},
        "BMP": {},
        "GIF": {},
        "WEBP": {},
        "AVIF": {},
        "JPEG2000": {"irreversible": True},
    }
    lossy = {"JPEG", "WEBP", "AVIF", "JPEG2000"}
    for kind, options in kinds.items():
        if kind not in pictures.FORMATS:
            continue
        data = saved(kind, **options)
        assert is_lossy(data) == (kind in lossy), kind
        encoded = encode_image(data, 1e6, 1e6, ROOM)
        with Image.open(io.BytesIO(encoded.data)) as image:
            assert image.format == ("JPEG" if kind in lossy else "PNG"), kind
            if kind not in lossy:
                with Image.open(io.BytesIO(data)) as source:
                    assert np.array_equal(np.asarray(image), np.asarray(source.convert("RGB")))
    assert not is_lossy(saved("WEBP", lossless=True))
    assert is_lossy(saved("WEBP", noise().convert("RGBA")))
    assert is_lossy(saved("WEBP", save_all=True, append_images=[noise(seed=1)]))
    if "JPEG2000" in pictures.FORMATS:
        assert not is_lossy(saved("JPEG2000"))
    assert not is_lossy(b"")


def test_an_image_of_our_own_may_be_slow_and_loses_nothing() -> None:
    data = saved("WEBP")
    assert encode_image(data, 1e6, 1e6).data.startswith(b"\x89PNG")
    assert encode_image(TOO_MUCH_WORK["plain colour"](), 1e6, 1e6).width == 28


def test_a_png_without_room_comes_back_as_a_jpeg() -> None:
    data = saved("PNG", noise(200))
    large = encode_image(data, 1e6, 1e6, ROOM)
    small = encode_image(data, 1e6, 1e6, room=len(large.data) - 1)
    assert large.data.startswith(b"\x89PNG") and small.data.startswith(b"\xff\xd8")
    assert len(small.data) < len(large.data)


def test_the_check_of_a_usual_file_costs_little() -> None:
    data = saved("JPEG", noise(1000), quality=95)
    started = time.process_time()
    for _ in range(20):
        pictures.open_image(data, "it", BOUNDED).close()
    bounded = time.process_time() - started
    with pictures.open_image(data) as image:
        started = time.process_time()
        image.load()
    assert bounded < 20 * (time.process_time() - started)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process of its own")
def test_without_memory_a_picture_is_refused() -> None:
    data = saved("PNG", Image.new("L", (9000, 9000)))
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1))
        try:
            encode_image(data, 120e6, 1e6, ROOM)
        except Refused:
            os._exit(7)
        except BaseException:  # noqa: BLE001 - the exit status says that it was another one
            os._exit(8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
