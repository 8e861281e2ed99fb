"""In how much detail where and when is told, and may be asked."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsfed.index.filters import Filter
from rsfed.privacy.detail import Detail
from rsfed.wire import DEGREE, NO_FOOTPRINT, NO_TIME

STEPS = {"exact": 1, "10km": DEGREE // 10, "100km": DEGREE}
longitudes, latitudes = (st.integers(-limit * DEGREE, limit * DEGREE) for limit in (180, 90))
moments = st.integers(-62_135_596_800_000, 253_402_300_799_999)


@st.composite
def boxes(draw):
    south, north = sorted((draw(latitudes), draw(latitudes)))
    return draw(longitudes), south, draw(longitudes), north


def spans(box):
    """The longitudes of a box, without a jump."""
    west, _, east, _ = box
    return [(west, east)] if west <= east else [(west, 180 * DEGREE), (-180 * DEGREE, east)]


def holds(outer, inner):
    across = all(any(w <= west and east <= e for w, e in spans(outer)) for west, east in spans(inner))
    return across and outer[1] <= inner[1] and inner[3] <= outer[3]


def meet(left, right, *, strictly):
    gap = 1 if strictly else 0
    across = any(w1 + gap <= e2 and w2 + gap <= e1 for w1, e1 in spans(left) for w2, e2 in spans(right))
    return across and left[1] + gap <= right[3] and right[1] + gap <= left[3]


@pytest.mark.parametrize("places", STEPS)
@given(box=boxes())
def test_a_place_that_is_told_holds_the_true_one_and_is_made_of_whole_tiles(places, box):
    told = Detail(places=places).boxes(np.array([box, [NO_FOOTPRINT] * 4], np.int32)).tolist()
    assert holds(told[0], box)
    assert all(edge % STEPS[places] == 0 for edge in told[0])
    assert told[0][3] - told[0][1] < box[3] - box[1] + 2 * STEPS[places]
    assert told[1] == [NO_FOOTPRINT] * 4


@pytest.mark.parametrize("places", STEPS)
@given(place=boxes(), asked=boxes())
def test_a_filter_by_place_finds_out_no_more_than_is_told(places, place, asked):
    detail = Detail(places=places)
    wide = detail.filter(Filter(box=asked)).box
    told = detail.boxes(np.array([place], np.int32))[0].tolist()
    assert holds(wide, asked)
    if meet(place, wide, strictly=False):
        assert meet(told, wide, strictly=False)
    elif places != "exact":
        assert not meet(told, wide, strictly=True)


@pytest.mark.parametrize("times", ["exact", "day", "month", "year"])
@given(first=moments, length=st.integers(0, 10**10), asked=moments)
def test_a_filter_by_time_finds_out_no_more_than_is_told(times, first, length, asked):
    taken = np.array([[first, min(first + length, 253_402_300_799_999)], [NO_TIME] * 2], np.int64)
    detail = Detail(times=times)
    (start, end), unknown = detail.intervals(taken).tolist()
    assert start <= taken[0, 0]
    assert taken[0, 1] <= end
    assert unknown == [NO_TIME] * 2
    assert (taken[0, 1] >= detail.filter(Filter(after=asked)).after) == (
        end >= detail.filter(Filter(after=asked)).after
    )
    before = detail.filter(Filter(before=asked)).before
    assert (taken[0, 0] <= before) == (start <= before)


@pytest.mark.parametrize(
    ("times", "start", "end"),
    [
        ("day", "2024-02-29T00:00:00", "2024-03-01T00:00:00"),
        ("month", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("year", "2024-01-01T00:00:00", "2025-01-01T00:00:00"),
    ],
)
def test_times_are_told_as_whole_days_months_or_years(times, start, end):
    moment = round(datetime(2024, 2, 29, 10, 30, tzinfo=UTC).timestamp() * 1000)
    first, last = (round(datetime.fromisoformat(edge).replace(tzinfo=UTC).timestamp() * 1000) for edge in (start, end))
    assert Detail(times=times).intervals(np.array([[moment, moment]])).tolist() == [[first, last - 1]]


def test_what_is_not_told_is_not_asked_either():
    silent = Detail("none", "none", ("label",))
    assert silent.boxes(np.array([[1, 2, 3, 4]], np.int32)).tolist() == [[NO_FOOTPRINT] * 4]
    assert silent.intervals(np.array([[1, 2]])).tolist() == [[NO_TIME] * 2]
    assert silent.kept == {"bbox", "time", "label"}
