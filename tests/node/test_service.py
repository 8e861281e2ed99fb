"""ArchiveService over mTLS on loopback: what the coordinator gets, and what everybody else gets."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from members import World
from serving import (
    PARTNER,
    Asker,
    add_patches,
    listening,
    make_auditor,
    make_home,
    make_searcher,
    make_service,
    publish,
    random_codes,
    serve_codes,
)

from rsfed.clock import Deadline
from rsfed.errors import DeadlineExceeded, InvalidMessage, RsfedError, StaleRelease
from rsfed.merging.answers import Question
from rsfed.merging.validate import validate
from rsfed.telemetry import log
from rsfed.transport.channel import call, open_channel
from rsfed.transport.server import make_server
from rsfed.trust.access import Port
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1 import outcome_pb2
from rsfed.v1.archive_pb2_grpc import ArchiveServiceStub, add_ArchiveServiceServicer_to_server

CODE = np.zeros((1, 4), np.uint8)


class Scene:
    """A node that serves 300 patches, and an analyst."""

    def __init__(self, folder):
        self.world = World()
        self.home = make_home(folder)
        self.release = publish(self.home, self.world)
        ids = add_patches(self.home, 300)
        self.served = serve_codes(self.home, self.release, ids, random_codes(300))
        self.searcher = make_searcher(self.home, self.world, self.served)
        self.auditor = make_auditor(self.home, self.world)
        self.asker = Asker(self.world)

    @asynccontextmanager
    async def stub(self, role=Role.COORDINATOR, name=""):
        """The node as seen by a member."""
        node = self.world.identity(Role.NODE, "berne")
        service = make_service(self.home, self.world, self.searcher, self.auditor, PARTNER, node)
        server = make_server(Port.NODE, trust=self.world.bundle, now=self.world.clock)
        add_ArchiveServiceServicer_to_server(service, server)
        async with (
            listening(server, node) as address,
            open_channel(address, self.world.identity(role, name), node.member) as channel,
        ):
            yield ArchiveServiceStub(channel)
        await service.close()

    def ask(self, **changes):
        return self.asker.ask(self.release, CODE, **changes)


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path / "node")


async def search(stub, signed, *, seconds=20.0, remaining_ms=20_000):
    request = pb.ArchiveServiceSearchRequest(query=signed, remaining_ms=remaining_ms)
    return await call(stub.Search, request, Deadline.after(seconds), what="the node")


async def test_the_coordinator_gets_an_answer_that_passes_its_validation(scene):
    async with scene.stub() as stub:
        answer = await search(stub, scene.ask(k=7))
    question = Question(answer.query_id, scene.release.digest, 32, 1, 7)
    validated = validate(answer, question)
    assert (validated.examined, validated.held, validated.level) == (300, 300, outcome_pb2.POLICY_LEVEL_PARTNER)
    assert len(validated.columns[0].item_handles) == 7


async def test_a_replayed_query_is_refused_by_name(scene):
    signed = scene.ask()
    async with scene.stub() as stub:
        await search(stub, signed)
        with pytest.raises(RsfedError) as refused:
            await search(stub, signed)
    assert (refused.value.reason, type(refused.value).__name__) == ("REPLAY", "EnvelopeRefused")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"release_digest": b"x" * 32}, "STALE_RELEASE"),
        ({"encoder": "other"}, "ENCODER_UNKNOWN"),
        ({"federation": "other"}, "WRONG_FEDERATION"),
        ({"query_id": b"short"}, "INVALID_MESSAGE"),
    ],
)
async def test_each_refusal_reaches_the_coordinator_with_its_reason(scene, changes, reason):
    async with scene.stub() as stub:
        with pytest.raises(RsfedError) as refused:
            await search(stub, scene.ask(**changes))
    assert refused.value.reason == reason


async def test_codes_of_another_width_are_refused(scene):
    async with scene.stub() as stub:
        with pytest.raises(RsfedError) as refused:
            await search(stub, scene.asker.ask(scene.release, np.zeros((1, 9), np.uint8)))
    assert refused.value.reason == "CODE_WIDTH"


@pytest.mark.parametrize(("role", "name"), [(Role.ANALYST, "ada"), (Role.NODE, "basel"), (Role.NODE, "berne")])
async def test_only_the_coordinator_may_call(scene, role, name):
    async with scene.stub(role, name) as stub:
        with pytest.raises(RsfedError) as refused:
            await search(stub, scene.ask())
    assert refused.value.reason == "WRONG_ROLE"


async def test_an_empty_request_is_refused_without_an_internal_error(scene):
    async with scene.stub() as stub:
        with pytest.raises(RsfedError) as refused:
            await search(stub, None)
    assert refused.value.reason == "BAD_CERTIFICATE"


async def test_a_query_whose_time_is_over_is_not_searched(scene):
    signed = scene.ask()
    async with scene.stub() as stub:
        with pytest.raises(DeadlineExceeded):
            await search(stub, signed, remaining_ms=0)
        await search(stub, signed)


async def test_pages_of_a_bucket_come_over_the_wire(scene):
    signed = scene.ask(k=3)
    async with scene.stub() as stub:
        answer = (await search(stub, signed)).answers[0]
        request = pb.ArchiveServiceExpandBucketRequest(
            query=signed, bucket_handle=answer.bucket_handles[:16], offset=0, limit=1000, remaining_ms=20_000
        )
        page = await call(stub.ExpandBucket, request, Deadline.after(20), what="the node")
        request.limit = 1001
        with pytest.raises(InvalidMessage):
            await call(stub.ExpandBucket, request, Deadline.after(20), what="the node")
    assert page.item_handles.startswith(answer.item_handles[:16])
    assert len(page.item_handles) == 16 * page.size


async def test_pages_leave_a_line_in_the_log_as_answers_do(scene, monkeypatch):
    lines = []
    monkeypatch.setattr(log, "info", lambda event, **fields: lines.append((event, fields["query"])), raising=False)
    signed = scene.ask(k=3)
    async with scene.stub() as stub:
        answer = await search(stub, signed)
        request = pb.ArchiveServiceExpandBucketRequest(
            query=signed, bucket_handle=answer.answers[0].bucket_handles[:16], limit=5, remaining_ms=20_000
        )
        await call(stub.ExpandBucket, request, Deadline.after(20), what="the node")
    assert lines == [("query.answered", answer.query_id.hex()), ("bucket.expanded", answer.query_id.hex())]


async def test_after_a_swap_pages_of_the_old_release_are_stale(scene):
    signed = scene.ask(k=3)
    async with scene.stub() as stub:
        answer = (await search(stub, signed)).answers[0]
        newer = publish(scene.home, scene.world, 2)
        scene.searcher.shelf.served = serve_codes(scene.home, newer, [1, 2], np.zeros((2, 4), np.uint8))
        request = pb.ArchiveServiceExpandBucketRequest(
            query=signed, bucket_handle=answer.bucket_handles[:16], limit=5, remaining_ms=20_000
        )
        with pytest.raises(StaleRelease):
            await call(stub.ExpandBucket, request, Deadline.after(20), what="the node")


async def test_queries_during_swaps_are_answered_from_one_release_each(scene):
    """Each release has its own distance, so a mixed answer would show."""
    releases = [scene.release, publish(scene.home, scene.world, 2)]
    ids = list(range(1, 301))
    both = [
        serve_codes(scene.home, release, ids, np.full((300, 4), [0, 0, 0, 2**n - 1], np.uint8))
        for n, release in enumerate(releases, 1)
    ]
    outcomes = []

    async def query(stub, n):
        try:
            answer = await search(stub, scene.asker.ask(releases[n % 2], CODE, k=5))
        except StaleRelease:
            return
        distance = np.frombuffer(answer.answers[0].distance_upper, "<u2").tolist()
        outcomes.append((answer.release_digest == releases[n % 2].digest, distance == [n % 2 + 1]))

    async def swap():
        for n in range(200):
            scene.searcher.shelf.served = both[n % 2]
            await asyncio.sleep(0.001)

    async with scene.stub() as stub:
        swapping = asyncio.create_task(swap())
        for start in range(0, 80, 8):
            await asyncio.gather(*(query(stub, n) for n in range(start, start + 8)))
        await swapping
    assert outcomes
    assert set(outcomes) == {(True, True)}


async def test_a_node_says_what_it_is_and_serves(scene):
    async with scene.stub() as stub:
        described = await call(stub.Describe, pb.ArchiveServiceDescribeRequest(), Deadline.after(20), what="the node")
        assert (described.node, described.release_version, described.held) == ("berne", 1, 300)
        scene.searcher.shelf.served = None
        described = await call(stub.Describe, pb.ArchiveServiceDescribeRequest(), Deadline.after(20), what="the node")
        assert (described.release_digest, described.HasField("held")) == (b"", False)
