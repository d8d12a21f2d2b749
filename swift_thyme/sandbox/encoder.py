"""The encoder: decodes the images that a block wrote and encodes them again.

A confined process of the session that never runs code of the model. It opens only regular files,
reads the header before any pixel, and answers with JPEG or PNG bytes of its own making, so that
the trainer never opens a file that the model's code wrote. If a decoder is broken into, it can
lie about the images of its own session and nothing else. It also finds out which files a block
wrote: one question and one answer per block, where asking another process would cost a second
pair of wake-ups.
"""

from __future__ import annotations

import functools
import io
import math
import os
import socket
import stat
import struct
import sys
import warnings
from typing import Any, NamedTuple, NoReturn

from swift_thyme.sandbox import linux
from swift_thyme.sandbox.confine import close_descriptors, confine_encoder
from swift_thyme.sandbox.files import FileView
from swift_thyme.sandbox.frames import FrameReader, pack
from swift_thyme.sandbox.output import Hints, find_paths
from swift_thyme.sandbox.session_config import ImageInfo, SessionConfig

__all__ = [
    "MAX_ASPECT_RATIO",
    "MIN_SIDE",
    "Refused",
    "encode_image",
    "encoder_main",
    "prepare_encoders",
]

MIN_SIDE = 28
"""Smallest side in pixels that a Qwen2.5-VL processor accepts (one merged patch)."""
MAX_ASPECT_RATIO = 200
"""Largest aspect ratio that the same processor accepts."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_MIB = 1024 * 1024
_QUALITY = 95
_JPEG_END = b"\xff\xd9"
_KEPT_BLOCKS = 8
"""Blocks of 1 MiB that Pillow keeps between images."""
_KEPT_HEAP_BYTES = 16 * _MIB


class Refused(Exception):
    """An image that cannot be returned; the text is for the model."""


class NotAnImage(Exception):
    """The file does not even claim to be an image."""


class Encoded(NamedTuple):
    """An image in the form in which it is returned."""

    data: bytes
    width: int
    height: int
    repairs: tuple[str, ...]


def encode_image(raw: bytes, max_pixels: float, returned_pixels: float) -> Encoded:
    """Decode an image and encode it again.

    Args:
        raw: Content of the file.
        max_pixels: Larger images are refused before a pixel is decoded.
        returned_pixels: Larger images are reduced to this many pixels.

    Raises:
        NotAnImage: The bytes are of no image format.
        Refused: It is too large, broken, or its aspect ratio is over 200.
    """
    from PIL import Image, UnidentifiedImageError

    # The cap below is ours and is checked before decoding; Pillow's own would only warn.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image: Any = Image.open(io.BytesIO(raw), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise NotAnImage from error
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        raise Refused(f"its header cannot be read ({error})") from error
    width, height = image.size
    if width * height > max_pixels:
        raise Refused(
            f"{width}x{height} pixels are more than the {max_pixels / 1e6:g} million allowed"
        )
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise Refused(f"its aspect ratio ({width}x{height}) is over {MAX_ASPECT_RATIO}:1")
    fits = width * height <= returned_pixels and min(width, height) >= MIN_SIDE
    if fits and image.format == "JPEG" and image.mode == "RGB":
        data = _recode_jpeg(raw)
        if data is not None:
            return Encoded(data, width, height, ())
    repairs: list[str] = []
    kind = "JPEG" if image.format == "JPEG" else "PNG"
    try:
        if width * height > returned_pixels:
            scale = math.sqrt(returned_pixels / (width * height))
            size = (max(1, int(width * scale)), max(1, int(height * scale)))
            image.draft("RGB", size)
            image = _rgb(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
            repairs.append("shrink_large_image")
        image = _rgb(image)
        if min(image.size) < MIN_SIDE:
            scale = MIN_SIDE / min(image.size)
            size = tuple(max(MIN_SIDE, round(side * scale)) for side in image.size)
            image = image.resize(size, Image.Resampling.BICUBIC)
            repairs.append("enlarge_small_image")
        output = io.BytesIO()
        if kind == "JPEG":
            image.save(output, "JPEG", quality=_QUALITY)
        else:
            image.save(output, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError) as error:
        raise Refused(f"it cannot be decoded ({type(error).__name__}: {error})") from error
    return Encoded(output.getvalue(), image.width, image.height, tuple(repairs))


def _recode_jpeg(raw: bytes) -> bytes | None:
    """Decode an RGB JPEG and encode it again with OpenCV, in half of Pillow's time.

    Returns:
        None where only Pillow can tell what is wrong with it.
    """
    cv2, numpy = sys.modules.get("cv2"), sys.modules.get("numpy")
    # OpenCV fills up with grey what a truncated file lacks; Pillow refuses it.
    if cv2 is None or numpy is None or not raw.rstrip(b"\0").endswith(_JPEG_END):
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(numpy.frombuffer(raw, numpy.uint8), flags)
        if pixels is None:
            return None
        _, data = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    except cv2.error:
        return None
    return bytes(data)


def _rgb(image: Any) -> Any:
    """Return the image as RGB: transparency on white, 16-bit grey scaled to 8 bits."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        _, high = image.getextrema()
        scale = 255.0 / 65535.0 if high > 255 else 1.0
        image = image.convert("F").point(lambda value: value * scale)
        return image.convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _read_file(path: str, max_bytes: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise NotAnImage from error
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise NotAnImage
        if info.st_size > max_bytes:
            raise Refused(f"the file is over {max_bytes // _MIB} MiB")
        return file.read(info.st_size)


class _Encoder:
    """Answers the worker's questions about the files of one session."""

    def __init__(self, config: SessionConfig) -> None:
        self._config = config
        self._view = FileView(config.folders.writable)

    def answer(self, request: dict[str, Any]) -> bytes | None:
        """Return the bytes to send back, None where nothing is to be sent."""
        operation = request["op"]
        if operation == "keep":
            self._view.keep()
            return None
        if operation == "rebase":
            self._view.rebase()
            return pack({})
        return self._collect(request)

    def _collect(self, request: dict[str, Any]) -> bytes:
        settings = self._config.settings
        changed = self._view.changed()[: 4 * settings.images + 64]
        inputs = [ImageInfo(*item) for item in request["inputs"]]
        hints = Hints([(place, path) for place, path in request["events"]], request["aliases"])
        found = find_paths(request["text"], hints, changed, inputs, self._config)
        images: list[dict[str, Any]] = []
        blobs: list[bytes] = []
        for path in found.paths:
            item: dict[str, Any] = {}
            images.append(item)
            if len(blobs) >= settings.images:
                item["refused"] = f"a block can return {settings.images} images"
                continue
            try:
                raw = _read_file(path, settings.image_mb * _MIB)
                encoded = encode_image(
                    raw, settings.image_megapixels * 1e6, settings.returned_megapixels * 1e6
                )
            except NotAnImage:
                continue
            except Refused as error:
                item["refused"] = str(error)
                continue
            item["blob"] = len(blobs)
            item["width"], item["height"] = encoded.width, encoded.height
            item["repairs"] = list(encoded.repairs)
            blobs.append(encoded.data)
        return pack({"places": found.places, "repairs": found.repairs, "images": images}, blobs)


def _keep_memory() -> None:
    """Reuse the memory of one image for the next: fresh pages cost more than decoding a crop."""
    from PIL import Image

    Image.core.set_blocks_max(_KEPT_BLOCKS)  # type: ignore[attr-defined]  # not in the stubs
    linux.keep_heap(_KEPT_HEAP_BYTES)


def _rehearse(encoder: _Encoder, config: SessionConfig) -> None:
    """Do once what the images of a block need, so that code and memory are at hand for them."""
    path = f"{config.folders.output}/rehearsal.jpg"
    request = {"text": f"{path}\n", "events": [(0, path)], "aliases": {}, "inputs": []}
    for frame in FrameReader().feed(pack({"op": "collect", **request})):
        encoder.answer(frame.header)
    encode_image(_rehearsal_image(), 1e6, 1e6)


@functools.cache
def _rehearsal_image() -> bytes:
    from PIL import Image

    picture = io.BytesIO()
    noise = Image.effect_noise((120, 90), 64).convert("RGB")
    noise.resize((480, 360), Image.Resampling.BICUBIC).save(picture, "JPEG")
    return picture.getvalue()


def prepare_encoders() -> None:
    """Make what every encoder needs and none changes; in the process that forks them."""
    _rehearsal_image()


def encoder_main(connection: socket.socket, config: SessionConfig, library_bytes: int) -> NoReturn:
    """Serve encoding requests in a process that was just forked; never returns."""
    try:
        warnings.simplefilter("ignore")
        close_descriptors({connection.fileno()})
        if linux.SUPPORTED:
            linux.prctl(linux.PR_SET_DUMPABLE, 0)
        confine_encoder(config, library_bytes)
        _keep_memory()
        encoder = _Encoder(config)
        _rehearse(encoder, config)
        reader = FrameReader()
        while True:
            data = connection.recv(1 << 16)
            if not data:
                break
            for frame in reader.feed(data):
                answer = encoder.answer(frame.header)
                if answer is not None:
                    connection.sendall(answer)
    finally:
        os._exit(0)
