"""`rsfed node ingest --watch` as an operator runs it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess

import pytest
from federation import RSFED, wait_until
from node_archives import make_node, png

from node.catalogue import Catalogue
from rsfed.errors import ExitCode


@pytest.mark.process
def test_a_watched_folder_is_followed_until_ctrl_c_and_through_a_time_without_it(tmp_path):
    home, archive = make_node(tmp_path)
    png(archive / "a.png", 1)
    png(archive / "b.png", 2)
    out, err = tmp_path / "out", tmp_path / "err"
    command = [*RSFED, "node", "ingest", "--home", home.path, "--watch", "--interval", "1", "--output", "json"]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def files(count):
        """What each look did, once there are so many of them."""
        done = [json.loads(line)["files"] for line in out.read_text().splitlines()]
        return done[-1] if len(done) == count else None

    try:
        assert wait_until(lambda: files(1), what="the first look")["read"] == 2
        (archive / "a.png").unlink()
        (archive / "bad.png").write_bytes(b"no image")
        with (home.path / "ingest.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # between two looks
            away = archive.rename(tmp_path / "away")
        wait_until(lambda: "not now: there is no archive folder" in err.read_text(), what="a look that finds nothing")
        away.rename(archive)
        assert wait_until(lambda: files(2), what="the next look")["withdrawn"] == 1
        png(archive / "c.png", 3)
        assert wait_until(lambda: files(3), what="the last look")["read"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.wait()
    told = err.read_text()
    assert told.rstrip().endswith("ended; what was taken up stays")
    assert told.count("skipped bad.png") == told.count("there is no archive folder") == 1
    with Catalogue(home) as catalogue:
        assert {item.path.name for item in catalogue.items("rgb")} == {"b.png", "c.png"}
