"""The encoder: decodes the images that a block wrote and encodes them again.

A confined process of the session that never runs code of the model. It opens only regular files,
reads the header before any pixel, and answers with JPEG or PNG bytes of its own making, so that
the trainer never opens a file that the model's code wrote. If a decoder is broken into, it can
lie about the images of its own session and nothing else. It also finds out which files a block
wrote: one question and one answer per block, where asking another process would cost a second
pair of wake-ups.

An image is refused, with a note for the model, whatever happens while it is read: nothing that a
file is, or does to a decoder, ends the encoder, short of a crash in C code. It works as long as
the block's time lasts; a decoder that is in C by then is ended from outside.
"""

from __future__ import annotations

import functools
import io
import math
import os
import socket
import stat
import sys
import time
import warnings
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

from swift_thyme.core.images import ImageError, ImageFault, sniff
from swift_thyme.sandbox import linux
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.confine import close_descriptors, confine_encoder
from swift_thyme.sandbox.files import FileView
from swift_thyme.sandbox.frames import FrameReader
from swift_thyme.sandbox.message_codec import Message, decode_frame, encode_frame
from swift_thyme.sandbox.messages import (
    MAX_CHANGED,
    MAX_NOTE_CHARS,
    FindImages,
    Finished,
    FoundImage,
    ImagesFound,
    KeepFiles,
    RebaseFiles,
    SavedFile,
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
_HEAD_BYTES = 32
_MAX_PNG = 16 * _MIB
"""A PNG of more comes back as a JPEG: noise of 12.8 million pixels has 38 MB, as a JPEG 15 MB."""


class Refused(Exception):
    """An image that cannot be returned; the text is for the model."""


class NotAnImage(Exception):
    """The file does not even claim to be an image."""


class _NoRoom(Exception):
    """The images of the block that are done leave no room for this one."""


class _Time(NamedTuple):
    """The end of the time for the images of a block."""

    end: float
    """On the monotonic clock."""

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end


class Encoded(NamedTuple):
    """An image in the form in which it is returned."""

    data: bytes
    width: int
    height: int
    repairs: tuple[str, ...]


def encode_image(
    raw: bytes, max_pixels: float, returned_pixels: float, room: int | None = None
) -> Encoded:
    """Decode an image and encode it again: a JPEG as a JPEG, anything else as a PNG.

    With little room, what is lossy already comes back as a JPEG too, and so does a large PNG.

    Args:
        raw: Content of the file.
        max_pixels: Larger images are refused before a pixel is decoded.
        returned_pixels: Larger images are reduced to this many pixels.
        room: The most bytes that it can have. None is for images of our own: there is no limit on
            what comes back, nor on the work that decoding takes.

    Raises:
        NotAnImage: The bytes are of no image format.
        Refused: It is too large, broken, takes too long, or its aspect ratio is over 200.
        _NoRoom: It has more bytes than there is room for.
    """
    from PIL import Image

    from swift_thyme.core import picture_work, pictures

    limits = pictures.ImageLimits(math.inf, max_pixels, bounded=room is not None)
    try:
        image: Any = pictures.open_image(raw, "it", limits)
    except ImageError as error:
        raise _refusal(error) from error
    _, _, (width, height), turn = pictures.header_of(image)
    fits = width * height <= returned_pixels and min(width, height) >= MIN_SIDE
    if fits and image.format == "JPEG" and image.mode == "RGB" and turn == 1:
        data = _recode_jpeg(raw)
        if data is not None:
            return Encoded(_fitting(data, room), width, height, ())
    repairs: list[str] = []
    is_jpeg = image.format == "JPEG" or (room is not None and picture_work.is_lossy(raw))
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
            data = None if is_jpeg else _png(image, room)
            if data is None:
                data = pictures.jpeg_bytes(image, _QUALITY)
    except ImageError as error:
        raise _refusal(error) from error
    return Encoded(_fitting(data, room), image.width, image.height, tuple(repairs))


def _png(image: Any, room: int | None) -> bytes | None:
    """Return an image as a PNG; None where that is too large, as of noise."""
    output = io.BytesIO()
    image.save(output, "PNG", compress_level=1)
    return output.getvalue() if room is None or output.tell() <= min(room, _MAX_PNG) else None


def _fitting(data: bytes, room: int | None) -> bytes:
    if room is not None and len(data) > room:
        raise _NoRoom
    return data


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


def _open_file(path: str) -> int:
    """Open a regular file, whatever else may be at its path.

    Raises:
        NotAnImage: There is none.
        Refused: It may not be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except PermissionError as error:
        raise Refused("the file may not be read") from error
    except (OSError, ValueError) as error:  # no path that a system takes, such as one with a zero
        raise NotAnImage from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAnImage
    return descriptor


def _read_file(descriptor: int, max_bytes: int) -> bytes:
    """Return what a file held when it was opened, or less where it shrank since."""
    size = os.fstat(descriptor).st_size
    if size > max_bytes:
        raise Refused(f"the file is over {max_bytes // _MIB} MiB")
    pieces = []
    while size > 0 and (piece := os.read(descriptor, size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


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

    def rehearse(self) -> None:
        """Do once what the images of a block need, so that code and memory are at hand for them.

        No file is read: one may have made the encoder before this one fail. None becomes the base
        either: the session's first program may be running, and what it saves is news.
        """
        self._view.changed()
        path = f"{self._config.folders.output}/rehearsal.jpg"
        request = FindImages(f"{path}\n", (SavedFile(0, path),), {}, (), 1.0, changed=())
        for frame in FrameReader().feed(encode_frame(request)):
            encode_frame(self._find(decode_frame(frame, FindImages)))
        encode_image(_rehearsal_image(), 1e6, 1e6, _MAX_PNG)

    def _find(self, request: FindImages) -> ImagesFound:
        time_left = _Time(time.monotonic() + request.budget_s)
        settings = self._config.settings
        if request.changed is None:
            changed = self._view.changed()[: changed_limit(settings)]
        else:
            changed = list(request.changed)
        hints = Hints(request.saved, request.aliases)
        found = find_paths(request.text, hints, changed, request.inputs, self._config)
        images: list[FoundImage] = []
        was_shown: list[FoundImage] = []
        shown_paths = {item.path for item in request.saved if item.shown}
        returned = 0
        room = settings.returned_mb * _MIB
        for path, (start, end, shown) in zip(found.paths, found.places, strict=True):
            place = (start, end, shown_name(shown))
            try:
                encoded = self._read(path, returned, room, time_left)
            except NotAnImage:
                continue
            except Refused as error:
                images.append(FoundImage(*place, clean_text(str(error), MAX_NOTE_CHARS)))
                continue
            except Exception:  # noqa: BLE001 - a file costs its own image, not those of others
                images.append(FoundImage(*place, "it cannot be decoded"))
                continue
            returned += 1
            room -= len(encoded.data)
            size = (encoded.width, encoded.height)
            printed = shown not in found.only_saved
            images.append(FoundImage(*place, None, encoded.data, *size, encoded.repairs, printed))
            if shown in shown_paths:
                was_shown.append(images[-1])
        images = _each_once(images, was_shown)
        repairs = tuple(dict.fromkeys(found.repairs))
        return ImagesFound(tuple(images[:MAX_CHANGED]), repairs, found.left_out)

    def _read(self, path: str, returned: int, room: int, time_left: _Time) -> Encoded:
        """Return the image in a file.

        Args:
            path: The file.
            returned: Images of the block that are done.
            room: Bytes that it can have.
            time_left: When it is too late to begin.

        Raises:
            NotAnImage: It is none.
            Refused: It is not returned.
        """
        settings = self._config.settings
        descriptor = _open_file(path)
        try:
            if returned >= settings.images or time_left.over:
                # A file that is no image needs no note.
                if sniff(os.pread(descriptor, _HEAD_BYTES, 0)) is None:
                    raise NotAnImage
                if returned >= settings.images:
                    raise Refused(f"a block can return {settings.images} images")
                raise Refused("the time of the block was over")
            raw = _read_file(descriptor, settings.image_mb * _MIB)
        finally:
            os.close(descriptor)
        try:
            return encode_image(
                raw, settings.image_megapixels * 1e6, settings.returned_megapixels * 1e6, room
            )
        except _NoRoom:
            most = settings.returned_mb
            raise Refused(f"the images of a block can have {most} MiB together") from None


def _each_once(images: list[FoundImage], was_shown: list[FoundImage]) -> list[FoundImage]:
    """Leave out pictures that were shown where the same one was saved as well."""
    for image in was_shown:
        twin = next((i for i in images if i is not image and i.data == image.data), None)
        if twin is not None:
            seen = replace(twin, printed=True)
            images = [seen if i is twin else i for i in images if i is not image]
    return images


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

    avif: Any = sys.modules.get("PIL.AvifImagePlugin")
    if avif is not None:
        avif.DEFAULT_MAX_THREADS = 1  # an encoder may start none
    _rehearsal_image()


def encoder_main(connection: socket.socket, config: SessionConfig, library_bytes: int) -> NoReturn:
    """Serve encoding requests in a process that was just forked; never returns."""
    from PIL import Image

    try:
        warnings.simplefilter("ignore")
        # The settings of the sandbox hold here, and each image is checked against them.
        Image.MAX_IMAGE_PIXELS = None
        close_descriptors({connection.fileno()})
        # The keeper's folder is closed to others, and Pillow asks for the working folder.
        os.chdir("/")
        if linux.SUPPORTED:
            linux.prctl(linux.PR_SET_DUMPABLE, 0)
        confine_encoder(config, library_bytes)
        encoder = _Encoder(config)
        if config.settings.uses(Acceleration.ENCODER_REHEARSAL):
            encoder.rehearse()
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
