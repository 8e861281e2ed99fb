"""Whose sums contradict those of the others: one that errs is named, one that is alone with its classes never."""

from functools import partial

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rsfed.hashing.agreement import agreements, contradicting
from rsfed.hashing.centres import hash_centres
from rsfed.hashing.closed_form import Sums, solve, total
from rsfed.hashing.refit import RIDGE

WIDTH, BITS, CLASSES, EACH = 24, 32, 8, 60
CENTRES = hash_centres(range(CLASSES), BITS, 3)
SOLVE = partial(solve, ridge=RIDGE)
SEEDS = st.integers(0, 2**32 - 1)


def patches(seed):
    """Rows of unit norm with a 1 at their end, float64, and the class of each."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).standard_normal((CLASSES, WIDTH))
    classes = np.repeat(np.arange(CLASSES), EACH)
    rows = means[classes] + rng.normal(0, 0.5, (len(classes), WIDTH))
    return np.c_[rows / np.linalg.norm(rows, axis=1, keepdims=True), np.ones(len(rows))], classes


def sums(rows, classes, shift=0):
    return Sums.of(rows, np.eye(CLASSES, dtype=bool)[(classes + shift) % CLASSES], CENTRES)


def divided(seed, nodes, skew):
    """What nodes hold: of each class shares drawn from a Dirichlet distribution, or whole classes where it is 0."""
    rng = np.random.default_rng(seed)
    rows, classes = patches(seed)
    if skew:
        shares = rng.dirichlet(np.full(nodes, skew), CLASSES)
        owner = np.array([rng.choice(nodes, p=shares[each]) for each in classes])
    else:
        owner = classes % nodes
    return [(rows[owner == node], classes[owner == node]) for node in range(nodes) if np.count_nonzero(owner == node)]


def numbered(parts):
    return dict(enumerate(parts))


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, CLASSES), st.sampled_from([0, 0.1, 0.2, 1.0, 100.0]))
def test_no_honest_node_contradicts_the_others_whoever_holds_which_classes(seed, nodes, skew):
    assert contradicting(numbered([sums(*held) for held in divided(seed, nodes, skew)]), CENTRES, SOLVE) == set()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(3, 8), st.integers(0, 7))
def test_sums_with_the_wrong_sign_are_named_and_they_alone(seed, nodes, place):
    parts = [sums(*held) for held in divided(seed, nodes, 1.0)]
    wrong = place % len(parts)
    parts[wrong] = Sums(parts[wrong].gram, -parts[wrong].targets, parts[wrong].patches)
    assert contradicting(numbered(parts), CENTRES, SOLVE) == {wrong}


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 8), st.integers(0, 7), st.integers(1, CLASSES - 1))
def test_wrong_classes_are_named_where_the_others_hold_the_same(seed, nodes, place, shift):
    held = divided(seed, nodes, 100.0)
    wrong = place % len(held)
    parts = [sums(*own, shift=shift if node == wrong else 0) for node, own in enumerate(held)]
    assert contradicting(numbered(parts), CENTRES, SOLVE) == {wrong}


def test_two_that_err_are_named_among_seven():
    parts = [sums(*held) for held in divided(5, 7, 100.0)]
    for node in (2, 4):
        parts[node] = Sums(parts[node].gram, -parts[node].targets, parts[node].patches)
    assert contradicting(numbered(parts), CENTRES, SOLVE) == {2, 4}


def test_of_two_nodes_nobody_can_say_who_is_right():
    one, other = (sums(*held) for held in divided(5, 2, 100.0))
    assert contradicting({1: one, 2: Sums(other.gram, -other.targets, other.patches)}, CENTRES, SOLVE) == set()


def test_one_that_claims_most_patches_is_no_measure_of_the_others():
    parts = [sums(*held) for held in divided(5, 5, 100.0)]
    rows, classes = divided(5, 5, 100.0)[0]
    wrong = sums(np.tile(rows, (30, 1)), np.tile(classes, 30), shift=1)
    assert contradicting(numbered([wrong, *parts[1:]]), CENTRES, SOLVE) == {0}


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0, 1), st.integers(0, 1), st.sampled_from([1, 10]))
def test_no_node_gets_another_left_out_by_lying_about_the_class_that_only_they_hold(seed, lies, shift, weight):
    rows, classes = patches(seed)
    own, rest = classes == 0, classes > 0
    honest = [sums(rows[own], classes[own]), *(sums(rows[rest][n::3], classes[rest][n::3]) for n in range(3))]
    many = int(1 + lies * (EACH - 1))
    lie = sums(np.tile(rows[own][:many], (weight, 1)), np.zeros(weight * many, int), shift=shift)
    true = sums(np.tile(rows[rest][::5], (weight, 1)), np.tile(classes[rest][::5], weight))
    sign = 1 if shift else -1
    liar = Sums(true.gram + lie.gram, true.targets + sign * lie.targets, true.patches + lie.patches)
    assert contradicting(numbered([*honest, liar]), CENTRES, SOLVE) <= {4}


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_agreement_is_that_of_the_patches_themselves_whatever_weight_sums_have(seed):
    held = divided(seed, 4, 1.0)
    parts = {node: sums(*own) for node, own in enumerate(held)}
    least = min(parts, key=lambda node: parts[node].patches)
    even = {node: part.at_most(np.median([each.patches for each in parts.values()])) for node, part in parts.items()}
    weights = SOLVE(total(part for node, part in even.items() if node != least))
    rows, classes = held[least]
    agreed = ((rows @ weights) * np.where(CENTRES, 1.0, -1.0)[classes]).mean(axis=1)
    found = agreements(parts, CENTRES, SOLVE)[least]
    assert np.isclose(found.whole, agreed.mean(), atol=1e-6)
    others = np.zeros(CLASSES)
    for node in parts.keys() - {least}:
        weight = even[node].gram[-1, -1] / parts[node].patches
        others += weight * np.bincount(held[node][1], minlength=CLASSES)
    least_held = np.maximum(0.99 * np.bincount(classes, minlength=CLASSES), 19.5)
    assume((np.abs(others - least_held) > 1e-6).all())
    shared = (others >= least_held)[classes]
    if found.shared is not None:
        assert np.isclose(found.shared, agreed[shared].mean(), atol=1e-6)
    else:
        assert shared.sum() < 20
