"""How much of a patch lies under clouds or their shadows, by the classes that came with its product.

| kind | what it is | what counts |
|---|---|---|
| `SCL` | scene classification of Sentinel-2 L2A, a number for each class (Copernicus Sentinel-2 Products Specification Document, "Scene Classification") | cloud shadow (3), cloud of medium (8) and high (9) probability, thin cirrus (10) |
| `MSK_CLASSI` | classification mask of Sentinel-2 since processing baseline 04.00, at 60 m (the same document): a band each for opaque clouds, cirrus and snow, 1 where they are | opaque clouds and cirrus; it knows no shadows |
| `QA_PIXEL` | pixel quality of Landsat Collection 2, a bit for each finding (USGS, Landsat 8-9 Collection 2 Level 2 Science Product Guide, LSDS-1619; the same bits in the guide for Landsat 4-7, LSDS-1618) | cirrus (bit 2), cloud (bit 3), cloud shadow (bit 4) |

Snow counts nowhere: what is seen there is the ground. Neither do the clouds that `QA_PIXEL` calls dilated (bit 1), a margin
around clouds that the others do not have. Masks of older Sentinel-2 L1C are polygons (GML) and are not read.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import RasterRejected
from rsfed.raster.image import Source
from rsfed.raster.item import Window
from rsfed.raster.modality import Modality, modality
from rsfed.raster.pixels import Strip, nodata_shares, strips
from rsfed.raster.product import Classes
from rsfed.raster.source import opened
from rsfed.raster.stack import factor_of, of_band

_COVERED_CLASSES = np.isin(np.arange(256), (3, 8, 9, 10))
_COVERED_BITS = 1 << 2 | 1 << 3 | 1 << 4


class _Kind(NamedTuple):
    """What files of a kind are, and where their values, shape (bands, rows, columns), say that something covers."""

    modality: Modality
    covered: Callable[[NDArray[Any]], NDArray[np.bool_]]


_KINDS = {
    "SCL": _Kind(modality("uint8-1"), lambda values: _COVERED_CLASSES[values[0]]),
    "MSK_CLASSI": _Kind(modality("uint8-3"), lambda values: (values[:2] != 0).any(axis=0)),
    "QA_PIXEL": _Kind(modality("uint16-1"), lambda values: values[0] & _COVERED_BITS != 0),
}


def cloud_shares(classes: Classes, scene: Source, windows: Sequence[Window], root: Path | None) -> NDArray[np.float64]:
    """Return the share of pixels under clouds or shadows in each window, shape (windows,).

    Args:
        classes: What says it; its pixels may be larger than those of the scene.
        scene: The open source.
        windows: Windows of it.
        root: The archive that the file must lie in; None for an image that the user named.

    Raises:
        RasterRejected: it cannot be read, or shows other ground than the scene.
    """
    kind = _KINDS[classes.kind]
    try:
        with opened(classes.path, kind.modality, root=root) as source:
            return nodata_shares(_clear(source, kind), windows, factor_of(source, scene))
    except RasterRejected as error:
        raise of_band(classes.kind, error, classes.path) from error


def _clear(source: Source, kind: _Kind) -> Iterator[Strip]:
    """Yield where neither cloud nor shadow is."""
    for part in strips(source, Window(0, 0, source.width, source.height)):
        yield Strip(part.row, part.values, ~kind.covered(part.values))
