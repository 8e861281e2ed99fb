"""The grid on which a guarded node tells, and is asked, where and when."""

from datetime import UTC, datetime

import numpy as np
import pytest

from rsfed.index.filters import Filter
from rsfed.privacy import grid
from rsfed.wire import DEGREE, NO_FOOTPRINT, NO_TIME

RNG = np.random.default_rng(5)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def box(*edges: float) -> tuple[int, int, int, int]:
    west, south, east, north = (round(edge * DEGREE) for edge in edges)
    return west, south, east, north


def tiers(count: int, tier: int):
    return np.full(count, tier, np.uint8)


@pytest.mark.parametrize(("tier", "degrees"), [(0, 1), (1, 10)])
def test_the_tile_that_is_told_holds_the_middle_of_the_footprint(tier, degrees):
    west, south = RNG.uniform(-180, 179.9, 400), RNG.uniform(-90, 89.9, 400)
    boxes = (np.stack([west, south, west + 0.05, south + 0.05], axis=1) * DEGREE).astype(np.int32)
    told = grid.boxes_of(grid.tiles(boxes, tier), tiers(400, tier)).astype(np.int64)
    middle = (boxes[:, :2].astype(np.int64) + boxes[:, 2:]) // 2
    assert (told[:, :2] <= middle).all()
    assert (middle <= told[:, 2:]).all()
    assert ((told[:, 2:] - told[:, :2]) == degrees * DEGREE).all()
    assert (told % (degrees * DEGREE) == 0).all()


@pytest.mark.parametrize(("tier", "months"), [(0, 1), (1, 12)])
def test_the_period_that_is_told_holds_the_whole_interval(tier, months):
    starts = RNG.integers(ms("0001-01-02"), ms("9998-01-01"), 400)
    times = np.stack([starts, starts + 1000], axis=1)
    found = grid.periods(times, tier)
    told = grid.times_of(found, tiers(400, tier))
    within = found != grid.NONE
    assert within.mean() > 0.99
    assert ((told[:, 0] <= times[:, 0]) & (times[:, 1] <= told[:, 1]))[within].all()
    length = (told[:, 1] + 1 - told[:, 0])[within] / 86_400_000
    assert length.min() >= 28 * months
    assert length.max() <= 31 * months


def test_what_is_not_known_or_spans_two_months_has_no_tile_or_period():
    assert grid.tiles(np.full((1, 4), NO_FOOTPRINT, np.int32), 0).tolist() == [grid.NONE]
    times = np.array([[NO_TIME] * 2, [ms("2024-01-31T23:59"), ms("2024-02-01T00:01")]])
    assert grid.periods(times, 0).tolist() == [grid.NONE] * 2
    assert grid.times_of(grid.periods(times, 1), tiers(2, 1)).tolist() == [
        [NO_TIME] * 2,
        [ms("2024-01-01"), ms("2025-01-01") - 1],
    ]
    assert grid.periods(times, 2).tolist() == grid.tiles(np.zeros((2, 4), np.int32), 2).tolist() == [grid.NONE] * 2


def test_filters_are_widened_to_whole_months_and_degrees():
    asked = Filter(after=ms("2024-02-10"), before=ms("2024-03-01"), box=box(7.2, 46.9, 7.3, 47), labels=frozenset("1"))
    wide = grid.ASKED.filter(asked)
    assert (wide.after, wide.before) == (ms("2024-02-01"), ms("2024-04-01") - 1)
    assert wide.box == box(7, 46, 8, 47)
    assert wide.labels == asked.labels  # which the guard refuses where answers go by cells


def test_a_box_over_the_antimeridian_stays_one_and_one_around_the_earth_is_all_of_it():
    assert grid.ASKED.filter(Filter(box=box(179.5, 0, -179.5, 1))).box == box(179, 0, -179, 1)
    assert grid.ASKED.filter(Filter(box=box(10.9, 0, 10.2, 1))).box == box(-180, 0, 180, 1)


def test_all_filters_of_one_month_and_tile_are_one_question():
    for _ in range(200):
        low, high = np.sort(RNG.integers(ms("2024-02-01"), ms("2024-03-01"), 2)).tolist()
        west, east = np.sort(RNG.uniform(7.001, 7.999, 2))
        south, north = np.sort(RNG.uniform(46.001, 46.999, 2))
        wide = grid.ASKED.filter(Filter(after=low, before=high, box=box(west, south, east, north)))
        assert wide == Filter(after=ms("2024-02-01"), before=ms("2024-03-01") - 1, box=box(7, 46, 8, 47))


def test_whatever_a_filter_wants_passes_it_as_far_as_its_tile_and_month_are_told():
    west, south = RNG.uniform(-180, 179.9, 300), RNG.uniform(-90, 89.9, 300)
    boxes = (np.stack([west, south, west + 0.01, south + 0.01], axis=1) * DEGREE).astype(np.int32)
    starts = RNG.integers(ms("2023-01-01"), ms("2025-01-01"), 300)
    times = np.stack([starts, starts], axis=1)
    for tier in (0, 1):
        places, months = grid.tiles(boxes, tier), grid.periods(times, tier)
        for number in range(300):
            (w, s), when = boxes[number].astype(np.int64).reshape(2, 2).mean(axis=0) / DEGREE, int(starts[number])
            asked = Filter(after=when, before=when, box=box(w, s, w, s))
            assert grid.passes(grid.ASKED.filter(asked), places, months, tiers(300, tier))[number]


def test_a_neighbouring_tile_or_month_does_not_pass_and_neither_does_what_tells_none():
    places = grid.tiles(np.array([box(7.4, 46.4, 7.5, 46.5), box(8.4, 46.4, 8.5, 46.5)], np.int32), 0)
    months = grid.periods(np.array([[ms("2024-02-10")] * 2, [ms("2024-03-10")] * 2]), 0)
    for asked in (
        Filter(box=box(7.1, 46.1, 7.9, 46.9)),
        Filter(before=ms("2024-02-02")),
        Filter(after=ms("2024-01-02")),
    ):
        wide = grid.ASKED.filter(asked)
        assert grid.passes(wide, places, months, tiers(2, 0)).tolist()[0]
        assert not grid.passes(wide, places, months, tiers(2, 2)).any() or wide.box is None
    assert grid.passes(
        grid.ASKED.filter(Filter(box=box(7.1, 46.1, 7.9, 46.9))), places, months, tiers(2, 0)
    ).tolist() == [
        True,
        False,
    ]
    assert grid.passes(grid.ASKED.filter(Filter(before=ms("2024-02-02"))), places, months, tiers(2, 0)).tolist() == [
        True,
        False,
    ]
    none = np.full(2, grid.NONE, np.int32)
    assert not grid.passes(grid.ASKED.filter(Filter(box=box(-180, -90, 180, 90))), none, none, tiers(2, 2)).any()
    assert not grid.passes(grid.ASKED.filter(Filter(after=ms("1900-01-01"))), none, none, tiers(2, 2)).any()
    assert grid.passes(Filter(), none, none, tiers(2, 2)).all()
