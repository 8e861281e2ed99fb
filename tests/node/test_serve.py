"""A running node: starts in any order with its coordinator, follows releases and trust, stops cleanly."""

import asyncio
import json
import os
import signal
import sqlite3
import stat
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from borders import BOXES, borders
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from members import World, sign
from serving import Asker, add_patches, disclose, join, listening, make_home

import node.indexing
import node.membership
import node.search
import node.serve
import node.uplink
from node.serve import NodeServer
from node.state import open_state
from rsfed.clock import Deadline
from rsfed.config import NodeConfig, load_config
from rsfed.errors import ConfigError, NotAdmitted, RsfedError, StateError, TrainingError, WithheldByPolicy
from rsfed.privacy.counts import noisy
from rsfed.telemetry import log
from rsfed.transport.channel import call, open_channel, open_control_channel
from rsfed.transport.server import current_member, make_server
from rsfed.trust import enrolment
from rsfed.trust.access import Port
from rsfed.trust.audit_head import verify_head
from rsfed.trust.audit_log import read_entries
from rsfed.trust.catalogue import open_catalogue
from rsfed.trust.certificates import issue_leaf, to_der
from rsfed.trust.identity import load_identity
from rsfed.trust.manifest import CodebookEntry
from rsfed.trust.names import Role
from rsfed.trust.release_store import ReleaseStore
from rsfed.v1 import archive_pb2, control_pb2, federation_pb2, federation_pb2_grpc
from rsfed.v1.archive_pb2_grpc import ArchiveServiceStub
from rsfed.v1.control_pb2_grpc import ControlServiceStub
from rsfed.v1.envelope_pb2 import BoundingBox, QueryFilter
from rsfed.wire import DEGREE, NO_FOOTPRINT

PATIENCE_S = 30.0


class Coordinator(federation_pb2_grpc.FederationServiceServicer):
    """A coordinator that says what a test wants it to say."""

    def __init__(self, world):
        self.world, self.release, self.heard, self.offered, self.polled = world, None, [], 0, 0
        self.skew, self.nonsense, self.refusal = timedelta(), False, None

    @asynccontextmanager
    async def listening(self, address=None):
        server = make_server(Port.FEDERATION, trust=self.world.bundle, now=self.world.clock)
        federation_pb2_grpc.add_FederationServiceServicer_to_server(self, server)
        identity = self.world.identity(Role.COORDINATOR)
        async with listening(server, identity, address or "127.0.0.1:0") as actual:
            yield actual

    async def Announce(self, request, context):  # noqa: N802 - named by the wire
        assert current_member().name == "berne"
        self.heard.append(request)
        if self.refusal:
            raise self.refusal
        answer = federation_pb2.FederationServiceAnnounceResponse(bundle_version=self.world.version)
        answer.clock.FromDatetime(self.world.clock() + self.skew)
        if self.nonsense:
            answer.clock.seconds = 2**62
        if self.release:
            answer.release_version = self.release.manifest.version
            answer.release_digest = self.release.digest
        return answer

    async def GetTrustBundle(self, request, context):  # noqa: N802 - named by the wire
        self.polled += 1
        answer = federation_pb2.FederationServiceGetTrustBundleResponse()
        if request.have_version != self.world.version:
            answer.bundle.CopyFrom(self.world.signed_bundle())
        return answer

    async def GetRelease(self, request, context):  # noqa: N802 - named by the wire
        self.offered += 1
        yield federation_pb2.FederationServiceGetReleaseResponse(header=self.release.header)
        yield federation_pb2.FederationServiceGetReleaseResponse(chunk=self.release.weights)

    async def Renew(self, request, context):  # noqa: N802 - named by the wire
        ca = self.world.cas[0]
        leaf = issue_leaf(ca.key, ca.cert, request.csr, current_member(), now=self.world.clock())
        return federation_pb2.FederationServiceRenewResponse(
            certificate_chain=[to_der(leaf), to_der(ca.cert)], bundle=self.world.signed_bundle()
        )


