"""An index on disk holds what was acknowledged, names what is damaged, and is searched while it changes."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import KINDS, columns_of, expected, found, near_query, random_filter
from test_search import Archive as Items

from rsfed.codes import hamming
from rsfed.errors import CodeError, StateError
from rsfed.index import shelf
from rsfed.index.facets import Columns
from rsfed.index.files import Owner
from rsfed.index.manifest import NAME, Manifest
from rsfed.index.reader import IndexReader
from rsfed.index.writer import IndexWriter
from rsfed.lab import soak_index

OWNER = Owner(b"\x07" * 32, "rgb", 64)


def some(first, count, *, seed=0):
    rng = np.random.default_rng([seed, first])
    codes = np.zeros((count, 8), np.uint8)
    codes[:, 0] = rng.integers(0, 6, count)
    codes[:, 7] = rng.integers(0, 3, count)
    return np.arange(first, first + count), codes, columns_of(rng, count)


def ids_of(view):
    hits = view.search(np.zeros((1, 8), np.uint8), radius=64)[0]
    return sorted(item for bucket in range(len(hits)) for item in hits.members(bucket).tolist())


STEPS = st.lists(st.sampled_from(["append", "append", "remove", "merge", "reopen"]), min_size=1, max_size=14)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(0, 2**32 - 1))
def test_whatever_is_appended_removed_and_merged_it_finds_what_brute_force_finds(steps, seed):
    rng = np.random.default_rng(seed)
    ids, codes = np.empty(0, np.int64), np.empty((0, 8), np.uint8)
    columns, gone = (
        Columns(np.empty((0, 2), np.int64), np.empty((0, 4), np.int32), np.empty(0, np.uint32), KINDS),
        set(),
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        writer = IndexWriter(folder, OWNER)
        reader = IndexReader(folder, OWNER)
        for step in steps:
            if step == "append":
                new = some(len(ids), int(rng.integers(1, 30)), seed=seed)
                writer.append(*new)
                ids, codes = np.concatenate([ids, new[0]]), np.concatenate([codes, new[1]])
                columns = Columns.joined([columns, new[2]])
            elif step == "remove":
                chosen = np.append(rng.choice(ids, min(10, len(ids)), replace=False), 10**9)
                assert writer.remove(chosen) == len({*chosen.tolist()} & ({*ids.tolist()} - gone))
                gone |= {*chosen.tolist()} - {10**9}
            elif step == "merge":
                writer.merge()
            else:
                writer.close()
                writer = IndexWriter(folder, OWNER)
            present = np.array([item not in gone for item in ids.tolist()], bool)
            view = reader.view()
            assert len(view) == present.sum()
            made = Items(64, ids, codes, columns, present, view)
            query, where = near_query(rng, made), random_filter(rng)
            assert found(view.search(query[None], k=7)[0]) == expected(made, query, k=7)
            assert found(view.search(query[None], k=3, where=where)[0]) == expected(made, query, where, k=3)
        writer.close()


def test_many_appends_become_few_segments(tmp_path):
    with IndexWriter(tmp_path, OWNER) as writer:
        for number in range(40):
            writer.append(*some(10 * number, 10))
            writer.merge()
        assert len(writer.view.parts) < 8
        assert ids_of(writer.view) == list(range(400))
        writer.remove(np.arange(0, 400, 2))
        while writer.merge():
            pass
        assert sum(len(part.gone) for part in writer.view.parts) < 100
    assert ids_of(IndexReader(tmp_path, OWNER).view()) == list(range(1, 400, 2))


def test_what_is_removed_while_segments_are_merged_stays_removed(tmp_path, monkeypatch):
    from rsfed.index import writer as module

    with IndexWriter(tmp_path, OWNER) as writer:
        for number in range(4):
            writer.append(*some(10 * number, 10))
        whole = module.merged_segment

        def slowly(parts):
            merged = whole(parts)
            writer.remove(np.array([3, 25]))
            writer.append(*some(100, 5))
            return merged

        monkeypatch.setattr(module, "merged_segment", slowly)
        assert writer.merge()
        left = [item for item in [*range(40), *range(100, 105)] if item not in (3, 25)]
        assert ids_of(writer.view) == left
    assert ids_of(IndexReader(tmp_path, OWNER).view()) == left


def test_an_item_is_not_added_twice_but_again_once_it_was_removed(tmp_path):
    with IndexWriter(tmp_path, OWNER) as writer:
        writer.append(*some(0, 10))
        with pytest.raises(CodeError):
            writer.append(*some(9, 3))
        writer.remove(np.array([9]))
        writer.append(*some(9, 3))
        assert ids_of(writer.view) == list(range(12))


@pytest.mark.parametrize("file", ["segment", "gone", "manifest"])
@pytest.mark.parametrize("harm", ["truncated", "edited", "removed", "empty", "swapped"])
def test_a_damaged_file_is_named_and_the_rest_is_kept(tmp_path, file, harm):
    with IndexWriter(tmp_path, OWNER) as writer:
        for number in range(2):
            writer.append(*some(100 * number, 100))
            writer.remove(np.array([100 * number + 5]))
        names = sorted(path.name for path in tmp_path.iterdir())
    victim, other = (
        [name for name in names if name.startswith(file)][:1] * 2
        if file == "manifest"
        else [name for name in names if name.startswith(file)]
    )
    path = tmp_path / victim
    content = bytearray(path.read_bytes())
    if harm == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "edited":
        content[len(content) - 70 if file != "manifest" else len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "removed":
        path.unlink()
    elif harm == "empty":
        path.write_bytes(b"")
    elif file == "manifest":
        path.write_bytes((tmp_path / "lock").read_bytes())
    else:
        path.write_bytes((tmp_path / other).read_bytes())
    for opened in (IndexWriter, IndexReader):
        with pytest.raises(StateError) as caught:
            opened(tmp_path, OWNER)
        assert caught.value.reason == "INDEX_DAMAGED"
        assert victim in caught.value.detail
    with IndexWriter.mended(tmp_path, OWNER) as writer:
        kept = ids_of(writer.view)
        assert kept == ([] if file == "manifest" else [item for item in range(100, 200) if item != 105])
        again = np.setdiff1d(np.setdiff1d(np.arange(200), [5, 105]), kept)
        writer.append(again, np.zeros((len(again), 8), np.uint8))
    assert len(IndexReader(tmp_path, OWNER).view()) == 198


@pytest.mark.parametrize("file", ["segment", "gone"])
@pytest.mark.parametrize("other", [Owner(b"\x08" * 32, "rgb", 64), Owner(b"\x07" * 32, "s1", 64)])
def test_a_file_out_of_another_release_or_encoder_is_damage_that_is_left_out(tmp_path, file, other):
    for owner in (OWNER, other):
        with IndexWriter(shelf.folder_of(tmp_path, owner), owner) as writer:
            writer.append(*some(0, 20))
            writer.remove(np.array([5]))
    folder = shelf.folder_of(tmp_path, OWNER)
    victim = next(folder.glob(f"{file}-*"))
    victim.write_bytes((shelf.folder_of(tmp_path, other) / victim.name).read_bytes())
    for opened in (IndexWriter, IndexReader):
        with pytest.raises(StateError) as caught:
            opened(folder, OWNER)
        assert caught.value.reason == "INDEX_DAMAGED"
        assert victim.name in caught.value.detail
    with IndexWriter.mended(folder, OWNER) as writer:
        assert not len(writer.view)


def test_every_bit_of_the_head_of_a_segment_counts(tmp_path):
    with IndexWriter(tmp_path, OWNER) as writer:
        writer.append(*some(0, 20))
    path = next(tmp_path.glob("segment-*"))
    content = path.read_bytes()
    for bit in range(8 * 32):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(StateError) as caught:
            IndexReader(tmp_path, OWNER)
        assert caught.value.reason == "INDEX_DAMAGED"


def test_a_manifest_that_is_no_json_of_ours_is_damaged(tmp_path):
    IndexWriter(tmp_path, OWNER).close()
    for content in (b"{}", b"[]", b"3", b"null", b"[" * 100_000, b"\xff" * 50, b'{"content": 3, "checksum": ""}'):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(StateError) as caught:
            IndexReader(tmp_path, OWNER)
        assert caught.value.reason == "INDEX_DAMAGED"


def test_every_byte_of_a_segment_counts(tmp_path):
    with IndexWriter(tmp_path, OWNER) as writer:
        writer.append(*some(0, 20))
    path = next(tmp_path.glob("segment-*"))
    content = path.read_bytes()
    for place in range(0, len(content), 41):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(StateError):
            IndexReader(tmp_path, OWNER)
    path.write_bytes(content)
    assert len(IndexReader(tmp_path, OWNER).view()) == 20


@pytest.mark.parametrize(
    "other", [Owner(b"\x08" * 32, "rgb", 64), Owner(b"\x07" * 32, "s1", 64), Owner(b"\x07" * 32, "rgb", 32)]
)
def test_an_index_of_another_release_encoder_or_width_is_refused(tmp_path, other):
    IndexWriter(tmp_path, OWNER).close()
    for opened in (IndexReader, IndexWriter, IndexWriter.mended):
        with pytest.raises(StateError) as caught:
            opened(tmp_path, other)
        assert caught.value.reason == "INDEX_FOREIGN"


def test_an_index_of_newer_software_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("rsfed.index.files.FORMAT", 2)
        Manifest(OWNER).write(tmp_path)
    with pytest.raises(StateError) as caught:
        IndexReader(tmp_path, OWNER)
    assert caught.value.reason == "INDEX_FORMAT"


def test_a_file_is_synced_before_it_has_its_name_and_every_folder_after_it_has_a_new_one(tmp_path, monkeypatch):
    """What a power cut would show, and no kill does."""
    events, fsync, rename = [], os.fsync, Path.rename

    def sync(descriptor):
        events.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(path, target):
        events.append((path.stat().st_ino, path.parent.stat().st_ino))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", renamed)
    root = tmp_path / "node" / "index"
    with IndexWriter(shelf.folder_of(root, OWNER), OWNER) as writer:
        for number in range(4):
            writer.append(*some(10 * number, 10))
        writer.remove(np.array([3]))
        assert writer.merge()
    shelf.swap(root, OWNER.release)
    names = [number for number, event in enumerate(events) if isinstance(event, tuple)]
    assert len(names) == 1 + 2 * 6 + 1  # the empty index, a file and the manifest of each change, and the swap
    for last, here, following in zip([0, *names], names, [*names[1:], len(events)], strict=False):
        file, folder = events[here]
        assert file in events[last:here]
        assert folder in events[here + 1 : following]
    for made in (root, root.parent, tmp_path, shelf.folder_of(root, OWNER).parent):
        assert made.stat().st_ino in events


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path):
    with IndexWriter(tmp_path, OWNER):
        with pytest.raises(StateError) as caught:
            IndexWriter(tmp_path, OWNER)
        assert caught.value.reason == "INDEX_LOCKED"
    IndexWriter(tmp_path, OWNER).close()


def test_what_a_crash_left_behind_is_swept(tmp_path):
    with IndexWriter(tmp_path, OWNER) as writer:
        writer.append(*some(0, 5))
    (tmp_path / "segment-00000009.rsx").write_bytes(b"half")
    (tmp_path / (NAME + ".pending")).write_bytes(b"half")
    with IndexWriter(tmp_path, OWNER) as writer:
        assert ids_of(writer.view) == list(range(5))
    assert len(list(tmp_path.iterdir())) == 3


def test_two_releases_lie_side_by_side_and_are_swapped_in_one_step(tmp_path):
    new = Owner(b"\x09" * 32, "rgb", 64)
    assert shelf.current(tmp_path) is None
    for owner in (OWNER, new):
        with IndexWriter(shelf.folder_of(tmp_path, owner), owner) as writer:
            writer.append(*some(0, 5))
    shelf.swap(tmp_path, OWNER.release)
    shelf.swap(tmp_path, new.release)
    assert shelf.current(tmp_path) == new.release
    old = IndexReader(shelf.folder_of(tmp_path, OWNER), OWNER).view()
    shelf.discard(tmp_path, [new.release])
    assert ids_of(old) == list(range(5))  # who has it open keeps it
    assert not shelf.folder_of(tmp_path, OWNER).exists()
    assert len(IndexReader(shelf.folder_of(tmp_path, new), new).view()) == 5
    note = tmp_path / "current"
    for content in (b"", note.read_bytes()[:-7], new.release.hex().encode(), note.read_bytes().replace(b"09", b"07")):
        note.write_bytes(content)
        with pytest.raises(StateError) as caught:
            shelf.current(tmp_path)
        assert caught.value.reason == "INDEX_DAMAGED"


def test_searches_go_on_and_see_whole_batches_while_another_thread_appends_removes_and_merges(tmp_path):
    writer, ended, wrong = IndexWriter(tmp_path, OWNER), threading.Event(), []

    def search():
        reader = IndexReader(tmp_path, OWNER)
        while not ended.is_set():
            items = ids_of(reader.view())
            if len(items) % 10 or items != sorted(set(items)):
                wrong.append(items)

    searching = threading.Thread(target=search)
    searching.start()
    for number in range(60):
        writer.append(*some(10 * number, 10))
        if number % 3 == 2:
            writer.remove(np.arange(10 * number - 10, 10 * number))
        writer.merge()
    ended.set()
    searching.join()
    writer.close()
    assert not wrong


def test_searches_are_right_while_another_process_appends_removes_merges_and_swaps(tmp_path):
    """Each item has one code for ever, so that every moment can be checked against the items that are there in it."""
    for owner in map(soak_index.owner, (0, 1)):
        with IndexWriter(shelf.folder_of(tmp_path, owner), owner) as writer:
            writer.append(np.arange(500), soak_index.codes_of(np.arange(500)))
    command = [sys.executable, "-m", "rsfed.lab.soak_index", "--change", str(tmp_path), "7", "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        draining = threading.Thread(target=process.stdout.read)
        draining.start()
        reader = IndexReader(shelf.folder_of(tmp_path, owner), owner)
        moments = set()
        query = soak_index.codes_of(np.array([3]))
        while len(moments) < 12 and process.poll() is None:
            view = reader.view()
            ids, distances = view.search(query, k=20)[0].nearest(20)
            there = view.item_ids
            apart = hamming(query, soak_index.codes_of(there))[0].astype(int)
            first = np.lexsort((there, apart))[:20]
            assert ids.tolist() == there[first].tolist()
            assert distances.tolist() == apart[first].tolist()
            moments.add(len(there))
        process.kill()
        draining.join()
    assert len(moments) == 12


def test_nothing_acknowledged_is_lost_and_nothing_is_there_by_half_after_kills(tmp_path):
    soak_index.soak(tmp_path, kills=4, items=1000)


def test_the_soak_notices_lost_doubled_and_half_changes(tmp_path):
    expected = soak_index.Expected.of(1000, 0)
    for number in (0, 1):
        owner, ids = soak_index.owner(number), np.arange(990)
        with IndexWriter(shelf.folder_of(tmp_path, owner), owner) as writer:
            writer.append(ids, soak_index.codes_of(ids))
    with pytest.raises(SystemExit):  # ten are missing
        soak_index.check(tmp_path, expected)
    for number, held in enumerate(expected.items):
        held[990 - number :] = False
    with pytest.raises(SystemExit):  # one too many
        soak_index.check(tmp_path, expected)
    expected.items[1][985:] = False
    expected.take("append 1 985 10")
    with pytest.raises(SystemExit):  # half of what is under way
        soak_index.check(tmp_path, expected)
    expected.take("append 1 985 5")
    soak_index.check(tmp_path, expected)
    expected.current = soak_index.RELEASES[0]
    with pytest.raises(SystemExit):  # a swap is lost
        soak_index.check(tmp_path, expected)
