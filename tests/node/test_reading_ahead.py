"""Reading ahead by processes: the same in the same order, never more than fits, and a death costs one task."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import numpy as np
import pytest
from node_archives import make_node, png, run, scene

from node.catalogue import Catalogue
from node.reading import BandReader
from rsfed.crew import Crew
from rsfed.errors import ArchiveError
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality

DIES, FAILS = -1, -2


def parts(task):
    """Yield the numbers up to a task; some die or fail over it."""
    if task == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == FAILS:
        raise KeyError
    yield from ((task, part) for part in range(task))


def notes(task):
    """Note in a file each part that is made; parts are too large to wait in a pipe."""
    path, count = task
    for part in range(count):
        with open(path, "a") as file:  # noqa: PTH123 - in a process of its own
            file.write(".")
        yield np.full(1 << 20, part, np.float32)


def test_parts_come_in_the_order_of_the_tasks_and_a_death_costs_its_task_alone():
    tasks = [3, DIES, 0, 2, DIES, 1]
    with closing(Crew(2).parts(parts, tasks)) as made:
        got = list(made)
    three, two = [(3, (3, part)) for part in range(3)], [(2, (2, part)) for part in range(2)]
    assert got == [*three, (DIES, None), *two, (DIES, None), (1, (1, 0))]


def test_what_fails_otherwise_ends_the_run_with_a_word(tmp_path):
    with pytest.raises(ArchiveError) as caught, closing(Crew(1).parts(parts, [1, FAILS, 1])) as made:
        list(made)
    assert caught.value.reason == "WORKERS"
    assert "KeyError" in caught.value.public


def test_no_process_goes_farther_ahead_than_two_parts(tmp_path):
    path = tmp_path / "made"
    with closing(Crew(1).parts(notes, [(path, 20)])) as made:
        for taken in range(1, 4):
            next(made)
            time.sleep(0.1)
            assert len(path.read_text()) <= taken + 2


def test_a_process_works_on_while_the_last_part_of_its_task_is_used(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    with closing(Crew(1).parts(notes, [(first, 1), (second, 1)])) as made:
        next(made)
        while not second.exists():  # what is made of the second task does not wait to be asked for
            time.sleep(0.01)


def arrays(task):
    """Yield arrays of several kinds, beside other values."""
    numbers = np.arange(600_000, dtype=np.float32).reshape(3, 400, 500)
    yield [{"all": numbers, "some": numbers[:, ::2, 1::3]}, None, (task, np.zeros((0, 4), np.uint8))]
    yield [numbers[0] > 7, np.array([["a", None]], object), b"bytes"]


def test_arrays_arrive_as_they_were():
    with closing(Crew(1).parts(arrays, [5])) as made:
        got = [part for _, part in made]
    for part, wanted in zip(got, arrays(5), strict=True):
        for each, expected in zip(part, wanted, strict=True):
            np.testing.assert_equal(each, expected)
    assert {name: each.dtype for name, each in got[0][0].items()} == {"all": np.float32, "some": np.float32}
    got[0][0]["all"] += 1  # they belong to whoever got them
    assert got[1][0].dtype == bool


def named(path):
    """Tell who works, and give two parts that are too large to wait in a pipe."""
    path.write_text(str(os.getpid()))
    yield from (np.zeros(1 << 23, np.uint8) for _ in range(2))


def test_a_process_that_dies_while_it_hands_over_costs_its_task_alone(tmp_path):
    path, next_path = tmp_path / "first", tmp_path / "next"
    with closing(Crew(1).parts(named, [path, next_path])) as made:
        assert len(next(made)[1]) == 1 << 23
        time.sleep(0.2)  # it has begun with the second part
        os.kill(int(path.read_text()), signal.SIGKILL)
        assert next(made) == (path, None)
        assert [task for task, part in made if len(part) == 1 << 23] == [next_path] * 2


def test_patches_are_the_same_with_and_without_processes(tmp_path):
    home, archive = make_node(tmp_path, kind="rgbn-reflectance")
    for number in range(5):
        scene(archive / f"{number}.tif", number, side=64)
    spec = default_spec(modality("rgbn-reflectance"), 16, "tile")
    run(home, workers=2)
    with Catalogue(home) as catalogue:
        items = list(catalogue.items("rgbn-reflectance"))
    assert len(items) == 5
    (archive / "3.tif").unlink()

    def told(workers):
        lost = []
        read = [
            (item, {name: each.tobytes() for name, each in content.items()})
            for item, content in BandReader(spec, Crew(workers) if workers else None).contents(iter(items), lost.append)
        ]
        return read, lost

    alone, together = told(0), told(2)
    assert alone == together
    assert [item.path.name for item in alone[1]] == ["3.tif"]


def test_an_ingest_with_processes_takes_up_and_refuses_the_same(tmp_path):
    found = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        home, archive = make_node(folder)
        for number in range(9):
            png(archive / f"{number}.png", number)
        (archive / "bad.png").write_bytes(b"no image")
        _, skipped = run(home, workers=workers)
        with Catalogue(home) as catalogue:
            found.append(([(item.id, item.path.name, item.digest) for item in catalogue.items("rgb")], skipped))
    assert found[0] == found[1]
    assert len(found[0][0]) == 9
