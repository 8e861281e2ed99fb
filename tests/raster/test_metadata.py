"""Acquisition, time and place as files tell them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from PIL import Image
from raster_makers import REFLECTANCE, UTM, look, photo, reflectance, spec, write_image

from rsfed.raster.metadata import acquired, acquisition, place

SENTINEL_1 = "S1A_IW_GRDH_1SDV_20170613T165043_20170613T165108_017018_01C5A1_6DCC"
SENTINEL_2 = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
SENSED = datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)
MOMENT = datetime(2024, 5, 31, 10, 20, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tags", "stem", "wanted"),
    [
        ({"ACQUISITION": " a1 "}, SENTINEL_2, "a1"),
        ({}, SENTINEL_2, "S2A:20170613T101031"),
        ({}, "S2A_MSIL1C_20170613T101031_N0205_R022_T33UUP_20170613T101608", "S2A:20170613T101031"),
        ({}, SENTINEL_1, "S1A:017018:01C5A1"),
        ({}, "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48", None),
        ({}, "p000123", None),
        ({"ACQUISITION": ""}, "p", None),
        ({"ACQUISITION": "a\nb"}, "p", None),
        ({"ACQUISITION": "a" * 129}, "p", None),
    ],
)
def test_acquisition_is_one_overpass(tags, stem, wanted):
    assert acquisition(tags, stem) == wanted


@pytest.mark.parametrize(
    ("tags", "stem", "wanted"),
    [
        ({"ACQUIRED": "2024-05-31T10:20:30Z"}, SENTINEL_2, (MOMENT, MOMENT)),
        ({"ACQUIRED": "2024-05-31T10:20:30"}, "p", (MOMENT, MOMENT)),
        ({"ACQUIRED": "2024-05-31T12:20:30+02:00/2024-05-31T10:20:30Z"}, "p", (MOMENT, MOMENT)),
        ({"ACQUIRED": "2024-05-31T10:20:30Z/2017-06-13T10:10:31Z"}, "p", None),
        ({"ACQUIRED": "soon"}, SENTINEL_2, (SENSED, SENSED)),
        ({"EXIF_DateTimeOriginal": "2024:05:31 10:20:30"}, "p", (MOMENT, MOMENT)),
        ({"EXIF_DateTimeOriginal": "2024:05:31 12:20:30", "EXIF_OffsetTimeOriginal": "+02:00"}, "p", (MOMENT, MOMENT)),
        (
            {"EXIF_DateTimeOriginal": "0000:00:00 00:00:00", "TIFFTAG_DATETIME": "2024:05:31 10:20:30"},
            "p",
            (MOMENT,) * 2,
        ),
        ({"TIFFTAG_DATETIME": "31.05.2024"}, "p", None),
        ({"TIFFTAG_DATETIME": "0001:01:01 00:00:00+14:00"}, "p", None),
        ({}, SENTINEL_2, (SENSED, SENSED)),
        ({}, SENTINEL_1, (datetime(2017, 6, 13, 16, 50, 43, tzinfo=UTC), datetime(2017, 6, 13, 16, 51, 8, tzinfo=UTC))),
        ({}, "S2A_MSIL2A_20171399T101031_x", None),
    ],
)
def test_time_is_read_from_the_first_place_that_has_it(tags, stem, wanted):
    assert acquired(tags, stem) == wanted


def test_tags_of_a_geotiff_are_found(tmp_path):
    tags = {"ACQUISITION": "a1", "ACQUIRED": "2024-05-31T10:20:30Z", "PLACE": "p1"}
    path = write_image(tmp_path / "a.tif", reflectance(), **UTM, tags=tags)
    info = look(path, REFLECTANCE)
    assert (info.acquisition, info.acquired, info.place) == ("a1", (MOMENT, MOMENT), "p1")
    tiles = look(path, REFLECTANCE, spec("red green blue nir", size=16, fit="tile"))
    assert tiles.place is None, "a place belongs to one patch"
    assert place({}) is None


def test_time_of_a_photograph_is_found(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:05:31 10:20:30"
    Image.fromarray(photo().transpose(1, 2, 0)).save(tmp_path / "a.jpg", exif=exif)
    assert look(tmp_path / "a.jpg").acquired == (MOMENT, MOMENT)


def test_text_in_an_old_encoding_does_not_spoil_the_image(tmp_path):
    path = write_image(tmp_path / "a.tif", reflectance(), **UTM, tags={"TIFFTAG_ARTIST": "Muller"})
    path.write_bytes(path.read_bytes().replace(b"Muller", b"M\xfcller"))
    assert look(path, REFLECTANCE).acquisition is None
