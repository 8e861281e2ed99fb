"""Codes for `make bench-index`: uniform, clustered, and as a trained network makes them; attributes for filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes
from rsfed.index.facets import Columns
from rsfed.index.filters import Filter
from rsfed.index.words import Words, from_words
from rsfed.wire import DEGREE

_CENTRES, _HOT, _STRAY = 3000, 12, 2  # of the clustered set: centres, bits that flip often, and any bits that flip
_REAL = ((10, 11_748), (236, 252))  # codes and the patches in them, of a trained release: see `real`
_MONTH, _DAY = 30 * 86_400_000, 86_400_000  # milliseconds
_CHUNK = 1_000_000


@dataclass(frozen=True, slots=True)
class Data:
    """Codes that are searched, and held-out ones of the same kind that ask."""

    name: str
    bits: int
    codes: Codes
    queries: Codes


def uniform(items: int, bits: int, queries: int) -> Data:
    """Return codes of which every bit is a coin's."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (items + queries, bits // 8), dtype=np.uint8)
    return Data("uniform", bits, drawn[:items], drawn[items:])


def clustered(items: int, bits: int, queries: int) -> Data:
    """Return codes around centres, some far more popular than others, each with a few bits that flip often."""
    rng = np.random.default_rng(1)
    centres = rng.integers(0, 2**64, (_CENTRES, -(-bits // 64)), dtype=np.uint64)
    hot = rng.integers(0, bits, (_CENTRES, _HOT))
    popularity = np.arange(1, _CENTRES + 1) ** -0.8
    popularity /= popularity.sum()
    total, codes = items + queries, np.empty((items + queries, bits // 8), np.uint8)
    for first in range(0, total, _CHUNK):
        count = min(_CHUNK, total - first)
        which = rng.choice(_CENTRES, count, p=popularity)
        words = centres[which]
        for number in range(_HOT):
            _flip(words, hot[which, number], rng.random(count) < 0.25)
        for _ in range(_STRAY):
            _flip(words, rng.integers(0, bits, count), rng.random(count) < 0.15)
        codes[first : first + count] = from_words(words, bits)
    return Data("clustered", bits, codes[:items], codes[items:])


def real(items: int, bits: int, queries: int) -> Data:
    """Return codes in buckets of the sizes that a trained release made of 12,000 EuroSAT patches, resampled.

    Measured on a frozen trunk with fixed centres, one seed: 246 distinct codes; the ten largest buckets, one of each
    class (all as large), hold 97.9 % of the patches, the other 236 codes one or two each. Codes of a class differ in
    a few bits.
    """
    rng = np.random.default_rng(2)
    sizes = np.concatenate([np.full(codes, patches / codes) for codes, patches in _REAL])
    classes = _REAL[0][0]
    pool = rng.integers(0, 2**64, (classes, -(-bits // 64)), dtype=np.uint64)[np.arange(len(sizes)) % classes]
    for _ in range(3):
        _flip(pool, rng.integers(0, bits, len(sizes)), np.arange(len(sizes)) >= classes)
    drawn = from_words(pool[rng.choice(len(sizes), items + queries, p=sizes / sizes.sum())], bits)
    return Data("real", bits, drawn[:items], drawn[items:])


def _flip(words: Words, bits: NDArray[np.integer], flips: NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(flips)
    words[rows, bits[rows] // 64] ^= np.uint64(1) << (63 - bits[rows] % 64).astype(np.uint64)


def attributes(items: int) -> Columns:
    """Return what filters know: 20,000 acquisitions of 20 years, half a million places, 3 modalities, 40 labels.

    Independent of the codes and of the order of items, which is the hardest for an index.
    """
    rng = np.random.default_rng(3)
    starts = np.sort(rng.integers(0, 20 * 12 * _MONTH, 20_000))
    acquired = starts[rng.integers(0, len(starts), items)]
    places = np.stack([rng.integers(-180, 180, 500_000) * DEGREE, rng.integers(-60, 60, 500_000) * DEGREE], axis=1)
    places += rng.integers(0, DEGREE, places.shape)
    corner = places[rng.integers(0, len(places), items)].astype(np.int32)
    boxes = np.concatenate([corner, corner + DEGREE // 100], axis=1)
    kinds = tuple((modality, f"label {number}") for modality in ("s1", "s2", "rgb") for number in range(40))
    return Columns(
        np.stack([acquired, acquired + 25_000], axis=1),
        boxes,
        rng.integers(0, len(kinds), items).astype(np.uint32),
        kinds,
    )


def filters() -> dict[str, Filter]:
    """Return filters by the share of items that they keep."""
    labels = frozenset(f"label {number}" for number in range(4))
    return {
        "half": Filter(after=120 * _MONTH),
        "1pct": Filter(after=100 * _MONTH, before=124 * _MONTH, labels=labels),
        "1e5": Filter(after=100 * _MONTH, before=124 * _MONTH, box=(0, 0, 5 * DEGREE, 9 * DEGREE), labels=labels),
    }
