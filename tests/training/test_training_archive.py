"""Real training on real files: the ClientApp alone, in one process with the ServerApp, and in its child process."""

import asyncio
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
from training_archive import load_patches, make_archive
from training_fakes import CLASSES, answer_tasks, small_plan, until

from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.rounds import Rules
from node.reading import BandReader
from node.training.adapter import run_task
from node.training.client_app import app
from node.training.holdout import split
from node.training.patches import read_patches, sample
from node.training.trainer import train_round
from node.training.worker import Worker
from rsfed.config_objectives import BatchAllSection, CentresSection, ContrastiveSection, MilanSection, PairwiseSection
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.weights import from_bytes, init_weights
from rsfed.raster.input_spec import reduced_spec
from rsfed.raster.item import Item, Window
from rsfed.raster.modality import modality
from rsfed.trust.manifest import FederationClass, Nomenclature, ReducedResnet

COUNTS = dict.fromkeys(CLASSES, 6)
EVERY_OBJECTIVE = [MilanSection(), BatchAllSection(), CentresSection(), PairwiseSection(), ContrastiveSection()]


def start_weights(plan=None):
    plan = plan or small_plan()
    return from_bytes(init_weights(plan.architecture, plan.input, plan.bits, plan.seed))


def task(*, plan=None, number=1, run_id=1, **changes) -> bytes:
    plan = plan or small_plan()
    config = {"plan": plan.model_dump_json(), "server-round": number}
    fields = {"kind": "train", "arrays": {"arrays": start_weights(plan)}, "configs": {"config": config}}
    return encode(Payload(run_id=run_id, round=number, **(fields | changes)))


@pytest.fixture(scope="module")
def home(tmp_path_factory, members, key):
    """A node with six patches of each class."""
    return make_archive(tmp_path_factory.mktemp("node"), COUNTS, members=members, key=key)


@pytest.fixture
def make(tmp_path, members, key):
    return lambda name, counts, **more: make_archive(tmp_path / name, counts, members=members, key=key, **more)


def reason_of(home, data: bytes) -> str:
    return decode(run_task(app, home.path, data)).error


def test_a_round_sends_weights_patches_and_seconds_and_nothing_else(home):
    result = decode(run_task(app, home.path, task()))
    assert result.error == ""
    assert (result.run_id, result.round, result.kind) == (1, 1, "train")
    assert set(result.metrics) == {"metrics"}
    assert set(result.metrics["metrics"]) == {"num-examples", "seconds"}
    assert result.metrics["metrics"]["num-examples"] == sum(COUNTS.values())
    assert result.configs == {}
    assert set(result.arrays) == {"arrays"}
    before, after = start_weights(), result.arrays["arrays"]
    assert {name: array.shape for name, array in after.items()} == {n: a.shape for n, a in before.items()}
    assert any((after[name] != before[name]).any() for name in before)


def test_a_node_trains_the_network_of_reduced_images(home):
    plan = small_plan(architecture=ReducedResnet(width=8), input=reduced_spec(modality("rgb"), 32, 4))
    result = decode(run_task(app, home.path, task(plan=plan)))
    assert result.error == ""
    before, after = start_weights(plan), result.arrays["arrays"]
    assert {name: array.shape for name, array in after.items()} == {n: a.shape for n, a in before.items()}
    assert (after["trunk.0.weight"] != before["trunk.0.weight"]).any(), "the transposed convolution learns too"


def test_the_same_task_gives_the_same_weights_and_another_round_or_seed_others(home):
    patches, plan = load_patches(home, small_plan(), 16), small_plan()
    one, same, other = (train_round(plan, n, start_weights(), patches, threads=1).arrays for n in (1, 1, 2))
    reseeded = train_round(small_plan(seed=8), 1, start_weights(), patches, threads=1).arrays
    assert all(one[name].tobytes() == same[name].tobytes() for name in one)
    for changed in (other, reseeded):
        assert any(one[name].tobytes() != changed[name].tobytes() for name in one)


