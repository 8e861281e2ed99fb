"""What the loss of a node, of the coordinator, and a cancellation cost a training run. Real processes."""

import json
import subprocess

import pytest
from federation import RSFED, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


def train(federation, rounds):
    command = [*RSFED, "coordinator", "train", "--rounds", str(rounds), "--output", "json"]
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


def test_a_node_killed_in_training_costs_its_share_and_a_killed_coordinator_only_the_run(federation, image):
    running = train(federation, rounds=3)
    wait_until(lambda: rounds_done(federation), what="a first round is done", seconds=180)
    federation.servers["north"].kill()
    assert running.wait(300) == 0
    federation.wait_serving("alps", "coast", release=2)
    federation.serve("node", "north")
    federation.wait_serving("alps", "coast", "north", release=2)

    running = train(federation, rounds=50)
    wait_until(lambda: rounds_done(federation), what="a round of the second run is done", seconds=180)
    federation.servers["coordinator"].kill()
    running.kill()
    running.wait()
    federation.serve("coordinator", "coordinator")
    federation.wait_serving("alps", "coast", "north", release=2)
    answer = federation.query(image)
    assert answer["release"]["version"] == 2
    assert {o["status"] for o in answer["queries"][0]["outcomes"]} == {"COMPLETE"}
    assert [run["state"] for run in runs(federation)] == ["failed", "done"]

    running = train(federation, rounds=50)
    wait_until(lambda: rounds_done(federation), what="a round of the third run is done", seconds=180)
    federation.rsfed("coordinator", "runs", "cancel", "3", "--home", federation.home("coordinator"))
    assert running.wait(60) == 1
    assert runs(federation)[0]["error"] == "the run was cancelled [RUN_CANCELLED]"
    assert federation.query(image)["release"]["version"] == 2
