"""A run outlives its coordinator: it goes on after the last finished round as if nothing had happened."""

import asyncio
import json
import random
import threading
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest
from test_training_runs import Coordinator
from training_fakes import answer_tasks, result_of, until, weights

from coordinator.state import State
from coordinator.training import records
from coordinator.training.board import RunStopped
from coordinator.training.checkpoints import Base, Checkpoints, Origin, Progress
from coordinator.training.rules import Rules
from rsfed.clock import utc_now
from rsfed.config import CoordinatorTraining
from rsfed.config_objectives import BatchAllSection
from rsfed.config_strategies import FedMedianSection
from rsfed.errors import TrainingError
from rsfed.hashing.payload import decode
from rsfed.hashing.plan import EVALUATE, TRAIN
from rsfed.home import Home


def uneven(task: bytes) -> bytes:
    """A node whose step depends on the weights and the round, so that no round can be left out or done twice."""
    payload = decode(task)
    step = float(np.float32(0.1) * payload.round + 0.5 * payload.arrays["arrays"]["w"].mean()) if payload.arrays else 0
    return result_of(task, step=step)


@asynccontextmanager
async def process(home, state, nodes):
    """One life of a coordinator with nodes; it is stopped at the end."""
    coordinator = Coordinator(home, state)
    coordinator.work = [
        asyncio.create_task(coordinator.driver.run()),
        *(asyncio.create_task(answer_tasks(coordinator.board, name, answer)) for name, answer in nodes.items()),
    ]
    try:
        yield coordinator
    finally:
        for task in coordinator.work:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def until_round(last, answer):
    """A node that falls silent after a round."""

    def answering(task):
        payload = decode(task)
        return None if payload.round > last or payload.kind == EVALUATE else answer(task)

    return answering


def resumed(state, run):
    return [event.data["round"] for event in records.events(state, run) if event.kind == "resumed"]


async def trained(home, state, nodes, *, interrupted_after=()):
    """Train in as many lives as are said, each ending after a round, and return what was published and the run."""
    run = records.request_run(state, 4, 1, utc_now())
    for life, last in enumerate(interrupted_after):
        async with process(home, state, {n: until_round(last, answer) for n, answer in nodes.items()}) as coordinator:
            await until(lambda: coordinator.done(run) == last and len(resumed(state, run)) == life)  # noqa: B023
        assert records.get_run(state, run).state == "running"
    async with process(home, state, nodes) as coordinator:
        ended = await coordinator.ended(run)
        await until(lambda: coordinator.driver.running is None)
    assert (ended.state, len(coordinator.published)) == ("done", 1)
    return coordinator.published[0][1], run


@pytest.mark.parametrize("interrupted_after", [(0,), (2,), (4,), (1, 1, 3)])
async def test_a_run_that_was_interrupted_gives_what_an_undisturbed_one_gives(tmp_path, interrupted_after):
    nodes = {"a": uneven, "b": uneven}
    results = []
    for name, interruptions in (("calm", ()), ("rough", interrupted_after)):
        place = Home(tmp_path / name)
        place.path.mkdir()
        state = State(place)
        result, run = await trained(place, state, nodes, interrupted_after=interruptions)
        rounds = [e.data["round"] for e in records.events(state, run) if e.kind == "round"]
        assert rounds == [1, 2, 3, 4]
        assert resumed(state, run) == list(interruptions)
        state.close()
        results.append(result)
    calm, rough = results
    assert {n: a.tobytes() for n, a in calm.weights.items()} == {n: a.tobytes() for n, a in rough.weights.items()}
    assert (calm.rounds, calm.nodes, calm.loss) == (rough.rounds, rough.nodes, rough.loss)


@pytest.mark.parametrize("late", ["there", "later"])
async def test_nodes_of_a_run_that_was_interrupted_in_its_first_round_are_waited_for(home, state, late):
    """One round is all that a run of the closed form has: who came back a moment too late had no part in the codes."""

    def silent(task):
        return None if decode(task).kind == TRAIN else uneven(task)

    nodes = dict.fromkeys("abc" if late == "there" else "a", silent)
    async with process(home, state, nodes) as coordinator:
        await until(lambda: len(coordinator.board.present()) == len(nodes))
        run = records.request_run(state, 1, 2, utc_now())
        coordinator.driver.wake()
        if late == "later":
            await until(lambda: coordinator.events(run))
            coordinator.work.append(asyncio.create_task(answer_tasks(coordinator.board, "c", silent)))
        await until(lambda: "c" in records.nodes_met(state, run))
    async with process(home, state, dict.fromkeys("ab", uneven)) as coordinator:
        await until(lambda: resumed(state, run) and len(coordinator.board.present()) == 2)
        await asyncio.sleep(0.3)
        coordinator.work.append(asyncio.create_task(answer_tasks(coordinator.board, "c", uneven)))
        await coordinator.ended(run)
    [told] = [event.data for event in records.events(state, run) if event.kind == "round"]
    assert told["nodes"] == ["a", "b", "c"]


