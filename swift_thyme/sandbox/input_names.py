"""The names by which programs call their input image."""

from __future__ import annotations

from types import FrameType

__all__ = ["INPUT_NAMES", "holds_input"]

INPUT_NAMES = frozenset({"image_path", "img_path", "input_path", "input_image_path", "image_file"})


def holds_input(path: str, frame: FrameType | None) -> bool:
    """Tell whether a variable with such a name holds a path, in a frame of a program.

    Args:
        path: The path.
        frame: Where to begin to look; its callers are looked at too.
    """
    while frame is not None:
        if not frame.f_code.co_filename.startswith("<block "):
            frame = frame.f_back
            continue
        for names in (frame.f_locals, frame.f_globals):
            for name in INPUT_NAMES & names.keys():
                value = names[name]
                if type(value) is str and value == path:
                    return True
        frame = frame.f_back
    return False