def test_two_archives_train_together_with_the_same_result_every_time(home, make):
    other = make("other", {"forest": 4, "water": 8}, seed=9)

    async def trained():
        board, events = TaskBoard(), []
        nodes = [
            asyncio.create_task(answer_tasks(board, name, lambda data, at=place: run_task(app, at.path, data)))
            for name, place in (("one", home), ("two", other))
        ]
        await until(lambda: len(board.present()) == 2)
        try:
            return await asyncio.to_thread(
                train,
                BoardGrid(board, 4),
                small_plan(rounds=2),
                Progress(weights=start_weights()),
                run_id=4,
                rules=Rules(2, 60.0),
                note=lambda _, data: events.append(data),
            ), events
        finally:
            for node in nodes:
                node.cancel()
            await asyncio.wait(nodes)

    (first, events), (second, _) = asyncio.run(trained()), asyncio.run(trained())
    preflight, *rounds, calibrated = events
    assert preflight == {"round": 1, "nodes": ["one", "two"], "refused": {}, "no_sums": {}}
    assert [event["examples"] for event in rounds] == [18 + 12] * 2
    assert all(event["failed"] == {} and event["loss"] is None for event in rounds)  # no operator listed the loss
    assert calibrated["failed"] == dict.fromkeys(("one", "two"), "TOO_FEW_ACQUISITIONS")
    assert first.calibration is None
    assert all(first.weights[name].tobytes() == second.weights[name].tobytes() for name in first.weights)


def test_a_node_without_labelled_patches_says_so(make):
    assert reason_of(make("empty", {}), task()) == "NO_LABELLED_PATCHES"
    assert reason_of(make("foreign", {"glacier": 3}), task()) == "NO_LABELLED_PATCHES"


def test_a_node_with_one_class_only_sends_no_update(make):
    batchall = task(plan=small_plan(objective=BatchAllSection()))
    assert reason_of(make("water", {"water": 5}), batchall) == "NOTHING_TO_COMPARE"
    water = Nomenclature(classes=(FederationClass(id=12, name="water"),))
    alone = small_plan(objective=CentresSection(), nomenclature=water)
    assert reason_of(make("lonely", {"water": 5}), task(plan=alone)) == "NOTHING_TO_COMPARE", "no other class anywhere"


def test_a_node_with_one_class_trains_for_its_hash_centre(make):
    """The centres of the other classes are where the other nodes bring theirs."""
    assert reason_of(make("lake", {"water": 5}), task(plan=small_plan(objective=CentresSection()))) == ""


def test_without_labels_all_patches_are_trained_on(make):
    home, plan = make("unknown", {"glacier": 3, "water": 2}), small_plan(objective=ContrastiveSection())
    assert len(load_patches(home, plan, 16)) == 5
    assert len(load_patches(home, small_plan(), 16)) == 2
    result = decode(run_task(app, home.path, task(plan=plan)))
    assert (result.error, result.metrics["metrics"]["num-examples"]) == ("", 5)
    assert reason_of(make("none", {}), task(plan=plan)) == "NO_LABELLED_PATCHES"
    assert reason_of(make("single", {"glacier": 1}), task(plan=plan)) == "NOTHING_TO_COMPARE"


def test_more_classes_than_there_are_centres_for_are_refused(make):
    many = Nomenclature(classes=tuple(FederationClass(id=n, name=f"class {n}") for n in range(2000)))
    home = make("crowded", {"water": 3, "field": 3})
    assert reason_of(home, task(plan=small_plan(objective=CentresSection(), nomenclature=many))) == "TOO_MANY_CLASSES"


@pytest.mark.parametrize("section", EVERY_OBJECTIVE, ids=lambda section: section.name)
def test_a_class_with_one_patch_is_trained_beside_the_others(make, section):
    result = decode(
        run_task(app, make("rare", {"water": 1, "field": 6}).path, task(plan=small_plan(objective=section)))
    )
    assert (result.error, result.metrics["metrics"]["num-examples"]) == ("", 7)


