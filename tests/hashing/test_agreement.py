"""Whose sums contradict those of the others: one that errs is named, one that is alone with its classes never."""

from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.hashing.agreement import against_others, contradicting
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
    assert contradicting(numbered([sums(*held) for held in divided(seed, nodes, skew)]), SOLVE) == set()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(3, 8), st.integers(0, 7))
def test_sums_with_the_wrong_sign_are_named_and_they_alone(seed, nodes, place):
    parts = [sums(*held) for held in divided(seed, nodes, 1.0)]
    wrong = place % len(parts)
    parts[wrong] = Sums(parts[wrong].gram, -parts[wrong].targets, parts[wrong].patches)
    assert contradicting(numbered(parts), SOLVE) == {wrong}


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 8), st.integers(0, 7), st.integers(1, CLASSES - 1))
def test_wrong_classes_are_named_where_the_others_hold_the_same(seed, nodes, place, shift):
    held = divided(seed, nodes, 100.0)
    wrong = place % len(held)
    parts = [sums(*own, shift=shift if node == wrong else 0) for node, own in enumerate(held)]
    assert contradicting(numbered(parts), SOLVE) == {wrong}


def test_two_that_err_are_named_among_seven():
    parts = [sums(*held) for held in divided(5, 7, 100.0)]
    for node in (2, 4):
        parts[node] = Sums(parts[node].gram, -parts[node].targets, parts[node].patches)
    assert contradicting(numbered(parts), SOLVE) == {2, 4}


def test_of_two_nodes_nobody_can_say_who_is_right():
    one, other = (sums(*held) for held in divided(5, 2, 100.0))
    assert contradicting({1: one, 2: Sums(other.gram, -other.targets, other.patches)}, SOLVE) == set()


def test_one_that_claims_most_patches_is_no_measure_of_the_others():
    parts = [sums(*held) for held in divided(5, 5, 100.0)]
    rows, classes = divided(5, 5, 100.0)[0]
    wrong = sums(np.tile(rows, (30, 1)), np.tile(classes, 30), shift=1)
    assert contradicting(numbered([wrong, *parts[1:]]), SOLVE) == {0}


@settings(max_examples=20, deadline=None)
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
    assert contradicting(numbered([*honest, liar]), SOLVE) <= {4}


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.01, 1.0))
def test_agreement_and_error_are_those_of_the_patches_themselves_also_where_sums_are_held_down(seed, share):
    held = divided(seed, 3, 1.0)
    parts = [sums(*own) for own in held]
    rows, classes = held[0]
    middle = np.median([part.patches for part in parts])
    given_bits = rows @ SOLVE(total(part.at_most(middle) for part in parts[1:]))
    targets = np.where(CENTRES, 1.0, -1.0)[classes]
    fit = against_others(numbered([parts[0], *parts[1:]]), SOLVE)[0]
    assert np.isclose(fit.agreement, (given_bits * targets).mean(), atol=1e-6)
    assert np.isclose(fit.error, np.square(given_bits - targets).mean(), atol=1e-6)
    lighter = against_others(numbered([parts[0].times(share), *parts[1:]]), SOLVE)[0]
    assert np.isclose(lighter.error, fit.error, atol=1e-6)
