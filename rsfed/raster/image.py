"""What every source is to those that read it, whether it lies in one file or in several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsfed.raster.item import Declared, Window
from rsfed.raster.location import Location

if TYPE_CHECKING:
    from rsfed.raster.product import Product

Pixels = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""Stored values, shape (bands, rows, columns), and where all have data, shape (rows, columns); None for everywhere."""


@dataclass(frozen=True, slots=True)
class Source(ABC):
    """An open source whose header was checked. All its bands are on one grid.

    Attributes:
        path: The file, or the folder of the product.
        width: Width in pixels, of the overview where one is read.
        height: Height in pixels, of the overview where one is read.
        dtype: numpy name of the sample type.
        nodata: Nodata value of each of the modality's bands; None where it has none that its sample type can hold.
        location: Where the pixels lie, at full resolution.
        block_rows: Height in pixels of the blocks that it is stored in.
        row_bytes: Bytes that one row takes in memory, of all bands that are decoded with it.
        overview: Factor by which it is reduced, 1 for full resolution.
        whole: Width and height at full resolution; None where they are no others.
        product: The folder that it was opened from; None for a file.
        declared: What the operator said of its values, where they were taken by that.
        digests: SHA-256, by full name, of files that are in memory as a whole: of the very bytes that pixels come from.
    """

    path: Path
    width: int
    height: int
    dtype: str
    nodata: tuple[float | None, ...]
    location: Location
    block_rows: int
    row_bytes: int
    overview: int
    whole: tuple[int, int] | None = field(default=None, kw_only=True)
    product: Product | None = field(default=None, kw_only=True)
    declared: Declared = field(default=None, kw_only=True)
    digests: Mapping[str, bytes] = field(default_factory=dict, kw_only=True)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels at full resolution."""
        return self.whole or (self.width, self.height)

    @property
    def in_memory(self) -> bool:
        """Whether all pixels are in memory, so that nothing is decoded to read them."""
        return False

    @abstractmethod
    def read(self, places: Sequence[int], window: Window) -> Pixels:
        """Decode some bands, given by their places in the modality, in a window that lies inside."""

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Decode all bands in a window; return where they have data, shape (rows, columns), None for everywhere."""
        return self.read(range(len(self.nodata)), window)[1]

    @abstractmethod
    def tags(self) -> Mapping[str, str]:
        """Return its metadata, as `rsfed.raster.metadata` reads them."""

    @abstractmethod
    def close(self) -> None:
        """Close its files."""


def without_data(values: NDArray[Any], nodata: Sequence[float | None]) -> NDArray[np.bool_] | None:
    """Return where any band has no data by its own values, shape (rows, columns); None where no value can say so.

    Args:
        values: Stored values, shape (bands, rows, columns).
        nodata: Nodata value of each band.
    """
    bad = None
    if values.dtype == np.float32:
        bad = ~np.isfinite(values).all(axis=0)
    for band, value in zip(values, nodata, strict=True):
        if value is not None:
            with np.errstate(over="ignore"):  # a nodata value beyond the type's range is stored as infinity
                equal = band == values.dtype.type(value)
            bad = equal if bad is None else bad | equal
    return bad
