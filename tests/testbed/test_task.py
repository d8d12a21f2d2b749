"""The synthetic pictures: what is true about them is true, and they are functions of their seed."""

import numpy as np
import pytest

from swift_thyme.testbed.data import picture_rng
from swift_thyme.testbed.task import (
    GRID,
    PICTURE_SIZE,
    VIEW_SIZE,
    WINDOW_SIZE,
    Box,
    choose_window,
    make_picture,
    shows_plate,
)


def yellow_box(pixels):
    """Find the plate by its colour: much red and green, little blue."""
    red, green, blue = (pixels[:, :, i].astype(int) for i in range(3))
    rows, columns = np.nonzero((red > 170) & (green > 140) & (blue < 90))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("index", range(20))
def test_the_yellow_area_of_a_picture_is_where_the_plate_is_said_to_be(index):
    picture = make_picture(picture_rng(0, "eval", index))
    assert picture.pixels.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
    assert 10 <= int(picture.number) <= 99
    assert yellow_box(picture.pixels) == picture.plate


def test_equal_seeds_give_equal_pictures_and_other_seeds_other_ones():
    first = make_picture(picture_rng(3, "rl", 5))
    again = make_picture(picture_rng(3, "rl", 5))
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.number, first.plate) == (again.number, again.plate)
    for other in (picture_rng(3, "rl", 6), picture_rng(4, "rl", 5), picture_rng(3, "eval", 5)):
        assert not np.array_equal(first.pixels, make_picture(other).pixels)


def test_two_numbers_differ_by_little_in_the_small_view_and_by_much_in_the_crop():
    """The mean contrast inside the plate: digits blur away when the whole picture shrinks."""
    small, enlarged = [], []
    for index in range(20):
        picture = make_picture(picture_rng(1, "eval", index))
        plate = picture.plate
        view = picture.image().resize((VIEW_SIZE, VIEW_SIZE))
        scale = VIEW_SIZE / PICTURE_SIZE
        inside = [round(v * scale) + shift for v, shift in zip(plate, (1, 1, -1, -1), strict=True)]
        small.append(np.asarray(view.crop(inside).convert("L")).std())
        inside = [v + shift for v, shift in zip(plate, (4, 4, -4, -4), strict=True)]
        enlarged.append(np.asarray(picture.image().crop(inside).convert("L")).std())
    assert np.mean(enlarged) > 2 * np.mean(small)


def test_windows_without_spread_always_show_the_plate_and_wide_ones_often_miss_it():
    rng = np.random.default_rng(0)
    plates = [make_picture(picture_rng(0, "rl", i)).plate for i in range(30)]
    shown = [[shows_plate(choose_window(p, rng, s), p) for p in plates] for s in (0.0, 40.0)]
    assert all(shown[0])
    assert 0.1 < np.mean(shown[1]) < 0.7


@pytest.mark.parametrize("spread_px", [0.0, 24.0, 500.0])
def test_windows_lie_on_the_grid_inside_the_picture(spread_px):
    rng = np.random.default_rng(0)
    for left in (4, 200, 404):
        window = choose_window(Box(left, 4, left + 40, 28), rng, spread_px)
        assert all(v % GRID == 0 and 0 <= v <= PICTURE_SIZE for v in window)
        assert window.right - window.left == window.bottom - window.top == WINDOW_SIZE


def test_a_plate_that_is_cut_off_is_not_shown():
    plate = Box(100, 100, 140, 124)
    assert shows_plate(Box(100, 100, 196, 196), plate)
    assert not shows_plate(Box(101, 100, 197, 196), plate)
    assert not shows_plate(Box(32, 100, 139, 196), plate)
