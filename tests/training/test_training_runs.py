"""Runs in the coordinator: queued, driven, recorded, and never left hanging."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import numpy as np
import pytest
from training_fakes import answer_tasks, result_of, until, weights

from coordinator.training import records
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Checkpoints
from coordinator.training.runs import RunDriver, Start, make_plan
from rsfed.clock import utc_now
from rsfed.config import CoordinatorConfig, CoordinatorTraining, NomenclatureSection
from rsfed.config_images import EncoderSection
from rsfed.config_objectives import BatchAllSection, CentresSection, ContrastiveSection
from rsfed.config_strategies import BulyanSection, FedAvgSection, FedMedianSection, FedProxSection
from rsfed.errors import StateError, TrainingError, UsageError
from rsfed.hashing.payload import decode
from rsfed.hashing.plan import parse_plan


def config(**changes) -> CoordinatorConfig:
    sections = {
        "federation": "testing",
        "encoder": EncoderSection(size=16, bits=16, width=8),
        "nomenclature": NomenclatureSection(classes={"water": 3, "field": 1}),
    }
    return CoordinatorConfig(**(sections | changes))


class Coordinator:
    """A driver with a publisher that only remembers."""

    def __init__(self, home, state, **changes):
        self.state, self.board, self.published, self.changes = state, TaskBoard(), [], changes
        self.driver = RunDriver(
            state,
            lambda: config(**self.changes),
            self.board,
            starting=lambda _: Start(weights()),
            publish=self.publish,
            checkpoints=Checkpoints(home, state),
            now=utc_now,
        )

    def publish(self, plan, trained, before):
        self.published.append((plan, trained, before))
        version = len(self.published) + 1
        return SimpleNamespace(manifest=SimpleNamespace(version=version), digest=bytes([version]) * 32)

    async def ended(self, run):
        await until(lambda: records.get_run(self.state, run).state not in records.OPEN)
        return records.get_run(self.state, run)

    def done(self, run):
        """The last round that was done; 0 once the run has begun, None before."""
        told = records.events(self.state, run)
        return max((event.data["round"] for event in told if event.kind == "round"), default=0 if told else None)

    def events(self, run):
        return [(event.kind, event.data) for event in records.events(self.state, run)]


@asynccontextmanager
async def at_work(coordinator, answer=result_of):
    """The driver, and one node that answers its tasks."""
    work = [
        asyncio.create_task(coordinator.driver.run()),
        asyncio.create_task(answer_tasks(coordinator.board, "a", answer)),
    ]
    yield coordinator
    for task in work:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def coordinator(home, state):
    async with at_work(Coordinator(home, state)) as coordinator:
        yield coordinator


async def test_a_queued_run_is_driven_and_its_release_published(coordinator, state):
    run = records.request_run(state, 2, 1, utc_now())
    coordinator.driver.wake()
    ended = await coordinator.ended(run)
    assert (ended.state, ended.release_version, ended.error) == ("done", 2, None)
    [(plan, trained, _)] = coordinator.published
    assert plan.rounds == 2
    np.testing.assert_array_equal(trained.weights["w"], weights(2)["w"])
    kinds = [kind for kind, _ in coordinator.events(run)]
    assert kinds == ["started", "preflight", "round", "round", "calibrated", "released"]
    assert coordinator.events(run)[-1][1] == {"version": 2, "digest": "02" * 32}
    await until(lambda: coordinator.driver.running is None)  # the run is noted as done a moment before


async def test_runs_are_driven_one_after_the_other_in_the_order_they_came(coordinator, state):
    runs = [records.request_run(state, 1, 1, utc_now()) for _ in range(3)]
    coordinator.driver.wake()
    versions = [(await coordinator.ended(run)).release_version for run in runs]
    assert versions == [2, 3, 4]


async def test_a_change_of_the_configuration_counts_from_the_next_run_on(coordinator, state):
    for rate in (0.125, 0.5):
        coordinator.changes["training"] = CoordinatorTraining(learning_rate=rate)
        run = records.request_run(state, 1, 1, utc_now())
        coordinator.driver.wake()
        await coordinator.ended(run)
    assert [plan.learning_rate for plan, *_ in coordinator.published] == [0.125, 0.5]


async def test_a_failed_run_says_why_and_the_next_one_goes_on(coordinator, state):
    def refuse(plan, trained, start):
        raise StateError("there is no key that signs releases; restore a backup")

    publish, coordinator.driver._publish = coordinator.driver._publish, refuse
    run = records.request_run(state, 1, 1, utc_now())
    coordinator.driver.wake()
    failed = await coordinator.ended(run)
    assert failed.state == "failed"
    assert failed.error == "there is no key that signs releases; restore a backup [STATE]"
    coordinator.driver._publish = publish
    run = records.request_run(state, 1, 1, utc_now())
    coordinator.driver.wake()
    assert (await coordinator.ended(run)).state == "done"


@pytest.mark.parametrize(
    ("objective", "classes", "reason", "remedy"),
    [
        (CentresSection(), 2000, "TOO_MANY_CLASSES", "take more bits, fewer classes"),
        (BatchAllSection(), 1, "NOTHING_TO_COMPARE", "add classes to the nomenclature"),
        (BatchAllSection(), 0, "NOTHING_TO_COMPARE", "add classes to the nomenclature"),
        (CentresSection(), 1, "NOTHING_TO_COMPARE", "add classes to the nomenclature"),
    ],
)
async def test_an_objective_that_the_classes_do_not_allow_fails_the_run_before_any_node_is_asked(
    home, state, objective, classes, reason, remedy
):
    nomenclature = NomenclatureSection(classes={f"class {number}": number for number in range(classes)})
    coordinator = Coordinator(home, state, objective=objective, nomenclature=nomenclature)
    asked = []
    async with at_work(coordinator, lambda task: asked.append(task) or result_of(task)):
        run = records.request_run(state, 1, 1, utc_now())
        coordinator.driver.wake()
        failed = await coordinator.ended(run)
    assert (failed.state, asked, coordinator.published) == ("failed", [], [])
    assert failed.error.endswith(f"[{reason}]")
    assert remedy in failed.error
    assert [kind for kind, _ in coordinator.events(run)] == ["failed"]


async def test_without_labels_a_run_needs_no_classes(home, state):
    async with at_work(
        Coordinator(home, state, objective=ContrastiveSection(), nomenclature=NomenclatureSection())
    ) as coordinator:
        run = records.request_run(state, 1, 1, utc_now())
        coordinator.driver.wake()
        assert (await coordinator.ended(run)).state == "done"


async def test_a_bug_fails_the_run_without_telling_internals(coordinator, state):
    coordinator.driver._starting = lambda _: 1 / 0
    run = records.request_run(state, 1, 1, utc_now())
    coordinator.driver.wake()
    failed = await coordinator.ended(run)
    assert failed.state == "failed"
    assert "division" not in failed.error


@pytest.fixture
async def driven(home, state):
    """A coordinator to which no node comes by itself."""
    coordinator = Coordinator(home, state)
    work = asyncio.create_task(coordinator.driver.run())
    yield coordinator
    work.cancel()
    with suppress(asyncio.CancelledError):
        await work


async def test_a_run_that_waits_for_nodes_is_cancelled_and_the_next_one_goes_on(driven, state):
    waits, queued = (records.request_run(state, 1, 1, utc_now()) for _ in range(2))
    driven.driver.wake()
    await until(lambda: [kind for kind, _ in driven.events(waits)] == ["started", "waiting"])
    records.cancel(state, waits, utc_now())
    assert records.get_run(state, waits).error == "the run was cancelled [RUN_CANCELLED]"
    driven.driver.wake()
    await until(lambda: driven.driver.running == queued)
    nodes = asyncio.create_task(answer_tasks(driven.board, "a", result_of))
    assert (await driven.ended(queued)).state == "done"
    nodes.cancel()
    assert [kind for kind, _ in driven.events(waits)] == ["started", "waiting", "failed"]
    assert len(driven.published) == 1


async def test_the_task_of_a_cancelled_run_is_no_longer_wanted(driven, state):
    run = records.request_run(state, 5, 1, utc_now())
    driven.driver.wake()
    await driven.board.next_task("a", 0)
    task = await driven.board.next_task("a", 30)
    records.cancel(state, run, utc_now())
    driven.driver.wake()
    await until(lambda: driven.driver.running is None)
    with pytest.raises(TrainingError) as refused:
        driven.board.task("a", task.id)
    assert refused.value.reason == "TASK_EXPIRED"
    assert await driven.board.next_task("a", 0) is None
    assert driven.published == []


async def test_a_cancellation_that_nobody_told_of_is_noticed(driven, state):
    run = records.request_run(state, 1, 1, utc_now())
    await until(lambda: driven.driver.running == run)
    records.cancel(state, run, utc_now())
    await until(lambda: driven.driver.running is None)
    assert driven.published == []


async def test_a_run_that_is_cancelled_in_its_last_moment_publishes_nothing(coordinator, state, monkeypatch):
    begin = records.begin_publishing

    def cancelled_just_before(state, run):
        records.cancel(state, run, utc_now())
        begin(state, run)

    monkeypatch.setattr(records, "begin_publishing", cancelled_just_before)
    run = records.request_run(state, 1, 1, utc_now())
    coordinator.driver.wake()
    ended = await coordinator.ended(run)
    await until(lambda: coordinator.driver.running is None)
    assert (ended.state, ended.release_version) == ("failed", None)
    assert coordinator.published == []
    assert [kind for kind, _ in coordinator.events(run)] == ["started", "preflight", "round", "calibrated", "failed"]


async def test_a_run_that_publishes_is_not_cancelled_any_more(coordinator, state):
    refused = []
    publish = coordinator.driver._publish

    def cancelled_meanwhile(plan, trained, start):
        with pytest.raises(UsageError) as error:
            records.cancel(state, 1, utc_now())
        refused.append((error.value.reason, error.value.public))
        return publish(plan, trained, start)

    coordinator.driver._publish = cancelled_meanwhile
    run = records.request_run(state, 1, 1, utc_now())
    coordinator.driver.wake()
    assert (await coordinator.ended(run)).state == "done"
    [(reason, said)] = refused
    assert (reason, "publishing" in said) == ("RUN_ENDED", True)


def test_a_cancelled_run_never_starts_nor_goes_on(state):
    queued, crashed = (records.request_run(state, 1, 1, utc_now()) for _ in range(2))
    records.cancel(state, queued, utc_now())
    assert records.claim_next(state).id == crashed
    records.cancel(state, crashed, utc_now())
    assert records.claim_next(state) is None
    assert {run.error for run in records.list_runs(state)} == {"the run was cancelled [RUN_CANCELLED]"}


def test_nothing_follows_the_end_of_a_run(state):
    run = records.request_run(state, 1, 1, utc_now())
    records.cancel(state, run, utc_now())
    with pytest.raises(records.RunCancelled):
        records.add_event(state, run, "round", {}, utc_now())
    records.fail(state, run, "INTERNAL", "internal error", utc_now())
    assert [event.data["reason"] for event in records.events(state, run)] == ["RUN_CANCELLED"]


def test_an_unknown_run_is_a_usage_error(state):
    with pytest.raises(UsageError) as refused:
        records.get_run(state, 99)
    assert refused.value.reason == "UNKNOWN_RUN"


def test_events_are_read_from_where_one_stopped(state):
    run = records.request_run(state, 1, 1, utc_now())
    for number in range(3):
        records.add_event(state, run, "round", {"round": number}, utc_now())
    first, *rest = records.events(state, run)
    assert [event.id for event in records.events(state, run, after=first.id)] == [event.id for event in rest]


def test_the_plan_says_everything_of_coordinator_toml_with_classes_by_id():
    plan = make_plan(config(), 4)
    assert [(c.id, c.name) for c in plan.nomenclature.classes] == [(1, "field"), (3, "water")]
    assert (plan.bits, plan.rounds, plan.architecture.width, plan.input.groups[0].size) == (16, 4, 8, 16)
    assert json.loads(plan.model_dump_json())["objective"]["name"] == "centres"


def test_a_plan_without_a_proximal_term_is_one_that_nodes_of_before_there_was_one_take():
    plain, held = (make_plan(config(strategy=section()), 1) for section in (FedAvgSection, FedProxSection))
    assert "proximal" not in json.loads(plain.model_dump_json())
    assert json.loads(held.model_dump_json())["proximal"] == 0.01
    assert [parse_plan(plan.model_dump_json()) for plan in (plain, held)] == [plain, held]


@pytest.mark.parametrize(("section", "copies"), [(FedAvgSection(), 6), (FedMedianSection(), 6 + 3)])
async def test_a_run_says_at_its_start_which_strategy_averages_and_what_memory_it_needs(home, state, section, copies):
    driven = Coordinator(home, state)
    driven.changes["strategy"] = section
    async with at_work(driven):
        run = records.request_run(state, 1, 3, utc_now())
        driven.driver.wake()
        await until(lambda: driven.events(run))
        records.cancel(state, run, utc_now())
        driven.driver.wake()
        await until(lambda: driven.driver.running is None)
    started = driven.events(run)[0][1]
    assert (started["strategy"], started["memory_nodes"]) == (section.name, 3)
    assert started["memory_bytes"] == copies * sum(array.nbytes for array in weights().values())


async def test_a_strategy_that_needs_more_nodes_than_a_run_has_is_refused_before_the_first_round(home, state):
    driven = Coordinator(home, state)
    driven.changes["strategy"] = BulyanSection()
    async with at_work(driven):
        run = records.request_run(state, 1, 6, utc_now())
        driven.driver.wake()
        ended = await driven.ended(run)
    assert "train with --nodes 7" in ended.error
    assert [kind for kind, _ in driven.events(run)] == ["failed"]


async def test_fedprox_reaches_the_nodes_as_part_of_the_plan(home, state):
    seen = []

    def answer(task):
        payload = decode(task)
        seen.append(json.loads(payload.configs["config"]["plan"])["proximal"])
        return result_of(task)

    driven = Coordinator(home, state)
    driven.changes["strategy"] = FedProxSection(proximal_mu=0.25)
    async with at_work(driven, answer):
        run = records.request_run(state, 1, 1, utc_now())
        driven.driver.wake()
        assert (await driven.ended(run)).state == "done"
    assert set(seen) == {0.25}
    assert driven.published[0][1].strategy == "FedProx"
