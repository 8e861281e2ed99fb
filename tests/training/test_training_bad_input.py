"""What a run cannot be done with is said before its first round: real archives, in one process with the rounds."""

import asyncio
from contextlib import closing

import pytest
from test_training_archive import COUNTS, start_weights
from test_training_bounds import renamed
from test_training_rounds import run_whole
from training_archive import make_archive
from training_fakes import small_plan

from coordinator.training.rounds import Rules
from node.state import open_state
from node.training.adapter import run_task
from node.training.client_app import app
from rsfed.config_objectives import BatchAllSection
from rsfed.errors import TrainingError
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import PREFLIGHT

PLAN = small_plan(rounds=1, objective=BatchAllSection())
REASONS = {
    "void": "NO_LABELLED_PATCHES",
    "unmapped": "NO_LABELLED_PATCHES",
    "uniform": "NOTHING_TO_COMPARE",
    "renamed": "OTHER_CLASSES",
    "radar": "OTHER_BANDS",
    "older": "OTHER_SOFTWARE",
}


def as_if_older(task: bytes) -> bytes:
    """The same task from a coordinator whose software is ahead of the node's, as an older node sees it."""
    payload = decode(task)
    configs = {"config": payload.configs["config"] | {"software": "99.0.0"}}
    return encode(Payload(payload.run_id, payload.round, payload.kind, payload.arrays, configs=configs))


@pytest.fixture
def nodes(tmp_path, members, key):
    """One sound archive, and one with each fault; they answer as nodes do."""

    def home(name, counts=COUNTS, **more):
        return make_archive(tmp_path / name, counts, members=members, key=key, **more)

    homes = {
        "sound": home("sound"),
        "void": home("void", {}),
        "unmapped": home("unmapped", {"glacier": 6}),
        "uniform": home("uniform", {"water": 5}),
        "renamed": home("renamed", plan=small_plan(nomenclature=renamed(1))),
        "radar": home("radar"),
        "older": home("older"),
    }
    with closing(open_state(homes["radar"])) as connection:
        connection.execute("UPDATE item SET modality = 'sentinel-1-grd'")

    def answering(name):
        return lambda task: run_task(app, homes[name].path, as_if_older(task) if name == "older" else task)

    return {name: answering(name) for name in homes}


async def test_every_archive_that_cannot_take_part_is_named_with_its_reason_and_the_others_train(nodes):
    trained, events = await run_whole(nodes, plan=PLAN, start=start_weights(), rules=Rules(1, 60.0))
    assert events[0] == ("preflight", {"round": 1, "nodes": ["sound"], "refused": REASONS, "no_sums": {}})
    assert [data["failed"] for kind, data in events if kind == "round"] == [{}]
    assert trained.nodes == {"sound"}


async def test_where_all_archives_fail_the_run_ends_before_its_first_round_and_names_each(nodes):
    faulty = {name: answer for name, answer in nodes.items() if name != "sound"}
    kinds = set()

    def noted(answer):
        return lambda task: (kinds.add(decode(task).kind), answer(task))[1]

    with pytest.raises(TrainingError) as failed:  # at once, though a round could wait for longer
        await asyncio.wait_for(
            run_whole({name: noted(answer) for name, answer in faulty.items()}, plan=PLAN, rules=Rules(1, 600.0)), 120
        )
    assert failed.value.reason == "TOO_FEW_NODES"
    assert "round 1 needs 1 nodes and 0 came" in failed.value.public
    for name, reason in REASONS.items():
        assert f"{name} ({reason})" in failed.value.public
    assert kinds == {PREFLIGHT}


@pytest.mark.parametrize(("there", "needed"), [(0, 1), (1, 3)])
async def test_without_enough_nodes_nobody_is_asked_and_the_run_says_how_many_came(nodes, there, needed):
    asked = []
    present = {name: lambda task: asked.append(task) or nodes["sound"](task) for name in ["sound"][:there]}
    with pytest.raises(TrainingError) as failed:
        await run_whole(present, plan=PLAN, rules=Rules(needed, 0.3))
    assert failed.value.reason == "TOO_FEW_NODES"
    assert f"round 1 needs {needed} nodes and {there} came" in failed.value.public
    assert "start more nodes, or train with a lower --nodes" in failed.value.public
    assert asked == []
