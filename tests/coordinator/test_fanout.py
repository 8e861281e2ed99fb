"""One node slow, dead, busy or lying never spoils the answers of the others."""

import asyncio
import threading
from dataclasses import dataclass, field

import pytest
from honest_archives import Archive, question

from coordinator.breaker import Breaker
from coordinator.fanout import FanOut, OpenQuery
from rsfed.clock import Deadline
from rsfed.errors import (
    Busy,
    DeadlineExceeded,
    EnvelopeRefused,
    InvalidAnswer,
    NotAdmitted,
    RsfedError,
    StaleRelease,
    Unreachable,
    WithheldByPolicy,
)
from rsfed.merging.validate import validate
from rsfed.v1 import outcome_pb2 as pb
from rsfed.v1.envelope_pb2 import SignedEnvelope

QUERY = SignedEnvelope(envelope=b"as the analyst signed it", signature=b"s")
ASKED = question(k=5)


@dataclass
class ScriptedLink:
    """Answers as its script says."""

    archive: Archive | None = None
    error: Exception | None = None
    waits: asyncio.Event | None = None  # set by nobody: an answer that never comes
    seen: list = field(default_factory=list)

    async def search(self, request, deadline):
        self.seen.append(request)
        if self.waits:
            await self.waits.wait()
        if self.error:
            raise self.error
        return self.archive.response([0], ASKED)

    async def expand(self, request, deadline):
        raise NotImplementedError

    async def describe(self, deadline):
        raise NotImplementedError


def honest(name):
    return ScriptedLink(Archive(name, [0, 0, 1, 9]))


def lying(name):
    link = honest(name)
    link.archive.answer = lambda query, asked: Archive(name, [0]).answer(query, question(k=1)).__class__(band_width=7)
    return link


async def ask(links, *, seconds=5.0, fan_out=None, on_outcome=lambda _: None):
    return await (fan_out or FanOut(Breaker())).ask(links, OpenQuery(QUERY, ASKED), Deadline.after(seconds), on_outcome)


def statuses(gathered):
    return {o.node: pb.NodeStatus.Name(o.status).removeprefix("NODE_STATUS_") for o in gathered.outcomes}


FAULTS = {
    "UNREACHABLE": lambda: ScriptedLink(error=Unreachable("gone")),
    "TIMED_OUT": lambda: ScriptedLink(error=DeadlineExceeded("late")),
    "BUSY": lambda: ScriptedLink(error=Busy("too much")),
    "STALE_RELEASE": lambda: ScriptedLink(error=StaleRelease("another release")),
    "INVALID": lambda: lying("bad"),
    "REFUSED": lambda: ScriptedLink(error=EnvelopeRefused("no", reason="REPLAYED")),
}


@pytest.mark.parametrize("status", FAULTS)
async def test_a_fault_of_one_node_is_its_outcome_and_the_others_answers_stay_the_same(status):
    alone = await ask({"bern": honest("bern"), "graz": honest("graz")})
    gathered = await ask({"bern": honest("bern"), "bad": FAULTS[status](), "graz": honest("graz")})
    assert statuses(gathered) == {"bad": status, "bern": "COMPLETE", "graz": "COMPLETE"}
    assert gathered.answers.keys() == {"bern", "graz"}
    for name, answer in gathered.answers.items():
        assert answer.columns[0].item_handles.tobytes() == alone.answers[name].columns[0].item_handles.tobytes()


async def test_fields_that_a_node_lets_no_query_be_filtered_by_are_in_its_outcome():
    error = EnvelopeRefused("no", reason="UNFILTERABLE_TIME", fields=("time", "label", "colour", "unspecified"))
    gathered = await ask({"bern": ScriptedLink(error=error), "graz": honest("graz")})
    fields = {outcome.node: list(outcome.unfilterable) for outcome in gathered.outcomes}
    assert fields == {"bern": [pb.FILTER_FIELD_TIME, pb.FILTER_FIELD_LABEL], "graz": []}


@pytest.mark.parametrize(
    ("told", "level"),
    [("counts", pb.POLICY_LEVEL_COUNTS), ("", pb.POLICY_LEVEL_UNSPECIFIED), ("secret", pb.POLICY_LEVEL_UNSPECIFIED)],
)
async def test_the_policy_level_that_a_node_refuses_for_is_in_its_outcome_if_it_is_one(told, level):
    gathered = await ask({"bern": ScriptedLink(error=WithheldByPolicy("no", level=told))})
    assert (gathered.outcomes[0].reason, gathered.outcomes[0].level) == ("POLICY", level)


async def test_a_node_that_never_answers_is_cut_off_at_the_deadline():
    never = ScriptedLink(waits=asyncio.Event())
    gathered = await ask({"bern": honest("bern"), "slow": never}, seconds=0.3)
    assert statuses(gathered) == {"bern": "COMPLETE", "slow": "TIMED_OUT"}


async def test_a_query_without_time_left_asks_and_ends_at_once():
    gathered = await ask({"bern": ScriptedLink(waits=asyncio.Event())}, seconds=0.0)
    assert statuses(gathered) == {"bern": "TIMED_OUT"}


