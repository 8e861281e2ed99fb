"""Resampling that knows nodata: a pixel without data takes no part in its neighbours' values.

Written in numpy, so that a code never depends on the version of a raster library, and without matrix products, so
that it never depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsfed.raster.pixels import Strip

Method = Literal["bilinear", "nearest", "average"]


@dataclass(frozen=True, slots=True)
class Taps:
    """Which input pixels make each output pixel along one axis.

    Attributes:
        index: Input pixels, int64, shape (outputs, taps).
        weight: Their weights, float32, shape (outputs, taps); the weights of an output add up to 1, or are all 0.
        inside: False for outputs of which more than half lies outside the input, shape (outputs,).
        copies: Whether every output is one input, side by side: most patches have the pixel size that is wanted, and
            what is copied is what the general way gives to the last bit, at a fraction of its time.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.float32]
    inside: NDArray[np.bool_]
    copies: bool


@lru_cache(maxsize=256)
def taps(available: int, start: float, length: float, outputs: int, method: Method) -> Taps:
    """Work out the taps of one axis.

    Args:
        available: Input pixels.
        start: Where the output begins, in input pixels; negative where it begins before the input.
        length: How many input pixels the output spans.
        outputs: Output pixels.
        method: `bilinear` is a triangle, widened when shrinking so that it does not alias; `average` is the mean over
            the output pixel's area; `nearest` takes the pixel under its centre.
    """
    scale = length / outputs
    centres = start + (np.arange(outputs) + 0.5) * scale
    reach = {"nearest": 0.5, "average": max(scale, 1e-9) / 2, "bilinear": max(scale, 1.0)}[method]
    first = np.floor(centres if method == "nearest" else centres - reach)
    count = 1 if method == "nearest" else int(np.ceil(2 * reach)) + 1
    index = first[:, None].astype(np.int64) + np.arange(count)
    if method == "nearest":
        weight = np.ones(index.shape)
    elif method == "average":
        low, high = centres[:, None] - reach, centres[:, None] + reach
        weight = np.clip(np.minimum(index + 1, high) - np.maximum(index, low), 0, None)
    else:
        weight = np.clip(1 - np.abs(index + 0.5 - centres[:, None]) / reach, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    weight[(index < 0) | (index >= available)] = 0
    share = weight.sum(axis=1, keepdims=True)
    weight = np.divide(weight, share, out=weight, where=share > 0)
    used = weight.any(axis=0)
    index, weight = index.clip(0, available - 1)[:, used], weight[:, used]
    copies = index.shape[1] == 1 and bool((weight == 1).all() and (np.diff(index[:, 0]) == 1).all())
    return Taps(index, weight.astype(np.float32), share[:, 0] >= 0.5 - 1e-6, copies)


def resample(parts: Iterable[Strip], across: Taps, down: Taps) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resample strips to the size of the taps.

    Args:
        parts: Strips from top to bottom.
        across: Taps of the columns.
        down: Taps of the rows.

    Returns:
        Values, float32, shape (bands, rows, columns), and where they have data, shape (rows, columns). An output pixel
        has data if at least half of the weight that made it has.
    """
    values = np.zeros((0, 0, 0), np.float32)
    share = np.zeros((len(down.index), 1), np.float32)  # one column as long as every pixel has data
    masked = False
    for part in parts:
        stored = part.values
        if part.valid is not None:
            masked = True
            stored = stored.astype(np.float32)
            stored[:, ~part.valid] = 0
            share = np.array(np.broadcast_to(share, (len(share), stored.shape[2])))
        if not values.size:
            values = np.zeros((len(stored), len(share), stored.shape[2]), np.float32)
        _add_rows(values, share, Strip(part.row, stored, part.valid), down)
    result = _columns(values, across)
    valid = down.inside[:, None] & across.inside[None, :]
    if masked:
        weight = _columns(share[None], across)[0]
        valid &= weight >= 0.5
        result /= np.maximum(weight, np.float32(1e-6))
    return result, valid


def _add_rows(values: NDArray[np.float32], share: NDArray[np.float32], part: Strip, down: Taps) -> None:
    """Add what the rows of one strip give to every output row."""
    stored, valid = part.values, part.valid
    rows = down.index - part.row
    here = (rows >= 0) & (rows < stored.shape[1])
    if down.copies:
        reached = np.flatnonzero(here[:, 0])
        if reached.size:
            first, last = reached[0], reached[-1] + 1
            same = slice(rows[first, 0], rows[first, 0] + last - first)
            np.add(stored[:, same], np.float32(0), out=values[:, first:last])  # -0 becomes the 0 that a sum is
            share[first:last] = 1 if valid is None else valid[same]
        return
    stored = stored.astype(np.float32, copy=False)
    for tap in range(rows.shape[1]):
        touched = np.flatnonzero(here[:, tap])
        if not touched.size:
            continue
        outputs = slice(touched[0], touched[-1] + 1)  # taps ascend with their output, so these lie side by side
        inputs, weight = rows[outputs, tap], down.weight[outputs, tap][:, None]
        values[:, outputs] += stored[:, inputs] * weight
        share[outputs] += weight if valid is None else valid[inputs] * weight


def _columns(values: NDArray[np.float32], across: Taps) -> NDArray[np.float32]:
    """Resample the last axis: shape (..., width) becomes (..., outputs)."""
    if across.copies:
        first = across.index[0, 0]
        return np.ascontiguousarray(values[..., first : first + len(across.index)])
    result = np.take(values, across.index[:, 0], axis=-1) * across.weight[:, 0]
    for tap in range(1, across.index.shape[1]):
        result += np.take(values, across.index[:, tap], axis=-1) * across.weight[:, tap]
    return result
