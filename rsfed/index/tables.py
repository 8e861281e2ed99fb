"""Hash tables over pieces of the distinct codes, for multi-index hashing (Norouzi et al., arXiv 1307.2982).

A code is cut into m pieces; codes at distance r agree with the query in at least one piece up to r // m bits. Each
piece has one table: where the codes with a given value of the piece lie, in the order of that value. The codes
themselves are sorted, so the table of the first piece needs no order of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsfed.index.jit import kernel
from rsfed.index.sorting import Rows, sort_words
from rsfed.index.words import Words, piece

SMALLEST = 2**17  # distinct codes; a scan of fewer takes some 30 microseconds, tables would make appends slow
_WIDEST = 26  # bits of a piece: 256 MiB of slots


class Tables(NamedTuple):
    """The tables of one set of distinct codes.

    Attributes:
        spans: First bit, width, and start in `slots` of each piece, int64, shape (m, 3); m = 0 where there are none.
        slots: For each table and each value of its piece where its codes start, with the end of the last one, uint32.
        orders: Rows of the codes by the value of each piece but the first, uint32, shape (m - 1, n).
        copies: The codes in those orders, so that codes which are compared lie side by side, uint64, shape
            (m - 1, n); without rows for codes of several words, where they would cost too much memory.
    """

    spans: NDArray[np.int64]
    slots: Rows
    orders: Rows
    copies: NDArray[np.uint64]

    @classmethod
    def none(cls) -> Tables:
        """Return no tables: every search is a scan."""
        empty = np.empty((0, 0), np.uint32)
        return cls(np.empty((0, 3), np.int64), np.empty(0, np.uint32), empty, np.empty((0, 0), np.uint64))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Tables:
        """Take the tables out of the named arrays of a segment."""
        return cls(**{name: arrays[name] for name in cls._fields})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by their names."""
        return self._asdict()

    @classmethod
    def build(cls, words: Words, bits: int) -> Tables:
        """Build the tables of sorted distinct codes; none for few codes."""
        if len(words) < SMALLEST:
            return cls.none()
        spans = cut(bits, len(words))
        slots = np.empty(int((1 << spans[:, 1]).sum()) + len(spans), np.uint32)
        orders = np.empty((len(spans) - 1, len(words)), np.uint32)
        copies = np.empty((len(spans) - 1 if bits <= 64 else 0, len(words)), np.uint64)
        for table, (first, width, start) in enumerate(spans.tolist()):
            keys = _pieces(words, first, width)
            _fill_slots(keys, slots[start : start + (1 << width) + 1])
            if table:
                orders[table - 1] = sort_words(keys[:, None])
                if len(copies):
                    copies[table - 1] = words[orders[table - 1], 0]
        return cls(spans, slots, orders, copies)


def cut(bits: int, codes: int) -> NDArray[np.int64]:
    """Return the spans of equally wide pieces of a bit or two less than log2(codes): slots hold two to four codes.

    Bits that are left over belong to no piece: a code within r bits is within r bits on fewer bits too.
    """
    pieces = min(max(round(bits / np.log2(codes)), 1), 3 if bits <= 64 else 4)  # more take memory, and are no faster
    width = min(bits // pieces, int(np.log2(codes)) - 1, _WIDEST)
    numbers = np.arange(pieces)
    return np.stack([numbers * width, np.full(pieces, width), numbers * ((1 << width) + 1)], axis=1)


@kernel
def _pieces(words: Words, first: int, width: int) -> NDArray[np.uint64]:
    keys = np.empty(len(words), np.uint64)
    for row in range(len(words)):
        keys[row] = piece(words[row], first, width)
    return keys


@kernel
def _fill_slots(keys: NDArray[np.uint64], slots: Rows) -> None:
    slots[:] = 0
    for key in keys:
        slots[key + np.uint64(1)] += np.uint32(1)
    for value in range(1, len(slots)):
        slots[value] += slots[value - 1]
