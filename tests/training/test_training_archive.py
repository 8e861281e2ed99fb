"""Real training on real files: the ClientApp alone, in one process with the ServerApp, and in its child process."""

import asyncio
import json
import os
import signal
import sqlite3
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
from node.catalogue import Catalogue
from node.reading import BandReader
from node.training.adapter import run_task
from node.training.client_app import app
from node.training.holdout import hold_out, split
from node.training.patches import read_patches, sample
from node.training.trainer import train_round
from node.training.worker import Worker
from rsfed.cli import run
from rsfed.config_objectives import BatchAllSection, CentresSection, ContrastiveSection, MilanSection, PairwiseSection
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.calibration import from_records
from rsfed.hashing.codebook import ARRAYS_OF_CODES
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.weights import from_bytes, init_weights
from rsfed.privacy.policy import POLICIES
from rsfed.raster.item import Item, Window
from rsfed.trust.manifest import FederationClass, Nomenclature

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


MANY = dict.fromkeys(CLASSES, 30)


@pytest.fixture(scope="module")
def large(tmp_path_factory, members, key):
    """A node with thirty patches of each class, of one unknown acquisition."""
    return make_archive(tmp_path_factory.mktemp("large"), MANY, members=members, key=key, seed=5)


def test_a_node_counts_near_pairs_of_patches_that_it_did_not_train_on_and_sends_nothing_else(large):
    trained = decode(run_task(app, large.path, task()))
    assert trained.metrics["metrics"]["num-examples"] == 81
    counted = decode(run_task(app, large.path, task(kind="evaluate", arrays=trained.arrays)))
    assert counted.error == ""
    assert (set(counted.arrays), set(counted.metrics), counted.configs) == ({"arrays"}, {"metrics"}, {})
    codes = {name: counted.arrays["arrays"].pop(name) for name in ARRAYS_OF_CODES}
    assert not codes["code-acquisitions"].any(), "of one acquisition no class is counted"
    assert not codes["code-bits"].any()
    counts = from_records(counted.arrays["arrays"], counted.metrics["metrics"], small_plan().bits)
    assert (counts.queries, counts.acquisitions, counts.held_out_by) == (9, 1, "patch")
    assert counts.pairs.sum() == pytest.approx(9 * 20, rel=1e-5)
    assert 0 < counts.relevant.sum() <= counts.pairs.sum()
    assert counts.chance / counts.pairs.sum() == pytest.approx(1 / 3, abs=0.1)


def test_unlabelled_patches_that_were_trained_on_are_not_counted_as_unlike(make):
    home, plan = make("half", {"water": 30, "field": 30, "glacier": 60}), small_plan(objective=ContrastiveSection())
    trained = decode(run_task(app, home.path, task(plan=plan)))
    counted = decode(run_task(app, home.path, task(plan=plan, kind="evaluate", arrays=trained.arrays)))
    pairs = {name: each for name, each in counted.arrays["arrays"].items() if name not in ARRAYS_OF_CODES}
    counts = from_records(pairs, counted.metrics["metrics"], plan.bits)
    assert counts.chance / counts.pairs.sum() == pytest.approx(1 / 2, abs=0.05), (
        "a quarter of all patches, half of these"
    )


def test_whole_acquisitions_are_kept_for_calibration_and_none_of_them_is_trained_on(make):
    home = make("flown", {"water": 75, "glacier": 75})
    with sqlite3.connect(home.path / "state.sqlite") as catalogue:
        catalogue.execute("UPDATE item SET acquisition = 'overpass ' || (id % 15)")
    held_out = hold_out(home, small_plan())
    assert held_out.by == "acquisition"
    with Catalogue(home) as catalogue:
        flown = {item.id: item.acquisition for item in catalogue.items("rgb")}
    kept = {flown[id_] for id_ in held_out.ids}
    assert 1 <= len(kept) < 15
    assert held_out.ids == {id_ for id_, acquisition in flown.items() if acquisition in kept}, "unlabelled ones too"
    asked = {item.id for group in held_out.queries for item in group}
    assert asked < held_out.ids
    assert len(asked) >= 7
    assert all(len({item.acquisition for item in group}) == 1 for group in held_out.queries)
    trained_on = load_patches(home, small_plan(objective=ContrastiveSection()), 16, without=held_out.ids)
    assert len(trained_on) == 150 - len(held_out.ids)


@pytest.mark.parametrize(
    ("training", "reason"), [("calibration = false", "CALIBRATION_REFUSED"), ("enabled = false", "TRAINING_DISABLED")]
)
def test_an_operator_who_refuses_sends_no_counts_and_trains_on_everything(make, training, reason):
    home = make("refusing", MANY, training=training)
    assert reason_of(home, task(kind="evaluate")) == reason
    if reason == "CALIBRATION_REFUSED":
        assert decode(run_task(app, home.path, task())).metrics["metrics"]["num-examples"] == sum(MANY.values())


def test_without_a_policy_level_a_node_is_guarded_and_sends_no_counts_of_few_acquisitions(make):
    home = make("undecided", MANY)
    path = home.path / "node.toml"
    path.write_text(path.read_text().replace('level = "partner"', ""))
    assert reason_of(home, task(kind="evaluate", run_id=31)) == "TOO_FEW_ACQUISITIONS"


