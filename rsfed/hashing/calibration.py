"""From counts of near pairs to the probability that a hit is relevant, for the release that carries it.

Archives count: for queries that were neither trained on nor lie in the gallery, how many of the nearest `K` items lie
at each distance, and how many of them share a class with the query. Whoever sums the counts fits a probability that
never rises with the distance (isotonic regression), and measures how far it is off on the half of the queries that it
was not fitted on. The probability holds for galleries with the same chance of relevance, which the table states; how
far off it is where that chance is halved is measured by weighting relevant and other pairs anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import InvalidMessage
from rsfed.hashing.evaluation.counts import Histograms
from rsfed.hashing.payload import Arrays, Metrics
from rsfed.trust.manifest import Calibration, CalibrationBand, PriorShift

K = 20  # nearest items of a query that count
FOLDS = 2  # parts of the queries; the error on each is that of a table fitted on the other
ACQUISITION_PAIRS = 1000.0  # at most from the queries of one acquisition; more are scaled down
MAX_QUERIES = 500  # of one node
MIN_COUNT = 50.0  # pairs of a band
_SHIFT = 0.5  # of the prior, where the error under another prior is told
_DIGITS = 6  # of a probability in the table
_ROUNDING = 1e-4  # by which float32 totals may be off

Counts = NDArray[np.float64]
HeldOutBy = Literal["acquisition", "patch", "mixed"]

PAIRS, RELEVANT = "pairs", "relevant"  # arrays of a contribution
CHANCE, QUERIES, ACQUISITIONS, WHOLE = "chance", "queries", "acquisitions", "whole-acquisitions"  # its numbers


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Near pairs of a query and an item by their distance: all that a node contributes, and the sum of that.

    Attributes:
        pairs: Expected number among the nearest `K`, float64, shape (FOLDS, bits + 1).
        relevant: Those of them that share a class, same shape.
        chance: Relevant pairs among as many that were drawn from the gallery at random.
        queries: Number of queries.
        acquisitions: Number of acquisitions that the queries are of.
        held_out_by: Whether queries come from acquisitions that were held out whole, or are single patches.
    """

    pairs: Counts
    relevant: Counts
    chance: float
    queries: int
    acquisitions: int
    held_out_by: HeldOutBy


def count_pairs(groups: Sequence[Histograms], held_out_by: HeldOutBy) -> PairCounts:
    """Count the near pairs of queries, those of one acquisition as at most `ACQUISITION_PAIRS`.

    Where the nearest `K` end within items at one distance, each of these counts with its share.

    Args:
        groups: For each acquisition the gallery's items by distance from each of its queries; at least one.
        held_out_by: How the queries were held out.
    """
    distances = groups[0].items.shape[1]
    pairs, relevant, chance = np.zeros((FOLDS, distances)), np.zeros((FOLDS, distances)), 0.0
    for number, group in enumerate(groups):
        near, matching = _nearest(group)
        weight = min(1.0, ACQUISITION_PAIRS / max(1.0, near.sum()))
        folds = np.arange(len(near)) if len(groups) == 1 else np.full(len(near), number)
        np.add.at(pairs, folds % FOLDS, weight * near)
        np.add.at(relevant, folds % FOLDS, weight * matching)
        likelihood = group.relevant.sum(axis=1) / np.maximum(1, group.items.sum(axis=1))
        chance += weight * float(near.sum(axis=1) @ likelihood)
    queries = sum(len(group.items) for group in groups)
    return PairCounts(pairs, np.minimum(relevant, pairs), chance, queries, len(groups), held_out_by)


def _nearest(counts: Histograms) -> tuple[Counts, Counts]:
    """Return the expected items, and relevant items, among the nearest `K` by distance, shape (queries, distances)."""
    before = np.cumsum(counts.items, axis=1) - counts.items
    taken = np.clip(K - before, 0, counts.items).astype(np.float64)
    share = np.divide(taken, counts.items, out=np.zeros_like(taken), where=counts.items > 0)
    return taken, share * counts.relevant


def to_records(counts: PairCounts) -> tuple[Arrays, Metrics]:
    """Return counts as the arrays and numbers that travel."""
    arrays = {PAIRS: counts.pairs.astype(np.float32), RELEVANT: counts.relevant.astype(np.float32)}
    numbers = {
        CHANCE: counts.chance,
        QUERIES: float(counts.queries),
        ACQUISITIONS: float(counts.acquisitions),
        WHOLE: float(counts.held_out_by == "acquisition"),
    }
    return arrays, numbers


