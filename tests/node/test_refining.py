"""`--private --refine` from an analyst's session to a node and back, through a relay that sees every byte."""

import json
from collections import Counter
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pytest
from archives import SOON
from fake_coordinator import FakeCoordinator, serving
from publications import Publishing
from serving import Asker, listening, make_desk, make_searcher, make_service, serve_codes, withdraw

from node.handles import Handles
from node.keys import handle_key
from node.requests import count_waiting
from node.state import open_state as open_state_of_node
from rsfed.analyst.session import AnalystSession
from rsfed.analyst.state import find, open_state
from rsfed.clock import Deadline
from rsfed.errors import EnvelopeRefused, InvalidMessage, RsfedError, WithheldByPolicy
from rsfed.privacy.policy import Policies
from rsfed.transport.channel import call, open_channel
from rsfed.transport.server import make_server
from rsfed.trust.access import Port
from rsfed.trust.audit_log import read_entries
from rsfed.trust.envelope import ANSWER_STEP, refine_slots
from rsfed.trust.identity import load_identity
from rsfed.trust.names import Role
from rsfed.trust.sealing import Purpose, padded, seal, wrap
from rsfed.v1 import archive_pb2, outcome_pb2, query_pb2
from rsfed.v1.access_pb2 import ACCESS_WANT_QUICKLOOK, AccessAsk, AccessCall
from rsfed.v1.archive_pb2_grpc import ArchiveServiceStub, add_ArchiveServiceServicer_to_server
from rsfed.v1.envelope_pb2 import RefineBuckets

FLOOR = 10


class Relay(FakeCoordinator):
    """Passes on what is asked of the node berne."""

    async def ListNodes(self, request, context):  # noqa: N802 - name of the wire
        nodes = [query_pb2.NodeSummary(name="berne", level=outcome_pb2.POLICY_LEVEL_CATALOGUE)]
        return query_pb2.QueryServiceListNodesResponse(nodes=nodes)

    async def GetCatalogue(self, request, context):  # noqa: N802 - name of the wire
        response = await call(self.node.GetCatalogue, request.request, Deadline.after(SOON), what="it")
        return query_pb2.QueryServiceGetCatalogueResponse(response=response)

    async def Refine(self, request, context):  # noqa: N802 - name of the wire
        request.request.remaining_ms = int(SOON * 1000)
        self.requests.append(request.SerializeToString())
        response = await call(self.node.Refine, request.request, Deadline.after(SOON), what="it")
        self.answers.append(response.sealed_answer)
        return query_pb2.QueryServiceRefineResponse(response=response)


@dataclass
class Scene:
    """A node at a level with 60 acquisitions, published, and what relays to it."""

    archive: Publishing
    relay: Relay
    searcher: object
    analyst_home: object = None

    def entries(self, *kinds):
        found = [json.loads(entry) for entry in read_entries(self.archive.home.audit)]
        return [entry for entry in found if entry["kind"] in kinds]

    def items(self, handles):
        opener = Handles(handle_key(self.archive.home))
        return [opener.open(bytes.fromhex(handle))[0] for handle in handles]

    def serve(self):
        """Serve what is published."""
        archive = self.archive
        exact = serve_codes(archive.home, archive.release, archive.ids, archive.codes)
        self.searcher.shelf.served = replace(exact, catalogue=archive.signed(), bucketed=archive.bucketed())


@pytest.fixture
def scene_at(tmp_path, monkeypatch):
    """Opens a scene at a level."""
    monkeypatch.setattr("node.cataloguing.noisy", lambda counts, **_: counts)  # OpenDP takes seconds to load

    @asynccontextmanager
    async def opened(level="catalogue", analysts=None, answers=500):
        archive = Publishing(tmp_path, "catalogue" if level in {"partner", "guarded"} else level, {"catalogue_days": 1})
        world = archive.world
        world.knows(archive.identity)
        policies = Policies.of(level, analysts or {})
        archive.add(60)
        assert archive.publish()
        searcher = make_searcher(archive.home, world, None, policies=policies)
        relay = Relay(world, [])
        relay.release, relay.answers = world.release(1, **archive.release_fields()), []
        scene = Scene(archive, relay, searcher)
        scene.serve()
        identity = archive.identity
        service = make_service(archive.home, world, searcher, archive.auditor, policies, identity, answers=answers)
        server = make_server(Port.NODE, trust=world.bundle, now=world.clock)
        add_ArchiveServiceServicer_to_server(service, server)
        async with listening(server, identity) as address, serving(relay, tmp_path) as home:
            caller = world.identity(Role.COORDINATOR)
            scene.analyst_home = home
            async with open_channel(address, caller, identity.member) as channel:
                relay.node = ArchiveServiceStub(channel)
                yield scene

    return opened


