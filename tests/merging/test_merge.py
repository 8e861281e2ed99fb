"""The merged ranking is what one search over the union of all archives would give."""

from hashlib import sha256

import numpy as np
from honest_archives import QUERY_ID, Archive, question
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.merging.merge import merge
from rsfed.merging.validate import validate

# Few distinct codes, so that most items tie.
CODES = st.lists(st.integers(0, 7) | st.integers(0, 0xFFFF), max_size=12)
ARCHIVES = st.dictionaries(st.sampled_from(["bern", "graz", "lyon", "oslo", "wien"]), CODES, max_size=5)


def merged(archives, query, asked, order=None):
    answers = {a.name: validate(a.response([query], asked), asked).columns[0] for a in archives}
    arrived = {name: answers[name] for name in (order or answers)}
    return merge(arrived, QUERY_ID, k=None if asked.radius is not None else asked.k)


def rows(ranking):
    buckets = ranking.hit_buckets
    nodes = [ranking.nodes[i] for i in ranking.bucket_nodes[buckets]]
    handles = [bytes(h) for h in ranking.hit_handles]
    return list(zip(ranking.bucket_distances[buckets].tolist(), nodes, handles, strict=True))


def union_in_order(archives, query):
    """Rank the union item by item: at each distance the nodes take turns until none has an item left."""
    turns = sorted(archives, key=lambda a: sha256(QUERY_ID + a.name.encode()).digest())
    waiting = {a.name: a.ranked(query) for a in archives}
    ranking = []
    for distance in range(17):
        while any(waiting[a.name] and waiting[a.name][0][0] == distance for a in turns):
            due = [a.name for a in turns if waiting[a.name] and waiting[a.name][0][0] == distance]
            ranking.extend((distance, name, waiting[name].pop(0)[1]) for name in due)
    return ranking


@settings(max_examples=400, deadline=None)
@given(ARCHIVES, st.integers(0, 0xFFFF) | st.integers(0, 7), st.integers(1, 9))
def test_the_first_k_are_those_of_a_brute_force_search_over_the_union(contents, query, k):
    archives = [Archive(name, codes) for name, codes in contents.items()]
    assert rows(merged(archives, query, question(k=k))) == union_in_order(archives, query)[:k]


@settings(max_examples=200, deadline=None)
@given(ARCHIVES, st.integers(0, 7), st.integers(0, 16))
def test_a_search_by_radius_lists_everything_within_it(contents, query, radius):
    archives = [Archive(name, codes) for name, codes in contents.items()]
    expected = [row for row in union_in_order(archives, query) if row[0] <= radius]
    assert rows(merged(archives, query, question(k=1000, radius=radius))) == expected


@settings(max_examples=200, deadline=None)
@given(ARCHIVES.flatmap(lambda a: st.tuples(st.just(a), st.permutations(sorted(a)))), st.integers(0, 7))
def test_the_order_of_arrival_changes_nothing(contents_and_order, query):
    contents, order = contents_and_order
    archives = [Archive(name, codes) for name, codes in contents.items()]
    first, second = merged(archives, query, question()), merged(archives, query, question(), order)
    for column in ("bucket_nodes", "bucket_handles", "bucket_distances", "bucket_sizes", "hit_buckets", "hit_handles"):
        assert getattr(first, column).tobytes() == getattr(second, column).tobytes()


@settings(max_examples=200, deadline=None)
@given(ARCHIVES, st.integers(0, 7), st.integers(1, 9))
def test_every_bucket_up_to_the_last_hit_is_listed_and_none_beyond(contents, query, k):
    archives = [Archive(name, codes) for name, codes in contents.items()]
    ranking = merged(archives, query, question(k=k))
    union = union_in_order(archives, query)
    last = union[k - 1][0] if len(union) >= k else 16
    expected = {(a.name, c) for a in archives for c in a.buckets if (c ^ query).bit_count() <= last}
    listed = [bytes(h).rstrip(b".").decode().split("/") for h in ranking.bucket_handles]
    assert {(name, int(code)) for name, code in listed} == expected
    assert len(listed) == len(expected)
    assert (np.diff(ranking.bucket_distances.astype(int)) >= 0).all()


def test_nodes_take_turns_at_equal_distances_in_another_order_for_another_query():
    archives = [Archive(name, [0, 0, 0]) for name in ("bern", "graz", "lyon")]
    answers = {a.name: validate(a.response([0], question(k=9)), question(k=9)).columns[0] for a in archives}

    def turns(query_id):
        ranking = merge(answers, query_id, k=9)
        return [ranking.nodes[n] for n in ranking.bucket_nodes[ranking.hit_buckets]]

    orders = {tuple(turns(bytes([i]) * 16)[:3]) for i in range(40)}
    assert all(turns(bytes([i]) * 16)[:3] * 3 == turns(bytes([i]) * 16) for i in range(40))
    assert len(orders) == 6


def test_a_footprint_that_only_some_nodes_disclose_is_marked_unknown_for_the_others():
    archives = [Archive("bern", [0], footprints=True), Archive("graz", [0])]
    ranking = merged(archives, 0, question())
    boxes = {name: box.tolist() for (_, name, _), box in zip(rows(ranking), ranking.footprints, strict=True)}
    assert boxes == {"bern": [10**7, 2 * 10**7, 3 * 10**7, 4 * 10**7], "graz": [-(2**31)] * 4}
    assert ranking.acquired is None


def test_no_answer_at_all_is_an_empty_ranking():
    assert rows(merge({}, QUERY_ID, k=5)) == []
