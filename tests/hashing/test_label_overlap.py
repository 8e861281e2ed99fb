"""Precision and recall of labels against hand-computed values and against drawn orders."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import hamming
from rsfed.hashing.evaluation.counts import HammingSearch
from rsfed.hashing.evaluation.label_overlap import f_score, label_overlap


def search(queries, gallery):
    return HammingSearch(np.array(queries, np.uint8)[:, None], np.array(gallery, np.uint8)[:, None])


def test_figures_by_hand():
    wanted = np.array([[1, 1, 0]], bool)
    held = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 1]], bool)
    found = label_overlap(search([0], [0b0, 0b1, 0b11]), wanted, held, k=2)
    # of the first item's three labels two are wanted, of the second's one its one; of the two wanted labels 2 and 1
    assert found.precision.tolist() == [pytest.approx((2 / 3 + 1) / 2)]
    assert found.recall.tolist() == [pytest.approx((1 + 1 / 2) / 2)]


def test_a_query_is_not_among_its_own_items():
    labels = np.array([[1, 0], [0, 1], [1, 0]], bool)
    found = label_overlap(search([0, 1, 3], [0, 1, 3]), labels, labels, k=1, own=np.arange(3))
    assert found.precision[0] == 0
    assert found.recall[0] == 0


def test_items_without_labels_and_queries_without_labels_score_0():
    wanted, held = np.array([[0, 0], [1, 0]], bool), np.array([[0, 0]], bool)
    found = label_overlap(search([0, 0], [0]), wanted, held, k=1)
    assert found.precision.tolist() == found.recall.tolist() == [0, 0]


def test_a_gallery_that_is_smaller_than_k_does_not_change_the_denominator():
    labels = np.array([[1]], bool)
    assert label_overlap(search([0], [0]), labels, labels, k=4).precision.tolist() == [0.25]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_count_with_the_mean_over_all_orders(data):
    gallery = data.draw(st.lists(st.sampled_from([0, 1, 3]), min_size=1, max_size=5))
    labels = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=len(gallery), max_size=len(gallery))
    held = np.array(data.draw(labels), bool)
    wanted = np.array([data.draw(st.lists(st.booleans(), min_size=3, max_size=3))], bool)
    k = data.draw(st.integers(1, 6))
    found = label_overlap(search([0], gallery), wanted, held, k=k)
    distances = hamming(np.zeros((1, 1), np.uint8), np.array(gallery, np.uint8)[:, None])[0].astype(int)
    shared = (held & wanted).sum(axis=1)
    orders = [order for order in permutations(range(len(gallery))) if (np.diff(distances[list(order)]) >= 0).all()]
    for told, sizes in ((found.precision, held.sum(axis=1)), (found.recall, np.full(len(held), wanted.sum()))):
        value = shared / np.maximum(sizes, 1)
        assert told[0] == pytest.approx(np.mean([value[list(order)][:k].sum() / k for order in orders]))


@pytest.mark.parametrize(("beta", "expected"), [(1, 2 * 0.5 * 0.25 / 0.75), (2, 5 * 0.5 * 0.25 / (4 * 0.5 + 0.25))])
def test_f_scores(beta, expected):
    assert f_score(0.5, 0.25, beta) == pytest.approx(expected)
    assert f_score(0.0, 0.0, beta) == 0
