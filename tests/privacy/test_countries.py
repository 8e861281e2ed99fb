"""What is told at `country`: of an item nothing but its country."""

import json

import numpy as np
import pytest
from borders import BOXES, COUNTRIES, borders, collection, feature, ring
from hypothesis import given
from hypothesis import strategies as st

from rsfed.errors import ConfigError
from rsfed.privacy import grid
from rsfed.privacy.countries import NONE, Countries
from rsfed.privacy.detail import Detail
from rsfed.wire import DEGREE, NO_FOOTPRINT

KNOWN = Countries.read(borders(), "borders.geojson")
DETAIL = Detail("country", countries=KNOWN)
NOWHERE = [NO_FOOTPRINT] * 4


def units(*degrees):
    return [round(each * DEGREE) for each in degrees]


def told(*boxes):
    return DETAIL.boxes(np.array(boxes, np.int32)).tolist()


@st.composite
def items(draw):
    """A country, and a footprint whose middle lies in it."""
    number = draw(st.integers(0, len(BOXES) - 1))
    west, south, east, north = units(*draw(st.sampled_from(list(COUNTRIES.values())[number])))
    x, y = draw(st.integers(west + 2, east - 2)), draw(st.integers(south + 2, north - 2))
    wide, high = draw(st.integers(0, 89 * DEGREE)), draw(st.integers(0, 90 * DEGREE - abs(y)))
    turned = [(edge + 180 * DEGREE) % (360 * DEGREE) - 180 * DEGREE for edge in (x - wide, x + wide)]
    return number, [turned[0], y - high, turned[1], y + high]


@given(items())
def test_what_is_told_is_the_box_of_the_country_and_depends_on_nothing_else_of_the_footprint(item):
    number, box = item
    assert told(box) == [units(*BOXES[number])]


@given(items(), items())
def test_the_country_of_one_item_does_not_depend_on_those_beside_it(one, other):
    nowhere = units(-60, 10, -59, 11)
    assert told(one[1], NOWHERE, other[1], nowhere) == [*told(one[1]), NOWHERE, *told(other[1]), NOWHERE]


@pytest.mark.parametrize(
    "box", [(20.1, 40, 30, 50), (-10, 40, -0.1, 50), (60, 0, 90, 1), (0, 39, 20, 40.99), (170, -20, -175, 20)]
)
def test_of_an_item_whose_middle_lies_in_no_country_no_place_is_told(box):
    assert told(units(*box)) == [NOWHERE]


def test_a_hole_in_a_country_is_no_part_of_it_and_one_in_a_hole_is_another_country():
    outer = {"type": "Polygon", "coordinates": [ring(0, 0, 9, 9), ring(3, 3, 6, 6)]}
    inner = {"type": "Polygon", "coordinates": [ring(4, 4, 5, 5)]}
    known = Countries.read(collection({"geometry": outer}, {"geometry": inner}), "file")
    boxes = np.array([units(each, each, each, each) for each in (1, 3.5, 4.5)], np.int32)
    assert known.holding(boxes).tolist() == [0, NONE, 1]


def test_on_a_common_border_and_where_countries_overlap_it_is_the_first_of_the_file():
    known = Countries.read(collection(feature((0, 0, 6, 6)), feature((4, 0, 9, 6)), feature((9, 0, 12, 6))), "file")
    boxes = np.array([units(each, 3, each, 3) for each in (5, 9, 8)], np.int32)
    assert known.holding(boxes).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("parts", "box"),
    [
        ([(170, 0, 180, 1), (-180, 2, -170, 3)], (170, 0, -170, 3)),
        ([(166, -47, 178, -34), (-177, -45, -176, -43)], (166, -47, -176, -34)),  # no part touches the antimeridian
        ([(-5, 42, 8, 51), (55, -22, 56, -21), (-54, 2, -51, 6)], (-54, -22, 56, 51)),
        ([(0, 0, 5, 1), (1, 2, 2, 9), (6, 0, 7, 1)], (0, 0, 7, 9)),
    ],
)
def test_the_box_of_a_country_is_the_smallest_around_all_its_parts(parts, box):
    known = Countries.read(collection(feature(*parts), feature((0, 0, 1, 1))), "file")
    assert known.boxes[0].tolist() == units(*box)


def test_the_box_of_a_country_around_a_pole_goes_around_the_earth():
    coast = [[-180, -80], [-180, -90], [180, -90], [180, -80], [60, -75], [-60, -60], [-180, -80]]
    known = Countries.read(polygon(coast), "file")
    assert known.boxes.tolist() == [units(-180, -90, 180, -60)]
    assert known.holding(np.array([units(0, -85, 1, -84), units(179, -85, -179, -84)], np.int32)).tolist() == [0, 0]


