"""Expected figures of rankings with ties, one for each query, exact and vectorised over the queries.

Within a tie of n items of which m are relevant every order is equally likely, so the item at a place is relevant with
probability m / n, and then each other item of the tie with probability (m - 1) / (n - 1).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.evaluation.counts import GradedHistograms, Histograms

Denominator = Literal["found", "possible", "relevant", "k"]
"""What a sum of precisions is divided by; a query whose denominator is 0 scores 0.

- found: the relevant items found among the first k, as MiLaN does. What was not found does not lower the figure.
- possible: min(k, relevant items of the gallery), what a perfect ranking would find. This is the full-recall form.
- relevant: all relevant items of the gallery. A perfect ranking stays below 1 where they are more than k.
- k: the cut-off, whether or not the gallery holds that many.
"""

DENOMINATORS: tuple[Denominator, ...] = get_args(Denominator)

Values = NDArray[np.float64]
"""One figure for each query, float64, shape (queries,)."""


def expected_precision(counts: Histograms, k: int) -> Values:
    """Return the expected share of relevant items among the first k.

    The denominator is k, also where the gallery holds fewer items.
    """
    return expected_found(counts.items, counts.relevant, k) / k


def expected_recall(counts: Histograms, k: int) -> Values:
    """Return the expected share of the gallery's relevant items that are among the first k; 0 where there is none."""
    return _ratio(expected_found(counts.items, counts.relevant, k), counts.relevant.sum(axis=1))


def expected_average_precision(counts: Histograms, k: int, denominator: Denominator = "found") -> Values:
    """Return the expected average precision at k.

    The sum, over the ranks up to k that hold a relevant item, of the precision down to that rank, divided by the
    denominator.
    """
    return _average(counts, counts.relevant.astype(np.float64), k, denominator)


def expected_weighted_average_precision(counts: GradedHistograms, k: int) -> Values:
    """Return the expected weighted average precision at k; its mean over the queries is the weighted mAP.

    The mean, over the ranks up to k that hold a relevant item, of the average cumulative gain down to that rank; 0
    where none is found (Zhao et al., "Deep semantic ranking based hashing", CVPR 2015). With one class for each image
    it is the average precision with denominator "found"; with more it may exceed 1.
    """
    return _average(counts.binary(), counts.items @ _overlap(counts), k, "found")


def expected_average_cumulative_gain(counts: GradedHistograms, k: int) -> Values:
    """Return the expected average cumulative gain at k: the mean number of classes that the first k share.

    The denominator is k, also where the gallery holds fewer items (ACG of Jarvelin and Kekalainen as Zhao et al. 2015
    use it).
    """
    return expected_found(counts.items.sum(axis=2), counts.items @ _overlap(counts), k) / k


def expected_ndcg(counts: GradedHistograms, k: int) -> Values:
    """Return the expected normalised discounted cumulative gain at k.

    An item that shares r classes gains 2^r - 1, divided by log2(1 + rank); the sum over the first k ranks is divided
    by that of the best order of the gallery, the query itself left out (Zhao et al. 2015). 0 where nothing is relevant.
    """
    gain = 2 ** _overlap(counts) - 1
    best_first = counts.items.sum(axis=1)[:, ::-1]
    best = _discounted(best_first, best_first * gain[::-1], k)
    return _ratio(_discounted(counts.items.sum(axis=2), counts.items @ gain, k), best)


def expected_found(items: NDArray[np.int64], gains: NDArray[np.number], k: int) -> Values:
    """Return the expected sum of gains over the first k items.

    Args:
        items: Items on each level, shape (queries, levels).
        gains: What they gain together, same shape.
        k: Cut-off.
    """
    _, seen = _places(items, k)
    found: Values = (seen / np.maximum(items, 1) * gains).sum(axis=1)
    return found


def _overlap(counts: GradedHistograms) -> NDArray[np.float64]:
    """Numbers of shared classes, shape (grades,)."""
    overlap: NDArray[np.float64] = np.arange(counts.items.shape[2], dtype=np.float64)
    return overlap


