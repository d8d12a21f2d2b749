"""Draws one item of each kind, and what a model sees of it, into one picture.

PYTHONPATH=scripts python -m prove.show_items docs/results_items.jpg
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from prove.items import KINDS, make_item, scene_options
from prove.pictures import CELLS, VIEW_SIZE, choose_window, draw_scene

_SIDE = 224


def main(out: str) -> None:
    sheet = Image.new("RGB", (len(KINDS) * (_SIDE + 6), _SIDE + 2 * VIEW_SIZE + 40), "white")
    draw = ImageDraw.Draw(sheet)
    for column, kind in enumerate(KINDS):
        rng = np.random.default_rng([11, column])
        scene = draw_scene(rng, size=448, **scene_options(kind))
        item = make_item(kind, scene, rng)
        plate = scene.plates[item.colour]
        cell = scene.image.width // CELLS
        window = choose_window(plate, rng, 0.0)
        view = (VIEW_SIZE, VIEW_SIZE)
        crop = scene.image.crop(tuple(v * cell for v in window)).resize(view)
        if scene.pale:
            crop = ImageOps.autocontrast(crop)
        left = column * (_SIDE + 6)
        draw.text((left + 4, 4), f"{kind}: {item.answer}", fill="black")
        sheet.paste(scene.image.resize((_SIDE, _SIDE)), (left, 20))
        # As the model sees it, and what it can have with the tool, in the model's own pixels.
        sheet.paste(scene.image.resize(view, Image.Resampling.BICUBIC), (left + 56, _SIDE + 26))
        sheet.paste(crop, (left + 56, _SIDE + VIEW_SIZE + 32))
    sheet.save(out, quality=88)


if __name__ == "__main__":
    main(sys.argv[1])
