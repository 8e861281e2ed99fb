"""Which windows a source gives, and what of a window an encoder takes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from raster_makers import spec

from rsfed.raster.geometry import cut, region, shrunk
from rsfed.raster.input_spec import BandGroup, InputSpec
from rsfed.raster.item import Window
from rsfed.raster.pixels import Strip, nodata_shares

sides = st.integers(16, 300)


@given(sides, sides, st.integers(8, 32))
def test_tiles_cover_every_pixel_and_stay_inside(width, height, size):
    covered = np.zeros((height, width), int)
    for tile in cut(width, height, None, spec("red", size=size, fit="tile")):
        assert (tile.width, tile.height) == (min(size, width), min(size, height))
        assert tile.col >= 0
        assert tile.row >= 0
        assert tile.col + tile.width <= width
        assert tile.row + tile.height <= height
        covered[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width] += 1
    assert covered.min() == 1


@given(sides, sides, st.floats(3, 40), st.floats(3, 40))
def test_tiles_at_any_sampling_distance_cover_every_pixel(width, height, across, down):
    wanted = spec("red", size=16, fit="tile", gsd=10.0)
    if 160 / across > 2 * width or 160 / down > 2 * height:
        return
    covered = np.zeros((height, width), bool)
    for tile in cut(width, height, (across, down), wanted):
        covered[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width] = True
        area = region(tile, wanted.groups[0], (across, down), wanted).within(tile)
        assert area.col >= tile.col
        assert area.row >= tile.row
        assert area.col + area.width <= tile.col + tile.width
        assert area.row + area.height <= tile.row + tile.height
    assert covered.all()


def test_last_tiles_are_shifted_inward():
    tiles = cut(40, 20, None, spec("red", size=16, fit="tile"))
    assert [(tile.col, tile.row) for tile in tiles] == [(0, 0), (16, 0), (24, 0), (0, 4), (16, 4), (24, 4)]


def test_tiles_follow_the_sampling_distance_of_the_group():
    tiles = cut(100, 100, (5.0, 5.0), spec("red", size=16, fit="tile", gsd=10.0))
    assert {(tile.width, tile.height) for tile in tiles} == {(32, 32)}
    assert len(tiles) == 16


def test_resize_and_crop_make_one_item_of_the_whole_source():
    assert cut(500, 20, None, spec("red", fit="resize")) == [Window(0, 0, 500, 20)]
    assert cut(500, 20, (10.0, 10.0), spec("red", fit="crop", gsd=10.0)) == [Window(0, 0, 500, 20)]


def test_crop_takes_the_centre_at_the_groups_sampling_distance():
    wanted = spec("red", size=16, gsd=10.0, fit="crop")
    (group,) = wanted.groups
    whole = Window(0, 0, 64, 64)
    same, finer, coarser = (region(whole, group, (gsd, gsd), wanted) for gsd in (10.0, 5.0, 20.0))
    assert (same.col, same.row, same.width, same.height) == (24, 24, 16, 16)
    assert (finer.col, finer.width) == (16, 32)
    assert (coarser.col, coarser.width) == (28, 8)
    wide = region(whole, group, (10.0, 5.0), wanted)
    assert (wide.width, wide.height) == (16, 32), "pixels may be wider than high"


def test_pixels_of_unknown_size_are_those_of_the_reduced_source():
    wanted = spec("red", size=16, fit="tile", reduction=4)
    assert [(tile.col, tile.width) for tile in cut(128, 64, None, wanted)] == [(0, 64), (64, 64)]
    cropped = spec("red", size=16, fit="crop", reduction=4)
    area = region(Window(0, 0, 100, 100), cropped.groups[0], None, cropped)
    assert (area.col, area.width) == (18, 64)


def test_groups_of_different_sampling_distance_take_the_same_ground():
    groups = tuple(
        BandGroup(name=str(gsd), bands=("red",), gsd=gsd, size=size, offset=(0,), scale=(1,))
        for gsd, size in ((10.0, 24), (20.0, 12))
    )
    wanted = InputSpec(groups=groups, fit="crop")
    areas = [region(Window(0, 0, 100, 100), group, (10.0, 10.0), wanted) for group in wanted.groups]
    assert areas[0] == areas[1]


@given(st.integers(0, 50), st.integers(1, 50), st.sampled_from([1, 2, 4, 8]))
def test_reduced_window_covers_its_window(start, length, factor):
    small = shrunk(Window(start, 0, length, 1), factor)
    assert small.col * factor <= start
    assert (small.col + small.width) * factor >= start + length
    assert small.width <= length // factor + 2


@given(st.integers(20, 60), st.integers(20, 60), st.integers(1, 13), st.integers(0, 9))
def test_nodata_shares_equal_counting_in_every_window(width, height, rows, seed):
    valid = np.random.default_rng(seed).random((height, width)) > 0.2
    windows = cut(width, height, None, spec("red", size=16, fit="tile"))
    parts = [Strip(top, np.zeros((1, 1, 1)), valid[top : top + rows]) for top in range(0, height, rows)]
    counted = [1 - valid[w.row : w.row + w.height, w.col : w.col + w.width].mean() for w in windows]
    np.testing.assert_allclose(nodata_shares(parts, windows), counted, atol=1e-12)
