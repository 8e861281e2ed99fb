"""The mean of the weights after the last rounds: what a run ends with, from one life of the coordinator or several."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from test_training_codings import START, Node, exact
from test_training_codings import rules as packing
from test_training_resume import uneven
from test_training_rounds import moved, run_whole
from training_fakes import in_rounds, result_of, small_plan, weights

from coordinator.training.late import LateMean
from coordinator.training.rounds import Rules
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import TRAIN

PLAN = small_plan(rounds=5)


def record(value):
    return ArrayRecord({"w": Array(np.full((2, 3), value, np.float32))})


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 12))
def test_it_is_the_mean_of_the_last_weights_also_when_it_goes_on_from_what_was_kept(values, last, interrupted):
    late = LateMean(last, len(values), {})
    for number, value in enumerate(values, start=1):
        late.add(number, record(value))
        if number == interrupted:
            late = LateMean(last, len(values), {"other": np.ones(1), **late.kept})
    kept, found = late.kept, late.result()
    if min(last, len(values)) == 1:
        assert (found, kept) == (None, {})
    else:
        assert found["w"].numpy() == pytest.approx(np.mean(values[-last:]), rel=1e-4, abs=1e-3)


async def test_a_run_ends_with_the_mean_of_its_last_rounds_that_counted():
    def failing_in_round_4(task):
        payload = decode(task)
        if payload.kind == TRAIN and payload.round == 4:
            return encode(Payload(payload.run_id, 4, TRAIN, error="NODE_BROKE"))
        return result_of(task)

    trained, _ = await run_whole({"a": moved(1)}, plan=PLAN, rules=Rules(1, 30.0, average=3))
    np.testing.assert_allclose(trained.weights["w"], weights(np.mean([3, 4, 5]))["w"])
    trained, _ = await run_whole({"a": failing_in_round_4}, plan=PLAN, rules=Rules(1, 30.0, average=3))
    np.testing.assert_allclose(trained.weights["w"], weights(np.mean([3, 4]))["w"])
    trained, _ = await run_whole({"a": moved(1)}, plan=PLAN, rules=Rules(1, 30.0))
    np.testing.assert_allclose(trained.weights["w"], weights(5)["w"])


async def test_a_run_that_goes_on_from_any_round_ends_with_the_same_mean():
    kept: list = []
    rules = Rules(1, 30.0, average=3)
    whole, _ = await run_whole({"a": in_rounds(uneven)}, plan=PLAN, rules=rules, kept=kept)
    for since in kept:
        copied = replace(since, weights=dict(since.weights), strategy=dict(since.strategy))
        before = [{"nodes": ["a"], "counted": True, "loss": 0.5, "round": n + 1} for n in range(since.round)]
        again, _ = await run_whole({"a": in_rounds(uneven)}, plan=PLAN, rules=rules, since=copied, before=before)
        assert again.weights["w"].tobytes() == whole.weights["w"].tobytes()


async def test_nodes_that_hold_the_last_weights_get_the_mean_whole():
    nodes = {"a": Node(1), "b": Node(2)}
    trained, _ = await run_whole(nodes, start=dict(START), plan=PLAN, rules=packing("int8", average=3))
    for node in nodes.values():
        assert len(node.starts) == 6  # five rounds and the calibration
        assert all(node.starts[-1][name].tobytes() == trained.weights[name].tobytes() for name in START)
    for name, array in trained.weights.items():
        assert array == pytest.approx(np.mean([exact(number)[name] for number in (3, 4, 5)], axis=0), abs=1e-4)
