"""A source whose bands lie in files of their own, at one or several pixel sizes: all are brought to the finest grid.

Every pixel of a coarser band is repeated, which changes no value. So pixel sizes must be whole multiples of the finest,
and all files must show the same ground in the same projection; whatever else is refused, never resampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.image import Pixels, Source
from rsfed.raster.image_file import check_size
from rsfed.raster.item import Window
from rsfed.raster.modality import Modality
from rsfed.raster.product import OpenBand, Product
from rsfed.raster.refusal import refused

_TOLERANCE = 0.01  # pixels of the finest grid by which corners may differ


class Factor(NamedTuple):
    """How many pixels of the finest grid a pixel of a band is wide and high."""

    across: int
    down: int


_SAME = Factor(1, 1)


@dataclass(frozen=True, slots=True)
class Stack(Source):
    """The open bands of a product.

    Attributes:
        bands: Names of the modality's bands.
        members: A source of one band for each of them.
        factors: How much coarser each is than the grid of the stack.
    """

    bands: tuple[str, ...]
    members: tuple[Source, ...]
    factors: tuple[Factor, ...]

    @classmethod
    def open(cls, product: Product, modality: Modality, open_band: OpenBand) -> Self:
        """Open those bands of a product that a modality has.

        Raises:
            RasterRejected: a band is missing or will not do, or they do not lie on one grid.
        """
        missing = [band for band in modality.bands if band not in product.bands]
        if missing:
            raise RasterRejected(_lacking(product, modality, missing))
        with ExitStack() as opened:
            members = []
            for band, alone in zip(modality.bands, _alone(modality), strict=True):
                try:
                    members.append(open_band(product.bands[band], alone))
                except Exception as error:
                    raise of_band(band, error, product.bands[band]) from error
                opened.callback(members[-1].close)
            stack = cls._of(tuple(members), modality, product)
            opened.pop_all()
        return stack

    @classmethod
    def _of(cls, members: tuple[Source, ...], modality: Modality, product: Product) -> Self:
        finest = max(members, key=lambda each: each.width * each.height)
        factors: list[Factor] = []
        fit: dict[tuple[object, ...], Factor] = {}  # bands of one pixel size, which share what says their place
        for band, member in zip(modality.bands, members, strict=True):
            alike = member.width, member.height, member.dtype, id(member.location)
            try:
                if alike not in fit:
                    _check_type(member, finest)
                    fit[alike] = factor_of(member, finest)
                factors.append(fit[alike])
            except RasterRejected as error:
                raise of_band(band, error, member.path) from error
        row_bytes = finest.width * len(members) * np.dtype(finest.dtype).itemsize
        check_size(finest.width, finest.height)
        if row_bytes * finest.height > limits.MAX_BYTES:
            raise RasterRejected(f"it is larger than {limits.MAX_BYTES >> 30} GiB; cut it into smaller files")
        blocks = max(member.block_rows * factor.down for member, factor in zip(members, factors, strict=True))
        return cls(
            path=product.folder,
            width=finest.width,
            height=finest.height,
            dtype=finest.dtype,
            nodata=tuple(member.nodata[0] for member in members),
            location=finest.location,
            block_rows=min(blocks, finest.height),
            row_bytes=row_bytes,
            overview=1,
            bands=modality.bands,
            members=members,
            factors=tuple(factors),
            product=product,
            digests={path: digest for member in members for path, digest in member.digests.items()},
        )

    def read(self, places: Sequence[int], window: Window) -> Pixels:
        """Decode some bands in a window, coarser ones repeated."""
        values = np.empty((len(places), window.height, window.width), self.dtype)
        masks = []
        for place, band in zip(places, values, strict=True):
            cover = _cover(window, self.factors[place])
            try:
                stored, valid = self.members[place].read([0], cover.window)
            except Exception as error:
                raise of_band(self.bands[place], error, self.members[place].path) from error
            band[:] = cover.finer(stored[0])
            masks.append(valid if valid is None else cover.finer(valid))
        return values, _in_all(masks)

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Decode all bands in a window; return where they have data."""
        masks = []
        for name, member, factor in zip(self.bands, self.members, self.factors, strict=True):
            cover = _cover(window, factor)
            try:
                valid = member.valid(cover.window)
            except Exception as error:
                raise of_band(name, error, member.path) from error
            masks.append(valid if valid is None else cover.finer(valid))
        return _in_all(masks)

    @property
    def in_memory(self) -> bool:
        """Whether all bands are."""
        return all(member.in_memory for member in self.members)

    def tags(self) -> Mapping[str, str]:
        """Return the metadata of the product."""
        return self.product.tags() if self.product else {}

    def close(self) -> None:
        """Close all bands."""
        for member in self.members:
            member.close()


