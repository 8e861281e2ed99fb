"""Rounds of real Flower apps over the board: a bad node costs a round its share, never the run."""

import asyncio
import random
import threading
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from training_fakes import (
    answer_tasks,
    counts_of,
    deliver,
    in_rounds,
    pair_counts,
    result_of,
    small_plan,
    until,
    weights,
)

from coordinator.training import board as board_module
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.records import RunCancelled
from coordinator.training.rounds import Rules
from rsfed.errors import TrainingError
from rsfed.hashing.calibration import fit, to_records, total
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import EVALUATE, PREFLIGHT
from rsfed.hashing.refit import centres_of


async def run(nodes, **options):
    """Train with nodes that answer by the given functions; returns what was trained and the events of rounds."""
    trained, events = await run_whole({name: in_rounds(answer) for name, answer in nodes.items()}, **options)
    return trained, [data for kind, data in events if kind == "round"]


async def run_whole(
    nodes, *, plan=None, rules=None, board=None, start=None, since=None, kept=None, told=None, before=(), **options
):
    """The same with all events, and nodes that answer for the calibration, too."""
    board = board or TaskBoard()
    events, kept = [] if told is None else told, [] if kept is None else kept
    tasks = [asyncio.create_task(answer_tasks(board, name, answer)) for name, answer in nodes.items()]
    await asyncio.sleep(0.01)
    try:
        trained = await asyncio.to_thread(
            train,
            BoardGrid(board, 5),
            plan or small_plan(),
            since or Progress(weights=weights() if start is None else start),
            run_id=5,
            rules=rules or Rules(1, 30.0),
            note=lambda kind, data: events.append((kind, data)),
            keep=lambda progress, *event: (kept.append(progress), events.append(event)),
            before=before,
            **options,
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks) if tasks else None
    return trained, events


def moved(step, **changes):
    return lambda task: result_of(task, step=step, **changes)


async def test_weights_are_averaged_by_the_number_of_patches():
    trained, rounds = await run({"a": moved(1, examples=30), "b": moved(3, examples=10)})
    np.testing.assert_allclose(trained.weights["w"], weights(3 * 1.5)["w"])
    assert trained.weights["scale"].shape == ()
    assert trained.weights["w"].dtype == np.float32
    assert trained.nodes == {"a", "b"}
    assert [r["round"] for r in rounds] == [1, 2, 3]
    assert all(r["nodes"] == ["a", "b"] and r["counted"] and not r["failed"] for r in rounds)


async def test_every_round_tells_loss_bytes_and_seconds():
    _, rounds = await run({"a": moved(1, loss=0.25, examples=30), "b": moved(1, loss=0.75, examples=10)})
    assert [r["loss"] for r in rounds] == pytest.approx([0.375] * 3)
    assert all(r["examples"] == 40 and r["received_bytes"] > 0 and r["seconds"] > 0 for r in rounds)


async def test_rounds_carry_their_true_numbers_and_the_whole_plan():
    seen = []

    def answer(task):
        payload = decode(task)
        seen.append((payload.run_id, payload.round, payload.configs["config"]["server-round"], payload.kind))
        assert payload.configs["config"]["plan"] == small_plan().model_dump_json()
        return result_of(task)

    await run({"a": answer})
    assert seen == [(5, number, number, "train") for number in (1, 2, 3)]


async def test_the_result_does_not_depend_on_who_answers_first():
    def answer(name, position):
        update = np.random.default_rng(ord(name)).normal(size=500).astype(np.float32)

        def late(task):
            threading.Event().wait(0.01 * position)
            return result_of(task, examples=ord(name), arrays={"arrays": {"w": update}})

        return late

    async def trained(order):
        nodes = {name: answer(name, position) for position, name in enumerate(order)}
        start = {"w": np.ones(500, np.float32)}
        return (await run(nodes, rules=Rules(5, 30.0), start=start, plan=small_plan(rounds=1)))[0].weights

    one, other = await trained("abcde"), await trained("edcba")
    assert one["w"].tobytes() == other["w"].tobytes()


def _with_nan(task: bytes) -> bytes:
    """An honest result whose first number was overwritten behind the codec's back."""
    mark = np.float32(123.5)
    marked = result_of(task, arrays={"arrays": {**weights(1), "scale": np.full((), mark)}})
    return marked.replace(mark.tobytes(), np.float32(np.nan).tobytes(), 1)