def ask_for(scene, found):
    """Ask the node's operator for an item, and return how many requests wait."""
    archive, analyst = scene.archive, load_identity(scene.analyst_home.identity)
    now = archive.world.clock()
    archive.world.knows(analyst)
    node = replace(archive.identity, bundle=archive.world.bundle())
    ask = AccessAsk(query_id=found.query_id, handle=found.handle, want=ACCESS_WANT_QUICKLOOK, reason="floods")
    wanted = AccessCall(call_id=b"c" * 16, request_id=b"r" * 16, ask=ask)
    wanted.created.FromDatetime(now)
    wanted.expires.FromDatetime(now + timedelta(minutes=5))
    key = node.sealing_key.public_key().public_bytes_raw()
    content = wanted.SerializeToString()
    sealed = seal(content, Purpose.ACCESS_CALL, sender=analyst, recipient=node.member, key=key)
    with closing(make_desk(archive.home, archive.world, archive.auditor, lambda: node)) as desk:
        assert desk.answer(sealed)
    with closing(open_state_of_node(archive.home)) as connection:
        return count_waiting(connection, now)


async def refined(scene, code, *, count=3):
    async with AnalystSession(scene.analyst_home, now=scene.archive.world.clock) as session:
        reads = await session.catalogues()
        found = await session.refine(np.asarray(code, np.uint8), reads, count=count)
        session.remember(found)
    return reads, found[0]


async def test_items_of_the_nearest_buckets_are_listed_and_can_be_asked_for(scene_at):
    async with scene_at() as scene:
        reads, found = await refined(scene, scene.archive.codes[0])
        assert (found.node, found.reason, found.withheld) == ("berne", "", "NOTHING")
        assert len(found.buckets) == 3
        held = {item: row for row in scene.searcher.shelf.served.bucketed.rows for item in [int(row["id"])]}
        for bucket, handles in zip(found.buckets, found.handles, strict=True):
            rows = [held[item] for item in scene.items(handles)]
            assert {row["bucket"] for row in rows} == {bucket.number}
            assert len({row["acquisition"] for row in rows}) == len(handles) == FLOOR
        with closing(open_state(scene.analyst_home)) as state:
            kept = find(state, found.handles[0][0])
        assert (kept.node, kept.query_id) == ("berne", found.query_id)
        assert ask_for(scene, kept) == 1
        charged, answered = scene.entries("refine.charged", "refine.answered")
        assert charged["query"] == answered["query"]
        assert reads[0].catalogue.parts["rgb"].middles.tobytes() not in b"".join(scene.relay.requests)


async def test_every_message_is_equally_long_and_shows_nothing_of_code_or_buckets(scene_at):
    async with scene_at() as scene:
        for code, count in ((scene.archive.codes[0], 1), (~scene.archive.codes[0], 9), ([1, 2, 3, 4], 16)):
            await refined(scene, code, count=count)
        assert len({len(request) for request in scene.relay.requests}) == 1
        assert max(map(len, scene.relay.answers)) - min(map(len, scene.relay.answers)) < 16  # of the signature alone
        assert len(set(scene.relay.requests)) == 3


async def test_asking_again_lists_others_until_the_budget_is_spent_and_then_the_policy_withholds(scene_at):
    async with scene_at(answers=3) as scene:
        told = Counter()
        for _ in range(3):
            _, found = await refined(scene, scene.archive.codes[0], count=1)
            told.update(scene.items(found.handles[0]))
        assert len(told) > FLOOR
        assert max(told.values()) <= 3
        _, found = await refined(scene, scene.archive.codes[0], count=1)
        assert (found.handles, found.withheld, found.reason) == (((),), "POLICY", "")
        (entry,) = scene.entries("refine.withheld")
        assert entry["reason"] == "REFINE_SPENT"
        _, found = await refined(scene, ~scene.archive.codes[0], count=1)
        assert found.withheld == "NOTHING"


async def test_a_withdrawn_patch_stays_behind_its_bucket_until_the_next_publication(scene_at):
    """A bucket that was answered before and not after would tell that one of its acquisitions went."""
    async with scene_at() as scene:
        await refined(scene, scene.archive.codes[0])
        withdraw(scene.archive.home, scene.archive.ids[:200].tolist())
        _, found = await refined(scene, scene.archive.codes[0])
        assert [len(handles) for handles in found.handles] == [FLOOR] * 3


