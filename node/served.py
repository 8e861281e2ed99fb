"""What a node answers from at one moment: a release with its codes, and what is known of the items beside them.

All of it never changes; a change is another `Served` put on the `Shelf`, so a query sees one moment from start to end.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Ids
from rsfed.index.search import Snapshot
from rsfed.trust.release_store import Release
from rsfed.wire import DEGREE, NO_FOOTPRINT, NO_TIME

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Facts:
    """Where and when patches were taken, as the wire has it.

    Attributes:
        ids: Item ids in rising order, int64, shape (n,).
        footprints: West, south, east, north in 1e-7 degree, int32, shape (n, 4); all `NO_FOOTPRINT` where unknown.
        acquired: Start and end in milliseconds since 1970, int64, shape (n, 2); both `NO_TIME` where unknown.
    """

    ids: Ids
    footprints: NDArray[np.int32]
    acquired: NDArray[np.int64]

    @classmethod
    def none(cls) -> Self:
        """Return the facts of no item."""
        return cls(np.empty(0, np.int64), np.empty((0, 4), np.int32), np.empty((0, 2), np.int64))

    @classmethod
    def read(cls, connection: sqlite3.Connection, ids: Ids) -> Self:
        """Read the facts of these items from the node's database."""
        query = (
            "SELECT id, west, south, east, north, acquired_start, acquired_end"
            " FROM item WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        )
        rows = connection.execute(query, (str(ids.tolist()),)).fetchall()
        return cls(
            np.array([row[0] for row in rows], np.int64).reshape(-1),
            np.array([_footprint(*row[1:5]) for row in rows], np.int32).reshape(-1, 4),
            np.array([_acquired(*row[5:]) for row in rows], np.int64).reshape(-1, 2),
        )

    def joined(self, other: Facts) -> Facts:
        """Return the facts of the items of both."""
        ids = np.concatenate([self.ids, other.ids])
        order = np.argsort(ids)
        footprints = np.concatenate([self.footprints, other.footprints])
        return Facts(ids[order], footprints[order], np.concatenate([self.acquired, other.acquired])[order])

    def of(self, ids: Ids) -> Facts:
        """Return the facts of these items, in this order."""
        places = np.searchsorted(self.ids, ids)
        return Facts(ids, self.footprints[places], self.acquired[places])


@dataclass(frozen=True, slots=True)
class Served:
    """A release with the codes of the archive.

    Attributes:
        release: The verified release.
        snapshots: Codes of each encoder by its id.
        facts: What is known of the items beside their codes.
        held: Items of the archive that each encoder is for, by its id; more than are searched while some wait for
            their codes.
        unsearchable: Items of modalities that no encoder reads.
    """

    release: Release
    snapshots: Mapping[str, Snapshot]
    facts: Facts
    held: Mapping[str, int]
    unsearchable: int = 0

    @property
    def indexed(self) -> int:
        """Items that are searched."""
        return sum(len(snapshot.view) for snapshot in self.snapshots.values())

    @property
    def held_in_all(self) -> int:
        """Items of the archive that are searched, wait for their codes, or cannot be searched by this release."""
        return sum(self.held.values()) + self.unsearchable

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
