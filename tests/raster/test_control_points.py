"""Grids of ground control points."""

from __future__ import annotations

import numpy as np
import pytest

from rsfed.raster.control_points import Grid


def curved(col, row, west=13.0):
    return west + 1e-3 * col + 2e-6 * col**2 - 1e-4 * row, 48 - 1e-3 * row


def points(west=13.0, cols=range(0, 101, 10), rows=(0, 30, 80)):
    found = []
    for row in rows:
        for col in cols:
            x, y = curved(col, row, west)
            found.append((float(col), float(row), (x + 180) % 360 - 180, y))
    return found


def at(grid, col, row):
    x, y = grid.at(np.array([[float(col)]]), np.array([[float(row)]]))
    return x[0, 0], y[0, 0]


def test_points_are_met_and_followed_linearly_between_and_beyond():
    grid = Grid.of(points()[::-1], around=True)
    assert at(grid, 40, 30) == pytest.approx(curved(40, 30), abs=1e-12)
    middle = tuple(np.mean([curved(40, 30), curved(50, 30)], axis=0))
    assert at(grid, 45, 30) == pytest.approx(middle, abs=1e-12)
    assert at(grid, 40, 90) == pytest.approx(curved(40, 90), abs=1e-9), "rows are straight"


def test_a_grid_goes_on_across_the_antimeridian():
    grid = Grid.of(points(west=179.95), around=True)
    longitudes = [at(grid, col, 0)[0] for col in (0, 50, 100)]
    assert longitudes == pytest.approx([curved(col, 0, 179.95)[0] for col in (0, 50, 100)])


@pytest.mark.parametrize("spoiled", [slice(0, 5), slice(0, -1), slice(0, 11)])
def test_points_that_are_no_grid_are_none(spoiled):
    assert Grid.of(points()[spoiled], around=True) is None
    twice = points()
    twice[1] = twice[0]
    assert Grid.of(twice, around=True) is None
    lost = points()
    lost[3] = (*lost[3][:2], float("nan"), 0.0)
    assert Grid.of(lost, around=True) is None