@pytest.mark.parametrize(
    ("level", "analysts"),
    [("sealed", {}), ("counts", {}), ("partner", {}), ("guarded", {}), ("catalogue", {"ada": "sealed"})],
)
async def test_at_every_other_level_it_is_refused_with_nothing_but_that(scene_at, level, analysts):
    async with scene_at(level, analysts) as scene:
        with pytest.raises(WithheldByPolicy) as refused:
            await asked(scene, RefineBuckets(epoch=1, buckets=refine_slots([0])))
        assert (refused.value.reason, refused.value.level) == ("POLICY", analysts.get("ada", level))
        assert [entry["reason"] for entry in scene.entries("refine.refused")] == ["NOT_REFINED"]


async def asked(scene, refine, **changes):
    """Send a query to the node as an analyst's software of another make might."""
    archive = scene.archive
    fields = {"k": 0, "answer_key": b"k" * 32} | changes
    envelope = Asker(archive.world).ask(archive.release, (), refine=refine, **fields)
    return await sent(scene, envelope)


async def sent(scene, signed):
    archive = scene.archive
    key = archive.identity.sealing_key.public_key().public_bytes_raw()
    content = padded(signed.SerializeToString(), ANSWER_STEP)
    sealed = wrap(content, Purpose.REFINE, recipient=archive.identity.member, key=key)
    request = archive_pb2.ArchiveServiceRefineRequest(sealed_query=sealed, remaining_ms=int(SOON * 1000))
    return await call(scene.relay.node.Refine, request, Deadline.after(SOON), what="it")


@pytest.mark.parametrize(
    ("refine", "changes", "reason"),
    [
        (RefineBuckets(epoch=2, buckets=refine_slots([0])), {}, "CATALOGUE_CHANGED"),
        (RefineBuckets(epoch=1, buckets=refine_slots([999])), {}, "INVALID_MESSAGE"),
        (RefineBuckets(epoch=1, buckets=refine_slots([1, 1])), {}, "INVALID_MESSAGE"),
        (RefineBuckets(epoch=1, buckets=refine_slots([1])[:8]), {}, "INVALID_MESSAGE"),
        (RefineBuckets(epoch=1, buckets=refine_slots([1])), {"k": 5}, "INVALID_MESSAGE"),
        (RefineBuckets(epoch=1, buckets=refine_slots([1])), {"answer_key": b""}, "INVALID_MESSAGE"),
        (RefineBuckets(epoch=1, buckets=refine_slots([1])), {"encoder": "radar"}, "ENCODER_UNKNOWN"),
        (RefineBuckets(epoch=1, buckets=refine_slots([1])), {"release_digest": b"o" * 32}, "STALE_RELEASE"),
    ],
)
async def test_what_does_not_fit_is_refused_noted_and_not_charged(scene_at, refine, changes, reason):
    async with scene_at() as scene:
        with pytest.raises(RsfedError) as refused:
            await asked(scene, refine, **changes)
        assert refused.value.reason == reason
        assert [entry["reason"] for entry in scene.entries("refine.refused")] == [reason]
        assert scene.entries("refine.charged") == []


async def test_a_query_that_was_answered_is_not_answered_again_and_none_is_answered_in_clear(scene_at):
    async with scene_at() as scene:
        asker = Asker(scene.archive.world)
        key = load_identity(scene.analyst_home.identity).sealing_key.public_key().public_bytes_raw()
        fields = {"k": 0, "answer_key": key, "refine": RefineBuckets(epoch=1, buckets=refine_slots([0]))}
        signed = asker.ask(scene.archive.release, (), **fields)
        await sent(scene, signed)
        with pytest.raises(EnvelopeRefused) as refused:
            await sent(scene, signed)
        assert refused.value.reason == "REPLAY"
        assert len(scene.entries("refine.charged")) == 1
        again = asker.ask(scene.archive.release, (), **fields)
        request = archive_pb2.ArchiveServiceSearchRequest(query=again, remaining_ms=int(SOON * 1000))
        with pytest.raises(InvalidMessage):
            await call(scene.relay.node.Search, request, Deadline.after(SOON), what="it")


async def test_a_store_that_cannot_be_believed_refuses_with_policy_and_the_log_says_why(scene_at):
    async with scene_at() as scene:
        with closing(open_state_of_node(scene.archive.home)) as connection:
            connection.execute("INSERT INTO refine_spent VALUES (?, 1, 1, 1, 0)", (scene.archive.release.digest,))
        _, found = await refined(scene, scene.archive.codes[0])
        assert (found.reason, found.handles) == ("POLICY", ())
        assert [entry["reason"] for entry in scene.entries("refine.refused")] == ["REFINE_STORE"]
