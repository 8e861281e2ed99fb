"""A node that publishes a catalogue or counts, for the tests of what it publishes and of what lies behind it."""

from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from members import World
from serving import add_patches, make_auditor, make_home, publish

from node.accounting import Accountant
from node.cataloguing import Cataloguer
from node.state import open_state
from rsfed.config_policy import PolicySection
from rsfed.home import transaction
from rsfed.index.facets import Columns
from rsfed.privacy.policy import policy
from rsfed.trust.catalogue import open_catalogue
from rsfed.trust.manifest import CodebookEntry, FederationClass, Nomenclature
from rsfed.trust.names import Role

CLASSES = np.random.default_rng(0).integers(0, 256, (3, 4), dtype=np.uint8)
PER_ACQUISITION = 4


@dataclass
class Publishing:
    """A node at a level, and its archive."""

    folder: object
    level: str = "catalogue"
    changes: dict = field(default_factory=dict)

    def __post_init__(self):
        self.world = World()
        self.home = make_home(self.folder / "node")
        self.identity = self.world.identity(Role.NODE, "berne")
        self.release = self.new_release(1)
        self.auditor = make_auditor(self.home, self.world, identity=self.identity)
        self.ids, self.codes = np.empty(0, np.int64), np.empty((0, 4), np.uint8)
        self.rng = np.random.default_rng(0)

    @staticmethod
    def release_fields():
        codebook = [CodebookEntry(class_id=number, code=code.tobytes().hex()) for number, code in enumerate(CLASSES)]
        classes = tuple(FederationClass(id=number, name=f"class {number}") for number in range(len(CLASSES)))
        return {"codebook": codebook, "codebook_reach": 6, "nomenclature": Nomenclature(classes=classes)}

    def new_release(self, version):
        return publish(self.home, self.world, version, **self.release_fields())

    def add(self, acquisitions, *, start=0):
        count = acquisitions * PER_ACQUISITION
        ids = add_patches(self.home, count)
        codes = CLASSES[self.rng.integers(0, len(CLASSES), count)]
        codes[:, 3] ^= self.rng.integers(0, 16, count, dtype=np.uint8)
        with closing(open_state(self.home)) as connection, transaction(connection):
            rows = [
                (f"overpass-{start + place // PER_ACQUISITION}", sha256(item.to_bytes(8)).hexdigest(), item)
                for place, item in enumerate(ids)
            ]
            connection.executemany("UPDATE item SET acquisition = ?, digest = ? WHERE id = ?", rows)
        self.ids, self.codes = np.concatenate([self.ids, ids]), np.concatenate([self.codes, codes])

    def cataloguer(self):
        return Cataloguer(
            self.home,
            policy(self.level),
            PolicySection(level=self.level, **self.changes),
            identity=lambda: self.identity,
            note=self.auditor.note,
            key=b"k" * 32,
            now=self.world.clock,
        )

    def publish(self, cataloguer=None):
        items = {"rgb": lambda: (self.ids, self.codes, Columns.unknown(len(self.ids)))}
        with closing(open_state(self.home)) as connection:
            return (cataloguer or self.cataloguer()).publish(connection, self.release, items)

    def signed(self):
        with closing(open_state(self.home)) as connection:
            return self.cataloguer().current(connection, self.release)

    def bucketed(self):
        with closing(open_state(self.home)) as connection:
            return self.cataloguer().bucketed(connection, self.release)

    def opened(self, signed=None):
        signed = self.signed() if signed is None else signed
        return open_catalogue(signed, "berne", self.release.manifest, self.world.bundle(), now=self.world.clock())

    def charges(self):
        with closing(open_state(self.home)) as connection:
            return Accountant(self.home, connection, self.auditor.note).charges(self.release)
