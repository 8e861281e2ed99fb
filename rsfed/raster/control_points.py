"""Where a picture in radar geometry lies: a grid of ground control points, followed linearly between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

_Numbers = NDArray[np.float64]
Point = tuple[float, float, float, float]
"""Column and row in pixels, and coordinates x and y."""


class Grid:
    """Points that lie in rows and columns.

    Args:
        cols: Pixel columns, ascending, shape (n,).
        rows: Pixel rows, ascending, shape (m,).
        places: Coordinates x and y there, shape (2, m, n).
    """

    def __init__(self, cols: _Numbers, rows: _Numbers, places: _Numbers) -> None:
        self._cols, self._rows, self._places = cols, rows, places

    @classmethod
    def of(cls, points: Sequence[Point], *, around: bool) -> Self | None:
        """Return the grid that points are; None where they are none.

        Args:
            points: The points.
            around: Whether x is a longitude, which goes on at -180 where it passed 180.
        """
        known = np.array(points, np.float64)
        cols, col = np.unique(known[:, 0], return_inverse=True)
        rows, row = np.unique(known[:, 1], return_inverse=True)
        if min(len(cols), len(rows)) < 2 or len(cols) * len(rows) != len(known) or not np.isfinite(known).all():
            return None
        places = np.full((2, len(rows), len(cols)), np.nan)
        places[:, row, col] = known[:, 2:].T
        if np.isnan(places).any():  # a point twice and another missing
            return None
        if around and np.ptp(places[0]) > 180:
            places[0][places[0] < 0] += 360
        return cls(cols, rows, places)

    def at(self, cols: _Numbers, rows: _Numbers) -> tuple[_Numbers, _Numbers]:
        """Return coordinates of pixels, both in arrays of one shape; beyond its edges the grid goes on straight."""
        left, across = _cell(self._cols, cols)
        top, down = _cell(self._rows, rows)
        upper = self._places[:, top, left] * (1 - across) + self._places[:, top, left + 1] * across
        lower = self._places[:, top + 1, left] * (1 - across) + self._places[:, top + 1, left + 1] * across
        x, y = upper * (1 - down) + lower * down
        return x, y


def _cell(edges: _Numbers, places: _Numbers) -> tuple[NDArray[np.int64], _Numbers]:
    """Return the number of the interval that each place is in, and how far along it, 0 to 1 inside of the edges."""
    interval = np.clip(np.searchsorted(edges, places, side="right") - 1, 0, len(edges) - 2)
    return interval, (places - edges[interval]) / (edges[interval + 1] - edges[interval])
