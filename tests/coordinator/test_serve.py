"""The coordinator's real servers on loopback, with real certificates."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, closing
from datetime import timedelta

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from founded import SEALING_KEY, FakeNode, free_port, member
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from honest_archives import Archive

from coordinator import audit
from coordinator.authority import Authority
from coordinator.breaker import FAILURES
from coordinator.cli.options import notify_serve
from coordinator.live import Live
from coordinator.releases import kept_releases
from coordinator.serve import _every
from coordinator.state import State
from coordinator.training.engine import Trained
from coordinator.training.runs import make_plan
from rsfed.clock import Deadline
from rsfed.errors import (
    Busy,
    CodeError,
    ConfigError,
    EnvelopeRefused,
    InvalidAnswer,
    InvalidMessage,
    NoNodeReachable,
    NotAdmitted,
    ReleaseRefused,
    RsfedError,
    StaleRelease,
    StateError,
    UnknownHandle,
)
from rsfed.hashing.weights import from_bytes
from rsfed.home import Home
from rsfed.transport.channel import call, open_control_channel, open_join_channel
from rsfed.transport.limits import ANSWER_BYTES
from rsfed.trust.certificates import make_csr
from rsfed.trust.enrolment import fetch_release, refresh_bundle, renew
from rsfed.trust.identity import create_keys, load_identity, save_certificate
from rsfed.trust.manifest import CodebookEntry, FederationClass, Nomenclature, Provenance
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2, control_pb2, federation_pb2, outcome_pb2, query_pb2, training_pb2
from rsfed.v1.control_pb2_grpc import ControlServiceStub
from rsfed.v1.federation_pb2_grpc import FederationServiceStub
from rsfed.v1.query_pb2_grpc import QueryServiceStub
from rsfed.v1.training_pb2_grpc import TrainingServiceStub


@pytest.fixture
async def serving(federation):
    async with federation.serving() as coordinator:
        yield coordinator


class Cast:
    """An analyst and some announced nodes."""

    def __init__(self, federation, folder, stack):
        self.federation, self.folder, self.stack = federation, folder, stack
        self.nodes = {}

    async def analyst(self, name="ada"):
        return await self.federation.join(self.folder, name, Role.ANALYST)

    async def node(self, name, codes=(0, 1, 1), **script):
        identity = await self.federation.join(self.folder, name)
        node = FakeNode(identity, Archive(name, list(codes)), **script)
        self.nodes[name] = node
        address = await self.stack.enter_async_context(node.serving())
        await self.federation.announce(identity, address)
        return node

    async def ask(self, method, request, identity, *, seconds=10):
        async with self.federation.channel(identity) as channel:
            return await call(getattr(QueryServiceStub(channel), method), request, Deadline.after(seconds), what="it")

    async def search(self, analyst, asked=(0,), *, seconds=10, **changes):
        request = query_pb2.QueryServiceSearchRequest(query=self.federation.query(analyst, list(asked), **changes))
        return await self.ask("Search", request, analyst, seconds=seconds)


@pytest.fixture
async def cast(serving, federation, tmp_path):
    async with AsyncExitStack() as stack:
        yield Cast(federation, tmp_path, stack)


def statuses(response):
    names = outcome_pb2.NodeStatus
    return {o.node: names.Name(o.status).removeprefix("NODE_STATUS_") for o in response.outcomes}


def reason(caught):
    return caught.value.reason


def enrol_request(token):
    return federation_pb2.FederationServiceEnrollRequest(
        invitation=token.invitation,
        secret=token.secret,
        csr=make_csr(ec.generate_private_key(ec.SECP256R1())),
        sealing_key=SEALING_KEY,
    )


async def knock(federation, token, times):
    """Enrol many times at once with one token; returns what came of each."""
    async with open_join_channel(federation.config.serve.join_advertise, token.ca_pem, token.server_name) as channel:
        stub = FederationServiceStub(channel)

        async def once():
            try:
                answer = await call(stub.Enroll, enrol_request(token), Deadline.after(20), what="it")
            except RsfedError as error:
                return error.reason
            assert answer.federation_address == federation.config.serve.advertise
            return "admitted"

        return Counter(await asyncio.gather(*(once() for _ in range(times))))


async def test_fifty_at_once_with_one_token_get_one_certificate(federation, serving):
    outcomes = await knock(federation, federation.authority.invite("bern", Role.NODE, hours=1), 50)
    assert outcomes == {"admitted": 1, "TOKEN_USED": 49}


async def test_whoever_knocks_too_often_at_the_join_port_has_to_wait(federation, serving):
    token = federation.authority.invite("bern", Role.NODE, hours=1)
    outcomes = await knock(federation, token, 120)
    assert outcomes["RATE_LIMITED"] > 40
    assert outcomes["admitted"] == 1


async def test_a_joined_member_renews_and_fetches_bundle_and_release(federation, serving, tmp_path):
    identity = await federation.join(tmp_path, "bern")
    home = Home(tmp_path / "bern")
    fetched = await fetch_release(home, identity)
    assert fetched.digest == federation.publisher.current().digest
    assert await fetch_release(home, identity) is None
    fresh = await renew(home, identity)
    assert fresh.chain != identity.chain
    assert not await refresh_bundle(home, fresh)
    federation.authority.invite("graz", Role.NODE, hours=1)
    federation.authority.revoke("graz")
    assert await asyncio.to_thread(notify_serve, federation.home)
    assert await refresh_bundle(home, fresh)


async def test_a_release_that_is_not_kept_is_named_so(federation, cast):
    analyst = await cast.analyst()
    async with federation.channel(analyst) as channel:
        request = federation_pb2.FederationServiceGetReleaseRequest(digest=b"x" * 32)
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in FederationServiceStub(channel).GetRelease(request, timeout=5):
                pass
    with pytest.raises(ReleaseRefused) as caught:
        cast.federation.publisher.current().weights("smell")
    assert reason(caught) == "ENCODER_UNKNOWN"


@pytest.fixture
def soon(monkeypatch):
    """Let a dial-back give up soon."""
    monkeypatch.setattr("coordinator.federation_service._DIAL_BACK_S", 1.0)


async def test_an_announced_node_is_dialled_back_listed_and_online(federation, cast, soon):
    node = await cast.node("bern")
    analyst = await cast.analyst()
    listed = await cast.ask("ListNodes", query_pb2.QueryServiceListNodesRequest(), analyst)
    assert [(n.name, n.online, n.held, n.release_version) for n in listed.nodes] == [("bern", True, 3, 1)]
    assert listed.release_digest == federation.publisher.current().digest
    async with FakeNode(node.identity, Archive("bern", [])).serving() as address:
        answer = await federation.announce(node.identity, address, dial_back=True)
        assert answer.dial_back == federation_pb2.DIAL_BACK_REACHED
        assert answer.release_version == 1
    answer = await federation.announce(node.identity, f"127.0.0.1:{free_port()}", dial_back=True)
    assert answer.dial_back == federation_pb2.DIAL_BACK_FAILED


async def test_a_node_at_anothers_address_is_not_reached(federation, cast, soon):
    graz = await cast.node("graz")
    bern = await cast.federation.join(cast.folder, "bern")
    async with graz.serving() as address:
        answer = await federation.announce(bern, address, dial_back=True)
    assert answer.dial_back == federation_pb2.DIAL_BACK_FAILED


@pytest.mark.parametrize(("seconds", "direction"), [(61, "ahead"), (-61, "behind")])
async def test_a_clock_more_than_a_minute_off_is_refused_with_the_difference(federation, cast, seconds, direction):
    bern = await federation.join(cast.folder, "bern")
    clock = Timestamp()
    clock.FromDatetime(federation.clock() + timedelta(seconds=seconds))
    with pytest.raises(NotAdmitted, match=f"6[01] s {direction}") as caught:
        await federation.announce(bern, "localhost:1", clock=clock)
    assert reason(caught) == "CLOCK_SKEW"
    clock.FromDatetime(federation.clock() + timedelta(seconds=seconds * 0.95))
    await federation.announce(bern, "localhost:1", clock=clock)


async def test_this_protocol_is_spoken_and_others_refused_by_name(federation, cast):
    bern = await federation.join(cast.folder, "bern")
    await federation.announce(bern, "localhost:1", protocol=1)
    for protocol, remedy, name in ((0, "update the node", "OLD"), (2, "update the coordinator", "NEW")):
        with pytest.raises(NotAdmitted, match=remedy) as caught:
            await federation.announce(bern, "localhost:1", protocol=protocol)
        assert reason(caught) == f"PROTOCOL_TOO_{name}"


async def test_a_node_that_moves_again_and_again_has_to_wait(federation, cast):
    bern = await federation.join(cast.folder, "bern")
    for number in range(4):
        await federation.announce(bern, f"localhost:{number + 1}")
    with pytest.raises(Busy):
        await federation.announce(bern, "localhost:9")
    await federation.announce(bern, "localhost:4")


async def test_a_node_that_only_asks_to_be_dialled_keeps_its_announced_holdings(federation, serving, cast, soon):
    bern = await federation.join(cast.folder, "bern")
    address = f"127.0.0.1:{free_port()}"
    await federation.announce(bern, address, held=7)
    await federation.announce(bern, address, held=None, dial_back=True)
    assert serving._live.registry.get("bern").held == 7
    await federation.announce(bern, address, held=None)
    assert serving._live.registry.get("bern").held is None


@pytest.mark.parametrize(
    "changes",
    [{"address": "no port"}, {"level": 0}, {"release_digest": b"short"}, {"software": "a b"}, {"held": 2**60}],
)
async def test_an_announcement_that_breaks_the_rules_is_not_taken(federation, cast, changes):
    bern = await federation.join(cast.folder, "bern")
    with pytest.raises(InvalidMessage):
        await federation.announce(bern, **{"address": "localhost:1"} | changes)
    assert federation.bundle()
    with federation.state.reading() as connection:
        assert connection.execute("SELECT count(*) FROM node").fetchone()[0] == 0


async def test_a_node_that_does_not_serve_may_ask_for_clock_and_news_and_is_not_registered(federation, cast):
    bern = await federation.join(cast.folder, "bern")
    answer = await federation.announce(bern, "", level=0, dial_back=True)
    assert answer.release_version == 1
    assert answer.clock.ToSeconds() > 0
    assert answer.dial_back == federation_pb2.DIAL_BACK_UNSPECIFIED
    with federation.state.reading() as connection:
        assert connection.execute("SELECT count(*) FROM node").fetchone()[0] == 0


async def test_a_search_merges_the_answers_of_all_nodes(cast):
    analyst = await cast.analyst()
    for name, codes in (("bern", [0, 1, 1]), ("graz", [0, 0, 3]), ("lyon", [])):
        await cast.node(name, codes)
    response = await cast.search(analyst, (0, 1), k=4)
    assert statuses(response) == dict.fromkeys(("bern", "graz", "lyon"), "COMPLETE")
    assert response.query_id == bytes(range(16))
    first, second = response.rankings
    assert list(first.nodes) == ["bern", "graz", "lyon"]
    handles = [first.hit_handles[i : i + 16].rstrip(b".").decode() for i in range(0, len(first.hit_handles), 16)]
    assert set(handles[:3]) == {"bern:0", "graz:0", "graz:1"}
    assert handles[3] == "bern:1"
    assert len(second.hit_handles) == 4 * 16


async def test_dead_lying_and_stuck_nodes_leave_the_others_hits_as_they_were(cast):
    analyst = await cast.analyst()
    await cast.node("bern")
    await cast.node("graz")
    before = await cast.search(analyst, query_id=b"a" * 16)
    await cast.node("liar", spoil=lambda r: r.answers[0].ClearField("held"))
    await cast.node("stuck", before=lambda: asyncio.sleep(30))
    dead = await cast.federation.join(cast.folder, "dead")
    await cast.federation.announce(dead, f"127.0.0.1:{free_port()}")
    after = await cast.search(analyst, query_id=b"a" * 16, seconds=2)
    assert statuses(after) == {
        "bern": "COMPLETE",
        "dead": "UNREACHABLE",
        "graz": "COMPLETE",
        "liar": "INVALID",
        "stuck": "TIMED_OUT",
    }
    assert after.rankings == before.rankings


async def test_the_nodes_get_the_query_as_the_analyst_signed_it(cast):
    analyst = await cast.analyst()
    node = await cast.node("bern")
    signed = cast.federation.query(analyst, [0])
    await cast.ask("Search", query_pb2.QueryServiceSearchRequest(query=signed), analyst)
    assert node.asked[0].query == signed
    assert node.asked[0].remaining_ms <= 5000  # the coordinator's own limit


async def test_a_watched_search_tells_every_outcome_and_ends_with_the_ranking(cast):
    analyst = await cast.analyst()
    for name in ("bern", "graz"):
        await cast.node(name)
    signed = cast.federation.query(analyst, [0])
    async with cast.federation.channel(analyst) as channel:
        request = query_pb2.QueryServiceWatchSearchRequest(query=signed)
        events = [event async for event in QueryServiceStub(channel).WatchSearch(request, timeout=10)]
    assert [e.WhichOneof("event") for e in events] == ["outcome", "outcome", "result"]
    assert {e.outcome.node for e in events[:2]} == {"bern", "graz"}
    assert events[2].result.rankings == (await cast.search(analyst, query_id=bytes(range(16)))).rankings


async def test_a_federation_without_nodes_is_no_empty_success(cast):
    with pytest.raises(NoNodeReachable):
        await cast.search(await cast.analyst())


async def test_queries_that_break_the_rules_reach_no_node(cast):
    analyst, eve = await cast.analyst(), await cast.analyst("eve")
    node = await cast.node("bern")
    other = query_pb2.QueryServiceSearchRequest(query=cast.federation.query(eve, [0]))
    with pytest.raises(EnvelopeRefused) as caught:
        await cast.ask("Search", other, analyst)
    assert reason(caught) == "ENVELOPE_REQUESTER"
    forged = query_pb2.QueryServiceSearchRequest(query=cast.federation.query(analyst, [0]))
    forged.query.envelope += b"\0"
    with pytest.raises(EnvelopeRefused) as caught:
        await cast.ask("Search", forged, analyst)
    assert reason(caught) == "ENVELOPE_SIGNATURE"
    for error, changes in (
        (StaleRelease, {"release_digest": b"x" * 32}),
        (CodeError, {"codes": b"12345"}),
        (InvalidMessage, {"encoder": "smell"}),
        (InvalidMessage, {"k": 0}),
        (InvalidMessage, {"radius": 33}),
    ):
        with pytest.raises(error):
            await cast.search(analyst, **changes)
    assert node.asked == []


async def test_only_analysts_search(cast):
    node = await cast.node("bern")
    with pytest.raises(NotAdmitted) as caught:
        await cast.search(node.identity)
    assert reason(caught) == "WRONG_ROLE"


async def test_too_many_searches_at_once_are_refused_quickly(cast, serving):
    analyst = await cast.analyst()
    await cast.node("bern", before=lambda: asyncio.sleep(1))
    limit = cast.federation.config.serve.max_concurrent
    queries = [
        query_pb2.QueryServiceSearchRequest(query=cast.federation.query(analyst, [0], query_id=n.to_bytes(16)))
        for n in range(limit + 10)
    ]
    async with cast.federation.channel(analyst) as channel:
        stub = QueryServiceStub(channel)
        calls = (call(stub.Search, query, Deadline.after(20), what="it") for query in queries)
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(r, Busy) for r in results) == 10


async def test_more_of_a_bucket_is_relayed_to_its_node(cast):
    analyst = await cast.analyst()
    await cast.node("bern")
    inner = archive_pb2.ArchiveServiceExpandBucketRequest(
        query=cast.federation.query(analyst, [0]), bucket_handle=b"b" * 16, offset=0, limit=5
    )
    request = query_pb2.QueryServiceExpandBucketRequest(node="bern", request=inner)
    answer = await cast.ask("ExpandBucket", request, analyst)
    assert answer.response.size == 3
    request.node = "nowhere"
    with pytest.raises(UnknownHandle):
        await cast.ask("ExpandBucket", request, analyst)


async def test_a_revoked_analyst_is_refused_on_its_open_channel(cast):
    analyst = await cast.analyst()
    await cast.node("bern")
    async with cast.federation.channel(analyst) as channel:
        stub = QueryServiceStub(channel)
        request = query_pb2.QueryServiceListNodesRequest()
        await call(stub.ListNodes, request, Deadline.after(5), what="it")
        cast.federation.authority.revoke("ada")
        assert await asyncio.to_thread(notify_serve, cast.federation.home)
        with pytest.raises(NotAdmitted) as caught:
            await call(stub.ListNodes, request, Deadline.after(5), what="it")
    assert reason(caught) == "REVOKED"


async def test_a_revoked_node_is_asked_no_more(cast):
    analyst = await cast.analyst()
    for name in ("bern", "graz"):
        await cast.node(name)
    cast.federation.authority.revoke("graz")
    assert await asyncio.to_thread(notify_serve, cast.federation.home)
    assert statuses(await cast.search(analyst)) == {"bern": "COMPLETE"}


async def test_what_another_command_changed_is_noticed_without_a_notice(cast, serving):
    await cast.analyst()
    before = serving._live.bundle.version
    with closing(State(cast.federation.home)) as state:  # as another process would
        Authority(cast.federation.home, state, cast.federation.config).revoke("ada")
    for _ in range(100):
        await asyncio.sleep(0.1)
        if serving._live.bundle.version > before:
            break
    assert member("ada", Role.ANALYST).uri in serving._live.bundle.revoked_names


async def test_queries_are_in_the_audit_record_without_their_codes(federation, tmp_path):
    async with federation.serving(), AsyncExitStack() as stack:
        cast = Cast(federation, tmp_path, stack)
        analyst = await cast.analyst()
        await cast.node("bern")
        await cast.search(analyst, (0xABCDEF01,), query_id=b"q" * 16)
    with federation.state.reading() as connection:
        line = audit.entries(connection)[-1]
    assert (line.kind, line.subject) == ("query.answered", analyst.member.uri)
    assert line.data == {"query": (b"q" * 16).hex(), "outcomes": {"bern": "COMPLETE"}, "reasons": {}}


async def test_more_of_a_bucket_is_in_the_audit_record_also_when_it_failed(federation, tmp_path):
    async with federation.serving(), AsyncExitStack() as stack:
        cast = Cast(federation, tmp_path, stack)
        analyst = await cast.analyst()
        await cast.node("bern")
        inner = archive_pb2.ArchiveServiceExpandBucketRequest(
            query=federation.query(analyst, [0xABCDEF01], query_id=b"q" * 16), bucket_handle=b"b" * 16, limit=5
        )
        request = query_pb2.QueryServiceExpandBucketRequest(node="bern", request=inner)
        await cast.ask("ExpandBucket", request, analyst)
        request.request.offset = 3
        with pytest.raises(InvalidAnswer):
            await cast.ask("ExpandBucket", request, analyst)
    with federation.state.reading() as connection:
        lines = audit.entries(connection)[-2:]
    assert {(line.kind, line.subject) for line in lines} == {("bucket.expanded", analyst.member.uri)}
    query = {"query": (b"q" * 16).hex(), "node": "bern"}
    assert [line.data for line in lines] == [query | {"outcome": o} for o in ("COMPLETE", "INVALID_ANSWER")]


async def test_who_takes_a_name_over_is_asked_and_the_former_holder_no_more(cast, serving):
    analyst = await cast.analyst()
    lost = await cast.node("bern")
    assert statuses(await cast.search(analyst, query_id=b"1" * 16)) == {"bern": "COMPLETE"}
    found = await cast.node("bern")
    assert statuses(await cast.search(analyst, query_id=b"2" * 16)) == {"bern": "COMPLETE"}
    assert (len(lost.asked), len(found.asked)) == (1, 1)
    await cast.federation.join(cast.folder, "bern")
    assert serving._nodes._pool._links == {}  # not kept for a new holder at the same address
    with pytest.raises(NoNodeReachable):
        await cast.search(analyst, query_id=b"3" * 16)
    assert (len(lost.asked), len(found.asked)) == (1, 1)


async def test_an_answer_larger_than_any_node_may_give_is_invalid(cast):
    analyst = await cast.analyst()
    await cast.node("bern")
    await cast.node("liar", spoil=lambda response: setattr(response.answers[0], "item_handles", bytes(ANSWER_BYTES)))
    for number in range(FAILURES):
        found = await cast.search(analyst, query_id=bytes([number]) * 16)
        assert statuses(found) == {"bern": "COMPLETE", "liar": "INVALID"}
        assert found.outcomes[1].reason == "MESSAGE_TOO_LARGE"
    assert statuses(await cast.search(analyst, query_id=b"z" * 16)) == {"bern": "COMPLETE", "liar": "EJECTED"}


async def test_a_change_made_while_the_coordinator_started_is_noticed(federation, monkeypatch):
    federation.enroll("bern")
    read = Live.__init__

    def interrupted(live, *arguments, **options):
        read(live, *arguments, **options)
        with closing(State(federation.home)) as state:  # as another process would
            Authority(federation.home, state, federation.config).revoke("bern")

    monkeypatch.setattr(Live, "__init__", interrupted)
    async with federation.serving() as serving:
        for _ in range(100):
            await asyncio.sleep(0.1)
            if serving._live.bundle.revoked_names:
                break
        assert serving._live.bundle.revoked_names == {member("bern").uri}


async def test_a_coordinator_whose_certificate_no_node_will_believe_says_why(federation, capsys):
    federation.clock.move(days=-1)
    async with federation.serving():
        pass
    assert '"event": "certificate.unfit", "level": "error", "reason": "CERT_NOT_YET_VALID"' in capsys.readouterr().err


async def test_a_new_ca_and_renewals_interrupt_nobody(cast, federation):
    analyst = await cast.analyst()
    node = await cast.node("bern")
    assert statuses(await cast.search(analyst, query_id=b"1" * 16)) == {"bern": "COMPLETE"}
    federation.rotation.new_ca()
    assert await asyncio.to_thread(notify_serve, federation.home)
    await refresh_bundle(Home(cast.folder / "bern"), node.identity)
    node.identity = load_identity(cast.folder / "bern" / "identity")
    assert statuses(await cast.search(analyst, query_id=b"2" * 16)) == {"bern": "COMPLETE"}
    node.identity = await renew(Home(cast.folder / "bern"), node.identity)
    fresh = await renew(Home(cast.folder / "ada"), analyst)
    assert len(fresh.bundle.cas) == 2
    assert statuses(await cast.search(fresh, query_id=b"3" * 16)) == {"bern": "COMPLETE"}


async def test_the_control_socket_says_what_the_process_does(federation, serving):
    async with open_control_channel(federation.home.control_socket) as channel:
        request = control_pb2.ControlServiceStatusRequest()
        status = await call(ControlServiceStub(channel).Status, request, Deadline.after(5), what="it")
    assert (status.role, status.name, status.state) == ("coordinator", "coordinator", "serving")
    assert status.release_version == 1
    assert federation.home.control_socket.stat().st_mode & 0o777 == 0o600


async def test_two_processes_never_serve_one_home(federation, serving):
    with pytest.raises(StateError), federation.home.lock():
        pass


async def test_nodes_are_known_after_a_restart(federation, tmp_path):
    async with AsyncExitStack() as stack:
        async with federation.serving():
            cast = Cast(federation, tmp_path, stack)
            analyst = await cast.analyst()
            await cast.node("bern")
        async with federation.serving():
            assert statuses(await cast.search(analyst)) == {"bern": "COMPLETE"}


async def test_a_node_that_comes_back_answers_as_soon_as_it_has_announced_itself(cast):
    analyst = await cast.analyst()
    identity = await cast.federation.join(cast.folder, "bern")
    node, address = FakeNode(identity, Archive("bern", [0])), f"127.0.0.1:{free_port()}"
    for number in range(3):
        async with node.serving(address):
            await cast.federation.announce(identity, address)
            found = await cast.search(analyst, query_id=bytes([number]) * 16)
            assert statuses(found) == {"bern": "COMPLETE"}
        gone = await cast.search(analyst, query_id=bytes([99 + number]) * 16)
        assert statuses(gone) == {"bern": "UNREACHABLE"}


async def test_an_ejected_node_that_announces_itself_is_tried_at_once(cast):
    analyst = await cast.analyst()
    await cast.node("graz")
    identity = await cast.federation.join(cast.folder, "bern")
    node, address = FakeNode(identity, Archive("bern", [0])), f"127.0.0.1:{free_port()}"
    await cast.federation.announce(identity, address)
    for number in range(6):
        found = await cast.search(analyst, query_id=bytes([number]) * 16)
    assert statuses(found)["bern"] == "EJECTED"
    async with node.serving(address):
        await cast.federation.announce(identity, address, dial_back=True)
        assert statuses(await cast.search(analyst, query_id=b"z" * 16))["bern"] == "COMPLETE"


async def test_a_node_that_only_looks_well_is_left_out_again_after_one_query(cast):
    """It answers every health check and spoils every search."""
    analyst = await cast.analyst()
    await cast.node("graz")
    identity = await cast.federation.join(cast.folder, "bern")
    liar = FakeNode(identity, Archive("bern", [0]), spoil=lambda response: response.ClearField("answers"))
    found = []
    async with liar.serving() as address:
        for number in range(8):
            await cast.federation.announce(identity, address, dial_back=number >= 5)
            found.append(statuses(await cast.search(analyst, query_id=bytes([number]) * 16))["bern"])
        found.append(statuses(await cast.search(analyst, query_id=b"z" * 16))["bern"])
    assert found == ["INVALID"] * 8 + ["EJECTED"]


async def test_the_coordinators_own_renewal_interrupts_nobody_and_is_used_at_once(cast, federation):
    analyst = await cast.analyst()
    node = await cast.node("bern")
    assert statuses(await cast.search(analyst, query_id=b"1" * 16)) == {"bern": "COMPLETE"}
    keys = create_keys(federation.home.identity)
    save_certificate(federation.home.identity, federation.authority.renew_own(make_csr(keys.key)))
    assert await asyncio.to_thread(notify_serve, federation.home)
    assert statuses(await cast.search(analyst, query_id=b"2" * 16)) == {"bern": "COMPLETE"}
    assert len(set(node.askers)) == 2


async def test_health_says_serving_once_everything_listens(cast):
    analyst = await cast.analyst()
    async with cast.federation.channel(analyst) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        answer = await call(check, health_pb2.HealthCheckRequest(), Deadline.after(5), what="it")
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_node_that_waits_for_a_training_task_is_sent_away_when_the_coordinator_stops(federation, tmp_path):
    async with AsyncExitStack() as stack:
        async with federation.serving():
            bern = await federation.join(tmp_path, "bern")
            channel = await stack.enter_async_context(federation.channel(bern))
            stub = TrainingServiceStub(channel)
            request = training_pb2.TrainingServicePullTaskRequest(wait_ms=30_000)
            waiting = asyncio.create_task(call(stub.PullTask, request, Deadline.after(40), what="it"))
            await asyncio.sleep(0.5)
            assert not waiting.done()
        assert (await waiting).task_id == ""


async def test_a_fault_that_nobody_foresaw_does_not_end_what_the_coordinator_does_for_itself():
    again, tries = asyncio.Event(), []

    async def step():
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        again.set()

    task = asyncio.create_task(_every(0.0, step))
    await asyncio.wait({task, asyncio.create_task(again.wait())}, return_when=asyncio.FIRST_COMPLETED)
    assert again.is_set()
    task.cancel()


async def test_a_published_release_is_served_at_once(federation, serving, tmp_path):
    bern = await federation.join(tmp_path, "bern")
    first = await fetch_release(Home(tmp_path / "bern"), bern)
    plan = make_plan(federation.config, 2)
    start = federation.publisher.start(plan)
    assert start.based_on.digest == first.digest
    cells = (CodebookEntry(class_id=0, code="00" * (plan.bits // 8), varied=(3, 1)),)
    by = {"strategy": "FedMedian", "codebook": cells, "reach": 5}
    trained = Trained(weights=start.weights, rounds=2, nodes=frozenset({"bern"}), loss=0.5, **by)
    await asyncio.to_thread(serving._publish, plan, trained, start.based_on)
    second = await fetch_release(Home(tmp_path / "bern"), bern)
    assert second.manifest.version == 2
    assert second.manifest.training.model_dump(exclude={"seed"}) == {
        "rounds": 2,
        "strategy": "FedMedian",
        "nodes": 1,
        "summed": 0,
        "privacy": "none",
        "based_on": first.digest.hex(),
    }
    assert second.manifest.metrics == {"loss": 0.5}
    assert (second.manifest.codebook, second.manifest.codebook_reach) == (cells, 5)


async def test_a_run_that_was_interrupted_while_it_published_has_one_release_of_all_of_that(federation, monkeypatch):
    plan = make_plan(federation.config, 2)
    base = federation.publisher.start(plan).based_on
    moved = {name: array + 1 for name, array in federation.publisher.start(plan).weights.items()}
    trained = Trained(weights=moved, rounds=2, nodes=frozenset({"bern"}), loss=None)
    with monkeypatch.context() as crashing:  # the files are there, the transaction is not
        crashing.setattr("coordinator.releases._record", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            federation.publisher.publish_trained(plan, trained, base)
    releases = [federation.publisher.publish_trained(plan, trained, base) for _ in range(2)]
    assert {release.manifest.version for release in releases} == {2}
    _, kept = kept_releases(federation.home, federation.state)
    assert [release.manifest.version for release in kept] == [2, 1]
    assert releases[0].manifest.metrics == {}


async def test_weights_that_lie_column_by_column_are_published_as_they_are(federation):
    """A last layer that was solved for lies so, and safetensors would write its bytes in the wrong order."""
    plan = make_plan(federation.config, 1)
    drawn = np.random.default_rng(0)
    moved = {
        name: drawn.normal(size=array.shape).astype(np.float32)
        for name, array in federation.publisher.start(plan).weights.items()
    }
    trained = Trained({name: np.asfortranarray(each) for name, each in moved.items()}, 1, frozenset({"bern"}), None)
    release = federation.publisher.publish_trained(plan, trained, None)
    published = from_bytes(release.weights(plan.modality).read_bytes())
    assert all(np.array_equal(published[name], each) for name, each in moved.items())


async def test_a_run_for_another_width_of_codes_starts_afresh(federation):
    plan = make_plan(federation.config, 1)
    wider = plan.model_copy(update={"bits": 64})
    assert federation.publisher.start(plan).based_on is not None
    assert federation.publisher.start(wider).based_on is None


@pytest.mark.parametrize("version", [1, 2])
async def test_other_classes_need_a_new_version_of_the_nomenclature(federation, version):
    plan = make_plan(federation.config, 1)
    classes = (*plan.nomenclature.classes, FederationClass(id=3, name="dunes"))
    other = plan.model_copy(update={"nomenclature": Nomenclature(name="alps", version=version, classes=classes)})
    if version == 2:
        assert federation.publisher.start(other).based_on is not None
        return
    with pytest.raises(ConfigError) as caught:
        federation.publisher.start(other)
    assert reason(caught) == "NOMENCLATURE_VERSION"
    assert "version = 2" in caught.value.public


async def test_the_first_classes_of_a_federation_need_no_new_version(federation):
    plan = make_plan(federation.config, 1)
    none = plan.model_copy(update={"nomenclature": Nomenclature(name="alps")})
    weights = b"".join(federation.publisher.current().chunks())
    federation.publisher.publish(none, weights, Provenance(), {})
    assert federation.publisher.start(plan).based_on.version == 2


async def test_joining_again_shuts_out_the_lost_certificate_on_its_open_channel(cast):
    lost = await cast.analyst()
    async with cast.federation.channel(lost) as channel:
        stub = QueryServiceStub(channel)
        request = query_pb2.QueryServiceListNodesRequest()
        await call(stub.ListNodes, request, Deadline.after(5), what="it")
        fresh = await cast.federation.join(cast.folder, "ada", Role.ANALYST)
        with pytest.raises(NotAdmitted) as caught:
            await call(stub.ListNodes, request, Deadline.after(5), what="it")
    assert reason(caught) == "REVOKED"
    await cast.ask("ListNodes", request, fresh)
