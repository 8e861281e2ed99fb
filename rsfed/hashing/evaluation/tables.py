"""Figures of a run: for each query, each class, each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.evaluation import expected
from rsfed.hashing.evaluation.counts import GradedHistograms, Labels
from rsfed.hashing.evaluation.expected import Values


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Figures by class.

    Attributes:
        queries: Queries that have each class, int64, shape (classes,); a query of several classes counts in each.
        means: For each figure its mean over these queries, float64, shape (classes,), NaN for a class without query.
    """

    queries: NDArray[np.int64]
    means: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several seeds.

    Attributes:
        mean: Mean of the runs.
        deviation: Their sample standard deviation (n - 1), None for a single run.
        runs: Number of runs.
    """

    mean: float
    deviation: float | None
    runs: int


def figures(counts: GradedHistograms, k: int) -> dict[str, Values]:
    """Return every figure at cut-off k for every query; definitions in `expected`.

    The means of the "map_" figures over the queries are the mean average precisions with the denominators "found",
    "possible", "relevant" and "k".
    """
    binary = counts.binary()
    return {
        **{f"map_{below}": expected.expected_average_precision(binary, k, below) for below in expected.DENOMINATORS},
        "precision": expected.expected_precision(binary, k),
        "recall": expected.expected_recall(binary, k),
        "ndcg": expected.expected_ndcg(counts, k),
        "acg": expected.expected_average_cumulative_gain(counts, k),
        "weighted_map": expected.expected_weighted_average_precision(counts, k),
    }


def by_class(values: Mapping[str, Values], query_labels: Labels) -> ClassTable:
    """Return the mean of every figure over the queries of each class."""
    queries = query_labels.sum(axis=0)
    means = {}
    for name, each in values.items():
        total = each @ query_labels
        means[name] = np.divide(total, queries, out=np.full(total.shape, np.nan), where=queries > 0)
    return ClassTable(queries, means)


def spread(runs: Sequence[float]) -> Spread:
    """Return mean and deviation over the runs of several seeds; of paired differences it is the same.

    Raises:
        ValueError: there is no run.
    """
    if not runs:
        raise ValueError("a mean needs at least one run")
    return Spread(float(np.mean(runs)), float(np.std(runs, ddof=1)) if len(runs) > 1 else None, len(runs))
