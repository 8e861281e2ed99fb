"""The index finds exactly what a comparison with every single item finds, however the items are divided."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import hamming
from rsfed.errors import CodeError, UsageError
from rsfed.index import order
from rsfed.index.facets import Columns
from rsfed.index.filters import Filter
from rsfed.index.search import View
from rsfed.index.segment import NONE_GONE, Part, Segment
from rsfed.wire import DEGREE, NO_FOOTPRINT, NO_TIME

WIDTHS = st.sampled_from([16, 24, 64, 72, 128, 136, 256])
SEEDS = st.integers(0, 2**32 - 1)
KINDS = (("rgb",), ("rgb", "forest"), ("rgb", "forest", "lake"), ("s1", "lake"), ("s2", "city"))


@dataclasses.dataclass
class Archive:
    """Single items, and the index made of them."""

    bits: int
    ids: np.ndarray
    codes: np.ndarray
    columns: Columns
    present: np.ndarray
    view: View

    def passing(self, where):
        if where is None:
            return self.present
        return self.present & np.array([passes(self.columns, row, where) for row in range(len(self.ids))], bool)


def passes(columns, row, where):
    """The filter in plain words."""
    start, end = columns.times[row].tolist()
    if where.after is not None and (start == NO_TIME or end < where.after):
        return False
    if where.before is not None and (start == NO_TIME or start > where.before):
        return False
    modality, *labels = columns.kind_values[columns.kinds[row]]
    if where.modality is not None and modality != where.modality:
        return False
    if where.labels is not None and not where.labels & set(labels):
        return False
    return where.box is None or touches(columns.boxes[row].tolist(), where.box)


def touches(box, wanted):
    if box[0] == NO_FOOTPRINT:
        return False
    across = any(a[0] <= b[1] and a[1] >= b[0] for a in longitudes(box) for b in longitudes(wanted))
    return across and box[1] <= wanted[3] and box[3] >= wanted[1]


def longitudes(box):
    west, east = box[0], box[2]
    return [(west, east)] if west <= east else [(west, 180 * DEGREE), (-180 * DEGREE, east)]


def columns_of(rng, items):
    starts = rng.integers(0, 12, items) * 100
    times = np.stack([starts, starts + rng.choice([0, 5, 350], items)], axis=1)
    times[rng.random(items) < 0.1] = NO_TIME
    west, south = rng.integers(-180, 181, items), rng.integers(-90, 91, items)
    east = (west + rng.integers(0, 30, items) + 180) % 360 - 180
    boxes = np.stack([west, south, east, np.minimum(south + rng.integers(0, 20, items), 90)], axis=1) * DEGREE
    boxes[rng.random(items) < 0.1] = NO_FOOTPRINT
    return Columns(times, boxes.astype(np.int32), rng.integers(0, len(KINDS), items).astype(np.uint32), KINDS)


def archive(seed, bits, items, *, distinct=12, parts=1, gone=0.0):
    """Random items with few distinct codes, so that they tie, in several segments with holes."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 256, (distinct, bits // 8), dtype=np.uint8)
    pool[1:, 2:] = pool[0, 2:]  # most codes lie near each other
    ids = rng.choice(10 * items + 1, items, replace=False).astype(np.int64) + 1
    codes, columns = pool[rng.integers(0, distinct, items)], columns_of(rng, items)
    present = rng.random(items) >= gone
    which = rng.integers(0, parts, items)
    made = []
    for part in range(parts):
        own = np.flatnonzero(which == part)
        segment = Segment.build(bits, ids[own], codes[own], columns.take(own))
        made.append(Part(segment, segment.places_of(ids[own][~present[own]])))
    return rng, Archive(bits, ids, codes, columns, present, View(bits, tuple(made)))


