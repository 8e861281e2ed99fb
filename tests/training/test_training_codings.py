"""Rounds in which weights travel as packed changes: both ends agree, few bytes move, and nobody is left behind."""

from dataclasses import replace

import numpy as np
import pytest
from test_training_rounds import run_whole
from training_fakes import counts_of, result_of, small_plan

from coordinator.training.rounds import Rules
from rsfed.errors import InvalidMessage
from rsfed.hashing.deltas import PACKED
from rsfed.hashing.exchange import answered, received
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import TRAIN

SIZE = 20_000
START = {"w": np.random.default_rng(0).normal(size=(4, SIZE // 4)).astype(np.float32), "b": np.ones(4, np.float32)}
WHOLE = sum(array.nbytes for array in START.values())


def steps(number: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(number)
    return {name: draw.normal(0, 1e-3, array.shape).astype(np.float32) for name, array in START.items()}


class Node:
    """Moves by a step that is its own and the round's, and answers with packed changes."""

    def __init__(self, own: int) -> None:
        self.own, self.kept = own, None
        self.starts: list[dict[str, np.ndarray]] = []  # what its rounds started from
        self.sizes: list[int] = []  # bytes of its tasks

    def __call__(self, task: bytes) -> bytes:
        payload = decode(task)
        if payload.kind not in {TRAIN, "evaluate"}:
            return result_of(task)
        self.sizes.append(len(task))
        try:
            start = self._start(payload)
        except InvalidMessage as error:
            return encode(Payload(payload.run_id, payload.round, payload.kind, error=error.reason))
        self.starts.append(start)
        return counts_of(task) if payload.kind == "evaluate" else self._answer(payload, start)

    def _start(self, payload):
        if "delta" in payload.configs:
            return received(payload.configs["delta"], self.kept)
        return payload.arrays["arrays"]

    def _answer(self, payload, start) -> bytes:
        trained = {name: array + steps(100 * self.own + payload.round)[name] for name, array in start.items()}
        coding = payload.configs["config"]["coding"]
        change, self.kept = answered(payload.round, start, trained, coding, self.kept)
        metrics = {"num-examples": 10.0, "seconds": 0.1}
        reply = Payload(payload.run_id, payload.round, TRAIN, {}, {"metrics": metrics}, {"delta": change})
        return encode(reply)


def rules(coding: str, **more) -> Rules:
    return Rules(2, 3.0, coding=coding, **more)


def rounds_of(events):
    return [data for kind, data in events if kind == "round"]


def exact(rounds: int) -> dict[str, np.ndarray]:
    moves = [steps(100 * own + number) for own in (1, 2) for number in range(1, rounds + 1)]
    return {name: array + sum(move[name] for move in moves) / 2 for name, array in START.items()}


@pytest.mark.parametrize("coding", PACKED)
async def test_nodes_and_coordinator_agree_and_the_result_is_nearly_that_of_whole_weights(coding):
    nodes = {"a": Node(1), "b": Node(2)}
    trained, events = await run_whole(nodes, start=dict(START), plan=small_plan(rounds=5), rules=rules(coding))
    one, other = (node.starts for node in nodes.values())
    assert len(one) == len(other) == 6  # five rounds and the calibration
    for mine, theirs in zip(one, other, strict=True):
        assert all(mine[name].tobytes() == theirs[name].tobytes() for name in START)
    assert all(one[-1][name].tobytes() == trained.weights[name].tobytes() for name in START)
    most = {"int4": 1e-3, "int8": 1e-4}.get(coding, 1e-5)
    for name, array in exact(5).items():
        assert np.abs(trained.weights[name] - array).max() < most
    assert all(data["counted"] and data["nodes"] == ["a", "b"] for data in rounds_of(events))


async def test_whole_weights_go_once_to_each_node_and_then_only_changes():
    nodes = {"a": Node(1), "b": Node(2)}
    _, events = await run_whole(nodes, start=dict(START), plan=small_plan(rounds=3), rules=rules("int8"))
    for node in nodes.values():
        first, *later = node.sizes
        assert first > WHOLE
        assert len(later) == 3  # two rounds and the calibration
        assert all(size < 0.35 * WHOLE for size in later)
    assert all(data["received_bytes"] < 0.3 * 2 * WHOLE for data in rounds_of(events))


async def test_weights_that_travel_whole_ask_for_no_change():
    seen = []
    await run_whole(
        {"a": lambda task: (seen.append(decode(task)), result_of(task))[1]}, start=dict(START), rules=Rules(1, 30.0)
    )
    assert not [each for each in seen if "coding" in each.configs["config"] or "delta" in each.configs]


async def test_a_node_of_older_software_sends_and_gets_whole_weights():
    sizes = []

    def older(task):
        sizes.append(len(task))
        return result_of(task, step=0.0)

    node = Node(1)
    _, events = await run_whole({"a": node, "old": older}, start=dict(START), rules=rules("int8"))
    assert all(data["nodes"] == ["a", "old"] for data in rounds_of(events))
    assert all(size > WHOLE for size in sizes[1:])  # the first asked whether it takes part
    assert node.sizes[1] < WHOLE / 2


async def test_a_node_that_lost_its_weights_misses_one_round():
    node = Node(1)

    def forgetful(task):
        if decode(task).kind == TRAIN and decode(task).round == 2:
            node.kept = None
        return node(task)

    _, events = await run_whole(
        {"a": forgetful, "b": Node(2)},
        start=dict(START),
        plan=small_plan(rounds=4),
        rules=replace(rules("int8"), min_nodes=1),
    )
    failed = [data["failed"] for data in rounds_of(events)]
    assert failed == [{}, {"a": "BASE_UNKNOWN"}, {}, {}]


@pytest.mark.parametrize("coding", PACKED)
async def test_an_interrupted_run_ends_with_the_same_weights(coding):
    kept: list = []
    nodes = {"a": Node(1), "b": Node(2)}
    whole, _ = await run_whole(nodes, start=dict(START), plan=small_plan(rounds=4), rules=rules(coding), kept=kept)
    for since in kept[:-1]:
        again = {"a": Node(1), "b": Node(2)}
        for name, node in again.items():  # as the nodes' own disks have it
            node.kept = await _after(name, since.round, coding)
        carried = dict(since.strategy)
        resumed, _ = await run_whole(again, since=since, plan=small_plan(rounds=4), rules=rules(coding))
        assert all(resumed.weights[name].tobytes() == whole.weights[name].tobytes() for name in START)
        assert carried
        assert not since.strategy  # memory holds it once


async def _after(name, rounds, coding):
    nodes = {"a": Node(1), "b": Node(2)}
    kept_then: dict = {}

    def until_then(node):
        def answer(task):
            result = node(task)
            if decode(task).kind == TRAIN and decode(task).round == rounds:
                kept_then[id(node)] = node.kept
            return result

        return answer

    wrapped = {key: until_then(node) for key, node in nodes.items()}
    await run_whole(wrapped, start=dict(START), plan=small_plan(rounds=4), rules=rules(coding))
    return kept_then[id(nodes[name])]


BAD = {
    "DELTA_FORM": {"coding": "int8", "change": b"\0too short"},
    "NOT_FINITE": {"coding": "float16", "change": b"\0" + np.full(SIZE + 4, np.nan, "<f2").tobytes()},
    "UPDATE_TOO_LARGE": {"coding": "float16", "change": b"\0" + np.full(SIZE + 4, 6e4, "<f2").tobytes()},
}


@pytest.mark.parametrize("reason", BAD)
async def test_a_bad_change_costs_its_node_the_round_and_nothing_else(reason):
    def bad(task):
        if decode(task).kind != TRAIN:
            return result_of(task)
        metrics = {"num-examples": 10.0, "seconds": 0.1}
        return encode(Payload(5, 1, TRAIN, {}, {"metrics": metrics}, {"delta": BAD[reason]}))

    nodes = {"a": Node(1), "b": Node(2), "bad": bad}
    trained, events = await run_whole(nodes, start=dict(START), rules=rules("int8"))
    assert all(data["failed"] == {"bad": reason} for data in rounds_of(events))
    for name, array in exact(3).items():
        assert np.abs(trained.weights[name] - array).max() < 1e-4


async def test_a_round_without_enough_results_leaves_the_weights_where_they_are():
    a, b = Node(1), Node(2)

    def away(task):
        if decode(task).kind == TRAIN and decode(task).round == 2:
            return encode(Payload(5, 2, TRAIN, error="NODE_BROKE"))
        return b(task)

    _, events = await run_whole({"a": a, "b": away}, start=dict(START), plan=small_plan(rounds=3), rules=rules("int8"))
    assert [data["counted"] for data in rounds_of(events)] == [True, False, True]
    assert all(a.starts[1][name].tobytes() == a.starts[2][name].tobytes() for name in START)


async def test_a_result_may_be_as_large_as_whole_weights_however_little_its_task_was():
    """Where nothing changed a task is next to nothing, and what a node found may not be."""
    node = Node(1)
    size = 3 << 20
    start = {"w": np.zeros(size, np.float32)}
    noise = np.random.default_rng(0).normal(0, 1e-3, size).astype(np.float32)
    number = 0

    def moving(task):
        nonlocal number
        payload = decode(task)
        if payload.kind != TRAIN:
            return result_of(task)
        node.sizes.append(len(task))
        number += 1
        before = node._start(payload)
        trained = before if number == 1 else {"w": before["w"] + noise}
        change, node.kept = answered(payload.round, before, trained, "float16", node.kept)
        metrics = {"num-examples": 10.0, "seconds": 0.1}
        return encode(Payload(5, payload.round, TRAIN, {}, {"metrics": metrics}, {"delta": change}))

    _, events = await run_whole(
        {"a": moving}, start=start, plan=small_plan(rounds=2), rules=Rules(1, 60.0, coding="float16")
    )
    assert [data["failed"] for data in rounds_of(events)] == [{}, {}]
    assert node.sizes[1] < size < rounds_of(events)[1]["received_bytes"]
