"""Background hashing: old or new release whole, never mixed; restarts go on; patches come and go."""

import threading
import time
from contextlib import closing, contextmanager
from datetime import timedelta

import numpy as np
import pytest
from members import World
from serving import add_patches, codes_in, make_home, publish, withdraw

import node.catalogue
import node.indexing
from node.catalogue import Catalogue
from node.indexing import BATCH, Indexer
from node.publishing import Publisher
from node.served import Shelf
from node.sources import set_classes, set_labels
from node.state import open_state
from rsfed.errors import RasterRejected
from rsfed.home import transaction
from rsfed.index.filters import Filter
from rsfed.privacy.policy import policy
from rsfed.trust.manifest import CodebookEntry

PATIENCE_S = 30.0


class Encoders:
    """Encoders whose codes say release and patch; a test may hold them back."""

    def __init__(self):
        self.asked: list[tuple[int, int]] = []
        self.go = threading.Event()
        self.go.set()
        self.batches = 10**6  # after so many, wait for `go`

    def __call__(self, release, encoder_id):
        return _Encoder(self, release.manifest.version)


class _Encoder:
    def __init__(self, owner, version):
        self.owner, self.version = owner, version

    def encode(self, contents):
        assert self.owner.go.wait(PATIENCE_S)
        items = [int(content["all"][0, 0, 0]) for content in contents]
        self.owner.asked += [(self.version, item) for item in items]
        self.owner.batches -= 1
        if self.owner.batches == 0:
            self.owner.go.clear()
        return np.array([[self.version, 0, item // 256, item % 256] for item in items], np.uint8)


def code_of(version, item):
    return bytes([version, 0, item // 256, item % 256])


class Scene:
    """A node's home with an indexer that runs in a thread."""

    def __init__(self, folder):
        self.world, self.encoders, self.shelf = World(), Encoders(), Shelf()
        self.home = make_home(folder)
        self.swaps: list[int] = []

    @contextmanager
    def running(self, publisher=None):
        self.indexer = Indexer(self.home, self.shelf, self.encoders, self._changed, publisher=publisher)
        thread = threading.Thread(target=self.indexer.run)
        thread.start()
        try:
            yield self.indexer
        finally:
            self.indexer.stop()
            self.encoders.go.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _changed(self):
        self.swaps.append(self.shelf.served.release.manifest.version)

    def publish(self, version):
        return publish(self.home, self.world, version)

    def items(self):
        """{item: code} of what is served."""
        return codes_in(self.shelf.served.snapshots["rgb"].view)

    def wait(self, condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, "not in time"
            time.sleep(0.01)

    def wait_for(self, version, ids):
        expected = {item: code_of(version, item) for item in ids}
        self.wait(lambda: self.shelf.served and self.items() == expected)
        served = self.shelf.served
        assert served.release.manifest.version == version
        assert served.snapshots["rgb"].release == served.release.digest


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(node.indexing, "POLL_S", 0.02)
    monkeypatch.setattr(node.indexing, "PUBLISH_S", 0.0)
    monkeypatch.setattr(node.indexing, "FAILED_S", 0.05)


@pytest.fixture
def unreadable(monkeypatch):
    """Items whose files cannot be read; all others hold their id as their only pixel value."""
    broken = set()

    def read(item):
        return RasterRejected("it is gone") if item.id in broken else {"all": np.full((1, 1, 1), item.id, np.float32)}

    monkeypatch.setattr("rsfed.raster.reader.read_many", lambda items, spec: ((item, read(item)) for item in items))
    return broken


@pytest.fixture
def scene(tmp_path, unreadable):
    return Scene(tmp_path / "node")


def test_the_first_release_is_served_once_every_patch_has_its_code(scene):
    ids = add_patches(scene.home, BATCH + 3)
    scene.encoders.go.clear()
    scene.publish(1)
    with scene.running() as indexer:
        scene.wait(lambda: indexer.pending == BATCH + 3)
        assert scene.shelf.served is None
        scene.encoders.go.set()
        scene.wait_for(1, ids)
        assert scene.shelf.served.held == {"rgb": BATCH + 3}
        scene.wait(lambda: indexer.pending == 0)


def test_the_old_release_is_served_whole_until_the_new_one_is_whole(scene):
    ids = add_patches(scene.home, 3 * BATCH)
    scene.publish(1)
    seen, ended = set(), threading.Event()

    def query():
        while not ended.is_set():
            served = scene.shelf.served
            hits = served.snapshots["rgb"].view.search(np.zeros((1, 4), np.uint8), radius=32)[0]
            seen.add((served.release.manifest.version, frozenset(hits.codes[:, 0].tolist()), int(hits.sizes.sum())))

    with scene.running() as indexer:
        scene.wait_for(1, ids)
        asking = threading.Thread(target=query)
        asking.start()
        scene.wait(lambda: seen)
        scene.encoders.go.clear()
        scene.publish(2)
        scene.wait(lambda: indexer.pending > 0)
        scene.encoders.go.set()
        scene.wait_for(2, ids)
        scene.wait(lambda: 2 in {version for version, *_ in tuple(seen)})
        ended.set()
        asking.join(PATIENCE_S)
    assert seen <= {(1, frozenset({1}), len(ids)), (2, frozenset({2}), len(ids))}
    assert {version for version, *_ in seen} == {1, 2}


def test_a_restart_goes_on_after_the_last_batch_and_serves_the_old_release_meanwhile(scene):
    ids = add_patches(scene.home, 4 * BATCH)
    old = scene.publish(1)
    with scene.running():
        scene.wait_for(1, ids)
    scene.encoders.batches = 1
    new = scene.publish(2)
    with scene.running():
        scene.wait(lambda: scene.encoders.batches == 0)
    with Catalogue(scene.home) as catalogue:
        done = len(catalogue.codes(new.digest, "rgb")[0])
    assert BATCH <= done < len(ids)
    assert scene.shelf.served.release.digest == old.digest

    scene.shelf.served = None
    scene.encoders.asked.clear()
    scene.encoders.go.clear()
    with scene.running() as indexer:
        scene.wait(lambda: indexer.pending > 0)
        scene.wait_for(1, ids)
        scene.encoders.go.set()
        scene.wait_for(2, ids)
    assert len(scene.encoders.asked) == len(ids) - done
    with Catalogue(scene.home) as catalogue:
        assert len(catalogue.codes(old.digest, "rgb")[0]) == 0


def test_after_a_restart_nothing_is_hashed_again(scene):
    ids = add_patches(scene.home, 10)
    scene.publish(1)
    with scene.running():
        scene.wait_for(1, ids)
    scene.shelf.served = None
    scene.encoders.asked.clear()
    with scene.running():
        scene.wait_for(1, ids)
    assert scene.encoders.asked == []


def test_without_a_current_release_the_one_that_was_served_before_is_served_and_kept_up_to_date(scene):
    ids = add_patches(scene.home, 10)
    scene.publish(1)
    with scene.running():
        scene.wait_for(1, ids)
    scene.shelf.served = None
    (scene.home.releases / "current").unlink()
    with scene.running():
        scene.wait_for(1, ids)
        late = add_patches(scene.home, 3)
        scene.wait_for(1, ids + late)


def test_patches_of_a_running_ingest_are_added_and_withdrawn_ones_leave_at_once(scene):
    first = add_patches(scene.home, 10)
    scene.publish(1)
    with scene.running():
        scene.wait_for(1, first)
        second = add_patches(scene.home, 5, place=(1, 2, 3, 4))
        scene.wait_for(1, first + second)
        assert (scene.shelf.served.facts.of(np.array(second)).columns.boxes[:, 0] == 10_000_000).all()
        withdraw(scene.home, first[:4])
        scene.wait_for(1, first[4:] + second)
        scene.wait(lambda: scene.shelf.served.held == {"rgb": 11})


def test_nothing_is_kept_of_patches_that_left(scene):
    kept = add_patches(scene.home, 5)
    scene.publish(1)
    with scene.running():
        for _ in range(2):
            gone = add_patches(scene.home, 4)
            scene.wait_for(1, kept + gone)
            withdraw(scene.home, gone)
            scene.wait_for(1, kept)
        assert scene.shelf.served.facts.ids.tolist() == kept


def test_codes_that_an_ingest_put_into_the_catalogue_are_served_and_not_made_again(scene):
    first = add_patches(scene.home, 3)
    release = scene.publish(1)
    with scene.running():
        scene.wait_for(1, first)
        scene.encoders.go.clear()
        late = add_patches(scene.home, 8)
        by_ingest = late[:3] + late[5:]
        with Catalogue(scene.home) as catalogue:
            codes = np.array([list(code_of(1, item)) for item in by_ingest], np.uint8)
            catalogue.put_codes(release.digest, "rgb", by_ingest, codes)
        scene.encoders.go.set()
        scene.wait_for(1, first + late)
    assert not {item for _, item in scene.encoders.asked} & set(by_ingest)


def test_a_patch_withdrawn_while_it_is_hashed_never_appears(scene):
    first = add_patches(scene.home, 3)
    scene.publish(1)
    with scene.running() as indexer:
        scene.wait_for(1, first)
        scene.encoders.go.clear()
        late = add_patches(scene.home, 4)
        scene.wait(lambda: indexer.pending == 4)
        withdraw(scene.home, late[:2])
        scene.encoders.go.set()
        scene.wait_for(1, first + late[2:])


def test_patches_that_arrive_while_others_are_hashed_are_not_forgotten(scene):
    first = add_patches(scene.home, 3)
    scene.publish(1)
    with scene.running() as indexer:
        scene.wait_for(1, first)
        scene.encoders.go.clear()
        second = add_patches(scene.home, 2)
        scene.wait(lambda: indexer.pending == 2)
        third = add_patches(scene.home, 2)
        scene.encoders.go.set()
        scene.wait_for(1, first + second + third)


def test_files_that_cannot_be_read_stop_nothing_and_are_tried_again_when_told(scene, unreadable):
    ids = add_patches(scene.home, 10)
    unreadable.update(ids[2:5])
    scene.publish(1)
    with scene.running() as indexer:
        scene.wait_for(1, ids[:2] + ids[5:])
        assert scene.shelf.served.held == {"rgb": 7}
        unreadable.clear()
        indexer.notify()
        scene.wait_for(1, ids)
        scene.wait(lambda: scene.shelf.served.held == {"rgb": 10})


def test_a_release_that_is_overtaken_is_never_served(scene):
    ids = add_patches(scene.home, 3 * BATCH)
    scene.publish(1)
    with scene.running() as indexer:
        scene.wait_for(1, ids)
        scene.encoders.go.clear()
        scene.publish(2)
        scene.wait(lambda: indexer.pending > 0)
        scene.publish(3)
        scene.encoders.go.set()
        scene.wait_for(3, ids)
    assert set(scene.swaps) == {1, 3}


def test_an_encoder_that_cannot_be_loaded_leaves_the_old_release_in_service(scene, monkeypatch):
    ids = add_patches(scene.home, 5)
    scene.publish(1)
    tries = []

    def broken(release, encoder_id):
        tries.append(release.manifest.version)
        if release.manifest.version == 2 and len(tries) < 4:
            raise RuntimeError("no such layer")
        return _Encoder(scene.encoders, release.manifest.version)

    monkeypatch.setattr(Encoders, "__call__", lambda self, *which: broken(*which))
    with scene.running():
        scene.wait_for(1, ids)
        scene.publish(2)
        scene.wait(lambda: tries.count(2) >= 2)
        assert scene.shelf.served.release.manifest.version == 1
        scene.wait_for(2, ids)


def test_new_patches_whose_hashing_failed_are_hashed_later(scene, monkeypatch):
    first = add_patches(scene.home, 5)
    scene.publish(1)
    encode, failures = _Encoder.encode, [MemoryError("no room"), MemoryError("no room")]

    def fail_at_first(self, contents):
        if failures:
            raise failures.pop()
        return encode(self, contents)

    with scene.running():
        scene.wait_for(1, first)
        monkeypatch.setattr(_Encoder, "encode", fail_at_first)
        second = add_patches(scene.home, 5)
        scene.wait_for(1, first + second)
    assert not failures


def test_nothing_is_pending_once_what_could_not_be_hashed_is_withdrawn(scene, monkeypatch):
    ids = add_patches(scene.home, 2)
    scene.publish(1)
    monkeypatch.setattr(_Encoder, "encode", lambda *_: 1 / 0)
    with scene.running() as indexer:
        scene.wait(lambda: indexer.pending == 2)
        withdraw(scene.home, ids)
        scene.wait(lambda: indexer.pending == 0)


def test_an_archive_without_patches_is_served_empty(scene):
    scene.publish(1)
    with scene.running():
        scene.wait_for(1, [])
        assert scene.shelf.served.held == {"rgb": 0}


def test_patches_that_no_encoder_reads_are_held_so_that_no_answer_looks_complete(scene):
    scene.publish(1)
    ids = add_patches(scene.home, 3)
    with closing(open_state(scene.home)) as connection:
        connection.execute("UPDATE item SET modality = 'uint16-4' WHERE id = ?", ids[:1])
    with scene.running():
        scene.wait_for(1, ids[1:])
        assert scene.shelf.served.held_for("rgb") == 3
        assert scene.shelf.served.held_in_all == 3


def test_patches_that_wait_are_read_from_the_catalogue_a_batch_at_a_time(scene, monkeypatch):
    built, build = [], Catalogue._item

    def count(self, row):
        built.append(row[0])
        return build(self, row)

    monkeypatch.setattr(Catalogue, "_item", count)
    ids = add_patches(scene.home, 3 * BATCH)
    scene.encoders.go.clear()
    scene.publish(1)
    with scene.running() as indexer:
        scene.wait(lambda: indexer.pending == 3 * BATCH)
        time.sleep(0.05)
        assert len(built) <= 2 * BATCH, "one more, to see whether it is of the same source"
        scene.encoders.go.set()
        scene.wait_for(1, ids)
    assert built == ids


def test_one_new_patch_does_not_make_all_stored_codes_be_looked_at_again(scene, monkeypatch):
    seen, opening = [], node.catalogue.open_state

    def traced(home):
        connection = opening(home)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(node.catalogue, "open_state", traced)
    first = add_patches(scene.home, 5)
    scene.publish(1)
    with scene.running():
        scene.wait_for(1, first)
        seen.clear()
        late = add_patches(scene.home, 1)
        scene.wait_for(1, first + late)
    assert [each for each in seen if "INTO code " in each]
    assert not [each for each in seen if "FROM code " in each and "item > " in each]


def test_a_patch_that_is_searched_again_after_it_was_not_gets_its_code_again(scene):
    ids = add_patches(scene.home, 5)
    scene.publish(1)
    with scene.running():
        scene.wait_for(1, ids)
        withdraw(scene.home, ids[1:2])
        scene.wait_for(1, ids[:1] + ids[2:])
        with closing(open_state(scene.home)) as connection:
            connection.execute("UPDATE item SET state = 'present' WHERE id = ?", (ids[1],))
        scene.wait_for(1, ids)


def test_patches_that_got_other_classes_are_found_by_them(scene):
    ids = add_patches(scene.home, 3, labels=["wood"])
    scene.publish(1)

    def found(number):
        view = scene.shelf.served.snapshots["rgb"].view
        where = Filter(labels=frozenset({number}))
        return view.search(np.zeros((1, view.bits // 8), np.uint8), k=9, where=where)[0].nearest(9)[0].tolist()

    with scene.running():
        scene.wait_for(1, ids)
        assert (found("7"), scene.shelf.served.silent("rgb", ["label"])) == ([], 3)
        with closing(open_state(scene.home)) as connection, transaction(connection):
            set_classes(connection, {"wood": (7,)})
        scene.wait(lambda: sorted(found("7")) == ids)
        assert scene.shelf.served.silent("rgb", ["label"]) == 0
        with closing(open_state(scene.home)) as connection, transaction(connection):
            (source,) = connection.execute("SELECT source FROM item WHERE id = ?", (ids[0],)).fetchone()
            set_labels(connection, source, ["other"])
        scene.wait(lambda: sorted(found("7")) == ids[1:])
    with scene.running():  # the index on disk says the same
        scene.wait(lambda: sorted(found("7")) == ids[1:])


def test_where_answers_go_by_cells_patches_are_published_when_all_have_codes_and_again_in_the_next_epoch(
    tmp_path, unreadable
):
    scene = Scene(tmp_path / "node")
    scene.encoders.batches = 1  # then codes wait for `go`
    ids = add_patches(scene.home, BATCH + 20)
    codebook = tuple(CodebookEntry(class_id=n, code=code) for n, code in enumerate(("01000000", "0100ffff")))
    publish(scene.home, scene.world, 1, codebook=codebook, codebook_reach=32)
    day, now = timedelta(days=1), [scene.world.clock()]
    publisher = Publisher(policy("guarded"), 1, day, tie_key=bytes(32), now=lambda: now[0])
    with closing(open_state(scene.home)) as connection, transaction(connection):
        connection.execute("UPDATE item SET acquisition = 'flight ' || (id % 16)")

    def published():
        served = scene.shelf.served
        return sorted(served.published["rgb"].ids.tolist()) if served and served.published else []

    with scene.running(publisher):
        scene.wait(lambda: scene.encoders.asked and not scene.encoders.go.is_set())
        assert published() == []
        scene.encoders.go.set()
        scene.wait(lambda: published() == ids)
        more = add_patches(scene.home, 20)
        with closing(open_state(scene.home)) as connection, transaction(connection):
            connection.execute("UPDATE item SET acquisition = 'flight ' || (id % 16)")
        scene.wait(lambda: len(scene.items()) == len(ids) + len(more))
        time.sleep(0.2)
        assert published() == ids, "the day is not over"
        now[0] += day
        scene.wait(lambda: published() == ids + more)
    with scene.running(publisher):
        scene.wait(lambda: published() == ids + more)
