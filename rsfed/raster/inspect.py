"""Looking at a source before it enters a catalogue: is it sound, what is it, which patches does it give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.raster import metadata
from rsfed.raster.digest import content_digest, file_digest
from rsfed.raster.geometry import cut, region
from rsfed.raster.image import Source
from rsfed.raster.input_spec import InputSpec
from rsfed.raster.item import Declared, Footprint, Interval, Window
from rsfed.raster.modality import Modality
from rsfed.raster.pixels import Strip, strips
from rsfed.raster.source import opened


@dataclass(frozen=True, slots=True)
class SourceWindow:
    """One patch that a source gives.

    Attributes:
        window: Its pixels.
        nodata: Share of the pixels that the encoder takes from it in which any band has no data, 0 to 1.
        digest: Content digest in hexadecimal.
        footprint: Where it lies, where known.
    """

    window: Window
    nodata: float
    digest: str
    footprint: Footprint | None


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        bands: Bands of the modality; an alpha band is not counted.
        dtype: numpy name of the sample type.
        nodata: Nodata value of each band, None where there is none.
        crs: Coordinate reference system as text, None where unknown.
        gsd: Ground sampling distance in metres, None where unknown.
        footprint: Where it lies, None where unknown.
        acquired: When it was taken, None where unknown.
        acquisition: The overpass that it was taken in, None where unknown.
        place: Id that several modalities of one place share; None where unknown, or where there are several patches.
        direction: Pass in which a radar took it, None where unknown.
        windows: Its patches, row by row.
    """

    width: int
    height: int
    bands: int
    dtype: str
    nodata: tuple[float | None, ...]
    crs: str | None
    gsd: float | None
    footprint: Footprint | None
    acquired: Interval | None
    acquisition: str | None
    place: str | None
    direction: str | None
    windows: tuple[SourceWindow, ...]


def inspect(
    path: Path, *, root: Path | None, modality: Modality, spec: InputSpec, radiometry: Declared = None
) -> SourceInfo:
    """Check a source and cut it into patches; every pixel is decoded once.

    Args:
        path: The image.
        root: The archive that it must lie in; None for an image that the user named.
        modality: What the archive holds.
        spec: How the encoder of this modality takes its input.
        radiometry: What the operator declared of the archive's values.

    Raises:
        RasterRejected: with what is wrong and its remedy; nothing else is ever raised.
    """
    with opened(path, modality, root=root, radiometry=radiometry) as source:
        return survey(source, path, modality, spec, radiometry)


def survey(source: Source, path: Path, modality: Modality, spec: InputSpec, radiometry: Declared = None) -> SourceInfo:
    """Describe an open source; arguments and errors as for `inspect`."""
    location, tags = source.location, source.tags()
    whole = Window(0, 0, source.width, source.height)
    windows = cut(whole.width, whole.height, location.resolution, spec)
    taken = [region(each, spec.groups[0], location.resolution, spec.fit).within(each) for each in windows]
    shares = nodata_shares(strips(source, whole), taken)
    digest = file_digest(path)
    footprint, *footprints = location.footprints([whole, *windows])
    return SourceInfo(
        width=whole.width,
        height=whole.height,
        bands=len(source.nodata),
        dtype=source.dtype,
        nodata=source.nodata,
        crs=location.crs,
        gsd=sqrt(location.resolution[0] * location.resolution[1]) if location.resolution else None,
        footprint=footprint,
        acquired=metadata.acquired(tags, path.stem),
        acquisition=metadata.acquisition(tags, path.stem),
        place=metadata.place(tags) if len(windows) == 1 else None,
        direction=metadata.direction(tags),
        windows=tuple(
            SourceWindow(window, float(share), content_digest(digest, window, modality.name, radiometry), where)
            for window, share, where in zip(windows, shares, footprints, strict=True)
        ),
    )


def nodata_shares(parts: Iterable[Strip], windows: list[Window]) -> NDArray[np.float64]:
    """Return the share of pixels without data in each window, shape (windows,).

    Args:
        parts: Strips of the whole source, from top to bottom.
        windows: Windows of the source.
    """
    counts = np.zeros(len(windows), np.int64)
    edges = np.array([(w.col, w.row, w.col + w.width, w.row + w.height) for w in windows], np.int64)
    for part in parts:
        if part.valid is None:
            continue
        # Sums from the upper left corner give the count in any rectangle by four look-ups.
        total = np.zeros((part.valid.shape[0] + 1, part.valid.shape[1] + 1), np.int64)
        np.cumsum(np.cumsum(~part.valid, axis=0), axis=1, out=total[1:, 1:])
        top, bottom = (np.clip(edges[:, side] - part.row, 0, part.valid.shape[0]) for side in (1, 3))
        left, right = edges[:, 0], edges[:, 2]
        counts += total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return counts / ((edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1]))
