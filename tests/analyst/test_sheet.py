"""Geometry of the contact sheet: everything lies where it should and nothing overlaps."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from rsfed.analyst import sheet
from rsfed.analyst.results import Hit


def many(result, count):
    return replace(result, hits=tuple(Hit(n, "alps", f"{n:032x}", n, 1, 40) for n in range(1, count + 1)))


def section(result, **changes):
    query = sheet.Picture(np.full((50, 80, 3), 77, dtype=np.uint8))
    return sheet.Section("query.tif", query, result, **changes)


@pytest.mark.parametrize("hits", [0, 1, 7, 8, 20, sheet.MAX_TILES])
def test_every_tile_lies_on_the_sheet_and_none_overlaps_another(hits):
    corners = [sheet.tile_corner(position, 0) for position in range(hits)]
    height = sheet.section_height(hits)
    assert all(left + sheet.TILE <= sheet.WIDTH - sheet.MARGIN + 1 for left, _ in corners)
    assert all(left >= sheet.MARGIN + sheet.QUERY for left, _ in corners)
    assert all(top + sheet.TILE + sheet.CAPTION <= height for _, top in corners)
    boxes = {
        (left // (sheet.TILE + sheet.GAP), top // (sheet.TILE + sheet.CAPTION + sheet.GAP)) for left, top in corners
    }
    assert len(boxes) == hits


def test_the_sheet_is_as_high_as_its_sections(result):
    image = sheet.contact_sheet([section(many(result, 20)), section(result)])
    assert image.size == (sheet.WIDTH, sheet.MARGIN + sheet.section_height(20) + sheet.section_height(3))


def test_the_query_picture_covers_its_square(result):
    image = np.asarray(sheet.contact_sheet([section(result)]))
    inside = image[sheet.MARGIN + 4 : sheet.MARGIN + sheet.QUERY - 4, sheet.MARGIN + 4 : sheet.MARGIN + sheet.QUERY - 4]
    assert (inside == 77).all()


def test_a_hit_is_a_labelled_tile_in_the_colour_of_its_node_unless_its_picture_is_given(result):
    picture = sheet.Picture(np.full((9, 9, 3), 200, dtype=np.uint8), "river")
    first = result.hits[0]
    drawn = np.asarray(sheet.contact_sheet([section(result, pictures={(first.node, first.handle): picture})]))
    corners = [sheet.tile_corner(position, sheet.MARGIN) for position in range(3)]
    insides = [drawn[top + 90 : top + 95, left + 10 : left + 20].reshape(-1, 3) for left, top in corners]
    assert [(inside == 200).all() for inside in insides] == [True, False, False]
    borders = [tuple(drawn[top + sheet.TILE - 2, left + 60]) for left, top in corners]
    assert borders[0] == borders[2] != borders[1]


def test_every_digit_of_a_handle_can_be_read_below_its_tile(result):
    def drawn(handle):
        hits = (replace(result.hits[0], handle=handle), result.hits[1])
        return np.asarray(sheet.contact_sheet([section(replace(result, hits=hits))])).astype(int)

    plain, seen = drawn("1" * 32), set()
    left, top = sheet.tile_corner(0, sheet.MARGIN)
    for place in range(32):
        rows, columns, _ = np.nonzero(drawn("1" * place + "8" + "1" * (31 - place)) - plain)
        assert top + sheet.TILE <= rows.min() <= rows.max() < top + sheet.TILE + sheet.CAPTION
        assert left <= columns.min() <= columns.max() < left + sheet.TILE
        seen.add((rows.min(), columns.min()))
    assert len(seen) == 32, "each in a place of its own"


def test_the_relevance_of_a_hit_stands_in_the_corner_of_its_tile(result):
    def drawn(relevance):
        hits = tuple(replace(hit, relevance=relevance) for hit in result.hits)
        return np.asarray(sheet.contact_sheet([section(replace(result, hits=hits))])).astype(int)

    rows, columns, _ = np.nonzero(drawn(0.5) - drawn(0.75))
    corners = [sheet.tile_corner(position, sheet.MARGIN) for position in range(3)]
    inside = [
        any(left + sheet.TILE / 2 < x < left + sheet.TILE and top <= y < top + 20 for left, top in corners)
        for y, x in zip(rows, columns, strict=True)
    ]
    assert inside
    assert all(inside)
    legend = np.abs(drawn(0.5) - drawn(None))[:, : sheet.MARGIN + sheet.QUERY]
    assert legend.any(), "the sheet says what the per cent are"


def test_a_very_long_ranking_does_not_make_a_picture_that_nobody_can_open(result):
    image = sheet.contact_sheet([section(many(result, 10_000))])
    assert image.height == sheet.MARGIN + sheet.section_height(sheet.MAX_TILES)


def test_names_that_the_font_does_not_know_are_still_drawn(result):
    query = sheet.Picture(np.zeros((4, 4, 3), dtype=np.uint8))
    assert sheet.contact_sheet([sheet.Section("Ωθορά 森林.tif" * 9, query, result)]).width == sheet.WIDTH


@pytest.mark.parametrize(
    ("box", "name"),
    [
        ((8.0, 47.0, 9.0, 48.0), ["47.5°N 8.5°E"]),
        ((-9.0, -48.0, -8.0, -47.0), ["47.5°S 8.5°W"]),
        ((179.0, 0.0, -178.0, 1.0), ["0.5°N 179.5°W"]),
        ((-54.5, -21.4, 55.8, 51.1), ["22°S to 52°N", "55°W to 56°E"]),  # France, whose middle lies in Africa
        ((19.6, 41.2, -169.0, 81.9), ["41°N to 82°N", "19°E to 169°W"]),
    ],
)
def test_a_place_is_named_by_its_middle_and_a_large_one_by_its_reach(box, name):
    assert sheet.place_names(box) == name


@pytest.mark.parametrize(
    ("first", "last", "name"),
    [
        ("2024-05-31", "2024-05-31", "2024-05-31"),
        ("2024-05-02", "2024-05-31", "2024-05"),
        ("2023-12-30", "2024-01-02", "2023-12/2024-01"),
    ],
)
def test_a_time_fits_its_tile_and_a_span_of_days_is_told_by_months(first, last, name):
    assert sheet.time_name((datetime.fromisoformat(first), datetime.fromisoformat(last))) == name
    assert sheet._font(13).getlength(name) < sheet.TILE
