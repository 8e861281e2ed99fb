"""Figures of one split: what is held does not grow with the pairs of queries and images."""

import tracemalloc
from types import SimpleNamespace

import numpy as np

from rsfed.hashing.evaluation.counts import graded_histograms
from rsfed.hashing.evaluation.curves import pair_histograms
from rsfed.hashing.evaluation.tables import figures
from rsfed.lab.evaluate.division import Division
from rsfed.lab.evaluate.measures import Case, float_figures, without_relevant


def case(queries, gallery):
    """Made-up features of five classes, the first queries being in the gallery; the last query is of none of it."""
    rng = np.random.default_rng(0)
    total = queries + gallery
    labels = np.eye(6, dtype=bool)[rng.integers(0, 5, total)]
    labels[queries - 1] = np.eye(6, dtype=bool)[5]
    images = SimpleNamespace(labels=labels, classes=tuple("abcdef"), multi_label=True)
    own = np.where(np.arange(queries) < 9, np.arange(queries), -1)
    searched = np.concatenate([np.arange(9), np.arange(queries, total - 9)])
    division = Division(np.zeros(0, np.int64), searched, np.arange(queries), own)
    return Case(images, rng.standard_normal((total, 4)).astype(np.float32), division, 20)


def test_float_search_and_queries_without_relevant_hold_less_than_two_numbers_for_each_pair():
    large = case(4000, 1000)
    tracemalloc.start()
    try:
        float_figures(large)
        assert without_relevant(large.images, large.division) == 1
        assert tracemalloc.get_traced_memory()[1] < 16 * 4000 * 1000
    finally:
        tracemalloc.stop()


def test_figures_of_many_queries_are_those_of_all_queries_at_once():
    some = case(600, 90)
    counts = graded_histograms(some.cosine(), some.wanted, some.searched, own=some.division.own)
    found, per_class, pairs = float_figures(some)
    for name, each in figures(counts, some.k).items():
        assert np.isclose(found[name], each.mean(), rtol=1e-12)
    assert per_class["f"] == 0
    whole = pair_histograms(counts.binary())
    assert pairs.relevant.tolist() == whole.relevant.tolist()
    assert pairs.irrelevant.tolist() == whole.irrelevant.tolist()
