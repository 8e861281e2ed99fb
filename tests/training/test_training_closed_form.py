"""A run of the closed form: one round, in which nodes give sums and none trains."""

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from flwr.app import Array
from onnx_maker import tiny_trunk
from pydantic import ValidationError
from test_training_bad_input import as_if_older
from test_training_bounds import ask
from test_training_resume import process
from test_training_rounds import run_whole
from test_training_sums import app_of, patches
from training_archive import load_patches, make_archive
from training_fakes import CLASSES, answer_tasks, small_plan, until

from coordinator.training import records, runs
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.rounds import Hooks, Rules, server_app
from coordinator.training.runs import Start
from node.training.adapter import run_task
from node.training.client_app import app
from node.training.trainer import sum_up
from rsfed.clock import utc_now
from rsfed.codes import unpack
from rsfed.config_objectives import ClosedFormSection
from rsfed.config_strategies import FedAvgMSection
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing import refit
from rsfed.hashing.closed_form import LEAST_PATCHES, Sums
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.network import build_network
from rsfed.hashing.payload import decode
from rsfed.hashing.plan import PREFLIGHT, SUMS, TRAIN, parse_plan
from rsfed.hashing.trunk import inspect_trunk
from rsfed.hashing.weights import get_state
from rsfed.lab.federated import learners
from rsfed.lab.federated.grid import LocalGrid
from rsfed.lab.federated.learners import run_over

COUNTS = dict.fromkeys(CLASSES, 8)
INDEPENDENT = "independent_files = true"
WIDTH = 24


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "model.onnx"
    path.write_bytes(tiny_trunk(size=16, features=WIDTH))
    return path


@pytest.fixture(scope="module")
def plan(trunk):
    architecture = inspect_trunk(trunk, 16).model_copy(update={"head": "fourier", "projections": 300})
    return small_plan(architecture=architecture, objective=ClosedFormSection(), rounds=1)


def start(plan):
    return get_state(build_network(plan.architecture, plan.input, plan.bits, seed=plan.seed))


def run(plan, apps, *, since=None, weights=None, least=1):
    rounds, kept = [], []
    hooks = Hooks(on_round=lambda report, progress: (rounds.append(report), kept.append(progress)))
    found = run_over(server_app(hooks, since), plan, apps, weights or start(plan), FedAvgMSection(), least=least)
    return found, rounds, kept


def codes(plan, weights, held):
    return unpack(Encoder.from_state(weights, plan.architecture, plan.input, plan.bits).encode_set(held))


def test_nodes_with_classes_of_their_own_get_the_codes_of_one_place(plan):
    own = [patches(1, 30, (0,)), patches(2, 30, (1, 2))]
    together = replace(
        own[0], patches=own[0].patches + own[1].patches, labels=np.concatenate([each.labels for each in own])
    )
    apart, rounds, _ = run(plan, [app_of(each, 30) for each in own])
    central, _, _ = run(plan, [app_of(together, 30)])
    unseen = patches(7, 40)
    assert (codes(plan, apart, unseen) != codes(plan, central, unseen)).mean() < 0.005
    (report,) = rounds
    assert (report.round, report.nodes, report.failed, report.examples) == (1, (1, 2), {}, 90)
    assert (report.counted, report.loss) == (True, None)
    assert report.slowest > 0
    centres = refit.centres_of(plan)
    held = codes(plan, apart, unseen)[:, : centres.shape[1]]
    assert (held == centres[unseen.labels.argmax(axis=1)]).mean() > 0.95


def multiplied(app, *, claimed=1, **factors):
    """A node that sends arrays of its sums many times as large, and claims as many patches as is said."""

    def attacking(message, context):
        reply = app(message, context)
        if message.metadata.message_type == SUMS:
            found = reply.content["arrays"]
            for name, factor in factors.items():
                found[name] = Array(found[name].numpy() * np.float32(factor))
            reply.content["metrics"]["num-examples"] *= claimed
        return reply

    return attacking


def wrong_sign(app):
    """A node that sends its products with the centres with the wrong sign."""
    return multiplied(app, targets=-1)


