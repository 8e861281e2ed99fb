"""What the tests of serving share: a node's home with patches but no files, releases, codes and signed queries."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from google.protobuf.message import Message
from members import World

from node.auditing import Auditor, open_log, restart
from node.budgets import Budgets
from node.catalogue import Catalogue
from node.desk import AccessDesk
from node.guard import EXACT, Guard
from node.handles import Handles
from node.keys import handle_key, tie_key
from node.ledger import Ledger
from node.refining import Refiner
from node.sealed_queries import SealedQueries
from node.search import Searcher
from node.served import Facts, Served, Shelf
from node.service import ArchiveService
from node.setup import Choices, init_node
from node.state import open_state, take_item_ids
from rsfed.home import Home, transaction
from rsfed.index.order import keyed
from rsfed.index.search import Snapshot, View
from rsfed.index.segment import NONE_GONE, Part, Segment
from rsfed.privacy.budgets import Budget
from rsfed.privacy.policy import Policies
from rsfed.transport.server import bind, server_credentials
from rsfed.trust.certificates import issue_leaf, make_csr
from rsfed.trust.envelope import sign_envelope
from rsfed.trust.identity import (
    Federation,
    Identity,
    create_keys,
    load_identity,
    save_bundle,
    save_certificate,
    save_federation,
)
from rsfed.trust.names import Role
from rsfed.trust.release_store import Release, ReleaseStore
from rsfed.v1.envelope_pb2 import QueryEnvelope

PARTNER = Policies.of("partner", {})
PLACE = (7.0, 46.0, 7.1, 46.1)
TIME = "2024-06-01T10:20:30+00:00"


def make_home(folder: Path, *, bind: str = "127.0.0.1:0") -> Home:
    home = Home(folder)
    init_node(home, Choices(archive=None, modality="rgb", bind=bind, advertise="127.0.0.1:7443"))
    return home


def disclose(home: Home) -> None:
    """Choose the policy level, as the operator has to."""
    path = home.path / "node.toml"
    path.write_text(path.read_text().replace("[policy]", '[policy]\nlevel = "partner"', 1))


def add_patches(home: Home, count: int, *, place=None, time=None, labels=()) -> list[int]:
    """Put patches into the catalogue, one file each; the files do not exist."""
    with closing(open_state(home)) as connection, transaction(connection):
        ids = list(take_item_ids(connection, count))
        for item in ids:
            digest = item.to_bytes(32, "big")
            source = connection.execute(
                "INSERT INTO source (path, size, mtime_ns, digest, recipe, present) VALUES (?, 1, 1, ?, '', 1)",
                (f"secret-{item}.png", digest),
            ).lastrowid
            connection.execute(
                "INSERT INTO item (id, source, col, row, width, height, modality, digest, state, nodata, acquisition,"
                " acquired_start, acquired_end, west, south, east, north)"
                " VALUES (?, ?, 0, 0, 32, 32, 'rgb', ?, 'present', 0, 'a', ?, ?, ?, ?, ?, ?)",
                (item, source, digest.hex(), time, time, *(place or (None,) * 4)),
            )
            for label in labels:
                connection.execute("INSERT OR IGNORE INTO label (name) VALUES (?)", (label,))
                connection.execute("INSERT INTO source_label SELECT ?, id FROM label WHERE name = ?", (source, label))
    return ids


def withdraw(home: Home, ids: list[int]) -> None:
    with closing(open_state(home)) as connection, transaction(connection):
        connection.executemany("UPDATE item SET state = 'withdrawn' WHERE id = ?", [(item,) for item in ids])
        connection.executemany("DELETE FROM code WHERE item = ?", [(item,) for item in ids])


def publish(home: Home, world: World, version: int = 1, **changes) -> Release:
    """Let a node admit a release, as if it had been fetched."""
    signed = world.release(version, **changes)
    store = ReleaseStore(home.releases)
    return store.admit(signed.header, [signed.weights], world.bundle(), federation=world.name, now=world.clock())


def random_codes(count: int, bits: int = 32, *, distinct: int = 6, seed: int = 0) -> np.ndarray:
    """Codes that tie a lot and lie near each other."""
    rng = np.random.default_rng(seed)
    pool = np.tile(rng.integers(0, 256, (1, bits // 8), dtype=np.uint8), (distinct, 1))
    pool[:, :2] = rng.integers(0, 256, (distinct, 2), dtype=np.uint8)
    return pool[rng.integers(0, distinct, count)]


def serve_codes(home: Home, release: Release, ids, codes, *, held: int | None = None, encoder="rgb") -> Served:
    """What a node serves once it has hashed these patches."""
    bits, ids = release.manifest.bits, np.array(ids, np.int64)
    with Catalogue(home) as catalogue:
        facts = Facts.read(catalogue.connection, np.sort(ids))
    known = facts.of(ids).columns if len(facts.ids) == len(ids) else None  # some tests make items up
    view = View(bits, (Part(Segment.build(bits, ids, codes, known), NONE_GONE),))
    return Served(release, {encoder: Snapshot(release.digest, encoder, view)}, facts, {encoder: held or len(ids)})


def codes_in(view: View) -> dict[int, bytes]:
    """The code of every item of an index."""
    hits = view.search(np.zeros((1, view.bits // 8), np.uint8), radius=view.bits)[0]
    return {item: bytes(code) for bucket, code in enumerate(hits.codes) for item in hits.members(bucket).tolist()}


@dataclass
class Asker:
    """An analyst who signs queries."""

    world: World
    name: str = "ada"
    changes: dict = field(default_factory=dict)

    def __post_init__(self):
        self.identity = self.world.identity(Role.ANALYST, self.name)

    def ask(self, release: Release, codes, *, k: int = 5, radius: int | None = None, **changes):
        envelope = QueryEnvelope(
            query_id=secrets.token_bytes(16),
            requester=self.identity.member.uri,
            federation=self.world.name,
            release_digest=release.digest,
            encoder="rgb",
            codes=np.asarray(codes, np.uint8).tobytes(),
            k=k,
            radius=radius,
        )
        envelope.created.FromDatetime(self.world.clock())
        envelope.expires.FromDatetime(self.world.clock() + timedelta(minutes=5))
        for key, value in changes.items():
            if isinstance(value, datetime):
                getattr(envelope, key).FromDatetime(value)
            elif isinstance(value, Message):
                getattr(envelope, key).CopyFrom(value)
            else:
                setattr(envelope, key, value)
        return sign_envelope(envelope, self.identity)


def make_searcher(
    home: Home, world: World, served: Served | None, *, order=keyed, connection=None, policies=PARTNER, detail=EXACT
) -> Searcher:
    shelf = Shelf()
    shelf.served = served
    ledger = Ledger(connection or open_state(home))
    return Searcher(
        shelf=shelf,
        guard=Guard(world.bundle, ledger, node="berne", policies=policies, detail=detail),
        handles=Handles(handle_key(home)),
        tie_key=tie_key(home),
        now=world.clock,
        order=order,
    )


def make_auditor(home: Home, world: World, *, identity: Identity | None = None) -> Auditor:
    identity = identity or world.identity(Role.NODE, "berne")
    with closing(open_state(home)) as connection:
        return Auditor(open_log(home, connection, now=world.clock()), lambda: identity, world.clock)


def begin_audit_log_anew(home: Home, world: World, auditor: Auditor) -> Auditor:
    """What `rsfed node audit restart` does between two starts; returns the auditor of the new log."""
    auditor._log.close()
    with closing(open_state(home)) as connection:
        restart(home, connection, now=world.clock())
    return make_auditor(home, world)


def make_desk(home: Home, world: World, auditor: Auditor, identity, *, policies=PARTNER, **how) -> AccessDesk:
    """What answers calls about found items; `identity` returns the node's of the moment."""
    return AccessDesk(
        home,
        open_state(home),
        ledger=Ledger(open_state(home)),
        handles=Handles(handle_key(home)),
        auditor=auditor,
        identity=identity,
        policies=policies,
        now=world.clock,
        **how,
    )


