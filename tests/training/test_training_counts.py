"""Counts of near pairs that a node on real files sends for calibration, and when it sends none."""

import asyncio
import sqlite3
from dataclasses import replace

import pytest
from test_training_archive import reason_of, start_weights, task
from training_archive import load_patches, make_archive
from training_fakes import CLASSES, answer_tasks, small_plan, until

from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.rounds import Rules
from node.catalogue import Catalogue
from node.training.adapter import run_task
from node.training.client_app import app
from node.training.holdout import hold_out
from rsfed.config_objectives import ContrastiveSection
from rsfed.hashing.calibration import from_records
from rsfed.hashing.codebook import ARRAYS_OF_CODES
from rsfed.hashing.payload import decode
from rsfed.privacy.policy import POLICIES

MANY = dict.fromkeys(CLASSES, 30)


@pytest.fixture
def make(tmp_path, members, key):
    return lambda name, counts, **more: make_archive(tmp_path / name, counts, members=members, key=key, **more)


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
    held_out = hold_out(home, small_plan(), 1)
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


def of_acquisitions(home, count, *, level=None):
    """Say of a home's patches that so many overpasses took them, each of all classes; at `guarded` without a level."""
    with sqlite3.connect(home.path / "state.sqlite") as catalogue:
        catalogue.execute("UPDATE item SET acquisition = 'overpass ' || (id % ?)", (count,))
    path = home.path / "node.toml"
    path.write_text(path.read_text().replace('level = "partner"', level or ""))


def test_an_archive_of_20_acquisitions_spares_the_five_that_guarded_needs_and_counts_its_codes(make):
    home = make("spares", dict.fromkeys(CLASSES, 40))
    of_acquisitions(home, 20)
    trained = decode(run_task(app, home.path, task(run_id=51)))
    assert trained.metrics["metrics"]["num-examples"] == 90
    counted = decode(run_task(app, home.path, task(kind="evaluate", arrays=trained.arrays, run_id=51)))
    codes = {name: counted.arrays["arrays"].pop(name) for name in ARRAYS_OF_CODES}
    assert codes["code-acquisitions"].tolist() == [15.0] * 3
    assert codes["code-distances"].sum() == pytest.approx(5)
    counts = from_records(counted.arrays["arrays"], counted.metrics["metrics"], small_plan().bits)
    assert (counts.acquisitions, counts.held_out_by) == (5, "acquisition")


def test_an_archive_that_cannot_spare_so_many_holds_out_nothing_and_says_why(make):
    home = make("cannot", dict.fromkeys(CLASSES, 40))
    of_acquisitions(home, 16)
    assert decode(run_task(app, home.path, task(run_id=52))).metrics["metrics"]["num-examples"] == 120
    assert reason_of(home, task(kind="evaluate", run_id=52)) == "TOO_FEW_ACQUISITIONS"


def test_of_more_patches_than_may_ask_every_held_out_acquisition_asks(make, monkeypatch):
    monkeypatch.setattr("node.training.holdout.MAX_QUERIES", 5)
    home = make("turns", dict.fromkeys(CLASSES, 40))
    of_acquisitions(home, 20)
    assert [len(group) for group in hold_out(home, small_plan(), 5).queries] == [1] * 5


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


def test_below_the_floor_of_its_level_a_node_sends_no_counts(make, monkeypatch):
    monkeypatch.setattr(
        "node.training.client_app.policy", lambda level: replace(POLICIES[level], floor=2), raising=True
    )
    assert reason_of(make("few", MANY), task(kind="evaluate")) == "TOO_FEW_ACQUISITIONS"


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
