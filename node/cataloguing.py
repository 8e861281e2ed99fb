"""Publishing a catalogue or counts in epochs: made anew for every one, kept signed in the node's database.

An epoch is due after the stated interval, once enough acquisitions came or went since the last one, and as long as the
release's budget of counts lasts; under a new release, or at another level, at once, but of the acquisitions of the last
one, as long as not enough came or went. It is charged first; what a crash cuts short is lost, and the next one is due
after the interval.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from node.accounting import Accountant
from node.bucketed import ROW, Bucketed, content_number
from rsfed.codes import Codes, Ids
from rsfed.errors import StateError, UnknownHandle
from rsfed.home import transaction
from rsfed.privacy.buckets import Places, buckets
from rsfed.privacy.budgets import refinable
from rsfed.privacy.cells import Cells
from rsfed.privacy.counts import Charge, counted, noisy, spread
from rsfed.privacy.publication import Acquisitions, acquisition_numbers, of_a_batch
from rsfed.telemetry import log
from rsfed.transport.limits import CHUNK_BYTES
from rsfed.trust.catalogue import digest_of, part_of, sign_catalogue
from rsfed.trust.scope import LEVELS
from rsfed.v1.archive_pb2 import ArchiveServiceGetCatalogueRequest, ArchiveServiceGetCatalogueResponse
from rsfed.v1.catalogue_pb2 import Catalogue

if TYPE_CHECKING:
    from node.accounting import Note
    from node.publishing import Items
    from rsfed.clock import Now
    from rsfed.config_policy import PolicySection
    from rsfed.home import Home
    from rsfed.index.facets import Columns
    from rsfed.privacy.policy import Policy
    from rsfed.trust.identity import Identity
    from rsfed.trust.release_store import Release


@dataclass(frozen=True, slots=True)
class _Held:
    """The items of one encoder."""

    ids: Ids
    codes: Codes
    acquisitions: Acquisitions
    classes: Places

    def of(self, acquisitions: Acquisitions) -> _Held:
        """Return those of some acquisitions."""
        own = np.isin(self.acquisitions, acquisitions)
        return _Held(self.ids[own], self.codes[own], self.acquisitions[own], self.classes[own])


@dataclass(frozen=True, slots=True)
class _Groups:
    """Buckets or classes of one encoder, and which one each item is in; -1 for none."""

    places: Places
    middles: Codes
    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.middles) + len(self.classes)


class Cataloguer:
    """Publishes what the levels catalogue, sealed and counts give away.

    Args:
        home: The node's home.
        policy: The level, which publishes.
        section: Its bounds.
        identity: Returns the node's identity of this moment.
        note: Writes into the audit log.
        key: Secret of the node that decides which patches count, 32 bytes.
        now: Wall clock.
    """

    def __init__(  # noqa: PLR0913 - what a publication is made with
        self,
        home: Home,
        policy: Policy,
        section: PolicySection,
        *,
        identity: Callable[[], Identity],
        note: Note,
        key: bytes,
        now: Now,
    ) -> None:
        self._home = home
        self._policy = policy
        self._section = section
        self._identity = identity
        self._note = note
        self._key = key
        self._now = now
        self._interval = timedelta(days=section.catalogue_days)
        self._rules = f"{policy.level} {policy.floor}"
        self._rests: datetime | None = None  # until when nothing more can be published

    def current(self, connection: sqlite3.Connection, release: Release) -> bytes:
        """Return the catalogue of a release as it is given away; b"" where there is none under the rules of now."""
        found = self._row(connection, release, "signed")
        return b"" if found is None else bytes(found[0])

    def bucketed(self, connection: sqlite3.Connection, release: Release) -> Bucketed | None:
        """Return the items behind its buckets that refine may list; None where there are none."""
        found = self._row(connection, release, "epoch, items")
        return Bucketed.read(found[0], self._policy.floor, _encoders(release), found[1]) if found else None

    def publish(self, connection: sqlite3.Connection, release: Release, items: Mapping[str, Items]) -> bool | None:
        """Publish, if it is time, enough has changed, and the budget allows it.

        Returns:
            Whether something was published; None where it is not time yet.
        """
        accountant = Accountant(self._home, connection, self._note)
        try:
            charges = accountant.charges(release)
            if (charges and self._now() - charges[-1].at < self._interval) or self._resting():
                return None
            held = self._fitting(connection, release, items)
            if held is None:
                return None if self._resting() else False
            charge = accountant.charge(release, self._section.epsilon, now=self._now())
        except StateError as error:
            log.error("catalogue.refused", reason=error.reason, what=error.public)
            return False
        groups = {name: self._groups(release, each) for name, each in held.items()}
        self._keep(connection, release, charge, held, groups)
        log.info("catalogue.made", epoch=charge.number, level=self._policy.level)
        return True

    def _fitting(
        self, connection: sqlite3.Connection, release: Release, items: Mapping[str, Items]
    ) -> dict[str, _Held] | None:
        """Return the items of each encoder that may be published now; None where none may, or too little changed."""
        if not release.manifest.codebook:
            log.warning("catalogue.no_codebook", release=release.manifest.version)
            return None
        held = {name: self._held(connection, release, each()) for name, each in items.items()}
        now, least = _all_acquisitions(held), self._policy.least_acquisitions
        if len(now) < least:
            log.warning("catalogue.unfit", level=self._policy.level, acquisitions=len(now), needed=least)
            return None
        chosen = self._chosen(connection, release, now)
        if not len(chosen):
            return None
        held = {name: each.of(chosen) for name, each in held.items()}
        return {name: each for name, each in held.items() if len(each.ids)}

    def _chosen(self, connection: sqlite3.Connection, release: Release, now: Acquisitions) -> Acquisitions:
        """Return the acquisitions to publish: beside the publication before, of whatever release, none stands out."""
        query = "SELECT acquisitions, made, release = ? AND rules = ? FROM catalogue"
        row = connection.execute(query, (release.digest, self._rules)).fetchone()
        if row is None:
            return now
        before, least = np.frombuffer(row[0], "<u8").astype(np.uint64), self._policy.least_acquisitions
        if row[2]:
            return now if len(np.setxor1d(now, before)) >= least else now[:0]
        due = datetime.fromisoformat(row[1]) + self._interval
        come = self._now() >= due
        chosen = of_a_batch(now if come else np.intersect1d(now, before), before, least, self._key)
        if not len(chosen):
            self._rests = due
            log.warning("catalogue.waits", reason="fewer acquisitions went since the last one than can go unnoticed")
        return chosen

    def _resting(self) -> bool:
        return self._rests is not None and self._now() < self._rests

    def _held(self, connection: sqlite3.Connection, release: Release, items: tuple[Ids, Codes, Columns]) -> _Held:
        ids, codes, _ = items
        if not len(ids):
            return _Held(ids, codes, np.empty(0, np.uint64), np.empty(0, np.int64))
        query = "SELECT acquisition FROM item WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        names = [name for (name,) in connection.execute(query, (str(ids.tolist()),))]
        return _Held(ids, codes, acquisition_numbers(names), _cells(release).nearest(codes)[0])

    def _keep(
        self,
        connection: sqlite3.Connection,
        release: Release,
        charge: Charge,
        held: Mapping[str, _Held],
        groups: Mapping[str, _Groups],
    ) -> None:
        """Draw, sign and keep the publication of an epoch that was charged."""
        signed = sign_catalogue(self._catalogue(release, charge, held, groups), self._identity())
        made = charge.at.astimezone(UTC).isoformat()
        items = self._items(connection, release, held, groups) if self._policy.refines else b""
        acquisitions = _all_acquisitions(held).astype("<u8").tobytes()
        row = (release.digest, self._rules, made, acquisitions, signed, charge.number, items)
        with transaction(connection):
            connection.execute("DELETE FROM catalogue")
            connection.execute("INSERT INTO catalogue VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _items(
        self,
        connection: sqlite3.Connection,
        release: Release,
        held: Mapping[str, _Held],
        groups: Mapping[str, _Groups],
    ) -> bytes:
        """Return the items that refine may list, as they are kept."""
        parts = []
        for place, name in enumerate(_encoders(release)):
            if name not in held:
                continue
            own, places = held[name], groups[name].places
            chosen = refinable(places, own.acquisitions, own.ids, self._key)
            rows = np.zeros(len(chosen), ROW)
            rows["encoder"], rows["bucket"], rows["id"] = place, places[chosen], own.ids[chosen]
            rows["acquisition"] = own.acquisitions[chosen]
            query = "SELECT id, digest FROM item WHERE id IN (SELECT value FROM json_each(?))"
            known = dict(connection.execute(query, (str(rows["id"].tolist()),)))
            rows["content"] = [content_number(known[item]) for item in rows["id"].tolist()]
            _, firsts = np.unique(rows[["bucket", "content"]], return_index=True)
            parts.append(rows[np.sort(firsts)])
        return np.concatenate(parts).tobytes()

    def _catalogue(
        self, release: Release, charge: Charge, held: Mapping[str, _Held], groups: Mapping[str, _Groups]
    ) -> Catalogue:
        most = self._section.counted_patches
        catalogue = Catalogue(
            node=self._identity().member.uri,
            release_digest=release.digest,
            level=LEVELS[self._policy.level],
            epoch=charge.number,
            floor=self._policy.floor,
            epsilon=charge.epsilon,
            spread=spread(most, charge.epsilon),
            counted=most,
        )
        catalogue.made.FromDatetime(charge.at)
        catalogue.next.FromDatetime(charge.at + self._interval)
        told = noisy(self._true_counts(held, groups, most), most_patches=most, epsilon=charge.epsilon)
        for name, each in groups.items():
            own, told = told[: len(each)], told[len(each) :]
            catalogue.parts.append(part_of(name, each.middles, each.classes, own))
        return catalogue

    def _groups(self, release: Release, held: _Held) -> _Groups:
        if self._policy.level == "counts":
            return _Groups(held.classes, held.codes[:0], tuple(each.class_id for each in release.manifest.codebook))
        return _Groups(*buckets(held.codes, held.acquisitions, held.classes, self._policy.floor), ())

    def _true_counts(self, held: Mapping[str, _Held], groups: Mapping[str, _Groups], most: int) -> NDArray[np.int64]:
        """Return the counts of all encoders, one after the other, of the patches that count: they share one bound."""
        which = counted(
            np.concatenate([each.acquisitions for each in held.values()]),
            np.concatenate([each.classes for each in held.values()]),
            np.concatenate([each.ids for each in held.values()]),
            most_patches=most,
            key=self._key,
        )
        counts = []
        for name, each in groups.items():
            own, which = which[: len(held[name].ids)], which[len(held[name].ids) :]
            counts.append(np.bincount(each.places[own & (each.places >= 0)], minlength=len(each)))
        return np.concatenate(counts).astype(np.int64)

    def _row(self, connection: sqlite3.Connection, release: Release, columns: str) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = connection.execute(
            f"SELECT {columns} FROM catalogue WHERE release = ? AND rules = ?",  # noqa: S608 - fixed names
            (release.digest, self._rules),
        ).fetchone()
        return row


def catalogue_chunk(signed: bytes, request: ArchiveServiceGetCatalogueRequest) -> ArchiveServiceGetCatalogueResponse:
    """Return a part of a catalogue as it is given away.

    Raises:
        UnknownHandle: NO_CATALOGUE, nothing is published; CATALOGUE_CHANGED, the chunks before were of another one.
    """
    if not signed:
        raise UnknownHandle("this archive publishes no catalogue, or none yet", reason="NO_CATALOGUE")
    digest = digest_of(signed)
    if request.digest not in {b"", digest}:
        raise UnknownHandle("the catalogue was published anew; begin again", reason="CATALOGUE_CHANGED")
    chunk = signed[request.offset : request.offset + CHUNK_BYTES]
    return ArchiveServiceGetCatalogueResponse(digest=digest, size=len(signed), chunk=chunk)


def _encoders(release: Release) -> tuple[str, ...]:
    return tuple(sorted(release.manifest.encoders))


def _cells(release: Release) -> Cells:
    return Cells.of(release.manifest.codebook, release.manifest.codebook_reach)


def _all_acquisitions(held: Mapping[str, _Held]) -> Acquisitions:
    return np.unique(np.concatenate([np.empty(0, np.uint64), *(each.acquisitions for each in held.values())]))
