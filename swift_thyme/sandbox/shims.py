"""What calls of image libraries do differently in the sandbox.

Shown pictures are saved and returned, saving to a place that does not exist is repaired, and
saved files are noted with their place between the prints. The wrappers run in the same process
as the model's code and protect nothing: they are conveniences, the walls are elsewhere. A call that
fails for want of a repair is only noted in the first run of a block, and repaired in a second one.
Saving where nothing can be written is repaired at once: elsewhere the program would be right.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from swift_thyme.core.pictures import flat
from swift_thyme.sandbox import crop_watch, figures, path_map
from swift_thyme.sandbox.crop_watch import CROPS
from swift_thyme.sandbox.input_names import holds_input
from swift_thyme.sandbox.mending import Mending
from swift_thyme.sandbox.path_map import MOVED
from swift_thyme.sandbox.rootfs import MOUNTED, OUTPUT_FOLDER, PrivateFolders
from swift_thyme.sandbox.session_config import ImageInfo

__all__ = ["Recorder", "install", "start"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
_NO_ALPHA_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")


class Recorder:
    """What a block saved, showed and had repaired."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []
        self.aliases: dict[str, str] = {}
        self.repairs: list[str] = []
        self.images: list[ImageInfo] = []
        self.shown: set[str] = set()
        self.folders: PrivateFolders = MOUNTED
        self.mending = Mending()
        self.missed = Mending()
        """What would have been repaired in this run, had it been told to."""
        self.block = 0
        self._stdout: io.TextIOWrapper | None = None
        self._raw: Any = None
        self._serial = 0

    def begin(
        self,
        images: list[ImageInfo],
        folders: PrivateFolders,
        mending: Mending,
        stdout: io.TextIOWrapper,
        raw: Any,
    ) -> None:
        """Start a block; numbering of shown pictures goes on."""
        self.events, self.repairs, self.aliases = [], [], {}
        self.mending, self.missed = mending, Mending()
        MOVED.used = self.aliases
        self.shown = set()
        self.block += 1
        self.images, self.folders = images, folders
        self._stdout, self._raw = stdout, raw

    def saved(self, path: str) -> None:
        """Note an image file that the block wrote."""
        if self._stdout is not None:
            self._stdout.flush()
            self.events.append((self._raw.count, os.path.abspath(path)))

    def withdrawn(self, path: str, instead: str) -> None:
        """Remove a file that was shown: the picture is in another one."""
        self.events = [event for event in self.events if event[1] != path]
        self.was_shown(instead)
        with contextlib.suppress(OSError):
            os.remove(path)

    def was_shown(self, path: str) -> None:
        """Note that a file that was saved is one that the program showed, too."""
        self.shown.add(os.path.abspath(path))

    def repaired(self, name: str) -> None:
        """Note the name of a repair."""
        self.repairs.append(name)

    def may_repair_call(self) -> bool:
        """Tell whether a call that fails is repaired in this run; note that one did."""
        if not self.mending.calls:
            self.missed |= Mending(calls=True)
        return self.mending.calls

    def figure_path(self, stem: str) -> str:
        """Return a new file name in the output folder for a picture that is shown."""
        while True:
            self._serial += 1
            path = f"{OUTPUT_FOLDER}/{stem}_{self._serial}.png"
            if not os.path.exists(path):
                self.shown.add(path)
                return path

    def print_processed_path(self, value: Any) -> None:
        """Print `processed_path` where a block set it, wrote the file and forgot to print it."""
        if not isinstance(value, str) or self._stdout is None or not os.path.isfile(value):
            return
        self._stdout.flush()
        if not self._raw.printed:
            self.repaired("print_processed_path")
            self._stdout.write(value + "\n")


RECORDER = Recorder()


def start(
    images: list[ImageInfo],
    folders: PrivateFolders,
    mending: Mending,
    stdout: io.TextIOWrapper,
    raw: Any,
) -> Recorder:
    """Begin a block and return its recorder."""
    RECORDER.begin(images, folders, mending, stdout, raw)
    CROPS.begin(mending.crops, RECORDER.repairs)
    return RECORDER


def install(imread_in_place: bool) -> None:
    """Wrap the image libraries that are loaded; called once per worker."""
    if "cv2" in sys.modules:
        _install_cv2(sys.modules["cv2"], imread_in_place)
    if "PIL.Image" in sys.modules:
        _install_pillow(sys.modules["PIL.Image"])
    if "matplotlib.pyplot" in sys.modules:
        figures.install(sys.modules["matplotlib.pyplot"], RECORDER, _save_target)
    _install_folders()
    crop_watch.install()


