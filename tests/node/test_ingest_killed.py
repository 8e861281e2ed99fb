"""Ingests killed at random, while files come, change and go: what is left at the end is what one quiet run gives.

`make soak-ingest` kills fifty times; a few kills belong to the tests.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from members import World
from node_archives import configure, give_release, make_node, run, scene
from serving import codes_in

import node.indexing
from node.indexing import Indexer
from node.served import Shelf
from node.setup import Choices, init_node
from rsfed.home import Home
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality

KILLS = int(os.environ.get("RSFED_KILLS", "4"))
KIND = "rgbn-reflectance"
FILES = 24  # at the start; patches of a quarter's stride, so that many show the same place
PATIENCE_S = 120.0
OVERPASSES = ("S2A:20240601T101031", "S2B:20240603T101031", None)

# Loads everything once, then forks a process for each line on standard input: one ingest with so many reading
# processes, which says its pid, then how many files it is past. The next line asks how it ended.
INGESTS = """
import os, sys
from pathlib import Path
import node.ingest
import rsfed.raster.source
from node.ingest import Listener, ingest
from rsfed.home import Home
node.ingest._BATCH_FILES = 4
def say(word, number):
    os.write(1, f"{word} {number}\\n".encode())
for workers in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        say("pid", os.getpid())
        listener = Listener(lambda done, total: say("past", done), lambda problem: None)
        ingest(Home(Path(sys.argv[1])), listener, workers=int(workers))
        os._exit(0)
    sys.stdin.readline()
    say("ended", os.waitpid(child, 0)[1])
"""


class Encoder:
    """Codes that say what a patch shows."""

    def __init__(self, _release, _encoder_id):
        pass

    def encode(self, contents):
        digests = [hashlib.sha256(content["all"].tobytes()).digest() for content in contents]
        return np.array([list(digest[:4]) for digest in digests], np.uint8).reshape(-1, 4)


@contextmanager
def indexing(home):
    """Keep the index of a node up to date, as `serve` does; yields a function that waits for it and returns it."""
    shelf = Shelf()
    indexer = Indexer(home, shelf, Encoder)
    thread = threading.Thread(target=indexer.run)
    thread.start()

    def index():
        """{(path, column, row): code} of what is served once all patches are."""
        wanted, end = {key: number for key, number in ids(home).items() if key[3] == "present"}, time.monotonic()
        while True:
            indexer.notify()
            served = shelf.served
            found = codes_in(served.snapshots["one"].view) if served else {}
            if found.keys() == set(wanted.values()):
                return {key[:3]: found[number] for key, number in wanted.items()}
            assert time.monotonic() - end < PATIENCE_S, (len(found), len(wanted))
            time.sleep(0.05)

    try:
        yield index
    finally:
        indexer.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def rows(home, query):
    with closing(sqlite3.connect(home.database)) as connection:
        return connection.execute(query).fetchall()


def ids(home):
    """{(path, column, row, state): item id} of all patches that are not withdrawn."""
    query = """
        SELECT path, col, row, state, item.id FROM item JOIN source ON source.id = item.source
        WHERE state <> 'withdrawn'
    """
    return {tuple(row[:4]): row[4] for row in rows(home, query)}


def catalogue(home):
    """All that the catalogue says but for numbers: sources, their labels, and patches with what stands for each."""
    sources = "SELECT path, size, mtime_ns, digest, recipe, acquisition, crs FROM source WHERE present ORDER BY path"
    patches = """
        SELECT source.path, item.col, item.row, item.digest, item.state, item.nodata, item.acquisition, item.west,
          item.north, first.path, behind.col, behind.row
        FROM item JOIN source ON source.id = item.source LEFT JOIN item behind ON behind.id = item.same_as
        LEFT JOIN source first ON first.id = behind.source
        WHERE item.state <> 'withdrawn' ORDER BY source.path, item.row, item.col
    """
    labels = """
        SELECT path, name FROM source_label JOIN label ON label.id = label JOIN source ON source.id = source
        WHERE present ORDER BY path, name
    """
    (own,) = rows(home, "SELECT value FROM meta WHERE key = 'archive'")
    told = [[str(value).replace(str(own[0]), "") for value in row] for row in rows(home, patches)]
    return rows(home, sources), told, rows(home, labels)


def unchanged(home, archive):
    """Ids of the patches whose files are as they were when they were taken up."""
    query = """
        SELECT item.id, path, size, mtime_ns FROM item JOIN source ON source.id = item.source
        WHERE state <> 'withdrawn'
    """
    stamps = {path.relative_to(archive).as_posix(): path.stat() for path in archive.rglob("*.tif")}
    stamps = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stamps.items()}
    return {item for item, path, *stamp in rows(home, query) if stamps.get(path) == tuple(stamp)}


class Changes:
    """Changes files of an archive."""

    def __init__(self, archive, rng):
        self.archive, self.rng, self.count = archive, rng, 0

    def names(self):
        return sorted(path.relative_to(self.archive).as_posix() for path in self.archive.rglob("*.tif"))

    def write(self, name):
        self.count += 1
        overpass = OVERPASSES[self.count % 3]
        tags = {} if overpass is None else {"ACQUISITION": overpass}
        scene(self.archive / name, self.count, side=24 + 8 * (self.count % 2), empty=0.05 * (self.count % 5), **tags)

    def some(self):
        """Let files come, change, move and go."""
        for _ in range(self.rng.integers(0, 4)):
            name = self.rng.choice(self.names())
            new = f"{'abc'[self.rng.integers(3)]}/{self.rng.integers(1000)}.tif"
            what = self.rng.integers(5)
            if what == 0 and len(self.names()) > FILES // 2:
                (self.archive / name).unlink()
            elif what == 1 and not (self.archive / new).exists():
                (self.archive / new).parent.mkdir(exist_ok=True)
                (self.archive / name).rename(self.archive / new)
            elif what == 2:
                (self.archive / name).write_bytes(b"no image")
            elif what == 3:
                self.write(new)
            else:
                self.write(name)


def left_of(group):
    """Processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(own) == group and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.process
