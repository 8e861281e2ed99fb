"""Pure geometry: windows that an encoder cuts from a source, pixels that it takes of them, how far boxes overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.input_spec import BandGroup, InputSpec
from rsfed.raster.item import Window

Resolution = tuple[float, float]
"""Ground sampling distance across and down, in metres."""

Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge, in pixels or degrees; of pixels the lower is the smaller row."""


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


@dataclass(frozen=True, slots=True)
class Lattice:
    """Where the patches of a fixed grid begin, in pixels of a source: at whole multiples of the steps from a corner.

    Attributes:
        col: First corner at or behind the left edge.
        row: First corner at or below the upper edge.
        across: Step to the right.
        down: Step downward.
    """

    col: float
    row: float
    across: float
    down: float


def lattice(west: float, north: float, resolution: Resolution, stride: float) -> Lattice:
    """Return the grid whose corners lie at whole multiples of the stride in the coordinates of a projection.

    So the same ground gives the same patch in every source of this projection.

    Args:
        west: Easting of the left edge in metres.
        north: Northing of the upper edge in metres.
        resolution: Pixel size in metres.
        stride: Distance between corners in metres.
    """
    first = math.ceil(_tidy(west / stride)) * stride, math.floor(_tidy(north / stride)) * stride
    across, down = resolution
    return Lattice((first[0] - west) / across, (north - first[1]) / down, stride / across, stride / down)


def cut(
    width: int, height: int, resolution: Resolution | None, spec: InputSpec, grid: Lattice | None = None
) -> list[Window]:
    """Cut a source into the windows that become items.

    `resize` and `crop` make one item of the whole source. `tile` lays a grid over it, in the size that the encoder's
    first group takes at its ground sampling distance; the last column and row are shifted inward, so every pixel
    is in a window and no window leaves the source. On a fixed grid a window that would leave the source is left out:
    shifted, it would not lie on the grid.

    Args:
        width: Width of the source in pixels.
        height: Its height in pixels.
        resolution: Its pixel size.
        spec: How the encoder takes its input.
        grid: The fixed grid; None for one that begins at the corner of the source, by `spec.fit`.

    Raises:
        RasterRejected: the source is much smaller or coarser than a patch, makes too many of them, or none.
    """
    whole = Window(0, 0, width, height)
    if spec.fit == "resize" and grid is None:
        return [whole]
    if spec.fit == "resize":
        raise RasterRejected("the encoder looks at whole images, which are not cut; take out [archive] stride")
    for group in spec.groups:
        _check_size(whole, group, resolution, spec.reduction)
    if spec.fit == "crop" and grid is None:
        return [whole]
    across, down = _span(spec.groups[0], resolution, spec.reduction)
    if grid is None:
        cols, rows = _starts(width, across), _starts(height, down)
    else:
        cols, rows = _corners(grid.col, grid.across, width, across), _corners(grid.row, grid.down, height, down)
    if not cols or not rows:
        raise RasterRejected("no patch of the grid lies wholly in it; take out [archive] stride or use larger images")
    if len(cols) * len(rows) > limits.MAX_PATCHES:
        raise RasterRejected(f"it makes more than {limits.MAX_PATCHES:,} patches; cut it into smaller files")
    size = min(width, math.ceil(across)), min(height, math.ceil(down))
    return [Window(col, row, *size) for row in rows for col in cols]


def region(window: Window, group: BandGroup, resolution: Resolution | None, spec: InputSpec) -> Region:
    """Return the part of the source that fills a group: the whole window for `resize`, else its centre."""
    if spec.fit == "resize":
        return Region(window.col, window.row, window.width, window.height)
    across, down = _span(group, resolution, spec.reduction)
    col = window.col + math.floor((window.width - across) / 2)
    row = window.row + math.floor((window.height - down) / 2)
    return Region(col, row, across, down)


def overlap(one: Box, other: Box) -> float:
    """Return what two boxes have in common as a share of what they cover together (intersection over union)."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return float(one == other)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return across * down / (areas - across * down)


def shrunk(window: Window, factor: int) -> Window:
    """Return the pixels of a source reduced by a factor that cover a window of the source itself."""
    col, row = window.col // factor, window.row // factor
    right, bottom = window.col + window.width, window.row + window.height
    return Window(col, row, -(-right // factor) - col, -(-bottom // factor) - row)


def _span(group: BandGroup, resolution: Resolution | None, reduction: int) -> tuple[float, float]:
    """Return how many pixels of the source a group takes across and down.

    A source without a known ground sampling distance is taken pixel by pixel, of those that it has when reduced.
    """
    if group.gsd is None or resolution is None:
        return float(group.size * reduction), float(group.size * reduction)
    return _tidy(group.size * group.gsd / resolution[0]), _tidy(group.size * group.gsd / resolution[1])


def _tidy(length: float) -> float:
    """Return the whole number that a length is meant to be, where rounding errors made it miss that by a trifle."""
    return float(round(length)) if abs(length - round(length)) < 1e-3 else length


def _starts(available: int, length: float) -> list[int]:
    last = max(0, available - math.ceil(length))
    return [min(math.floor(step * length), last) for step in range(max(1, math.ceil(available / length)))]


def _corners(first: float, step: float, available: int, length: float) -> list[int]:
    """Return where the patches of a fixed grid begin that lie wholly in the source."""
    count = max(0, math.floor((available - math.ceil(length) + 0.5 - first) / step) + 1)
    starts = (round(first + number * step) for number in range(count))
    return [start for start in starts if start + math.ceil(length) <= available]


def _check_size(whole: Window, group: BandGroup, resolution: Resolution | None, reduction: int) -> None:
    if group.gsd and resolution and max(resolution) > limits.MAX_COARSER * group.gsd:
        raise RasterRejected(
            f"its pixels are {max(resolution):.6g} m wide and the encoder looks at {group.gsd:.6g} m; "
            "use images of a finer resolution"
        )
    across, down = _span(group, resolution, reduction)
    if whole.width * 2 < across or whole.height * 2 < down:
        raise RasterRejected(
            f"it is {whole.width} x {whole.height} pixels and the encoder takes {across:.0f} x {down:.0f}; "
            "use larger images, or an encoder with a smaller size or fit = resize"
        )
