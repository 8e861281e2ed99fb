"""Pixels without data become the mean of their neighbours, ring by ring, whatever lay in them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.raster.holes import fill_holes

SIDE = st.integers(1, 12)  # pixels


def _filled(values, valid, otherwise=0.0):
    found = values.copy()
    fill_holes(found, valid, otherwise)
    return found


def _neighbours(known, row, col):
    square = [(r, c) for r in (row - 1, row, row + 1) for c in (col - 1, col, col + 1) if (r, c) != (row, col)]
    return [(r, c) for r, c in square if 0 <= r < known.shape[0] and 0 <= c < known.shape[1] and known[r, c]]


def _by_the_rule(values, valid):
    """The rule in so many words: pixel by pixel, a ring at a time."""
    values, known = values.copy(), valid.copy()
    while not known.all():
        ring = {}
        for row, col in np.argwhere(~known):
            if near := _neighbours(known, row, col):
                total = sum(values[:, r, c].astype(np.float64) for r, c in near)
                ring[row, col] = (total / len(near)).astype(np.float32)
        for (row, col), mean in ring.items():
            values[:, row, col], known[row, col] = mean, True
    return values


@given(st.integers(1, 3), SIDE, SIDE, st.sampled_from([0.03, 0.5, 0.95]), st.integers(0, 99))
@settings(deadline=None)
def test_a_hole_is_filled_ring_by_ring_with_the_mean_of_its_neighbours_to_the_last_bit(bands, rows, cols, share, seed):
    random = np.random.default_rng(seed)
    valid = random.random((rows, cols)) < share
    valid[random.integers(rows), random.integers(cols)] = True
    values = random.normal(size=(bands, rows, cols)).astype(np.float32)
    values[:, ~valid] = np.nan  # what lies in a hole tells nothing
    assert (_filled(values, valid) == _by_the_rule(values, valid)).all()


def test_the_ground_around_goes_on_in_a_hole():
    values = np.broadcast_to(np.arange(9, dtype=np.float32), (2, 9, 9)).copy()
    valid = np.ones((9, 9), bool)
    valid[3:6, 4] = False
    assert (_filled(values, valid) == values).all(), "a slope stays a slope"
    valid[:, :4] = False
    assert (_filled(values, valid)[:, 7, :4] == 4).all(), "an edge is continued"


def test_without_any_data_there_is_one_value_and_without_holes_nothing_changes():
    values = np.full((2, 3, 3), np.nan, np.float32)
    assert (_filled(values, np.zeros((3, 3), bool), -5.0) == -5).all()
    assert np.isnan(_filled(values, np.ones((3, 3), bool), -5.0)).all()


def test_the_largest_numbers_stay_finite():
    largest = np.finfo(np.float32).max
    valid = np.ones((3, 3), bool)
    valid[1, 1] = False
    assert (_filled(np.full((1, 3, 3), largest, np.float32), valid) == largest).all()
