"""Precision over recall and distances of pairs, against values counted by hand."""

import numpy as np
import pytest

from rsfed.hashing.evaluation import Histograms
from rsfed.hashing.evaluation.curves import distance_shares, precision_at_recall


def counts(items, relevant):
    return Histograms(np.atleast_2d(items), np.atleast_2d(relevant))


def test_without_ties_precision_is_that_of_the_rank_where_the_recall_is_reached():
    ranked = counts([1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0, 1])
    found = precision_at_recall(ranked, np.array([1 / 3, 2 / 3, 1.0]))
    assert found == pytest.approx([1 / 1, 2 / 4, 3 / 6])


def test_within_a_tie_relevant_items_lie_evenly():
    found = precision_at_recall(counts([2, 8], [2, 2]), np.array([0.25, 0.5, 0.75, 1.0]))
    assert found == pytest.approx([1, 1, 3 / (2 + 4), 4 / 10])


def test_one_great_tie_is_the_share_of_relevant_items_at_every_recall():
    assert precision_at_recall(counts([40], [10]), np.array([0.1, 0.5, 1.0])) == pytest.approx([0.25] * 3)


def test_queries_without_a_relevant_item_do_not_count():
    both = counts([[1, 1], [1, 1]], [[0, 1], [0, 0]])
    assert precision_at_recall(both, np.array([1.0])) == pytest.approx([0.5])
    assert precision_at_recall(counts([2], [0]), np.array([0.5, 1.0])).tolist() == [0, 0]


def test_pairs_are_counted_over_all_queries_and_each_kind_adds_up_to_1():
    relevant, other = distance_shares(counts([[3, 0, 2], [1, 4, 0]], [[3, 0, 0], [0, 1, 0]]))
    assert relevant == pytest.approx([3 / 4, 1 / 4, 0])
    assert other == pytest.approx([1 / 6, 3 / 6, 2 / 6])
    assert distance_shares(counts([2], [0]))[0].tolist() == [0]