def from_records(arrays: Arrays, numbers: Mapping[str, float], bits: int) -> PairCounts:
    """Read counts that a node sent, trusting nothing.

    Raises:
        InvalidMessage: CALIBRATION_FORM, or CALIBRATION_COUNTS (they cannot be, or are more than a node may give).
    """
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if shapes != dict.fromkeys((PAIRS, RELEVANT), ((FOLDS, bits + 1), np.dtype(np.float32))):
        raise InvalidMessage("the counts for calibration have another form", reason="CALIBRATION_FORM")
    if set(numbers) != {CHANCE, QUERIES, ACQUISITIONS, WHOLE}:
        raise InvalidMessage("the counts for calibration lack a number", reason="CALIBRATION_FORM")
    pairs, relevant = arrays[PAIRS].astype(np.float64), arrays[RELEVANT].astype(np.float64)
    chance, queries, acquisitions = numbers[CHANCE], numbers[QUERIES], numbers[ACQUISITIONS]
    total = float(pairs.sum())
    possible = (
        np.isfinite([chance, queries, acquisitions, total, float(relevant.sum())]).all()
        and queries.is_integer()
        and acquisitions.is_integer()
        and 1 <= acquisitions <= queries <= MAX_QUERIES
        and bool(((relevant >= 0) & (relevant <= pairs)).all())
        and 0 < total <= (1 + _ROUNDING) * min(acquisitions * ACQUISITION_PAIRS, queries * K)
        and 0 <= chance <= (1 + _ROUNDING) * total
        and numbers[WHOLE] in {0.0, 1.0}
    )
    if not possible:
        raise InvalidMessage("the counts for calibration cannot be right", reason="CALIBRATION_COUNTS")
    by: HeldOutBy = "acquisition" if numbers[WHOLE] else "patch"
    return PairCounts(pairs, relevant, min(chance, total), int(queries), int(acquisitions), by)


def total(counts: Sequence[PairCounts]) -> PairCounts:
    """Return the sum of several counts, at least one; it does not depend on their order."""
    kinds = {each.held_out_by for each in counts}
    return PairCounts(
        pairs=_sum([each.pairs for each in counts]),
        relevant=_sum([each.relevant for each in counts]),
        chance=math.fsum(each.chance for each in counts),
        queries=sum(each.queries for each in counts),
        acquisitions=sum(each.acquisitions for each in counts),
        held_out_by=kinds.pop() if len(kinds) == 1 else "mixed",
    )


def _sum(arrays: Sequence[Counts]) -> Counts:
    """Add in the order of size, because the sum of floats depends on their order."""
    added: Counts = np.sort(np.stack(arrays), axis=0).sum(axis=0)
    return added