BAD_NODES = {
    "NODE_BROKE": lambda task: encode(Payload(5, 1, "train", error="NODE_BROKE")),
    "PAYLOAD_MALFORMED": lambda _: b"\x80\x04N.",
    "NOT_FINITE": _with_nan,
    "UPDATE_SHAPE": lambda task: result_of(task, arrays={"arrays": {"w": np.zeros((3, 2), np.float32)}}),
    "UPDATE_TOO_LARGE": moved(1e6),
    "UPDATE_EXAMPLES": moved(1, examples=1e12),
    "UPDATE_FORM": lambda task: result_of(task, metrics={"metrics": {"num-examples": 1.0}}),
}


@pytest.mark.parametrize("reason", BAD_NODES)
async def test_a_bad_result_costs_its_node_the_round_and_nothing_else(reason):
    trained, rounds = await run({"good": moved(1), "bad": BAD_NODES[reason]})
    assert all(r["failed"] == {"bad": reason} and r["nodes"] == ["good"] for r in rounds)
    np.testing.assert_array_equal(trained.weights["w"], weights(3)["w"])
    assert trained.nodes == {"good"}


async def test_examples_of_no_patches_do_not_count():
    _, rounds = await run({"good": moved(1), "bad": moved(1, examples=0)})
    assert rounds[0]["failed"] == {"bad": "UPDATE_EXAMPLES"}


async def test_an_overflowing_update_is_told_from_a_large_one():
    huge = {"w": np.full((2, 3), 3e38, np.float32), "scale": np.zeros((), np.float32)}
    _, rounds = await run({"good": moved(1), "bad": lambda task: result_of(task, arrays={"arrays": huge})})
    assert rounds[0]["failed"] == {"bad": "UPDATE_TOO_LARGE"}


async def test_a_strategy_that_fails_leaves_no_task_with_the_nodes(monkeypatch):
    monkeypatch.setattr("coordinator.training.strategies.StreamedAvg.aggregate_train", lambda *_: 1 / 0)
    board = TaskBoard()
    with pytest.raises(ZeroDivisionError):
        await run({"a": moved(1), "b": moved(1)}, board=board)
    assert [await board.next_task(name, 0.01) for name in "ab"] == [None, None]
    assert board._tasks == {}


async def test_a_node_that_vanishes_in_a_round_costs_that_round_only(monkeypatch):
    monkeypatch.setattr(board_module, "SILENCE_S", 0.5)
    monkeypatch.setattr(board_module, "GRACE_S", 0.3)
    board = TaskBoard()

    async def vanish():
        willing = await board.next_task("gone", 5)
        deliver(board, willing, result_of(willing.payload.read()))
        await board.next_task("gone", 5)  # takes the first task of a round and is never heard of again

    vanishing = asyncio.create_task(vanish())
    trained, rounds = await run({"good": moved(1)}, board=board)
    await vanishing
    assert rounds[0]["failed"] == {"gone": "NODE_GONE"}
    assert [r["nodes"] for r in rounds] == [["good"]] * 3
    assert rounds[1]["failed"] == {}
    np.testing.assert_array_equal(trained.weights["w"], weights(3)["w"])


async def test_a_slow_node_is_left_behind_at_the_round_deadline():
    board, late = TaskBoard(), []

    async def slow():
        while True:
            task = await board.next_task("slow", 0.2)  # goes on waiting for tasks, never answers those of rounds
            if task is not None and decode(task.payload.read()).kind == PREFLIGHT:
                deliver(board, task, result_of(task.payload.read()))
            elif task is not None:
                late.append(task)
                await asyncio.sleep(0.2)

    crawling = asyncio.create_task(slow())
    _, rounds = await run({"good": moved(1)}, board=board, plan=small_plan(rounds=1), rules=Rules(1, 1.0))
    crawling.cancel()
    assert rounds[0]["failed"] == {"slow": "ROUND_DEADLINE"}
    with pytest.raises(TrainingError) as refused:
        deliver(board, late[0], b"late")
    assert refused.value.reason == "TASK_EXPIRED"


async def test_a_round_below_its_minimum_leaves_the_weights_as_they_were():
    answers = iter([True, False, True])

    def sometimes(task):
        return result_of(task) if next(answers) else encode(Payload(5, 2, "train", error="NODE_BROKE"))

    trained, rounds = await run({"a": moved(1), "b": sometimes}, rules=Rules(2, 30.0))
    assert [r["counted"] for r in rounds] == [True, False, True]
    np.testing.assert_array_equal(trained.weights["w"], weights(2)["w"])
    assert trained.rounds == 2


