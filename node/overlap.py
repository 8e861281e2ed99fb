"""One place, one item: of patches of one acquisition that overlap by more than half only the nearest is ranked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import frexp

import numpy as np
from numpy.typing import NDArray

from rsfed.index.facets import TURN
from rsfed.wire import NO_FOOTPRINT

SAME_PLACE = 0.5  # of what two footprints cover together; with more than that in common they are one place
_Box = tuple[int, int, int, int]
_Cell = tuple[int, int, int, int]


def first_of_places(acquisitions: NDArray[np.uint64], boxes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which items of a ranking are the first one of their place, shape (n,).

    An item is left out where one before it that stays is of the same acquisition and has more than half of what both
    cover in common with it. So what stays depends on the order of the ranking and on nothing else.

    Args:
        acquisitions: Number of each item's acquisition in the order of the ranking, uint64, shape (n,).
            An item of an unknown one, 0, is a place of its own.
        boxes: Their footprints, int32, shape (n, 4), as `rsfed.index.facets.Columns` has them; an item without one is
            a place of its own, too.
    """
    first = np.ones(len(boxes), np.bool_)
    held: defaultdict[tuple[int, _Cell], list[_Box]] = defaultdict(list)
    for number in np.flatnonzero((boxes != NO_FOOTPRINT).any(axis=1) & (acquisitions != 0)):
        west, south, east, north = (int(edge) for edge in boxes[number])
        box = (west, south, east + TURN * (east < west), north)
        acquisition = int(acquisitions[number])
        if any(overlap(box, other) > SAME_PLACE for cell in _near(box) for other in held.get((acquisition, cell), ())):
            first[number] = False
        else:
            held[acquisition, _cell(box, 0, 0)].append(box)
    return first


def overlap(one: _Box, other: _Box) -> float:
    """Return what two boxes have in common as a share of what they cover together."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return float(one == other)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return across * down / (areas - across * down)


def _cell(box: _Box, wider: int, higher: int) -> _Cell:
    """Return the cell of a box's centre among cells as large as the box, or so many times twice as large."""
    width, height = frexp(box[2] - box[0])[1] + wider, frexp(box[3] - box[1])[1] + higher
    col, row = (box[0] + box[2]) / 2.0 ** (width + 1), (box[1] + box[3]) / 2.0 ** (height + 1)
    return width, height, int(col // 1), int(row // 1)


def _near(box: _Box) -> Iterator[_Cell]:
    """Yield the cells of all boxes that may be one place with a box: up to twice its size, half a width away."""
    for wider in (-1, 0, 1):
        for higher in (-1, 0, 1):
            width, height, col, row = _cell(box, wider, higher)
            yield from ((width, height, col + right, row + up) for right in (-1, 0, 1) for up in (-1, 0, 1))