def fit(counts: PairCounts, *, nodes: int) -> Calibration | None:
    """Return the table that the counts give; None where there are fewer than `MIN_COUNT` pairs.

    Args:
        counts: The counts of all nodes.
        nodes: How many nodes they come from.
    """
    curve = fit_curve(counts.pairs.sum(axis=0), counts.relevant.sum(axis=0))
    if curve is None:
        return None
    prior = min(1.0, counts.chance / float(curve.pairs.sum()))
    return Calibration(
        bands=tuple(
            CalibrationBand(distance=upper, relevance=relevance, pairs=pairs)
            for upper, relevance, pairs in zip(
                curve.uppers.tolist(), curve.relevance.tolist(), curve.pairs.round(2).tolist(), strict=True
            )
        ),
        prior=round(prior, _DIGITS),
        k=K,
        queries=counts.queries,
        acquisitions=counts.acquisitions,
        nodes=nodes,
        held_out_by=counts.held_out_by,
        error=_held_out_error(counts, (counts.pairs, counts.relevant)),
        shifted=_shifted(counts, prior),
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """Probability of relevance by bands of distances.

    Attributes:
        uppers: Largest distance of each band, int64, shape (bands,), rising.
        relevance: Its probability, float64, same shape, never rising.
        pairs: Pairs that it rests on, float64, same shape.
    """

    uppers: NDArray[np.int64]
    relevance: Counts
    pairs: Counts

    def at(self, distances: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of the band of each distance; the last one's beyond it."""
        return np.minimum(np.searchsorted(self.uppers, distances), len(self.uppers) - 1)


def fit_curve(pairs: Counts, relevant: Counts) -> Curve | None:
    """Fit a probability that never rises with the distance; None where there are fewer than `MIN_COUNT` pairs.

    Distances are joined to bands of at least `MIN_COUNT` pairs from the nearest on, what is left at the end with the
    last band; bands of equal probability become one.

    Args:
        pairs: Pairs at each distance, float64, shape (distances,).
        relevant: Relevant ones among them, same shape.
    """
    from sklearn.isotonic import isotonic_regression  # noqa: PLC0415 - loaded only when used

    uppers = _band_edges(pairs)
    if not uppers:
        return None
    starts = [0, *(upper + 1 for upper in uppers[:-1])]
    weights, matching = np.add.reduceat(pairs, starts), np.add.reduceat(relevant, starts)
    fitted = isotonic_regression(matching / weights, sample_weight=weights, increasing=False)
    relevance = np.clip(fitted, 0.0, 1.0).round(_DIGITS)
    last = np.flatnonzero(np.append(relevance[1:] != relevance[:-1], True))
    firsts = np.append(0, last[:-1] + 1)
    return Curve(np.array(uppers)[last], relevance[last], np.add.reduceat(weights, firsts))


def _band_edges(pairs: Counts) -> list[int]:
    edges: list[int] = []
    gathered = 0.0
    for distance in range(int(np.max(np.flatnonzero(pairs), initial=-1)) + 1):
        gathered += float(pairs[distance])
        if gathered >= MIN_COUNT:
            edges.append(distance)
            gathered = 0.0
    if edges and gathered:
        edges[-1] = distance
    return edges


def calibration_error(curve: Curve, pairs: Counts, relevant: Counts) -> float:
    """Return the expected calibration error: over the pairs, how far the probability of their band is from the share.

    Args:
        curve: The probabilities.
        pairs: Pairs at each distance that they were not fitted on, float64, shape (distances,); at least one.
        relevant: Relevant ones among them, same shape.
    """
    bands = curve.at(np.arange(len(pairs)))
    measured, matching = (np.bincount(bands, each, minlength=len(curve.uppers)) for each in (pairs, relevant))
    return float(np.abs(matching - curve.relevance * measured).sum() / measured.sum())


def shift_prior(relevance: Counts, prior: float, other: float) -> Counts:
    """Return probabilities for a gallery with another chance of relevance, by the odds of the two chances."""
    factor = other / (1 - other) / (prior / (1 - prior))
    return relevance * factor / (1 - relevance + relevance * factor)


def _held_out_error(
    fitted: PairCounts, measured: tuple[Counts, Counts], correction: tuple[float, float] | None = None
) -> float | None:
    """Return the mean error on each fold of a table fitted on the others; None where a fold is too small.

    Args:
        fitted: What the tables are fitted on.
        measured: Pairs, and relevant ones among them, that the error is measured on, each as in `fitted`.
        correction: The prior of the tables and the one that they are corrected to; None leaves them as they are.
    """
    errors, weights = [], []
    for fold, (pairs, relevant) in enumerate(zip(*measured, strict=True)):
        others = (np.delete(each, fold, axis=0).sum(axis=0) for each in (fitted.pairs, fitted.relevant))
        curve = fit_curve(*others)
        if curve is None or not pairs.any():
            return None
        if correction is not None:
            curve = replace(curve, relevance=shift_prior(curve.relevance, *correction))
        errors.append(calibration_error(curve, pairs, relevant))
        weights.append(pairs.sum())
    return round(float(np.average(errors, weights=weights)), _DIGITS)


def _shifted(counts: PairCounts, prior: float) -> PriorShift | None:
    """Return the error where relevance is half as likely, while each kind of pair keeps its distances."""
    if not 0 < prior < 1:
        return None
    other = _SHIFT * prior
    relevant = counts.relevant * (other / prior)
    pairs = relevant + (counts.pairs - counts.relevant) * ((1 - other) / (1 - prior))
    error, corrected = (_held_out_error(counts, (pairs, relevant), each) for each in (None, (prior, other)))
    if error is None or corrected is None:
        return None
    return PriorShift(prior=round(other, _DIGITS), error=error, corrected_error=corrected)