async def test_an_unexpected_error_stays_with_its_node():
    gathered = await ask({"bern": honest("bern"), "odd": ScriptedLink(error=ValueError("secret text"))})
    assert statuses(gathered)["odd"] == "REFUSED"
    (odd,) = (o for o in gathered.outcomes if o.node == "odd")
    assert odd.reason == "INTERNAL"
    assert b"secret" not in odd.SerializeToString()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotAdmitted("x", reason="REVOKED"), "REVOKED"),
        (InvalidAnswer("x"), "INVALID_ANSWER"),
        (RsfedError("x"), "INTERNAL"),
    ],
)
async def test_the_reason_of_a_failure_is_told(error, reason):
    gathered = await ask({"bern": ScriptedLink(error=error)})
    assert gathered.outcomes[0].reason == reason
    assert not gathered.outcomes[0].HasField("coverage")


async def test_an_empty_archive_is_complete_with_nothing_held():
    gathered = await ask({"bern": ScriptedLink(Archive("bern", []))})
    (outcome,) = gathered.outcomes
    assert outcome.status == pb.NODE_STATUS_COMPLETE
    assert (outcome.coverage, outcome.held) == (1.0, 0)


async def test_a_partly_searched_archive_is_partial():
    link = honest("bern")
    whole = link.archive.answer

    def partly(query, asked):
        answer = whole(query, asked)
        answer.held = 8
        return answer

    link.archive.answer = partly
    (outcome,) = (await ask({"bern": link})).outcomes
    assert (outcome.status, outcome.coverage, outcome.held) == (pb.NODE_STATUS_PARTIAL, 0.5, 8)


async def test_there_is_one_outcome_for_each_node_in_the_order_of_names_and_each_is_told_as_it_arrives():
    late = asyncio.Event()
    told = []

    def tell(outcome):
        told.append(outcome.node)
        late.set()

    links = {"lyon": honest("lyon"), "bern": ScriptedLink(Archive("bern", [0]), waits=late)}
    gathered = await ask(links, on_outcome=tell)
    assert told == ["lyon", "bern"]
    assert [o.node for o in gathered.outcomes] == ["bern", "lyon"]


async def test_the_query_is_passed_on_unchanged_with_the_time_that_is_left():
    link = honest("bern")
    await ask({"bern": link}, seconds=2.0)
    (request,) = link.seen
    assert request.query.SerializeToString() == QUERY.SerializeToString()
    assert 0 < request.remaining_ms <= 1950


async def test_nodes_that_fail_again_and_again_are_left_out_and_not_asked():
    now = [0.0]
    fan_out = FanOut(Breaker(), monotonic=lambda: now[0])
    dead = ScriptedLink(error=Unreachable("gone"))
    links = {"bern": honest("bern"), "dead": dead}
    for _ in range(5):
        assert statuses(await ask(links, fan_out=fan_out))["dead"] == "UNREACHABLE"
    assert statuses(await ask(links, fan_out=fan_out)) == {"bern": "COMPLETE", "dead": "EJECTED"}
    assert len(dead.seen) == 5
    now[0] = 31.0
    dead.error, dead.archive = None, Archive("dead", [0])
    assert statuses(await ask(links, fan_out=fan_out))["dead"] == "COMPLETE"


async def test_lies_count_towards_being_left_out():
    fan_out = FanOut(Breaker())
    links = {"bern": honest("bern"), "liar": lying("liar")}
    for _ in range(5):
        assert statuses(await ask(links, fan_out=fan_out))["liar"] == "INVALID"
    assert statuses(await ask(links, fan_out=fan_out))["liar"] == "EJECTED"


async def test_impatient_analysts_cannot_get_a_node_left_out():
    fan_out = FanOut(Breaker())
    links = {"bern": honest("bern"), "slow": ScriptedLink(waits=asyncio.Event())}
    for _ in range(7):
        assert statuses(await ask(links, seconds=0.06, fan_out=fan_out))["slow"] == "TIMED_OUT"


async def test_a_busy_node_is_asked_again():
    fan_out = FanOut(Breaker())
    for _ in range(7):
        assert statuses(await ask({"a": honest("a"), "b": FAULTS["BUSY"]()}, fan_out=fan_out))["b"] == "BUSY"


async def test_when_the_analyst_goes_away_the_nodes_are_not_waited_for():
    link = ScriptedLink(waits=asyncio.Event())
    search = asyncio.create_task(ask({"bern": link}, seconds=60))
    for _ in range(5):
        await asyncio.sleep(0)  # lets the search start
    assert link.seen
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search


async def test_a_long_answer_is_checked_beside_the_loop_and_a_short_one_in_it(monkeypatch):
    threads = []

    def noted(response, asked):
        threads.append(threading.current_thread() is threading.main_thread())
        return validate(response, asked)

    monkeypatch.setattr("coordinator.fanout.validate", noted)
    await ask({"short": honest("short")})
    monkeypatch.setattr("coordinator.offload.MANY_ROWS", 1)
    gathered = await ask({"long": honest("long")})
    assert statuses(gathered) == {"long": "COMPLETE"}
    assert threads == [True, False]
