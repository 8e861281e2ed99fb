"""What a node answers from at one moment: a release with its codes, and what is known of the items beside them.

All of it never changes; a change is another `Served` put on the `Shelf`, so a query sees one moment from start to end.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Self

import numpy as np

from node.bucketed import Bucketed
from node.published import Published
from rsfed.codes import Ids
from rsfed.index.facets import Columns
from rsfed.index.search import Snapshot
from rsfed.privacy.policy import Policy
from rsfed.trust.release_store import Release
from rsfed.wire import DEGREE, NO_FOOTPRINT, NO_TIME

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SILENT = {"time": 1, "bbox": 2, "label": 4}  # fields of which an item may say nothing, each a bit


@dataclass(frozen=True)
class Facts:
    """What is known of patches beside their codes: what filters ask for, and where and when they were taken.

    Attributes:
        ids: Item ids in rising order, int64, shape (n,).
        columns: Time, place and kind of each; a kind is the modality and then the ids of its classes as text.
    """

    ids: Ids
    columns: Columns

    @classmethod
    def none(cls) -> Self:
        """Return the facts of no item."""
        return cls(np.empty(0, np.int64), Columns.unknown(0))

    @classmethod
    def read(cls, connection: sqlite3.Connection, ids: Ids) -> Self:
        """Read the facts of these items from the node's database."""
        query = (
            "SELECT id, west, south, east, north, acquired_start, acquired_end, modality, classes"
            " FROM patch WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        )
        rows = connection.execute(query, (str(ids.tolist()),)).fetchall()
        kinds = [_kind(*row[7:]) for row in rows]
        number = {kind: place for place, kind in enumerate(dict.fromkeys(kinds))}
        columns = Columns(
            np.array([_acquired(*row[5:7]) for row in rows], np.int64).reshape(-1, 2),
            np.array([_footprint(*row[1:5]) for row in rows], np.int32).reshape(-1, 4),
            np.array([number[kind] for kind in kinds], np.uint32),
            tuple(number),
        )
        return cls(np.array([row[0] for row in rows], np.int64), columns)

    def joined(self, other: Facts) -> Facts:
        """Return the facts of the items of both."""
        ids = np.concatenate([self.ids, other.ids])
        order = np.argsort(ids)
        return Facts(ids[order], Columns.joined([self.columns, other.columns]).take(order))

    def of(self, ids: Ids) -> Facts:
        """Return the facts of these items, in this order."""
        return Facts(ids, self.columns.take(np.searchsorted(self.ids, ids)))

    def silent(self, modality: str, fields: Collection[str]) -> int:
        """Return how many items of a modality say nothing of some of these fields, so that no filter lets them pass."""
        asked = sum(_SILENT.get(field, 0) for field in fields)
        return int(sum(count for (kind, gaps), count in self._gaps.items() if kind == modality and gaps & asked))

    @cached_property
    def _gaps(self) -> Mapping[tuple[str, int], int]:
        """How many items of a modality say nothing of the same fields."""
        columns, kinds = self.columns, self.columns.kind_values
        unlabelled = np.array([len(kind) == 1 for kind in kinds], np.bool_)
        gaps = (columns.times[:, 0] == NO_TIME) * _SILENT["time"]
        gaps += (columns.boxes[:, 0] == NO_FOOTPRINT) * _SILENT["bbox"]
        gaps += unlabelled[columns.kinds] * _SILENT["label"]
        counts = np.bincount(columns.kinds * np.int64(8) + gaps, minlength=8 * len(kinds))
        found: Counter[tuple[str, int]] = Counter()
        for place in np.flatnonzero(counts):
            found[kinds[place // 8][0], int(place % 8)] += int(counts[place])
        return found


@dataclass(frozen=True, slots=True)
class Served:
    """A release with the codes of the archive.

    Attributes:
        release: The verified release.
        snapshots: Codes of each encoder by its id.
        facts: What is known of the items beside their codes; those that are served, whatever their encoder.
        held: Items of the archive that each encoder is for, by its id; more than are searched while some wait for
            their codes.
        unsearchable: Items of modalities that no encoder reads.
        published: What answers that go by cells speak of, by encoder; one that has published nothing is not there.
        catalogue: What is published at levels that answer no query, a serialized SignedCatalogue; b"" where nothing is.
        bucketed: The items of the catalogue's buckets that refine may list; None where there are none.
    """

    release: Release
    snapshots: Mapping[str, Snapshot]
    facts: Facts
    held: Mapping[str, int]
    unsearchable: int = 0
    published: Mapping[str, Published] = field(default_factory=dict)
    catalogue: bytes = b""
    bucketed: Bucketed | None = None

    @property
    def indexed(self) -> int:
        """Items that are searched."""
        return sum(len(snapshot.view) for snapshot in self.snapshots.values())

    @property
    def held_in_all(self) -> int:
        """Items of the archive that are searched, wait for their codes, or cannot be searched by this release."""
        return sum(self.held.values()) + self.unsearchable

    def held_at(self, policy: Policy) -> int | None:
        """Return what a level tells of the items of the archive; None where that is nothing."""
        if policy.publishes:
            return None
        return sum(each.held for each in self.published.values()) if policy.by_cells else self.held_in_all

    def silent(self, encoder: str, fields: Collection[str]) -> int:
        """Return how many of the items of an encoder say nothing of some of these fields."""
        return self.facts.silent(self.release.manifest.encoders[encoder].modality, fields)

    def held_for(self, encoder: str) -> int:
        """Return what an answer counts as held: what no encoder reads is among it, so that no answer looks complete."""
        return self.held[encoder] + self.unsearchable


class Shelf:
    """Holds what is served now; putting something else there is one step for every reader."""

    def __init__(self) -> None:
        self.served: Served | None = None


def _footprint(west: float | None, south: float, east: float, north: float) -> list[int]:
    if west is None:
        return [NO_FOOTPRINT] * 4
    return [round(edge * DEGREE) for edge in (west, south, east, north)]


def _acquired(start: str | None, end: str) -> list[int]:
    if start is None:
        return [NO_TIME] * 2
    first, last = ((datetime.fromisoformat(moment) - _EPOCH) / _MILLISECOND for moment in (start, end))
    return [math.floor(first), math.ceil(last)]


def _kind(modality: str, classes: str | None) -> tuple[str, ...]:
    return (modality, *sorted(classes.split(","), key=int)) if classes else (modality,)
