"""Before the first round every member says whether it takes part; who cannot is named then, not in the middle."""

import asyncio

import pytest
from test_training_rounds import moved, run_whole
from training_fakes import answer_tasks, deliver, result_of, small_plan, until

import rsfed
from coordinator.training.board import TaskBoard
from coordinator.training.rounds import Rules
from rsfed.errors import TrainingError
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import EVALUATE, PREFLIGHT


def refusing(reason, *, asked=None):
    def answer(task):
        payload = decode(task)
        if asked is not None:
            asked.append(payload.kind)
        if payload.kind == PREFLIGHT:
            return encode(Payload(payload.run_id, payload.round, payload.kind, error=reason))
        return result_of(task)

    return answer


def of_kind(events, kind):
    return [data for each, data in events if each == kind]


async def test_a_node_that_cannot_take_part_is_named_before_the_first_round_and_asked_nothing_more():
    asked = []
    nodes = {"good": moved(1), "bad": refusing("NO_LABELLED_PATCHES", asked=asked)}
    trained, events = await run_whole(nodes, rules=Rules(1, 30.0))
    assert events[0] == ("preflight", {"round": 1, "nodes": ["good"], "refused": {"bad": "NO_LABELLED_PATCHES"}})
    assert [(r["nodes"], r["failed"]) for r in of_kind(events, "round")] == [(["good"], {})] * 3
    assert of_kind(events, "calibrated")[0]["nodes"] == ["good"]
    assert asked == [PREFLIGHT]
    assert trained.nodes == {"good"}


async def test_a_run_that_too_few_nodes_can_take_part_in_ends_before_its_first_round_and_names_them():
    nodes = {"good": moved(1), "one": refusing("OTHER_CLASSES"), "two": refusing("OTHER_BANDS")}
    with pytest.raises(TrainingError) as failed:
        await run_whole(nodes, rules=Rules(3, 30.0))
    assert failed.value.reason == "TOO_FEW_NODES"
    for word in ("one (OTHER_CLASSES)", "two (OTHER_BANDS)", "needs 3 nodes and 1 came"):
        assert word in failed.value.public


@pytest.mark.parametrize("reason", ["UNKNOWN_KIND", "TRAINING_FAILED"])
async def test_a_node_of_before_there_was_a_preflight_is_named_as_of_another_version(reason):
    _, events = await run_whole({"good": moved(1), "old": refusing(reason)})
    assert events[0][1]["refused"] == {"old": "OTHER_SOFTWARE"}


async def test_the_task_says_the_plan_the_round_the_members_and_the_version_and_carries_no_weights():
    seen = []

    def answer(task):
        seen.append(decode(task))
        return result_of(task)

    await run_whole({"a": answer, "b": moved(1)})
    assert [payload.kind for payload in seen] == [PREFLIGHT, *["train"] * 3, EVALUATE]
    assert seen[0].arrays == {}
    assert seen[0].configs["config"] == {
        "plan": small_plan().model_dump_json(),
        "server-round": 1,
        "members": 2,
        "software": rsfed.__version__,
    }
    assert [payload.configs["config"]["members"] for payload in seen[1:4]] == [2, 2, 2]


async def test_a_node_that_comes_late_is_asked_before_its_first_round():
    board = TaskBoard()
    loop, joined = asyncio.get_running_loop(), []

    def answer(task):
        if decode(task).kind == "train" and decode(task).round == 1:
            for name, how in (("late", moved(1)), ("unfit", refusing("OTHER_BANDS"))):
                joined.append(asyncio.run_coroutine_threadsafe(answer_tasks(board, name, how), loop))
        return result_of(task)

    _, events = await run_whole({"early": answer}, board=board)
    for each in joined:
        each.cancel()
    asked = [(data["nodes"], data["refused"]) for data in of_kind(events, "preflight")]
    assert asked[0] == (["early"], {})
    assert {name for nodes, _ in asked for name in nodes} == {"early", "late"}
    assert {name: reason for _, refused in asked for name, reason in refused.items()} == {"unfit": "OTHER_BANDS"}
    assert of_kind(events, "round")[-1]["nodes"] == ["early", "late"]


async def test_a_refused_node_that_was_away_is_asked_again(monkeypatch):
    monkeypatch.setattr("coordinator.training.board.GRACE_S", 0.1)
    board, loop, done = TaskBoard(), asyncio.get_running_loop(), []
    unfit = asyncio.create_task(answer_tasks(board, "b", refusing("NO_LABELLED_PATCHES")))
    await until(lambda: board.present() == ["b"])

    def answer(task):
        payload = decode(task)
        if payload.kind == "train":
            done.append(payload.round)
        if done == [1]:
            loop.call_soon_threadsafe(unfit.cancel)
        if done == [1, 2]:
            done.append(asyncio.run_coroutine_threadsafe(answer_tasks(board, "b", moved(1)), loop))
        return result_of(task)

    async def slowly(name):
        while True:
            if (task := await board.next_task(name, 5)) is not None:
                result = answer(task.payload)
                await asyncio.sleep(0.3)  # longer than the grace of a node that went
                deliver(board, task, result)

    slow = asyncio.create_task(slowly("a"))
    await until(lambda: board.present() == ["a", "b"])
    _, events = await run_whole({}, board=board, plan=small_plan(rounds=4))
    for each in (slow, done[2]):
        each.cancel()
    assert [(d["nodes"], d["refused"]) for d in of_kind(events, "preflight")] == [
        (["a"], {"b": "NO_LABELLED_PATCHES"}),
        (["b"], {}),
    ]
    assert of_kind(events, "round")[-1]["nodes"] == ["a", "b"]
