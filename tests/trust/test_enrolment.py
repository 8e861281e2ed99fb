"""Joining, renewing, recovering, and hearing what is new, against a coordinator of the wire contract."""

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from members import START, Authority, World, sign

from rsfed.errors import ConfigError, InvalidAnswer, NotAdmitted, ReleaseRefused, RsfedError, Unreachable, UsageError
from rsfed.home import Home
from rsfed.transport.server import bind, current_member, make_server, server_credentials
from rsfed.trust import certificates
from rsfed.trust.access import Port
from rsfed.trust.enrolment import check_not_joined, fetch_release, join, recover, refresh_bundle, renew
from rsfed.trust.identity import load_federation, load_identity
from rsfed.trust.names import MemberId, Role
from rsfed.trust.recovery import verify_recovery
from rsfed.trust.release_store import ReleaseStore
from rsfed.trust.tokens import Token
from rsfed.v1 import federation_pb2 as pb
from rsfed.v1.federation_pb2_grpc import FederationServiceServicer, add_FederationServiceServicer_to_server

SECRET = b"s" * 32


@dataclass
class Coordinator(FederationServiceServicer):
    """A small honest coordinator; tests make it lie by `lie`, a change to the answer."""

    world: World
    address: str = ""
    join_address: str = ""
    lie: object = None
    calls: list = field(default_factory=list)
    release: object = None
    parts: list | None = None
    opening: list = field(default_factory=list)

    def certificate(self, csr, member):
        ca = self.world.cas[0]
        leaf = certificates.issue_leaf(ca.key, ca.cert, csr, member, now=self.world.clock())
        return [certificates.to_der(leaf), certificates.to_der(ca.cert)]

    def told(self, answer):
        self.calls.append(type(answer).__name__)
        return (self.lie(answer) or answer) if self.lie else answer

    async def Enroll(self, request, context):  # noqa: N802
        if request.secret != SECRET:
            raise NotAdmitted("the invitation was used already", reason="TOKEN_USED")
        chain = self.certificate(request.csr, MemberId("alps", Role.NODE, "dlr"))
        return self.told(
            pb.FederationServiceEnrollResponse(
                certificate_chain=chain, bundle=self.world.signed_bundle(), federation_address=self.address
            )
        )

    async def Recover(self, request, context):  # noqa: N802
        member = verify_recovery(request, self.world.bundle(), now=self.world.clock())
        chain = self.certificate(request.csr, member)
        return self.told(
            pb.FederationServiceRecoverResponse(certificate_chain=chain, bundle=self.world.signed_bundle())
        )

    async def Renew(self, request, context):  # noqa: N802
        chain = self.certificate(request.csr, current_member())
        return self.told(pb.FederationServiceRenewResponse(certificate_chain=chain, bundle=self.world.signed_bundle()))

    async def GetTrustBundle(self, request, context):  # noqa: N802
        answer = pb.FederationServiceGetTrustBundleResponse()
        if request.have_version != self.world.version:
            answer.bundle.CopyFrom(self.world.signed_bundle())
        return self.told(answer)

    async def GetRelease(self, request, context):  # noqa: N802
        self.calls.append("GetRelease")
        opening = [pb.FederationServiceGetReleaseResponse(header=self.release.header)] if self.release else self.opening
        for message in opening:
            yield message
        if self.release and request.have_digest != self.release.digest:
            for part in self.parts if self.parts is not None else [self.release.weights]:
                yield pb.FederationServiceGetReleaseResponse(chunk=part)


@asynccontextmanager
async def coordinating(world, **options):
    """Run a coordinator with both ports."""
    coordinator, identity = Coordinator(world, **options), world.identity(Role.COORDINATOR)
    servers = []
    for port in (Port.JOIN, Port.FEDERATION):
        trust = world.bundle if port is Port.FEDERATION else None
        server = make_server(port, trust=trust, now=world.clock)
        add_FederationServiceServicer_to_server(coordinator, server)
        provide = lambda: replace(identity, bundle=world.bundle())  # noqa: E731
        credentials = server_credentials(provide, client_certificates=port is Port.FEDERATION)
        address = f"127.0.0.1:{bind(server, '127.0.0.1:0', credentials)}"
        if port is Port.JOIN:
            coordinator.join_address = address
        else:
            coordinator.address = address
        await server.start()
        servers.append(server)
    try:
        yield coordinator
    finally:
        await asyncio.gather(*(server.stop(0) for server in servers))


