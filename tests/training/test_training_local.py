"""Commands of a node: training on its own archive alone, and what was asked of it and sent."""

import json

import pytest
from test_training_archive import COUNTS
from training_archive import make_archive

from rsfed.cli import run


@pytest.fixture(scope="module")
def home(tmp_path_factory, members, key):
    """A node with six patches of each class."""
    return make_archive(tmp_path_factory.mktemp("node"), COUNTS, members=members, key=key)


@pytest.fixture
def make(tmp_path, members, key):
    return lambda name, counts, **more: make_archive(tmp_path / name, counts, members=members, key=key, **more)


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