class Encoder:
    """Codes are all alike, so that every patch is found."""

    def encode(self, contents):
        return np.zeros((len(list(contents)), 4), np.uint8)


class Scene:
    """A node's home in a federation whose coordinator may or may not be there."""

    def __init__(self, folder):
        self.world = World()
        self.coordinator = Coordinator(self.world)
        self.home = make_home(folder)
        disclose(self.home)
        self.ids = add_patches(self.home, 20)

    def join(self, address, **when):
        join(self.world, self.home, "berne", address, **when)

    @asynccontextmanager
    async def node(self):
        """A running node."""
        server = NodeServer(
            self.home,
            load_config(NodeConfig, self.home.path),
            now=self.world.clock,
            make_encoder=lambda release, encoder_id: Encoder(),
        )
        stop = asyncio.Event()
        running = asyncio.create_task(server.run(stop))
        try:
            await self.until(lambda: server.port or running.done())
            yield server
        finally:
            stop.set()
            await asyncio.wait_for(running, PATIENCE_S)

    @asynccontextmanager
    async def asked_by_coordinator(self, server):
        identity = self.world.identity(Role.COORDINATOR)
        expected = self.world.member(Role.NODE, "berne")
        async with open_channel(f"127.0.0.1:{server.port}", identity, expected) as channel:
            yield channel

    async def status(self):
        async with open_control_channel(self.home.control_socket) as channel:
            request = control_pb2.ControlServiceStatusRequest()
            return await call(ControlServiceStub(channel).Status, request, Deadline.after(PATIENCE_S), what="serve")

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - conditions of many parts, none of which has an event
                await asyncio.sleep(0.01)

    def announced(self):
        return self.coordinator.heard[-1].release_version if self.coordinator.heard else None


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(node.indexing, "POLL_S", 0.02)
    for name in ("ANNOUNCE_S", "FIRST_PAUSE_S"):
        monkeypatch.setattr(node.uplink, name, 0.05)
    monkeypatch.setattr(node.membership, "POLL_S", 0.05)
    monkeypatch.setattr(node.membership, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr("rsfed.raster.reader.read_many", lambda items, spec: ((item, {}) for item in items))


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path / "n")


async def health(channel):
    request = health_pb2.HealthCheckRequest()
    answer = await call(health_pb2_grpc.HealthStub(channel).Check, request, Deadline.after(PATIENCE_S), what="the node")
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def search(channel, release, asker, k=3, **how):
    signed = asker.ask(release, np.zeros((1, 4), np.uint8), k=k, **how)
    request = archive_pb2.ArchiveServiceSearchRequest(query=signed, remaining_ms=20_000)
    return await call(ArchiveServiceStub(channel).Search, request, Deadline.after(PATIENCE_S), what="the node")


async def test_a_node_fetches_the_release_indexes_it_announces_it_and_answers(scene):
    scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: scene.announced() == 1)
            assert await health(channel) == "SERVING"
            answer = await search(channel, scene.coordinator.release, Asker(scene.world))
            assert answer.answers[0].examined == 20
            heard = scene.coordinator.heard[-1]
            assert (heard.held, heard.release_digest) == (20, scene.coordinator.release.digest)
            status = await scene.status()
            assert (status.state, status.indexed, status.release_version) == ("serving", 20, 1)
            assert (status.role, status.name, status.connected, status.pending) == ("node", "berne", True, 0)


async def test_a_node_that_starts_first_waits_for_its_coordinator(scene):
    async with scene.coordinator.listening() as address:
        scene.join(address)
    async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
        assert await health(channel) == "NOT_SERVING"
        assert (await scene.status()).connected is False
        scene.coordinator.release = scene.world.release(1)
        async with scene.coordinator.listening(address):
            await scene.until(lambda: scene.announced() == 1)
            assert await health(channel) == "SERVING"