async def test_a_run_without_any_result_fails_and_says_why():
    with pytest.raises(TrainingError) as failed:
        await run({"a": lambda _: encode(Payload(5, 1, "train", error="NO_LABELLED_PATCHES"))})
    assert failed.value.reason == "NO_RESULT"
    assert "NO_LABELLED_PATCHES" in failed.value.public


async def test_too_few_nodes_end_the_run_instead_of_waiting_for_ever():
    events = []
    with pytest.raises(TrainingError) as failed:
        await asyncio.to_thread(
            train,
            BoardGrid(TaskBoard(), 5),
            small_plan(),
            Progress(weights=weights()),
            run_id=5,
            rules=Rules(2, 0.1),
            note=lambda kind, data: events.append((kind, data)),
        )
    assert failed.value.reason == "TOO_FEW_NODES"
    assert events == [("waiting", {"round": 1, "present": 0, "needed": 2})]


async def test_a_node_that_comes_late_takes_part_from_the_next_round():
    board = TaskBoard()

    def answer(task):
        if decode(task).round == 1:
            joined.append(asyncio.run_coroutine_threadsafe(answer_tasks(board, "late", moved(1)), loop))
        return result_of(task)

    loop, joined = asyncio.get_running_loop(), []
    _, rounds = await run({"early": answer}, board=board)
    joined[0].cancel()
    assert rounds[0]["nodes"] == ["early"]
    assert rounds[-1]["nodes"] == ["early", "late"]


async def test_the_grid_serves_strategies_that_push_and_pull_themselves():
    board = TaskBoard()
    node = asyncio.create_task(answer_tasks(board, "a", moved(1)))
    await until(board.present)

    def exchange():
        grid = BoardGrid(board, 6)
        [number] = grid.get_node_ids()
        content = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(array) for name, array in weights().items()}),
                "config": ConfigRecord({"server-round": 1}),
            }
        )
        message = grid.create_message(content, "train", number, "1")
        [task_id] = grid.push_messages([message])
        while not (replies := list(grid.pull_messages([task_id]))):
            grid.wait(0.01)
        return message, replies[0]

    message, reply = await asyncio.to_thread(exchange)
    node.cancel()
    assert reply.metadata.src_node_id == message.metadata.dst_node_id
    assert float(reply.content["metrics"]["num-examples"]) == 10


def counting(counts=None, **changes):
    """A node that trains honestly and sends these counts for calibration, or a payload changed like this."""

    def answer(task):
        payload = decode(task)
        if payload.kind != EVALUATE:
            return result_of(task)
        honest = decode(counts_of(task, counts))
        return encode(replace(honest, **changes))

    return answer


def calibrated(events):
    return [data for kind, data in events if kind == "calibrated"]


async def test_after_the_last_round_nodes_count_with_the_trained_weights_and_a_table_is_fitted():
    seen = []

    def answer(task):
        payload = decode(task)
        if payload.kind == EVALUATE:
            seen.append((payload.round, payload.arrays["arrays"]["w"].tolist(), payload.configs["config"]["plan"]))
        return result_of(task)

    trained, events = await run_whole({"a": answer, "b": counting()})
    assert seen == [(3, trained.weights["w"].tolist(), small_plan().model_dump_json())]
    assert trained.calibration == fit(total([pair_counts()] * 2), nodes=2)
    assert [(band.distance, band.pairs) for band in trained.calibration.bands] == [(0, 240), (1, 160), (2, 80)]
    [event] = calibrated(events)
    assert (event["nodes"], event["failed"], event["queries"]) == (["a", "b"], {}, 24)
    assert event["prior"] == pytest.approx(0.3, abs=1e-6)
    assert events[-1][0] == "calibrated"


LYING_NODES = {
    "NODE_BROKE": lambda task: (
        encode(Payload(5, 3, EVALUATE, error="NODE_BROKE")) if decode(task).kind == EVALUATE else result_of(task)
    ),
    "CALIBRATION_COUNTS": counting(pair_counts(relevant=(61.0,))),
    "CALIBRATION_FORM": counting(arrays={}),
    "CODEBOOK_FORM": counting(arrays={"arrays": to_records(pair_counts())[0]}),
    "PAYLOAD_MALFORMED": lambda task: b"\x80\x04N." if decode(task).kind == EVALUATE else result_of(task),
}


