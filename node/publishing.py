"""Publishing in epochs: what `rsfed.privacy.publication` decides, kept in the node's database.

A publication outlives restarts and releases: made anew from scratch, it would differ from the one before by single
acquisitions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from node.published import Published
from node.served import Facts
from rsfed.clock import Now
from rsfed.codes import Codes, Ids
from rsfed.home import transaction
from rsfed.index.facets import Columns
from rsfed.privacy import grid
from rsfed.privacy.cells import Cells
from rsfed.privacy.policy import Policy
from rsfed.privacy.publication import (
    ROW,
    Acquisitions,
    Present,
    Rows,
    acquisition_numbers,
    cells_now,
    nothing,
    published,
)
from rsfed.telemetry import log
from rsfed.trust.release_store import Release

if TYPE_CHECKING:
    from rsfed.privacy.countries import Countries

Items = Callable[[], tuple[Ids, Codes, Columns]]
"""Returns the items of an encoder by rising id, their codes, and what is known of them."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was published last."""

    epoch: int
    made: datetime
    rows: Rows


class Publisher:
    """Publishes the items of a node, at most once in an epoch.

    Args:
        policy: The level, which goes by cells.
        per_class: Cells of each class.
        epoch: Time between two publications.
        tie_key: The node's tie key, 32 bytes.
        now: Wall clock.
        countries: Told in place of tiles; None where tiles are.
    """

    def __init__(  # noqa: PLR0913 - what is published how, and when
        self,
        policy: Policy,
        per_class: int,
        epoch: timedelta,
        *,
        tie_key: bytes,
        now: Now,
        countries: Countries | None = None,
    ) -> None:
        self._policy = policy
        self._per_class = per_class
        self._epoch = epoch
        self._tie_key = tie_key
        self._now = now
        self._countries = countries
        self._rules = (policy.floor, per_class, "" if countries is None else countries.digest)

    def current(self, connection: sqlite3.Connection, release: Release, encoder: str) -> Published | None:
        """Return what is published of an encoder; None where nothing is."""
        kept = self._kept(connection, release, encoder)
        if kept is None:
            return None
        cells = self._cells(release)
        key, digest = self._tie_key, release.digest
        return Published.of(cells, kept.rows, kept.epoch, tie_key=key, release=digest, countries=self._countries)

    def carry(self, connection: sqlite3.Connection, release: Release, encoder: str, items: Items) -> bool:
        """Go on under a release that nothing is published of yet with what was published under the one before.

        Returns:
            Whether there was such, and is published now; the next epoch begins when it would have begun.
        """
        if self._made(connection, release, encoder) is not None or not release.manifest.codebook:
            return False
        query = "SELECT made, items FROM publication WHERE encoder = ? ORDER BY made DESC LIMIT 1"
        row = connection.execute(query, (encoder,)).fetchone()
        if row is None:
            return False
        before = np.frombuffer(row[1], ROW)
        cells = cells_now(before, self._present_items(connection, release, items))
        known = Facts.read(connection, before["id"]).columns
        there = _present(before["id"], before["acquisition"], cells, known, self._countries)
        rows = published(nothing(), there, self._policy.floor, 1)
        kept = _Kept(1, datetime.fromisoformat(row[0]), rows)
        self._keep(connection, release, encoder, kept)
        log.info("publication.carried", published=len(rows), before=len(before))
        return True

    def publish(self, connection: sqlite3.Connection, release: Release, encoder: str, items: Items) -> bool | None:
        """Publish what can be, if it is time.

        Returns:
            Whether anything changed; None where it is not time yet.
        """
        now = self._now()
        if (made := self._made(connection, release, encoder)) is not None and now - made < self._epoch:
            return None  # looked at every second, so without what was published
        kept = self._kept(connection, release, encoder)
        if not release.manifest.codebook:
            log.warning("publication.no_codebook", release=release.manifest.version)
            return False
        present = self._present_items(connection, release, items)
        acquisitions = len(np.unique(present.acquisitions))
        if kept is None and acquisitions < self._policy.least_acquisitions:
            needed = self._policy.least_acquisitions
            log.warning("publication.unfit", level=self._policy.level, acquisitions=acquisitions, needed=needed)
            return False
        before, epoch = (nothing(), 1) if kept is None else (kept.rows, kept.epoch + 1)
        rows = published(before, present, self._policy.floor, epoch)
        if kept is not None and len(rows) == len(before) and (rows == before).all():
            return False
        self._keep(connection, release, encoder, _Kept(epoch, now, rows))
        log.info("publication.made", epoch=epoch, published=len(rows), waiting=len(present.ids) - len(rows))
        return True

    def _cells(self, release: Release) -> Cells:
        manifest = release.manifest
        return Cells.of(manifest.codebook, manifest.codebook_reach, per_class=self._per_class)

    def _present_items(self, connection: sqlite3.Connection, release: Release, items: Items) -> Present:
        return present_items(connection, self._cells(release), items(), self._countries)

    def _made(self, connection: sqlite3.Connection, release: Release, encoder: str) -> datetime | None:
        """Return when something was published last under the policy of now."""
        row = connection.execute(
            "SELECT made FROM publication WHERE release = ? AND encoder = ? AND floor = ? AND per_class = ?"
            " AND countries = ?",
            (release.digest, encoder, *self._rules),
        ).fetchone()
        return None if row is None else datetime.fromisoformat(row[0])

    def _kept(self, connection: sqlite3.Connection, release: Release, encoder: str) -> _Kept | None:
        """Return what was published last under the policy of now; another one starts anew."""
        row = connection.execute(
            "SELECT epoch, made, items, floor, per_class, countries FROM publication WHERE release = ? AND encoder = ?",
            (release.digest, encoder),
        ).fetchone()
        if row is None or tuple(row[3:]) != self._rules:
            return None
        return _Kept(row[0], datetime.fromisoformat(row[1]), np.frombuffer(row[2], ROW))

    def _keep(self, connection: sqlite3.Connection, release: Release, encoder: str, kept: _Kept) -> None:
        floor, per_class, countries = self._rules
        made = kept.made.astimezone(UTC).isoformat()
        values = (release.digest, encoder, kept.epoch, made, floor, per_class, kept.rows.tobytes(), countries)
        with transaction(connection):
            connection.execute("DELETE FROM publication WHERE encoder = ? AND release != ?", (encoder, release.digest))
            connection.execute("INSERT OR REPLACE INTO publication VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def present_items(
    connection: sqlite3.Connection, cells: Cells, items: tuple[Ids, Codes, Columns], countries: Countries | None
) -> Present:
    """Return what may be published of items.

    Args:
        connection: The node's database.
        cells: The cells that they lie in.
        items: Item ids by rising id, their codes, and what is known of them.
        countries: Told in place of tiles; None where tiles are.
    """
    ids, codes, known = items
    query = "SELECT acquisition FROM item WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
    names = [name for (name,) in connection.execute(query, (str(ids.tolist()),))]
    distinct, places = np.unique(np.array(names, str), return_inverse=True)
    return _present(ids, acquisition_numbers(distinct.tolist())[places], cells.nearest(codes)[0], known, countries)


def _present(
    ids: Ids, acquisitions: Acquisitions, cells: NDArray[np.int64], known: Columns, countries: Countries | None
) -> Present:
    periods = tuple(grid.periods(known.times, tier) for tier in range(grid.TIERS))
    return Present(ids, acquisitions, cells, grid.places(known.boxes, countries), periods)
