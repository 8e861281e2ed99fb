"""The share of a ranking that nodes may have whose claims were found to be false. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence


def within_share(owners: Sequence[str], bounded: Collection[str], answered: int, k: int | None) -> list[int]:
    """Return which hits of a ranking stay if some nodes may have their fair share of it and no more.

    A fair share is one over the number of nodes that answered: of the k places that were asked for, else of the hits
    that stay; one hit at least.

    Args:
        owners: Node of each hit, in rank order; all that nodes listed, so that others move up.
        bounded: Names of the nodes that may have no more than their share.
        answered: How many nodes answered.
        k: Items wanted; None where all are (a search by radius).

    Returns:
        Positions of the hits that stay, in rank order, at most k.
    """
    most = _fair(owners, bounded, answered, k)
    taken: Counter[str] = Counter()
    stay = []
    for position, owner in enumerate(owners):
        if owner in bounded and taken[owner] >= most:
            continue
        taken[owner] += 1
        stay.append(position)
    return stay[:k]


def _fair(owners: Sequence[str], bounded: Collection[str], answered: int, k: int | None) -> int:
    if k is not None:
        return max(1, k // max(1, answered))
    listed = Counter(owner for owner in owners if owner in bounded)
    others, left = len(owners) - listed.total(), answered - len(listed)
    if left <= 0:
        return len(owners)
    fair = (most for most in range(others // left, 1, -1) if most * answered <= others + _within(listed, most))
    return next(fair, 1)


def _within(listed: Counter[str], most: int) -> int:
    """Return how many hits of the bounded nodes stay where each has so many at most."""
    return sum(min(count, most) for count in listed.values())
