"""What the level `partner` discloses, and that operators are told."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsfed.errors import ConfigError
from rsfed.privacy.detail import Detail
from rsfed.privacy.policy import ROWS_PER_QUERY, Ask, Withheld, disclose_exactly, explain, policy

SIZES = st.lists(st.integers(1, 50), max_size=30).map(lambda sizes: np.array(sizes, np.int64))


def disclosed(ask, sizes):
    return disclose_exactly(ask, np.arange(len(sizes), dtype=np.uint16), sizes)


@given(SIZES, st.integers(1, 100))
def test_the_nearest_k_items_are_listed_and_every_bucket_that_was_found(sizes, k):
    answer = disclosed(Ask(k=k, radius=None, codes=1), sizes)
    assert answer.distances.tolist() == list(range(len(sizes)))
    assert answer.sizes.tolist() == sizes.tolist()
    assert answer.samples.sum() == min(k, sizes.sum())
    used_up = np.flatnonzero(answer.samples < sizes)
    assert len(used_up) == 0 or (answer.samples[used_up[0] + 1 :] == 0).all()
    assert answer.withheld is Withheld.NOTHING


@given(SIZES, st.integers(1, 100))
def test_within_a_radius_up_to_k_items_of_each_bucket_are_listed(sizes, k):
    answer = disclosed(Ask(k=k, radius=40, codes=1), sizes)
    assert answer.samples.tolist() == np.minimum(sizes, k).tolist()
    assert answer.withheld is Withheld.NOTHING


@pytest.mark.parametrize("radius", [None, 64])
def test_more_buckets_than_the_limit_are_withheld_and_that_is_said(radius):
    ask = Ask(k=10, radius=radius, codes=4)
    answer = disclosed(ask, np.ones(ask.row_limit + 1, np.int64))
    assert len(answer.sizes) == ROWS_PER_QUERY // 4
    assert answer.withheld is Withheld.LIMIT


def test_more_items_than_the_limit_are_withheld_and_that_is_said():
    ask = Ask(k=1000, radius=64, codes=64)
    answer = disclosed(ask, np.full(10, 500, np.int64))
    assert answer.samples.tolist() == [500, 500, *[0] * 8]
    assert len(answer.sizes) == 10
    assert answer.withheld is Withheld.LIMIT


def test_the_limit_never_cuts_the_k_items_that_were_asked_for():
    answer = disclosed(Ask(k=1000, radius=None, codes=64), np.ones(1000, np.int64))
    assert answer.samples.sum() == 1000


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigError, match="open") as refused:
        policy("open")
    assert refused.value.exit_code == 6


FIELDS = {"time": "time", "bbox": "place", "modality": "modality", "label": "class"}


@pytest.mark.parametrize("kept", [set(each) for n in range(5) for each in combinations(FIELDS, n)])
def test_the_operator_is_told_by_what_queries_may_be_filtered_and_by_what_not(kept):
    text = " ".join(explain("partner", Detail(unfilterable=kept)).split())
    may, _, not_by = text.partition("Filters: ")[2].partition("`policy.unfilterable`")[0].partition("None by ")
    assert {field for field, word in FIELDS.items() if word in may.partition(", so who")[0]} == FIELDS.keys() - kept
    if len(kept) < len(FIELDS):
        assert {field for field, word in FIELDS.items() if word in not_by} == kept
    assert ("learns which patches are labelled so" in text) == ("label" not in kept)


def test_the_operator_is_told_what_partner_gives_away():
    text = explain("partner", Detail("10km", "none"))
    assert "places are told in tenths of a degree, times not at all" in text
    assert "places are told in whole degrees, times as years" in explain("guarded", Detail("10km", "year"))
    country = "places are told as countries"
    assert country in explain("partner", Detail("country"))
    guarded = " ".join(explain("guarded", Detail("country")).split())
    assert country in guarded
    assert "Of cell, country and month so much as" in guarded
    assert "degree" not in guarded
    assert "None by place or class" in guarded
    for gift in ("codes of this archive must be regarded as disclosed", "predicted class of every patch", "images"):
        assert gift in text