def test_an_archive_of_one_class_has_nothing_to_calibrate(make):
    assert reason_of(make("uniform", {"water": 60}), task(kind="evaluate")) == "NOTHING_TO_COMPARE"


def test_below_the_floor_of_its_level_a_node_sends_no_counts(large, monkeypatch):
    monkeypatch.setattr(
        "node.training.client_app.policy", lambda level: replace(POLICIES[level], floor=2), raising=True
    )
    assert reason_of(large, task(kind="evaluate")) == "TOO_FEW_ACQUISITIONS"


def test_two_archives_calibrate_what_they_trained(large, make):
    other = make("second", MANY, seed=9)

    async def trained():
        board, events = TaskBoard(), []
        nodes = [
            asyncio.create_task(answer_tasks(board, name, lambda data, at=place: run_task(app, at.path, data)))
            for name, place in (("one", large), ("two", other))
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
                note=lambda kind, data: events.append((kind, data)),
            ), events
        finally:
            for node in nodes:
                node.cancel()
            await asyncio.wait(nodes)

    (first, events), (second, _) = asyncio.run(trained()), asyncio.run(trained())
    kind, event = events[-1]
    assert (kind, event["nodes"], event["failed"]) == ("calibrated", ["one", "two"], {})
    assert first.calibration == second.calibration
    assert (first.calibration.queries, first.calibration.nodes) == (18, 2)
    assert first.calibration.held_out_by == "patch"
    assert sum(band.pairs for band in first.calibration.bands) == pytest.approx(360, abs=0.1)


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


def node(home, capsys, *arguments):
    code = run(["node", "train", *arguments, "--home", str(home.path)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_local_training_reports_loss_time_memory_and_figures(home, capsys):
    code, out, _ = node(home, capsys, "--local", "--epochs", "3", "--output", "json")
    report = json.loads(out)
    assert code == 0
    assert (report["labels"], report["classes"], report["held_out_by"]) == ("federation", 3, "patch")
    assert report["patches"] + report["held_out"] == sum(COUNTS.values())
    assert len(report["losses"]) == 3
    assert report["seconds"] > 0
    assert report["peak_memory"] > 1 << 20
    for figures in (report["trained"], report["untrained"]):
        assert (figures["map_k"], figures["precision_k"]) == (20, 10)
        assert 0 <= figures["mean_average_precision"] <= 1
    assert node(home, capsys, "--local", "--epochs", "3", "--output", "json")[1] != ""


def test_local_training_prints_a_table(home, capsys):
    code, out, _ = node(home, capsys, "--local", "--epochs", "2")
    assert code == 0
    for word in ("mAP@20", "precision@10", "peak memory", "figures are too good"):
        assert word in out


def test_a_node_that_never_joined_trains_on_its_own_labels(tmp_path, capsys):
    home = make_archive(tmp_path / "alone", {"meadow": 8, "lake": 8})
    report = json.loads(node(home, capsys, "--local", "--epochs", "1", "--output", "json")[1])
    assert (report["labels"], report["classes"]) == ("own", 2)


def test_training_without_local_says_who_starts_it(home, capsys):
    code, _, err = node(home, capsys)
    assert code == 2
    assert "rsfed coordinator train" in err


def test_local_training_of_one_class_says_what_to_do(make, capsys):
    code, _, err = node(make("pond", {"water": 8}), capsys, "--local")
    assert code == 1
    assert "NOTHING_TO_COMPARE" in err
    assert "tells classes apart" in err


def test_local_training_of_an_empty_archive_says_what_to_do(make, capsys):
    code, _, err = node(make("void", {}), capsys, "--local")
    assert code == 1
    assert "TOO_FEW_PATCHES" in err


def test_status_shows_what_was_asked_and_sent(make, capsys):
    from node.state import open_state
    from node.training import journal

    home = make("logged", {})
    assert "nothing was asked" in node(home, capsys, "status")[1]
    connection = open_state(home)
    for number, state in ((1, "done"), (2, "TASK_EXPIRED"), (3, "working")):
        row = journal.begin(connection, 8, number, "train", 2 << 20, objective="centres", steps=40)
        if state != "working":
            digest = "ab" * 32 if state == "done" else None
            journal.end(connection, row, state=state, sent=1 << 20, seconds=2.5, loss=0.25, sent_digest=digest)
    journal.close_interrupted(connection)
    connection.close()
    tasks = json.loads(node(home, capsys, "status", "--output", "json")[1])["tasks"]
    assert [(each["round"], each["state"]) for each in tasks] == [(3, "INTERRUPTED"), (2, "TASK_EXPIRED"), (1, "done")]
    table = node(home, capsys, "status")[1]
    assert "done" in table
    assert "0.25" in table
    code = run(["node", "status", "--home", str(home.path)])
    shown = capsys.readouterr().out
    assert code == 0
    assert "this node takes part in training" in shown
    assert "run 8 round 1 train (centres, 40 steps): done, 1048576 bytes sent, abababababab" in shown
    assert "run 8 round 2 train (centres, 40 steps): TASK_EXPIRED, nothing sent" in shown
