"""Pairs of Sentinel-1 and Sentinel-2 patches, against a comparison of each with each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsfed.raster.pairing import LEAST_OVERLAP, Look, iou, place_ids

DAY = datetime(2024, 5, 31, tzinfo=UTC)
BOX = (13.0, 48.0, 13.016, 48.011)


def look(name, box=BOX, day=0.0) -> Look:
    moment = DAY + timedelta(days=day)
    return Look(name, box, (moment, moment))


def moved(box, east=0.0, north=0.0):
    west, south, right, top = box
    wide, high = (right - west) % 360, top - south
    return (
        (west + east * wide + 180) % 360 - 180,
        south + north * high,
        (right + east * wide + 180) % 360 - 180,
        top + north * high,
    )


def pairs(radar, optical, days=3.0):
    return place_ids(radar, optical, within=timedelta(days=days))


def test_overlap_is_that_of_the_footprints():
    assert iou(BOX, BOX) == 1
    assert iou(BOX, moved(BOX, east=0.05)) == pytest.approx(0.95 / 1.05)
    assert iou(BOX, moved(BOX, east=1.1)) == 0
    across = (179.99, 10.0, -179.99, 10.02)
    assert iou(across, moved(across, east=0.05)) == pytest.approx(0.95 / 1.05)
    beside = (-180.0, 10.0, -179.98, 10.02)
    assert iou((179.999, 10.0, -179.981, 10.02), beside) == pytest.approx(0.019 / 0.021)
    assert len(pairs([look("r", (179.999, 10.0, -179.981, 10.02))], [look("o", beside)])) == 2
    assert iou((179.98, 10.0, 179.99, 10.02), (-180.0, 10.0, -179.98, 10.02)) == 0


def test_both_sensors_at_one_place_within_the_days_are_one_place():
    places = pairs([look("r", day=2), look("late", day=4)], [look("o"), look("alone", moved(BOX, east=3))])
    assert set(places) == {"r", "o"}
    assert places["r"] == places["o"]
    assert "o" not in places["o"]
    assert pairs([look("r", moved(BOX, east=0.06))], [look("o")]) == {}, "overlap of less than 0.9"


def test_patches_that_share_a_partner_are_one_place_in_any_order():
    radar, optical = [look("r1", day=-2), look("r2", day=2)], [look("o1"), look("o2", day=4)]
    places = pairs(radar, optical)
    assert len(places) == 4
    assert len(set(places.values())) == 1
    assert pairs(radar[::-1], optical[::-1]) == places


def test_the_end_of_one_and_the_start_of_the_other_count():
    long = Look("r", BOX, (DAY - timedelta(days=9), DAY - timedelta(days=1)))
    assert len(pairs([long], [look("o")], days=1)) == 2
    assert pairs([long], [look("o")], days=0.9) == {}


POSITIONS = st.tuples(
    st.sampled_from(
        [(12.992, 47.9945, 13.008, 48.0055), (179.9995, -10.0, -179.9845, -9.99), (20.0, 79.0, 20.08, 79.011)]
    ),
    st.floats(-0.15, 0.15),
    st.floats(-0.15, 0.15),
    st.floats(0.9, 1.1),
)


@given(st.lists(POSITIONS, max_size=8), st.lists(POSITIONS, max_size=8))
def test_no_pair_is_missed(radar, optical):
    def looks(kind, drawn):
        found = []
        for number, (box, east, north, size) in enumerate(drawn):
            west, south, right, top = moved(box, east, north)
            found.append(look(f"{kind}{number}", (west, south, right, south + (top - south) * size)))
        return found

    one, other = looks("r", radar), looks("o", optical)
    near = {
        each.digest for a in one for b in other if iou(a.footprint, b.footprint) >= LEAST_OVERLAP for each in (a, b)
    }
    assert set(pairs(one, other)) == near