@pytest.mark.parametrize("section", EVERY_OBJECTIVE, ids=lambda section: section.name)
def test_a_loss_that_is_not_finite_sends_no_update(home, section):
    plan = small_plan(objective=section)
    huge = {name: np.full_like(array, 1e38) for name, array in start_weights(plan).items()}
    result = decode(run_task(app, home.path, task(plan=plan, arrays={"arrays": huge})))
    assert (result.error, result.arrays) == ("DIVERGED", {})


def test_the_operators_limits_stand_above_the_plan(make):
    off = make("off", COUNTS, training="enabled = false")
    assert reason_of(off, task()) == "TRAINING_DISABLED"
    tight = make("tight", COUNTS, training="max_steps = 3")
    assert reason_of(tight, task()) == "PLAN_LIMITS"
    assert reason_of(tight, task(plan=small_plan(local_steps=3))) == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x04N.", "PAYLOAD_MALFORMED"),
        (task(kind="shell"), "UNKNOWN_KIND"),
        (task(kind="query"), "TRAINING_FAILED"),
        (task(kind="evaluate"), "TOO_FEW_ACQUISITIONS"),
        (task(arrays={}), "TASK_INCOMPLETE"),
        (task(configs={}), "TASK_INCOMPLETE"),
        (task(configs={"config": {"server-round": 1}}), "PLAN_INVALID"),
        (task(number=4), "PLAN_INVALID"),
        (task(arrays={"arrays": {"w": np.zeros(3, np.float32)}}), "WEIGHTS_UNFIT"),
        (task(arrays={"arrays": start_weights(small_plan(bits=32))}), "WEIGHTS_UNFIT"),
    ],
    ids=[
        "no payload",
        "kind",
        "no query",
        "too few to calibrate",
        "no weights",
        "no settings",
        "no plan",
        "round",
        "layers",
        "shape",
    ],
)
def test_a_task_that_will_not_do_is_answered_with_its_reason(home, data, reason):
    assert reason_of(home, data) == reason


def test_whatever_goes_wrong_tells_no_path(home, monkeypatch, capfd):
    monkeypatch.setattr("node.training.client_app.read_patches", lambda *_, **__: (home.path / "canary").read_bytes())
    result = run_task(app, home.path, task(run_id=77))
    assert decode(result).error == "TRAINING_FAILED"
    assert b"canary" not in result
    assert "canary" not in capfd.readouterr().err


def test_patches_are_read_once_for_each_run(home, monkeypatch):
    reads = []
    monkeypatch.setattr(
        "node.training.client_app.read_patches",
        lambda *given, **more: reads.append(1) or read_patches(*given, **more),
    )
    for number, run_id in ((1, 50), (2, 50), (1, 51)):
        assert decode(run_task(app, home.path, task(number=number, run_id=run_id))).error == ""
    assert len(reads) == 2


def test_patches_that_vanished_since_the_ingest_are_left_out(make):
    home = make("shrinking", COUNTS)
    (home.path / "archive" / "water" / "0.png").unlink()
    assert len(load_patches(home, small_plan(), 16)) == sum(COUNTS.values()) - 1


def items(count: int, acquisitions: int) -> list[Item]:
    return [
        Item(n, None, Window(0, 0, 16, 16), "rgb", "", (1,), f"overpass {n % acquisitions}")
        for n in range(1, count + 1)
    ]


def test_of_more_patches_than_memory_holds_the_seed_draws_a_part_in_order():
    many = items(30_000, 1)
    one, same, other = (sample(many, BandReader(small_plan().input), 16, seed) for seed in (1, 1, 2))
    assert len(one) == (16 << 20) // (3 * 16 * 16 * 2)
    assert one == same != other
    assert one == sorted(one, key=lambda item: item.id)
    assert sample(many[:5], BandReader(small_plan().input), 16, 1) == many[:5]


