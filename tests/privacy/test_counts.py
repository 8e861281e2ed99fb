"""Published counts: what one acquisition can change, that the noise is as it is said to be, and what budgets allow."""

import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.errors import StateError
from rsfed.privacy.counts import (
    MOST_CLASSES,
    MOST_EPSILON,
    MOST_OF_RELEASE,
    STEP,
    Charge,
    counted,
    next_charge,
    noisy,
    spent,
    spread,
)

KEY = b"k" * 32
NOW = datetime(2026, 6, 1, tzinfo=UTC)
CLASSES = 6

archives = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, CLASSES - 1)), max_size=60
)  # acquisition and class of each patch


def columns(patches, ids=None):
    acquisitions, classes = np.array(patches, np.int64).reshape(-1, 2).T
    ids = np.arange(len(patches), dtype=np.int64) if ids is None else np.asarray(ids, np.int64)
    return acquisitions.astype(np.uint64), classes, ids


def histogram(acquisitions, classes, ids, most=4):
    which = counted(acquisitions, classes, ids, most_patches=most, key=KEY)
    return np.bincount(classes[which], minlength=CLASSES)


@settings(deadline=None)
@given(archives, st.integers(1, 6), st.permutations(list(range(60))))
def test_taking_away_an_acquisition_changes_all_counts_together_by_at_most_the_bound(patches, most, numbers):
    acquisitions, classes, ids = columns(patches, numbers[: len(patches)])
    whole = histogram(acquisitions, classes, ids, most)
    for gone in np.unique(acquisitions):
        stays = acquisitions != gone
        less = histogram(acquisitions[stays], classes[stays], ids[stays], most)
        change = np.abs(whole - less)
        assert change.sum() <= most
        assert np.count_nonzero(change) <= MOST_CLASSES


@settings(deadline=None)
@given(archives, st.integers(1, 6))
def test_as_much_of_an_acquisition_counts_as_the_bounds_allow(patches, most):
    acquisitions, classes, ids = columns(patches)
    which = counted(acquisitions, classes, ids, most_patches=most, key=KEY)
    for one in np.unique(acquisitions):
        own = acquisitions == one
        chosen = set(classes[own & which].tolist())
        assert len(chosen) <= min(MOST_CLASSES, len(set(classes[own].tolist())))
        of_chosen = np.isin(classes[own], list(chosen)).sum()
        assert which[own].sum() == min(most, of_chosen)
        if len(set(classes[own].tolist())) <= MOST_CLASSES:
            assert which[own].sum() == min(most, own.sum())


def test_without_the_bound_one_large_acquisition_changes_the_counts_by_all_of_its_patches():
    patches = [(0, number % CLASSES) for number in range(4000)] + [(1, 0), (2, 1)]
    acquisitions, classes, ids = columns(patches)
    stays = acquisitions != 0
    unbounded = np.bincount(classes, minlength=CLASSES) - np.bincount(classes[stays], minlength=CLASSES)
    bounded = histogram(acquisitions, classes, ids, 50) - histogram(acquisitions[stays], classes[stays], ids[stays], 50)
    assert np.abs(unbounded).sum() == 4000
    assert np.abs(bounded).sum() == 50


def test_the_same_patches_count_in_every_epoch_and_only_the_key_tells_which():
    acquisitions, classes, ids = columns([(0, number % 5) for number in range(300)])
    first = counted(acquisitions, classes, ids, most_patches=50, key=KEY)
    order = np.random.default_rng(0).permutation(len(ids))
    again = counted(acquisitions[order], classes[order], ids[order], most_patches=50, key=KEY)
    assert set(ids[first]) == set(ids[order][again])
    assert set(ids[first]) != set(ids[counted(acquisitions, classes, ids, most_patches=50, key=b"o" * 32)])


def test_the_noise_is_discrete_laplace_of_the_scale_that_the_bound_and_epsilon_ask_for():
    """Mean and mean distance of 4,000 draws, each within eight standard deviations: no run in 10^14 fails by chance."""
    most, epsilon, draws, true = 50, 0.5, 4000, 10**6
    told = noisy(np.full(draws, true, np.int64), most_patches=most, epsilon=epsilon) - true
    scale = most / epsilon
    assert (told % STEP == 0).all()
    assert abs(told.mean()) < 8 * scale * math.sqrt(2 / draws) + STEP / 2
    assert abs(np.abs(told).mean() - scale) < 8 * scale / math.sqrt(draws) + STEP / 2
    outside = (np.abs(told) > spread(most, epsilon)).mean()
    assert abs(outside - 0.05) < 8 * math.sqrt(0.05 * 0.95 / draws) + 0.01


def test_less_of_each_acquisition_needs_less_noise():
    told = noisy(np.full(2000, 1000, np.int64), most_patches=1, epsilon=0.5) - 1000
    assert np.abs(told).mean() < 5


def test_no_count_is_told_as_less_than_nothing():
    assert (noisy(np.zeros(200, np.int64), most_patches=50, epsilon=0.5) >= 0).all()


def epochs(*epsilons):
    return [Charge(number, epsilon, NOW) for number, epsilon in enumerate(epsilons, 1)]


@settings(deadline=None)
@given(st.lists(st.floats(0.01, MOST_EPSILON), max_size=400))
def test_no_sequence_of_epochs_costs_more_than_a_release_may(wanted):
    charges = []
    for epsilon in wanted:
        with suppress(StateError):
            charges.append(next_charge(charges, NOW, epsilon, NOW))
    assert spent(charges) <= MOST_OF_RELEASE + 1e-9


def test_four_epochs_of_one_half_are_all_that_a_release_gets():
    assert next_charge(epochs(0.5, 0.5, 0.5), NOW, 0.5, NOW).number == 4
    with pytest.raises(StateError, match="new release") as refused:
        next_charge(epochs(0.5, 0.5, 0.5, 0.5), NOW, 0.01, NOW)
    assert refused.value.reason == "COUNTS_SPENT"


def test_an_epoch_never_costs_more_than_one_half():
    for epsilon in (0.0, -1.0, 0.51, math.nan, math.inf):
        with pytest.raises(ValueError, match="at most"):
            next_charge([], None, epsilon, NOW)


def test_a_clock_that_was_set_back_publishes_nothing():
    with pytest.raises(StateError, match="clock") as refused:
        next_charge([], NOW, 0.5, NOW - timedelta(seconds=1))
    assert refused.value.reason == "CLOCK_BACK"


@pytest.mark.parametrize(
    "charges",
    [
        [Charge(2, 0.5, NOW)],
        [Charge(1, 0.5, NOW), Charge(1, 0.5, NOW)],
        [Charge(1, -0.5, NOW)],
        [Charge(1, math.nan, NOW)],
    ],
)
def test_a_record_that_cannot_be_whole_publishes_nothing(charges):
    with pytest.raises(StateError, match="next release") as refused:
        next_charge(charges, NOW, 0.5, NOW)
    assert refused.value.reason == "COUNTS_STORE"
