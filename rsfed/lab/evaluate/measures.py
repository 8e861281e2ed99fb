"""Every figure of one method on one split; the metrics are those of `rsfed.hashing.evaluation`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes
from rsfed.hashing.evaluation.bits import bit_statistics
from rsfed.hashing.evaluation.counts import CosineSearch, HammingSearch, Search, graded_histograms
from rsfed.hashing.evaluation.curves import PairHistograms, pair_histograms
from rsfed.hashing.evaluation.expected import expected_precision
from rsfed.hashing.evaluation.leaks import Leak, leak
from rsfed.hashing.evaluation.neighbours import within_class_overlap
from rsfed.hashing.evaluation.tables import by_class, figures
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.division import Division, places
from rsfed.lab.evaluate.methods import Features

MULTI_LABEL = ("ndcg", "acg", "weighted_map")  # figures that say nothing new where each image has one class
CLASS_FIGURE = "map_found"  # that is told class by class
_QUERIES_AT_ONCE = 256  # bounds what is held for each pair of a query and an image
Measured = tuple[dict[str, float], dict[str, float], PairHistograms]
"""Figures, mean average precision of the queries of each class (NaN without a query), and pairs at each distance."""


@dataclass(frozen=True, slots=True)
class Case:
    """One split of the images.

    Attributes:
        images: All images.
        features: What describes each, float32, shape (images, features).
        division: The split.
        k: Cut-off of every figure.
    """

    images: ImageSet
    features: Features
    division: Division
    k: int

    @property
    def wanted(self) -> NDArray[np.bool_]:
        """Labels of the queries, shape (queries, classes)."""
        return self.images.labels[self.division.queries]

    @property
    def searched(self) -> NDArray[np.bool_]:
        """Labels of the gallery, shape (gallery, classes)."""
        return self.images.labels[self.division.gallery]

    def hamming(self, codes: Codes) -> HammingSearch:
        """Search codes of all images, shape (images, bits // 8)."""
        return HammingSearch(codes[self.division.queries], codes[self.division.gallery])

    def cosine(self) -> CosineSearch:
        """Search the features."""
        return CosineSearch.of(self.features[self.division.queries], self.features[self.division.gallery])


def code_figures(case: Case, codes: Codes) -> Measured:
    """Return every figure of the codes of all images, shape (images, bits // 8)."""
    search = case.hamming(codes)
    found, per_class, pairs = _ranked(case, search)
    bits = bit_statistics(search.gallery)
    return (
        found
        | {
            "overlap": _overlap(case, search),
            "distinct": float(bits.distinct),
            "distinct_share": bits.distinct / len(search.gallery),
            "top_buckets": bits.largest_share,
            "bit_entropy": float(bits.entropy.mean()),
            "least_entropy": float(bits.entropy.min()),
            "bit_correlation": math.nan if bits.correlation is None else bits.correlation,
        },
        per_class,
        pairs,
    )


def float_figures(case: Case) -> Measured:
    """Return every figure of exhaustive search on the features by their cosine."""
    return _ranked(case, case.cosine())


def chance_figures(case: Case) -> dict[str, float]:
    """Return the figures of a gallery in random order: all codes are equal."""
    search = case.hamming(np.zeros((len(case.images), 2), np.uint8))
    return _ranked(case, search)[0] | {"overlap": _overlap(case, search)}


def leaks(case: Case) -> dict[str, Leak]:
    """Return how many queries have another image of their place, and of their acquisition, in their gallery."""
    whereabouts, division = case.images.whereabouts, case.division
    kinds = {"place": places(whereabouts), "acquisition": [each.acquisition for each in whereabouts]}
    return {
        what: leak([ids[each] for each in division.queries], [ids[each] for each in division.gallery], own=division.own)
        for what, ids in kinds.items()
    }


def left_out_precision(case: Case, codes: Codes, drawn: NDArray[np.int64]) -> float:
    """Return the precision of the queries of classes that were left out of training, against the whole gallery.

    Args:
        case: The split.
        codes: Codes of all images, learnt without those classes.
        drawn: Columns of those classes.
    """
    division, asked = case.division, case.wanted[:, drawn].any(axis=1)
    search = HammingSearch(codes[division.queries[asked]], codes[division.gallery])
    counts = graded_histograms(search, case.wanted[asked], case.searched, own=division.own[asked])
    return _mean(expected_precision(counts.binary(), case.k))


def without_relevant(images: ImageSet, division: Division) -> int:
    """Return the number of queries that have no relevant image in their gallery."""
    return int(np.count_nonzero(_relevant(images, division) == 0))


def cap_in_words(case: Case) -> str | None:
    """Return what to tell where no query has as many relevant images in its gallery as the cut-off; else None."""
    most = int(_relevant(case.images, case.division).max())
    if most >= case.k:
        return None
    return (
        f"k is {case.k:,}, but a query has at most {most:,} relevant images in its gallery: precision and mAP/k are at "
        f"most {most / case.k:.3f}; choose a smaller --k"
    )


def _relevant(images: ImageSet, division: Division) -> NDArray[np.int64]:
    """Return the number of relevant images in the gallery of each query, shape (queries,)."""
    searched = images.labels[division.gallery].astype(np.float32).T
    counts = [
        (images.labels[division.queries[rows]].astype(np.float32) @ searched > 0).sum(axis=1)
        for rows in _batches(len(division.queries))
    ]
    return np.concatenate(counts) - (division.own >= 0)


def _ranked(case: Case, search: Search) -> Measured:
    """Return the figures of a ranking; those of several labels only where images have several."""
    found, pairs = [], []
    for rows in _batches(len(case.wanted)):
        counts = graded_histograms(search.only(rows), case.wanted[rows], case.searched, own=case.division.own[rows])
        pairs.append(pair_histograms(counts.binary()))
        found.append(figures(counts, case.k))
    whole = PairHistograms(
        np.sum([each.relevant for each in pairs], axis=0), np.sum([each.irrelevant for each in pairs], axis=0)
    )
    values = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    if not case.images.multi_label:
        values = {name: each for name, each in values.items() if name not in MULTI_LABEL}
    means = by_class({CLASS_FIGURE: values[CLASS_FIGURE]}, case.wanted).means[CLASS_FIGURE].tolist()
    per_class = dict(zip(case.images.classes, means, strict=True))
    return {name: float(each.mean()) for name, each in values.items()}, per_class, whole


def _overlap(case: Case, search: Search) -> float:
    """Return the mean overlap within the class of the query; NaN where none can be told.

    A query whose class has no more images than are compared does not count: any code finds them all.
    """
    found = within_class_overlap(search, case.cosine(), case.wanted, case.searched, own=case.division.own)
    return _mean(found.values[found.chance < 1])


def _batches(queries: int) -> Iterator[slice]:
    return (slice(start, start + _QUERIES_AT_ONCE) for start in range(0, queries, _QUERIES_AT_ONCE))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan
