"""Features of a frozen trunk: made once, kept beside the catalogue, and never trusted when they are damaged."""

import hashlib
import sqlite3
import threading
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest
from members import World
from node_archives import make_node, run
from onnx_maker import tiny_trunk
from PIL import Image

import node.indexing
from node.backup import back_up, restore
from node.catalogue import Catalogue
from node.encoders import torch_encoder
from node.features import FeatureCache, FeatureKey, features_file
from node.indexing import Indexer
from node.reading import FeatureReader, reader
from node.served import Shelf
from rsfed.clock import utc_now
from rsfed.errors import ReleaseRefused, TrainingError
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.trunk import FEATURES, inspect_trunk
from rsfed.hashing.weights import init_weights
from rsfed.home import Home
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.raster.reader import read
from rsfed.trust.manifest import EncoderEntry, FileEntry
from rsfed.trust.release_store import ReleaseStore

SPEC = default_spec(modality("rgb"), 32)
KEY, OTHER = FeatureKey("a" * 64, "b" * 64), FeatureKey("a" * 64, "c" * 64)
PATIENCE_S = 60.0


@pytest.fixture
def archive(tmp_path):
    """A node with twenty photographs, ingested."""
    home, images = make_node(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(images / f"{number}.png")
    run(home)
    return home, images


@pytest.fixture
def trunk(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_trunk())
    return path


def items(home):
    with Catalogue(home) as catalogue:
        return list(catalogue.items("rgb"))


def vectors(found, seed=0):
    rng = np.random.default_rng(seed)
    return {item: rng.normal(0, 1, 12).astype(np.float16) for item in found}


@contextmanager
def cache_of(home):
    with closing(FeatureCache(home)) as cache:
        yield cache


def corrupt(home, statement):
    with closing(sqlite3.connect(features_file(home))) as connection, connection:
        connection.execute(statement)


def test_features_come_back_as_they_were_put_and_only_under_their_key(archive):
    home, _ = archive
    kept = vectors(items(home))
    with cache_of(home) as cache:
        assert cache.get(KEY, items(home)) == {}
        cache.put(KEY, kept)
    with cache_of(home) as cache:
        found = cache.get(KEY, items(home))
        assert {item.id for item in kept} == set(found)
        assert all(
            (found[item.id] == vector).all() and found[item.id].dtype == np.float16 for item, vector in kept.items()
        )
        assert cache.get(OTHER, items(home)) == {}
        assert set(cache.get(KEY, items(home)[:3])) == {item.id for item in items(home)[:3]}
    assert features_file(home).stat().st_mode & 0o777 == 0o600


def test_a_key_says_trunk_and_input(trunk):
    known = inspect_trunk(trunk, 32)
    keys = {
        FeatureKey.of(known, SPEC),
        FeatureKey.of(known, SPEC.model_copy(update={"resampling": "nearest"})),
        FeatureKey.of(known.model_copy(update={"trunk": known.trunk.model_copy(update={"sha256": "0" * 64})}), SPEC),
    }
    assert len(keys) == 3


def test_withdrawn_patches_and_other_keys_leave_the_cache(archive):
    home, _ = archive
    present = np.array([item.id for item in items(home)[5:]])
    with cache_of(home) as cache:
        cache.put(KEY, vectors(items(home)))
        cache.put(OTHER, vectors(items(home)))
        cache.keep([KEY], present)
        assert set(cache.get(KEY, items(home))) == set(present.tolist())
        assert cache.get(OTHER, items(home)) == {}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE feature SET vector = zeroblob(24) WHERE item = (SELECT min(item) FROM feature)",
        "UPDATE feature SET checksum = checksum + 1 WHERE item = (SELECT min(item) FROM feature)",
        "UPDATE feature SET item = 0 WHERE item = (SELECT min(item) FROM feature)",
        """
        UPDATE feature SET (vector, checksum) = (SELECT vector, checksum FROM feature ORDER BY item DESC)
        WHERE item = (SELECT min(item) FROM feature)
        """,
    ],
    ids=["vector", "checksum", "item", "of another patch"],
)
def test_a_damaged_row_is_as_good_as_none(archive, statement):
    home, _ = archive
    with cache_of(home) as cache:
        cache.put(KEY, vectors(items(home)))
    corrupt(home, statement)
    with cache_of(home) as cache:
        assert set(cache.get(KEY, items(home))) == {item.id for item in items(home)[1:]}


def garble(path):
    """Overwrite everything behind the file's first page."""
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database" * 1000),
        garble,
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
    ],
    ids=["no database", "garbled pages", "cut short"],
)
def test_a_damaged_file_is_begun_anew(archive, damage):
    home, _ = archive
    with cache_of(home) as cache:
        cache.put(KEY, vectors(items(home)))
    damage(features_file(home))
    kept = vectors(items(home), seed=1)
    with cache_of(home) as cache:
        found = cache.get(KEY, items(home))
        assert not found, "nothing damaged is used"
        cache.put(KEY, kept)
        cache.put(KEY, kept)
        assert all((cache.get(KEY, items(home))[item.id] == vector).all() for item, vector in kept.items())


def test_features_are_in_no_backup(archive, tmp_path):
    home, _ = archive
    with cache_of(home) as cache:
        cache.put(KEY, vectors(items(home)))
    back_up(home, tmp_path / "backup", now=utc_now())
    restore(tmp_path / "backup", Home(tmp_path / "new"), now=utc_now())
    assert not features_file(Home(tmp_path / "new")).exists()


# The whole way: a release with a trunk, and what indexes under it.


