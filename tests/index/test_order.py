"""The order of ties: a permutation, the same for one query, another for every query code."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rsfed.index import order

KEY, RELEASE = b"k" * 32, b"r" * 32


def positions(size, *, code=b"query", part=b"bucket", key=KEY, release=RELEASE, epoch=0, ranks=None):
    ranks = np.arange(size) if ranks is None else ranks
    seed = order.seeds(key, release, epoch, code, [part])
    return order.keyed(np.repeat(seed, len(ranks), axis=0), np.full(len(ranks), size), ranks)


@given(st.integers(1, 5000), st.binary(min_size=2, max_size=32))
def test_every_item_of_a_bucket_comes_exactly_once(size, code):
    assert (np.sort(positions(size, code=code)) == np.arange(size)).all()


@given(st.integers(1, 3000), st.integers(0, 3000), st.integers(0, 500))
def test_any_page_is_that_part_of_the_whole_order(size, offset, limit):
    ranks = np.arange(min(offset, size), min(offset + limit, size))
    assert (positions(size, ranks=ranks) == positions(size)[ranks]).all()


def test_a_page_of_a_bucket_of_ten_billion_items_is_taken_without_the_rest():
    page = positions(10**10, ranks=np.arange(5 * 10**9, 5 * 10**9 + 100))
    assert len(set(page.tolist())) == 100
    assert ((page >= 0) & (page < 10**10)).all()


def test_items_of_several_buckets_are_placed_as_if_alone():
    seeds = order.seeds(KEY, RELEASE, 0, b"query", [b"one", b"two"])
    sizes, ranks = np.array([7, 7, 300]), np.array([0, 6, 42])
    together = order.keyed(seeds[[0, 0, 1]], sizes, ranks)
    assert together.tolist() == [*positions(7, part=b"one")[[0, 6]], positions(300, part=b"two")[42]]


def test_the_order_is_the_same_again_for_the_same_query():
    assert (positions(1000) == positions(1000)).all()


def test_query_code_bucket_key_release_and_epoch_each_give_another_order():
    changed = [{"code": b"other"}, {"part": b"basket"}, {"key": b"K" * 32}, {"release": b"R" * 32}, {"epoch": 1}]
    orders = {tuple(positions(50, **change).tolist()) for change in [{}, *changed]}
    assert len(orders) == 1 + len(changed)


def test_every_item_comes_first_equally_often_over_many_query_codes():
    size, queries = 10, 20_000
    seeds = np.concatenate([order.seeds(KEY, RELEASE, 0, n.to_bytes(8, "big"), [b"b"]) for n in range(queries)])
    first = order.keyed(seeds, np.full(queries, size), np.zeros(queries, np.int64))
    chi_square = ((np.bincount(first, minlength=size) - queries / size) ** 2 / (queries / size)).sum()
    assert chi_square < 27.9  # 9 degrees of freedom, one in a thousand


def test_item_id_order_leaves_the_ranks_alone():
    ranks = np.arange(5)
    assert (order.by_item_id(np.zeros((5, 4), np.uint64), np.full(5, 5), ranks) == ranks).all()
