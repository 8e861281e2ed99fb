"""Decoding a source strip by strip, with the pixels that mean nothing told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsfed.raster import limits
from rsfed.raster.image import Source
from rsfed.raster.item import Window

_SUMMED_AT_ONCE = 1 << 20  # pixels; their sums take eight bytes each


@dataclass(frozen=True, slots=True)
class Strip:
    """Some rows of a window.

    Attributes:
        row: First row, counted from the top of the window.
        values: Stored values, shape (bands, rows, width).
        valid: False where any band has no data, shape (rows, width); None where every pixel has data.
    """

    row: int
    values: NDArray[Any]
    valid: NDArray[np.bool_] | None


def strips(source: Source, window: Window, bands: Sequence[int] | None = None) -> Iterator[Strip]:
    """Decode a window from top to bottom, a bounded number of bytes at a time.

    Args:
        source: An open source.
        window: Pixels of the source, inside of it.
        bands: Places of the wanted bands in the modality, from 0; None for all of them. With none of them strips say
            where all have data.
    """
    height = strip_rows(source)
    top = window.row
    bottom = window.row + window.height
    while top < bottom:
        end = min(bottom, (top // height + 1) * height)  # strips end where blocks end, so no block is decoded twice
        yield _read(source, Window(window.col, top, window.width, end - top), top - window.row, bands)
        top = end


def reduced_strips(
    source: Source,
    window: Window,
    factor: int,
    bands: Sequence[int] | None = None,
    change: Callable[[Iterator[Strip]], Iterator[Strip]] = iter,
) -> Iterator[Strip]:
    """Decode a window of the source reduced by a factor, from the file's own overview where it has one.

    Args:
        source: An open source.
        window: Pixels of the reduced source, inside of it.
        factor: Factor of the reduction; 1 for none.
        bands: As for `strips`.
        change: Changes what is decoded before it is averaged.
    """
    if source.overview == factor:
        return change(strips(source, window, bands))
    col, row = window.col * factor, window.row * factor
    width = min(window.width * factor, source.width - col)
    height = min(window.height * factor, source.height - row)
    return reduced(change(strips(source, Window(col, row, width, height), bands)), factor, height)


def reduced(parts: Iterator[Strip], factor: int, rows: int) -> Iterator[Strip]:
    """Shrink strips by a whole factor: every output pixel is the mean of the valid pixels of its block.

    The last row and column of blocks may be smaller. Output pixels of which less than half is valid are not.
    """
    waiting: list[Strip] = []
    done = 0
    for part in parts:
        waiting.append(part)
        end = part.row + part.values.shape[1]
        ready = rows - done if end == rows else (end - done) // factor * factor
        if ready:
            yield _block_mean(joined(waiting, done), ready, factor, done // factor)
            done += ready
            waiting = [part] if done < end else []


def joined(parts: Sequence[Strip], first: int = 0) -> Strip:
    """Return strips that follow each other as one that begins at a row of theirs."""
    values = np.concatenate([part.values for part in parts], axis=1)
    valid = None
    if any(part.valid is not None for part in parts):
        valid = np.concatenate(
            [np.ones(part.values.shape[1:], bool) if part.valid is None else part.valid for part in parts]
        )
    skip = first - parts[0].row
    return Strip(first, values[:, skip:], None if valid is None else valid[skip:])


def _block_mean(strip: Strip, rows: int, factor: int, row: int) -> Strip:
    values = strip.values[:, :rows].astype(np.float32)
    starts = [np.arange(0, length, factor) for length in values.shape[1:]]
    weight = np.ones(values.shape[1:], np.float32)
    if strip.valid is not None:
        weight = strip.valid[:rows].astype(np.float32)
        values[:, weight == 0] = 0
    total = np.add.reduceat(np.add.reduceat(values, starts[0], axis=1), starts[1], axis=2)
    count = np.add.reduceat(np.add.reduceat(weight, starts[0], axis=0), starts[1], axis=1)
    area = np.add.reduceat(np.add.reduceat(np.ones_like(weight), starts[0], axis=0), starts[1], axis=1)
    valid = None if strip.valid is None else count * 2 >= area
    return Strip(row, total / np.maximum(count, 1), valid)


def nodata_shares(
    parts: Iterable[Strip], windows: Sequence[Window], factor: tuple[int, int] = (1, 1)
) -> NDArray[np.float64]:
    """Return the share of pixels without data in each window, shape (windows,).

    Args:
        parts: Strips of a whole source, from top to bottom.
        windows: Windows of a source of the same ground.
        factor: How many of its pixels a pixel of the strips is wide and high.
    """
    masks = ((part.row, part.valid) for part in parts if part.valid is not None)
    if (highest := next(masks, None)) is None:
        return np.zeros(len(windows))
    counts = np.zeros(len(windows), np.int64)
    edges = np.array([(w.col, w.row, w.col + w.width, w.row + w.height) for w in windows], np.int64)
    for row, mask in chain([highest], masks):
        rows = max(1, _SUMMED_AT_ONCE // mask.shape[1])
        for first in range(0, len(mask), rows):
            valid = mask[first : first + rows]
            top = (row + first) * factor[1]
            near = np.flatnonzero((edges[:, 1] < top + len(valid) * factor[1]) & (edges[:, 3] > top))
            counts[near] += _missing(valid, edges[near] - (0, top, 0, top), factor)
    return counts / ((edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1]))


def _missing(valid: NDArray[np.bool_], edges: NDArray[np.int64], factor: tuple[int, int]) -> NDArray[np.int64]:
    """Return how many pixels without data are in each rectangle, shape (rectangles,).

    Args:
        valid: Where there is data, shape (rows, columns).
        edges: Left, upper, right and lower edge of each in finer pixels, shape (rectangles, 4); those above and below
            may lie outside.
        factor: How many finer pixels a pixel is wide and high.
    """
    across, down = factor
    height, width = valid.shape
    # Sums from the upper left corner give the count in any rectangle by its four corners.
    total = np.zeros((height + 1, width + 1), np.int64)
    np.cumsum(~valid, axis=0, out=total[1:, 1:])
    np.cumsum(total[1:, 1:], axis=1, out=total[1:, 1:])

    def above(row: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sums in finer pixels: within a pixel they grow linearly along both axes."""
        (i, below), (j, beyond) = np.divmod(row, down), np.divmod(col, across)
        next_i, next_j = np.minimum(i + 1, height), np.minimum(j + 1, width)
        upper = total[i, j] * (across - beyond) + total[i, next_j] * beyond
        lower = total[next_i, j] * (across - beyond) + total[next_i, next_j] * beyond
        result: NDArray[np.int64] = upper * (down - below) + lower * below
        return result

    top, bottom = (np.clip(edges[:, side], 0, height * down) for side in (1, 3))
    left, right = edges[:, 0], edges[:, 2]
    return above(bottom, right) - above(top, right) - above(bottom, left) + above(top, left)


def strip_rows(source: Source) -> int:
    """Return the height of a strip: as many whole blocks as fit into the byte limit, at least one."""
    block = source.block_rows
    return block * max(1, limits.STRIP_BYTES // (block * source.row_bytes))


def _read(source: Source, window: Window, row: int, bands: Sequence[int] | None) -> Strip:
    if bands is not None and not bands:
        return Strip(row, np.empty((0, window.height, window.width), source.dtype), source.valid(window))
    return Strip(row, *source.read(range(len(source.nodata)) if bands is None else bands, window))