def _places(items: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many items come before each level, and how many of it are among the first k."""
    before = np.cumsum(items, axis=1) - items
    return before, np.clip(k - before, 0, items)


def _ratio(above: NDArray[np.float64], below: NDArray[np.number]) -> Values:
    """Divide, 0 by 0 being 0."""
    ratio: Values = np.divide(above, below, out=np.zeros(above.shape), where=below > 0)
    return ratio


def _discounted(items: NDArray[np.int64], gains: NDArray[np.float64], k: int) -> Values:
    """Expected discounted cumulative gain; arguments as `expected_found`."""
    before, seen = _places(items, k)
    discounts = _running(1 / np.log2(np.arange(2, k + 2)))
    weight = discounts[np.minimum(before + seen, k)] - discounts[np.minimum(before, k)]
    total: Values = (gains / np.maximum(items, 1) * weight).sum(axis=1)
    return total


def _average(counts: Histograms, gains: NDArray[np.float64], k: int, denominator: Denominator) -> Values:
    """Expected sum of (gain so far) / rank over the relevant ranks up to k, divided by the denominator.

    Args:
        counts: Items and relevant ones on each level.
        gains: What the relevant ones gain together, shape (queries, levels); as many as they are for precisions.
        k: Cut-off.
        denominator: What to divide by.
    """
    before, seen = _places(counts.items, k)
    gained = np.cumsum(gains, axis=1) - gains
    gain = gains / np.maximum(counts.relevant, 1)
    ranks = _running(1 / np.arange(1, k + 1))
    sums = _tie_sums(
        before=before,
        gained=gained,
        size=counts.items,
        matches=counts.relevant,
        gain=gain,
        seen=seen,
        ranks=ranks,
    )
    if denominator != "found":
        relevant = counts.relevant.sum(axis=1)
        below = {"possible": np.minimum(relevant, k), "relevant": relevant, "k": np.full_like(relevant, k)}[denominator]
        return _ratio(sums.sum(axis=1), below)
    whole = seen == counts.items
    found = np.where(whole, counts.relevant, 0).sum(axis=1)
    complete = np.where(whole, sums, 0.0).sum(axis=1)
    average = _ratio(complete, found)
    logs = _running(np.log(np.arange(1, counts.items.max(initial=0) + 1)))
    for query, level in zip(*np.nonzero((seen > 0) & ~whole & (counts.relevant > 0)), strict=True):
        # the cut goes through this tie: how many relevant items are seen decides over the denominator too
        at, room = (query, level), int(seen[query, level])
        drawn, chance = _draws(int(counts.items[at]), int(counts.relevant[at]), room, logs)
        partial = _tie_sums(
            before=before[at], gained=gained[at], size=room, matches=drawn, gain=gain[at], seen=room, ranks=ranks
        )
        average[query] = chance @ _ratio(complete[query] + partial, found[query] + drawn)
    return average


def _tie_sums(  # noqa: PLR0913 - the description of a tie
    *,
    before: NDArray[np.int64],
    gained: NDArray[np.float64],
    size: NDArray[np.int64] | int,
    matches: NDArray[np.int64],
    gain: NDArray[np.float64],
    seen: NDArray[np.int64] | int,
    ranks: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Expected sums of (gain so far) / rank over the relevant ones among the first `seen` places of ties.

    At place j the expected gain so far, given a relevant item there, is gained + gain + j * others, with j from 0 and
    `others` the expected gain of one other item; divided by the rank before + 1 + j this sums up with harmonic numbers.

    Args:
        before: Items before the tie.
        gained: Gain of all of these.
        size: Items of the tie.
        matches: Relevant ones of them.
        gain: Mean gain of a relevant one.
        seen: Places that count.
        ranks: Harmonic numbers 0 to k.
    """
    others = gain * np.maximum(matches - 1, 0) / np.maximum(np.subtract(size, 1), 1)
    last = len(ranks) - 1
    harmonic = ranks[np.minimum(before + seen, last)] - ranks[np.minimum(before, last)]
    sums: NDArray[np.float64] = (
        matches / np.maximum(size, 1) * (others * seen + (gained + gain - others * (before + 1)) * harmonic)
    )
    return sums


def _draws(
    size: int, matches: int, room: int, logs: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Hypergeometric probabilities of drawing each number of relevant items when `room` of `size` are drawn.

    Args:
        size: Items of the tie.
        matches: Relevant ones of them.
        room: Items drawn.
        logs: Logarithms of the factorials of 0 to at least `size`.
    """

    def choices(n: int, of: NDArray[np.int64] | int) -> NDArray[np.float64]:
        number: NDArray[np.float64] = logs[n] - logs[of] - logs[np.subtract(n, of)]
        return number

    drawn = np.arange(max(0, room - (size - matches)), min(room, matches) + 1)
    chances = choices(matches, drawn) + choices(size - matches, room - drawn) - choices(size, room)
    return drawn, np.exp(chances)


def _running(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])
