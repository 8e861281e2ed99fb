"""Weights as packed changes: both ends always agree, and nothing that rounding took is lost for good."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.errors import InvalidMessage
from rsfed.hashing.deltas import PACKED
from rsfed.hashing.exchange import Downlink, Kept, answered, received, result

SHAPES = {"scale": (), "w": (3, 700), "bias": (3,)}
NODES = (1, 2, 3)


def some(seed: int, size: float = 1.0) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    return {name: np.asarray(chance.normal(0, size, shape).astype(np.float32)) for name, shape in SHAPES.items()}


def moved(weights: dict[str, np.ndarray], by: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array + by[name]) for name, array in weights.items()}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


class Node:
    """A node that starts from what it gets, moves by a step and sends it."""

    def __init__(self) -> None:
        self.kept: Kept | None = None

    def take(self, round_: int, change, whole, step, coding):
        start = whole if change is None else received(change, self.kept)
        reply, self.kept = answered(round_, start, moved(start, step), coding, self.kept)
        return start, reply


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(PACKED),
    st.lists(st.sets(st.sampled_from(NODES), min_size=1), min_size=1, max_size=6),
    st.integers(0, 2**16),
)
def test_nodes_that_come_and_go_always_start_from_the_weights_of_the_run(coding, rounds, seed) -> None:
    weights, down, nodes = some(seed), Downlink(coding), {node: Node() for node in NODES}
    wholes = 0
    for round_, present in enumerate(rounds, start=1):
        means = []
        for node in sorted(present):
            change = down.change_for(node)
            wholes += change is None
            start, reply = nodes[node].take(round_, change, weights, some(seed + node, 1e-3), coding)
            assert equal(start, weights)
            means.append(dict(result(reply, weights)))
        new = {name: np.asarray(np.mean([each[name] for each in means], axis=0)) for name in weights}
        weights = dict(down.settle(weights, new.items(), present))
    seen = [len(present - before) for before, present in zip([set(), *rounds], rounds, strict=False)]
    assert wholes == sum(seen)  # whole weights travel only to those that were not in the round before


@pytest.mark.parametrize("coding", PACKED)
def test_after_many_rounds_the_weights_are_where_they_would_be_without_rounding(coding) -> None:
    start, step = some(1), some(2, 1e-3)
    weights, down, node = start, Downlink(coding), Node()
    for round_ in range(1, 31):
        _, reply = node.take(round_, down.change_for(1), weights, step, coding)
        weights = dict(down.settle(weights, result(reply, weights), [1]))
    for name, array in weights.items():
        exact = start[name] + 30 * step[name]
        level = np.abs(step[name]).max() / {"int8": 127, "int4": 7}.get(coding, 1024)
        assert np.abs(array - exact).max() <= 4 * level + 1e-5


@pytest.mark.parametrize("coding", PACKED)
def test_a_round_that_is_asked_again_is_answered_the_same(coding) -> None:
    node, weights = Node(), some(3)
    node.take(1, None, weights, some(4), coding)
    first = node.take(2, None, weights, some(5), coding)[1]
    assert node.take(2, None, weights, some(5), coding)[1] == first
    assert node.take(3, None, weights, some(5), coding)[1] != first  # what rounding took before goes with it


def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been() -> None:
    weights, down = some(1), Downlink("int4")
    settled = dict(down.settle(weights, moved(weights, some(2)).items(), [1]))
    again = Downlink("int4", dict(down.lost))
    later = moved(settled, some(3))
    assert equal(dict(down.settle(settled, later.items(), [1])), dict(again.settle(settled, later.items(), [])))
    assert again.change_for(1) is None


def test_a_change_that_was_sent_is_let_go() -> None:
    weights, down = some(1), Downlink("int8")
    dict(down.settle(weights, moved(weights, some(2)).items(), [1]))
    assert down.change_for(1)
    down.spend()
    assert down.change_for(1) is None


def test_a_change_of_other_weights_is_not_taken() -> None:
    weights, down = some(1), Downlink("int8")
    dict(down.settle(weights, moved(weights, some(2)).items(), [1]))
    other = Kept(1, some(9), {}, {})
    for kept in (None, other):
        with pytest.raises(InvalidMessage) as caught:
            received(down.change_for(1), kept)
        assert caught.value.reason == "BASE_UNKNOWN"


@pytest.mark.parametrize("change", [{}, {"coding": "int8"}, {"coding": "int8", "change": "text"}, {"change": b"\0"}])
def test_a_result_that_is_no_change_is_refused(change) -> None:
    with pytest.raises(InvalidMessage) as caught:
        dict(result(change, some(1)))
    assert caught.value.reason == "DELTA_FORM"


def test_a_node_asked_for_an_unknown_coding_says_so() -> None:
    with pytest.raises(InvalidMessage) as caught:
        answered(1, some(1), some(2), "int3", None)
    assert caught.value.reason == "DELTA_FORM"
