"""An ingest on a Dask cluster: what one machine gives, item by item; a death costs a task, a blind worker nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import closing, contextmanager

import pytest
from members import World
from node_archives import make_node, png, run
from raster_makers import REFLECTANCE, UTM, write_image
from safe_makers import COMMON, RASTER, scene, stac_item
from serving import publish

import rsfed.cluster
from node.catalogue import Catalogue
from rsfed.cli import run as main
from rsfed.cluster import Cluster, cluster
from rsfed.crew import Crew
from rsfed.errors import ArchiveError, ConfigError, ExitCode
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.weights import init_weights
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.raster.reader import read
from rsfed.trust.manifest import CompactResnet

DIES, FAILS = "dies", "fails"


def parts(task):
    """Give two parts of a task; some tasks kill or fail, one that is a path only where nothing lies at it yet."""
    if task == FAILS:
        raise KeyError
    if task == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(task, os.PathLike) and not os.path.exists(task):  # noqa: PTH110
        open(task, "w").close()  # noqa: PTH123 - in a process of its own
        os.kill(os.getpid(), signal.SIGKILL)
    return [f"{task} 1", f"{task} 2"]


@pytest.fixture(scope="module")
def scheduler():
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": 1,
                "distributed.deploy.lost-worker-timeout": "900s",  # or who died 15 s ago is closed for good, if it dies
            }
        ),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as running,
    ):
        yield running.scheduler_address


def weights():
    return init_weights(CompactResnet(), default_spec(modality("rgb"), 32), 32, 1)


@pytest.mark.process
def test_items_and_codes_are_those_of_one_machine(tmp_path, scheduler):
    told = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        home, archive = make_node(folder)
        for image in range(40):
            png(archive / f"{image}.png", image, size=(32, 32))
        (archive / "bad.png").write_bytes(b"no image")
        release = publish(home, World(), weights=weights())
        if number:
            with cluster(scheduler) as hands:
                report, skipped = run(home, cluster=hands)
            assert report.hashed == 40
        else:
            report, skipped = run(home)
        with Catalogue(home) as catalogue:
            items = list(catalogue.items("rgb"))
            codes = catalogue.codes(release.digest, "rgb")[1]
        if not number:
            spec = release.manifest.encoders["rgb"].input
            codes = Encoder.load(release).encode(read(item, spec) for item in items)
        told.append(([(item.id, item.path.name, item.digest, item.window) for item in items], skipped, codes.tolist()))
    assert len(told[0][0]) == len(told[0][2]) == 40
    assert told[0] == told[1]


@pytest.mark.process
def test_items_of_an_item_collection_are_read_by_a_cluster_too(tmp_path, scheduler):
    home, archive = make_node(tmp_path, kind=REFLECTANCE)
    listed = []
    for seed, name in enumerate(("zero", "one")):
        for band, values in scene(seed, size=64).items():
            if band in COMMON:
                write_image(archive / f"{name}_{band}.tif", values[None], **UTM)
        assets = {COMMON[band]: {"href": f"./{name}_{band}.tif", "raster:bands": RASTER} for band in COMMON}
        listed.append(stac_item(assets) | {"id": name})
    (archive / "all.json").write_text(json.dumps({"type": "FeatureCollection", "features": listed}))
    with cluster(scheduler) as hands:
        report, skipped = run(home, cluster=hands)
    assert (report.read, skipped) == (2, {})


@pytest.mark.process
@pytest.mark.timeout(900)  # five workers die, and each that takes its place has Dask to load
def test_parts_come_in_order_a_task_whose_worker_died_is_given_to_another_and_one_that_kills_costs_itself(
    tmp_path, scheduler, monkeypatch
):
    monkeypatch.setattr(rsfed.cluster, "_CONNECT_S", 300.0)  # for a while there may be none
    once = tmp_path / "once"
    with cluster(scheduler) as hands, closing(hands.parts(parts, ["a", once, DIES, "b"])) as made:
        got = list(made)
    both = [(task, f"{task} {part}") for task in ("a", once, "b") for part in (1, 2)]
    assert got == [*both[:4], (DIES, None), *both[4:]]


@pytest.mark.process
def test_what_fails_otherwise_ends_the_run_with_a_word(scheduler):
    with pytest.raises(ArchiveError) as caught, cluster(scheduler) as hands:
        list(hands.parts(parts, ["a", FAILS]))
    assert caught.value.reason == "WORKERS"
    assert "KeyError" in caught.value.public


class Late:
    """A future whose result is there, and was on a worker that died before it was taken."""

    status = "finished"

    def __init__(self, made):
        self.made = [TimeoutError(), made]

    def result(self, timeout):
        made = self.made.pop(0)
        if isinstance(made, Exception):
            raise made
        return made


class Slow:
    """A client of a cluster that takes long over everything."""

    def nthreads(self):
        return {"worker": 1}

    def wait_for_workers(self, *_, **__):
        pass

    def cancel(self, futures):
        pass

    def submit(self, call, *given, **_):
        return Late(call(*(each.made[-1] if isinstance(each, Late) else each for each in given)))


def test_a_result_that_is_late_because_its_worker_died_is_waited_for():
    made = list(Cluster(Slow()).parts(parts, ["a"]))
    assert made == [("a", "a 1"), ("a", "a 2")]


class Blind:
    """Another machine, on which the archive is not mounted."""

    elsewhere = True

    def __init__(self, archive):
        self.archive = archive

    def parts(self, work, tasks):
        for task in tasks:
            hidden = self.archive.rename(self.archive.with_name("hidden"))
            made = list(work(task))
            hidden.rename(self.archive)
            yield from ((task, part) for part in made)


def test_a_worker_that_does_not_see_the_archive_withdraws_nothing(tmp_path):
    home, archive = make_node(tmp_path)
    png(archive / "a.png", 1)
    run(home)
    png(archive / "a.png", 2)
    png(archive / "b.png", 3)
    report, skipped = run(home, cluster=Blind(archive))
    assert report.withdrawn == 0
    assert {"mount the archive there" in why for why in skipped.values()} == {True}
    with Catalogue(home) as catalogue:
        assert [item.path.name for item in catalogue.items("rgb")] == ["a.png"]


def test_a_watch_connects_anew_to_a_scheduler_that_was_away(tmp_path, monkeypatch, capsys):
    home, archive = make_node(tmp_path)
    png(archive / "0.png", 0)
    looks, waits = [], []

    @contextmanager
    def once(address):
        """A connection, which does not outlive its scheduler."""
        looks.append(address)
        if len(looks) == 2:
            raise ArchiveError("it is away", reason="SCHEDULER")
        with monkeypatch.context() as patched:
            patched.setattr(Crew, "elsewhere", True)
            yield Crew(1)

    def waited(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt
        png(archive / f"{len(waits)}.png", len(waits))

    monkeypatch.setattr(rsfed.cluster, "cluster", once)
    monkeypatch.setattr("node.cli.watch.time.sleep", waited)
    monkeypatch.setattr("node.cli.watch.signal.signal", lambda *_: None)
    command = ["node", "ingest", "--home", str(home.path), "--watch", "--scheduler", "tcp://127.0.0.1:1"]
    assert main(command) == ExitCode.INTERRUPTED
    assert "not now: it is away" in capsys.readouterr().err
    with Catalogue(home) as catalogue:
        assert [item.path.name for item in catalogue.items("rgb")] == ["0.png", "1.png", "2.png"]


def test_without_dask_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError) as caught, cluster("tcp://127.0.0.1:8786"):
        pass
    assert caught.value.reason == "EXTRA_MISSING"
    assert "rsfed[dask]" in caught.value.public


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "no address"])
def test_a_scheduler_that_is_not_there_is_said(address, monkeypatch):
    monkeypatch.setattr(rsfed.cluster, "_CONNECT_S", 0.5)
    with pytest.raises(ArchiveError) as caught, cluster(address):
        pass
    assert caught.value.reason == "SCHEDULER"
