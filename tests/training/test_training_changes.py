"""A node that is asked for packed changes: what it sends, what it keeps for the next round, when it must ask anew."""

import os
import resource
import time

import numpy as np
import pytest
from training_archive import make_archive
from training_fakes import CLASSES, small_plan

import rsfed
from node.training.adapter import run_task
from node.training.client_app import app
from node.training.kept import LIFE_S, DiskMemory
from rsfed.hashing.deltas import PACKED
from rsfed.hashing.exchange import Downlink, result
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import PREFLIGHT
from rsfed.hashing.weights import from_bytes, init_weights

PLAN = small_plan()
START = from_bytes(init_weights(PLAN.architecture, PLAN.input, PLAN.bits, PLAN.seed))


@pytest.fixture(scope="module")
def archive(tmp_path_factory, members, key):
    return make_archive(tmp_path_factory.mktemp("node"), dict.fromkeys(CLASSES, 6), members=members, key=key)


@pytest.fixture
def home(archive):
    DiskMemory(archive).forget()
    return archive


def ask(home, number=1, *, run_id=1, coding=None, change=None, weights=START, kind="train"):
    config = {"plan": PLAN.model_dump_json(), "server-round": number, "software": rsfed.__version__} | (
        {"coding": coding} if coding else {}
    )
    configs = {"config": config} | ({"delta": change} if change else {})
    arrays = {} if change else {"arrays": weights}
    return decode(run_task(app, home.path, encode(Payload(run_id, number, kind, arrays, configs=configs))))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("coding", PACKED)
def test_a_change_says_nearly_what_the_whole_weights_would(home, coding):
    whole = ask(home).arrays["arrays"]
    answer = ask(home, coding=coding)
    assert (answer.error, answer.arrays, set(answer.configs)) == ("", {}, {"delta"})
    assert set(answer.metrics["metrics"]) == {"num-examples", "seconds"}
    said = dict(result(answer.configs["delta"], START))
    for name, array in whole.items():
        most = np.abs(array - START[name]).max()
        assert np.abs(said[name] - array).max() <= most * {"int4": 0.08, "int8": 0.005}.get(coding, 0.001)


def test_rounds_on_changes_are_those_on_whole_weights(home, members, key, tmp_path):
    other, down = make_archive(tmp_path, dict.fromkeys(CLASSES, 6), members=members, key=key), Downlink("int8")
    weights, change = START, None
    for number in (1, 2, 3):
        on_changes = ask(home, number, coding="int8", change=change, weights=weights)
        on_weights = ask(other, number, coding="int8", weights=weights)
        assert on_changes.error == ""
        assert on_changes.configs == on_weights.configs
        weights = dict(down.settle(weights, result(on_changes.configs["delta"], weights), [1]))
        change = down.change_for(1)


def test_a_change_counts_for_the_last_task_too_and_then_nothing_is_kept(home):
    down = Downlink("int4")
    first = ask(home, 1, coding="int4")
    dict(down.settle(START, result(first.configs["delta"], START), [1]))
    answer = ask(home, 1, change=down.change_for(1), kind="evaluate")
    assert answer.error == "TOO_FEW_ACQUISITIONS"  # it read the weights; this archive is too small to count
    assert not list(home.path.glob("training.*"))


def test_a_node_that_was_killed_before_its_result_was_sent_does_the_same_task_again(home):
    down = Downlink("int8")
    first = ask(home, 1, coding="int8")
    weights = dict(down.settle(START, result(first.configs["delta"], START), [1]))
    change = down.change_for(1)
    sent = ask(home, 2, coding="int8", change=change)
    assert sent.error == ""
    again = ask(home, 2, coding="int8", change=change)  # what it keeps is of this round by now
    assert again.error == ""
    assert again.configs == sent.configs
    weights = dict(down.settle(weights, result(again.configs["delta"], weights), [1]))
    assert ask(home, 3, coding="int8", change=down.change_for(1)).error == ""
    assert ask(home, 3, coding="int8", change=change | {"change": b"of other bytes"}).error == "BASE_UNKNOWN"
    assert same(DiskMemory(home).recall(1).start, weights)


def test_what_is_kept_goes_when_another_run_begins_or_nobody_came_back_for_a_day(home):
    ask(home, 1, coding="int8")
    ask(home, 1, kind=PREFLIGHT)
    DiskMemory(home).forget_old()
    assert DiskMemory(home).recall(1) is not None
    ask(home, 1, run_id=2, kind=PREFLIGHT)
    assert not list(home.path.glob("training.*"))
    ask(home, 1, coding="int8")
    yesterday = time.time() - LIFE_S - 60
    os.utime(home.path / "training.safetensors", (yesterday, yesterday))
    DiskMemory(home).forget_old()
    assert not list(home.path.glob("training.*"))


def test_a_node_that_lost_its_weights_says_so_and_takes_them_whole(home):
    down = Downlink("int8")
    first = ask(home, 1, coding="int8")
    weights = dict(down.settle(START, result(first.configs["delta"], START), [1]))
    for damage in (DiskMemory(home).forget, lambda: (home.path / "training.safetensors").write_bytes(b"torn")):
        damage()
        assert ask(home, 2, coding="int8", change=down.change_for(1)).error == "BASE_UNKNOWN"
    assert ask(home, 2, coding="int8", weights=weights).error == ""
    assert ask(home, 2, run_id=9, coding="int8", change=down.change_for(1)).error == "BASE_UNKNOWN"


def test_what_is_kept_comes_back_after_a_restart_of_the_training_process(home):
    ask(home, 1, coding="int8")
    again = DiskMemory(home).recall(1)
    assert again.round == 1
    assert same(again.start, START)
    assert any(array.any() for array in again.lost.values())
    assert not any(array.any() for array in again.before.values())


def test_a_disk_without_room_costs_what_is_kept_and_not_the_result(home):
    ask(home, 1, coding="int8")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    left = DiskMemory(home).recall(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        DiskMemory(home).keep(1, left)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert DiskMemory(home).recall(1) is None
    assert not list(home.path.glob("training.*"))


def test_a_coding_that_the_node_does_not_know_is_refused(home):
    assert ask(home, coding="int2").error == "DELTA_FORM"
