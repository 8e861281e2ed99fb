"""Calibration against fits by hand, and what holds for any counts: bounded, monotone, the same in any order."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.errors import InvalidMessage
from rsfed.hashing import calibration
from rsfed.hashing.calibration import (
    ACQUISITION_PAIRS,
    MIN_COUNT,
    PairCounts,
    calibration_error,
    count_pairs,
    fit,
    fit_curve,
    from_records,
    shift_prior,
    to_records,
    total,
)
from rsfed.hashing.evaluation.counts import Histograms
from rsfed.trust.manifest import Calibration, CalibrationBand

BITS = 8


def histograms(items, relevant) -> Histograms:
    """One query a row; the distances that are left out have nothing."""
    wide = [np.zeros((len(items), BITS + 1), np.int64) for _ in range(2)]
    for each, rows in zip(wide, (items, relevant), strict=True):
        each[:, : len(rows[0])] = rows
    return Histograms(*wide)


def counts(pairs, relevant, **changes) -> PairCounts:
    """The same counts in both folds."""
    wide = np.zeros((2, 2, BITS + 1))
    wide[0, :, : len(pairs)], wide[1, :, : len(relevant)] = pairs, relevant
    fields = {"chance": 0.25 * wide[0].sum(), "queries": 20, "acquisitions": 4, "held_out_by": "acquisition"}
    return PairCounts(*wide, **(fields | changes))


def bands(table):
    return [(band.distance, band.relevance, band.pairs) for band in table.bands]


def test_a_falling_share_is_the_table():
    curve = fit_curve(np.array([100.0, 200.0, 50.0]), np.array([90.0, 100.0, 5.0]))
    assert curve.uppers.tolist() == [0, 1, 2]
    assert curve.relevance.tolist() == [0.9, 0.5, 0.1]
    assert curve.pairs.tolist() == [100, 200, 50]


def test_a_rise_is_pooled_by_the_number_of_pairs():
    curve = fit_curve(np.array([100.0, 100.0, 300.0, 50.0]), np.array([90.0, 20.0, 180.0, 5.0]))
    assert curve.uppers.tolist() == [0, 2, 3]
    assert curve.relevance.tolist() == [0.9, 0.5, 0.1]  # (20 + 180) of (100 + 300)
    assert curve.pairs.tolist() == [100, 400, 50]


def test_distances_with_few_pairs_are_joined_with_their_neighbours():
    pairs = np.array([30.0, 30.0, 0.0, 60.0, 10.0, 0.0])
    relevant = np.array([30.0, 24.0, 0.0, 30.0, 5.0, 0.0])
    curve = fit_curve(pairs, relevant)
    assert curve.uppers.tolist() == [1, 4]  # 30 + 30; 60 with the 10 that are left
    assert curve.relevance.tolist() == [0.9, 0.5]
    assert curve.pairs.tolist() == [60, 70]


def test_fewer_pairs_than_a_band_needs_give_no_table():
    assert fit_curve(np.array([49.0]), np.array([49.0])) is None
    assert fit_curve(np.zeros(9), np.zeros(9)) is None
    assert fit(counts([24.9], [20.0]), nodes=1) is None


def test_of_the_distance_at_which_the_nearest_end_each_item_counts_with_its_share():
    found = count_pairs([histograms([[5, 30, 900]], [[5, 10, 90]])], "patch")
    assert found.pairs.sum(axis=0)[:3].tolist() == [5, 15, 0]
    assert found.relevant.sum(axis=0)[:3].tolist() == [5, 5, 0]  # 15 of 30, 10 of them relevant
    assert found.chance == pytest.approx(20 * 105 / 935)
    assert (found.queries, found.acquisitions, found.held_out_by) == (1, 1, "patch")


def test_a_gallery_smaller_than_k_counts_whole():
    found = count_pairs([histograms([[5, 3]], [[4, 1]])], "patch")
    assert found.pairs.sum() == 8


def test_acquisitions_are_whole_in_one_fold_and_single_queries_where_there_is_one_only():
    one = histograms([[20]] * 3, [[10]] * 3)
    assert count_pairs([one], "patch").pairs[:, 0].tolist() == [40, 20]
    assert count_pairs([one, histograms([[0, 20]], [[0, 1]])], "acquisition").pairs[:, :2].tolist() == [
        [60, 0],
        [0, 20],
    ]


def test_the_table_says_what_it_rests_on():
    table = fit(counts([100, 100], [80, 20], chance=50.0), nodes=3)
    assert bands(table) == [(0, 0.8, 200), (1, 0.2, 200)]
    assert (table.prior, table.k, table.nodes, table.queries, table.acquisitions) == (0.125, 20, 3, 20, 4)
    assert table.held_out_by == "acquisition"
    assert [table.relevance(distance) for distance in (0, 1, 2, BITS)] == [0.8, 0.2, None, None]


def test_the_error_is_that_on_queries_the_table_was_not_fitted_on():
    made = counts([100], [50])
    made.relevant[:, 0] = 90, 60
    table = fit(made, nodes=1)
    assert bands(table) == [(0, 0.75, 200)]
    assert table.error == pytest.approx(0.3)  # .9 is said of .6, and .6 of .9
    assert fit(counts([100], [75]), nodes=1).error == 0


def test_without_two_parts_that_are_large_enough_there_is_no_error_to_tell():
    made = counts([100], [50])
    made.pairs[1], made.relevant[1] = 0, 0
    table = fit(made, nodes=1)
    assert (table.error, table.shifted) == (None, None)


def test_the_error_of_a_table_by_hand():
    curve = calibration.Curve(np.array([1, 3]), np.array([0.9, 0.4]), np.array([50.0, 50.0]))
    pairs, relevant = np.array([10.0, 10, 0, 20, 10]), np.array([10.0, 6, 0, 10, 0])
    # 16 of 20 where .9 is said; 10 of 30 where .4 is, the last distance beyond the table included
    assert calibration_error(curve, pairs, relevant) == pytest.approx((abs(16 - 18) + abs(10 - 12)) / 50)


def test_probabilities_move_with_the_odds_of_the_prior():
    # odds of .5 are 1; from .5 to .2 the odds of the prior fall from 1 to 1/4
    assert shift_prior(np.array([0.0, 0.5, 1.0]), 0.5, 0.2) == pytest.approx([0.0, 0.2, 1.0])


def test_under_another_prior_the_corrected_table_is_right_and_the_plain_one_is_told_to_be_off():
    table = fit(counts([100, 100], [80, 20], chance=200.0), nodes=1)  # prior .5
    assert table.error == 0
    assert table.shifted.prior == 0.25
    assert table.shifted.corrected_error == pytest.approx(0, abs=1e-6)
    # of 80 + 20 pairs at 0 there are 40 relevant and 30 others then: .571 in place of .8; at 1: 10 and 120
    expected = (140 * (0.8 - 40 / 70) + 260 * (0.2 - 10 / 130)) / 400
    assert table.shifted.error == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("chance", [0.0, 400.0])
def test_where_nothing_or_everything_is_relevant_there_is_no_other_prior(chance):
    assert fit(counts([100, 100], [80, 20], chance=chance), nodes=1).shifted is None


def any_histograms():
    row = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=BITS + 1, max_size=BITS + 1)
    return st.lists(row, min_size=1, max_size=40).map(
        lambda rows: histograms([[a + b for a, b in row] for row in rows], [[a for a, _ in row] for row in rows])
    )


def any_counts():
    return st.lists(any_histograms(), min_size=1, max_size=4).map(lambda groups: count_pairs(groups, "acquisition"))


@settings(max_examples=60, deadline=None)
@given(st.lists(any_counts(), min_size=1, max_size=4), st.randoms())
def test_a_table_never_rises_lies_between_0_and_1_and_knows_no_order_of_nodes(contributions, random):
    table = fit(total(contributions), nodes=len(contributions))
    shuffled = contributions[:]
    random.shuffle(shuffled)
    assert fit(total(shuffled), nodes=len(contributions)) == table
    if table is None:
        assert sum(each.pairs.sum() for each in contributions) < MIN_COUNT + 1e-6
        return
    said = [band.relevance for band in table.bands]
    assert said == sorted(said, reverse=True)
    assert all(0 <= each <= 1 for each in (*said, table.prior))
    assert all(band.pairs >= MIN_COUNT - 0.01 for band in table.bands)


@settings(max_examples=60, deadline=None)
@given(st.lists(any_histograms(), min_size=2, max_size=4), any_histograms())
def test_one_acquisition_moves_no_sum_by_more_than_its_bound(groups, more):
    without, with_it = (count_pairs(each, "acquisition") for each in (groups, [*groups, more]))
    for field in ("pairs", "relevant"):
        moved = np.abs(getattr(with_it, field) - getattr(without, field)).sum()
        assert moved <= ACQUISITION_PAIRS * (1 + 1e-9)
    assert with_it.chance - without.chance <= ACQUISITION_PAIRS * (1 + 1e-9)


def test_a_large_acquisition_is_scaled_to_its_bound_and_keeps_its_shares():
    found = count_pairs([histograms([[12, 500]] * 200, [[9, 100]] * 200), histograms([[20]], [[5]])], "acquisition")
    assert found.pairs.sum() == pytest.approx(ACQUISITION_PAIRS + 20)
    assert found.relevant[0, :2] / found.pairs[0, :2] == pytest.approx([0.75, 0.2])


@settings(max_examples=60, deadline=None)
@given(any_counts())
def test_what_an_honest_node_sends_is_taken(made):
    if made.pairs.sum() == 0:
        return
    arrays, numbers = to_records(made)
    taken = from_records(arrays, numbers, BITS)
    np.testing.assert_allclose(taken.pairs, made.pairs, rtol=1e-6)
    assert replace(taken, pairs=0, relevant=0, chance=0) == replace(made, pairs=0, relevant=0, chance=0)
    assert math.isclose(taken.chance, made.chance, rel_tol=1e-6)


def lie(**changes):
    """An honest contribution with one thing changed."""
    arrays, numbers = to_records(counts([100, 80], [80, 20]))
    for name, change in changes.items():
        if name in arrays:
            arrays[name] = change(arrays[name])
        else:
            numbers[name.replace("_", "-")] = change
    return arrays, numbers


def put(value):
    def change(array):
        array[0, 0] = value
        return array

    return change


LIES = {
    "shape": (lie(pairs=lambda a: a[:, :-1]), "CALIBRATION_FORM"),
    "folds": (lie(pairs=lambda a: a[:1], relevant=lambda a: a[:1]), "CALIBRATION_FORM"),
    "type": (lie(pairs=lambda a: a.astype(np.float64)), "CALIBRATION_FORM"),
    "number": (lie(more=1.0), "CALIBRATION_FORM"),
    "more relevant than pairs": (lie(relevant=put(101)), "CALIBRATION_COUNTS"),
    "negative": (lie(relevant=put(-1)), "CALIBRATION_COUNTS"),
    "not a number": (lie(relevant=put(np.nan)), "CALIBRATION_COUNTS"),
    "infinite": (lie(pairs=put(np.inf)), "CALIBRATION_COUNTS"),
    "nothing": (lie(pairs=np.zeros_like, relevant=np.zeros_like), "CALIBRATION_COUNTS"),
    "more pairs than queries find": (lie(pairs=put(400)), "CALIBRATION_COUNTS"),
    "more pairs than acquisitions may": (
        lie(pairs=put(4000), queries=500.0, acquisitions=4.0),
        "CALIBRATION_COUNTS",
    ),
    "more queries than a node may": (lie(queries=501.0), "CALIBRATION_COUNTS"),
    "half a query": (lie(queries=19.5), "CALIBRATION_COUNTS"),
    "no acquisition": (lie(acquisitions=0.0), "CALIBRATION_COUNTS"),
    "more chance than pairs": (lie(chance=361.0), "CALIBRATION_COUNTS"),
    "queries not a number": (lie(queries=math.nan), "CALIBRATION_COUNTS"),
    "neither whole nor single": (lie(whole_acquisitions=0.5), "CALIBRATION_COUNTS"),
}


@pytest.mark.parametrize("what", LIES)
def test_counts_that_cannot_be_are_refused(what):
    (arrays, numbers), reason = LIES[what]
    with pytest.raises(InvalidMessage) as refused:
        from_records(arrays, numbers, BITS)
    assert refused.value.reason == reason


def test_a_sum_has_the_same_last_digit_in_any_order():
    one, large = (counts([value], [0], chance=value) for value in (1.0, 1e16))
    sums = [total(each) for each in ([one, one, large], [large, one, one])]
    assert sums[0].pairs.tobytes() == sums[1].pairs.tobytes()
    assert sums[0].chance == sums[1].chance


def test_kinds_of_holding_out_are_told_apart():
    whole, single = counts([9], [1]), counts([9], [1], held_out_by="patch")
    assert total([whole, whole]).held_out_by == "acquisition"
    assert total([whole, single]).held_out_by == "mixed"


@pytest.mark.parametrize("values", [[(3, 0.5), (2, 0.4)], [(1, 0.5), (2, 0.6)], [(1, math.nan)], [(1, 1.5)], []])
def test_a_table_that_rises_is_no_table(values):
    made = [{"distance": distance, "relevance": relevance, "pairs": 50} for distance, relevance in values]
    fields = {"prior": 0.5, "k": 20, "queries": 1, "acquisitions": 1, "nodes": 1, "held_out_by": "patch"}
    with pytest.raises(ValueError, match="validation error"):
        Calibration(bands=[CalibrationBand.model_validate(each) for each in made], **fields)
