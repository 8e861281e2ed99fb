"""Compiles every kernel before the first query needs it; what was compiled before is read from the disk.

`python -m rsfed.index.warm` does it when the software is installed, some 15 seconds; `serve` does it at its start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rsfed.index.facets import Columns
from rsfed.index.files import checksum_of
from rsfed.index.filters import Filter
from rsfed.index.jit import frozen
from rsfed.index.search import View
from rsfed.index.segment import Part, Segment
from rsfed.index.tables import SMALLEST


def warm() -> None:
    """Search a small made-up index in every way there is."""
    for block in (np.zeros(8, np.uint64), frozen(np.zeros(8, np.uint64))):
        checksum_of(block, 0)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (2 * SMALLEST, 9), dtype=np.uint8)
    for bits in (64, 72):
        _search(_view(bits, codes[:, : bits // 8]), codes[:2, : bits // 8])


def _view(bits: int, codes: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> View:
    items = len(codes)
    known = replace(
        Columns.unknown(items),
        times=np.arange(2 * items).reshape(-1, 2),
        kinds=(np.arange(items) % 2).astype(np.uint32),
        kind_values=(("a",), ("b",)),
    )
    whole = Segment.build(bits, np.arange(items), codes, known)
    few = Segment.build(bits, items + np.arange(20), codes[:20])
    return View(bits, (Part(whole, whole.places_of(np.array([3]))), Part(few, few.places_of(np.array([0])))))


def _search(view: View, codes: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> None:
    seed = np.ones((1, 4), np.uint64)
    for where in (None, Filter(modality="a"), Filter(after=10, before=12), Filter(modality="none")):
        for how in ({"k": 3}, {"radius": 2}):
            for hits in view.search(codes, where=where, **how):
                hits.nearest(3)
                hits.marks.sum()
                hits.sizes.sum()
                if len(hits):
                    hits.take(np.zeros(1, np.int64)).keyed(seed, np.zeros(1, np.int64), np.full(1, 2))


if __name__ == "__main__":
    warm()
