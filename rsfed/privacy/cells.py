"""Cells: what a code is taken for where answers must not depend on the exact code.

The cells of a release are the codes of its classes (its signed codebook), each with sub-cells where a node wants them.
A query stands for its nearest cell, and so does an item: whatever an answer says of an item's code is the cell that it
is in. Distances between cells are public, so all answers together say no more of a code than its cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, hamming
from rsfed.trust.manifest import CodebookEntry

_AT_ONCE = 1 << 16  # codes that are compared with all cells


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a release.

    Attributes:
        codes: Packed code of each cell, uint8, shape (cells, bits // 8).
        band_width: Width in bits of the bands in which distances are told: at most a quarter of the least distance
            between two classes.
        reach: How far from its cell a query may be, and from the query's cell one that is listed, in bits.
    """

    codes: Codes
    band_width: int
    reach: int

    @classmethod
    def of(cls, codebook: Sequence[CodebookEntry], reach: int, *, per_class: int = 1) -> Self:
        """Return the cells of a codebook of at least one class.

        Args:
            codebook: The code of each class, and where its codes differ most.
            reach: Of the codebook.
            per_class: Cells of each class: 1, 2, 4 or 8.
        """
        classes = _packed(codebook)
        cells = [cell for entry, code in zip(codebook, classes, strict=True) for cell in _split(entry, code, per_class)]
        distinct = list(dict.fromkeys(cell.tobytes() for cell in cells))
        codes = np.frombuffer(b"".join(distinct), np.uint8).reshape(len(distinct), -1)
        return cls(codes, max(1, _least_distance(classes) // 4), reach)

    def nearest(self, codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the cell of each code, the first of those that are equally near, and how far away it is."""
        found, away = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
        for start in range(0, len(codes), _AT_ONCE):
            distances = hamming(codes[start : start + _AT_ONCE], self.codes)
            found[start : start + _AT_ONCE] = distances.argmin(axis=1)
            away[start : start + _AT_ONCE] = distances.min(axis=1)
        return found, away

    def of_query(self, code: Codes) -> int | None:
        """Return the cell of a query code, uint8, shape (bits // 8,); None where no cell is within reach."""
        found, away = self.nearest(code[None])
        return int(found[0]) if away[0] <= self.reach else None

    def around(self, cell: int) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """Return the cells within reach of one, the nearest first, and the upper edge of the band of each."""
        distances = hamming(self.codes[cell : cell + 1], self.codes)[0].astype(np.int64)
        near = np.flatnonzero(distances <= self.reach)
        near = near[np.argsort(distances[near], kind="stable")]
        upper = distances[near] // self.band_width * self.band_width + self.band_width - 1
        return near, np.minimum(upper, 8 * self.codes.shape[1]).astype(np.uint16)


def _packed(codebook: Sequence[CodebookEntry]) -> Codes:
    return np.array([np.frombuffer(bytes.fromhex(entry.code), np.uint8) for entry in codebook])


def _split(entry: CodebookEntry, code: Codes, per_class: int) -> list[Codes]:
    """Return the cells of a class: its code, and those with other values of the bits that differ most."""
    split = [code]
    for bit in entry.varied[: per_class.bit_length() - 1]:
        mask = np.zeros_like(code)
        mask[bit // 8] = 128 >> bit % 8
        split += [each ^ mask for each in split]
    return split


def _least_distance(codes: Codes) -> int:
    distances = hamming(codes, codes)[~np.eye(len(codes), dtype=np.bool_)]
    return int(distances.min()) if len(distances) else 8 * codes.shape[1]
