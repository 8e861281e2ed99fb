"""What a query costs as the gallery grows: hashing it, and exhaustive search on float features or on codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from rsfed.codes import hamming
from rsfed.lab.evaluate.results import Row, Timing

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
_SHARE = 0.25  # of the memory that is free, that a gallery may take
_REPEATS = 5  # the median counts


@dataclass(frozen=True, slots=True)
class _Search:
    """Cost of one search: milliseconds, bytes an image, whether the time is that of a smaller gallery in proportion."""

    milliseconds: float
    bytes_per_item: int
    extrapolated: bool


def timings(rows: Sequence[Row], features: int, k: int, *, sizes: Iterable[int]) -> list[Timing]:
    """Measure one query by each way to search against made-up galleries, the smallest first.

    A gallery too large for memory is not built: its time is that of the largest that fits, in proportion.

    Args:
        rows: The ways, with the time that each needs to hash a query.
        features: Number of float features of an image.
        k: Number of nearest images that are picked out.
        sizes: Numbers of images in a gallery.
    """
    widths = dict.fromkeys(row.bits for row in rows)
    found = []
    for items in sizes:
        searches = {bits: _search(bits, features, k, items) for bits in widths}
        for row in rows:
            cost = searches[row.bits]
            found.append(
                Timing(
                    method=row.method,
                    bits=row.bits,
                    items=items,
                    hash_ms=row.query_ms,
                    search_ms=cost.milliseconds,
                    bytes_per_item=cost.bytes_per_item,
                    extrapolated=cost.extrapolated,
                )
            )
    return found


def _search(bits: int | None, features: int, k: int, items: int) -> _Search:
    size = 4 * features if bits is None else bits // 8
    working = size + 16  # and the distances with their order
    held = min(items, int(_SHARE * psutil.virtual_memory().available / working))
    search = _float_search(held, features, k) if bits is None else _code_search(held, bits, k)
    return _Search(median_ms(search) * items / held, size, extrapolated=held < items)


def _float_search(items: int, features: int, k: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    gallery, query = rng.random((items, features), np.float32), rng.random(features, np.float32)
    return lambda: _nearest(-(gallery @ query), k)


def _code_search(items: int, bits: int, k: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    gallery = rng.integers(0, 256, (items, bits // 8), np.uint8)
    return lambda: _nearest(hamming(gallery[:1], gallery)[0], k)


def _nearest(distances: NDArray[np.generic], k: int) -> NDArray[np.int64]:
    """Return the positions of the k smallest distances."""
    k = min(k, len(distances))
    chosen: NDArray[np.int64] = np.argpartition(distances, k - 1)[:k]
    return chosen[np.argsort(distances[chosen], kind="stable")]


def median_ms(work: Callable[[], object]) -> float:
    """Return the median time of some work in milliseconds; the first run warms up."""
    spent = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        work()
        spent.append(1000 * (time.perf_counter() - start))
    return float(np.median(spent[1:]))