def make_budgets(home: Home, world: World, note, *, answers: int = 500) -> Budgets:
    return Budgets(home, open_state(home), Budget(answers), note=note, now=world.clock)


def make_service(home: Home, world: World, searcher: Searcher, auditor: Auditor, policies, node: Identity, **how):
    """All that a node answers, as its server has it."""
    budgets = make_budgets(home, world, auditor.note, **how)
    return ArchiveService(
        node.member.name,
        searcher,
        auditor,
        policies,
        desk=make_desk(home, world, auditor, lambda: node, policies=policies),
        sealed=SealedQueries(lambda: node, auditor),
        refiner=Refiner(searcher.shelf, searcher.guard, budgets, searcher.handles, world.clock),
    )


def join(world: World, home: Home, name: str, federation_address: str, *, days_ago: float = 0) -> Identity:
    """Give a home an identity, as `rsfed node join` does; TLS reads the real clock, so time is moved back, not on."""
    keys, ca = create_keys(home.identity), world.cas[0]
    member = world.member(Role.NODE, name)
    leaf = issue_leaf(ca.key, ca.cert, make_csr(keys.key), member, now=world.clock() - timedelta(days=days_ago))
    save_federation(home.identity, Federation(federation_address, federation_address, world.member(Role.COORDINATOR)))
    save_bundle(home.identity, world.signed_bundle(), refreshed=world.clock())
    save_certificate(home.identity, (leaf, ca.cert))
    return load_identity(home.identity)


@asynccontextmanager
async def listening(server, identity, address="127.0.0.1:0"):
    """Let a server with mTLS listen on loopback; yields its address."""
    port = bind(server, address, server_credentials(lambda: identity))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
