"""What a level costs those who search: queries are replayed against what it lets be seen of an archive.

Each query is the code of a patch, which stands out of the archive for its own query. A level puts every patch that it
speaks of into a group (its code, its cell, its bucket) and ranks the groups for a query; patches of a group tie, in a
random order. Figures are expectations over that order. Pure rules; `rsfed.privacy.cells`, `publication` and `buckets`
say what the groups are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, hamming
from rsfed.privacy.buckets import buckets
from rsfed.privacy.cells import Cells
from rsfed.privacy.policy import Policy
from rsfed.privacy.publication import Present, nothing, published, size_class

K = 20
"""Items that a replayed query wants: what `rsfed query` asks for."""
_FAR = np.iinfo(np.int64).max

Gains = NDArray[np.floating]
"""What each patch of the archive is worth to a query, shape (n,)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a level lets be seen of an archive.

    Attributes:
        groups: The group of each patch, int64, shape (n,); -1 where it is not spoken of.
        ranks: Returns for a query code the rank of each group, int64; `_FAR` for those that are not listed.
        rounded: Whether as many patches of a group are listed at most as its size class says.
    """

    groups: NDArray[np.int64]
    ranks: Callable[[Codes], NDArray[np.int64]]
    rounded: bool = False

    @property
    def told(self) -> float:
        """Share of the patches that it speaks of."""
        return float((self.groups >= 0).mean()) if len(self.groups) else 0.0


@dataclass(frozen=True, slots=True)
class Listing:
    """One answer: levels of patches that tie, the nearest first.

    Attributes:
        levels: The level of each patch, shape (n,); -1 where it is not listed.
        items: Patches of each level.
        room: How many of them are listed at most.
    """

    levels: NDArray[np.int64]
    items: NDArray[np.int64]
    room: NDArray[np.int64]

    @property
    def hits(self) -> int:
        """How many of the items that are wanted are listed."""
        return min(K, int(self.room.sum()))

    def nearest(self) -> NDArray[np.bool_]:
        """Return which patches are among the first 20, all of the last level counted, shape (n,)."""
        last = int(np.searchsorted(np.cumsum(self.items), K))
        near: NDArray[np.bool_] = (self.levels >= 0) & (self.levels <= last)
        return near

    def ndcg(self, gains: Gains) -> float:
        """Return the expected NDCG@20 against the best order of the whole archive; NaN where nothing has a gain."""
        best = np.sort(np.partition(gains, -K)[-K:] if len(gains) > K else gains)[::-1]
        ideal = float((best * _discounts()[: len(best)]).sum())
        sums = np.concatenate([[0.0], np.cumsum(_discounts())])
        before = np.minimum(np.cumsum(self.room) - self.room, K)
        weight = sums[np.minimum(before + self.room, K)] - sums[before]
        return float((self._mean(gains) * weight).sum()) / ideal if ideal else np.nan

    def found(self, wanted: NDArray[np.bool_]) -> float:
        """Return the expected share of the first 20 items that are wanted, of as many as there are; NaN without any."""
        most = min(K, int(wanted.sum()))
        seen = np.clip(K - (np.cumsum(self.room) - self.room), 0, self.room)
        return float((self._mean(wanted) * seen).sum()) / most if most else np.nan

    def _mean(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the mean of each level."""
        listed = np.flatnonzero(self.levels >= 0)
        sums = np.bincount(self.levels[listed], weights=values[listed].astype(np.float64), minlength=len(self.items))
        means: NDArray[np.float64] = sums / np.maximum(self.items, 1)
        return means


@dataclass(frozen=True, slots=True)
class Replayed:
    """What queries got at a level, and at exact distances; one row for each query.

    Attributes:
        hits: Items that were listed, of the 20 wanted, shape (q,).
        ndcg: NDCG@20 by class; NaN where the archive has nothing of the query's class.
        exact: The same of exact answers.
        overlap: Share of the 20 nearest codes, as far as they tie, among the first 20.
    """

    hits: NDArray[np.int64]
    ndcg: NDArray[np.float64]
    exact: NDArray[np.float64]
    overlap: NDArray[np.float64]

    @property
    def withheld(self) -> float:
        """Share of the answers that list nothing."""
        return float((self.hits == 0).mean())

    def figures(self) -> dict[str, float]:
        """Return the means over the queries, and `quality`: NDCG@20 as a share of that of exact answers; NaN for none.

        Queries without a class, or whose class has no other patch, do not count in `ndcg` and `quality`.
        """
        ndcg, exact = mean(self.ndcg), mean(self.exact)
        return {"quality": ndcg / exact if exact else np.nan, "ndcg": ndcg, "overlap": mean(self.overlap)}


