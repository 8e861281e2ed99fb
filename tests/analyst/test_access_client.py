"""What an analyst relies on when a coordinator, or another member, meddles with what a node gives."""

import json
from contextlib import asynccontextmanager, closing
from dataclasses import replace

import pytest
from access_scene import Caller, Scene
from fake_coordinator import FakeCoordinator, serving
from members import World
from serving import Asker

from node.approval import approve
from rsfed.analyst.access import AccessClient, new_request
from rsfed.analyst.connection import Connection
from rsfed.analyst.results import Bucket, Hit, SearchResult
from rsfed.analyst.state import Found, all_asked, chosen, find, keep_found, open_state, put
from rsfed.cli import run
from rsfed.errors import RsfedError, SealRefused, UnknownHandle, UsageError
from rsfed.home import Home
from rsfed.trust.identity import create_keys, load_identity, save_bundle
from rsfed.trust.sealing import Purpose, seal
from rsfed.v1 import access_pb2, archive_pb2, query_pb2


class Relay(FakeCoordinator):
    """A coordinator with one node, whose answers and deliveries a test may spoil."""

    spoil_answer = staticmethod(lambda sealed: sealed)
    spoil_delivery = staticmethod(lambda sealed: sealed)
    last = b""

    async def RequestAccess(self, request, context):  # noqa: N802
        self.last = request.request.sealed_call
        answer = self.spoil_answer(self.node.desk.answer(request.request.sealed_call))
        inner = archive_pb2.ArchiveServiceRequestAccessResponse(sealed_answer=answer)
        return query_pb2.QueryServiceRequestAccessResponse(response=inner)

    async def CollectAccess(self, request, context):  # noqa: N802
        with self.node.desk.collect(request.request.sealed_call) as file:
            sealed = self.spoil_delivery(file.read())
        for start in range(0, len(sealed), 1000):
            inner = archive_pb2.ArchiveServiceCollectAccessResponse(chunk=sealed[start : start + 1000])
            yield query_pb2.QueryServiceCollectAccessResponse(response=inner)


class Case:
    """Ada, connected, and the node berne, which gave her handles."""

    def __init__(self, world, relay, home, client, folder):
        self.world, self.relay, self.home, self.client = world, relay, home, client
        self.node = relay.node = Scene(folder / "berne", world=world)
        handles, query_id, _ = self.node.search(Asker(world))
        self.found = Found(handles[0], "berne", query_id)

    async def asked(self, want="crop"):
        asked = new_request(self.found, want, "flood mapping", self.world.clock())
        return await self.client.ask(asked, self.found)

    async def approved(self, want="crop"):
        asked = await self.asked(want)
        approve(self.node.home, asked.id, operator="olga", now=self.world.clock())
        return asked


@asynccontextmanager
async def connected(folder):
    world = World()
    relay = Relay(world, [])
    async with serving(relay, folder) as home:
        ada = load_identity(home.identity)
        world.knows(ada)
        connection = Connection(home, now=world.clock)
        case = Case(world, relay, home, AccessClient(connection), folder)
        world.knows(ada, case.node.node)  # the scene has an ada of its own
        case.node.trust()
        save_bundle(home.identity, world.signed_bundle(), refreshed=world.clock())
        await connection.refresh()
        try:
            yield case
        finally:
            await connection.close()


@pytest.fixture
async def case(tmp_path):
    async with connected(tmp_path) as case:
        yield case


async def refusal(awaited):
    with pytest.raises(RsfedError) as caught:
        await awaited
    return caught.value.reason


async def test_what_was_approved_is_opened(case):
    asked = await case.approved()
    newest, delivered = await case.client.collect(asked)
    assert (newest.state, delivered.suffix) == ("approved", ".png")
    assert delivered.content.startswith(b"\x89PNG")


async def test_what_is_not_approved_is_not_fetched(case):
    newest, delivered = await case.client.collect(await case.asked())
    assert (newest.state, delivered) == ("open", None)


async def test_the_coordinator_reads_nothing_of_a_call(case):
    await case.asked()
    for private in (b"flood", case.found.handle, case.found.query_id, b"ada"):
        assert private not in case.relay.last


async def test_an_answer_that_was_changed_or_is_of_another_call_is_refused(case):
    asked = await case.asked()
    case.relay.spoil_answer = lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1])
    assert await refusal(case.client.look(asked)) == "SEAL_BROKEN"
    kept = []
    case.relay.spoil_answer = lambda sealed: kept.append(sealed) or kept[0]
    assert (await case.client.look(asked)).state == "open"
    assert await refusal(case.client.look(asked)) == "SEAL_BROKEN"


