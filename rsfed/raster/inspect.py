"""Looking at a source before it enters a catalogue: is it sound, what is it, which patches does it give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

from rsfed.raster import metadata
from rsfed.raster.clouds import cloud_shares
from rsfed.raster.digest import content_digest, source_digest
from rsfed.raster.geometry import cut, region, shrunk
from rsfed.raster.image import Source
from rsfed.raster.input_spec import InputSpec
from rsfed.raster.item import Declared, Footprint, Interval, Window
from rsfed.raster.modality import Modality
from rsfed.raster.pixels import nodata_shares, reduced_strips
from rsfed.raster.rows import streamed
from rsfed.raster.source import opened


@dataclass(frozen=True, slots=True)
class SourceWindow:
    """One patch that a source gives.

    Attributes:
        window: Its pixels.
        nodata: Share of the pixels that the encoder takes from it in which any band has no data, 0 to 1.
        digest: Content digest in hexadecimal.
        footprint: Where it lies, where known.
        cloud: Share of those pixels under clouds or their shadows, 0 to 1; None where nothing says it.
    """

    window: Window
    nodata: float
    digest: str
    footprint: Footprint | None
    cloud: float | None = None


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
        digest: SHA-256 of its bytes, as `rsfed.raster.digest.source_digest` makes it.
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
    digest: bytes
    windows: tuple[SourceWindow, ...]


def inspect(  # noqa: PLR0913 - how an archive is read
    path: Path,
    *,
    root: Path | None,
    modality: Modality,
    spec: InputSpec,
    radiometry: Declared = None,
    stride: float | None = None,
) -> SourceInfo:
    """Check a source and cut it into patches; every pixel is decoded once, as reduced as the encoder takes it.

    Args:
        path: The image.
        root: The archive that it must lie in; None for an image that the user named.
        modality: What the archive holds.
        spec: How the encoder of this modality takes its input.
        radiometry: What the operator declared of the archive's values.
        stride: Cut it along a grid that is fixed in its projection, in steps of so many metres; None for `spec.fit`.

    Raises:
        RasterRejected: with what is wrong and its remedy; nothing else is ever raised.
    """
    with opened(path, modality, root=root, reduction=own_reduction(modality, spec), radiometry=radiometry) as source:
        info = survey(source, path, modality, spec, stride)
        classes = source.product.classes if source.product else None
        if classes is None:
            return info
        taken = _taken(source, [each.window for each in info.windows], spec)
        shares = cloud_shares(classes, source, taken, root)
    clouded = (replace(each, cloud=float(share)) for each, share in zip(info.windows, shares, strict=True))
    return replace(info, windows=tuple(clouded))


def own_reduction(known: Modality, spec: InputSpec) -> int:
    """Return the reduction that a file may have done itself: overviews of decibels are no averages of power."""
    return 1 if known.decibel else spec.reduction


def survey(source: Source, path: Path, modality: Modality, spec: InputSpec, stride: float | None = None) -> SourceInfo:
    """Describe an open source; arguments and errors as for `inspect`."""
    location, tags = source.location, source.tags()
    whole = Window(0, 0, *source.size)
    grid = None if stride is None else location.fixed_grid(stride)
    windows = cut(whole.width, whole.height, location.resolution, spec, grid)
    factor = spec.reduction
    shares = nodata_shares(
        reduced_strips(streamed(source), shrunk(whole, factor), factor, bands=()),
        [shrunk(each, factor) for each in _taken(source, windows, spec)],
    )
    digest = source_digest(source)
    outlines = list(dict.fromkeys([whole, *windows]))  # a patch may be the whole source
    footprints = dict(zip(outlines, location.footprints(outlines), strict=True))
    return SourceInfo(
        width=whole.width,
        height=whole.height,
        bands=len(source.nodata),
        dtype=source.dtype,
        nodata=source.nodata,
        crs=location.crs,
        gsd=sqrt(location.resolution[0] * location.resolution[1]) if location.resolution else None,
        footprint=footprints[whole],
        acquired=metadata.acquired(tags, path.stem),
        acquisition=metadata.acquisition(tags, path.stem),
        place=metadata.place(tags) if len(windows) == 1 else None,
        direction=metadata.direction(tags),
        digest=digest,
        windows=tuple(
            SourceWindow(
                window=window,
                nodata=float(share),
                digest=content_digest(digest, window, modality.name, source.declared),
                footprint=footprints[window],
            )
            for window, share in zip(windows, shares, strict=True)
        ),
    )


def _taken(source: Source, windows: Sequence[Window], spec: InputSpec) -> list[Window]:
    """Return the pixels that the encoder takes from each window."""
    resolution = source.location.resolution
    return [region(each, spec.groups[0], resolution, spec).within(each) for each in windows]
