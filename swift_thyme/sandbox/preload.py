"""What a worker loads, so that no session has to."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import warnings

from swift_thyme.sandbox import shims
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.process_environment import session_environment
from swift_thyme.sandbox.sandbox_settings import DEFAULT_PRELOAD, SandboxSettings

__all__ = ["preload"]


def preload(settings: SandboxSettings) -> None:
    """Import the libraries; of the default ones, those that are not installed are left out.

    Raises:
        RuntimeError: A module that somebody asked for cannot be imported; the message names it.
    """
    warnings.simplefilter("ignore")
    standard = "uuid tempfile textwrap itertools functools collections datetime decimal fractions"
    standard += " statistics base64 glob shutil pathlib io csv copy string dataclasses inspect"
    for name in (*standard.split(), "PIL.ImageDraw", "PIL.ImageFont", "PIL.ImageEnhance"):
        importlib.import_module(name)
    for name in ("PIL.ImageFilter", "PIL.ImageOps", "PIL.ImageChops", "PIL.ImageStat"):
        importlib.import_module(name)
    for name in settings.preload:
        try:
            importlib.import_module(name)
        except Exception as error:
            # A module can raise whatever it likes.
            if settings.preload == DEFAULT_PRELOAD and isinstance(error, ImportError):
                continue
            raise RuntimeError(
                f"THYME_SANDBOX_PRELOAD: a sandbox worker cannot import {name!r} "
                f"({type(error).__name__}: {error}); install it where numpy is, or leave it out"
            ) from error
    _warm_up()
    shims.install(settings.uses(Acceleration.IMREAD))
    os.environ.clear()
    os.environ.update(session_environment())
    gc.collect()
    gc.freeze()


def _warm_up() -> None:
    """Use each library once, so that what it sets up on first use is shared by all sessions."""
    import io

    import cv2
    import numpy
    from PIL import Image

    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)
    picture = numpy.zeros((64, 64, 3), numpy.uint8)
    for suffix in (".png", ".jpg"):
        _, data = cv2.imencode(suffix, picture)
        cv2.imdecode(data, cv2.IMREAD_COLOR)
        Image.open(io.BytesIO(data.tobytes())).convert("RGB").resize((32, 32)).save(
            io.BytesIO(), "PNG" if suffix == ".png" else "JPEG"
        )
    cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    if "matplotlib.pyplot" in sys.modules:
        pyplot = sys.modules["matplotlib.pyplot"]
        pyplot.plot([0, 1])
        pyplot.title("text")
        pyplot.savefig(io.BytesIO())
        pyplot.close("all")
