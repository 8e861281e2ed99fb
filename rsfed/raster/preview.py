"""Small pictures of one's own images, for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.raster.digest import check_unchanged
from rsfed.raster.item import Item, Window
from rsfed.raster.modality import Modality
from rsfed.raster.pixels import strips
from rsfed.raster.resample import resample, taps
from rsfed.raster.source import opened

_COLOURS = (("red", "green", "blue"), ("B04", "B03", "B02"))
_LOW, _HIGH = 2.0, 98.0  # percentiles of the values that become black and white
_PAPER = 255  # grey level where there is nothing


def preview(source: Item | Path, modality: Modality, size: int) -> NDArray[np.uint8]:
    """Draw an item, or a whole image.

    Eight-bit pictures keep their values; all else is stretched between two percentiles of the shown bands, together
    for all three so that colours stay what they are.

    Args:
        source: An item of one's own archive, or an image.
        modality: What it is.
        size: Width and height of the picture in pixels; another aspect ratio leaves paper at the edges.

    Returns:
        RGB, uint8, shape (size, size, 3).

    Raises:
        RasterRejected: the image cannot be read, or that of an item changed since it was ingested.
    """
    path, said = (source.path, source.radiometry) if isinstance(source, Item) else (source, None)
    with opened(path, modality, radiometry=said) as image:
        if isinstance(source, Item):
            check_unchanged(source, image)
        window = source.window if isinstance(source, Item) else Window(0, 0, image.width, image.height)
        span = max(window.width, window.height)
        across = taps(window.width, (window.width - span) // 2, span, size, "bilinear")
        down = taps(window.height, (window.height - span) // 2, span, size, "bilinear")
        values, valid = resample(strips(image, window, _shown(modality)), across, down)
        eight_bit = image.dtype == "uint8"
    picture = np.full((size, size, 3), _PAPER, np.uint8)
    if valid.any():
        low, high = (0.0, 255.0) if eight_bit else np.percentile(values[:, valid], (_LOW, _HIGH))
        grey = np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255).round().astype(np.uint8)
        picture[valid] = grey[:, valid].T
    return picture


def _shown(modality: Modality) -> list[int]:
    """Return the places of the bands shown as red, green and blue: the true colours, else the first three or one."""
    for colours in _COLOURS:
        if set(colours) <= set(modality.bands):
            return [modality.bands.index(band) for band in colours]
    return [0, 1, 2] if len(modality.bands) >= 3 else [0]
