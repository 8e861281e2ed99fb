"""What the operator declares of stored values by `archive.radiometry`, where files do not say it themselves.

| value | modalities | meaning |
|---|---|---|
| a number | of Sentinel-2 | it is added to stored values, -1000 or 0; stored 0 is nodata |
| "linear" | `sentinel-1-rtc-db` | values are linear power, not decibels; what is not above 0 is nodata |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsfed.raster.backscatter import to_decibels
from rsfed.raster.image import Pixels, Source
from rsfed.raster.item import Declared, Window
from rsfed.raster.modality import LINEAR, Modality
from rsfed.raster.reflectance import NODATA, Radiometry, declared_offsets


def as_declared(source: Source, modality: Modality, declared: Declared) -> Source:
    """Return a source whose values are what the modality means; the same one where nothing was declared."""
    if declared is None:
        return source
    if declared == LINEAR:
        return FromPower.of(source)
    return Reflectance.with_radiometry(source, declared_offsets(int(declared), len(modality.bands)))


@dataclass(frozen=True, slots=True)
class Reflectance(Source):
    """Another source, whose stored values become reflectance; its nodata is told apart before.

    Attributes:
        stored: The source of stored values.
        radiometry: What is done to them.
    """

    stored: Source
    radiometry: Radiometry

    @classmethod
    def with_radiometry(cls, stored: Source, radiometry: Radiometry) -> Reflectance:
        """Return the reflectance of a source."""
        changed = {
            "nodata": tuple(NODATA if each is None else each for each in stored.nodata),
            "dtype": stored.dtype if radiometry.changes_nothing else "float32",
            "declared": radiometry.declared,
        }
        return cls(**_header(stored) | changed, stored=stored, radiometry=radiometry)

    def read(self, places: Sequence[int], window: Window) -> Pixels:
        """Decode some bands in a window."""
        values, valid = self.stored.read(places, window)
        valid = _narrowed(valid, (values != NODATA).all(axis=0))
        return self.radiometry.apply(values, places), valid

    def tags(self) -> Mapping[str, str]:
        """Return the metadata of the source."""
        return self.stored.tags()

    def close(self) -> None:
        """Close the source."""
        self.stored.close()


@dataclass(frozen=True, slots=True)
class FromPower(Source):
    """Another source, whose linear power becomes decibels.

    Attributes:
        stored: The source of power.
    """

    stored: Source

    @classmethod
    def of(cls, stored: Source) -> FromPower:
        """Return the decibels of a source."""
        changed = {"nodata": (None,) * len(stored.nodata), "declared": LINEAR}
        return cls(**_header(stored) | changed, stored=stored)

    def read(self, places: Sequence[int], window: Window) -> Pixels:
        """Decode some bands in a window."""
        values, valid = self.stored.read(places, window)
        return to_decibels(values), _narrowed(valid, np.asarray((values > 0).all(axis=0)))

    def tags(self) -> Mapping[str, str]:
        """Return the metadata of the source."""
        return self.stored.tags()

    def close(self) -> None:
        """Close the source."""
        self.stored.close()


def _header(source: Source) -> dict[str, Any]:
    return {field.name: getattr(source, field.name) for field in fields(Source)}


def _narrowed(valid: NDArray[np.bool_] | None, also: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return where pixels have data that must have it by two rules; None: everywhere."""
    both = also if valid is None else valid & also
    return None if both.all() else both
