"""Figures of one split: what is held does not grow with the pairs of queries and images."""

import tracemalloc
from types import SimpleNamespace

import numpy as np

from rsfed.hashing.evaluation.counts import graded_histograms
from rsfed.hashing.evaluation.curves import pair_histograms
from rsfed.hashing.evaluation.tables import figures
from rsfed.lab.evaluate.division import Division
from rsfed.lab.evaluate.measures import Case, chance_figures, code_figures, float_figures, without_relevant


class Images(SimpleNamespace):
    """As much of an ImageSet as figures look at."""

    def __len__(self):
        return len(self.labels)


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


def test_the_overlap_within_a_class_is_told_of_classes_with_more_images_than_are_compared():
    def overlaps(each):
        """Overlap of random codes, and of chance, where a class has so many other images to find."""
        labels = np.eye(2, dtype=bool)[np.arange(2 * (each + 1)) % 2]
        everything = np.arange(len(labels))
        rng = np.random.default_rng(0)
        features = rng.standard_normal((len(labels), 4)).astype(np.float32)
        case = Case(
            Images(labels=labels, classes=("a", "b"), multi_label=False),
            features,
            Division(everything, everything, everything, everything),
            20,
        )
        codes = rng.integers(0, 256, (len(labels), 2), np.uint8)
        return code_figures(case, codes)[0]["overlap"], chance_figures(case)["overlap"]

    assert np.isnan(overlaps(19)).all()
    assert np.isnan(overlaps(20)).all()
    found, chance = overlaps(40)
    assert chance == np.float64(0.5)
    assert 0.3 < found < 0.8


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
