#!/usr/bin/env python
"""Take the picture of a page of `thyme view` for the documents, in a headless Chromium."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.view.chromium import Page  # noqa: E402


def main() -> None:
    """Open, wait for the pictures, shoot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "viewer.png")
    parser.add_argument("--id", default="", help="trajectory to open; default: the first")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1440, help="of the window, in CSS pixels")
    parser.add_argument("--height", type=int, default=940)
    parser.add_argument("--press", default="", help="keys to press first: c, g, b, r ...")
    arguments = parser.parse_args()
    with Page() as page:
        page.resize(arguments.width, arguments.height, 1.25)
        page.colours("dark" if arguments.dark else "light")
        page.open(arguments.page.resolve().as_uri() + (f"#{arguments.id}" if arguments.id else ""))
        for key in arguments.press:
            page.press(key)
        page.evaluate("Promise.all([...document.images].filter(i => i.src).map(i => i.decode()))")
        page.screenshot(arguments.out)
        if page.errors:
            raise SystemExit("\n".join(page.errors))
    with Image.open(arguments.out) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
