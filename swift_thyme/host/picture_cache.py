"""Pictures are decoded and resized once, however often a rollout encodes them.

The prompt's pictures are encoded for the prompt's length, for every turn of every trajectory of the
group, and for training; returned pictures for their length, for later turns and for training. Each
time ms-swift decodes the file and resizes the pixels anew. Here both results are kept, by the
content of the file, up to ``THYME_PICTURES_MB``. The oldest ones go first.

Three functions are replaced: ``Template._load_image``, which decodes; ``rescale_image``, which
shrinks to ``--max_pixels``; and ``qwen_vl_utils.fetch_image``, which fits the size to the model's
patches. A picture that is handed out is shared, so nobody may change its pixels; the functions that
take pictures in ms-swift, transformers and vLLM make new ones.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from PIL import Image

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import DataError
from swift_thyme.core.images import read

__all__ = ["PictureCache", "install_picture_cache", "shared_pictures"]

_BYTES_PER_PIXEL = 4
"""Of a picture in Pillow's memory, with three channels too."""
_KEY = "thyme_key"
"""The attribute by which a picture that was handed out is known again."""


class _Entry:
    """A picture that is made once, by the first who asks for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.picture: Image.Image | None = None


class PictureCache:
    """Pictures by what they were made of; safe to use from any thread.

    Args:
        most_bytes: What the pictures may take together, in bytes of their pixels.

    Attributes:
        made: How many pictures were made so far.
    """

    def __init__(self, most_bytes: int) -> None:
        self.made = 0
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Hashable, ...], make: Callable[[], Image.Image]) -> Image.Image:
        """Return a picture, which others have too.

        Args:
            key: What it is made of.
            make: Makes it; not called where it is there. Its error is the caller's.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.picture is None:
                try:
                    picture = make()
                    picture.load()
                except BaseException:
                    with self._lock:
                        self._entries.pop(key, None)
                    raise
                # One that came back as it went in keeps its first name.
                vars(picture).setdefault(_KEY, key)
                entry.picture = picture
                self._keep(key, entry)
            return entry.picture

    def _keep(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            self.made += 1
            if self._entries.get(key) is not entry:
                return
            self._bytes += _size(entry.picture)
            for oldest in list(self._entries):
                if self._bytes <= self._most_bytes:
                    return
                # One that is being made has no size yet.
                if self._entries[oldest].picture is not None:
                    self._bytes -= _size(self._entries.pop(oldest).picture)

    def clear(self) -> None:
        """Forget all pictures."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0


def _size(picture: Image.Image | None) -> int:
    return picture.width * picture.height * _BYTES_PER_PIXEL if picture is not None else 0


@functools.cache
def shared_pictures() -> PictureCache:
    """Return the pictures of this process.

    Raises:
        SettingsError: ``THYME_PICTURES_MB`` cannot be used.
    """
    return PictureCache(Reader().count("THYME_PICTURES_MB") << 20)


def _content(image: Any) -> bytes | None:
    """Return the file of an image in any form of ms-swift; None where it cannot be told."""
    if isinstance(image, Image.Image):
        return None
    try:
        return read(image)
    except DataError:
        # ms-swift has its own word for what cannot be read.
        return None


def _made_of(picture: Any, *how: object) -> tuple[Hashable, ...] | None:
    """Return the name of what is made of a picture; None where the picture is not known."""
    key = getattr(picture, _KEY, None)
    return None if key is None else (*key, *map(repr, how))


def install_picture_cache() -> None:
    """Let ms-swift's templates prepare each picture once (idempotent).

    Does nothing with ``THYME_PICTURES_MB=0``. To be called after the functions that change how
    pictures are decoded.
    """
    from swift.template import Template, base
    from swift.template.templates.qwen import Qwen2VLTemplate

    if getattr(base.rescale_image, "thyme_keeps", False) or not Reader().count("THYME_PICTURES_MB"):
        return
    pictures = shared_pictures()
    for owner in (Template, Qwen2VLTemplate):
        if "_load_image" in vars(owner):
            owner._load_image = staticmethod(_keeping_loaded(owner._load_image, pictures))
    base.rescale_image = _keeping_rescaled(base.rescale_image, pictures)
    _keep_fetched(pictures)


def _keeping_loaded(load_image: Callable[..., Any], pictures: PictureCache) -> Callable[..., Any]:
    @functools.wraps(load_image)
    def _load_image(image: Any, load_images: bool) -> Any:
        content = _content(image) if load_images else None
        if content is None:
            return load_image(image, load_images)
        key = (hashlib.blake2b(content, digest_size=16).digest(),)
        return pictures.get(key, lambda: load_image(image, load_images))

    return _load_image


def _keeping_rescaled(rescale: Callable[..., Any], pictures: PictureCache) -> Callable[..., Any]:
    @functools.wraps(rescale)
    def rescale_image(img: Any, max_pixels: int) -> Any:
        key = _made_of(img, "at most", max_pixels)
        if key is None:
            return rescale(img, max_pixels)
        return pictures.get(key, lambda: rescale(img, max_pixels))

    rescale_image.thyme_keeps = True  # type: ignore[attr-defined]
    return rescale_image


def _keep_fetched(pictures: PictureCache) -> None:
    try:
        import qwen_vl_utils
    except ImportError:
        # Models of other families do without it.
        return
    fetch = qwen_vl_utils.fetch_image

    @functools.wraps(fetch)
    def fetch_image(ele: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        how = sorted((name, value) for name, value in ele.items() if name != "image")
        key = _made_of(ele.get("image"), "fitted", how, args, sorted(kwargs.items()))
        if key is None:
            return fetch(ele, *args, **kwargs)
        return pictures.get(key, lambda: fetch(ele, *args, **kwargs))

    qwen_vl_utils.fetch_image = fetch_image
