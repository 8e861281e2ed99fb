"""How many items lie at each distance from each query: all that the figures of a ranking need, ties included.

A search puts every item of the gallery on a level, 0 the nearest, equal levels being ties. Hamming distances are levels
as they are; the cosine of features gives levels by its order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, hamming

_QUERIES_AT_ONCE = 256  # bounds the distance matrix that is held
_DECIMALS = 9  # of a cosine: equal features tie, whatever the order in which their products were summed

Labels = NDArray[np.bool_]
"""bool, shape (n, classes); several classes, or none, may be true. Without a class an item is relevant to nothing."""
Own = NDArray[np.int64]
"""Position of each query in the gallery, shape (queries,), -1 where it is not in it: a query never finds itself."""


@dataclass(frozen=True, slots=True)
class Histograms:
    """For each query, how many items lie at each distance.

    Attributes:
        items: int64, shape (queries, distances): items at each distance, nearest first.
        relevant: int64, same shape: those of them that are relevant to the query.
    """

    items: NDArray[np.int64]
    relevant: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GradedHistograms:
    """For each query, how many items with how many classes of its own lie at each distance.

    Attributes:
        items: int64, shape (queries, distances, grades): items at each distance, nearest first, that share 0, 1, 2, ...
            classes with the query.
    """

    items: NDArray[np.int64]

    def binary(self) -> Histograms:
        """Count as relevant what shares at least one class."""
        return Histograms(self.items.sum(axis=2), self.items[:, :, 1:].sum(axis=2))


class Search(Protocol):
    """Something that ranks a gallery for queries."""

    @property
    def levels(self) -> int:
        """Number of levels there may be."""

    def ranked(self, rows: slice) -> NDArray[np.integer]:
        """Return the level of every item for these queries, shape (queries of rows, gallery)."""

    def only(self, rows: slice) -> Self:
        """Return the search of these queries alone."""


@dataclass(frozen=True, slots=True)
class HammingSearch:
    """Exhaustive search on codes.

    Attributes:
        queries: Packed codes, uint8, shape (queries, bits // 8).
        gallery: Packed codes, uint8, shape (gallery, bits // 8).
    """

    queries: Codes
    gallery: Codes

    @property
    def levels(self) -> int:
        """The distances 0 to bits."""
        return int(self.gallery.shape[1]) * 8 + 1

    def ranked(self, rows: slice) -> NDArray[np.integer]:
        """Return the Hamming distances of these queries, shape (queries of rows, gallery).

        Raises:
            CodeError: the codes differ in width.
        """
        return hamming(self.queries[rows], self.gallery)

    def only(self, rows: slice) -> Self:
        """Return the search of these queries alone."""
        return replace(self, queries=self.queries[rows])


@dataclass(frozen=True, slots=True)
class CosineSearch:
    """Exhaustive search on float features by their cosine; it ties where nine decimals are equal.

    Attributes:
        queries: Features of length 1, float64, shape (queries, features).
        gallery: Features of length 1, float64, shape (gallery, features).
        depth: First ranks that are told apart; all that follows is one level. Figures with a cut-off up to here are
            exact.
    """

    queries: NDArray[np.float64]
    gallery: NDArray[np.float64]
    depth: int

    @classmethod
    def of(cls, queries: NDArray[np.floating], gallery: NDArray[np.floating], *, depth: int | None = None) -> Self:
        """Search features of shape (queries, features) and (gallery, features); without `depth`, rank them all."""
        return cls(_unit(queries), _unit(gallery), len(gallery) if depth is None else min(depth, len(gallery)))

    @property
    def levels(self) -> int:
        """One level for each rank, one more for the query itself where it is in the gallery, and one for the rest."""
        return self.depth + 2

    def ranked(self, rows: slice) -> NDArray[np.integer]:
        """Return levels by falling cosine, shape (queries of rows, gallery)."""
        similar = np.round(self.queries[rows] @ self.gallery.T, _DECIMALS)
        last = max(0, similar.shape[1] - self.depth - 1)
        edges = np.partition(similar, last, axis=1)[:, last]
        levels = np.empty(similar.shape, np.int64)
        for row, (values, edge) in enumerate(zip(similar, edges, strict=True)):
            distinct = np.unique(values[values >= edge])
            levels[row] = len(distinct) - np.searchsorted(distinct, values, side="right")
        return levels

    def only(self, rows: slice) -> Self:
        """Return the search of these queries alone."""
        return replace(self, queries=self.queries[rows])


def distance_histograms(
    query_codes: Codes, query_labels: Labels, gallery_codes: Codes, gallery_labels: Labels, *, own: Own | None = None
) -> Histograms:
    """Count the gallery's items, and the relevant ones, at every Hamming distance from each query.

    Raises:
        CodeError: the codes differ in width.
    """
    return graded_histograms(HammingSearch(query_codes, gallery_codes), query_labels, gallery_labels, own=own).binary()


def graded_histograms(
    search: Search, query_labels: Labels, gallery_labels: Labels, *, own: Own | None = None
) -> GradedHistograms:
    """Count the gallery's items by level and by the number of classes that they share with each query."""
    grades = int(min(query_labels.sum(axis=1).max(initial=0), gallery_labels.sum(axis=1).max(initial=0))) + 1
    items = np.zeros((len(query_labels), search.levels, max(2, grades)), np.int64)
    for rows, levels, shared, itself in compared(search, query_labels, gallery_labels, own):
        count, (_, distances, width) = len(levels), items.shape
        cells = (np.arange(count)[:, None] * distances + levels) * width + shared
        cells = cells[~itself] if own is not None else cells.ravel()
        items[rows] = np.bincount(cells, minlength=count * distances * width).reshape(count, distances, width)
    return GradedHistograms(items)


def compared(
    search: Search, query_labels: Labels, gallery_labels: Labels, own: Own | None
) -> Iterator[tuple[slice, NDArray[np.integer], NDArray[np.int64], NDArray[np.bool_]]]:
    """Compare the queries with the gallery, some at a time.

    Yields:
        Which queries; then, each of shape (queries of rows, gallery), the level of every item, the number of classes
        that it shares with the query, and whether it is the query itself.
    """
    wide = gallery_labels.astype(np.float32).T
    for start in range(0, len(query_labels), _QUERIES_AT_ONCE):
        rows = slice(start, min(start + _QUERIES_AT_ONCE, len(query_labels)))
        shared = (query_labels[rows].astype(np.float32) @ wide).astype(np.int64)
        itself = np.zeros(shared.shape, np.bool_)
        if own is not None:
            inside = np.flatnonzero(own[rows] >= 0)
            itself[inside, own[rows][inside]] = True
        yield rows, search.ranked(rows), shared, itself


def _unit(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale features to length 1; a feature of zeros stays, at cosine 0 to all."""
    wide = features.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return unit
