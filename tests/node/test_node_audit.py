"""`rsfed node audit`: the operator sees what left the node, who asked, and who looked up which handle."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import make_home
from test_resolve import Scene

from node.audit import Entry, merge
from node.state import open_state
from node.training import journal
from rsfed.cli import run

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def scene(tmp_path):
    """A node that answered a query, whose operator then resolved two handles, and that trained after that."""
    scene = Scene(tmp_path / "node")
    scene.asked = scene.world.clock()
    scene.world.clock.move(hours=1)
    scene.resolve(*scene.handles[:2])
    scene.world.clock.move(hours=1)
    with closing(open_state(scene.home)) as connection:
        row = journal.begin(connection, 8, 2, "train", 3000, objective="centres", steps=40, now=scene.world.clock)
        journal.end(connection, row, state="done", sent=2000, seconds=2.5, loss=0.25, sent_digest="ab" * 32)
    return scene


def audit(capsys, home, *arguments):
    code = run(["node", "audit", *arguments, "--home", str(home.path)])
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    return told.out


def lines(capsys, home, *arguments):
    return json.loads(audit(capsys, home, "--output", "json", *arguments))["audit"]


def test_queries_look_ups_and_training_are_listed_in_the_order_of_time(scene, capsys):
    query, release = scene.response.query_id.hex(), scene.response.release_digest.hex()
    asked, ada = scene.asked, "spiffe://alps/analyst/ada"
    assert lines(capsys, scene.home) == [
        {
            "at": asked.isoformat(),
            "kind": "query.answered",
            "subject": ada,
            "data": {"query": query, "release": release},
        },
        *(
            {
                "at": (asked + timedelta(hours=1)).isoformat(),
                "kind": "handle.resolved",
                "subject": "olga",
                "data": {"handle": handle, "requester": ada, "query": query},
            }
            for handle in scene.handles[:2]
        ),
        {
            "at": (asked + timedelta(hours=2)).isoformat(),
            "kind": "training.task",
            "subject": "run 8",
            "data": {
                "run": 8,
                "round": 2,
                "task": "train",
                "state": "done",
                "received_bytes": 3000,
                "sent_bytes": 2000,
                "seconds": 2.5,
                "loss": 0.25,
                "objective": "centres",
                "steps": 40,
                "sent_digest": "ab" * 32,
            },
        },
    ]


def test_only_the_newest_lines_are_listed_when_so_asked(scene, capsys):
    whole = lines(capsys, scene.home)
    for count in range(1, 6):
        assert lines(capsys, scene.home, "--last", str(count)) == whole[-count:]


def test_the_table_names_who_asked_and_what_was_looked_up_but_no_file_and_no_label(scene, capsys):
    table = audit(capsys, scene.home)
    for word in ("spiffe://alps/analyst/ada", "olga", scene.handles[0], "run 8", "2000"):
        assert word in table
    for private in ("secret-", "forest", "park"):
        assert private not in table


def test_a_node_that_nobody_asked_says_so(tmp_path, capsys):
    home = make_home(tmp_path / "node")
    assert "nothing left this node" in audit(capsys, home)
    assert lines(capsys, home) == []


def test_without_a_node_the_command_says_what_to_run(tmp_path, capsys):
    assert run(["node", "audit", "--home", str(tmp_path)]) == 6
    assert "rsfed node init" in capsys.readouterr().err


MOMENTS = st.lists(st.lists(st.integers(0, 20), max_size=8), max_size=4)


@given(MOMENTS, st.integers(1, 12))
def test_merging_the_newest_of_each_source_gives_the_newest_of_all(moments, last):
    sources = [
        [Entry(START + timedelta(seconds=second), "kind", f"{source} {place}", {}) for place, second in enumerate(each)]
        for source, each in enumerate(sorted(one) for one in moments)
    ]
    newest_first = [each[::-1] for each in sources]
    expected = sorted((entry for each in reversed(sources) for entry in each), key=lambda entry: entry.at)[-last:]
    assert merge(newest_first, last=last) == expected
    assert merge([each[:last] for each in newest_first], last=last) == expected
