"""Pure geometry: which windows an encoder cuts from a source, and which pixels of a window it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.input_spec import BandGroup, Fit, InputSpec
from rsfed.raster.item import Window

Resolution = tuple[float, float]
"""Ground sampling distance across and down, in metres."""


@dataclass(frozen=True, slots=True)
class Region:
    """What of a source fills the input of an encoder; may begin before the source and be a fraction of a pixel long.

    Attributes:
        col: Left edge in pixels of the source.
        row: Upper edge in pixels of the source.
        width: Width in pixels of the source.
        height: Height in pixels of the source.
    """

    col: int
    row: int
    width: float
    height: float

    def within(self, window: Window) -> Window:
        """Return the pixels of the region that lie inside a window."""
        col, row = max(self.col, window.col), max(self.row, window.row)
        right = min(math.ceil(self.col + self.width), window.col + window.width)
        bottom = min(math.ceil(self.row + self.height), window.row + window.height)
        return Window(col, row, right - col, bottom - row)


def cut(width: int, height: int, resolution: Resolution | None, spec: InputSpec) -> list[Window]:
    """Cut a source into the windows that become items.

    `resize` and `crop` make one item of the whole source. `tile` lays a grid over it, in the size that the encoder's
    first group takes at its ground sampling distance; the last column and row are shifted inward, so every pixel
    is in a window and no window leaves the source.

    Raises:
        RasterRejected: the source is much smaller or coarser than a patch, or makes too many of them.
    """
    whole = Window(0, 0, width, height)
    if spec.fit == "resize":
        return [whole]
    for group in spec.groups:
        _check_size(whole, group, resolution)
    if spec.fit == "crop":
        return [whole]
    across, down = _span(spec.groups[0], resolution)
    cols, rows = _starts(width, across), _starts(height, down)
    if len(cols) * len(rows) > limits.MAX_PATCHES:
        raise RasterRejected(f"it makes more than {limits.MAX_PATCHES:,} patches; cut it into smaller files")
    size = min(width, math.ceil(across)), min(height, math.ceil(down))
    return [Window(col, row, *size) for row in rows for col in cols]


def region(window: Window, group: BandGroup, resolution: Resolution | None, fit: Fit) -> Region:
    """Return the part of the source that fills a group: the whole window for `resize`, else its centre."""
    if fit == "resize":
        return Region(window.col, window.row, window.width, window.height)
    across, down = _span(group, resolution)
    col = window.col + math.floor((window.width - across) / 2)
    row = window.row + math.floor((window.height - down) / 2)
    return Region(col, row, across, down)


def shrunk(window: Window, factor: int) -> Window:
    """Return the pixels of a source reduced by a factor that cover a window of the source itself."""
    col, row = window.col // factor, window.row // factor
    right, bottom = window.col + window.width, window.row + window.height
    return Window(col, row, -(-right // factor) - col, -(-bottom // factor) - row)


def _span(group: BandGroup, resolution: Resolution | None) -> tuple[float, float]:
    """Return how many pixels of the source a group takes across and down.

    A source without a known ground sampling distance is taken pixel by pixel.
    """
    if group.gsd is None or resolution is None:
        return float(group.size), float(group.size)
    return _tidy(group.size * group.gsd / resolution[0]), _tidy(group.size * group.gsd / resolution[1])


def _tidy(length: float) -> float:
    """Return the whole number that a length is meant to be, where rounding errors made it miss that by a trifle."""
    return float(round(length)) if abs(length - round(length)) < 1e-3 else length


def _starts(available: int, length: float) -> list[int]:
    last = max(0, available - math.ceil(length))
    return [min(math.floor(step * length), last) for step in range(max(1, math.ceil(available / length)))]


def _check_size(whole: Window, group: BandGroup, resolution: Resolution | None) -> None:
    if group.gsd and resolution and max(resolution) > limits.MAX_COARSER * group.gsd:
        raise RasterRejected(
            f"its pixels are {max(resolution):.6g} m wide and the encoder looks at {group.gsd:.6g} m; "
            "use images of a finer resolution"
        )
    across, down = _span(group, resolution)
    if whole.width * 2 < across or whole.height * 2 < down:
        raise RasterRejected(
            f"it is {whole.width} x {whole.height} pixels and the encoder takes {across:.0f} x {down:.0f}; "
            "use larger images, or an encoder with a smaller size or fit = resize"
        )