def test_whole_acquisitions_are_held_out_where_there_are_several():
    trained_on, held_out, by = split(items(100, 10))
    assert by == "acquisition"
    assert len(held_out) == 20
    assert not {i.acquisition for i in held_out} & {i.acquisition for i in trained_on}
    trained_on, held_out, by = split(items(100, 1))
    assert (by, len(held_out), len(trained_on)) == ("patch", 20, 80)
    for few in (items(2, 1), items(2, 2), items(3, 2)):
        trained_on, held_out, _ = split(few)
        assert trained_on
        assert held_out
    with pytest.raises(TrainingError) as refused:
        split(items(1, 1))
    assert refused.value.reason == "TOO_FEW_PATCHES"


@pytest.mark.parametrize(("floor", "needed"), [(5, 20), (10, 40), (20, 80)])
def test_as_many_acquisitions_are_held_out_as_are_wanted_if_a_quarter_of_the_patches_is_enough_for_that(floor, needed):
    for count in (needed, 2 * needed, 20 * needed):
        _, held_out, by = split(items(5 * count, count), least=0.1, most=0.25, acquisitions=floor)
        assert by == "acquisition"
        assert len({item.acquisition for item in held_out}) == max(floor, count // 10)
    _, held_out, _ = split(items(4 * (needed - 4), needed - 4), least=0.1, most=0.25, acquisitions=floor)
    assert len(held_out) <= needed - 4


@pytest.mark.parametrize("seed", range(5))
def test_no_large_acquisition_takes_the_room_of_those_that_are_wanted(seed):
    sizes = [4] * 15 + [12] * 5
    mixed = [replace(i, acquisition=f"{seed} {n}") for n, size in enumerate(sizes) for i in items(size, 1)]
    _, held_out, _ = split(mixed, least=0.1, most=0.25, acquisitions=5)
    assert len({item.acquisition for item in held_out}) == 5
    assert len(held_out) <= 30


def test_most_of_the_archive_is_trained_on_however_large_one_acquisition_is():
    sizes = {"a": 30, "b": 20, "large": 950}
    mixed = [replace(i, acquisition=name) for name, size in sizes.items() for i in items(size, 1)]
    for large in ("large", "a", "b"):  # wherever the order of names puts the large one
        renamed = [
            replace(i, acquisition={"large": large, large: "large"}.get(i.acquisition, i.acquisition)) for i in mixed
        ]
        trained_on, held_out, _ = split(renamed)
        assert len(trained_on) >= len(renamed) / 2
        assert held_out


def test_a_round_number_that_the_plan_does_not_have_is_refused(home):
    patches = load_patches(home, small_plan(), 16)
    for number in (0, 4, -1, "1", None, 1.0):
        with pytest.raises(InvalidMessage):
            train_round(small_plan(), number, start_weights(), patches, threads=1)


async def test_the_child_process_trains_dies_and_is_replaced(home):
    worker = Worker(home, 1)
    try:
        first = decode(await worker.run(task()))
        assert first.error == ""
        here = decode(run_task(app, home.path, task())).arrays["arrays"]
        there = first.arrays["arrays"]
        assert all(here[name].tobytes() == there[name].tobytes() for name in here)
        child = worker._process.pid
        os.kill(child, signal.SIGKILL)
        with pytest.raises(TrainingError) as died:
            await worker.run(task())
        assert died.value.reason == "WORKER_DIED"
        assert decode(await worker.run(task(number=2))).error == ""
    finally:
        await worker.stop()
    assert worker._process is None


async def test_a_cancelled_task_ends_its_child_process(home):
    worker = Worker(home, 1)
    work = asyncio.create_task(worker.run(task(plan=small_plan(local_steps=9000))))
    await until(lambda: worker._process)
    process = worker._process
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert process.returncode is not None


async def test_the_child_ends_in_the_middle_of_a_task_when_its_parent_is_gone(home):
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "node.training.worker", str(home.path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    endless = task(plan=small_plan(local_steps=9999))
    child.stdin.write(len(endless).to_bytes(8) + endless)
    assert b"training.reading" in await child.stderr.readline()
    child.stdin.close()
    out, _ = await child.communicate()
    assert (child.returncode, out) == (0, b"")