NO_ANSWER = Listing(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
"""What is seen where nothing may be searched."""


def seen_exactly(codes: Codes) -> Seen:
    """Return what exact answers show."""
    distinct, groups = np.unique(codes, axis=0, return_inverse=True)
    return Seen(groups.reshape(-1).astype(np.int64), lambda code: hamming(code[None], distinct)[0].astype(np.int64))


def seen_by_cells(present: Present, cells: Cells, floor: int) -> Seen:
    """Return what answers show that go by cells, of what an archive publishes first; patches by rising id."""
    rows = published(nothing(), present, floor, 1)
    groups = np.full(len(present.ids), -1, np.int64)
    groups[np.searchsorted(present.ids, rows["id"])] = rows["cell"]

    def ranks(code: Codes) -> NDArray[np.int64]:
        found = np.full(len(cells.codes), _FAR)
        if (cell := cells.of_query(code)) is not None:
            near, _ = cells.around(cell)
            found[near] = np.arange(len(near))
        return found

    return Seen(groups, ranks, rounded=True)


def seen_in_buckets(codes: Codes, acquisitions: NDArray[np.uint64], classes: NDArray[np.int64], floor: int) -> Seen:
    """Return what a private search shows of a catalogue: its buckets, by the code in their middle."""
    groups, middles = buckets(codes, acquisitions, classes, floor)
    numbers = np.arange(len(middles))
    return Seen(groups, lambda code: hamming(code[None], middles)[0].astype(np.int64) * len(middles) + numbers)


def seen_at(policy: Policy, codes: Codes, present: Present, own: Cells, classes: Cells) -> Seen | None:
    """Return what a level lets be seen of an archive; None where no item is searched at it.

    Args:
        policy: The level, which the archive can start.
        codes: Packed code of each patch.
        present: All else that is known of them.
        own: The cells that the node answers by.
        classes: The cells of the classes alone.
    """
    if policy.by_cells:
        return seen_by_cells(present, own, policy.floor)
    if not policy.publishes:
        return seen_exactly(codes)
    if policy.level == "counts":
        return None
    return seen_in_buckets(codes, present.acquisitions, classes.nearest(codes)[0], policy.floor)


def listing(seen: Seen, code: Codes, own: int | None = None) -> Listing:
    """Return the answer to one query.

    Args:
        seen: What is seen of the archive.
        code: The query code, uint8, shape (bits // 8,).
        own: The patch that the code is of, which stands out.
    """
    ranks, dense = np.unique(seen.ranks(code), return_inverse=True)
    known = int(np.searchsorted(ranks, _FAR))
    levels = np.append(np.where(dense < known, dense, -1), -1)[seen.groups]  # group -1 is the last one
    if own is not None:
        levels[own] = -1
    items = np.bincount(levels[levels >= 0], minlength=known)
    room = np.array([size_class(size) for size in items.tolist()], np.int64) if seen.rounded else items
    return Listing(levels, items, room)


def replay(
    seen: Seen | None, codes: Codes, kinds: NDArray[np.integer], alike: NDArray[np.bool_], queries: Sequence[int]
) -> Replayed:
    """Ask with patches of the archive.

    Args:
        seen: What a level lets be seen; None where nothing is searched.
        codes: Packed code of each patch, uint8, shape (n, bits // 8).
        kinds: The kind of each, shape (n,).
        alike: Which kinds share a class, shape (kinds, kinds); a kind without a class shares one with none.
        queries: Patches that ask, as positions; each may ask several times.
    """
    exactly, rows = seen_exactly(codes), {}
    for own in set(queries):
        exact = listing(exactly, codes[own], own)
        answer = NO_ANSWER if seen is None else listing(seen, codes[own], own)
        related = alike[kinds[own]][kinds]
        related[own] = False
        best = exact.ndcg(related)
        ndcg = np.nan if np.isnan(best) else answer.ndcg(related)
        rows[own] = answer.hits, ndcg, best, answer.found(exact.nearest())
    table = np.array([rows[own] for own in queries], np.float64).reshape(-1, 4)
    return Replayed(table[:, 0].astype(np.int64), *table[:, 1:].T)


def joined(parts: Iterable[Replayed]) -> Replayed:
    """Return the queries of all parts."""
    columns = zip(*((each.hits, each.ndcg, each.exact, each.overlap) for each in parts), strict=True)
    return Replayed(*map(np.concatenate, columns))


def drawn(patches: int, queries: int, seed: int) -> NDArray[np.int64]:
    """Return which patches ask: the second most popular half as often as the first, the third a third as often.

    Args:
        patches: Patches of the archive, at least one.
        queries: How many queries.
        seed: Decides which patches are popular, and which ask.
    """
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, patches + 1)
    return rng.permutation(patches)[rng.choice(patches, queries, p=weights / weights.sum())]


def mean(values: NDArray[np.float64]) -> float:
    """Return the mean of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _discounts() -> NDArray[np.float64]:
    discounts: NDArray[np.float64] = 1 / np.log2(np.arange(2, K + 2))
    return discounts
