"""What the loss of a node, of the coordinator, and a cancellation cost a training run. Real processes."""

import json
import subprocess

import pytest
from federation import RSFED, Federation, wait_until, write_images

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


def train(federation, rounds, *, nodes=1):
    command = [*RSFED, "coordinator", "train", "--rounds", str(rounds), "--nodes", str(nodes), "--output", "json"]
    home = ["--home", str(federation.home("coordinator"))]
    with (federation.folder / "train.out").open("wb") as log:
        return subprocess.Popen([*command, *home], stdout=log, stderr=log, env=federation.environment)


def rounds_done(federation):
    lines = (federation.folder / "train.out").read_text().splitlines()
    return [row for row in map(json.loads, (line for line in lines if line.startswith("{"))) if "loss" in row]


def runs(federation):
    home = federation.home("coordinator")
    listed = federation.rsfed("coordinator", "runs", "list", "--home", home, "--output", "json")
    return json.loads(listed.stdout)["runs"]


def test_a_node_killed_in_training_costs_its_share_and_a_cancelled_run_nothing(federation, image):
    running = train(federation, rounds=3)
    wait_until(lambda: rounds_done(federation), what="a first round is done", seconds=180)
    federation.servers["north"].kill()
    assert running.wait(300) == 0
    federation.wait_serving("alps", "coast", release=2)
    federation.serve("node", "north")
    federation.wait_serving("alps", "coast", "north", release=2)

    running = train(federation, rounds=50)
    wait_until(lambda: rounds_done(federation), what="a round of the second run is done", seconds=180)
    federation.rsfed("coordinator", "runs", "cancel", "2", "--home", federation.home("coordinator"))
    assert running.wait(60) == 1
    assert runs(federation)[0]["error"] == "the run was cancelled [RUN_CANCELLED]"
    assert federation.query(image)["release"]["version"] == 2


def events(federation):
    shown = federation.rsfed(
        "coordinator", "runs", "show", "1", "--home", federation.home("coordinator"), "--output", "json"
    )
    return json.loads(shown.stdout)["events"]


def weights_after_training(folder, *, kill_after=()):
    """Train two archives for 4 rounds, with the coordinator killed after some, and return the released weights."""
    folder.mkdir()
    federation = Federation(folder)
    try:
        federation.create(classes="stripes-a,stripes-b")
        for seed, name in enumerate(("alps", "coast")):
            write_images(folder / f"images-{name}", {"stripes-a": 8, "stripes-b": 8}, seed=seed)
            federation.add_node(name, folder / f"images-{name}")
        federation.wait_serving("alps", "coast")
        running = train(federation, rounds=4, nodes=2)
        for number in kill_after:
            wait_until(lambda n=number: len(rounds_done(federation)) >= n, what=f"round {number} is done", seconds=180)
            federation.servers["coordinator"].kill()
            federation.serve("coordinator", "coordinator")
        assert running.wait(300) == 0
        told = events(federation)
        assert [event["round"] for event in told if event["event"] == "round"] == [1, 2, 3, 4]
        assert all(event["nodes"] == ["alps", "coast"] for event in told if event["event"] == "round")
        assert len([event for event in told if event["event"] == "resumed"]) == len(kill_after)
        assert [event["version"] for event in told if event["event"] == "released"] == [2]
        federation.wait_serving("alps", "coast", release=2)
        files = (federation.home("coordinator") / "releases").rglob("weights.safetensors")
        return {path.read_bytes() for path in files}  # of both releases; the first one's are those of the seed
    finally:
        federation.close()


def test_a_killed_coordinator_goes_on_with_its_run_and_gives_what_an_undisturbed_one_gives(tmp_path):
    calm = weights_after_training(tmp_path / "calm")
    assert len(calm) == 2
    assert weights_after_training(tmp_path / "rough", kill_after=(1, 3)) == calm