def token(world, coordinator, **changes):
    fields = {
        "address": coordinator.join_address,
        "server_name": world.member(Role.COORDINATOR).dns,
        "ca_pem": certificates.to_pem([ca.cert for ca in world.cas]),
        "federation": "alps",
        "role": Role.NODE,
        "name": "dlr",
        "invitation": "1",
        "secret": SECRET,
        "expires": START + timedelta(days=1),
    }
    return Token(**{**fields, **changes})


@pytest.fixture
def world():
    return World()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


async def joined(world, home, coordinator):
    return await join(home, token(world, coordinator), role=Role.NODE, now=world.clock)


def files(home):
    return {p.name: p.read_bytes() for p in home.identity.iterdir()} if home.identity.exists() else {}


async def refusal(awaitable, kind=RsfedError):
    with pytest.raises(kind) as caught:
        await awaitable
    return caught.value.reason


# Joining


async def test_a_newcomer_is_taken_in_and_knows_all_it_needs(world, home):
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        assert identity.member == MemberId("alps", Role.NODE, "dlr")
        again = load_identity(home.identity)
        assert again.chain == identity.chain
        assert again.bundle.refreshed == START
        federation = load_federation(home.identity)
        assert federation.address == coordinator.address
        assert federation.join_address == coordinator.join_address
        assert federation.coordinator == world.member(Role.COORDINATOR)
        assert await refresh_bundle(home, identity, now=world.clock) is False


async def test_no_second_token_is_spent_on_a_membership_that_holds(world, home):
    async with coordinating(world) as coordinator:
        invitation = token(world, coordinator)
        await check_not_joined(home, invitation, following="x", now=world.clock)
        await joined(world, home, coordinator)
        with pytest.raises(ConfigError, match="has joined alps as node dlr already; next: serve") as refused:
            await check_not_joined(home, invitation, following="serve", now=world.clock)
        assert refused.value.reason == "ALREADY_JOINED"
        other = token(world, coordinator, name="esa")
        await check_not_joined(home, other, following="x", now=world.clock)


