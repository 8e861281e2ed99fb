"""Sums for the last layer: what a node gives and when, what the coordinator believes, and what it solves for."""

import asyncio
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
from onnx_maker import tiny_trunk
from pydantic import ValidationError
from test_training_bounds import ask, log
from training_archive import load_patches, make_archive
from training_fakes import CLASSES, answer_tasks, small_plan, until

from coordinator.training import attendance
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.rounds import Hooks, Rules, server_app
from coordinator.training.show import print_run
from coordinator.training.solving import SolveReport
from node.training.adapter import run_task
from node.training.bare_app import app_over
from node.training.client_app import app
from node.training.journal import DONE
from node.training.trainer import sum_up
from rsfed.clock import utc_now
from rsfed.config import CoordinatorConfig
from rsfed.config_objectives import BatchAllSection
from rsfed.config_strategies import FedAvgMSection, FedAvgSection, KrumSection
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing import refit
from rsfed.hashing.closed_form import LEAST_PATCHES, Sums
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.network import build_network
from rsfed.hashing.plan import SUMS, TRAIN, parse_plan
from rsfed.hashing.trunk import inspect_trunk
from rsfed.hashing.weights import get_state
from rsfed.lab.federated import learners
from rsfed.lab.federated.grid import LocalGrid
from rsfed.lab.federated.learners import run_over

COUNTS = dict.fromkeys(CLASSES, 8)
INDEPENDENT = "independent_files = true"
WIDTH, BITS, HELD = 24, 16, 12
RELEASED = {"version": 2, "digest": "0" * 64}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "model.onnx"
    path.write_bytes(tiny_trunk(size=16, features=WIDTH))
    return path


@pytest.fixture(scope="module")
def plan(trunk):
    return small_plan(architecture=inspect_trunk(trunk, 16), solve_start=True, solve_end=True, rounds=2)


@pytest.fixture
def make(tmp_path, members, key, trunk, plan):
    """Makes a node with photographs under a release on a trunk."""

    def made(counts=COUNTS, **more):
        return make_archive(tmp_path / "node", counts, members=members, key=key, plan=plan, trunk=trunk, **more)

    return made


