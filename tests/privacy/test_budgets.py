"""Budgets of refine as rules: shares that nobody else spends, and which items of a bucket are ever spoken of."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsfed.privacy.budgets import MOST_ITEMS, Budget, Spent, listed, payable, refinable

KEY = b"k" * 32


def test_half_of_a_budget_is_kept_as_shares():
    budget = Budget(500)
    assert (budget.share, budget.common) == (25, 250)
    assert Budget(19).share == 0
    assert Budget(0).common == 0


@given(st.integers(0, 60), st.integers(1, 4), st.lists(st.integers(0, 5), max_size=150))
def test_no_sequence_of_requesters_overdraws_and_none_takes_the_share_of_another(answers, shares, asking):
    budget, own, common = Budget(answers, shares), Counter(), 0
    for requester in asking:
        holders = sum(count > 0 for count in own.values())
        spent = Spent(*(np.array([each]) for each in (own[requester], holders, common)))
        from_own, from_common = (bool(each[0]) for each in payable(budget, spent))
        assert not (from_own and from_common)
        may_hold = own[requester] > 0 or holders < shares
        assert from_own == (may_hold and own[requester] < budget.share)  # whatever the others spent
        assert from_common == (not from_own and common < budget.common)
        own[requester] += from_own
        common += from_common
    assert common + sum(own.values()) <= answers


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 6), st.integers(0, 99))
def test_as_many_items_as_the_floor_are_listed_each_of_another_acquisition_or_none(acquisitions, floor, seed):
    column = np.array(acquisitions, np.uint64)
    found = listed(column, floor, np.random.default_rng(seed))
    assert len(found) == (floor if len(set(acquisitions)) >= floor else 0)
    assert len({acquisitions[place] for place in found.tolist()}) == len(found)


@pytest.mark.parametrize("acquisitions", [3, 60, 400])
def test_a_bucket_keeps_so_many_items_and_as_many_acquisitions_as_fit(acquisitions):
    rng = np.random.default_rng(0)
    places = rng.integers(-1, 3, 2000)
    behind, ids = rng.integers(0, acquisitions, 2000).astype(np.uint64), np.arange(2000)
    chosen = refinable(places, behind, ids, KEY)
    for bucket in range(3):
        own = chosen[places[chosen] == bucket]
        assert len(own) == len(set(own.tolist())) == MOST_ITEMS
        assert len(np.unique(behind[own])) == min(MOST_ITEMS, len(np.unique(behind[places == bucket])))
    assert (np.diff(places[chosen]) >= 0).all()
    assert (places[chosen] >= 0).all()


def test_the_choice_stays_when_others_come_and_is_another_with_another_key():
    behind, ids = np.zeros(300, np.uint64), np.arange(300)
    first = refinable(np.zeros(300, np.int64), behind, ids, KEY)
    fewer = refinable(np.zeros(200, np.int64), behind[:200], ids[:200], KEY)
    assert set(first.tolist()) & set(range(200)) <= set(fewer.tolist())
    assert set(first.tolist()) != set(refinable(np.zeros(300, np.int64), behind, ids, b"other" * 6 + b"!!").tolist())