def random_filter(rng):
    box = None
    if rng.random() < 0.5:
        west, south = int(rng.integers(-180, 181)), int(rng.integers(-90, 80))
        east = int((west + rng.integers(0, 200) + 180) % 360 - 180)
        box = (west * DEGREE, south * DEGREE, east * DEGREE, min(south + 60, 90) * DEGREE)
    after = int(rng.integers(0, 900)) if rng.random() < 0.4 else None
    before = int(rng.integers(after or 0, 1500)) if rng.random() < 0.4 else None
    modality = str(rng.choice(["rgb", "s1", "none"])) if rng.random() < 0.3 else None
    labels = frozenset(rng.choice(["forest", "lake", "city", "none"], 2).tolist()) if rng.random() < 0.3 else None
    return Filter(after, before, box, modality, labels)


def expected(made, query, where=None, *, k=None, radius=None):
    """All buckets up to the k-th item's distance as {code: (distance, items)}, from single items only."""
    counts = made.passing(where)
    distances = hamming(query[None], made.codes)[0]
    near = np.sort(distances[counts])
    reach = radius if radius is not None else near[min(k, len(near)) - 1] if len(near) else 0
    buckets = {}
    for row in np.flatnonzero(counts & (distances <= reach)):
        buckets.setdefault(made.codes[row].tobytes(), (int(distances[row]), set()))[1].add(int(made.ids[row]))
    return buckets


def found(hits):
    sizes = hits.sizes
    items = [set(hits.members(bucket).tolist()) for bucket in range(len(hits))]
    assert [len(each) for each in items] == sizes.tolist()
    assert (np.diff(hits.distances.astype(int)) >= 0).all()
    return {
        code.tobytes(): (int(distance), each)
        for code, distance, each in zip(hits.codes, hits.distances, items, strict=True)
    }


def near_query(rng, made):
    query = rng.integers(0, 256, made.bits // 8, dtype=np.uint8)
    if len(made.codes):
        query[2:] = made.codes[rng.integers(len(made.codes)), 2:]
    return query


@settings(max_examples=800, deadline=None)
@given(WIDTHS, SEEDS, st.integers(0, 60), st.integers(1, 80), st.integers(1, 3), st.sampled_from([0, 0.3, 1]))
def test_search_equals_brute_force_over_all_items(bits, seed, items, k, parts, gone):
    rng, made = archive(seed, bits, items, parts=parts, gone=gone)
    query = near_query(rng, made)
    for how in ({"k": k}, {"radius": int(rng.integers(0, bits + 1))}):
        assert found(made.view.search(query[None], **how)[0]) == expected(made, query, **how)


@settings(max_examples=800, deadline=None)
@given(WIDTHS, SEEDS, st.integers(0, 60), st.integers(1, 80), st.integers(1, 3), st.sampled_from([0, 0.3]))
def test_a_filter_leaves_the_answer_of_an_archive_without_the_other_items(bits, seed, items, k, parts, gone):
    rng, made = archive(seed, bits, items, parts=parts, gone=gone)
    query, where = near_query(rng, made), random_filter(rng)
    for how in ({"k": k}, {"radius": int(rng.integers(0, bits + 1))}):
        assert found(made.view.search(query[None], where=where, **how)[0]) == expected(made, query, where, **how)


@settings(max_examples=800, deadline=None)
@given(WIDTHS, SEEDS, st.integers(0, 60), st.integers(1, 80), st.integers(1, 3), st.booleans())
def test_the_nearest_items_come_by_distance_and_then_by_item_id(bits, seed, items, k, parts, filtered):
    rng, made = archive(seed, bits, items, parts=parts, gone=0.2)
    query, where = near_query(rng, made), random_filter(rng) if filtered else None
    ids, distances = made.view.search(query[None], k=k, where=where)[0].nearest(k)
    rows = np.flatnonzero(made.passing(where))
    apart = hamming(query[None], made.codes)[0][rows].astype(int)
    first = np.lexsort((made.ids[rows], apart))[:k]
    assert ids.tolist() == made.ids[rows][first].tolist()
    assert distances.tolist() == apart[first].tolist()


@settings(max_examples=800, deadline=None)
@given(SEEDS, st.integers(1, 300), st.integers(1, 3), st.integers(0, 30), st.integers(1, 50), st.booleans())
def test_the_keyed_order_is_a_permutation_of_the_whole_bucket_without_those_that_do_not_pass(
    seed, items, parts, offset, count, filtered
):
    rng, made = archive(seed, 64, items, distinct=2, parts=parts, gone=0.2)
    where = random_filter(rng) if filtered else None
    hits = made.view.search(made.codes[:1], radius=64, where=where)[0]
    for bucket in range(len(hits)):
        tie = order.seeds(b"k" * 32, b"r" * 32, 0, b"query", [hits.codes[bucket].tobytes()])
        same = (made.codes == hits.codes[bucket]).all(axis=1)
        members = np.sort(made.ids[made.present & same])
        passing = set(made.ids[made.passing(where) & same].tolist())
        whole = order.keyed(
            np.repeat(tie, len(members), axis=0), np.full(len(members), len(members)), np.arange(len(members))
        )
        ranked = [item for item in members[whole].tolist() if item in passing]
        page = hits.take(np.array([bucket])).keyed(tie, np.array([offset]), np.array([count]))
        assert page.tolist() == ranked[offset : offset + count]


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 60))
def test_a_mark_is_of_exactly_the_items_of_a_bucket_however_they_are_divided(seed, items):
    _, whole = archive(seed, 64, items, gone=0.3)
    _, divided = archive(seed, 64, items, parts=3, gone=0.3)
    one, other = (made.view.search(made.codes[:1], radius=64)[0] for made in (whole, divided))
    if (whole.present == divided.present).all():
        assert one.marks.tolist() == other.marks.tolist()
    assert (one.marks < 0).all()
    assert len(set(one.marks.tolist())) == len(one)


