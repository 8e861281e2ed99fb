"""Radiometry of Sentinel-2: which of its sources counts, and what it does to values."""

from __future__ import annotations

import numpy as np
import pytest
from safe_makers import offset_list, product_xml

from rsfed.errors import RasterRejected
from rsfed.raster.reflectance import Radiometry, of_product, of_stac
from rsfed.raster.xml_document import read_document

PAIR = ("B02", "B8A")
RASTER = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}


@pytest.fixture
def product(tmp_path):
    def radiometry(level="L2A", declared=None, bands=PAIR, **xml):
        (tmp_path / "a.xml").write_text(product_xml(level, **xml))
        return of_product(read_document(tmp_path / "a.xml", "product XML"), level, bands, declared)

    return radiometry


@pytest.mark.parametrize(("level", "baseline"), [("L2A", "04.00"), ("L1C", "05.10"), ("L2A", "99.99")])
def test_the_offset_of_each_band_is_that_of_the_product(product, level, baseline):
    assert product(level, baseline=baseline, offsets=offset_list(level, -1000)) == Radiometry((-1000, -1000))
    mixed = offset_list(level, -1000).replace('band_id="8">-1000', 'band_id="8">-500')
    assert product(level, baseline=baseline, offsets=mixed).offset == (-1000, -500), "B8A has id 8"
    assert product(level, bands=("B09", "B12"), offsets=mixed, declared=0).offset == (-1000, -1000)


def test_a_product_of_before_04_00_has_none_and_its_name_is_not_asked(product):
    assert product(baseline="03.01") == Radiometry((0, 0))
    assert product("L1C", baseline="02.05", declared=-1000) == Radiometry((0, 0)), "the XML comes first"


@pytest.mark.parametrize("baseline", ["04.00", "05.10", "99.99", "", "soon"])
def test_without_offsets_a_newer_or_unknown_baseline_needs_the_operators_word(product, baseline):
    with pytest.raises(RasterRejected, match=r"archive\.radiometry = 0 or -1000"):
        product(baseline=baseline)
    assert product(baseline=baseline, declared=-1000) == Radiometry((-1000, -1000), declared=-1000)
    assert product(baseline=baseline, declared=0) == Radiometry((0, 0), declared=0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"offsets": offset_list("L2A", -1000, leave_out=("B8A",))}, "gives no offset for band B8A"),
        ({"offsets": offset_list("L2A", -1000) + offset_list("L2A", 0)}, "has two offsets of band B01"),
        ({"offsets": '<BOA_ADD_OFFSET band_id="0">much</BOA_ADD_OFFSET>'}, "offset that is no number"),
        ({"offsets": '<BOA_ADD_OFFSET band_id="13">0</BOA_ADD_OFFSET>'}, "offset that is impossible"),
        ({"offsets": '<BOA_ADD_OFFSET band_id="1">inf</BOA_ADD_OFFSET>'}, "offset that is impossible"),
        ({"quantification": ""}, "has no BOA_QUANTIFICATION_VALUE"),
        ({"quantification": "0"}, "quantification value that is impossible"),
        ({"quantification": "nan"}, "quantification value that is impossible"),
        ({"quantification": "many"}, "quantification value that is no number"),
    ],
)
def test_impossible_radiometry_is_refused_with_the_reason(product, changes, problem):
    with pytest.raises(RasterRejected, match=problem):
        product(baseline="03.01", **changes)


def test_another_quantification_scales_to_the_same_unit(product):
    known = product(baseline="03.01", quantification="20000")
    assert known.apply(np.full((2, 1, 1), 3000, np.uint16), [0, 1]).tolist() == [[[1500]], [[1500]]]


def test_the_offset_is_added_and_what_is_below_0_is_0():
    known = Radiometry((-1000, 0))
    values = np.array([[[999, 1000, 1001, 65535]]], np.uint16)
    assert known.apply(values, [0]).tolist() == [[[0, 0, 1, 64535]]]
    assert known.apply(values, [1]).tolist() == values.tolist(), "each band has its own"


@pytest.mark.parametrize(
    ("properties", "asset", "wanted"),
    [
        ({}, RASTER, -1000),
        ({"earthsearch:boa_offset_applied": False}, RASTER, -1000),
        ({"earthsearch:boa_offset_applied": True}, RASTER, 0),
        ({"sentinel:boa_offset_applied": True}, {}, 0),
        ({}, {"raster:scale": 0.0001, "raster:offset": -0.1}, -1000),
        ({}, {"bands": [{"name": "B02", "raster:scale": 0.0001, "raster:offset": 0}]}, 0),
        ({"earthsearch:boa_offset_applied": "true"}, RASTER, -1000),
    ],
)
def test_a_stac_item_says_its_offset_and_whether_it_is_applied(properties, asset, wanted):
    assert of_stac(properties, [asset, asset], declared=-7) == Radiometry((wanted, wanted))


def test_a_stac_item_that_says_nothing_needs_the_operators_word():
    for assets in ([{}, {}], [RASTER, {}]):
        with pytest.raises(RasterRejected, match=r"archive\.radiometry"):
            of_stac({"s2:processing_baseline": "03.01"}, assets, declared=None)
        assert of_stac({}, assets, declared=-1000).offset == (-1000, -1000)


@pytest.mark.parametrize(
    "asset",
    [
        {"raster:bands": [{"offset": -0.1}]},
        {"raster:bands": [{"offset": -0.1, "scale": 0}]},
        {"raster:bands": [{"offset": "-0.1", "scale": 0.0001}]},
        {"raster:bands": [{"offset": float("nan"), "scale": 0.0001}]},
        {"raster:bands": [{"offset": -1e9, "scale": 0.0001}]},
    ],
)
def test_a_stac_item_whose_numbers_make_no_sense_is_refused(asset):
    with pytest.raises(RasterRejected, match="correct"):
        of_stac({}, [asset], declared=0)
