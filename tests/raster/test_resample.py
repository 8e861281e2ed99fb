"""Resampling against independent oracles, and nodata that stays where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsfed.raster.pixels import Strip, reduced
from rsfed.raster.resample import resample, taps

METHODS = ("bilinear", "average", "nearest")
PIL_METHODS = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


def _values(seed, *shape):
    return np.random.default_rng(seed).normal(100, 40, shape).astype(np.float32)


def _resampled(values, size, method, valid=None, rows=10**6):
    """Resample a whole image, given in strips of so many rows."""
    height, width = values.shape[1:]
    parts = [
        Strip(top, values[:, top : top + rows], None if valid is None else valid[top : top + rows])
        for top in range(0, height, rows)
    ]
    across, down = taps(width, 0, width, size[1], method), taps(height, 0, height, size[0], method)
    return resample(parts, across, down)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("source", "target"), [((64, 64), (16, 16)), ((37, 53), (16, 24)), ((9, 12), (32, 32)), ((7, 90), (8, 8))]
)
def test_resampling_agrees_with_an_independent_one(method, source, target):
    values = _values(1, 2, *source)
    result, valid = _resampled(values, target, method)
    if method == "average":  # by area: cut every pixel into as many as there are outputs, then take means of wholes
        fine = values.repeat(target[0], axis=1).repeat(target[1], axis=2)
        wanted = fine.reshape(2, target[0], source[0], target[1], source[1]).mean(axis=(2, 4))
    else:
        resized = [Image.fromarray(band).resize(target[::-1], PIL_METHODS[method]) for band in values]
        wanted = np.stack([np.asarray(band) for band in resized])
    assert valid.all()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, wanted, atol=2e-3)


def test_average_of_a_whole_factor_is_the_mean_of_its_block():
    values = _values(2, 3, 64, 48)
    result, _ = _resampled(values, (16, 12), "average")
    np.testing.assert_allclose(result, values.reshape(3, 16, 4, 12, 4).mean(axis=(2, 4)), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_same_size_changes_nothing(method):
    values = _values(3, 4, 24, 24)
    result, valid = _resampled(values, (24, 24), method)
    assert (result == values).all()
    assert valid.all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(METHODS), st.integers(8, 60), st.integers(8, 40), st.integers(1, 9), st.integers(0, 99))
def test_result_does_not_depend_on_strips(method, source, target, rows, seed):
    values = _values(seed, 2, source, source + 3)
    valid = np.random.default_rng(seed).random(values.shape[1:]) > 0.3
    whole, usable = _resampled(values, (target, target), method, valid)
    pieces, usable_pieces = _resampled(values, (target, target), method, valid, rows)
    assert (usable == usable_pieces).all()
    np.testing.assert_allclose(pieces[:, usable], whole[:, usable], rtol=1e-4, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(METHODS), st.integers(8, 70), st.integers(8, 40), st.floats(0, 0.6), st.integers(0, 99))
def test_nodata_never_bleeds_into_its_neighbours(method, source, target, share, seed):
    valid = np.random.default_rng(seed).random((source, source)) >= share
    values = np.where(valid, np.float32(7), np.float32(-3e30))[None]
    result, usable = _resampled(values, (target, target), method, valid)
    np.testing.assert_allclose(result[0, usable], 7, rtol=1e-4)


def test_pixel_is_nodata_where_less_than_half_of_it_is_known():
    valid = np.ones((8, 8), bool)
    valid[:, :3] = False
    values = np.ones((1, 8, 8), np.float32)
    for _ in range(2):
        _, usable = _resampled(values, (4, 4), "average", valid)
        assert usable[0].tolist() == [False, True, True, True]
    valid[0:2, 2] = True
    assert _resampled(values, (4, 4), "average", valid)[1][0].tolist() == [False, True, True, True]
    valid[4:, 0:1] = True
    assert _resampled(values, (4, 4), "average", valid)[1][:, 0].tolist() == [False, False, True, True]


def test_what_lies_beyond_the_source_is_nodata():
    values = _values(4, 1, 10, 10)
    across, down = taps(10, -3, 16, 16, "bilinear"), taps(10, -3, 16, 16, "bilinear")
    result, valid = resample([Strip(0, values, None)], across, down)
    assert valid.sum() == 100
    assert (result[0, 3:13, 3:13] == values[0]).all()
    assert valid[3:13, 3:13].all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 4, 8]), st.integers(1, 11), st.floats(0, 1))
def test_reduction_is_the_mean_of_the_valid_pixels_of_each_block(height, width, factor, rows, share):
    rng = np.random.default_rng(height)
    values = rng.normal(size=(2, height, width)).astype(np.float32)
    valid = rng.random((height, width)) >= share
    parts = [Strip(top, values[:, top : top + rows], valid[top : top + rows]) for top in range(0, height, rows)]
    result = list(reduced(iter(parts), factor, height))
    assert [part.row for part in result] == list(np.cumsum([0, *(p.values.shape[1] for p in result)])[:-1])
    got, usable = (np.concatenate([getattr(p, name) for p in result], axis=-2) for name in ("values", "valid"))
    for row in range(-(-height // factor)):
        for col in range(-(-width // factor)):
            block = np.s_[row * factor : (row + 1) * factor, col * factor : (col + 1) * factor]
            known = valid[block]
            assert usable[row, col] == (known.mean() >= 0.5)
            if known.any():
                np.testing.assert_allclose(
                    got[:, row, col], values[:, block[0], block[1]][:, known].mean(axis=1), atol=1e-5
                )


@given(
    st.integers(8, 40),
    st.integers(-6, 30),
    st.integers(8, 30),
    st.integers(1, 9),
    st.sampled_from(["uint8", "int16", "uint16", "float32"]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=60)
def test_the_short_way_for_pixels_of_the_wanted_size_gives_the_same_bits(side, start, size, rows, dtype, empty):
    random = np.random.default_rng(side)
    values = (random.normal(0, 60, (3, side, side)).round()).astype(dtype)
    valid = random.random((side, side)) >= empty
    parts = [Strip(top, values[:, top : top + rows], valid[top : top + rows]) for top in range(0, side, rows)]
    parts = [part if not part.valid.all() else Strip(part.row, part.values, None) for part in parts]
    axis = taps(side, min(start, side - 1), size, size, "bilinear")
    short = resample(parts, axis, axis)
    general = replace(axis, copies=False)
    long = resample(parts, general, general)
    assert short[0].tobytes() == long[0].tobytes()
    assert (short[1] == long[1]).all()
