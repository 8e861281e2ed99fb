"""What stands where a patch has no data.

Written in numpy, as resampling is, so that a code never depends on the version of a library; sums have a fixed order
and are rounded as IEEE 754 says, so that it does not depend on the machine either.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray


def fill_holes(values: NDArray[np.float32], valid: NDArray[np.bool_], otherwise: float) -> None:
    """Fill pixels without data in place, ring by ring from the rim of a hole inward.

    Each becomes the mean of those of its eight neighbours that have data or were filled in a ring before.

    Args:
        values: Bands of one size, shape (bands, height, width); whatever they hold where there is no data is not used.
        valid: Where they have data, shape (height, width).
        otherwise: What stands everywhere if no pixel has data.
    """
    if valid.all():
        return
    if not valid.any():
        values[:] = otherwise
        return
    # With a frame that is neither known nor empty every pixel has eight neighbours.
    known, empty, inner = np.pad(valid, 1), np.pad(~valid, 1), slice(1, -1)
    framed = np.zeros((len(values), *known.shape), np.float32)
    np.copyto(framed[:, inner, inner], values, where=valid)
    _fill_rings(framed.reshape(len(framed), -1), known.ravel(), empty.ravel(), known.shape[1])
    values[:] = framed[:, inner, inner]


def _fill_rings(values: NDArray[np.float32], known: NDArray[np.bool_], empty: NDArray[np.bool_], width: int) -> None:
    """Fill what is empty in place; rows lie one after the other, and what is not known is 0."""
    steps = np.array([row * width + col for row, col in product((-1, 0, 1), repeat=2) if row or col])
    ring = np.flatnonzero(empty)
    ring = ring[known[ring[:, None] + steps].any(axis=1)]
    while ring.size:
        total = np.zeros((len(values), len(ring)))  # float64, which no sum of eight overflows
        for step in steps:
            total += values[:, ring + step]
        values[:, ring] = total / known[ring[:, None] + steps].sum(axis=1)
        known[ring], empty[ring] = True, False
        around = (ring[:, None] + steps).ravel()
        ring = np.unique(around[empty[around]])
