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
import sys
import warnings
from typing import Any, NamedTuple, NoReturn

from swift_thyme.core.images import ImageError, ImageFault
from swift_thyme.sandbox import linux
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.confine import close_descriptors, confine_encoder
from swift_thyme.sandbox.files import FileView
from swift_thyme.sandbox.frames import FrameReader
from swift_thyme.sandbox.messages import (
    MAX_NOTE_CHARS,
    FindImages,
    Finished,
    FoundImage,
    ImagesFound,
    KeepFiles,
    Message,
    RebaseFiles,
    SavedFile,
    decode_frame,
    encode_frame,
)
from swift_thyme.sandbox.output import Hints, changed_limit, find_paths, shown_name
from swift_thyme.sandbox.session_config import SessionConfig
from swift_thyme.sandbox.wire import clean_text

__all__ = [
    "MIN_SIDE",
    "Refused",
    "encode_image",
    "encoder_main",
    "prepare_encoders",
]

MIN_SIDE = 28
"""Smallest side in pixels that a Qwen2.5-VL processor accepts (one merged patch)."""
_MIB = 1024 * 1024
_QUALITY = 95
_JPEG_END = b"\xff\xd9"


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
    from PIL import Image

    from swift_thyme.core import pictures

    try:
        image: Any = pictures.open_image(raw, "it", pictures.ImageLimits(math.inf, max_pixels))
    except ImageError as error:
        raise _refusal(error) from error
    _, _, (width, height), turn = pictures.header_of(image)
    fits = width * height <= returned_pixels and min(width, height) >= MIN_SIDE
    if fits and image.format == "JPEG" and image.mode == "RGB" and turn == 1:
        data = _recode_jpeg(raw)
        if data is not None:
            return Encoded(data, width, height, ())
    repairs: list[str] = []
    kind = "JPEG" if image.format == "JPEG" else "PNG"
    try:
        with pictures.decoding("it"):
            scale = math.sqrt(returned_pixels / (width * height))
            if scale < 1:
                # A JPEG is decoded at a fraction of its size; which side is which matters little.
                image.draft("RGB", (int(image.width * scale), int(image.height * scale)))
            image = pictures.flat(pictures.upright(image))
            if scale < 1:
                size = (max(1, int(width * scale)), max(1, int(height * scale)))
                image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
                repairs.append("shrink_large_image")
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
    except ImageError as error:
        raise _refusal(error) from error
    return Encoded(output.getvalue(), image.width, image.height, tuple(repairs))


def _refusal(error: ImageError) -> Exception:
    if error.fault in (ImageFault.EMPTY, ImageFault.FORMAT):
        return NotAnImage()
    return Refused(str(error))


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

    def answer(self, request: FindImages | KeepFiles | RebaseFiles) -> Message | None:
        """Return the answer to a message, None where it has none."""
        if isinstance(request, FindImages):
            return self._find(request)
        if isinstance(request, RebaseFiles):
            self._view.rebase()
            return Finished()
        self._view.keep()
        return None

    def _find(self, request: FindImages) -> ImagesFound:
        settings = self._config.settings
        changed = self._view.changed()[: changed_limit(settings)]
        hints = Hints(request.saved, request.aliases)
        found = find_paths(request.text, hints, changed, request.inputs, self._config)
        images: list[FoundImage] = []
        returned = 0
        for path, (start, end, shown) in zip(found.paths, found.places, strict=True):
            place = (start, end, shown_name(shown))
            if returned >= settings.images:
                refused = f"a block can return {settings.images} images"
                images.append(FoundImage(*place, refused))
                continue
            try:
                raw = _read_file(path, settings.image_mb * _MIB)
                encoded = encode_image(
                    raw, settings.image_megapixels * 1e6, settings.returned_megapixels * 1e6
                )
            except NotAnImage:
                continue
            except Refused as error:
                images.append(FoundImage(*place, clean_text(str(error), MAX_NOTE_CHARS)))
                continue
            returned += 1
            size = (encoded.width, encoded.height)
            images.append(FoundImage(*place, None, encoded.data, *size, encoded.repairs))
        return ImagesFound(tuple(images), tuple(dict.fromkeys(found.repairs)))


def _rehearse(encoder: _Encoder, config: SessionConfig) -> None:
    """Do once what the images of a block need, so that code and memory are at hand for them."""
    path = f"{config.folders.output}/rehearsal.jpg"
    request = FindImages(f"{path}\n", (SavedFile(0, path),), {}, (), 1.0)
    for frame in FrameReader().feed(encode_frame(request)):
        answer = encoder.answer(decode_frame(frame, FindImages))
        assert answer is not None
        encode_frame(answer)
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
    import swift_thyme.core.pictures  # noqa: F401 - loaded here, it is there in all of them

    _rehearsal_image()


def encoder_main(connection: socket.socket, config: SessionConfig, library_bytes: int) -> NoReturn:
    """Serve encoding requests in a process that was just forked; never returns."""
    from PIL import Image

    try:
        warnings.simplefilter("ignore")
        # The settings of the sandbox hold here, and each image is checked against them.
        Image.MAX_IMAGE_PIXELS = None
        close_descriptors({connection.fileno()})
        if linux.SUPPORTED:
            linux.prctl(linux.PR_SET_DUMPABLE, 0)
        confine_encoder(config, library_bytes)
        encoder = _Encoder(config)
        if config.settings.uses(Acceleration.ENCODER_REHEARSAL):
            _rehearse(encoder, config)
        reader = FrameReader()
        while True:
            data = connection.recv(1 << 16)
            if not data:
                break
            for frame in reader.feed(data):
                request: Any = decode_frame(frame, FindImages, KeepFiles, RebaseFiles)
                answer = encoder.answer(request)
                if answer is not None:
                    connection.sendall(encode_frame(answer))
    finally:
        os._exit(0)
