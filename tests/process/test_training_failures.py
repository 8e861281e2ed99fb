"""A killed node costs a training run its share; a killed coordinator costs the run and nothing else. Real processes."""

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
    runs = federation.rsfed("coordinator", "runs", "list", "--home", federation.home("coordinator"), "--output", "json")
    assert [run["state"] for run in json.loads(runs.stdout)["runs"]] == ["failed", "done"]