async def test_an_answer_of_another_member_is_refused_even_of_one_who_knows_the_call(case, monkeypatch):
    asked, eve, ada = await case.asked(), Caller(case.node, "eve"), load_identity(case.home.identity)
    answer = access_pb2.AccessAnswer(request_id=asked.id, state=access_pb2.ACCESS_STATE_APPROVED)
    forged = seal(
        answer.SerializeToString(),
        Purpose.ACCESS_ANSWER,
        sender=eve.identity,
        recipient=ada.member,
        key=ada.sealing_key.public_key().public_bytes_raw(),
        context=b"\1" * 16,
    )
    case.relay.spoil_answer = lambda _: forged
    assert await refusal(case.client.look(asked)) == "SEAL_BROKEN"
    monkeypatch.setattr("rsfed.analyst.access.secrets.token_bytes", lambda count: b"\1" * count)
    assert await refusal(case.client.look(asked)) == "SEAL_SENDER"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: sealed + b"x",
        lambda sealed: b"x" + sealed[1:],
        lambda sealed: b"",
        lambda sealed: sealed * 3,
    ],
)
async def test_a_delivery_that_is_not_the_announced_one_is_refused(case, spoil):
    asked = await case.approved()
    case.relay.spoil_delivery = spoil
    assert await refusal(case.client.collect(asked)) == "INVALID_ANSWER"


async def test_a_delivery_of_another_request_is_refused(case):
    first, second = await case.approved(), await case.approved("quicklook")
    await case.client.collect(first)
    swapped = {}

    def other(sealed):
        swapped.setdefault("sealed", sealed)
        return swapped["sealed"]

    case.relay.spoil_delivery = other
    await case.client.collect(first)
    assert await refusal(case.client.collect(second)) == "INVALID_ANSWER"


async def test_who_joined_anew_cannot_open_what_was_sealed_for_the_former_key(case):
    asked = await case.approved()
    (case.home.identity / "sealing-key.pem").unlink()
    create_keys(case.home.identity)
    renewed = load_identity(case.home.identity)
    case.world.knows(renewed)
    case.node.trust()
    connection = Connection(case.home, now=case.world.clock)
    await connection.refresh()
    try:
        with pytest.raises(SealRefused):
            await AccessClient(connection).collect(asked)
    finally:
        await connection.close()


# the home of the analyst


def result(handle="0a" * 16, node="berne"):
    return SearchResult(b"q" * 16, 0, (Hit(1, node, handle, 0, 0, 1),), (Bucket(node, b"b" * 16, 0, 1),), ())


def test_a_home_knows_where_its_handles_came_from_for_90_days(tmp_path):
    world = World()
    with closing(open_state(Home(tmp_path))) as state:
        keep_found(state, [result()], now=world.clock())
        assert find(state, "0A" * 16) == Found(b"\x0a" * 16, "berne", b"q" * 16)
        with pytest.raises(UnknownHandle):
            find(state, "0b" * 16)
        for wrong in ("", "0a", "zz" * 16, "0a" * 17, " " + "0a" * 16):
            with pytest.raises(UsageError):
                find(state, wrong)
        world.clock.move(days=91)
        keep_found(state, [], now=world.clock())
        with pytest.raises(UnknownHandle):
            find(state, "0a" * 16)


def test_requests_are_named_by_how_their_ids_begin(tmp_path):
    world, found = World(), Found(b"h" * 16, "berne", b"q" * 16)
    with closing(open_state(Home(tmp_path))) as state:
        known = [new_request(found, "crop", "why", world.clock()) for _ in range(3)]
        for each in known:
            put(state, each)
        assert chosen(state, [known[1].id.hex()[:12]]) == [known[1]]
        for wrong in ("", "zz", "0" * 33):
            with pytest.raises(UnknownHandle):
                chosen(state, [wrong])
        assert sorted(all_asked(state), key=lambda each: each.id) == sorted(known, key=lambda each: each.id)


@pytest.mark.parametrize("why", ["", "   ", "x" * 501])
def test_a_reason_that_no_archive_takes_is_a_wrong_call(tmp_path, why, capsys):
    assert run(["access", "request", "0a" * 16, "--reason", why, "--home", str(tmp_path)]) == 2
    assert "1 to 500 characters" in capsys.readouterr().err


@pytest.fixture
def listing(tmp_path, monkeypatch):
    """A home that asked for three items, and a coordinator that cannot be asked: what is known here is listed."""
    world, found = World(), Found(b"h" * 16, "berne-archive-of-the-federal-office", b"q" * 16)
    states = ({"state": "approved", "file": "x.png"}, {"state": "denied", "note": "not of this scene"}, {})
    known = [replace(new_request(found, "quicklook", "why", world.clock()), **each) for each in states]
    with closing(open_state(Home(tmp_path))) as state:
        for each in known:
            put(state, each)
    monkeypatch.setattr("rsfed.analyst.access_cli._run", lambda home, act: known)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path, known


def test_ids_of_a_list_can_be_copied_from_a_narrow_terminal_and_states_are_those_of_json(listing, capsys):
    home, known = listing
    assert run(["access", "list", "--home", str(home)]) == 0
    words = capsys.readouterr().out.split()
    assert {each.id.hex()[:12] for each in known} <= set(words)
    assert run(["access", "list", "--home", str(home), "--output", "json"]) == 0
    states = [each["state"] for each in json.loads(capsys.readouterr().out)["requests"]]
    assert states == ["collected", "denied", "unsent"]
    assert set(states) <= set(words)


def test_collect_says_where_there_is_nothing_to_collect(tmp_path, capsys):
    assert run(["access", "collect", "--home", str(tmp_path), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out == "", "file names alone"
    assert "nothing to collect" in printed.err


def test_a_list_of_nothing_needs_no_connection(tmp_path, capsys):
    assert run(["access", "list", "--home", str(tmp_path), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"requests": []}