@pytest.mark.parametrize("enough", [10_000, 100])  # of the 300 random features of the plan
def test_a_node_whose_sums_contradict_those_of_the_others_is_named_and_changes_no_code(plan, monkeypatch, enough):
    monkeypatch.setattr(refit, "_ENOUGH", enough)
    honest = [app_of(patches(seed, 12), 36) for seed in (1, 2, 3)]
    found, (report,), _ = run(plan, [*honest, wrong_sign(app_of(patches(4, 12), 36))])
    assert (report.nodes, report.failed) == ((1, 2, 3), {4: "SUMS_CONTRADICT"})
    without, _, _ = run(plan, honest)
    for name, array in without.items():
        assert (found[name] == array).all()
    with pytest.raises(TrainingError, match="SUMS_CONTRADICT"):
        run(plan, [*honest[:2], wrong_sign(app_of(patches(4, 12), 36))], least=3)


@pytest.mark.parametrize("factors", [{"targets": 1e6}, {"gram": 1e6}, {"gram": 1e6, "targets": 1e6}])
def test_a_node_that_sends_a_million_times_its_sums_is_named_and_changes_no_code(plan, factors):
    honest = [app_of(patches(seed, 12), 36) for seed in (1, 2)]
    found, (report,), _ = run(plan, [*honest, multiplied(app_of(patches(4, 12), 36), **factors)])
    assert (report.nodes, report.failed) == ((1, 2), {3: "SUMS_VALUES"})
    without, _, _ = run(plan, honest)
    for name, array in without.items():
        assert (found[name] == array).all()


def test_a_node_that_claims_far_more_patches_than_the_others_counts_for_ten_medians(plan):
    held = [patches(seed, 12) for seed in (1, 2, 3)]
    apps = [app_of(each, 36) for each in held]
    found, (report,), _ = run(plan, [*apps[:2], multiplied(apps[2], claimed=1000, gram=1000, targets=1000)])
    assert (report.nodes, report.failed) == ((1, 2, 3), {})
    own = [sum_up(plan, start(plan), each, threads=1)[0] for each in held]
    expected = refit.fit(start(plan), [*own[:2], own[2].times(10)], plan.seed)
    assert found["head.weight"][:8] == pytest.approx(expected["head.weight"][:8], abs=1e-3)


def test_a_small_node_is_left_out_and_too_few_nodes_give_no_codes(plan):
    apps = [app_of(patches(1, 12), 36), app_of(patches(2, 3), 9)]
    _, (report,), _ = run(plan, apps)
    assert (report.nodes, report.failed) == ((1,), {2: "TOO_FEW_PATCHES"})
    with pytest.raises(TrainingError, match="TOO_FEW_PATCHES") as refused:
        run(plan, apps, least=2)
    assert refused.value.reason == "NO_RESULT"


def test_a_run_that_was_interrupted_after_its_round_has_the_same_codes_and_asks_nobody_again(plan):
    apps = [app_of(patches(1, 12), 36)]
    found, _, (kept,) = run(plan, apps)
    asked = []
    counting = [lambda message, context: (asked.append(message.metadata.message_type), apps[0](message, context))[1]]
    again, rounds, _ = run(plan, counting, since=replace(kept, weights={}), weights=dict(kept.weights))
    assert rounds == []
    assert SUMS not in asked
    for name, array in found.items():
        assert (again[name] == array).all()


class Joining(LocalGrid):
    """A grid whose second node comes once the first was asked for its sums."""

    asked = False

    def get_node_ids(self):
        return [1, 2] if self.asked else [1]

    def _answer(self, message):
        self.asked |= message.metadata.message_type == SUMS
        return super()._answer(message)


def test_a_node_that_comes_while_others_give_their_sums_gives_its_own(plan, monkeypatch):
    monkeypatch.setattr(learners, "LocalGrid", Joining)
    _, (report,), _ = run(plan, [app_of(patches(1, 12), 36), app_of(patches(2, 12), 36)])
    assert (report.nodes, report.failed, report.examples) == ((1, 2), {}, 72)


class Busy(LocalGrid):
    """A grid whose second node does not say in time whether it takes part, as often as it is told."""

    late = 1

    def send_and_receive(self, messages, *, timeout=None):
        replies = super().send_and_receive(messages, timeout=timeout)
        slow = [each for each in replies if each.metadata.message_type == PREFLIGHT and each.metadata.src_node_id == 2]
        if not slow or not self.late:
            return replies
        self.late -= 1
        return [each for each in replies if each not in slow]


