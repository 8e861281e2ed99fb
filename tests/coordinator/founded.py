"""A federation with a real home, a clock that tests set, members made of real keys, and servers on loopback."""

import asyncio
import shutil
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from honest_archives import Archive

from coordinator.authority import Admission, Authority
from coordinator.founding import Choices, found
from coordinator.keyring import Keyring
from coordinator.releases import Publisher
from coordinator.rotation import Rotation
from coordinator.serve import Coordinator
from coordinator.state import State
from coordinator.upkeep import Upkeep
from rsfed.clock import Deadline, utc_now
from rsfed.config import CoordinatorConfig, load_config
from rsfed.home import Home
from rsfed.transport.channel import call, open_channel
from rsfed.transport.server import bind, make_server, server_credentials
from rsfed.trust.access import Port
from rsfed.trust.bundle import Bundle, open_bundle
from rsfed.trust.certificates import make_csr
from rsfed.trust.enrolment import join
from rsfed.trust.envelope import sign_envelope
from rsfed.trust.identity import Identity, load_identity
from rsfed.trust.names import MemberId, Role
from rsfed.v1 import archive_pb2 as archive
from rsfed.v1 import federation_pb2 as federation
from rsfed.v1 import outcome_pb2 as outcome
from rsfed.v1.archive_pb2_grpc import ArchiveServiceServicer, add_ArchiveServiceServicer_to_server
from rsfed.v1.audit_pb2 import SignedTreeHead
from rsfed.v1.envelope_pb2 import QueryEnvelope
from rsfed.v1.federation_pb2_grpc import FederationServiceStub

BITS = 32
SEALING_KEY = bytes(range(32))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_template(folder: Path) -> Path:
    """Found a federation once; tests copy it."""
    places = dict.fromkeys(("advertise", "join_advertise", "bind", "join_bind"), "127.0.0.1:1")
    found(Home(folder), Choices("alps", "rgb", BITS, 32, ("water", "forest"), **places))
    return folder


@dataclass
class Clock:
    """A wall clock that tests move."""

    offset: timedelta = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.offset

    def move(self, **by: float) -> None:
        self.offset += timedelta(**by)


