"""Before the first round every member says whether it takes part; who cannot is named then, not in the middle."""

import asyncio
from types import SimpleNamespace

import pytest
from test_training_rounds import moved, run_whole
from training_fakes import answer_tasks, deliver, result_of, small_plan, until

import rsfed
from coordinator.training.board import TaskBoard
from coordinator.training.grid import BoardGrid
from coordinator.training.rounds import Rules
from coordinator.training.show import print_run
from rsfed.clock import utc_now
from rsfed.errors import TrainingError
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import EVALUATE, PREFLIGHT, TRAIN


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
    assert events[0] == (
        "preflight",
        {"round": 1, "nodes": ["good"], "refused": {"bad": "NO_LABELLED_PATCHES"}, "no_sums": {}},
    )
    assert [(r["nodes"], r["failed"]) for r in of_kind(events, "round")] == [(["good"], {})] * 3
    assert of_kind(events, "calibrated")[0]["nodes"] == ["good"]
    assert asked == [PREFLIGHT]
    assert trained.nodes == {"good"}


async def test_a_run_that_too_few_nodes_can_take_part_in_ends_before_its_first_round_and_names_them():
    nodes = {"good": moved(1), "one": refusing("OTHER_CLASSES"), "two": refusing("OTHER_BANDS")}
    board = TaskBoard()
    try:
        with pytest.raises(TrainingError) as failed:  # at once: it does not wait for others to come
            await asyncio.wait_for(run_whole(nodes, board=board, rules=Rules(3, 600.0)), 60)
    finally:
        board.stop()
    assert failed.value.reason == "TOO_FEW_NODES"
    for word in ("one (OTHER_CLASSES)", "two (OTHER_BANDS)", "needs 3 nodes and 1 came"):
        assert word in failed.value.public


def silent(_task):
    """A node that is there, as it goes on asking for tasks, and says nothing."""


async def test_a_node_that_is_too_busy_to_say_whether_it_takes_part_costs_its_own_part_alone(capsys):
    trained, events = await run_whole({"good": moved(1), "busy": silent}, rules=Rules(1, 2.0))
    told = {"round": 1, "nodes": ["good"], "refused": {"busy": "PREFLIGHT_LATE"}, "no_sums": {}}
    assert of_kind(events, "preflight") == [told, told | {"round": 2, "nodes": []}], "twice, and no more"
    assert trained.nodes == {"good"}
    run = SimpleNamespace(id=5, words="done", rounds=3, requested=utc_now())
    print_run(run, [SimpleNamespace(kind=kind, data=data) for kind, data in events])
    assert "busy takes no part: PREFLIGHT_LATE (it did not answer in time: raise training.round_timeout_s)" in (
        capsys.readouterr().out
    )


async def test_a_node_that_was_late_to_say_whether_it_takes_part_is_asked_once_more_before_the_next_round(capsys):
    def at_the_second_time(task):
        return silent(task) if (decode(task).kind, decode(task).round) == (PREFLIGHT, 1) else result_of(task)

    _, events = await run_whole({"good": moved(1), "cold": at_the_second_time}, rules=Rules(1, 2.0))
    asked = [(data["round"], data["nodes"], data["refused"]) for data in of_kind(events, "preflight")]
    assert asked == [(1, ["good"], {"cold": "PREFLIGHT_LATE"}), (2, ["cold"], {})]
    assert [data["nodes"] for data in of_kind(events, "round")] == [["good"], ["cold", "good"], ["cold", "good"]]
    assert of_kind(events, "calibrated")[0]["nodes"] == ["cold", "good"]
    run = SimpleNamespace(id=5, words="done", rounds=3, requested=utc_now())
    print_run(run, [SimpleNamespace(kind=kind, data=data) for kind, data in events])
    assert "cold" not in capsys.readouterr().out


async def test_a_run_that_lacks_nodes_that_did_not_answer_names_them_how_long_it_waited_and_what_to_do():
    with pytest.raises(TrainingError) as failed:
        await run_whole({"busy": silent, "slow": silent}, rules=Rules(2, 0.3))
    assert failed.value.reason == "TOO_FEW_NODES"
    told = failed.value.public
    assert "busy (PREFLIGHT_LATE), slow (PREFLIGHT_LATE)" in told
    assert "busy, slow did not say within 0.3 s whether to take part" in told
    assert "raise training.round_timeout_s in coordinator.toml" in told


async def test_nodes_have_the_time_of_a_round_to_say_whether_they_take_part(monkeypatch):
    given, send = {}, BoardGrid.send_and_receive

    def sent(grid, messages, *, timeout):
        messages = list(messages)
        given[messages[0].metadata.message_type] = timeout
        return send(grid, messages, timeout=timeout)

    monkeypatch.setattr(BoardGrid, "send_and_receive", sent)
    await run_whole({"a": moved(1)}, rules=Rules(1, 300.0))
    assert given[PREFLIGHT] == given[TRAIN] == 300.0


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


@pytest.mark.parametrize("at_first", ["willing", "refusing"])
async def test_a_node_that_was_away_is_asked_again_when_it_is_back(at_first):
    board, back = TaskBoard(), []
    moody = asyncio.create_task(
        answer_tasks(board, "moody", until_round_2 if at_first == "willing" else refusing("NO_LABELLED_PATCHES"))
    )

    async def steady():
        while True:
            if (task := await board.next_task("steady", 5)) is None:
                continue
            payload = decode(task.payload.read())
            if (payload.kind, payload.round) == ("train", 2):
                moody.cancel()
                await asyncio.wait({moody})
                board._heard["moody"] = float("-inf")  # as if it had not been heard of for long
            if (payload.kind, payload.round) == ("train", 3):
                back.append(asyncio.create_task(answer_tasks(board, "moody", moved(1))))
                await until(lambda: board.present() == ["moody", "steady"])
            deliver(board, task, result_of(task.payload.read()))

    there = asyncio.create_task(steady())
    await until(lambda: board.present() == ["moody", "steady"])
    _, events = await run_whole({}, board=board, plan=small_plan(rounds=4))
    for each in (there, *back):
        each.cancel()
    refused = {} if at_first == "willing" else {"moody": "NO_LABELLED_PATCHES"}
    asked = [(data["round"], data["nodes"], data["refused"]) for data in of_kind(events, "preflight")]
    assert asked == [(1, ["steady"] if refused else ["moody", "steady"], refused), (4, ["moody"], {})]
    first = ["steady"] if refused else ["moody", "steady"]
    rounds = of_kind(events, "round")
    assert [data["nodes"] for data in rounds] == [first, ["steady"], ["steady"], ["moody", "steady"]]
    assert rounds[1]["failed"] == ({} if refused else {"moody": "NODE_GONE"})


def until_round_2(task):
    """A node that takes the task of the second round and is not heard of again."""
    payload = decode(task)
    return None if (payload.kind, payload.round) == ("train", 2) else result_of(task)