@pytest.mark.parametrize(("late", "nodes"), [(1, (1, 2)), (2, (1,))])
def test_a_node_that_was_late_to_say_that_it_takes_part_is_asked_once_more_in_the_only_round(
    plan, monkeypatch, late, nodes
):
    monkeypatch.setattr(Busy, "late", late)
    monkeypatch.setattr(learners, "LocalGrid", Busy)
    _, (report,), _ = run(plan, [app_of(patches(1, 12), 36), app_of(patches(2, 12), 36)])
    assert report.nodes == nodes


def test_no_node_gives_products_with_centres_that_its_patches_cannot_have(plan):
    """Where no patch of any node has a part, a solve would raise them by the inverse of the ridge."""
    width, bits, count = 301, refit.centres_of(plan).shape[1], 200
    gram = np.zeros((width, width))
    gram[-1, -1] = count
    targets = np.where(np.random.default_rng(0).random((width, bits)) < 0.5, -0.03, 0.03) * count
    arrays = refit.to_arrays(Sums(gram, targets, count))
    with pytest.raises(InvalidMessage) as refused:
        refit.from_arrays(arrays, count, start(plan), bits)
    assert refused.value.reason == "SUMS_VALUES"


def test_fewer_patches_than_any_node_may_give_are_not_believed(plan):
    own, _ = sum_up(plan, start(plan), patches(1, 12), threads=1)
    few = own.times((LEAST_PATCHES - 1) / own.patches)
    with pytest.raises(InvalidMessage) as refused:
        refit.from_arrays(refit.to_arrays(few), LEAST_PATCHES - 1, start(plan), refit.centres_of(plan).shape[1])
    assert refused.value.reason == "SUMS_VALUES"


@pytest.mark.parametrize("change", [{"rounds": 2}, {"architecture": small_plan().architecture}, {"solve_end": True}])
def test_a_plan_of_the_closed_form_is_one_round_of_sums_on_fourier_features(plan, change):
    with pytest.raises(InvalidMessage) as refused:
        parse_plan(plan.model_copy(update=change).model_dump_json())
    assert refused.value.reason == "PLAN_INVALID"


def test_other_objectives_have_no_fourier_features(plan):
    with pytest.raises(ValidationError, match="Fourier features"):
        small_plan(architecture=plan.architecture)


@pytest.fixture
def make(tmp_path, members, key, trunk, plan):
    def made(**more):
        return make_archive(tmp_path / "node", COUNTS, members=members, key=key, plan=plan, trunk=trunk, **more)

    return made


async def test_a_node_of_photographs_gives_sums_and_the_release_says_how_it_came_to_be(make, plan):
    home, board, events = make(archive=INDEPENDENT), TaskBoard(), []
    node = asyncio.create_task(answer_tasks(board, "one", lambda data: run_task(app, home.path, data)))
    await until(board.present)
    trained = await asyncio.to_thread(
        train,
        BoardGrid(board, 5),
        plan,
        Progress(weights=start(plan)),
        run_id=5,
        rules=Rules(1, 60.0, coding="int8"),
        note=lambda kind, data: events.append((kind, data)),
    )
    node.cancel()
    assert [kind for kind, _ in events] == ["preflight", "round", "calibrated"]
    assert (trained.strategy, trained.rounds, trained.nodes) == ("ClosedForm", 1, {"one"})
    own, _ = sum_up(plan, start(plan), load_patches(home, plan, 16), threads=1)
    expected = refit.fit(start(plan), [own], plan.seed)
    assert (
        codes(plan, trained.weights, own_ := load_patches(home, plan, 16)) == codes(plan, expected, own_)
    ).mean() > 0.99


