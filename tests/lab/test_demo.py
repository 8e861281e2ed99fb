"""The demo from end to end, with real processes and tiny settings."""

import json
import os
import signal
import subprocess
import sys
from html.parser import HTMLParser

import psutil
import pytest
from federation import wait_until

from rsfed.lab.demo_story import local_steps
from rsfed.lab.synth import generate

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]
RSFED = [sys.executable, "-m", "rsfed"]


def environment(tmp_path):
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    generate(folder, patches=160, size=16, classes=8, seed=3)
    return folder


@pytest.fixture(scope="module")
def told(data, tmp_path_factory):
    """One demo with two nodes and one round: its standard output, standard error and folders."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [*RSFED, "demo", "--data", data, "--nodes", "2", "--rounds", "1", "--out", folder / "out", "--output", "json"],
        capture_output=True, text=True, check=False, env=environment(folder), timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, folder


def test_standard_output_is_one_object_with_every_documented_field(told):
    done, folder = told
    result = json.loads(done.stdout)
    documented = "seconds nodes patches bits rounds release precision_at_10 map_at_20 outcomes queries"
    assert set(documented.split()) <= result.keys()
    assert (result["nodes"], result["rounds"], result["release"]["version"]) == (2, 1, 2)
    assert len(bytes.fromhex(result["release"]["digest"])) == 32
    assert result["report"] == str(folder / "out" / "report.html")


def test_every_node_searched_its_whole_archive(told):
    outcomes = json.loads(told[0].stdout)["outcomes"]
    assert [(each["node"], each["status"], each["coverage"]) for each in outcomes] == [
        ("alps", "COMPLETE", 1.0),
        ("baltic", "COMPLETE", 1.0),
    ]


def test_every_patch_is_searched_or_a_query_but_the_rest_of_the_last_acquisition_held_out(told, data):
    result = json.loads(told[0].stdout)
    assert 0 <= len(list(data.rglob("*.tif"))) - result["patches"] - len(result["queries"]) < 16
    assert result["patches"] == sum(archive["patches"] for archive in result["archives"])


def test_hits_name_node_handle_and_distance_and_no_query_finds_itself(told):
    for query in json.loads(told[0].stdout)["queries"]:
        assert len(query["hits"]) == 20
        assert all(len(bytes.fromhex(hit["handle"])) == 16 for hit in query["hits"])
        distances = [hit["distance"] for hit in query["hits"]]
        assert distances == sorted(distances)


def test_the_trained_release_says_how_likely_hits_are_relevant(told):
    hits = [hit for query in json.loads(told[0].stdout)["queries"] for hit in query["hits"]]
    rated = sorted((hit["distance"], hit["relevance"]) for hit in hits if hit["relevance"] is not None)
    assert len(rated) > len(hits) / 2
    said = [relevance for _, relevance in rated]
    assert said == sorted(said, reverse=True)
    assert all(0 <= each <= 1 for each in said)
    assert "Whether the relevance is true" in (told[1] / "out" / "report.html").read_text()


def test_figures_are_between_0_and_1_and_stand_beside_their_baselines(told):
    result = json.loads(told[0].stdout)
    rows = [result, *(result["baselines"][name] for name in ("untrained_network", "random_hyperplanes", "chance"))]
    assert all(0 <= row[figure] <= 1 for row in rows for figure in ("precision_at_10", "map_at_20"))
    assert result["peak_pss_bytes"] > 1e8


def test_the_report_is_whole_and_has_the_pictures(told):
    text = (told[1] / "out" / "report.html").read_text()
    HTMLParser().feed(text)
    assert text.count("data:image/png;base64,") == 4
    assert "rsfed node resolve" in text


def test_nothing_is_left_behind(told):
    assert list((told[1] / "tmp").iterdir()) == []


def test_progress_goes_to_standard_error_alone(told):
    assert "round 1" in told[0].stderr
    assert len(told[0].stdout.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_the_demo_stops_every_process_and_removes_every_file(data, tmp_path, number):
    demo = subprocess.Popen(
        [*RSFED, "demo", "--data", str(data), "--nodes", "2", "--out", str(tmp_path / "out")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(tmp_path),
    )  # fmt: skip
    family = wait_until(lambda: serving(demo.pid), what="the coordinator runs", seconds=120)
    demo.send_signal(number)
    assert demo.wait(60) == 130
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert list((tmp_path / "tmp").iterdir()) == []


def serving(pid):
    family = psutil.Process(pid).children(recursive=True)
    return family if any("serve" in command_of(process) for process in family) else None


def command_of(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return []


@pytest.mark.parametrize(("images", "steps"), [(10, 40), (533, 50), (1067, 100), (100_000, 120)])
def test_steps_of_a_round_grow_with_the_archives_and_are_bounded(images, steps):
    assert local_steps({"alps": [None] * images, "baltic": [None] * images}) == steps
