"""Every figure against hand-computed values and against the average over every order of ties."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import hamming, pack
from rsfed.hashing.evaluation import average_precision, evaluate, expected
from rsfed.hashing.evaluation.bits import bit_statistics
from rsfed.hashing.evaluation.counts import (
    CosineSearch,
    GradedHistograms,
    HammingSearch,
    Histograms,
    graded_histograms,
)
from rsfed.hashing.evaluation.curves import pair_histograms, radius_curve
from rsfed.hashing.evaluation.leaks import Leak, leak
from rsfed.hashing.evaluation.neighbours import within_class_overlap
from rsfed.hashing.evaluation.tables import by_class, figures, spread

# What a figure is for one concrete ranking: the number of classes that the item at each rank shares with the query.


def precisions(ranking, k):
    return sum(np.mean(np.array(ranking[: i + 1]) > 0) for i in range(min(k, len(ranking))) if ranking[i])


def weighted(ranking, k):
    first = ranking[:k]
    return np.mean([np.mean(first[: i + 1]) for i in range(len(first)) if first[i]] or [0])


def dcg(ranking, k):
    return sum((2**r - 1) / math.log2(rank + 2) for rank, r in enumerate(ranking[:k]))


def divided(above, below):
    return above / below if below else 0.0


ORACLES = {
    "map_found": lambda ranking, k: average_precision(np.array(ranking, int) > 0, k),
    "map_possible": lambda ranking, k: divided(precisions(ranking, k), min(k, np.count_nonzero(ranking))),
    "map_relevant": lambda ranking, k: divided(precisions(ranking, k), np.count_nonzero(ranking)),
    "map_k": lambda ranking, k: precisions(ranking, k) / k,
    "precision": lambda ranking, k: np.count_nonzero(ranking[:k]) / k,
    "recall": lambda ranking, k: divided(np.count_nonzero(ranking[:k]), np.count_nonzero(ranking)),
    "ndcg": lambda ranking, k: divided(dcg(ranking, k), dcg(sorted(ranking, reverse=True), k)),
    "acg": lambda ranking, k: sum(ranking[:k]) / k,
    "weighted_map": weighted,
}


def counted(groups, grades=4):
    return GradedHistograms(
        np.array([[np.bincount(np.array(group, int), minlength=grades) for group in groups]], np.int64)
    )


def every_order(groups):
    """Every different order; each stands for equally many permutations of the items."""
    for orders in itertools.product(*(set(itertools.permutations(group)) for group in groups)):
        yield list(itertools.chain(*orders))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), max_size=5).map(lambda x: np.array(x, int)), min_size=1, max_size=2),
    st.integers(1, 11),
)
def test_every_figure_equals_its_average_over_every_order_of_ties(groups, k):
    rankings = list(every_order(groups))
    found = figures(counted(groups), k)
    assert found.keys() == ORACLES.keys()
    for name, oracle in ORACLES.items():
        assert found[name][0] == pytest.approx(np.mean([oracle(ranking, k) for ranking in rankings]), abs=1e-12), name


def test_figures_of_a_ranking_without_ties_by_hand():
    found = {name: float(value[0]) for name, value in figures(counted([[2], [0], [1], [1]]), 3).items()}
    assert found == pytest.approx(
        {
            "map_found": (1 + 2 / 3) / 2,
            "map_possible": (1 + 2 / 3) / 3,
            "map_relevant": (1 + 2 / 3) / 3,
            "map_k": (1 + 2 / 3) / 3,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "ndcg": (3 + 1 / 2) / (3 + 1 / math.log2(3) + 1 / 2),
            "acg": 1.0,
            "weighted_map": (2 + 3 / 3) / 2,
        }
    )


def test_denominators_differ_where_they_should():
    counts = Histograms(np.ones((1, 6), np.int64), np.array([[1, 0, 1, 1, 1, 0]]))
    by_name = {name: expected.expected_average_precision(counts, 2, name)[0] for name in expected.DENOMINATORS}
    assert by_name == pytest.approx({"found": 1, "possible": 1 / 2, "relevant": 1 / 4, "k": 1 / 2})


def test_one_relevant_item_in_a_tie_of_two_by_hand():
    found = figures(counted([[1, 0]]), 1)
    assert found["map_found"][0] == pytest.approx(0.5)
    assert found["ndcg"][0] == pytest.approx(0.5)
    assert figures(counted([[1, 0]]), 2)["map_found"][0] == pytest.approx((1 + 1 / 2) / 2)


def test_a_query_without_anything_relevant_scores_0_in_every_figure():
    assert all(value[0] == 0 for value in figures(counted([[0, 0], [0]]), 2).values())


def test_with_one_class_each_the_weighted_figure_is_the_plain_one_and_all_of_one_class_is_perfect():
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=bool)[rng.integers(0, 3, 60)]
    codes = pack(rng.random((60, 16)) < 0.5)
    found = figures(graded_histograms(HammingSearch(codes, codes), labels, labels, own=np.arange(60)), 10)
    assert found["weighted_map"] == pytest.approx(found["map_found"])
    single = np.ones((60, 1), bool)
    found = figures(graded_histograms(HammingSearch(codes, codes), single, single, own=np.arange(60)), 10)
    for name in ("map_found", "map_possible", "map_k", "precision", "ndcg", "acg", "weighted_map"):
        assert found[name] == pytest.approx(1), name
    assert found["recall"] == pytest.approx(10 / 59)


def test_large_ties_and_deep_cut_offs_stay_exact():
    items, relevant, k = np.array([[300, 40_000]]), np.array([[100, 10_000]]), 20_000
    counts = Histograms(items, relevant)
    chance = 1 / 4
    value = expected.expected_average_precision(counts, k, "found")[0]
    assert value == pytest.approx(chance, abs=0.01)
    # far beyond rank 1 the number that is found hardly varies, so that both denominators agree
    found = expected.expected_precision(counts, k)[0] * k
    assert value == pytest.approx(expected.expected_average_precision(counts, k, "k")[0] * k / found, rel=1e-4)


def test_grades_are_counted_as_brute_force_counts_them_and_a_query_is_not_its_own_neighbour():
    rng = np.random.default_rng(1)
    codes, labels = pack(rng.random((300, 16)) < 0.5), rng.random((300, 5)) < 0.4
    own = np.where(np.arange(300) % 3, np.arange(300), -1)
    counts = graded_histograms(HammingSearch(codes, codes), labels, labels, own=own)
    distance = hamming(codes, codes)
    for q in (0, 1, 255, 256, 298):
        others = np.arange(300) != own[q]
        shared = (labels[q] & labels).sum(axis=1)
        for d, grade in itertools.product(range(17), range(6)):
            expected_count = (others & (distance[q] == d) & (shared == grade)).sum()
            assert (counts.items[q, d, grade] if grade < counts.items.shape[2] else 0) == expected_count


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.booleans())
def test_float_search_ranks_by_cosine_with_real_ties_whatever_the_depth(seed, depth, inside):
    rng = np.random.default_rng(seed)
    gallery = rng.integers(-1, 2, (8, 2)).astype(np.float32)  # many are parallel, some are 0
    queries = gallery * 3 if inside else rng.integers(-1, 2, (8, 2)).astype(np.float32)
    labels, own = rng.random((8, 2)) < 0.5, np.arange(8) if inside else None
    whole, cut = (
        figures(graded_histograms(CosineSearch.of(queries, gallery, depth=d), labels, labels, own=own), depth)
        for d in (None, depth)
    )
    for q in range(8):
        norms = np.linalg.norm(queries[q]) * np.linalg.norm(gallery, axis=1)
        cosine = np.divide(gallery @ queries[q], norms, out=np.zeros(8), where=norms > 0).round(6)
        others = [i for i in range(8) if not (inside and i == q)]
        shared = (labels[q] & labels).sum(axis=1)
        groups = [[int(shared[i]) for i in others if cosine[i] == c] for c in sorted(set(cosine[others]), reverse=True)]
        by_hand = figures(counted(groups), depth)
        for name in ORACLES:
            assert whole[name][q] == pytest.approx(by_hand[name][0]), name
            assert cut[name][q] == pytest.approx(by_hand[name][0]), name


def test_figures_of_evaluate_are_those_of_the_table():
    rng = np.random.default_rng(2)
    codes, labels = pack(rng.random((50, 16)) < 0.5), rng.random((50, 4)) < 0.3
    summary = evaluate(codes, labels, codes, labels, own=np.arange(50), precision_k=7, map_k=7)
    found = figures(graded_histograms(HammingSearch(codes, codes), labels, labels, own=np.arange(50)), 7)
    assert summary.mean_average_precision == pytest.approx(found["map_found"].mean())
    assert summary.precision == pytest.approx(found["precision"].mean())


def test_classes_are_averaged_over_their_own_queries_and_an_absent_one_has_no_figure():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    table = by_class({"precision": np.array([0.2, 0.4, 1.0])}, labels)
    assert table.queries.tolist() == [2, 2, 0]
    assert table.means["precision"][:2] == pytest.approx([0.3, 0.7])
    assert np.isnan(table.means["precision"][2])


def test_spread_is_the_sample_deviation_and_one_run_has_none():
    assert spread([0.1, 0.3]).mean == pytest.approx(0.2)
    assert spread([0.1, 0.3]).deviation == pytest.approx(math.sqrt(0.02))
    assert spread([0.5]).deviation is None
    with pytest.raises(ValueError, match="at least one run"):
        spread([])


def test_curves_pool_all_pairs():
    counts = Histograms(np.array([[0, 2, 1], [0, 1, 3]]), np.array([[0, 2, 0], [0, 0, 2]]))
    pairs = pair_histograms(counts)
    assert pairs.relevant.tolist() == [0, 2, 2]
    assert pairs.irrelevant.tolist() == [0, 1, 2]
    curve = radius_curve(pairs)
    assert np.isnan(curve.precision[0])
    assert curve.precision[1:] == pytest.approx([2 / 3, 4 / 7])
    assert curve.recall == pytest.approx([0, 0.5, 1])
    nothing = radius_curve(pair_histograms(Histograms(np.array([[1, 1]]), np.zeros((1, 2), np.int64))))
    assert nothing.recall.tolist() == nothing.precision.tolist() == [0, 0]


def test_bit_statistics_by_hand():
    binary = np.zeros((4, 16), bool)
    binary[:2, 0] = True
    binary[:2, 1] = True  # always as bit 0
    binary[0, 2] = True
    binary[:, 3] = True  # constant
    found = bit_statistics(pack(binary))
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert found.entropy == pytest.approx([1, 1, quarter] + [0] * 13)
    third = 1 / math.sqrt(3)  # of bits 0 and 2: (1/4 - 1/8) / sqrt(1/4 * 3/16)
    assert found.correlation == pytest.approx((1 + third + third) / 3)
    assert (found.constant, found.distinct, found.largest_share) == (13, 3, 1.0)


def test_the_ten_largest_buckets_are_counted_and_collapsed_codes_are_told():
    codes = np.repeat(np.arange(12, dtype=np.uint8), [5] * 10 + [2, 3])[:, None].repeat(2, axis=1)
    assert bit_statistics(codes).largest_share == pytest.approx(50 / 55)
    collapsed = bit_statistics(np.zeros((9, 2), np.uint8))
    assert (collapsed.distinct, collapsed.correlation, collapsed.constant) == (1, None, 16)
    assert collapsed.entropy.tolist() == [0] * 16
    with pytest.raises(ValueError, match="at least one code"):
        bit_statistics(np.zeros((0, 2), np.uint8))


class Given:
    """A search whose levels are written down."""

    def __init__(self, levels):
        self.table, self.levels = np.array(levels), int(np.max(levels)) + 1

    def ranked(self, rows):
        return self.table[rows]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.integers(1, 7),
)
def test_overlap_equals_its_average_over_every_order_of_both_ties(levels, cosines, same, k):
    gallery = np.array([[c, math.sqrt(1 - c * c)] for c in cosines])
    overlap = within_class_overlap(
        Given([levels]),
        CosineSearch.of(np.array([[1.0, 0.0]]), gallery),
        np.array([[True]]),
        np.array(same)[:, None],
        k=k,
    )
    members = [i for i in range(6) if same[i]]
    if not members:
        assert len(overlap.values) == len(overlap.chance) == 0
        return
    first = min(k, len(members))

    def tops(key):
        orders = [
            order for order in itertools.permutations(members) if [key(i) for i in order] == sorted(map(key, order))
        ]
        return [set(order[:k]) for order in orders]

    hits = tops(lambda i: levels[i])
    neighbours = tops(lambda i: -cosines[i])
    # the mean over all pairs of orders, by the share of orders that hold each item
    by_hand = sum(np.mean([i in top for top in hits]) * np.mean([i in top for top in neighbours]) for i in members)
    assert overlap.values[0] == pytest.approx(by_hand / first)
    assert overlap.chance[0] == pytest.approx(first / len(members))


def test_a_class_in_one_bucket_overlaps_by_chance_alone_and_the_float_order_overlaps_fully():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(40, 5))
    labels, own = np.eye(2, dtype=bool)[np.arange(40) % 2], np.arange(40)
    floats = CosineSearch.of(features, features)
    collapsed = HammingSearch(*(np.repeat(labels.astype(np.uint8), 2, axis=1),) * 2)
    overlap = within_class_overlap(collapsed, floats, labels, labels, own=own, k=5)
    assert overlap.values == pytest.approx(overlap.chance)
    assert overlap.chance == pytest.approx(5 / 19)
    assert within_class_overlap(floats, floats, labels, labels, own=own, k=5).values == pytest.approx(1)
    with pytest.raises(ValueError, match="without a depth"):
        within_class_overlap(collapsed, CosineSearch.of(features, features, depth=5), labels, labels, own=own)


def test_leaks_count_companions_but_neither_the_query_itself_nor_unknown_ids():
    gallery = ["a", "b", "b", None, "c"]
    assert leak(["a", "b", None, "d"], gallery) == Leak(share=2 / 3, known=3, queries=4)
    assert leak(gallery, gallery, own=np.arange(5)) == Leak(share=2 / 4, known=4, queries=5)
    assert leak(["a", "c"], gallery, own=np.array([0, -1])) == Leak(share=0.5, known=2, queries=2)
    assert leak([None, None], gallery) == Leak(share=None, known=0, queries=2)