async def test_a_node_goes_on_answering_while_the_coordinator_is_away(scene):
    release = scene.coordinator.release = scene.world.release(1)
    async with AsyncExitStack() as stack:
        async with scene.coordinator.listening() as address:
            scene.join(address)
            server = await stack.enter_async_context(scene.node())
            await scene.until(lambda: scene.announced() == 1)
        channel = await stack.enter_async_context(scene.asked_by_coordinator(server))
        assert (await search(channel, release, Asker(scene.world))).answers[0].examined == 20
        scene.world.clock.move(hours=25)
        with pytest.raises(NotAdmitted) as refused:
            await search(channel, release, Asker(scene.world))
        assert refused.value.reason == "REVOCATION_STALE"


async def test_a_new_release_replaces_the_old_one_and_a_rollback_does_not(scene):
    scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: scene.announced() == 1)
            newer = scene.coordinator.release = scene.world.release(2)
            await scene.until(lambda: scene.announced() == 2)
            offered, heard = scene.coordinator.offered, len(scene.coordinator.heard)
            scene.coordinator.release = scene.world.release(1)
            await scene.until(lambda: len(scene.coordinator.heard) > heard + 5)
            assert scene.coordinator.offered == offered + 1  # refused once, not asked for again
            assert scene.announced() == 2
            assert (await search(channel, newer, Asker(scene.world))).answers[0].examined == 20


async def test_the_audit_log_of_a_running_node_tells_of_releases_answers_and_calls_that_nobody_may_make(scene):
    release = scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: scene.announced() == 1)
            await search(channel, release, Asker(scene.world))
            answer = await search(channel, release, Asker(scene.world))
            stranger, berne = scene.world.identity(Role.ANALYST, "eve"), scene.world.member(Role.NODE, "berne")
            async with open_channel(f"127.0.0.1:{server.port}", stranger, berne) as other:
                with pytest.raises(NotAdmitted):
                    await search(other, release, Asker(scene.world, "eve"))
            rolled_back = scene.coordinator.release = scene.world.release(1, weights=b"others")
            await scene.until(lambda: "release.refused" in kinds(scene.home))
            head = verify_head(answer.audit_head, scene.world.bundle().cas)
    entries = [json.loads(entry) for entry in read_entries(scene.home.audit)]
    assert [entry["kind"] for entry in entries] == [
        "log.started", "release.served", "query.answered", "query.answered", "call.refused", "release.refused"
    ]  # fmt: skip
    assert (head.signer.name, head.position.size) == ("berne", 4)
    assert (entries[1]["release"], entries[1]["version"]) == (release.digest.hex(), 1)
    assert (entries[4]["reason"], "caller" in entries[4]) == ("WRONG_ROLE", True)
    assert (entries[5]["release"], entries[5]["reason"]) == (rolled_back.digest.hex(), "RELEASE_ROLLBACK")
    path = scene.home.audit / "log.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))  # an older one, before the answers
    with pytest.raises(StateError) as refused:
        async with scene.node():
            pass
    assert refused.value.reason == "AUDIT_OLDER"


def kinds(home):
    return [json.loads(entry)["kind"] for entry in read_entries(home.audit)]


async def test_a_release_that_was_signed_anew_by_a_new_key_is_looked_at_again(scene):
    release = scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node():
            await scene.until(lambda: scene.announced() == 1)
            scene.world.release_key = Ed25519PrivateKey.generate()
            header = sign(release.header.manifest, scene.world.release_key)
            scene.coordinator.release = replace(release, header=header)
            scene.world.version += 1
            await scene.until(lambda: ReleaseStore(scene.home.releases).current().header == header)


async def test_a_revocation_arrives_with_the_next_announcement(scene, monkeypatch):
    monkeypatch.setattr(node.membership, "POLL_S", 3600.0)
    release = scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: scene.announced() == 1)
            await search(channel, release, Asker(scene.world))
            scene.world.revoked_names.append("spiffe://alps/analyst/ada")
            scene.world.version += 1
            await scene.until(lambda: server._membership.bundle().version == 2)
            with pytest.raises(NotAdmitted) as refused:
                await search(channel, release, Asker(scene.world))
            assert refused.value.reason == "REVOKED"


