"""Divisions of images over the nodes of a federation in one process."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.errors import UsageError
from rsfed.lab.federated.partition import PARTITIONS, partition

CLASSES = 6


def images(each=40, per_acquisition=1):
    """What a division asks of an ImageSet: the classes and acquisitions of its images."""
    return SimpleNamespace(
        entries=[SimpleNamespace(labels=(f"c{c}",)) for c in range(CLASSES) for _ in range(each)],
        whereabouts=[
            SimpleNamespace(acquisition=f"a{c}-{n // per_acquisition}" if per_acquisition > 1 else None)
            for c in range(CLASSES)
            for n in range(each)
        ],
    )


def mixes(found, parts):
    return [Counter(found.entries[each].labels[0] for each in part) for part in parts]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(PARTITIONS)), st.integers(2, CLASSES), st.sampled_from([1, 4]))
def test_every_image_to_learn_from_is_at_exactly_one_node(seed, name, nodes, per_acquisition):
    found = images(per_acquisition=per_acquisition)
    train = np.flatnonzero(np.random.default_rng(seed).random(len(found.entries)) < 0.6)
    parts = partition(found, train, nodes, name, seed)
    assert len(parts) == nodes
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts)) == train.tolist()


def test_the_same_seed_divides_alike_and_another_does_not():
    found, train = images(), np.arange(200)
    for name in PARTITIONS:
        one, again, other = (partition(found, train, 3, name, seed) for seed in (1, 1, 2))
        assert [part.tolist() for part in one] == [part.tolist() for part in again]
        assert [part.tolist() for part in one] != [part.tolist() for part in other]


def test_no_acquisition_is_at_two_nodes():
    found = images(per_acquisition=4)
    for name in PARTITIONS:
        parts = partition(found, np.arange(len(found.entries)), 3, name, 0)
        held = [{found.whereabouts[each].acquisition for each in part} for part in parts]
        assert sum(map(len, held)) == len(set.union(*held))


def test_a_class_is_at_one_node_alone_and_a_node_has_one_class_where_there_are_as_many():
    found, train = images(), np.arange(CLASSES * 40)
    for nodes, classes in ((CLASSES, [1] * CLASSES), (4, [1, 1, 2, 2])):
        held = mixes(found, partition(found, train, nodes, "one-class", 5))
        assert sorted(map(len, held)) == classes
        assert sum(map(len, held)) == CLASSES


def test_the_lower_the_concentration_the_more_the_nodes_differ():
    found, train = images(), np.arange(CLASSES * 40)

    def largest_share(name):
        """Mean over classes and draws of the share of a class that its first node holds."""
        drawn = [mixes(found, partition(found, train, 3, name, seed)) for seed in range(20)]
        return np.mean([max(mix[f"c{c}"] for mix in each) / 40 for each in drawn for c in range(CLASSES)])

    shares = [largest_share(name) for name in ("one-class", "dirichlet-0.1", "dirichlet-0.2", "dirichlet-1.0")]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0


def test_more_nodes_than_classes_cannot_have_a_class_each():
    with pytest.raises(UsageError, match="6 classes cannot be dealt out to 7 archives"):
        partition(images(), np.arange(CLASSES * 40), 7, "one-class", 0)