def large(seed, bits, items, clusters):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (clusters, bits // 8), dtype=np.uint8)
    flips = np.packbits(rng.random((items, bits)) < 0.04, axis=1)
    return rng, centres[rng.integers(0, clusters, items)] ^ flips


@pytest.mark.parametrize("bits", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("clusters", [5, 60_000])
def test_tables_and_scan_find_the_same_as_brute_force_over_many_codes(bits, clusters, monkeypatch):
    monkeypatch.setattr("rsfed.index.tables.SMALLEST", 4096)
    rng, codes = large(bits, bits, 40_000, clusters)
    made = View(bits, (Part(Segment.build(bits, np.arange(40_000), codes), np.arange(0, 40_000, 7, dtype=np.uint32)),))
    segment = made.parts[0].segment
    assert len(segment.tables.spans)
    present = np.ones(40_000, bool)
    present[segment.ids[made.parts[0].gone]] = False
    queries = codes[rng.integers(0, 40_000, 12)] ^ np.packbits(rng.random((12, bits)) < 0.03, axis=1)
    for k in (1, 20, 1000):
        for query, hits in zip(queries, made.search(queries, k=k), strict=True):
            apart = hamming(query[None], codes)[0].astype(int)
            rows = np.flatnonzero(present)
            first = rows[np.lexsort((rows, apart[rows]))[:k]]
            ids, distances = hits.nearest(k)
            assert ids.tolist() == first.tolist()
            assert distances.tolist() == apart[first].tolist()
            assert hits.sizes.sum() == (apart[rows] <= apart[first[-1]]).sum()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("k", [21, 2**32, 2**60, 2**62, 2**63, 10**30])
def test_a_k_beyond_the_archive_finds_everything(parts, k):
    _, made = archive(1, 64, 20, parts=parts)
    for where in (None, Filter(modality="rgb")):
        hits = made.view.search(made.codes[:1], k=k, where=where)[0]
        assert found(hits) == expected(made, made.codes[0], where, radius=64)


def test_what_cannot_be_searched_for_is_refused_with_the_remedy():
    _, made = archive(1, 64, 20)
    for how in ({"k": 0}, {"k": -1}, {"radius": 65}, {"radius": -1}):
        with pytest.raises(UsageError) as caught:
            made.view.search(made.codes[:1], **how)
        assert caught.value.reason == "SEARCH_RANGE"
    with pytest.raises(CodeError):
        made.view.search(np.zeros((1, 16), np.uint8), k=1)
    with pytest.raises(ValueError, match="either k or radius"):
        made.view.search(made.codes[:1], k=1, radius=1)


def test_filters_that_nothing_can_pass_are_refused():
    for wrong in ({"after": 2, "before": 1}, {"box": (0, 10, 0, 5)}, {"box": (0, -91 * DEGREE, 0, 0)}):
        with pytest.raises(UsageError) as caught:
            Filter(**wrong)
        assert caught.value.reason == "FILTER"


def test_an_item_has_one_code_and_codes_fit_the_items():
    with pytest.raises(CodeError):
        Segment.build(16, np.array([1, 1]), np.zeros((2, 2), np.uint8))
    with pytest.raises(CodeError):
        Segment.build(16, np.array([1]), np.zeros((2, 2), np.uint8))
    with pytest.raises(CodeError):
        Segment.build(16, np.array([1]), np.zeros((1, 4), np.uint8))


def test_a_snapshot_of_nothing_finds_nothing():
    for parts in (
        (),
        (Part(Segment.build(64, np.empty(0, np.int64), np.empty((0, 8), np.uint8)), np.empty(0, np.uint32)),),
    ):
        hits = View(64, parts).search(np.zeros((1, 8), np.uint8), k=5)[0]
        assert len(hits) == 0
        assert hits.nearest(5)[0].tolist() == []
        assert hits.sizes.tolist() == hits.marks.tolist() == []


@pytest.mark.parametrize("bits", [64, 128])
def test_a_million_codes_are_ranked_as_faiss_ranks_them(bits):
    import faiss

    from rsfed.lab.bench_index_data import clustered

    faiss.omp_set_num_threads(1)
    data = clustered(1_000_000, bits, 64)
    flat = faiss.IndexBinaryFlat(bits)
    flat.add(data.codes)
    distances, ids = flat.search(data.queries, 20)
    found = View(bits, (Part(Segment.build(bits, np.arange(len(data.codes)), data.codes), NONE_GONE),))
    for hits, far, wanted in zip(found.search(data.queries, k=20), distances, ids, strict=True):
        own, apart = hits.nearest(20)
        assert own.tolist() == wanted.tolist()
        assert apart.tolist() == far.tolist()


@pytest.mark.parametrize("elsewhere", [0, 4000])
@pytest.mark.parametrize("parts", [1, 2])
def test_few_that_pass_come_out_of_a_large_bucket_in_the_keyed_order_too(parts, elsewhere):
    """Whether they are taken from an inverted list (few pass anywhere) or the walk is given up (few pass here)."""
    items, rng = 4000 + elsewhere, np.random.default_rng(parts)
    codes = np.zeros((items, 8), np.uint8)
    codes[4000:] = 255
    kinds = np.zeros(items, np.uint32)
    rare = np.sort(rng.choice(4000, 12, replace=False))
    kinds[rare] = kinds[4000:] = 1
    columns = dataclasses.replace(Columns.unknown(items), kinds=kinds, kind_values=(("a",), ("b",)))
    own = [np.flatnonzero(np.arange(items) % parts == part) for part in range(parts)]
    made = [Part(Segment.build(64, ids, codes[ids], columns.take(ids)), NONE_GONE) for ids in own]
    hits = View(64, tuple(made)).search(codes[:1], k=5, where=Filter(modality="b"))[0]
    tie = order.seeds(b"k" * 32, b"r" * 32, 0, b"query", [b"bucket"])
    whole = order.keyed(np.repeat(tie, 4000, axis=0), np.full(4000, 4000), np.arange(4000))
    ranked = [item for item in whole.tolist() if item in set(rare.tolist())]
    first = hits.take(np.array([0]))
    assert first.sizes.tolist() == [12]
    assert first.keyed(tie, np.array([2]), np.array([20])).tolist() == ranked[2:]
    assert first.members(0).tolist() == rare.tolist()