def test_ingests_killed_at_random_among_changes_end_in_the_catalogue_and_index_of_one_quiet_run(tmp_path, monkeypatch):
    monkeypatch.setattr(node.indexing, "POLL_S", 0.05)
    monkeypatch.setattr(node.indexing, "FAILED_S", 0.05)
    rng, world = np.random.default_rng(7), World()
    home, archive = make_node(tmp_path, kind=KIND)
    prepare(home, world)
    changes = Changes(archive, rng)
    for number in range(FILES):
        changes.write(f"{'abc'[number % 3]}/{number}.tif")
    killed, slowest = {0: 0, 2: 0}, 0.0
    command = [sys.executable, "-c", INGESTS, str(home.path)]
    with (
        indexing(home) as index,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as ingests,
    ):

        def wait_for(word, number=0):
            for line in iter(ingests.stdout.readline, ""):
                said, value = line.split()
                if said == word and int(value) >= number:
                    return int(value)
            pytest.fail("the process that ingests ended by itself")

        while sum(killed.values()) < KILLS:
            workers = 2 * (sum(killed.values()) % 2)
            changes.some()
            kept = unchanged(home, archive)
            ingests.stdin.write(f"{workers}\n")
            process = wait_for("pid")
            wait_for("past", int(rng.integers(0, len(changes.names()) + 1)) if rng.random() < 0.9 else 0)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(process, signal.SIGKILL)
            ingests.stdin.write("ended?\n")
            killed[workers] += wait_for("ended") == signal.SIGKILL
            start = time.monotonic()
            while left_of(process):
                assert time.monotonic() - start < PATIENCE_S, "a process that reads outlives its ingest"
                time.sleep(0.02)
            slowest = max(slowest, time.monotonic() - start)
            check(home, kept)
        run(home)
        left, codes = catalogue(home), index()
        assert run(home)[0].read == 0
    quiet = Home(tmp_path / "quiet")
    init_node(quiet, Choices(archive, KIND, "127.0.0.1:7443", "127.0.0.1:7443"))
    prepare(quiet, world)
    run(quiet)
    for ours, theirs in zip(left, catalogue(quiet), strict=True):
        assert [each for each in ours if each not in theirs][:5] == [each for each in theirs if each not in ours][:5]
        assert len(ours) == len(theirs)
    with indexing(quiet) as index:
        assert set(codes.items()) ^ set(index().items()) == set()
    assert len(codes) > FILES
    sys.stdout.write(
        f"{KILLS} kills ({killed[2]} of them with two reading processes, the last of which ended {slowest:.1f} s later "
        f"at most), {changes.count} files written: catalogue and index of {len(left[0])} files, {len(left[1])} patches "
        f"and {len(codes)} codes are those of one quiet run\n"
    )


def prepare(home, world):
    configure(home, "[archive]", "[archive]\nstride = 40.0")
    give_release(home, "A", "B", "C", world=world, encoder=(KIND, default_spec(modality(KIND), 16, "tile")))


def check(home, kept):
    """Look at the database after a kill: it is sound, no id comes twice, and no patch of an untouched file is gone."""
    assert rows(home, "PRAGMA integrity_check") == [("ok",)]
    ((most,),) = rows(home, "SELECT ifnull(max(id), 0) FROM item")
    ((following,),) = rows(home, "SELECT value FROM meta WHERE key = 'next_item'")
    assert most < following
    assert kept <= set(ids(home).values()), "an acknowledged patch was lost"
    dangling = """
        SELECT item.id FROM item LEFT JOIN item first ON first.id = item.same_as
        WHERE item.same_as IS NOT NULL AND (first.state <> 'present' OR item.state <> 'recorded')
    """
    assert rows(home, dangling) == []
