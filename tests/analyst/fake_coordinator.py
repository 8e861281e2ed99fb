"""A coordinator for tests of the analyst: real TLS, certificates and signatures, scripted answers."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from members import World

from rsfed.errors import UnknownHandle
from rsfed.home import Home
from rsfed.transport.server import bind, make_server, server_credentials
from rsfed.trust import certificates
from rsfed.trust.access import Port
from rsfed.trust.envelope import VerifiedQuery, verify_envelope
from rsfed.trust.identity import Federation, create_keys, save_bundle, save_certificate, save_federation
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2, federation_pb2, federation_pb2_grpc, outcome_pb2, query_pb2, query_pb2_grpc

NODES = ("alps", "danube")
COMPLETE = outcome_pb2.NODE_STATUS_COMPLETE


def make_home(world: World, folder, address: str, since: timedelta) -> Home:
    """An analyst that has joined."""
    home = Home(folder)
    folder.mkdir()
    (folder / "analyst.toml").write_text("deadline_s = 5.0\n")
    ca, member = world.cas[0], world.member(Role.ANALYST, "ada")
    csr = certificates.make_csr(create_keys(home.identity).key)
    leaf = certificates.issue_leaf(ca.key, ca.cert, csr, member, now=world.clock() + since)
    save_bundle(home.identity, world.signed_bundle(), refreshed=world.clock())
    save_federation(home.identity, Federation(address, address, world.member(Role.COORDINATOR)))
    save_certificate(home.identity, (leaf, ca.cert))
    return home


def handle(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()[:16]


@dataclass
class FakeCoordinator(federation_pb2_grpc.FederationServiceServicer, query_pb2_grpc.QueryServiceServicer):
    """Holds, in each bucket of `buckets`, items of two nodes; answers any code with all of them.

    `spoil` may change a response before it is sent.
    """

    world: World
    buckets: list[tuple[str, int, int]]  # node, distance, size
    spoil: Callable[[query_pb2.QueryServiceSearchResponse], None] = lambda _: None
    status: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # nodes that refuse to expand
    page: int = 1000  # items of a page at most
    asked: list[VerifiedQuery] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)

    def __post_init__(self):
        self.release = self.world.release()

    async def GetTrustBundle(self, request, context):  # noqa: N802
        return federation_pb2.FederationServiceGetTrustBundleResponse()

    async def GetRelease(self, request, context):  # noqa: N802
        yield federation_pb2.FederationServiceGetReleaseResponse(header=self.release.header)
        if request.have_digest != self.release.digest:
            yield federation_pb2.FederationServiceGetReleaseResponse(chunk=self.release.weights)

    async def Search(self, request, context):  # noqa: N802
        return self._result(request)

    async def WatchSearch(self, request, context):  # noqa: N802
        response = self._result(request)
        for node in NODES:
            yield query_pb2.QueryServiceWatchSearchResponse(outcome=self._outcome(node))
        yield query_pb2.QueryServiceWatchSearchResponse(result=response)

    def _result(self, request) -> query_pb2.QueryServiceSearchResponse:
        self.requests.append(request.SerializeToString())
        query = verify_envelope(request.query, self.world.bundle(refreshed=self.world.clock()), now=self.world.clock())
        self.asked.append(query)
        response = self._answer(query.envelope)
        self.spoil(response)
        return response

    async def ExpandBucket(self, request, context):  # noqa: N802
        self.requests.append(request.SerializeToString())
        inner = request.request
        if request.node in self.broken:
            raise UnknownHandle("the bucket is gone")
        envelope = verify_envelope(inner.query, self.world.bundle(), now=self.world.clock()).envelope
        number = next(n for n in range(len(self.buckets)) if handle(envelope.query_id, n) == inner.bucket_handle)
        size = self.buckets[number][2]
        listed = range(inner.offset, min(size, inner.offset + min(inner.limit, self.page)))
        page = archive_pb2.ArchiveServiceExpandBucketResponse(
            size=size, item_handles=b"".join(handle(envelope.query_id, number, n) for n in listed)
        )
        return query_pb2.QueryServiceExpandBucketResponse(response=page)

    def _outcome(self, node: str) -> outcome_pb2.NodeOutcome:
        return outcome_pb2.NodeOutcome(node=node, status=self.status.get(node, COMPLETE), coverage=1.0, held=9)

    def _answer(self, envelope) -> query_pb2.QueryServiceSearchResponse:
        width = self.release.manifest.bits // 8
        hits = [(n, i) for n, (_, _, size) in enumerate(self.buckets) for i in range(min(size, envelope.k))]
        if not envelope.HasField("radius"):
            hits = hits[: envelope.k]
        nodes, distances, sizes = zip(*self.buckets, strict=True) if self.buckets else ((), (), ())
        ranking = query_pb2.Ranking(
            nodes=NODES,
            bucket_nodes=struct.pack(f"<{len(nodes)}H", *map(NODES.index, nodes)),
            bucket_handles=b"".join(handle(envelope.query_id, n) for n in range(len(nodes))),
            bucket_distances=struct.pack(f"<{len(nodes)}H", *distances),
            bucket_sizes=struct.pack(f"<{len(nodes)}I", *sizes),
            hit_buckets=struct.pack(f"<{len(hits)}I", *(n for n, _ in hits)),
            hit_handles=b"".join(handle(envelope.query_id, n, i) for n, i in hits),
        )
        return query_pb2.QueryServiceSearchResponse(
            query_id=envelope.query_id,
            rankings=[ranking] * (len(envelope.codes) // width),
            outcomes=[self._outcome(node) for node in NODES],
        )


@asynccontextmanager
async def serving(coordinator: FakeCoordinator, folder, *, analyst_since=timedelta(0)):
    """Serve the fake at a free port and yield the home of an analyst that has joined."""
    world = coordinator.world
    identity = world.identity(Role.COORDINATOR)
    server = make_server(Port.FEDERATION, trust=lambda: world.bundle(refreshed=world.clock()), now=world.clock)
    federation_pb2_grpc.add_FederationServiceServicer_to_server(coordinator, server)
    query_pb2_grpc.add_QueryServiceServicer_to_server(coordinator, server)
    port = bind(server, "127.0.0.1:0", server_credentials(lambda: identity))
    await server.start()
    try:
        yield make_home(world, folder / "ada", f"127.0.0.1:{port}", analyst_since)
    finally:
        await server.stop(None)
