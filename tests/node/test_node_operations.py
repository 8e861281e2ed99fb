"""A node as its operator meets it: real processes, a real coordinator, the real command line."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from federation import Federation, free_port, wait_until, write_images

CLASSES = {"stripes": 6, "waves": 6}


@pytest.fixture
def federation(tmp_path):
    federation = Federation(tmp_path)
    federation.create(classes="stripes,waves", bits=16)
    yield federation
    federation.close()


def doctor(federation, name):
    done = federation.rsfed("node", "doctor", "--home", federation.home(name), "--output", "json", check=False)
    assert done.stdout, done.stderr
    return done.returncode, {row["check"]: row for row in json.loads(done.stdout)}


def wait_connected(federation, name):
    def connected():
        done = federation.rsfed("node", "status", "--home", federation.home(name), "--output", "json")
        serve = json.loads(done.stdout)["serve"]
        return serve and serve["connected"] and serve["indexed"]

    wait_until(connected, what=f"{name} serves and reaches the coordinator", seconds=90)


@pytest.mark.process
@pytest.mark.timeout(400)  # a dozen starts of processes, on a machine that may be busy
def test_doctor_and_restore_on_a_running_federation(federation, tmp_path):
    write_images(tmp_path / "images", CLASSES, seed=1)
    federation.add_node("rome", tmp_path / "images")
    wait_connected(federation, "rome")

    code, rows = doctor(federation, "rome")
    assert (code, {row["verdict"] for row in rows.values()}) == (0, {"ok"})
    assert rows["way back"]["found"] == "the coordinator can dial this node"

    federation.rsfed("node", "backup", tmp_path / "rome.tar", "--home", federation.home("rome"))
    federation.servers["rome"].kill()
    code, rows = doctor(federation, "rome")
    assert code == 0
    assert {check for check, row in rows.items() if row["verdict"] == "warn"} == {"serve", "way back"}

    home = federation.home("rome-again")
    federation.rsfed("node", "restore", tmp_path / "rome.tar", "--home", home)
    federation.serve("node", "rome-again")
    wait_connected(federation, "rome-again")
    with closing(sqlite3.connect(home / "state.sqlite")) as connection:
        assert connection.execute("SELECT value > 1 << 32 FROM meta WHERE key = 'next_item'").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM item WHERE state = 'present'").fetchone() == (12,)
    federation.servers["rome-again"].stop()

    path = home / "node.toml"
    path.write_text(path.read_text().replace('advertise = "127.0.0.1:', f'advertise = "127.0.0.1:{free_port()}" #', 1))
    federation.serve("node", "rome-again")
    wait_connected(federation, "rome-again")
    code, rows = doctor(federation, "rome-again")
    assert code == 1
    assert {check for check, row in rows.items() if row["verdict"] == "fail"} == {"way back"}

    federation.servers["coordinator"].stop()
    code, rows = doctor(federation, "rome-again")
    assert (code, rows["coordinator"]["reason"]) == (1, "UNREACHABLE")
