"""Overlapping patches of one acquisition are one place and one item of a ranking."""

from __future__ import annotations

import numpy as np
from archives import Archive, listed
from hypothesis import given, settings
from hypothesis import strategies as st

from node.overlap import SAME_PLACE, first_of_places, overlap
from rsfed.wire import DEGREE, NO_FOOTPRINT

SIDE = 100_000  # 1e-7 degrees
edges = st.integers(0, 3 * SIDE)
sizes = st.integers(SIDE // 2, 2 * SIDE)


def _boxes(*boxes):
    return np.array(boxes, np.int32).reshape(-1, 4)


def _square(col, row=0, side=SIDE):
    return (col, row, col + side, row + side)


def _first(acquisitions, *boxes):
    return first_of_places(np.array(acquisitions, np.uint64), _boxes(*boxes)).tolist()


def test_more_than_half_in_common_is_one_place():
    assert _first([7, 7], _square(0), _square(SIDE // 4)) == [True, False]
    assert _first([7, 7], _square(0), _square(SIDE // 2)) == [True, True], "a third in common"
    assert _first([7, 7, 7], _square(0), _square(SIDE // 4), _square(SIDE // 2)) == [True, False, True]


def test_other_acquisitions_and_unknown_ones_and_places_stay():
    assert _first([7, 8], _square(0), _square(0)) == [True, True]
    assert _first([0, 0], _square(0), _square(0)) == [True, True]
    assert _first([7, 7], (NO_FOOTPRINT,) * 4, (NO_FOOTPRINT,) * 4) == [True, True]


def test_boxes_across_the_antimeridian_overlap():
    east, west = 180 * DEGREE - SIDE, -180 * DEGREE + SIDE
    assert _first([7, 7], (east, 0, west, SIDE), (east + SIDE // 8, 0, west, SIDE)) == [True, False]


@given(st.lists(st.tuples(edges, edges, sizes, sizes, st.integers(1, 2)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_what_stays_is_what_a_comparison_with_all_before_leaves(drawn):
    boxes = [(col, row, col + width, row + height) for col, row, width, height, _ in drawn]
    acquisitions = [each[4] for each in drawn]
    stays: list[int] = []
    for number, box in enumerate(boxes):
        near = (other for other in stays if acquisitions[other] == acquisitions[number])
        if all(overlap(box, boxes[other]) <= SAME_PLACE for other in near):
            stays.append(number)
    assert np.flatnonzero(_first(acquisitions, *boxes)).tolist() == stays


def test_an_answer_lists_one_of_the_patches_of_a_place_and_counts_all(tmp_path):
    place = (7.0, 46.0, 7.1, 46.1)
    archive = Archive(
        tmp_path, np.zeros((3, 4), np.uint8), facts={"place": place, "acquisition": "S2A:20240601T101031"}
    )
    (answer,) = archive.search(np.zeros((1, 4), np.uint8)).answers
    ((distance, size, items),) = listed(archive, answer)
    assert (distance, size, len(items)) == (0, 3, 1)
    assert len(answer.footprints) == 16
