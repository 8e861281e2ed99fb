"""The node that is attacked: its real guard, search, publication and catalogue over given codes, and ten analysts.

Attackers are granted what no analyst has: they recognise each bucket and each patch in every answer, because handles
are opened with the node's key. So what they gain is at most more than what anybody would gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

import numpy as np
from members import World
from serving import Asker, add_patches, make_auditor, make_home, make_searcher, publish, serve_codes

from node.budgets import Budgets
from node.catalogue import Catalogue
from node.cataloguing import Cataloguer
from node.handles import Handles
from node.keys import handle_key, tie_key
from node.publishing import Publisher
from node.refining import Refiner
from node.served import Facts, Served
from node.state import open_state
from rsfed.clock import Deadline
from rsfed.config_policy import PolicySection
from rsfed.errors import WithheldByPolicy
from rsfed.home import transaction
from rsfed.privacy.budgets import Budget
from rsfed.privacy.cells import Cells
from rsfed.privacy.policy import Policies, policy
from rsfed.trust.catalogue import open_catalogue
from rsfed.trust.manifest import FederationClass, Nomenclature
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2 as pb
from rsfed.wire import NO_FOOTPRINT

IDENTITIES = 10
BITS = 32
LEVELS = ("partner", "guarded", "catalogue", "sealed", "counts")
CONTROL = "partner"
EPOCH = timedelta(hours=1)
_SOON = 60.0  # seconds
TILES, MONTHS = 6, 4
WEST = 7.0  # of the first tile; all are as far north


@dataclass(frozen=True)
class Seen:
    """What one answer tells, with handles opened.

    Attributes:
        marks: The buckets that are listed, int64.
        uppers: How far away each is told to be.
        sizes: How large each is told to be.
        samples: How many of its patches are listed.
        items: The listed patches, bucket after bucket.
        boxes: The footprint that is told of each, int32, shape (n, 4).
    """

    marks: np.ndarray
    uppers: np.ndarray
    sizes: np.ndarray
    samples: np.ndarray
    items: np.ndarray
    boxes: np.ndarray

    def told(self, mark):
        """How far away a bucket is told to be; None where it is not listed."""
        found = np.flatnonzero(self.marks == mark)
        return int(self.uppers[found[0]]) if len(found) else None


class Target:
    """A node at a level that holds an archive.

    Args:
        folder: Where its home is made.
        archive: What it holds.
        level: Its policy level.
        bands: Width of the bands into which told distances are put before attackers see them: for controls.
        start: How many patches it holds at first; all where that is None.
        names: Acquisition of each patch; each is its own where that is None.
        where: Tile and month of each patch, as `scattered` draws them where that is None.
        section: Bounds of what it publishes that are not the defaults.
    """

    def __init__(self, folder, archive, level, *, bands=1, start=None, names=None, where=None, section=None):
        self.archive, self.level, self.bands = archive, level, bands
        self.world, self.home = World(), make_home(folder)
        classes = tuple(FederationClass(id=each, name=f"class {each}") for each in archive.cell_classes.tolist())
        fields = {"codebook": archive.codebook, "codebook_reach": archive.reach}
        self.release = publish(self.home, self.world, nomenclature=Nomenclature(classes=classes), **fields)
        self.policies = Policies.of(level, {})
        self.handles = Handles(handle_key(self.home))
        self.connection = _fast(self.home)
        key, clock = tie_key(self.home), self.world.clock
        self.publisher = Publisher(policy("guarded"), 1, EPOCH, tie_key=key, now=clock)
        self.searcher = make_searcher(self.home, self.world, None, policies=self.policies, connection=_fast(self.home))
        self.wait()
        self.auditor = make_auditor(self.home, self.world, identity=self.identity)
        self.cataloguer = self.make_cataloguer(**section or {}) if policy(level).publishes else None
        self.asked = 0
        self.ids = np.array(add_patches(self.home, len(archive)), np.int64)
        self.names = np.array(names if names is not None else [f"file {each}" for each in self.ids], str)
        self.where = scattered(len(self.ids), 1) if where is None else where
        self._place()
        with Catalogue(self.home) as catalogue:
            self.facts = Facts.read(catalogue.connection, self.ids)
        self.serve(np.arange(len(archive) if start is None else start))

    def close(self):
        self.searcher.guard._ledger.close()
        self.connection.close()

    def wait(self, **by):
        """Let time pass; node and analysts have fresh certificates afterwards."""
        self.world.clock.move(**by)
        self.identity = self.world.identity(Role.NODE, "berne")
        bundle = self.world.bundle()
        self.searcher.guard._trust = lambda: bundle  # as a node keeps it, and not made anew for every query
        self.analysts = [Asker(self.world, f"analyst-{number}") for number in range(IDENTITIES)]

    def make_cataloguer(self, **section):
        fields = {"counted_patches": 1, "catalogue_days": 1, "level": self.level} | section
        return Cataloguer(
            self.home,
            policy(self.level),
            PolicySection(**fields),
            identity=lambda: self.identity,
            note=self.auditor.note,
            key=tie_key(self.home),
            now=self.world.clock,
        )

    def make_refiner(self, answers, handles):
        """What lists patches of buckets, each so often at most, by these handles."""
        note, clock = self.auditor.note, self.world.clock
        budgets = Budgets(self.home, _fast(self.home), Budget(answers), note=note, now=clock)
        return Refiner(self.searcher.shelf, self.searcher.guard, budgets, handles, clock)

    def serve(self, places):
        """Hold these patches of the archive from now on, and publish what is due."""
        ids, codes, facts = self.ids[places], self.archive.codes[places], self.facts.of(self.ids[places])
        exact = serve_codes(self.home, self.release, ids, codes)
        published = {}
        if policy(self.level).by_cells:
            self.publisher.publish(self.connection, self.release, "rgb", lambda: (ids, codes, facts.columns))
            found = self.publisher.current(self.connection, self.release, "rgb")
            published = {} if found is None else {"rgb": found}
        signed, bucketed = b"", None
        if self.cataloguer is not None:
            items = {"rgb": lambda: (ids, codes, facts.columns)}
            self.cataloguer.publish(self.connection, self.release, items)
            signed = self.cataloguer.current(self.connection, self.release)
            bucketed = self.cataloguer.bucketed(self.connection, self.release)
        self.served = Served(self.release, exact.snapshots, facts, exact.held, 0, published, signed, bucketed)
        self.searcher.shelf.served = self.served

    @property
    def published(self):
        return self.served.published["rgb"]

    @property
    def catalogue(self):
        """The signed catalogue as any member reads it."""
        signed = self.served.catalogue
        return open_catalogue(signed, "berne", self.release.manifest, self.world.bundle(), now=self.world.clock())

    @property
    def cells(self):
        return Cells.of(self.archive.codebook, self.archive.reach)

    def ask(self, codes, *, radius=BITS, k=1, who=0, **how):
        """Ask for codes in one query.

        Returns:
            What the answer to each tells; None where the query is refused.
        """
        signed = self.analysts[who % IDENTITIES].ask(self.release, codes, k=k, radius=radius, **how)
        self.asked += len(codes)
        try:
            response = self.searcher.search(pb.ArchiveServiceSearchRequest(query=signed), Deadline.after(_SOON))
        except WithheldByPolicy:
            return None
        return [self._seen(answer) for answer in response.answers]

    def marks(self, places):
        """By which mark each patch's bucket is recognised; 0 where nothing can be said of it."""
        if policy(self.level).by_cells:
            published = self.published
            cells = np.repeat(np.arange(len(published.starts) - 1), np.diff(published.starts))
            own = dict(zip(published.ids.tolist(), (-1 - cells).tolist(), strict=True))
            return np.array([own.get(each, 0) for each in self.ids[places].tolist()], np.int64)
        if policy(self.level).publishes:
            return np.zeros(len(places), np.int64)
        view = self.served.snapshots["rgb"].view
        found = view.search(np.zeros((1, BITS // 8), np.uint8), radius=BITS)[0]
        own = {code.tobytes(): mark for code, mark in zip(found.codes, found.marks.tolist(), strict=True)}
        return np.array([own.get(code.tobytes(), 0) for code in self.archive.codes[places]], np.int64)

    def _seen(self, answer):
        columns = (answer.distance_upper, "<u2"), (answer.bucket_sizes, "<u4"), (answer.sample_counts, "<u4")
        uppers, sizes, samples = (np.frombuffer(data, kind).astype(np.int64) for data, kind in columns)
        uppers = uppers // self.bands * self.bands + self.bands - 1
        items = self.opened(answer.item_handles)
        boxes = np.full((len(items), 4), NO_FOOTPRINT, np.int32)
        if answer.footprints:
            boxes = np.frombuffer(answer.footprints, "<i4").reshape(-1, 4)
        return Seen(self.opened(answer.bucket_handles), uppers, sizes, samples, items, boxes)

    def opened(self, column):
        """What handles mean: item ids, or marks of buckets."""
        return np.frombuffer(self.handles._cipher.decryptor().update(column), "<i8").reshape(-1, 2)[:, 0]

    def _place(self):
        """Give patches contents and acquisitions, and footprint and time within their tile and month."""
        rng = np.random.default_rng(1)
        rows = []
        for name, tile, month, item in zip(self.names.tolist(), *self.where, self.ids.tolist(), strict=True):
            west, day = WEST + int(tile) + rng.random() * 0.9, rng.integers(1, 28)
            moment = f"2024-{month:02}-{day:02}T10:00:00+00:00"
            rows.append((sha256(item.to_bytes(8)).hexdigest(), name, moment, moment, west, west + 1e-3, item))
        with transaction(self.connection):
            self.connection.executemany(
                "UPDATE item SET digest = ?, acquisition = ?, acquired_start = ?, acquired_end = ?, west = ?,"
                " south = 46.1, east = ?, north = 46.11 WHERE id = ?",
                rows,
            )


def scattered(count, seed):
    """Draw the tile and the month of each of some patches."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, TILES, count), rng.integers(1, MONTHS + 1, count)


def _fast(home):
    """Open the node's database so that it does not wait for the disk: nothing here has to outlive a crash."""
    connection = open_state(home)
    connection.execute("PRAGMA synchronous = OFF")
    return connection
