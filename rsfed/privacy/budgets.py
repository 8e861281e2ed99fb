"""Budgets of refine: how often an item may be spoken of under a release, by all requesters together.

Half of a budget is everybody's. The other half is kept as shares, one each for the first requesters that ask about an
item, so that nobody spends what is left to others. Every item that might be listed is charged, whether it is listed or
not: so how often a bucket is answered says nothing of how many items it has. Pure rules; `node.budgets` keeps what was
spent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Ids
from rsfed.privacy.buckets import Places
from rsfed.privacy.counts import draws

MOST_ITEMS = 100
"""Items of a bucket that refine may list in one publication: charging them takes the same time in every archive."""
SHARES = 10

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget of each item under a release.

    Attributes:
        answers: How often it may be spoken of.
        shares: How many requesters have a share of their own.
    """

    answers: int
    shares: int = SHARES

    @property
    def share(self) -> int:
        """What one requester has of its own."""
        return self.answers // (2 * self.shares)

    @property
    def common(self) -> int:
        """What is everybody's."""
        return self.answers - self.shares * self.share


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent on items, int64, shape (n,) each.

    Attributes:
        own: Of the requester's own share.
        holders: How many requesters have spent of theirs, this one included.
        common: Of what is everybody's.
    """

    own: Counts
    holders: Counts
    common: Counts


def payable(budget: Budget, spent: Spent) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which items the requester's own share pays for, and which others what is everybody's pays for."""
    own = (spent.own < budget.share) & ((spent.own > 0) | (spent.holders < budget.shares))
    return own, ~own & (spent.common < budget.common)


def listed(acquisitions: NDArray[np.uint64], floor: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many items as the floor, each of another acquisition.

    Args:
        acquisitions: The acquisition of each item that may be listed, shape (n,).
        floor: How many are listed: no more, because the size of a bucket has noise.
        rng: Draws them.

    Returns:
        Their places; none where there are fewer acquisitions.
    """
    order = rng.permutation(len(acquisitions))
    _, firsts = np.unique(acquisitions[order], return_index=True)
    if len(firsts) < floor:
        return np.empty(0, np.int64)
    chosen: NDArray[np.int64] = order[rng.permutation(firsts)[:floor]]
    return chosen


def refinable(places: Places, acquisitions: NDArray[np.uint64], ids: Ids, key: bytes) -> NDArray[np.int64]:
    """Choose the items of each bucket that refine may list, by an order that nobody knows without the key.

    One item of each acquisition comes first, so that a bucket keeps as many acquisitions as it can.

    Args:
        places: The bucket of each item; -1 for none.
        acquisitions: Its acquisition.
        ids: Its item id.
        key: A secret of the node.

    Returns:
        Their positions, bucket after bucket.
    """
    order = np.lexsort((draws(ids, key), acquisitions, places))
    order = order[places[order] >= 0]
    round_of = _rank_among_equals(places[order], acquisitions[order])
    order = order[np.lexsort((round_of, places[order]))]
    return order[_rank_among_equals(places[order]) < MOST_ITEMS]


def _rank_among_equals(*columns: NDArray[np.int64] | NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each of some sorted rows how many equal ones stand before it."""
    new = np.ones(len(columns[0]), np.bool_)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    positions = np.arange(len(new))
    return positions - np.maximum.accumulate(np.where(new, positions, 0))