def _input_for(path: Any) -> tuple[str, str] | None:
    """Return the input image that a missing path must have meant, and the repair's name, if any."""
    if not isinstance(path, (str, os.PathLike)):
        return None
    text = os.fspath(path)
    if not isinstance(text, str) or not RECORDER.images or os.path.exists(text):
        return None
    named = holds_input(text, sys._getframe(2))
    repair = "image_path" if named else "input_path"
    name = os.path.basename(text)
    for image in RECORDER.images:
        if os.path.basename(image.path) == name:
            return image.path, repair
    absolute = os.path.abspath(text)
    private = any(absolute.startswith(f"{folder}/") for folder in MOUNTED)
    relative_in_output = os.path.dirname(text) == "" and absolute.startswith(OUTPUT_FOLDER)
    if private and not relative_in_output:
        return None  # a file of an earlier step that is really missing
    if (len(RECORDER.images) == 1 or named) and name.lower().endswith(IMAGE_SUFFIXES):
        return RECORDER.images[0].path, repair
    return None


def _writable(path: str) -> bool:
    absolute = os.path.abspath(path)
    return any(absolute == f or absolute.startswith(f"{f}/") for f in MOUNTED)


def _output_for(path: str, raises: bool) -> str | None:
    """Return where to save instead of a path that cannot be written, or None to leave it.

    Args:
        path: What the program gives.
        raises: Whether saving where there is no folder fails, instead of doing nothing.
    """
    if _is_input(path):
        RECORDER.repaired("keep_input")
        return _free_name(os.path.basename(path))
    absolute = os.path.abspath(path)
    writable, there = _writable(absolute), os.path.isdir(os.path.dirname(absolute))
    if writable and there:
        return None
    if writable or (raises and not there):
        if not raises:
            RECORDER.missed |= Mending(folders=True)
        if not RECORDER.may_repair_call() and (raises or not RECORDER.mending.folders):
            return None
    if writable:
        os.makedirs(os.path.dirname(absolute), exist_ok=True)
        RECORDER.repaired("output_folder")
        return path
    RECORDER.repaired("output_path")
    return _free_name(os.path.basename(path))


def _is_input(path: str) -> bool:
    absolute = os.path.abspath(path)
    return any(absolute == os.path.abspath(image.path) for image in RECORDER.images)


