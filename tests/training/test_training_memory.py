"""Memory of a round: what averages holds one result at a time, however many nodes send theirs at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from memory_of_a_round import weights

from coordinator.training.strategies import copies_held
from rsfed.config_strategies import BulyanSection, FedAvgMSection, FedAvgSection, FedProxSection, KrumSection
from rsfed.hashing.payload import Payload, encode

SCRIPT = Path(__file__).with_name("memory_of_a_round.py")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    metrics = {"num-examples": 10.0, "loss": 0.5, "seconds": 0.1}
    path = tmp_path_factory.mktemp("memory") / "result"
    path.write_bytes(encode(Payload(1, 1, "train", {"arrays": weights(0.51)}, {"metrics": metrics})))
    return path


def times_the_model(result, tmp_path, section, nodes):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    command = [sys.executable, str(SCRIPT), str(result), section.model_dump_json(), str(nodes), str(home)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path])}
    told = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert told["rounds"] == 2
    assert told["bytes"] > 4 * 10.9e6
    return told["times"]


@pytest.mark.parametrize("section", [FedAvgSection(), FedProxSection(), FedAvgMSection()], ids=lambda s: s.name)
def test_eleven_million_parameters_of_sixteen_nodes_need_less_than_six_times_the_model(result, tmp_path, section):
    assert times_the_model(result, tmp_path, section, 16) < copies_held(section, 16) == 6


@pytest.mark.parametrize("section", [KrumSection(), BulyanSection()], ids=lambda s: s.name)
def test_what_compares_results_needs_no_more_than_it_says(result, tmp_path, section):
    assert times_the_model(result, tmp_path, section, 7) < copies_held(section, 7)