def patches(seed, each=10, classes=(0, 1, 2)):
    """Features of a few classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.array(classes), each)
    middles = np.random.default_rng(99).normal(0, 1, (len(CLASSES), WIDTH))
    rows = (middles[labels] + rng.normal(0, 0.3, (len(labels), WIDTH))).astype(np.float16)
    return PatchSet(
        tuple((row,) for row in rows), np.eye(len(CLASSES), dtype=bool)[labels], len(rows), augmentable=False
    )


def app_of(held, acquisitions):
    """A node of the lab; its patches come from so many acquisitions in turn."""
    return app_over(held, 1, [f"overpass {number % acquisitions}" for number in range(len(held))])


def start(plan):
    return get_state(build_network(plan.architecture, plan.input, plan.bits, seed=plan.seed))


def test_a_node_gives_the_sums_of_its_own_patches_and_nothing_else(make, plan):
    home = make(archive=INDEPENDENT)
    answer = ask(home, SUMS, plan=plan)
    assert answer.error == ""
    own = load_patches(home, plan, 16)
    expected, _ = sum_up(plan, start(plan), own, threads=1)
    assert answer.metrics["metrics"].keys() == {"num-examples", "seconds"}
    assert answer.metrics["metrics"]["num-examples"] == sum(COUNTS.values())
    assert answer.configs == {}
    assert answer.arrays["arrays"].keys() == {"gram", "targets"}
    assert answer.arrays["arrays"]["gram"] == pytest.approx(triangle(expected.gram), rel=1e-5, abs=1e-4)
    assert answer.arrays["arrays"]["targets"] == pytest.approx(expected.targets, rel=1e-5, abs=1e-4)


def test_the_operator_may_keep_sums_here(make, plan):
    assert ask(make(archive=INDEPENDENT, training="sums = false"), SUMS, plan=plan).error == "SUMS_REFUSED"


def test_sums_of_one_acquisition_stay_here(make, plan):
    assert ask(make(), SUMS, plan=plan).error == "TOO_FEW_ACQUISITIONS"


def test_sums_of_few_patches_stay_here(make, plan):
    few = {"forest": 10, "water": LEAST_PATCHES - 11}
    assert ask(make(few, archive=INDEPENDENT), SUMS, plan=plan).error == "TOO_FEW_PATCHES"


def test_sums_that_no_run_has_a_use_for_and_rounds_too_many_are_refused(make, plan):
    home = make(archive=INDEPENDENT, training="rounds_per_day = 2")
    idle = replace_plan(plan, solve_start=False, solve_end=False)
    assert ask(home, SUMS, plan=idle).error == "PLAN_INVALID"
    log(home, 1)
    assert ask(home, SUMS, plan=plan).error == ""
    log(home, 1, kind=SUMS, state=DONE)
    assert ask(home, SUMS, plan=plan).error == "ROUNDS_PER_DAY"


def replace_plan(plan, **changes):
    return plan.model_copy(update=changes)


@pytest.mark.parametrize("change", [{"objective": BatchAllSection()}, {"architecture": small_plan().architecture}])
def test_a_plan_solves_for_the_centres_of_a_head_on_a_trunk_alone(plan, change):
    with pytest.raises(InvalidMessage) as refused:
        parse_plan(replace_plan(plan, **change).model_dump_json())
    assert refused.value.reason == "PLAN_INVALID"


def triangle(gram):
    """What travels of a symmetric matrix."""
    return gram[np.tril_indices(len(gram))]


def given(plan, held=None, weights=None):
    return sum_up(plan, weights or start(plan), held or patches(0), threads=1)[0]


def read(plan, sums, patches_=None, **arrays):
    return refit.from_arrays(refit.to_arrays(sums) | arrays, patches_ or sums.patches, start(plan), HELD)


def test_sums_come_through_the_wire(plan):
    sums = given(plan)
    found = read(plan, sums)
    assert found.patches == sums.patches
    assert found.gram == pytest.approx(sums.gram, rel=1e-5, abs=1e-4)
    assert found.targets == pytest.approx(sums.targets, rel=1e-5, abs=1e-4)


def spoiled(sums):
    """Sums that no patches have, by what is wrong with them."""
    gram, targets = sums.gram.astype(np.float32), sums.targets.astype(np.float32)
    indefinite, infinite = gram.copy(), gram.copy()
    indefinite[0, 1] = indefinite[1, 0] = 3 * np.sqrt(gram[0, 0] * gram[1, 1])
    infinite[0, 0] = np.inf
    louder = np.append(np.full(len(gram) - 1, 100, np.float32), np.float32(1))
    return {
        "indefinite": {"gram": triangle(indefinite)},
        "infinite": {"gram": triangle(infinite)},
        "louder than its patches": {
            "gram": triangle(gram * np.outer(louder, louder)),
            "targets": targets * louder[:, None],
        },
        "targets of other patches": {"targets": targets * -1e6},
        "not a number": {"targets": targets * np.nan},
    }


@pytest.mark.parametrize("what", list(spoiled(Sums(np.eye(5), np.ones((5, 2)), 1))))
def test_sums_that_no_patches_have_are_refused(plan, what):
    sums = given(plan)
    with pytest.raises(InvalidMessage) as refused:
        read(plan, sums, **spoiled(sums)[what])
    assert refused.value.reason == "SUMS_VALUES"


def test_sums_of_another_layer_or_of_more_patches_than_they_come_from_are_refused(plan):
    sums = given(plan)
    for changed in (replace(sums, gram=sums.gram[1:, 1:]), replace(sums, targets=sums.targets[:, 1:])):
        with pytest.raises(InvalidMessage) as refused:
            read(plan, changed)
        assert refused.value.reason == "SUMS_FORM"
    with pytest.raises(InvalidMessage) as refused:
        read(plan, sums, 2 * sums.patches)
    assert refused.value.reason == "SUMS_VALUES"


class Told:
    """Hooks that remember, and how far the run was each time."""

    def __init__(self):
        self.solved, self.progress = [], []
        self.hooks = Hooks(
            on_round=lambda _, progress: self.progress.append(progress),
            on_solved=lambda report, progress: (self.solved.append(report), self.progress.append(progress)),
        )


def run(plan, apps, since=None, weights=None, least=1):
    told = Told()
    made = server_app(told.hooks, since)
    found = run_over(made, plan, apps, weights or start(plan), FedAvgMSection(server_momentum=0.5), least=least)
    return found, told


def test_the_last_layer_is_solved_for_before_the_first_round_and_after_the_last(plan):
    held = [patches(1, 12, (0, 1)), patches(2, 12, (1, 2))]
    apps = [app_of(each, 24) for each in held]
    found, told = run(plan, apps)
    sums = [given(plan, each) for each in held]
    before = refit.refit(start(plan), sums)
    for name, array in told.progress[0].weights.items():
        assert array == pytest.approx(before[name], abs=1e-3), name
    last = told.progress[2].weights
    after = refit.refit(last, [given(plan, each, last) for each in held])
    for name, array in found.items():
        assert array == pytest.approx(after[name], abs=1e-3), name
    assert [(each.round, each.nodes, each.failed, each.patches, each.solved) for each in told.solved] == [
        (0, (1, 2), {}, 48, True),
        (2, (1, 2), {}, 48, True),
    ]


def test_a_node_with_few_patches_is_left_out_and_one_with_few_acquisitions_keeps_the_layer_as_the_rounds_made_it(plan):
    large, small, narrow = patches(1, 12), patches(2, 3), patches(3, 12)

    def outcomes(told):
        return [(each.nodes, each.failed, each.solved) for each in told.solved]

    _, told = run(plan, [app_of(large, 36), app_of(small, 9)])
    assert outcomes(told) == [((1,), {2: "TOO_FEW_PATCHES"}, True)] * 2
    found, told = run(plan, [app_of(large, 36), app_of(narrow, 4)])
    refused = {2: "TOO_FEW_ACQUISITIONS"}
    assert outcomes(told) == [((1,), refused, True), ((1,), refused, False)]
    for name, array in told.progress[2].weights.items():
        assert (found[name] == array).all()


def test_where_no_node_gives_sums_the_run_goes_on_without(plan):
    found, told = run(plan, [app_of(patches(1, 3), 9)])
    assert [(each.patches, each.solved) for each in told.solved] == [(0, False), (0, False)]
    plain, _ = run(replace_plan(plan, solve_start=False, solve_end=False), [app_of(patches(1, 3), 9)])
    for name, array in plain.items():
        assert (found[name] == array).all()


def test_a_node_whose_training_process_ends_is_asked_once_more_and_then_counts_as_away(plan):
    asked = []

    def dying(app, times):
        def answer(message, context):
            if message.metadata.message_type == SUMS and message.content["config"]["server-round"] == plan.rounds:
                asked.append(1)
                if len(asked) <= times:
                    raise TrainingError("it ended", reason="WORKER_DIED")
            return app(message, context)

        return answer

    for times, nodes in ((1, (1, 2)), (9, (2,))):
        asked.clear()
        _, told = run(plan, [dying(app_of(patches(1, 12), 36), times), app_of(patches(2, 12), 36)])
        assert (told.solved[1].nodes, told.solved[1].solved, len(asked)) == (nodes, True, 2)


class Leaving(LocalGrid):
    """A grid whose second node leaves after some round and is back after as many looks as are said, or never."""

    def __init__(self, apps, *, after, back):
        super().__init__(apps)
        self.after, self.back, self.round, self.looks = after, back, 0, 0
        ASKED.clear()

    def get_node_ids(self):
        if self.round < self.after:
            return [1, 2]
        self.looks += 1
        return [1, 2] if self.looks > self.back else [1]

    def _answer(self, message):
        if message.metadata.message_type == TRAIN:
            self.round = message.content["config"]["server-round"]
        if message.metadata.message_type == SUMS:
            ASKED.append((message.metadata.dst_node_id, message.content["config"]["members"]))
        return super()._answer(message)


ASKED = []  # nodes, and how many members their task said that it has
NEVER = 10**9


@pytest.fixture
def leaving(plan, monkeypatch):
    """Runs with a node that leaves; gives what was solved for after the last round, and the weights."""

    def ran(*, least=1, timeout=0.3, **when):
        monkeypatch.setattr(learners, "LocalGrid", partial(Leaving, **when))
        monkeypatch.setattr(learners, "_TIMEOUT_S", timeout)
        monkeypatch.setattr(attendance, "_POLL_S", 0.01)
        apps = [app_of(patches(number, 12), 36) for number in (1, 2)]
        found, told = run(replace_plan(plan, rounds=3), apps, least=least)
        return found, told

    return ran


@pytest.mark.parametrize("after", [1, 3])  # the last round that counted may rest on others
def test_a_node_that_took_part_and_is_away_at_the_end_has_the_time_of_a_round_and_then_it_goes_on_without(
    leaving, after
):
    found, told = leaving(after=after, back=NEVER)
    assert told.solved[1] == SolveReport(3, (1,), {2: "NODE_GONE"}, 36, 1, solved=True)
    assert told.progress[-1].summed == 1
    assert told.progress[-1].took_part == (1, 2)
    assert any((found[name] != array).any() for name, array in told.progress[-2].weights.items())


def test_a_node_that_took_part_and_comes_back_at_the_end_gives_its_sums(leaving):
    _, told = leaving(after=3, back=5, timeout=60)
    assert told.solved[1] == SolveReport(3, (1, 2), {}, 72, 1, solved=True)
    assert told.progress[-1].summed == 2
    assert ASKED[2:] == [(1, 1), (2, 2)]


def test_fewer_sums_than_a_round_needs_nodes_leave_the_last_layer_as_the_rounds_made_it(leaving):
    found, told = leaving(after=3, back=NEVER, least=2)
    assert told.solved[1] == SolveReport(3, (1,), {2: "NODE_GONE"}, 36, 2, solved=False)
    assert told.progress[-1].summed == 0
    for name, array in told.progress[-2].weights.items():
        assert (found[name] == array).all()


@pytest.mark.parametrize("step", range(4))
def test_a_run_that_goes_on_from_any_of_its_states_gives_the_same_and_asks_for_no_sums_twice(plan, step):
    apps = [app_of(patches(1, 12), 36), app_of(patches(2, 12), 36)]
    found, told = run(plan, apps)
    assert len(told.progress) == 4
    state = told.progress[step]
    again, anew = run(plan, apps, replace(state, weights={}), dict(state.weights))
    assert len(anew.progress) == 3 - step
    for name, array in found.items():
        assert (again[name] == array).all()


async def test_a_run_over_real_nodes_says_who_gave_sums_and_ends_with_the_layer_that_follows(make, plan):
    home, board, events = make(archive=INDEPENDENT), TaskBoard(), []
    node = asyncio.create_task(answer_tasks(board, "one", lambda data: run_task(app, home.path, data)))
    await until(board.present)
    short = replace_plan(plan, rounds=1)
    trained = await asyncio.to_thread(
        train,
        BoardGrid(board, 5),
        short,
        Progress(weights=start(plan)),
        run_id=5,
        rules=Rules(1, 60.0),
        note=lambda kind, data: events.append((kind, data)),
    )
    node.cancel()
    patches_ = sum(COUNTS.values())
    told = [data for kind, data in events if kind == "solved"]
    expected = {"nodes": ["one"], "failed": {}, "patches": patches_, "needed": 1, "solved": True}
    assert trained.summed == 1
    assert told == [expected | {"round": 0}, expected | {"round": 1}]
    assert [kind for kind, _ in events] == ["preflight", "solved", "round", "solved", "calibrated"]
    own = load_patches(home, plan, 16)
    solved = refit.refit(trained.weights, [given(short, own, trained.weights)])
    for name, array in trained.weights.items():
        assert array == pytest.approx(solved[name], abs=1e-3), "solving once more changes nothing"


def told_in_table(**changes):
    data = {"round": 0, "nodes": ["a", "b"], "failed": {}, "patches": 90, "solved": True} | changes
    run = SimpleNamespace(id=1, words="done", rounds=3, requested=utc_now())
    with redirect_stdout(StringIO()) as out:
        print_run(run, [SimpleNamespace(kind="solved", data=data)])
    return out.getvalue()


def test_the_table_says_what_came_of_the_last_layer():
    assert "solved for before the first round, from 90 patches of a, b\n" in told_in_table()
    assert "from 90 patches of a, b; without c: NODE_GONE" in told_in_table(failed={"c": "NODE_GONE"})
    missing = told_in_table(round=3, solved=False, nodes=["a"], needed=2, failed={"c": "NODE_GONE"})
    assert "after round 3, it stays as it was: sums of a, 2 nodes are needed (c: NODE_GONE)" in missing


def test_the_table_of_a_run_that_is_done_still_says_whose_sums_are_in():
    solved = {"round": 3, "nodes": ["a", "b"], "failed": {}, "patches": 90, "needed": 1, "solved": True}
    events = [SimpleNamespace(kind="solved", data=solved), SimpleNamespace(kind="released", data=RELEASED)]
    run = SimpleNamespace(id=1, words="done", rounds=3, requested=utc_now())
    with redirect_stdout(StringIO()) as out:
        print_run(run, events)
    assert "from 90 patches of a, b\nrelease 2 published" in out.getvalue()


def test_a_configuration_solves_wherever_it_can_and_is_refused_where_it_cannot():
    def made(kind="frozen-trunk", objective="centres", **closed_form):
        return CoordinatorConfig.model_validate(
            {
                "federation": "testing",
                "encoder": {"kind": kind},
                "objective": {"name": objective},
                "closed_form": closed_form,
            }
        )

    assert (made().solves_start, made().solves_end) == (True, True)
    assert made().averages_by == FedAvgMSection(server_momentum=0.5)
    assert (made(end=False).solves_start, made(end=False).solves_end) == (True, False)
    for other in ({"kind": "compact-resnet"}, {"objective": "milan"}):
        assert (made(**other).solves_start, made(**other).solves_end) == (False, False)
        assert not made(start=False, **other).solves_start
        with pytest.raises(ValidationError, match="frozen-trunk"):
            made(start=True, **other)
    assert made(kind="compact-resnet").averages_by == FedAvgSection()
    compared = made().model_copy(update={"strategy": KrumSection()})  # sums would undo what it protects
    assert (compared.solves_start, compared.solves_end) == (False, False)
