"""Bucket search finds exactly what a comparison with every single item finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import hamming
from rsfed.errors import CodeError
from rsfed.index.buckets import BucketIndex

WIDTHS = st.sampled_from([16, 24, 64, 72, 128, 256])


def archive(seed, bits, items, distinct):
    """Random item ids and codes with few distinct values, so that items tie."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 256, (distinct, bits // 8), dtype=np.uint8)
    pool[1:, 2:] = pool[0, 2:]  # most codes lie near each other
    ids = rng.choice(10 * items + 1, items, replace=False).astype(np.int64) + 1
    return rng, ids, pool[rng.integers(0, distinct, items)]


def filled(bits, ids, codes):
    index = BucketIndex(bits)
    index.add(ids, codes)
    return index


def brute_force(query, ids, codes, *, k=None, radius=None):
    """All buckets up to the k-th item's distance as {code: (distance, items)}, from single items only."""
    distances = hamming(query, codes)[0] if len(ids) else np.empty(0, np.uint16)
    reach = radius if radius is not None else np.sort(distances)[min(k, len(ids)) - 1] if len(ids) else 0
    buckets = {}
    for distance, item, code in zip(distances, ids, codes, strict=True):
        if distance <= reach:
            buckets.setdefault(code.tobytes(), (int(distance), set()))[1].add(int(item))
    return buckets


def found(snapshot, hits, keep=slice(None)):
    counted = set(snapshot.buckets.item_ids[keep].tolist())
    return {
        code.tobytes(): (int(distance), set(snapshot.buckets.members(row).tolist()) & counted)
        for code, distance, row in zip(hits.codes, hits.distances, hits.rows, strict=True)
    }


@given(WIDTHS, st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 80), st.integers(0, 300))
def test_search_equals_brute_force_over_all_items(bits, seed, items, k, radius):
    rng, ids, codes = archive(seed, bits, items, distinct=12)
    index = filled(bits, ids, codes)
    query = rng.integers(0, 256, (1, bits // 8), dtype=np.uint8)
    query[0, 2:] = codes[0, 2:] if items else query[0, 2:]
    snapshot = index.snapshot(b"r", "e")
    for how in ({"k": k}, {"radius": radius}):
        hits = index.search(query, **how)[0]
        assert found(snapshot, hits) == brute_force(query, ids, codes, **how)
        assert (np.diff(hits.distances.astype(int)) >= 0).all()
        assert hits.sizes.tolist() == [len(snapshot.buckets.members(row)) for row in hits.rows]


@given(WIDTHS, st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 80))
def test_a_filter_leaves_the_answer_of_an_archive_without_the_other_items(bits, seed, items, k):
    rng, ids, codes = archive(seed, bits, items, distinct=12)
    index = filled(bits, ids, codes)
    keep = rng.random(items) < 0.4
    stays = keep[np.searchsorted(index.item_ids, ids)]
    for how in ({"k": k}, {"radius": 9}):
        hits = index.search(codes[:1], keep=keep, **how)[0]
        expected = brute_force(codes[:1], ids[stays], codes[stays], **how)
        assert found(index.snapshot(b"r", "e"), hits, keep) == expected


@given(WIDTHS, st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_adding_and_removing_gives_the_index_of_what_is_left(bits, seed, items):
    rng, ids, codes = archive(seed, bits, items, distinct=12)
    cut = int(rng.integers(0, items + 1))
    grown = filled(bits, ids[:cut], codes[:cut])
    grown.add(ids[cut:], codes[cut:])
    gone = ids[rng.random(items) < 0.5]
    grown.remove(np.append(gone, 10**9))  # an unknown item is passed over
    stays = ~np.isin(ids, gone)
    fresh = filled(bits, ids[stays], codes[stays])
    for name in ("words", "starts", "ids", "places"):
        a, b = (getattr(index.snapshot(b"r", "e").buckets, name) for index in (grown, fresh))
        assert (a == b).all()
    assert grown.item_ids.tolist() == sorted(ids[stays].tolist())


@settings(max_examples=30)
@given(WIDTHS, st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_a_bucket_is_found_by_its_mark_until_its_members_change(bits, seed, items):
    _, ids, codes = archive(seed, bits, items, distinct=12)
    index = filled(bits, ids, codes)
    buckets = index.snapshot(b"r", "e").buckets
    assert (buckets.marks < 0).all()
    assert [buckets.row_marked(int(mark)) for mark in buckets.marks] == list(range(len(buckets.marks)))
    assert buckets.row_marked(0) is None
    leaves = int(ids[0])
    changed = next(row for row in range(len(buckets.marks)) if leaves in buckets.members(row))
    index.remove(np.array([leaves]))
    after = index.snapshot(b"r", "e").buckets
    kept = [row for row, mark in enumerate(buckets.marks) if after.row_marked(int(mark)) is not None]
    assert kept == [row for row in range(len(buckets.marks)) if row != changed]


def test_codes_of_a_batch_are_answered_as_if_asked_alone():
    rng, ids, codes = archive(7, 64, 50, distinct=12)
    index = filled(64, ids, codes)
    queries = rng.integers(0, 256, (5, 8), dtype=np.uint8)
    for query, hits in zip(queries, index.search(queries, k=7), strict=True):
        alone = index.search(query[None], k=7)[0]
        assert (hits.codes == alone.codes).all()
        assert (hits.sizes == alone.sizes).all()


def test_a_snapshot_stays_as_it_was_while_the_index_changes():
    _, ids, codes = archive(3, 32, 20, distinct=5)
    index = filled(32, ids, codes)
    snapshot = index.snapshot(b"release", "encoder")
    index.remove(ids)
    assert len(index) == 0
    assert len(snapshot.buckets) == 20
    assert (snapshot.release, snapshot.encoder) == (b"release", "encoder")


def test_complementary_codes_of_256_bits_are_256_apart():
    index = filled(256, np.array([1]), np.zeros((1, 32), np.uint8))
    hits = index.search(np.full((1, 32), 255, np.uint8), k=1)[0]
    assert hits.distances.tolist() == [256]


def test_an_empty_index_finds_nothing():
    assert len(BucketIndex(64).search(np.zeros((1, 8), np.uint8), k=5)[0]) == 0


def test_codes_of_another_width_are_refused():
    index = filled(64, np.array([1]), np.zeros((1, 8), np.uint8))
    with pytest.raises(CodeError):
        index.search(np.zeros((1, 16), np.uint8), k=1)
    with pytest.raises(CodeError):
        index.add(np.array([2]), np.zeros((1, 4), np.uint8))


def test_an_item_cannot_have_two_codes():
    index = filled(16, np.array([1]), np.zeros((1, 2), np.uint8))
    with pytest.raises(CodeError):
        index.add(np.array([1]), np.ones((1, 2), np.uint8))


def test_either_a_number_of_items_or_a_radius_is_asked_for():
    with pytest.raises(ValueError, match="either k or radius"):
        BucketIndex(16).search(np.zeros((1, 2), np.uint8), k=1, radius=1)