def _free_name(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    path, serial = f"{OUTPUT_FOLDER}/{name}", 0
    while os.path.exists(path):
        serial += 1
        path = f"{OUTPUT_FOLDER}/{stem}_{serial}{suffix}"
    return path


def _alias(path: Any, real: str) -> None:
    text = os.fspath(path)
    if text != real:
        RECORDER.aliases[text] = real


def _save_target(path: Any, raises: bool = True) -> Any:
    """Return the path to save to, with the repairs noted."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        return path
    place = path_map.moved(path)
    if place is not path:  # in a folder, or over a file, that was moved
        RECORDER.repaired("keep_input" if _is_input(os.fspath(path)) else "output_path")
        target = _output_for(place, raises)
        return place if target is None else target
    target = _output_for(os.fspath(path), raises)
    if target is None:
        return path
    if target != os.fspath(path):
        MOVED.move_file(os.fspath(path), target)
    _alias(path, target)
    return target


def _imread_in_place(cv2: Any) -> Callable[..., Any]:
    """Return a `cv2.imread` that does not make everything twice.

    OpenCV decodes into memory of its own and copies that to an array, except where it is told the
    array to decode into; `None` makes it a new one. The result is the same; for a large picture in
    four fifths of the time (scripts/bench_sandbox.py).
    """
    imread: Callable[..., Any] = cv2.imread
    try:
        imread(os.devnull, None, cv2.IMREAD_COLOR)
    except (cv2.error, TypeError):
        return imread  # an OpenCV that cannot

    def read(filename: Any, *args: Any, **kwargs: Any) -> Any:
        flags = [*args, *kwargs.values()] or [cv2.IMREAD_COLOR]
        if len(flags) == 1 and type(flags[0]) is int and kwargs.keys() <= {"flags"}:
            return imread(filename, None, flags[0])
        return imread(filename, *args, **kwargs)

    return read


def _install_cv2(cv2: Any, imread_in_place: bool) -> None:
    imread = _imread_in_place(cv2) if imread_in_place else cv2.imread
    imwrite = cv2.imwrite

    @functools.wraps(cv2.imread)
    def read(filename: Any, *args: Any, **kwargs: Any) -> Any:
        image = imread(path_map.real(filename), *args, **kwargs)
        if image is None:
            meant = _input_for(filename)
            if meant is not None and RECORDER.may_repair_call():
                image = imread(path_map.real(meant[0]), *args, **kwargs)
                if image is not None:
                    RECORDER.repaired(meant[1])
        return image

    @functools.wraps(imwrite)
    def write(filename: Any, img: Any, *args: Any, **kwargs: Any) -> Any:
        target = _save_target(filename, raises=False)
        result = imwrite(path_map.real(target), img, *args, **kwargs)
        if result:
            RECORDER.saved(target)
        return result

    def show(winname: Any, mat: Any) -> None:
        path = RECORDER.figure_path("shown")
        if imwrite(path_map.real(path), _as_in_a_window(mat)):
            RECORDER.saved(path)

    cv2.imread, cv2.imwrite, cv2.imshow = read, write, show
    cv2.waitKey = lambda delay=0: -1
    cv2.waitKeyEx = lambda delay=0: -1
    for name in ("destroyAllWindows", "destroyWindow", "namedWindow", "resizeWindow", "moveWindow"):
        setattr(cv2, name, lambda *args, **kwargs: None)


def _as_in_a_window(pixels: Any) -> Any:
    """Return pixels of any kind as OpenCV's windows show them: fractions have white at 1."""
    import numpy as np

    pixels = np.asarray(pixels)
    if pixels.dtype == np.bool_ or pixels.dtype.kind == "f":
        return np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _install_pillow(module: Any) -> None:
    image_class = module.Image
    open_image, save = module.open, image_class.save

    @functools.wraps(open_image)
    def open_(fp: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return open_image(fp, *args, **kwargs)
        except FileNotFoundError:
            meant = _input_for(fp)
            if meant is None or not RECORDER.may_repair_call():
                raise
            image = open_image(meant[0], *args, **kwargs)
            RECORDER.repaired(meant[1])
            return image

    @functools.wraps(save)
    def save_(self: Any, fp: Any, format: Any = None, **params: Any) -> None:
        target = _save_target(fp)
        image = self
        if _needs_flat(self, target, format) and RECORDER.may_repair_call():
            RECORDER.repaired("flatten_alpha")
            image = flat(self)
        save(image, target, format, **params)
        if isinstance(target, (str, os.PathLike)):
            RECORDER.saved(os.fspath(target))

    def show(self: Any, title: Any = None) -> None:
        path = RECORDER.figure_path("shown")
        flat(self).save(path)

    crop = image_class.crop

    @functools.wraps(crop)
    def crop_(self: Any, box: Any = None) -> Any:
        return crop(self, CROPS.box(self.size, box, sys._getframe(1)))

    module.open, image_class.save, image_class.show = open_, save_, show
    image_class.crop = crop_


def _needs_flat(image: Any, target: Any, kind: Any) -> bool:
    if image.mode not in ("RGBA", "LA", "P", "PA"):
        return False
    if kind is not None:
        return str(kind).upper() in ("JPEG", "JPG")
    return isinstance(target, (str, os.PathLike)) and os.fspath(target).lower().endswith(
        _NO_ALPHA_SUFFIXES
    )


def _install_folders() -> None:
    mkdir = os.mkdir

    @functools.wraps(mkdir)
    def make(path: Any, *args: Any, **kwargs: Any) -> None:
        try:
            mkdir(path_map.real(path), *args, **kwargs)
        except OSError as error:
            # A folder for the output where nothing can be made: it is made in the output folder,
            # and found under its path.
            if isinstance(error, FileExistsError) or not isinstance(path, (str, os.PathLike)):
                raise
            text = os.fspath(path)
            if not isinstance(text, str) or _writable(text) or kwargs.get("dir_fd") is not None:
                raise
            if isinstance(error, FileNotFoundError) and not RECORDER.may_repair_call():
                raise
            place = _free_name(os.path.basename(os.path.abspath(text)))
            mkdir(path_map.real(place), *args, **kwargs)
            MOVED.move_folder(text, place)
            RECORDER.repaired("output_path")

    os.mkdir = make