async def test_a_run_that_was_queued_when_the_coordinator_ended_is_driven_after_the_one_that_goes_on(home, state):
    first, second = (records.request_run(state, 2, 1, utc_now()) for _ in range(2))
    async with process(home, state, {"a": until_round(1, result_of)}) as coordinator:
        await until(lambda: coordinator.done(first) == 1)
    assert [records.get_run(state, run).state for run in (first, second)] == ["running", "queued"]
    async with process(home, state, {"a": result_of}) as coordinator:
        assert [(await coordinator.ended(run)).release_version for run in (first, second)] == [2, 3]


async def test_a_run_that_was_publishing_when_the_coordinator_ended_publishes_when_it_is_back(home, state):
    run = records.request_run(state, 2, 1, utc_now())

    reached, ended = threading.Event(), threading.Event()

    def dying(*_):
        reached.set()
        ended.wait()
        raise RunStopped("as if the process had ended just now")

    async with process(home, state, {"a": result_of}) as coordinator:
        coordinator.driver._publish = dying
        await until(reached.is_set)
        assert records.get_run(state, run).state == "publishing"
        ended.set()  # the driver is cancelled before it could look for a run once more
    trained, kinds = [], lambda: [event.kind for event in records.events(state, run)]
    assert "released" not in kinds()
    async with process(home, state, {"a": result_of}) as coordinator:
        publish = coordinator.driver._publish
        coordinator.driver._publish = lambda plan, what, before: trained.append(what) or publish(plan, what, before)
        assert (await coordinator.ended(run)).state == "done"
    assert (kinds().count("round"), kinds().count("released")) == (2, 1)
    np.testing.assert_array_equal(trained[0].weights["w"], weights(2)["w"])
    assert (trained[0].rounds, trained[0].nodes) == (2, {"a"})


async def test_an_interrupted_run_goes_on_with_the_plan_and_the_rules_that_it_began_with(home, state):
    run = records.request_run(state, 2, 1, utc_now())
    async with process(home, state, {"a": until_round(1, result_of)}) as coordinator:
        await until(lambda: coordinator.done(run) == 1)
    plans, codings, asked = [], [], []
    async with process(home, state, {}) as coordinator:
        today = CoordinatorTraining(coding="float32", fraction=0.5, round_timeout_s=1e-3)
        coordinator.changes |= {"objective": BatchAllSection(), "strategy": FedMedianSection(), "training": today}
        coordinator.driver._starting = lambda _: 1 / 0

        def answer(task):
            settings = decode(task).configs["config"]
            plans.append(json.loads(settings["plan"])["objective"]["name"])
            if decode(task).kind == TRAIN:
                codings.append(settings.get("coding"))
                asked.append(settings["members"])
            return result_of(task)

        for name in ("a", "b"):
            coordinator.work.append(asyncio.create_task(answer_tasks(coordinator.board, name, answer)))
        await until(lambda: len(coordinator.board.present()) == 2)
        assert (await coordinator.ended(run)).state == "done"
    assert set(plans) == {"centres"}
    assert set(codings) == {"int8"}
    assert set(asked) == {2}  # of two, where half of them would be one


async def test_a_run_that_ends_the_coordinator_again_and_again_is_given_up(home, state):
    run = records.request_run(state, 2, 1, utc_now())
    async with process(home, state, {"a": until_round(1, result_of)}) as coordinator:
        await until(lambda: coordinator.done(run) == 1)
    for _ in range(records.MOST_RESUMED):
        records.add_event(state, run, "resumed", {"round": 1}, utc_now())
    async with process(home, state, {"a": result_of}) as coordinator:
        assert "[RUN_STUCK]" in (await coordinator.ended(run)).error
    assert list((home.path / "runs").iterdir()) == []


def origin():
    rules = Rules(3, 90.5, 0.25, "int4")
    return Origin('{"rounds": 3}', Base(4, b"d" * 32, 20), FedMedianSection(), rules)


