"""How much of a patch lies under clouds or their shadows, by the classes that came with its product.

The scene classification of Sentinel-2 L2A: cloud shadow (3), cloud of medium (8) and high (9) probability and thin
cirrus (10) count. Snow (11) does not: what is seen there is the ground.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import RasterRejected
from rsfed.raster.image import Source
from rsfed.raster.item import Window
from rsfed.raster.modality import modality
from rsfed.raster.pixels import Strip, nodata_shares, strips
from rsfed.raster.source import opened

CLOUD_OR_SHADOW = (3, 8, 9, 10)
_CLASSES = modality("uint8-1")


def cloud_shares(
    classes: Path, size: tuple[int, int], windows: Sequence[Window], root: Path | None
) -> NDArray[np.float64]:
    """Return the share of pixels under clouds or shadows in each window, shape (windows,).

    Args:
        classes: The file of the classes, whose pixels may be larger than those of the source.
        size: Width and height of the source in pixels.
        windows: Windows of the source.
        root: The archive that the file must lie in; None for an image that the user named.

    Raises:
        RasterRejected: it cannot be read, or does not cover the source.
    """
    with opened(classes, _CLASSES, root=root) as source:
        factor = round(size[0] / source.width)
        if (source.width * factor, source.height * factor) != size:
            raise RasterRejected("its classification of clouds covers other ground than its bands; copy it again")
        return nodata_shares(_clear(source, factor), list(windows))


def _clear(source: Source, factor: int) -> Iterator[Strip]:
    """Yield where neither cloud nor shadow is, at the pixel size of the bands."""
    for part in strips(source, Window(0, 0, source.width, source.height)):
        clear = ~np.isin(part.values[0], CLOUD_OR_SHADOW)
        yield Strip(part.row * factor, part.values, clear.repeat(factor, axis=0).repeat(factor, axis=1))
