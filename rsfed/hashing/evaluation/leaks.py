"""Queries whose place or acquisition is in the gallery too: near copies that flatter every figure of the split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsfed.hashing.evaluation.counts import Own

Ids = Sequence[str | None]
"""Id of the place or acquisition of each item; None where nothing is known."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Queries that have a companion in the gallery.

    Attributes:
        share: Share of the queries of known id with another item of the same id in the gallery; None where no id is
            known, which is no proof that there is no leak.
        known: Number of queries whose id is known.
        queries: Number of queries.
    """

    share: float | None
    known: int
    queries: int


def leak(query_ids: Ids, gallery_ids: Ids, *, own: Own | None = None) -> Leak:
    """Count the queries that have another item of their id in the gallery, ids being of places or of acquisitions.

    Args:
        query_ids: Id of each query.
        gallery_ids: Id of each item of the gallery.
        own: Position of each query in the gallery, -1 where it is not in it; a query is not its own companion.
    """
    held = Counter(gallery_ids)
    inside = np.zeros(len(query_ids), np.bool_) if own is None else own >= 0
    asked = zip(query_ids, inside.tolist(), strict=True)
    companions = [held[each] - itself for each, itself in asked if each is not None]
    share = sum(count > 0 for count in companions) / len(companions) if companions else None
    return Leak(share, len(companions), len(query_ids))