@pytest.mark.parametrize(("days_ago", "due"), [(19.9, False), (20.1, True)])
async def test_the_certificate_is_renewed_after_two_thirds_of_its_life(scene, days_ago, due):
    async with scene.coordinator.listening() as address:
        scene.join(address, days_ago=days_ago)
        before = load_identity(scene.home.identity).chain[0]
        async with scene.node() as server:
            await scene.until(lambda: scene.coordinator.polled > 2)
            in_use = server._membership.identity().chain[0]
            assert (in_use != before) is due
            assert load_identity(scene.home.identity).chain[0] == in_use
            heard = len(scene.coordinator.heard)
            await scene.until(lambda: len(scene.coordinator.heard) > heard + 2)


async def test_an_expired_certificate_is_recovered(scene, monkeypatch):
    recovered = []

    async def recover(home, identity, *, now):
        recovered.append(identity.member.name)
        return join(scene.world, home, "berne", address)

    monkeypatch.setattr(enrolment, "recover", recover)
    async with scene.coordinator.listening() as address:
        scene.join(address, days_ago=31)
        async with scene.node():
            await scene.until(lambda: recovered and scene.coordinator.heard)
    assert recovered == ["berne"]


async def test_clocks_that_are_too_far_apart_are_reported(scene, monkeypatch):
    lines = []
    monkeypatch.setattr(log, "error", lambda event, **fields: lines.append((event, fields)), raising=False)
    scene.coordinator.skew = timedelta(seconds=90)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node():
            await scene.until(lambda: len(scene.coordinator.heard) > 3)
    assert [fields for event, fields in lines if event == "clock.skewed"] == [
        {"reason": "CLOCK_SKEW", "seconds": -90.0}
    ]


async def test_a_coordinator_that_answers_nonsense_does_not_end_the_node(scene, monkeypatch):
    lines = []
    monkeypatch.setattr(log, "info", lambda event, **fields: lines.append((event, fields.get("reason"))), raising=False)
    scene.coordinator.nonsense = True
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server:
            await scene.until(lambda: len(scene.coordinator.heard) > 2)
            assert not server._uplink.connected
            scene.coordinator.nonsense = False
            await scene.until(lambda: server._uplink.connected)
    assert ("coordinator.waiting", "INVALID_ANSWER") in lines


async def test_old_releases_that_cannot_be_deleted_do_not_end_the_node(scene, monkeypatch):
    tries = []

    def prune(self, keep=2):
        tries.append(keep)
        raise PermissionError("read-only")

    monkeypatch.setattr("rsfed.trust.release_store.ReleaseStore.prune", prune)
    release = scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: len(tries) > 2)
            assert (await search(channel, release, Asker(scene.world))).answers[0].examined == 20


async def test_a_revoked_node_announces_itself_no_more(scene, monkeypatch):
    monkeypatch.setattr(node.membership, "POLL_S", 3600.0)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server:
            await scene.until(lambda: server._uplink.connected)
            scene.coordinator.refusal = NotAdmitted("revoked", reason="REVOKED")
            await scene.until(lambda: not server._uplink.connected)
            heard = len(scene.coordinator.heard)
            await asyncio.sleep(0.5)
            assert len(scene.coordinator.heard) == heard


async def test_the_log_says_which_policy_level_is_served(scene, capsys):
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node():
            pass
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "node.listening" in line]
    assert [line["policy"] for line in lines] == ["partner"]


