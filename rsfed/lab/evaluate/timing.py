"""What a search costs as the gallery grows: exhaustive search on float features, and on codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import psutil
from numpy.typing import NDArray

from rsfed.codes import hamming
from rsfed.lab.evaluate.results import Timing

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
_SHARE = 0.25  # of the memory that is free, that a gallery may take
_REPEATS = 5  # the median counts


def timings(features: int, widths: Sequence[int], k: int, *, sizes: Iterable[int] = SIZES) -> list[Timing]:
    """Measure one query against made-up galleries.

    A gallery too large for memory is not built: its time is that of the largest that fits, in proportion.

    Args:
        features: Number of float features of an image.
        widths: Widths of codes in bits.
        k: Number of nearest images that are picked out.
        sizes: Numbers of images in a gallery.
    """
    return [_timing(bits, features, k, items) for items in sizes for bits in (None, *widths)]


def _timing(bits: int | None, features: int, k: int, items: int) -> Timing:
    size = 4 * features if bits is None else bits // 8
    working = size + 16  # and the distances with their order
    held = min(items, int(_SHARE * psutil.virtual_memory().available / working))
    search = _float_search(held, features, k) if bits is None else _code_search(held, bits, k)
    return Timing(bits, items, _median(search) * items / held, size, extrapolated=held < items)


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


def _median(search: Callable[[], object]) -> float:
    """Return the median time of a search in milliseconds; the first one warms up."""
    spent = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        search()
        spent.append(1000 * (time.perf_counter() - start))
    return float(np.median(spent[1:]))
