"""Retrieval figures: exact over the order of ties, and honest about what was found."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import pack
from rsfed.hashing.evaluation import average_precision, evaluate, expected, precision
from rsfed.hashing.evaluation.counts import Histograms, distance_histograms


def every_order(groups):
    """Every ranking that keeps the distances in order, as lists of whether each rank is relevant."""
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield np.array([flag for order in orders for flag in order], dtype=bool)


def histograms(groups):
    return Histograms(
        np.array([[len(group) for group in groups]], dtype=np.int64),
        np.array([[sum(group) for group in groups]], dtype=np.int64),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=4), min_size=1, max_size=2), st.integers(1, 9))
def test_figures_equal_the_average_over_every_order_of_ties(groups, k):
    rankings = list(every_order(groups))
    counts = histograms(groups)
    by_hand = np.mean([average_precision(ranking, k) for ranking in rankings])
    assert expected.expected_average_precision(counts, k)[0] == pytest.approx(by_hand, abs=1e-12)
    by_hand = np.mean([precision(ranking, k) for ranking in rankings])
    assert expected.expected_precision(counts, k)[0] == pytest.approx(by_hand, abs=1e-12)


def test_average_precision_divides_by_what_was_found_not_by_what_exists():
    ranking = np.array([1, 0, 1, 0, 1, 1, 1], dtype=bool)
    assert average_precision(ranking, 4) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(np.zeros(5, dtype=bool), 4) == 0
    assert precision(ranking, 4) == 0.5


def test_precision_keeps_its_denominator_in_a_gallery_smaller_than_k():
    assert precision(np.array([True]), 10) == 0.1
    assert expected.expected_precision(histograms([[True]]), 10)[0] == 0.1


def labelled(rng, count, classes=3):
    return pack(rng.random((count, 16)) < 0.5), rng.random((count, classes)) < 0.4


def test_every_distance_is_counted_as_brute_force_counts_it():
    rng = np.random.default_rng(1)
    queries, query_labels = labelled(rng, 300)  # more than are handled at once
    gallery, gallery_labels = labelled(rng, 40)
    counts = distance_histograms(queries, query_labels, gallery, gallery_labels)
    for q in (0, 255, 256, 299):
        distance = np.bitwise_count(queries[q] ^ gallery).sum(axis=1)
        shares = (query_labels[q] & gallery_labels).any(axis=1)
        for d in range(17):
            assert counts.items[q, d] == (distance == d).sum()
            assert counts.relevant[q, d] == (shares & (distance == d)).sum()


def test_a_query_never_finds_itself():
    rng = np.random.default_rng(2)
    codes, labels = labelled(rng, 12)
    labels[:, 0] = True
    without_self = [
        evaluate(codes[[q]], labels[[q]], np.delete(codes, q, axis=0), np.delete(labels, q, axis=0)) for q in range(12)
    ]
    figures = evaluate(codes, labels, codes, labels, own=np.arange(12))
    assert figures.mean_average_precision == pytest.approx(np.mean([f.mean_average_precision for f in without_self]))
    assert figures.precision == pytest.approx(np.mean([f.precision for f in without_self]))
    assert figures.chance_map == pytest.approx(np.mean([f.chance_map for f in without_self]))


def test_a_query_outside_the_gallery_is_marked_and_loses_nothing():
    rng = np.random.default_rng(3)
    codes, labels = labelled(rng, 9)
    outside = evaluate(codes, labels, codes, labels, own=np.full(9, -1))
    assert outside == evaluate(codes, labels, codes, labels)


def test_sharing_one_of_several_classes_is_relevant():
    code = np.zeros((1, 2), np.uint8)
    query, gallery = np.array([[True, True, False]]), np.array([[False, True, True], [False, False, True]])
    figures = evaluate(code, query, np.repeat(code, 2, axis=0), gallery, precision_k=2, map_k=2)
    assert figures.precision == 0.5
    assert figures.mean_average_precision == pytest.approx((1 + 1 / 2) / 2)


def test_chance_level_is_what_random_codes_reach():
    rng = np.random.default_rng(4)
    labels = np.eye(5, dtype=bool)[rng.integers(0, 5, 4000)]
    codes = pack(rng.random((4000, 64)) < 0.5)
    figures = evaluate(codes[:500], labels[:500], codes[500:], labels[500:])
    assert figures.chance_precision == pytest.approx(0.2, abs=0.01)
    assert figures.precision == pytest.approx(figures.chance_precision, abs=0.03)
    assert figures.mean_average_precision == pytest.approx(figures.chance_map, abs=0.03)


def test_equal_codes_for_everything_score_at_chance_whatever_the_file_order():
    labels = np.repeat(np.eye(4, dtype=bool), 25, axis=0)  # sorted by class, where a stable sort would look perfect
    codes = np.zeros((100, 8), np.uint8)
    figures = evaluate(codes, labels, codes, labels, own=np.arange(100))
    assert figures.mean_average_precision == figures.chance_map
    assert figures.precision == pytest.approx(24 / 99)


def test_figures_of_nothing_are_refused():
    rng = np.random.default_rng(5)
    codes, labels = labelled(rng, 3)
    with pytest.raises(ValueError, match="at least one query"):
        evaluate(codes[:0], labels[:0], codes, labels)
    with pytest.raises(ValueError, match="one item to find"):
        evaluate(codes, labels, codes[:0], labels[:0])
