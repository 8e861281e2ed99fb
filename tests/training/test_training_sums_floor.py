"""Classes of few acquisitions are left out of a node's sums, and what a node will not give is said beforehand."""

import asyncio
from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
from onnx_maker import tiny_trunk
from test_training_bounds import ask, log
from test_training_rounds import moved, run_whole
from training_archive import load_patches, make_archive
from training_fakes import CLASSES, result_of, small_plan

from coordinator.training.show import print_run
from node.training.bounds import classes_of_sums
from node.training.trainer import sum_up
from rsfed.clock import utc_now
from rsfed.config import NodeTraining
from rsfed.errors import ConfigError, TrainingError
from rsfed.hashing.closed_form import LEAST_PATCHES
from rsfed.hashing.network import build_network
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import PREFLIGHT, SUMS
from rsfed.hashing.refit import to_arrays
from rsfed.hashing.trunk import inspect_trunk
from rsfed.hashing.weights import get_state

INDEPENDENT = "independent_files = true"
COUNTS = {"field": 8, "forest": 30, "water": 4}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "model.onnx"
    path.write_bytes(tiny_trunk(size=16, features=24))
    return path


@pytest.fixture(scope="module")
def plan(trunk):
    return small_plan(architecture=inspect_trunk(trunk, 16), solve_start=True, solve_end=True, rounds=2)


@pytest.fixture
def make(tmp_path, members, key, trunk, plan):
    """Makes a node with photographs under a release on a trunk."""

    def made(counts=COUNTS, archive=INDEPENDENT, **more):
        home = tmp_path / "node"
        return make_archive(home, counts, members=members, key=key, plan=plan, trunk=trunk, archive=archive, **more)

    return made


def behind(least, *acquisitions_by_class, floor=1):
    """The classes that sums come from, of a node whose patches of each class are of these acquisitions."""
    labels = np.repeat(np.eye(len(acquisitions_by_class), dtype=bool), [len(a) for a in acquisitions_by_class], axis=0)
    plan = SimpleNamespace(solves=True)
    limits = NodeTraining(sums_acquisitions=least)
    return classes_of_sums(plan, limits, labels, list("".join(acquisitions_by_class)), floor=floor).tolist()


def test_a_class_counts_by_the_distinct_acquisitions_behind_it():
    assert behind(5, "abcde", "aabbccddd", "abcdefg", "") == [True, False, True, False]


@pytest.mark.parametrize(("least", "floor"), [(7, 1), (5, 7)])
def test_the_operator_and_the_policy_level_may_ask_for_more(least, floor):
    assert behind(least, "abcde", "abcdefg", floor=floor) == [False, True]


def test_a_large_class_of_few_acquisitions_keeps_the_layer_from_being_solved_for_without_it():
    small, large = "abcd" * 4, "abcd" * (LEAST_PATCHES // 4)
    assert behind(5, "abcde", small) == [True, False]
    with pytest.raises(TrainingError) as refused:
        behind(5, "abcde", large)
    assert refused.value.reason == "TOO_FEW_ACQUISITIONS"


def test_less_than_the_least_cannot_be_configured(make):
    with pytest.raises(ConfigError, match="sums_acquisitions"):
        make(training="sums_acquisitions = 4")


@pytest.mark.parametrize(("training", "told"), [("", ("field", "forest")), ("sums_acquisitions = 9", ("forest",))])
def test_rare_classes_are_left_out_of_the_sums_that_leave(make, plan, training, told):
    home = make(training=training)
    answer = ask(home, SUMS, plan=plan)
    assert answer.error == ""
    own = load_patches(home, plan, 16)
    network = build_network(plan.architecture, plan.input, plan.bits, seed=plan.seed)
    expected, _ = sum_up(
        plan, get_state(network), own.of_classes(np.array([name in told for name in CLASSES])), threads=1
    )
    assert answer.metrics["metrics"].keys() == {"num-examples", "seconds"}
    assert answer.metrics["metrics"]["num-examples"] == sum(COUNTS[name] for name in told)
    for name, array in to_arrays(expected).items():
        assert answer.arrays["arrays"][name] == pytest.approx(array, rel=1e-5, abs=1e-4)


def said(answer):
    assert answer.error == ""
    return answer.configs.get("config", {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"training": "sums = false"}, "SUMS_REFUSED"),
        ({"archive": ""}, "TOO_FEW_ACQUISITIONS"),
        ({"counts": {"field": 10, "forest": 9, "water": 4}}, "TOO_FEW_PATCHES"),
        ({"training": "rounds_per_day = 5"}, None),  # two rounds, sums before and after, and one of today
        ({"training": "rounds_per_day = 4"}, "ROUNDS_PER_DAY"),
    ],
)
def test_a_node_that_will_give_no_sums_says_so_before_the_first_round_and_takes_part(make, plan, changes, reason):
    home = make(**changes)
    log(home, 1)
    assert said(ask(home, PREFLIGHT, plan=plan)) == ({} if reason is None else {"no-sums": reason})
    idle = plan.model_copy(update={"solve_start": False, "solve_end": False})
    assert said(ask(home, PREFLIGHT, plan=idle)) == {}


def without_sums(reason):
    def answer(task):
        payload = decode(task)
        if payload.kind == PREFLIGHT:
            return encode(Payload(payload.run_id, payload.round, PREFLIGHT, configs={"config": {"no-sums": reason}}))
        return result_of(task)

    return answer


async def test_the_run_says_before_its_first_round_which_nodes_give_no_sums():
    nodes = {"a": moved(1), "b": without_sums("SUMS_REFUSED"), "c": without_sums("a text <b>for people</b>")}
    _, events = await asyncio.wait_for(run_whole(nodes), 60)
    told = {"round": 1, "nodes": ["a", "b", "c"], "refused": {}, "no_sums": {"b": "SUMS_REFUSED"}}
    assert events[0] == ("preflight", told)
    run = SimpleNamespace(id=1, words="done", rounds=3, requested=utc_now())
    with redirect_stdout(StringIO()) as out:
        print_run(run, [SimpleNamespace(kind="preflight", data=told)])
    assert "b gives no sums for the last layer: SUMS_REFUSED" in out.getvalue()
