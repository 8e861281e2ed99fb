"""A source that is read from top to bottom by many windows: every block is decoded once, however many take from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import RasterRejected
from rsfed.raster.image import Pixels, Source
from rsfed.raster.item import Window
from rsfed.raster.pixels import strip_rows
from rsfed.raster.refusal import refusing

_WORTHWHILE = 0.25  # share of the rows' pixels that windows take, from which decoding whole rows is the faster way


@dataclass(slots=True)
class _Chunk:
    """Some decoded rows; without pixels where they cannot be decoded as a whole."""

    top: int
    bottom: int
    pixels: Pixels | None


@dataclass(frozen=True, slots=True)
class Rows(Source):
    """A source of which whole rows of blocks are decoded and kept as long as windows come from them.

    What `read` gives is what the source itself gives, whatever the order of windows; it is quick where their upper
    edges rise. At most the rows of one window and of one strip are kept. Where rows cannot be decoded as a whole, each
    window is decoded by itself, so damage costs no more patches than it touches.

    Attributes:
        source: The source: a file.
        left: First column that is kept.
        right: Column behind the last one that is kept.
        reach: Rows that are kept above the last one that was asked for: the height of a window.
        kept: Decoded rows, by the bands that are read together.
    """

    source: Source
    left: int
    right: int
    reach: int
    kept: dict[tuple[int, ...], list[_Chunk]] = field(default_factory=dict)

    @classmethod
    def over(cls, source: Source, left: int, right: int, reach: int) -> Source:
        """Return a source that keeps rows; where it stands on others, such as a product on its bands, they do."""
        if source.in_memory:
            return source

        def kept(inner: Source) -> Source:
            across, down = max(1, source.width // inner.width), max(1, source.height // inner.height)
            return cls.over(inner, left // across, -(-right // across), -(-reach // down))

        own = {each.name: getattr(source, each.name) for each in fields(source)}
        inside: dict[str, Any] = {
            name: kept(value) if isinstance(value, Source) else tuple(map(kept, value))
            for name, value in own.items()
            if isinstance(value, Source) or _are_sources(value)
        }
        if inside:
            return replace(source, **inside, block_rows=1)  # their blocks are kept, so it may be read in any steps
        common = {each.name: own[each.name] for each in fields(Source)} | {"block_rows": 1}
        return cls(**common, source=source, left=max(left, 0), right=min(right, source.width), reach=reach)

    def read(self, places: Sequence[int], window: Window) -> Pixels:
        """Return some bands in a window."""
        bottom = window.row + window.height
        if window.col < self.left or window.col + window.width > self.right:
            return self.source.read(places, window)
        chunks = self._down_to(tuple(places), window.row, bottom)
        if any(chunk.pixels is None for chunk in chunks):
            return self.source.read(places, window)
        cols = slice(window.col - self.left, window.col - self.left + window.width)
        values: list[NDArray[Any]] = []
        valid: list[NDArray[np.bool_]] = []
        for chunk in chunks:
            assert chunk.pixels is not None  # noqa: S101 - looked at above
            rows = slice(max(window.row - chunk.top, 0), bottom - chunk.top)
            part, has_data = chunk.pixels
            values.append(part[:, rows, cols])
            valid.append(np.ones(values[-1].shape[1:], bool) if has_data is None else has_data[rows, cols])
        everywhere = all(each.all() for each in valid)
        if len(chunks) == 1:
            return values[0], None if everywhere else valid[0]
        return np.concatenate(values, axis=1), None if everywhere else np.concatenate(valid)

    def _down_to(self, places: tuple[int, ...], top: int, bottom: int) -> list[_Chunk]:
        """Return the decoded rows from a top to a bottom, and let go of those above."""
        step = strip_rows(self.source)
        chunks = [chunk for chunk in self.kept.get(places, ()) if chunk.bottom > top - self.reach]
        if chunks and not chunks[0].top <= top <= chunks[-1].bottom:
            chunks = []
        self.kept[places] = chunks
        start = chunks[-1].bottom if chunks else top // step * step
        while start < bottom:
            end = min(start + step, self.height)
            chunks.append(_Chunk(start, end, self._decoded(places, start, end)))
            start = end
        return [chunk for chunk in chunks if chunk.top < bottom and chunk.bottom > top]

    def _decoded(self, places: tuple[int, ...], top: int, bottom: int) -> Pixels | None:
        try:
            with refusing(self.path):
                return self.source.read(places, Window(self.left, top, self.right - self.left, bottom - top))
        except RasterRejected:
            return None

    def tags(self) -> Mapping[str, str]:
        """Return the metadata of the source."""
        return self.source.tags()

    def close(self) -> None:
        """Close the source."""
        self.source.close()


def _are_sources(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(each, Source) for each in value)


def by_rows(source: Source, windows: Sequence[Window]) -> Source:
    """Return what windows of a source are read from: itself, where they are few and far between.

    Args:
        source: An open source.
        windows: Pixels of it that are read, by rising row.
    """
    left, top = min(each.col for each in windows), min(each.row for each in windows)
    right = max(each.col + each.width for each in windows)
    bottom = max(each.row + each.height for each in windows)
    taken = sum(each.width * each.height for each in windows)
    if len(windows) < 2 or taken < _WORTHWHILE * (right - left) * (bottom - top):
        return source
    return Rows.over(source, left, right, max(each.height for each in windows))


def streamed(source: Source) -> Source:
    """Return what a whole source is read from, from top to bottom: of a product each band keeps its own blocks."""
    if source.in_memory:
        return source
    parts = [getattr(source, each.name) for each in fields(source)]
    stands_on_others = any(isinstance(part, Source) or _are_sources(part) for part in parts)
    return Rows.over(source, 0, source.width, 0) if stands_on_others else source
