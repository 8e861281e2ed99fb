"""Codes for every patch, in the background: hash what has no code, then swap release and index in one step.

- A newly admitted release is hashed in batches, each committed, so a restart goes on where the last batch ended.
  Until its codes are complete, the release before it is served.
- New patches are hashed and added to the release that is served; withdrawn ones leave the index at once.
- A file that cannot be read any more is counted, logged and tried again later; it never stops the rest.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from node.active import Active
from node.catalogue import Catalogue
from node.cataloguing import Cataloguer
from node.encoders import Encoder, MakeEncoder
from node.epochs import Epochs
from node.features import FeatureCache, FeatureKey, features_file
from node.indexes import make_equal, open_index, serve_release, served_release
from node.presence import Presence
from node.publishing import Publisher
from node.reading import Content, noted, reader
from node.searchable import REMEDY, unsearchable
from node.served import Facts, Served, Shelf
from rsfed.codes import Codes, Ids
from rsfed.crew import Crew
from rsfed.errors import ReleaseRefused, RsfedError
from rsfed.index.facets import Columns
from rsfed.index.warm import warm
from rsfed.index.writer import IndexWriter
from rsfed.telemetry import log
from rsfed.trust.manifest import FrozenTrunk
from rsfed.trust.release_store import Release, ReleaseStore

if TYPE_CHECKING:
    from rsfed.home import Home
    from rsfed.raster.item import Item

BATCH = 64  # patches read, hashed and committed at a time
POLL_S = 1.0
PUBLISH_S = 2.0  # new patches become searchable in steps of this length
RETRY_S = 600.0  # for files that could not be read
FAILED_S = 30.0  # pause after a failure
_NICENESS = 10
_WORTH_WORKERS = 500  # patches for which starting processes takes less time than they save


class Indexer:
    """Keeps a shelf up to date with the releases and the catalogue of a node, in one thread of its own.

    Args:
        home: The node's home.
        shelf: Where the result is put.
        make_encoder: Loads an encoder of a release.
        changed: Called in this thread whenever something else is served.
        publisher: Publishes items where answers go by cells; None where none does.
        cataloguer: Publishes a catalogue where no query is answered; None where they are.
        workers: Processes that read patches while others are hashed; 0 for none.
    """

    def __init__(  # noqa: PLR0913 - whom it works for
        self,
        home: Home,
        shelf: Shelf,
        make_encoder: MakeEncoder,
        changed: Callable[[], None] = lambda: None,
        *,
        publisher: Publisher | None = None,
        cataloguer: Cataloguer | None = None,
        workers: int = 0,
    ) -> None:
        self._home = home
        self._shelf = shelf
        self._make_encoder = make_encoder
        self._changed = changed
        self.publisher = publisher
        self.cataloguer = cataloguer
        self.workers = workers
        self._stop = threading.Event()
        self._wake = threading.Event()
        self.pending = 0
        """Patches that wait for a code of the newest release."""

    def run(self) -> None:
        """Work until `stop`; a failure is logged and tried again."""
        with suppress(OSError, AttributeError):  # not every system knows priorities of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        warm()
        with Catalogue(self._home) as catalogue, closing(_Work(self._home, catalogue, self)) as work:
            while not self._stop.is_set():
                self._wake.wait(POLL_S if self._step(work) else FAILED_S)
                if self._wake.is_set():
                    self._wake.clear()
                    work.forget_failures()

    def notify(self) -> None:
        """Look at catalogue and releases again now, also at files that could not be read before."""
        self._wake.set()

    def stop(self) -> None:
        """End after the batch in progress."""
        self._stop.set()
        self._wake.set()

    @property
    def stopping(self) -> bool:
        """Whether the end is wanted."""
        return self._stop.is_set()

    def encoder(self, release: Release, encoder_id: str) -> Encoder:
        """Load an encoder."""
        return self._make_encoder(release, encoder_id)

    def publish(self, served: Served) -> None:
        """Serve something else, from one moment to the next."""
        self._shelf.served = served
        self._changed()

    def _step(self, work: _Work) -> bool:
        try:
            work.step()
        except RsfedError as error:
            log.error("index.failed", reason=error.reason)
        except Exception as error:  # noqa: BLE001 - a full disk or a damaged model must not end the thread
            log.error("index.failed", error_type=type(error).__name__)
        else:
            return True
        return False


class _Work:
    """The indexer's state: what is served, and what is on its way."""

    def __init__(self, home: Home, catalogue: Catalogue, owner: Indexer) -> None:
        self._home = home
        self._catalogue = catalogue
        self._store = ReleaseStore(home.releases)
        self._owner = owner
        self._presence = Presence(catalogue.connection)
        self._active: Active | None = None
        self._failed: dict[int, float] = {}  # item -> when it could not be read
        self._settled = False  # every patch that can be read has a code of the newest release
        self._arrived = False  # patches came or went while others were hashed
        self._features_due = True  # features of patches that went, or of another trunk, may still be kept
        self._unpublished = False
        self._published = 0.0
        self._unannounced = False  # patches came or went since the last epoch
        self._epochs = Epochs(catalogue.connection, owner.publisher, owner.cataloguer)
        self._lost = 0  # patches that no encoder of the release reads

    def close(self) -> None:
        """Let go of the indexes of what is served; it stays served."""
        if self._active is not None:
            self._active.close()

    def forget_failures(self) -> None:
        """Try files again that could not be read."""
        self._failed.clear()
        self._settled = False

    def step(self) -> None:
        """Do everything there is to do."""
        if self._active is None and (former := self._former()):
            self._take(former)
        newest = self._newest()
        if newest is None:
            return
        self._drop_withdrawn()
        self._relabel()
        if self._settled and self._serves(newest) and not self._retry_due():
            self._begin_epoch()
            self._publish()
            return
        self._settled = self._arrived = False
        complete = all(self._hash(newest, encoder_id) for encoder_id in newest.manifest.encoders)
        if complete and not self._serves(newest):
            self._take(newest)
            self._catalogue.keep_codes([newest.digest])
            self._features_due = True
        if complete and self._features_due:
            self._drop_features(newest)
        self._settled = complete and not self._arrived
        self._merge()
        self._begin_epoch()
        self._publish()

    def _merge(self) -> None:
        """Merge segments that are due; what is served goes on meanwhile."""
        for index in self._active.indexes.values() if self._active else ():
            while index.merge():
                self._unpublished = True

    def _newest(self) -> Release | None:
        """Return the release to serve: the current one, or where there is none the one that is served already."""
        return self._store.current() or (self._active.release if self._active else None)

    def _serves(self, release: Release) -> bool:
        return self._active is not None and self._active.release.digest == release.digest

    def _retry_due(self) -> bool:
        return any(time.monotonic() - moment > RETRY_S for moment in self._failed.values())

    def _former(self) -> Release | None:
        """Return the release that was served when the node was stopped."""
        digest = served_release(self._home)
        with suppress(ReleaseRefused):
            return self._store.get(digest) if digest else None
        return None

    def _take(self, release: Release) -> None:
        """Serve a release with the codes that the catalogue has."""
        started = time.monotonic()
        self._presence.changed()
        self._presence.relabelled()
        coded = {name: self._coded(release, name) for name in release.manifest.encoders}
        listed = np.unique(np.concatenate([ids for ids, _ in coded.values()]))
        facts = Facts.read(self._catalogue.connection, listed)
        indexes = {name: open_index(self._home, release, name) for name in coded}
        for name, (ids, codes) in coded.items():
            make_equal(indexes[name], ids, codes, facts.of(ids).columns)
        self.close()
        self._active = Active(release, indexes, facts)
        self._unpublished = self._unannounced = True
        self._epochs.take(release)
        serve_release(self._home, release.digest)
        self._publish()
        seconds = round(time.monotonic() - started, 3)
        log.info("index.swapped", release=release.manifest.version, indexed=len(listed), seconds=seconds)

    def _coded(self, release: Release, encoder_id: str) -> tuple[Ids, Codes]:
        """Return the present patches that have a code, and their codes."""
        ids, codes = self._catalogue.codes(release.digest, encoder_id)
        stays = np.isin(ids, self._presence.ids(release.manifest.encoders[encoder_id].modality))
        return ids[stays], codes[stays]

    def _relabel(self) -> None:
        """Take up other classes of patches that are served."""
        if self._active is None or not self._presence.relabelled():
            return
        facts = Facts.read(self._catalogue.connection, self._active.facts.ids)
        for encoder_id, index in self._active.indexes.items():
            ids, codes = self._coded(self._active.release, encoder_id)
            served = np.isin(ids, index.view.item_ids)
            make_equal(index, ids[served], codes[served], facts.of(ids[served]).columns)
        self._active.facts = facts
        self._unpublished = True
        self._publish()

    def _hash(self, release: Release, encoder_id: str) -> bool:
        """Hash every patch that still needs a code; return whether that was finished."""
        entry = release.manifest.encoders[encoder_id]
        self._take_up(release, encoder_id)
        missing = self._missing(release, encoder_id, entry.modality)
        self._owner.pending = len(missing)
        if not len(missing):
            return True
        log.info("index.hashing", release=release.manifest.version, pending=len(missing))
        encoder = self._owner.encoder(release, encoder_id)
        ahead = self._owner.workers and len(missing) >= _WORTH_WORKERS
        hands = Crew(self._owner.workers) if ahead else None
        reading = reader(self._home, entry.architecture, entry.input, release, hands=hands)
        failed, done = len(self._failed), 0
        with closing(reading.contents(self._uncoded(release, encoder_id, missing), self._unreadable)) as contents:
            while ids := self._hash_batch(release, encoder_id, encoder, islice(contents, BATCH)):
                done += len(ids)
                if self._owner.stopping or self._newest() != release:
                    return False
                self._owner.pending = max(0, len(missing) - done - (len(self._failed) - failed))
        self._owner.pending = 0
        self._take_up(release, encoder_id)
        if len(self._failed) > failed:
            log.warning("index.unreadable", count=len(self._failed) - failed)
            self._unpublished = True  # what cannot be read is not held
        return True

    def _hash_batch(
        self, release: Release, encoder_id: str, encoder: Encoder, read: Iterable[tuple[Item, Content]]
    ) -> list[int]:
        """Hash patches while the next ones are read, and return their ids."""
        hashed: list[int] = []
        codes = encoder.encode(noted(read, hashed))
        if not hashed:
            return hashed
        ids = np.array(hashed, np.int64)
        self._catalogue.put_codes(release.digest, encoder_id, ids, codes)
        self._drop_withdrawn()
        if self._serves(release):
            self._add(encoder_id, ids, codes)
        if time.monotonic() - self._published > PUBLISH_S:
            self._publish()
        return hashed

    def _uncoded(self, release: Release, encoder_id: str, ids: Ids) -> Iterator[Item]:
        """Yield those of these patches that are still present and without a code, looked up some at a time."""
        for start in range(0, len(ids), BATCH):
            yield from self._catalogue.uncoded(release.digest, encoder_id, ids[start : start + BATCH])

    def _take_up(self, release: Release, encoder_id: str) -> None:
        """Add codes to what is served that an ingest put into the catalogue."""
        if self._serves(release):
            missing = self._missing(release, encoder_id, release.manifest.encoders[encoder_id].modality)
            ids, codes = self._catalogue.codes_of(release.digest, encoder_id, missing)
            if len(ids):
                self._add(encoder_id, ids, codes)

    def _unreadable(self, item: Item) -> None:
        self._failed[item.id] = time.monotonic()

    def _missing(self, release: Release, encoder_id: str, modality: str) -> Ids:
        """Return the ids of the present patches that still need a code and may be readable, in rising order."""
        now = time.monotonic()
        self._failed = {item: moment for item, moment in self._failed.items() if now - moment < RETRY_S}
        if self._active is not None and self._serves(release):
            coded = self._active.indexes[encoder_id].view.item_ids  # what is served need not be read again
        else:
            coded = self._catalogue.coded(release.digest, encoder_id)
        missing = np.setdiff1d(self._presence.ids(modality), coded, assume_unique=True)
        return np.setdiff1d(missing, list(self._failed), assume_unique=True)

    def _add(self, encoder_id: str, ids: Ids, codes: Codes) -> None:
        """Add patches to what is served, but for those withdrawn since they were read."""
        if self._active is None:
            return
        stays = np.isin(ids, self._presence.ids(self._active.modality(encoder_id)))
        new = np.setdiff1d(ids[stays], self._active.facts.ids)
        self._active.facts = self._active.facts.joined(Facts.read(self._catalogue.connection, new))
        columns = self._active.facts.of(ids[stays]).columns
        self._active.indexes[encoder_id].append(ids[stays], codes[stays], columns)
        self._unpublished = self._unannounced = True

    def _drop_withdrawn(self) -> None:
        """Take withdrawn patches out of what is served, at once."""
        if not self._presence.changed():
            return
        self._settled, self._arrived = False, True
        self._features_due = True
        if self._active is None:
            return
        for encoder_id, index in self._active.indexes.items():
            present = self._presence.ids(self._active.modality(encoder_id))
            index.remove(np.setdiff1d(index.view.item_ids, present))
        self._active.forget_gone()
        self._unpublished = self._unannounced = True
        self._publish()

    def _drop_features(self, release: Release) -> None:
        """Delete the features of withdrawn patches, and those that no encoder of the release takes."""
        self._features_due = False
        if not features_file(self._home).exists():
            return
        modalities = {
            FeatureKey.of(trunk, each.input): each.modality
            for each in release.manifest.encoders.values()
            if isinstance(trunk := each.architecture, FrozenTrunk)
        }
        ids = [self._presence.ids(modality) for modality in modalities.values()]
        with closing(FeatureCache(self._home)) as cache:
            cache.keep(modalities, np.concatenate([np.empty(0, np.int64), *ids]))

    def _publish(self) -> None:
        if self._active is None or not self._unpublished:
            return
        active = self._active
        snapshots = {name: index.snapshot() for name, index in active.indexes.items()}
        held = {name: self._held(active.modality(name), index) for name, index in active.indexes.items()}
        lost = unsearchable(self._catalogue.modalities(), active.release.manifest)
        published = self._epochs.items, self._epochs.catalogue, self._epochs.bucketed
        self._owner.publish(Served(active.release, snapshots, active.facts, held, lost, *published))
        if lost and lost != self._lost:
            log.error("archive.unsearchable", count=lost, remedy=f"no encoder reads this modality: {REMEDY}")
        self._lost = lost
        self._unpublished, self._published = False, time.monotonic()

    def _begin_epoch(self) -> None:
        """Publish what came or went, for answers that go by cells and as a catalogue, once all codes are there."""
        active = self._active
        if active is None or not (self._settled and self._unannounced):
            return
        items = {name: partial(self._items, active, name) for name in active.indexes}
        changed, self._unannounced = self._epochs.begin(active.release, items)
        self._unpublished |= changed

    def _items(self, active: Active, encoder_id: str) -> tuple[Ids, Codes, Columns]:
        ids, codes = self._coded(active.release, encoder_id)
        served = np.isin(ids, active.facts.ids)
        return ids[served], codes[served], active.facts.of(ids[served]).columns

    def _held(self, modality: str, index: IndexWriter) -> int:
        """Return how many patches can be searched once all have codes; what cannot be read is not among them."""
        waiting = np.setdiff1d(self._presence.ids(modality), index.view.item_ids)
        return len(index.view) + len(np.setdiff1d(waiting, list(self._failed)))