async def test_a_coordinator_that_ends_while_nodes_give_their_sums_asks_again_and_gives_the_same(
    make, plan, home, state, monkeypatch
):
    archive, asked, gave = make(archive=INDEPENDENT), [], []
    monkeypatch.setattr(runs, "make_plan", lambda *_: plan)

    def answer(data, silent=()):
        kind = decode(data).kind
        asked.append(kind)
        return None if kind in silent else run_task(app, archive.path, data)

    async def life(second, until_):
        nodes = {"one": answer, "two": second}
        async with process(home, state, nodes) as coordinator:
            coordinator.driver._starting = lambda _: Start(start(plan))
            await until_(coordinator)
            gave.extend(trained.weights for _, trained, _ in coordinator.published)

    def ended(run):
        return lambda coordinator: coordinator.ended(run)

    await life(answer, ended(records.request_run(state, 1, 2, utc_now())))
    asked.clear()
    run = records.request_run(state, 1, 2, utc_now())
    await life(partial(answer, silent=(SUMS,)), lambda _: until(lambda: asked.count(SUMS) >= 2))
    assert records.get_run(state, run).state == "running"
    await life(answer, ended(run))
    told = [(event.kind, event.data["round"]) for event in records.events(state, run) if "round" in event.data]
    assert told == [("preflight", 1), ("resumed", 0), ("preflight", 1), ("round", 1)]
    calm, rough = gave
    assert {name: array.tobytes() for name, array in calm.items()} == {n: a.tobytes() for n, a in rough.items()}


def test_a_node_that_gives_no_sums_takes_no_part_and_none_trains(make, plan):
    assert ask(make(archive=INDEPENDENT, training="sums = false"), PREFLIGHT, plan=plan).error == "SUMS_REFUSED"


BAD = {  # what an archive holds, what its operator says, and why it takes no part
    "void": ({}, {"archive": INDEPENDENT}, "NO_LABELLED_PATCHES"),
    "unmapped": ({"glacier": 30}, {"archive": INDEPENDENT}, "NO_LABELLED_PATCHES"),
    "small": ({"forest": LEAST_PATCHES - 1}, {"archive": INDEPENDENT}, "TOO_FEW_PATCHES"),
    "narrow": (COUNTS, {}, "TOO_FEW_ACQUISITIONS"),
    "keeping": (COUNTS, {"archive": INDEPENDENT, "training": "sums = false"}, "SUMS_REFUSED"),
    "older": (COUNTS, {"archive": INDEPENDENT}, "OTHER_SOFTWARE"),
}


@pytest.mark.parametrize("uniform", [True, False])
async def test_what_the_closed_form_cannot_be_had_of_is_said_before_its_round(
    tmp_path, members, key, trunk, plan, uniform
):
    """An archive of one class is none of it: the centres of the others come with their sums."""

    def answering(name, counts, **more):
        made = make_archive(tmp_path / name, counts, members=members, key=key, plan=plan, trunk=trunk, **more)
        return lambda task: run_task(app, made.path, as_if_older(task) if name == "older" else task)

    nodes = {name: answering(name, counts, **more) for name, (counts, more, _) in BAD.items()}
    nodes |= {"uniform": answering("uniform", {"water": 24}, archive=INDEPENDENT)} if uniform else {}
    told = []
    try:
        await run_whole(nodes, plan=plan, start=start(plan), rules=Rules(1, 60.0), told=told)
        ended = ""
    except TrainingError as error:
        ended = error.public
    refused = {name: reason for name, (_, _, reason) in BAD.items()}
    kind, first = told[0]
    assert kind == "preflight"
    assert (first["nodes"], first["refused"]) == (["uniform"] if uniform else [], refused)
    if uniform:
        assert [(data["nodes"], data["failed"]) for kind, data in told if kind == "round"] == [(["uniform"], {})]
    else:
        assert all(f"{name} ({reason})" in ended for name, reason in refused.items())
        assert "archive.independent_files" in ended
        assert len(told) == 1


def test_a_task_to_train_the_closed_form_is_refused(make, plan):
    home = make(archive=INDEPENDENT)
    assert ask(home, SUMS, plan=plan).error == ""
    assert ask(home, TRAIN, plan=plan).error == "NOT_TRAINED"


def test_the_operator_may_allow_other_objectives_alone(make, plan):
    home = make(archive=INDEPENDENT, training='objectives = ["centres"]')
    assert ask(home, PREFLIGHT, plan=plan).error == "OBJECTIVE_REFUSED"