def test_a_box_is_widened_to_whole_units():
    known = Countries.read(collection(feature((0.00000001, 0.00000001, 1.00000001, 1.00000001))), "file")
    assert known.boxes.tolist() == [[0, 0, 10_000_001, 10_000_001]]


def test_a_part_without_coordinates_does_not_count():
    empty = {"geometry": {"type": "MultiPolygon", "coordinates": [[], [ring(0, 0, 1, 1)]]}}
    assert Countries.read(collection(empty), "file").boxes.tolist() == [units(0, 0, 1, 1)]


def test_no_query_may_be_filtered_by_place_where_countries_are_told():
    assert DETAIL.kept == {"bbox"}


def test_without_borders_nothing_is_told():
    assert Detail("country").boxes(np.array([units(1, 41, 2, 42)], np.int32)).tolist() == [NOWHERE]
    assert Detail("country").kept == {"bbox"}


@given(st.lists(items(), min_size=1, max_size=5))
def test_atoms_have_the_country_in_place_of_a_tile_and_tell_its_box(drawn):
    boxes = np.array([box for _, box in drawn] + [NOWHERE], np.int32)
    numbers = [number for number, _ in drawn] + [NONE]
    places = grid.places(boxes, KNOWN)
    assert [each.tolist() for each in places] == [numbers, numbers, [NONE] * len(boxes)]
    for tier, each in enumerate(places):
        expected = [units(*BOXES[number]) if number != NONE and tier < 2 else NOWHERE for number in numbers]
        shown = grid.told(each, np.full(len(boxes), tier, np.uint8), KNOWN)
        assert DETAIL.shared(shown).tolist() == expected


SQUARE = ring(0, 0, 1, 1)


def polygon(*rings):
    return collection({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": list(rings)}})


BAD = {
    "no text": (b"\xff\xfe\xfd", "no JSON that can be read, it may be cut off; export"),
    "no JSON": (b"borders", "no JSON that can be read, it may be cut off; export"),
    "nested without end": (b"[" * 200_000, "no JSON that can be read, it may be cut off; export"),
    "a list": (b"[]", "no GeoJSON FeatureCollection"),
    "a geometry alone": (json.dumps({"type": "Polygon", "coordinates": [SQUARE]}).encode(), "FeatureCollection"),
    "no features": (collection(), "FeatureCollection with features"),
    "features that are none": (b'{"type": "FeatureCollection", "features": 7}', "FeatureCollection with features"),
    "a number as feature": (collection(feature((0, 0, 1, 1)), 7), "feature 2 is no Polygon"),
    "no geometry": (collection({"type": "Feature", "geometry": None}), "feature 1 is no Polygon or MultiPolygon; take"),
    "a point": (collection({"geometry": {"type": "Point", "coordinates": [0, 0]}}), "feature 1 is no Polygon"),
    "no coordinates": (polygon(), "feature 1 has no coordinates"),
    "words as coordinates": (polygon([["a", "b"]] * 4), "coordinates that make no polygon"),
    "one number each": (polygon([[1], [2], [3], [1]]), "coordinates that make no polygon"),
    "an open ring": (polygon(SQUARE[:-1]), "coordinates that make no polygon"),
    "not a number": (polygon([[0, 0], [float("nan"), 0], [1, 1], [0, 0]]), "coordinates that make no polygon"),
    "crossing itself": (polygon([[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]), "no valid polygon (Self-intersection"),
    "metres": (
        polygon(ring(600_000, 200_000, 601_000, 201_000)),
        "beyond 180 or 90 degrees; write longitude before latitude",
    ),
    "beyond a pole": (polygon(ring(0, 80, 1, 91)), "beyond 180 or 90 degrees"),
    "a second turn": (polygon(ring(170, 0, 190, 1)), "beyond 180 or 90 degrees"),
    "over the antimeridian by points on it": (
        polygon([[178, 1], [180, 0], [-180, 0], [-178, 1], [-178, 2], [-180, 3], [180, 3], [178, 2], [178, 1]]),
        "crosses the antimeridian; cut it into two",
    ),
    "over the antimeridian": (polygon(ring(-179, 0, 179, 1)), "crosses the antimeridian; cut it into two"),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_borders_that_will_not_do_are_refused_in_one_line_with_file_and_remedy(data, said):
    with pytest.raises(ConfigError) as refused:
        Countries.read(data, "borders.geojson")
    assert refused.value.public.startswith("borders.geojson")
    assert said in refused.value.public
    assert "; " in refused.value.public
    assert "\n" not in refused.value.public