@pytest.mark.parametrize("reason", LYING_NODES)
async def test_counts_of_a_lying_node_are_dropped_and_those_of_the_others_stay(reason):
    trained, events = await run_whole({"good": counting(), "bad": LYING_NODES[reason]})
    assert calibrated(events)[0]["failed"] == {"bad": reason}
    assert trained.calibration == fit(pair_counts(), nodes=1)
    assert trained.nodes == {"good", "bad"}


async def test_nodes_count_their_codes_and_the_release_gets_the_code_of_each_class():
    trained, events = await run_whole({"a": counting(), "b": counting()})
    assert [entry.class_id for entry in trained.codebook] == [10, 12], "no node has enough of class 11"
    centres = centres_of(small_plan())
    fixed = centres.shape[1]
    codes = [np.unpackbits(np.frombuffer(bytes.fromhex(entry.code), np.uint8)) for entry in trained.codebook]
    np.testing.assert_array_equal([code[:fixed] for code in codes], centres[[0, 2]])
    assert [set(code[fixed:].tolist()) for code in codes] == [{1}, {0}]
    assert trained.reach == 2
    assert calibrated(events)[0]["cells"] == 2


async def test_too_few_pairs_give_no_table_and_a_run_none_the_worse():
    few = pair_counts(pairs=(20.0,), relevant=(10.0,))
    trained, events = await run_whole({"a": counting(few)})
    assert trained.calibration is None
    nothing = {"queries": None, "prior": None, "error": None, "cells": 2}
    assert calibrated(events) == [{"nodes": ["a"], "failed": {}} | nothing]
    np.testing.assert_array_equal(trained.weights["w"], weights(3)["w"])


async def test_a_calibration_that_breaks_leaves_the_trained_weights(monkeypatch):
    monkeypatch.setattr("coordinator.training.rounds.fit", lambda *_, **__: 1 / 0)
    trained, _ = await run_whole({"a": counting()})
    assert trained.calibration is None
    np.testing.assert_array_equal(trained.weights["w"], weights(3)["w"])


async def test_a_run_that_is_cancelled_while_nodes_count_is_cancelled():
    board = TaskBoard()

    def answer(task):
        if decode(task).kind == EVALUATE:
            board.cancel()
            return counts_of(task)
        return result_of(task)

    with pytest.raises(RunCancelled):
        await run_whole({"a": answer, "b": counting()}, board=board)


async def test_a_share_of_the_nodes_is_drawn_for_each_round_and_an_interrupted_run_draws_on_as_it_would_have():
    nodes, plan, rules, kept = {name: moved(1) for name in "abcdefgh"}, small_plan(rounds=6), Rules(1, 30.0, 0.5), []
    _, rounds = await run(nodes, plan=plan, rules=rules, kept=kept)
    drawn = [tuple(r["nodes"]) for r in rounds]
    assert {len(names) for names in drawn} == {4}
    assert len(set(drawn)) > 1
    assert all(r["failed"] == {} for r in rounds)  # those that were not asked did not fail
    random.seed(99)  # what else draws in this process changes nothing
    _, rest = await run(nodes, plan=plan, rules=rules, since=kept[2])
    assert [tuple(r["nodes"]) for r in rest] == drawn[3:]


async def test_a_round_asks_at_least_the_minimum_of_nodes():
    _, rounds = await run({name: moved(1) for name in "abcd"}, rules=Rules(3, 30.0, 0.1))
    assert [len(r["nodes"]) for r in rounds] == [3, 3, 3]


async def test_after_a_restart_the_nodes_of_the_last_round_are_waited_for():
    board, kept = TaskBoard(), []
    await run({"a": moved(1), "b": moved(1)}, board=board, kept=kept)

    async def back_late():
        await asyncio.sleep(0.7)
        await answer_tasks(again, "b", moved(1))

    again = TaskBoard()
    late = asyncio.create_task(back_late())
    _, rounds = await run({"a": moved(1)}, board=again, since=kept[0])
    late.cancel()
    assert [r["nodes"] for r in rounds] == [["a", "b"]] * 2


async def test_nodes_that_do_not_tell_their_loss_leave_that_of_the_others():
    def silent(task):
        payload = decode(result_of(task))
        del payload.metrics["metrics"]["loss"]
        return encode(payload)

    _, rounds = await run({"a": moved(1, loss=0.25), "b": silent})
    assert [(r["loss"], r["nodes"]) for r in rounds] == [(0.25, ["a", "b"])] * 3
    trained, rounds = await run({"b": silent})
    assert [r["loss"] for r in rounds] == [None] * 3
    assert trained.loss is None