async def test_the_control_socket_is_the_owners_and_goes_with_the_process(scene):
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node():
            assert stat.S_IMODE(scene.home.control_socket.stat().st_mode) == 0o600
            late = add_patches(scene.home, 1)
            async with open_control_channel(scene.home.control_socket) as channel:
                notice = control_pb2.ControlServiceNotifyRequest()
                await call(ControlServiceStub(channel).Notify, notice, Deadline.after(PATIENCE_S), what="serve")
            scene.coordinator.release = scene.world.release(1)
            await scene.until(lambda: scene.announced() == 1)
            assert scene.coordinator.heard[-1].held == len(scene.ids + late)
    assert not scene.home.control_socket.exists()


async def test_a_query_in_progress_is_answered_before_the_node_ends(scene, monkeypatch):
    release = scene.coordinator.release = scene.world.release(1)
    begun, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    real = node.search.Searcher.search

    def slow(self, request, deadline):
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(PATIENCE_S)
        return real(self, request, deadline)

    monkeypatch.setattr(node.search.Searcher, "search", slow)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with AsyncExitStack() as stack:
            async with scene.node() as server:
                await scene.until(lambda: scene.announced() == 1)
                channel = await stack.enter_async_context(scene.asked_by_coordinator(server))
                asking = asyncio.create_task(search(channel, release, Asker(scene.world)))
                await begun.wait()
                loop.call_later(0.2, go.set)
            assert (await asking).answers[0].examined == 20


async def test_serve_ends_in_order_on_sigterm(scene):
    scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        running = asyncio.create_task(node.serve.serve(scene.home, load_config(NodeConfig, scene.home.path)))
        await scene.until(lambda: scene.coordinator.heard)
        with pytest.raises(StateError), scene.home.lock():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(running, PATIENCE_S) == 0
        with scene.home.lock():
            pass


def test_without_an_identity_nothing_starts_but_the_policy_level_is_named(tmp_path, capsys, monkeypatch):
    from node.cli.serve import serve as serve_command

    monkeypatch.setattr("rsfed.telemetry.configure_logs", lambda **_: None)  # it would keep this test's stderr
    home = make_home(tmp_path / "n")
    disclose(home)
    with pytest.raises(NotAdmitted) as refused:
        serve_command(home.path)
    assert refused.value.reason == "NOT_JOINED"
    assert "policy level partner: `rsfed node policy explain` says what it gives away" in capsys.readouterr().err


def tell_countries(scene, level):
    toml = scene.home.path / "node.toml"
    chosen = f'level = "{level}"\nfootprints = "country"\ncountries = "borders.geojson"'
    toml.write_text(toml.read_text().replace('level = "partner"', chosen, 1))


@pytest.mark.parametrize("level", ["partner", "guarded"])
async def test_a_node_that_tells_countries_tells_nothing_finer_to_anyone(scene, level):
    tell_countries(scene, level)
    (scene.home.path / "borders.geojson").write_bytes(borders())
    add_patches(scene.home, 20, place=(20.5, 45, 20.6, 45.1))
    with closing(open_state(scene.home)) as connection:
        connection.execute("UPDATE item SET acquisition = 'overpass-' || id")
        connection.execute("UPDATE item SET west = 3, south = 45, east = 4 + id % 9, north = 46 WHERE west IS NULL")
    codebook = [CodebookEntry(class_id=0, code="00000000")]
    scene.coordinator.release = release = scene.world.release(1, codebook=codebook, codebook_reach=4)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: scene.announced() == 1 and (level == "partner" or server._shelf.served.published))
            asker = Asker(scene.world)
            answer = (await search(channel, release, asker, k=64)).answers[0]
            with pytest.raises(RsfedError) as refused:
                await search(channel, release, asker, filter=QueryFilter(bbox=BoundingBox(west=1, east=2)))
    boxes = np.frombuffer(answer.footprints, "<i4").reshape(-1, 4)
    westland = tuple(edge * DEGREE for edge in BOXES[0])
    assert Counter(map(tuple, boxes.tolist())) <= Counter({westland: 20, (NO_FOOTPRINT,) * 4: 20})
    assert westland in map(tuple, boxes.tolist())
    assert refused.value.reason == {"partner": "UNFILTERABLE_BBOX", "guarded": "POLICY"}[level]