async def test_who_was_revoked_or_cannot_ask_may_join_again(world, home):
    async with coordinating(world) as coordinator:
        await joined(world, home, coordinator)
        world.revoked_names.append(world.member(Role.NODE, "dlr").uri)
        world.version += 1
        await check_not_joined(home, token(world, coordinator), following="x", now=world.clock)
    await check_not_joined(home, token(world, coordinator), following="x", now=world.clock)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"role": Role.ANALYST}, "WRONG_ROLE"),
        ({"expires": START}, "TOKEN_EXPIRED"),
        ({"secret": b"guessed"}, "TOKEN_USED"),
        ({"ca_pem": certificates.to_pem([Authority.new().cert])}, "UNREACHABLE"),
        ({"server_name": "other.coordinator.alps.rsfed.internal"}, "UNREACHABLE"),
        ({"federation": "andes"}, "WRONG_FEDERATION"),
        ({"name": "esa"}, "BAD_NAME"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_a_token_that_does_not_fit_changes_nothing(world, home, changes, reason):
    async with coordinating(world) as coordinator:
        bad = token(world, coordinator, **changes)
        assert await refusal(join(home, bad, role=Role.NODE, now=world.clock)) == reason
        assert not {"identity.pem", "bundle.binpb", "federation.json"} & set(files(home))


async def test_a_newcomer_whose_clock_is_far_behind_is_told_so(world, home):
    async with coordinating(world) as coordinator:
        invitation = token(world, coordinator)
        joining = join(home, invitation, role=Role.NODE, now=lambda: START - timedelta(days=2))
        with pytest.raises(NotAdmitted, match="clock") as caught:
            await joining
        assert caught.value.reason == "CERT_NOT_YET_VALID"


async def test_a_failed_second_join_leaves_the_first_identity(world, home):
    async with coordinating(world) as coordinator:
        await joined(world, home, coordinator)
        before = files(home)
        bad = token(world, coordinator, secret=b"used")
        assert await refusal(join(home, bad, role=Role.NODE, now=world.clock), NotAdmitted) == "TOKEN_USED"
        assert before.items() <= files(home).items()


async def test_a_home_belongs_to_one_federation(world, home):
    async with coordinating(world) as coordinator:
        await joined(world, home, coordinator)
        other = token(world, coordinator, federation="andes")
        assert await refusal(join(home, other, role=Role.NODE, now=world.clock), UsageError) == "USAGE"


async def test_joining_again_with_a_new_token_replaces_the_identity(world, home):
    async with coordinating(world) as coordinator:
        first = await joined(world, home, coordinator)
        second = await joined(world, home, coordinator)
        assert second.member == first.member
        assert second.chain[0] != first.chain[0]


@pytest.mark.parametrize("name", ["identity.pem", "bundle.binpb", "bundle.checked", "sealing-key.pem", "next-key.pem"])
async def test_joining_again_is_the_way_out_of_a_damaged_identity(world, home, name):
    async with coordinating(world) as coordinator:
        await joined(world, home, coordinator)
        (home.identity / name).write_bytes(b"damaged")
        assert (await joined(world, home, coordinator)).member == world.member(Role.NODE, "dlr")
        load_identity(home.identity)


async def test_a_home_with_a_damaged_identity_still_belongs_to_its_federation(world, home):
    async with coordinating(world) as coordinator:
        await joined(world, home, coordinator)
        (home.identity / "identity.pem").write_bytes(b"damaged")
        other = token(world, coordinator, federation="andes")
        assert await refusal(join(home, other, role=Role.NODE, now=world.clock), UsageError) == "USAGE"


LIES = {
    "no certificate": (lambda world: lambda a: a.ClearField("certificate_chain"), "BAD_CERTIFICATE"),
    "a stranger's CA": (
        lambda world: (
            lambda a: a.certificate_chain.__setitem__(
                0, certificates.to_der(world.identity(Role.NODE, "dlr", ca=Authority.new()).chain[0])
            )
        ),
        "WRONG_CA",
    ),
    "another key": (
        lambda world: (
            lambda a: a.certificate_chain.__setitem__(0, certificates.to_der(world.identity(Role.NODE, "dlr").chain[0]))
        ),
        "KEY_MISMATCH",
    ),
    "another role": (
        lambda world: (
            lambda a: a.certificate_chain.__setitem__(
                0, certificates.to_der(world.identity(Role.ANALYST, "dlr").chain[0])
            )
        ),
        "BAD_NAME",
    ),
    "no bundle": (lambda world: lambda a: a.ClearField("bundle"), "BUNDLE_SIGNATURE"),
    "a bundle of a stranger": (
        lambda world: lambda a: a.bundle.CopyFrom(World().signed_bundle()),
        "BUNDLE_SIGNATURE",
    ),
    "an expired bundle": (
        lambda world: lambda a: a.bundle.CopyFrom(world.signed_bundle(expires=START)),
        "BUNDLE_EXPIRED",
    ),
}


@pytest.mark.parametrize(("lie", "reason"), LIES.values(), ids=LIES)
async def test_what_the_coordinator_answers_is_believed_only_when_it_fits(world, home, lie, reason):
    async with coordinating(world, lie=lie(world)) as coordinator:
        assert await refusal(joined(world, home, coordinator)) == reason
        assert "identity.pem" not in files(home)


# Staying believed


async def test_a_renewal_brings_a_new_key_and_certificate(world, home):
    async with coordinating(world) as coordinator:
        before = await joined(world, home, coordinator)
        world.clock.move(days=20)
        world.version = 2
        assert certificates.needs_renewal(before.chain[0], now=world.clock())
        after = await renew(home, before, now=world.clock)
        assert after.member == before.member
        assert after.key.public_key() != before.key.public_key()
        assert not certificates.needs_renewal(after.chain[0], now=world.clock())
        assert load_identity(home.identity).chain == after.chain


@pytest.mark.parametrize(("lie", "reason"), LIES.values(), ids=LIES)
async def test_a_renewal_that_does_not_fit_leaves_the_old_certificate(world, home, lie, reason):
    async with coordinating(world) as coordinator:
        before = await joined(world, home, coordinator)
        coordinator.lie = lie(world)
        assert await refusal(renew(home, before, now=world.clock)) == reason
        assert load_identity(home.identity).chain == before.chain


async def test_an_expired_member_recovers_by_its_old_key(world, home):
    async with coordinating(world) as coordinator:
        before = await joined(world, home, coordinator)
        world.clock.move(days=31)
        world.version = 2
        assert await refusal(renew(home, before, now=world.clock), NotAdmitted) == "CERT_EXPIRED"
        after = await recover(home, before, now=world.clock)
        assert after.member == before.member
        assert after.key.public_key() != before.key.public_key()
        assert after.bundle.version == 2
        world.clock.move(days=61)
        assert await refusal(recover(home, before, now=world.clock), NotAdmitted) == "CERT_EXPIRED"


async def test_nothing_is_sent_with_a_certificate_that_will_not_do(world, home):
    """The preflight speaks before the connection: one reason, no try, no retry."""
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        coordinator.calls.clear()
        serial = frozenset({identity.chain[0].serial_number})
        revoked = replace(identity, bundle=replace(identity.bundle, revoked_serials=serial))
        coordinator.release = world.release()
        for action in (renew, refresh_bundle, fetch_release):
            assert await refusal(action(home, revoked, now=world.clock), NotAdmitted) == "REVOKED"
        assert coordinator.calls == []


async def test_a_coordinator_that_is_away_is_unreachable(world, home):
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
    before = files(home)
    for action in (renew, refresh_bundle, fetch_release, recover):
        assert await refusal(action(home, identity, now=world.clock), Unreachable) == "UNREACHABLE"
    assert before.items() <= files(home).items()


# What is new


async def test_a_newer_bundle_is_kept_and_the_time_of_asking_noted(world, home):
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        world.clock.move(hours=1)
        assert await refresh_bundle(home, identity, now=world.clock) is False
        assert load_identity(home.identity).bundle.refreshed == world.clock()
        world.version, world.revoked_serials = 2, [77]
        world.clock.move(hours=1)
        assert await refresh_bundle(home, identity, now=world.clock) is True
        bundle = load_identity(home.identity).bundle
        assert bundle.version == 2
        assert bundle.revoked_serials == {77}
        assert bundle.refreshed == world.clock()


async def test_a_rolled_back_bundle_is_refused_and_does_not_count_as_news(world, home):
    world.version = 5
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        world.version = 4
        world.clock.move(hours=1)
        assert await refusal(refresh_bundle(home, identity, now=world.clock), NotAdmitted) == "BUNDLE_ROLLBACK"
        bundle = load_identity(home.identity).bundle
        assert bundle.version == 5
        assert bundle.refreshed == START


async def test_a_changed_ca_is_learnt_from_the_bundle_that_both_keys_signed(world, home):
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        world.cas, world.version = [Authority.new(), *world.cas], 2
        assert await refresh_bundle(home, identity, now=world.clock) is True
        moved = await renew(home, load_identity(home.identity), now=world.clock)
        assert certificates.is_issued_by(moved.chain[0], world.cas[0].cert)
        assert await refresh_bundle(home, moved, now=world.clock) is False


async def test_the_newest_release_is_fetched_once(world, home):
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        coordinator.release = world.release(1)
        first = await fetch_release(home, identity, now=world.clock)
        assert first.weights("rgb").read_bytes() == coordinator.release.weights
        assert await fetch_release(home, identity, now=world.clock) is None
        coordinator.release = world.release(2)
        coordinator.parts = [coordinator.release.weights[:100], b"", coordinator.release.weights[100:]]
        assert (await fetch_release(home, identity, now=world.clock)).manifest.version == 2
        assert ReleaseStore(home.releases).current().manifest.version == 2


async def test_a_coordinator_that_serves_a_worse_release_is_refused_and_the_current_one_stays(world, home):
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        coordinator.release = world.release(5)
        await fetch_release(home, identity, now=world.clock)
        good = world.release(6)
        flipped = bytearray(good.header.manifest)
        flipped[40] ^= 1
        forged = replace(good, header=pb.ReleaseHeader(manifest=bytes(flipped), signature=good.header.signature))
        forged.header.key_id = good.header.key_id
        for release, parts, reason in (
            (world.release(4), None, "RELEASE_ROLLBACK"),
            (world.release(5, metrics={"x": 1.0}), None, "RELEASE_ROLLBACK"),
            (world.release(6, expires=START), None, "RELEASE_EXPIRED"),
            (forged, None, "RELEASE_SIGNATURE"),
            (good, [world.release(5).weights], "RELEASE_DIGEST"),
            (good, [good.weights[:-1]], "RELEASE_DIGEST"),
            (good, [good.weights, b"more"], "RELEASE_DIGEST"),
            (good, [], "RELEASE_DIGEST"),
        ):
            coordinator.release, coordinator.parts = release, parts
            assert await refusal(fetch_release(home, identity, now=world.clock), ReleaseRefused) == reason
            assert ReleaseStore(home.releases).current().manifest.version == 5
        assert not list(home.releases.glob(".staging-*"))


async def test_a_release_without_its_manifest_is_an_invalid_answer(world, home):
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        for first in ([], [pb.FederationServiceGetReleaseResponse(chunk=b"x")]):
            coordinator.opening = first
            assert await refusal(fetch_release(home, identity, now=world.clock), InvalidAnswer) == "INVALID_ANSWER"


async def test_after_a_change_of_the_release_key_the_versions_before_stay_refused(world, home):
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        coordinator.release = world.release(2)
        await fetch_release(home, identity, now=world.clock)
        reader = ReleaseStore(home.releases)
        assert reader.current().header == coordinator.release.header
        world.release_key = Ed25519PrivateKey.generate()
        world.version = 2
        await refresh_bundle(home, identity, now=world.clock)
        identity = load_identity(home.identity)
        coordinator.release = replace(
            coordinator.release, header=sign(coordinator.release.header.manifest, world.release_key)
        )
        assert await fetch_release(home, identity, now=world.clock) is None
        assert reader.current().header == coordinator.release.header
        coordinator.release = world.release(1)
        assert await refusal(fetch_release(home, identity, now=world.clock), ReleaseRefused) == "RELEASE_ROLLBACK"
        assert ReleaseStore(home.releases).current().manifest.version == 2


async def test_who_is_stopped_in_the_last_step_of_a_fetch_keeps_a_whole_release(world, home, monkeypatch):
    at_work, go_on = threading.Event(), threading.Event()
    commit = ReleaseStore.commit

    def slowly(store, staged, *rest):
        at_work.set()
        go_on.wait(20)
        return commit(store, staged, *rest)

    monkeypatch.setattr(ReleaseStore, "commit", slowly)
    async with coordinating(world) as coordinator:
        identity = await joined(world, home, coordinator)
        coordinator.release = world.release(2)
        fetching = asyncio.create_task(fetch_release(home, identity, now=world.clock))
        await asyncio.to_thread(at_work.wait, 20)
        fetching.cancel()
        await asyncio.sleep(0.1)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert ReleaseStore(home.releases).current().manifest.version == 2