class _Cover(NamedTuple):
    """The pixels of a band that cover a window of the finest grid.

    Attributes:
        window: These pixels.
        factor: How much coarser they are.
        rows: Where the window lies in them, all repeated.
        cols: The same across.
    """

    window: Window
    factor: Factor
    rows: slice
    cols: slice

    def finer(self, coarse: NDArray[Any]) -> NDArray[Any]:
        """Return the window by repeating every pixel of a band, shape (rows, columns)."""
        if self.factor == _SAME:
            return coarse
        return coarse.repeat(self.factor.across, axis=1).repeat(self.factor.down, axis=0)[self.rows, self.cols]


@lru_cache(maxsize=64)  # patches of one archive are alike
def _cover(window: Window, factor: Factor) -> _Cover:
    col, row = window.col // factor.across, window.row // factor.down
    right = -(-(window.col + window.width) // factor.across)
    bottom = -(-(window.row + window.height) // factor.down)
    left, top = window.col - col * factor.across, window.row - row * factor.down
    rows, cols = slice(top, top + window.height), slice(left, left + window.width)
    return _Cover(Window(col, row, right - col, bottom - row), factor, rows, cols)


def _in_all(masks: Sequence[NDArray[np.bool_] | None]) -> NDArray[np.bool_] | None:
    held = [mask for mask in masks if mask is not None]
    return np.logical_and.reduce(held) if held else None


@lru_cache(maxsize=64)
def _alone(modality: Modality) -> tuple[Modality, ...]:
    """Return what the file of each band must be."""
    return tuple(
        replace(modality, bands=(band,), offset=(0.0,), scale=(1.0,), native_gsd=()) for band in modality.bands
    )


def _scale(finest: Affine, band: Affine, reach: int) -> tuple[int, int, float]:
    """Return by what whole numbers a band is coarser, and how many pixels of the finest grid it misses that by."""
    turn = finest.a * finest.e - finest.b * finest.d
    if not turn:
        return 0, 0, math.inf
    east, south = band.c - finest.c, band.f - finest.f
    ratios = (  # of the columns of both in terms of the finest one
        (band.a * finest.e - band.d * finest.b) / turn,
        (band.d * finest.a - band.a * finest.d) / turn,
        (band.b * finest.e - band.e * finest.b) / turn,
        (band.e * finest.a - band.b * finest.d) / turn,
    )
    shift = ((east * finest.e - south * finest.b) / turn, (south * finest.a - east * finest.d) / turn)
    across, down = round(ratios[0]), round(ratios[3])
    skew = max(abs(ratios[0] - across), abs(ratios[1]), abs(ratios[2]), abs(ratios[3] - down))
    return across, down, max(skew * reach, *map(abs, shift))


def _check_type(member: Source, finest: Source) -> None:
    if member.dtype != finest.dtype:
        raise RasterRejected(f"its samples are {member.dtype} and those of others {finest.dtype}; convert them to one")


def factor_of(member: Source, finest: Source) -> Factor:
    """Return how much coarser a band is than the finest one, or than a whole product.

    Raises:
        RasterRejected: they do not lie on one grid.
    """
    here, there = member.location, finest.location
    size = member.width, member.height
    if here is there and here.crs is not None and size == (finest.width, finest.height):
        return _SAME
    if here.crs is None or there.crs is None:
        raise RasterRejected("it has no coordinate reference system, so nobody knows its ground; copy it again")
    if here.crs != there.crs:
        raise RasterRejected("it is in another projection than other bands; bring all to one")
    across, down, drift = _scale(there.affine, here.affine, max(member.width, member.height))
    factor = Factor(across, down)
    covered = size[0] * across, size[1] * down
    if min(factor) < 1 or drift > _TOLERANCE or covered != (finest.width, finest.height):
        raise RasterRejected("it covers other ground than other bands, or its pixels do not fit theirs; cut all alike")
    return factor


def _lacking(product: Product, modality: Modality, missing: Sequence[str]) -> str:
    if len(missing) == len(modality.bands):
        return f"it holds {', '.join(product.bands)} and modality {modality.name} has none of these; take it out"
    named = f"band {missing[0]} is" if len(missing) == 1 else f"bands {', '.join(missing)} are"
    return f"{named} missing; copy it again from its origin"


def of_band(band: str, error: Exception, path: Path) -> RasterRejected:
    """Return the refusal of a product for what went wrong with one band."""
    found = refused(error, path)
    return RasterRejected(f"band {band}: {found.public}", reason=found.reason, detail=found.detail)