@pytest.mark.parametrize("level", ["partner", "guarded", "counts"])
async def test_a_node_does_not_start_without_the_borders_of_the_countries_it_tells(scene, level):
    tell_countries(scene, level)
    scene.join("127.0.0.1:1")
    with pytest.raises(ConfigError, match="is not there; put it into the home"):
        async with scene.node():
            pass


async def test_a_revoked_node_does_not_start(scene):
    scene.world.revoked_names.append("spiffe://alps/node/berne")
    scene.join("127.0.0.1:1")
    with pytest.raises(NotAdmitted) as refused:
        async with scene.node():
            pass
    assert refused.value.reason == "REVOKED"


async def test_a_ledger_that_cannot_be_pruned_does_not_end_the_search(scene, monkeypatch):
    tries = []

    def fail(self, *, now):
        tries.append(now)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(node.serve.Ledger, "prune", fail)
    monkeypatch.setattr(node.serve, "_PRUNE_S", 0.02)
    scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: scene.announced() == 1 and len(tries) > 2)
            answer = await search(channel, scene.coordinator.release, Asker(scene.world))
            assert answer.answers[0].examined == 20


@pytest.mark.parametrize("error", [TrainingError("no memory"), OSError("no disk"), ValueError("a bug")])
async def test_training_that_fails_does_not_end_the_search(scene, monkeypatch, error):
    tries = []

    async def fail(self):
        tries.append(self.busy)
        self.busy = True
        raise error

    monkeypatch.setattr(node.serve.Puller, "run", fail)
    monkeypatch.setattr(node.serve, "_TRAINING_PAUSE_S", 0.05)
    release = scene.coordinator.release = scene.world.release(1)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: scene.announced() == 1 and len(tries) > 2)
            assert (await search(channel, release, Asker(scene.world))).answers[0].examined == 20
    assert not any(tries)


async def test_a_node_at_catalogue_answers_no_query_and_gives_its_catalogue_to_everyone(scene):
    noisy(np.zeros(1, np.int64), most_patches=1, epsilon=0.5)  # OpenDP loads before anybody waits
    toml = scene.home.path / "node.toml"
    toml.write_text(toml.read_text().replace('level = "partner"', 'level = "catalogue"', 1))
    add_patches(scene.home, 20)
    with closing(open_state(scene.home)) as connection:
        connection.execute("UPDATE item SET acquisition = 'overpass-' || id")
    codebook = [CodebookEntry(class_id=0, code="00000000")]
    scene.coordinator.release = release = scene.world.release(1, codebook=codebook, codebook_reach=4)
    async with scene.coordinator.listening() as address:
        scene.join(address)
        async with scene.node() as server, scene.asked_by_coordinator(server) as channel:
            await scene.until(lambda: server._shelf.served and server._shelf.served.catalogue)
            request, stub = archive_pb2.ArchiveServiceGetCatalogueRequest(), ArchiveServiceStub(channel)
            answer = await call(stub.GetCatalogue, request, Deadline.after(PATIENCE_S), what="the node")
            found = open_catalogue(
                answer.chunk, "berne", release.manifest, scene.world.bundle(), now=scene.world.clock()
            )
            assert found.parts["rgb"].middles.tolist() == [[0, 0, 0, 0]]
            assert answer.audit_head.signature
            with pytest.raises(WithheldByPolicy) as refused:
                await search(channel, release, Asker(scene.world))
            assert (refused.value.reason, refused.value.level) == ("POLICY", "catalogue")
            heard = scene.coordinator.heard[-1]
            assert not heard.HasField("held")
    entries = [json.loads(entry) for entry in read_entries(scene.home.audit)]
    kinds = [entry["kind"] for entry in entries]
    assert kinds.index("counts.charged") < kinds.index("catalogue.answered")
    assert [entry["reason"] for entry in entries if entry["kind"] == "query.refused"] == ["NOT_SEARCHED"]