def keep(checkpoints, run, round_, **changes):
    progress = Progress(round_, weights(round_), **changes)
    checkpoints.keep(run, origin(), progress, ("round", {"round": round_}), now=utc_now())
    return progress


def begun(state):
    records.request_run(state, 5, 1, utc_now())
    return records.claim_next(state).id


def test_what_was_kept_comes_back_as_it_was(home, state):
    run, checkpoints = begun(state), Checkpoints(home, state)
    generator = random.Random(3)
    generator.gauss(0, 1)  # leaves a second number waiting, which is part of the state
    momentum = {"momentum/w": np.linspace(0, 1, 6).reshape(2, 3), "steps": np.array(7)}
    by_then = {"nodes": (5, 2**53 + 1), "took_part": (5, 9, 2**53 + 1), "asked": True, "summed": 3}
    kept = keep(checkpoints, run, 2, strategy=momentum, random=generator.getstate(), counted=2, **by_then)
    begun_with, found = Checkpoints(home, state).newest(run)
    assert begun_with == origin()
    assert list(found.weights) == list(kept.weights)
    for got, want in ((found.weights, kept.weights), (found.strategy, momentum)):
        assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in got.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in want.items()
        }
    assert (found.round, found.counted) == (2, 2)
    assert {name: getattr(found, name) for name in by_then} == by_then
    again = random.Random()
    again.setstate(found.random)
    assert [again.gauss(0, 1) for _ in range(4)] == [generator.gauss(0, 1) for _ in range(4)]


def test_the_last_two_rounds_are_kept_and_nothing_of_a_run_that_ended(home, state):
    run, checkpoints = begun(state), Checkpoints(home, state)
    for number in range(4):
        keep(checkpoints, run, number)
    (home.path / "runs" / ".1-9.safetensors.abc").write_bytes(b"a draft that a crash left")
    keep(checkpoints, run, 4)
    assert sorted(path.name for path in (home.path / "runs").iterdir()) == ["1-3.safetensors", "1-4.safetensors"]
    records.fail(state, run, "NO_RESULT", "no round gave a result", utc_now())
    checkpoints.discard_ended()
    assert list((home.path / "runs").iterdir()) == []
    assert checkpoints.newest(run) is None


def test_what_is_kept_after_nodes_gave_sums_takes_the_place_of_what_was_kept_before_and_never_its_file(home, state):
    run, checkpoints = begun(state), Checkpoints(home, state)
    keep(checkpoints, run, 1)
    keep(checkpoints, run, 2)
    assert checkpoints.newest(run)[1].asked is False
    (home.path / "runs" / "1-2-solved.safetensors").write_bytes(b"all that a crash left of the next state")
    assert checkpoints.newest(run)[1].round == 2
    checkpoints.keep(run, origin(), Progress(2, weights(9), asked=True), ("solved", {}), now=utc_now())
    _, found = checkpoints.newest(run)
    assert (found.round, found.asked, found.weights["w"].max()) == (2, True, 9)
    assert sorted(path.name for path in (home.path / "runs").iterdir()) == [
        "1-1.safetensors",
        "1-2-solved.safetensors",
    ]


def test_a_damaged_state_costs_one_round_and_two_of_them_the_run(home, state):
    run, checkpoints = begun(state), Checkpoints(home, state)
    for number in (1, 2):
        keep(checkpoints, run, number)
    newest = home.path / "runs" / "1-2.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    assert checkpoints.newest(run)[1].round == 1
    (home.path / "runs" / "1-1.safetensors").unlink()
    with pytest.raises(TrainingError) as lost:
        checkpoints.newest(run)
    assert lost.value.reason == "CHECKPOINT_DAMAGED"


def test_a_round_is_not_told_of_a_run_that_was_cancelled_meanwhile(home, state):
    run, checkpoints = begun(state), Checkpoints(home, state)
    keep(checkpoints, run, 1)
    records.cancel(state, run, utc_now())
    with pytest.raises(records.RunCancelled):
        keep(checkpoints, run, 2)
    assert [event.kind for event in records.events(state, run)] == ["round", "failed"]


def test_a_round_that_cannot_be_written_is_not_told(home, state):
    run, checkpoints = begun(state), Checkpoints(home, state)
    (home.path / "runs").write_text("in the way of the folder, as a full disk is in the way of a file")
    with pytest.raises(TrainingError) as refused:
        keep(checkpoints, run, 1)
    assert refused.value.reason == "CHECKPOINT_UNWRITABLE"
    assert records.events(state, run) == []
