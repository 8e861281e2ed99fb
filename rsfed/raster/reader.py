"""The one way from an item to the arrays that an encoder takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import RasterRejected
from rsfed.raster.backscatter import to_decibels, to_power
from rsfed.raster.digest import check_unchanged
from rsfed.raster.geometry import region, shrunk
from rsfed.raster.holes import fill_holes
from rsfed.raster.image import Source
from rsfed.raster.input_spec import BandGroup, InputSpec
from rsfed.raster.inspect import SourceInfo, own_reduction, survey
from rsfed.raster.item import Item, Window
from rsfed.raster.modality import Modality, modality
from rsfed.raster.pixels import Strip, reduced_strips
from rsfed.raster.refusal import refusing
from rsfed.raster.resample import resample, taps
from rsfed.raster.rows import by_rows
from rsfed.raster.source import opened

Content = dict[str, NDArray[np.float32]]
"""Patch content: for each band group float32, shape (bands, size, size), normalised."""


def read(item: Item, spec: InputSpec) -> Content:
    """Read a patch as an encoder takes it.

    Stored values become (value - offset) / scale; pixels without data what `spec.holes` says.

    Raises:
        RasterRejected: the source is gone, damaged, changed since it was ingested, or does not fit the encoder.
    """
    known = modality(item.modality)
    with opened(item.path, known, reduction=own_reduction(known, spec), radiometry=item.radiometry) as source:
        check_unchanged(item, source)
        return _content(source, item.window, known, spec)


def read_many(items: Sequence[Item], spec: InputSpec) -> Iterator[tuple[Item, Content | RasterRejected]]:
    """Read patches of one source, which is opened once; in the order of their rows every block is decoded once.

    Args:
        items: The patches, at least one.
        spec: How the encoder takes its input.

    Yields:
        Each patch in its turn with what `read` gives, or with what `read` raises.
    """
    first = items[0]
    known, done = modality(first.modality), 0
    try:
        with opened(first.path, known, reduction=own_reduction(known, spec), radiometry=first.radiometry) as source:
            held = by_rows(source, [shrunk(item.window, source.overview) for item in items])
            for item in items:
                content = _tried(held, item, known, spec)
                done += 1
                yield item, content
    except RasterRejected as error:
        for item in items[done:]:
            yield item, error


def _tried(source: Source, item: Item, known: Modality, spec: InputSpec) -> Content | RasterRejected:
    try:
        with refusing(item.path):
            content = _content(source, item.window, known, spec)
            check_unchanged(item, source)  # also since the block was decoded that it comes from
            return content
    except RasterRejected as error:
        return error


def read_image(path: Path, modality: Modality, spec: InputSpec) -> tuple[SourceInfo, Iterator[Content]]:
    """Read an image that is no item, such as a query: one content for each patch that it gives.

    Returns:
        What is known of the image, with only those windows that have enough data, and their contents: each is read
        when it is taken, so that a scene is never in memory as a whole.

    Raises:
        RasterRejected: as for `inspect`, or every patch has too much nodata; for what `read` refuses, when the content
            is taken.
    """
    with opened(path, modality, reduction=own_reduction(modality, spec)) as source:
        info = survey(source, path, modality, spec)
        usable = tuple(each for each in info.windows if each.nodata <= spec.max_nodata)
        if not usable:
            raise RasterRejected(f"more than {spec.max_nodata:.0%} of it has no data; choose another image")
    return replace(info, windows=usable), _contents(path, [each.window for each in usable], modality, spec)


def _contents(path: Path, windows: Sequence[Window], known: Modality, spec: InputSpec) -> Iterator[Content]:
    with opened(path, known, reduction=own_reduction(known, spec)) as whole:
        source = by_rows(whole, [shrunk(each, whole.overview) for each in windows])
        for window in windows:
            yield _content(source, window, known, spec)


def _content(source: Source, window: Window, known: Modality, spec: InputSpec) -> Content:
    return {group.name: _group(source, window, known, spec, group) for group in spec.groups}


def _group(source: Source, window: Window, known: Modality, spec: InputSpec, group: BandGroup) -> NDArray[np.float32]:
    """Return one group of a patch: float32, shape (bands, size, size), normalised and filled."""
    wanted = region(window, group, source.location.resolution, spec)
    factor = spec.reduction
    small = shrunk(wanted.within(window), factor)
    parts = reduced_strips(source, small, factor, _places(group, known), lambda found: _linear(found, known))
    across = taps(small.width, wanted.col / factor - small.col, wanted.width / factor, group.size, spec.resampling)
    down = taps(small.height, wanted.row / factor - small.row, wanted.height / factor, group.size, spec.resampling)
    values, valid = resample(parts, across, down)
    if known.decibel:
        values = to_decibels(values)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows has no meaning and is filled
        values -= np.asarray(group.offset, np.float32)[:, None, None]
        values /= np.asarray(group.scale, np.float32)[:, None, None]
        valid = valid & np.isfinite(values).all(axis=0)
    if spec.holes == "rings":
        fill_holes(values, valid, spec.fill)
    else:
        values[:, ~valid] = spec.fill
    return values


def _linear(parts: Iterator[Strip], known: Modality) -> Iterator[Strip]:
    return (replace(part, values=to_power(part.values)) for part in parts) if known.decibel else parts


def _places(group: BandGroup, known: Modality) -> list[int]:
    if missing := [band for band in group.bands if band not in known.bands]:
        raise RasterRejected(f"modality {known.name} has no band {missing[0]}, which the encoder takes")
    return [known.bands.index(band) for band in group.bands]