@dataclass
class Founded:
    """A federation in a folder of its own."""

    home: Home
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        text = (self.home.path / "coordinator.toml").read_text()
        for key in ("join_", ""):
            address = f"127.0.0.1:{free_port()}"
            for what in ("bind", "advertise"):
                text = text.replace(f'\n{key}{what} = "127.0.0.1:1"', f'\n{key}{what} = "{address}"')
        (self.home.path / "coordinator.toml").write_text(text)
        self.config = load_config(CoordinatorConfig, self.home.path)
        self.state = State(self.home)
        self.authority = Authority(self.home, self.state, self.config, now=self.clock)
        self.publisher = Publisher(self.home, self.state, "alps", now=self.clock)
        self.upkeep = Upkeep(self.home, self.state, self.config, now=self.clock)
        self.coordinator = self.authority.coordinator
        self.rotation = Rotation(self.state, Keyring(self.home), self.coordinator, self.clock)

    def bundle(self) -> Bundle:
        with self.state.reading() as connection:
            from coordinator.bundles import current_bundle

            return open_bundle(current_bundle(connection))

    def enroll(self, name: str, role: Role = Role.NODE) -> tuple[Admission, ec.EllipticCurvePrivateKey]:
        token, key = self.authority.invite(name, role, hours=1), ec.generate_private_key(ec.SECP256R1())
        return self.authority.enroll(token.invitation, token.secret, make_csr(key), SEALING_KEY), key

    async def join(self, folder: Path, name: str, role: Role = Role.NODE) -> Identity:
        """Join over the wire, as the command does."""
        (folder / name).mkdir(exist_ok=True)
        return await join(Home(folder / name), self.authority.invite(name, role, hours=1), role=role)

    @asynccontextmanager
    async def serving(self):
        with self.home.lock():
            async with Coordinator(self.home, self.state, self.config, now=self.clock) as coordinator:
                yield coordinator

    def channel(self, identity: Identity):
        return open_channel(self.config.serve.advertise, identity, self.coordinator)

    async def announce(
        self, identity: Identity, address: str, **changes
    ) -> federation.FederationServiceAnnounceResponse:
        request = federation.FederationServiceAnnounceRequest(
            **{
                "address": address,
                "software": "0.1.0",
                "protocol": 1,
                "release_version": 1,
                "release_digest": self.publisher.current().digest,
                "held": 3,
                "level": outcome.POLICY_LEVEL_PARTNER,
            }
            | changes
        )
        if not request.HasField("clock"):
            request.clock.FromDatetime(self.clock())
        async with self.channel(identity) as channel:
            return await call(FederationServiceStub(channel).Announce, request, Deadline.after(10), what="coordinator")

    def query(self, analyst: Identity, asked: list[int], **changes):
        envelope = QueryEnvelope(
            **{
                "query_id": changes.pop("query_id", bytes(range(16))),
                "requester": analyst.member.uri,
                "federation": "alps",
                "release_digest": self.publisher.current().digest,
                "encoder": "rgb",
                "codes": b"".join(code.to_bytes(BITS // 8, "big") for code in asked),
                "k": 5,
            }
            | changes
        )
        envelope.created.FromDatetime(self.clock())
        envelope.expires.FromDatetime(self.clock() + timedelta(minutes=5))
        return sign_envelope(envelope, analyst)


@contextmanager
def founded(template: Path, folder: Path):
    """A copy of the template, open."""
    shutil.copytree(template, folder)
    federation = Founded(Home(folder))
    with closing(federation.state):
        yield federation


@dataclass
class FakeNode(ArchiveServiceServicer):
    """A node with a real certificate and port, and an archive of whole numbers for codes."""

    identity: Identity
    archive: Archive
    before: Callable[[], object] = lambda: None
    spoil: Callable[[archive.ArchiveServiceSearchResponse], object] = lambda _: None
    asked: list[archive.ArchiveServiceSearchRequest] = field(default_factory=list)
    askers: list[bytes] = field(default_factory=list)
    sealed: bytes = b"sealed answer"
    parts: tuple[bytes, ...] = ()  # of a delivery

    async def Describe(self, request, context):  # noqa: N802 - name of the wire
        return archive.ArchiveServiceDescribeResponse(node=self.archive.name)

    async def Search(self, request, context):  # noqa: N802 - name of the wire
        self.asked.append(request)
        if request.sealed_query:
            head = SignedTreeHead(head=b"a head")
            return archive.ArchiveServiceSearchResponse(sealed_answer=self.sealed, audit_head=head)
        self.askers.append(b"".join(context.auth_context()["x509_pem_cert"]))
        if asyncio.iscoroutine(waiting := self.before()):
            await waiting
        envelope = QueryEnvelope.FromString(request.query.envelope)
        from rsfed.merging.answers import Question

        width = BITS // 8
        codes = [int.from_bytes(envelope.codes[i : i + width], "big") for i in range(0, len(envelope.codes), width)]
        asked = Question(envelope.query_id, envelope.release_digest, BITS, len(codes), envelope.k)
        response = self.archive.response(codes, asked)
        self.spoil(response)
        return response

    async def RequestAccess(self, request, context):  # noqa: N802 - name of the wire
        self.asked.append(request)
        self.before()
        head = SignedTreeHead(head=b"a head")
        return archive.ArchiveServiceRequestAccessResponse(sealed_answer=self.sealed, audit_head=head)

    async def CollectAccess(self, request, context):  # noqa: N802 - name of the wire
        self.asked.append(request)
        for part in self.parts:
            head = SignedTreeHead(head=b"a head")
            yield archive.ArchiveServiceCollectAccessResponse(chunk=part, audit_head=head)

    async def ExpandBucket(self, request, context):  # noqa: N802 - name of the wire
        if request.sealed_request:
            self.asked.append(request)
            return archive.ArchiveServiceExpandBucketResponse(sealed_answer=self.sealed)
        return archive.ArchiveServiceExpandBucketResponse(size=3, item_handles=b"x" * 16 * min(1, request.limit))

    @asynccontextmanager
    async def serving(self, address: str = "127.0.0.1:0"):
        server = make_server(Port.NODE, trust=lambda: self.identity.bundle)
        add_ArchiveServiceServicer_to_server(self, server)
        port = bind(server, address, server_credentials(lambda: self.identity))
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


def own_identity(federation: Founded) -> Identity:
    return load_identity(federation.home.identity)


def member(name: str, role: Role = Role.NODE) -> MemberId:
    return MemberId("alps", role, name)
