"""Radiometry of Sentinel-1 GRD: from stored amplitudes to backscatter in decibels, by the tables of the product.

- Amplitude 0 is nodata, and so is all that the annotation says lies outside the merged swaths.
- Power without thermal noise is `amplitude^2 - range noise x azimuth noise`; less than none is none.
- Border noise: in the margin of a scene, 2 % of its width and height and at most 500 samples, pixels that hold no more
  than noise have no data. Elsewhere such a pixel, calm water for example, is dark and valid.
- Backscatter is `power / sigma nought table^2`; tables are interpolated linearly along a line, then between lines.
- Decibels are taken last, of at least -50 dB. Whoever averages does so in power: see `to_power`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsfed.raster.item import Window

FLOOR = 1e-5  # of backscatter in linear power, -50 dB: below the noise of every Sentinel-1 mode
_MARGIN_SHARE, _MARGIN = 0.02, 500  # of a side; samples
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Table:
    """Values along some lines of a scene, each at pixels of its own.

    Attributes:
        lines: Lines, ascending, float64, shape (lines,).
        pixels: Pixels of each line, ascending.
        values: Values at these pixels.
    """

    lines: NDArray[np.float64]
    pixels: tuple[NDArray[np.float64], ...]
    values: tuple[NDArray[np.float64], ...]

    def at(self, window: Window) -> Values:
        """Return the values at the pixels of a window, shape (rows, columns); beyond its ends a table is constant."""
        columns = np.arange(window.col, window.col + window.width, dtype=np.float64)
        rows = np.arange(window.row, window.row + window.height, dtype=np.float64)
        after = np.searchsorted(self.lines, rows, side="right").clip(1, max(1, len(self.lines) - 1))
        if len(self.lines) == 1:
            return np.broadcast_to(self._line(0, columns), (len(rows), len(columns)))
        first, last = int(after.min()) - 1, int(after.max())
        known = np.stack([self._line(line, columns) for line in range(first, last + 1)])
        before = self.lines[after - 1]
        share = ((rows - before) / (self.lines[after] - before)).clip(0, 1).astype(np.float32)[:, None]
        low, high = known[after - 1 - first], known[after - first]
        return np.asarray(low + (high - low) * share, np.float32)

    def _line(self, line: int, columns: NDArray[np.float64]) -> Values:
        return np.interp(columns, self.pixels[line], self.values[line]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Block:
    """A part of one swath; all four edges are in it.

    Attributes:
        top: First line.
        left: First pixel.
        bottom: Last line.
        right: Last pixel.
        lines: Lines of `noise`, ascending; empty where the block only bounds a swath.
        noise: Factor of the range noise at these lines.
    """

    top: int
    left: int
    bottom: int
    right: int
    lines: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()

    def within(self, window: Window) -> tuple[slice, slice]:
        """Return the rows and columns of a window that lie in the block."""
        top, bottom = (min(max(line - window.row, 0), window.height) for line in (self.top, self.bottom + 1))
        left, right = (min(max(pixel - window.col, 0), window.width) for pixel in (self.left, self.right + 1))
        return slice(top, bottom), slice(left, right)


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that turns one polarisation's amplitudes into backscatter.

    Attributes:
        width: Width of the scene in pixels.
        height: Height of the scene in pixels.
        sigma: Sigma nought table.
        noise: Range noise in power; None where the product says that it is removed already.
        azimuth: Blocks with azimuth noise; none in products of before 2018.
        swaths: Blocks that bound the swaths; none where the product names none.
    """

    width: int
    height: int
    sigma: Table
    noise: Table | None
    azimuth: tuple[Block, ...] = ()
    swaths: tuple[Block, ...] = ()

    def decibels(self, amplitudes: NDArray[Any], window: Window) -> tuple[Values, NDArray[np.bool_]]:
        """Return backscatter and where it is known.

        Args:
            amplitudes: As stored, shape (rows, columns).
            window: Which pixels of the scene they are.

        Returns:
            Decibels, float32, and whether there is data, both of the shape of the amplitudes.
        """
        power = np.square(amplitudes.astype(np.float32))
        valid = self._inside(window) & (power > 0)
        power -= self._noise(window)
        valid &= (power > 0) | ~self._margin(window)
        np.maximum(power, 0, out=power)
        power /= np.square(self.sigma.at(window))
        return to_decibels(power), valid

    def _noise(self, window: Window) -> Values | float:
        if self.noise is None:
            return 0.0
        noise = self.noise.at(window)
        if not self.azimuth:
            return noise
        factor = np.ones((window.height, window.width), np.float32)
        for block in self.azimuth:
            rows, columns = block.within(window)
            lines = np.arange(rows.start, rows.stop) + window.row
            factor[rows, columns] = np.interp(lines, block.lines, block.noise).astype(np.float32)[:, None]
        return noise * factor

    def _inside(self, window: Window) -> NDArray[np.bool_]:
        inside = np.full((window.height, window.width), not self.swaths)
        for block in self.swaths:
            inside[block.within(window)] = True
        return inside

    def _margin(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels lie so near to an edge of the scene that border noise is looked for."""
        edges = []
        for start, count, side in ((window.row, window.height, self.height), (window.col, window.width, self.width)):
            place = np.arange(start, start + count)
            edges.append(np.minimum(place, side - 1 - place) < min(_MARGIN, _MARGIN_SHARE * side))
        return np.asarray(edges[0][:, None] | edges[1][None, :])


def to_power(decibels: Values) -> Values:
    """Return decibels as linear power; what overflows is infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(np.power(np.float32(10), decibels / np.float32(10)), np.float32)


def to_decibels(power: Values) -> Values:
    """Return linear power as decibels, of at least -50 dB."""
    return np.asarray(np.float32(10) * np.log10(np.maximum(power, np.float32(FLOOR))), np.float32)


def table(lines: Sequence[tuple[float, Sequence[float], Sequence[float]]]) -> Table:
    """Return a table of lines, each with its pixels and values.

    Raises:
        ValueError: there is none, lines or pixels do not ascend, or lengths differ.
    """
    rows = np.array([line for line, _, _ in lines], np.float64)
    pixels = tuple(np.array(each, np.float64) for _, each, _ in lines)
    values = tuple(np.array(each, np.float64) for _, _, each in lines)
    if not lines or not all(map(_ascends, (rows, *pixels))):
        raise ValueError("lines or pixels do not ascend")
    for at, known in zip(pixels, values, strict=True):
        if len(at) != len(known) or not np.isfinite(known).all():
            raise ValueError("a value is missing")
    return Table(rows, pixels, values)


def _ascends(numbers: NDArray[np.float64]) -> bool:
    return bool(len(numbers) and np.isfinite(numbers).all() and (np.diff(numbers) > 0).all())