def publish(home, world, trunk, version=1):
    """Have a node admit a release whose head is that of this version."""
    known = inspect_trunk(trunk, 32)
    head = init_weights(known, SPEC, 32, version)
    file = FileEntry(name="weights.safetensors", size=len(head), sha256=hashlib.sha256(head).hexdigest())
    encoder = EncoderEntry(modality="rgb", input=SPEC, architecture=known, weights=file)
    signed = world.release(version, weights=head, encoders={"rgb": encoder})
    files = [head, trunk.read_bytes()]
    return ReleaseStore(home.releases).admit(
        signed.header, files, world.bundle(), federation=world.name, now=world.clock()
    )


@pytest.fixture
def indexed(archive, monkeypatch):
    """Index until a release is served with this many patches; return their codes."""
    monkeypatch.setattr(node.indexing, "POLL_S", 0.02)
    home, _ = archive

    def until(release, count):
        shelf = Shelf()
        indexer = Indexer(home, shelf, torch_encoder(1))
        thread = threading.Thread(target=indexer.run)
        thread.start()
        try:
            end = time.monotonic() + PATIENCE_S
            while not (
                (served := shelf.served)
                and served.release.digest == release.digest
                and len(served.snapshots["rgb"].view) == count
            ):
                assert time.monotonic() < end, "not in time"
                time.sleep(0.02)
        finally:
            indexer.stop()
            thread.join(PATIENCE_S)
        with Catalogue(home) as catalogue:
            return catalogue.codes(release.digest, "rgb")[1]

    return until


def test_a_later_release_is_indexed_from_the_cache_even_without_the_images(archive, trunk, indexed):
    home, images = archive
    world, contents = World(), [read(item, SPEC) for item in items(home)]
    first = publish(home, world, trunk, 1)
    assert (indexed(first, 20) == Encoder.load(first).encode(contents)).all()
    for image in images.iterdir():
        image.unlink()
    second = publish(home, world, trunk, 2)
    codes = indexed(second, 20)
    assert (codes == Encoder.load(second).encode(contents)).all(), "as fresh from the images, which are gone"


def test_features_of_withdrawn_patches_go_with_the_index(archive, trunk, indexed):
    home, images = archive
    first = publish(home, World(), trunk)
    indexed(first, 20)
    before = items(home)
    for image in list(images.iterdir())[:6]:
        image.unlink()
    run(home)
    indexed(first, 14)
    known = FeatureKey.of(inspect_trunk(trunk, 32), SPEC)
    with cache_of(home) as cache:
        assert set(cache.get(known, before)) == {item.id for item in items(home)}


def test_a_damaged_cache_gives_the_codes_of_the_images(archive, trunk, indexed):
    home, _ = archive
    world, contents = World(), [read(item, SPEC) for item in items(home)]
    indexed(publish(home, world, trunk, 1), 20)
    corrupt(home, "UPDATE feature SET vector = zeroblob(24)")
    second = publish(home, world, trunk, 2)
    assert (indexed(second, 20) == Encoder.load(second).encode(contents)).all()


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(archive, trunk):
    home, _ = archive
    release = publish(home, World(), trunk)
    chosen = items(home)
    chosen[3].path.unlink()
    failed = []
    reading = reader(home, release.manifest.encoders["rgb"].architecture, SPEC, release)
    assert isinstance(reading, FeatureReader)
    found = dict(reading.contents(chosen, failed.append))
    assert failed == [chosen[3]]
    assert list(found) == [item for item in chosen if item != chosen[3]]
    assert all(list(content) == [FEATURES] for content in found.values())


def test_what_is_kept_is_not_made_again(archive, trunk):
    home, _ = archive
    known, failed = inspect_trunk(trunk, 32), []

    def features():
        contents = FeatureReader(home, SPEC, known, trunk).contents(items(home), failed.append)
        return [content[FEATURES] for _, content in contents]

    first = features()
    trunk.write_bytes(b"no model any more")
    again = features()
    assert (np.stack(first) == np.stack(again)).all()
    assert not failed


def test_without_the_trunk_of_a_run_training_says_so(archive, trunk):
    home, _ = archive
    with pytest.raises(TrainingError) as caught:
        reader(home, inspect_trunk(trunk, 32), SPEC, ReleaseStore(home.releases).current())
    assert caught.value.reason == "TRUNK_MISSING"


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_a_release_with_one_wrong_byte_in_its_trunk_is_not_admitted(archive, trunk, place):
    home, _ = archive
    world, whole = World(), trunk.read_bytes()
    first = publish(home, world, trunk, 1)
    known = inspect_trunk(trunk, 32)
    head = init_weights(known, SPEC, 32, 2)
    file = FileEntry(name="weights.safetensors", size=len(head), sha256=hashlib.sha256(head).hexdigest())
    encoder = EncoderEntry(modality="rgb", input=SPEC, architecture=known, weights=file)
    signed = world.release(2, weights=head, encoders={"rgb": encoder})
    flipped = bytearray(whole)
    flipped[place] ^= 1
    store = ReleaseStore(home.releases)
    with pytest.raises(ReleaseRefused) as caught:
        store.admit(signed.header, [head, bytes(flipped)], world.bundle(), federation=world.name, now=world.clock())
    assert caught.value.reason == "RELEASE_DIGEST"
    assert store.current().digest == first.digest
    (first.folder / "trunk.onnx").write_bytes(bytes(flipped))
    assert ReleaseStore(home.releases).current() is None, "nor is it used where it was damaged on disk"
