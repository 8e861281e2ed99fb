"""Sentinel-2 products as agencies ship them: what is read of them, and what is refused."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from raster_makers import REFLECTANCE, UTM, look, spec, write_image
from safe_makers import BANDS, SIZE, offset_list, product_xml, scene, write_item, write_s2

from rsfed.errors import RasterRejected
from rsfed.raster.crop import crop
from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item
from rsfed.raster.layout import Candidate, Skipped, walk
from rsfed.raster.layouts import product_at
from rsfed.raster.modality import modality
from rsfed.raster.reader import read

KIND = "sentinel-2-l2a"
OPTICAL = modality(KIND)
WHOLE = spec(" ".join(OPTICAL.bands), size=SIZE, gsd=10.0, fit="crop")
NAME = "S2A_MSIL2A_20240531T103021_N0510_R108_T33UUP_20240531T150000.SAFE"
NEWER = product_xml(baseline="04.00", offsets=offset_list("L2A", -1000))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A scene, and the product of an old baseline that holds it."""
    values = scene()
    values["B04"][:6, :6] = 0
    folder = tmp_path_factory.mktemp("safe") / NAME
    return values, write_s2(folder, values, classes=np.full((SIZE // 2, SIZE // 2), 4, np.uint8))


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / NAME)


def content(path, kind=KIND, wanted=WHOLE, declared=None):
    known = modality(kind)
    (window,) = inspect(path, root=None, modality=known, spec=wanted, radiometry=declared).windows
    return read(Item(1, path, window.window, kind, window.digest, radiometry=declared), wanted)["all"]


def stored_with(values, added):
    return {name: np.where(band == 0, 0, band + added).astype(np.uint16) for name, band in values.items()}


def test_all_bands_are_brought_to_the_finest_grid_and_stored_0_has_no_data(made):
    values, folder = made
    read_values = content(folder)
    seen = np.ones((SIZE, SIZE), bool)
    seen[:6, :6] = False
    for place, name in enumerate(OPTICAL.bands):
        times = BANDS[name] // 10
        expected = np.kron(values[name], np.ones((times, times))).astype(np.float32)
        np.testing.assert_array_equal(read_values[place][seen], expected[seen], err_msg=name)
        around = expected[[4, 5, 6, 6, 6], [6, 6, 6, 5, 4]]
        assert read_values[place, 5, 5] == pytest.approx(around.mean()), "filled in all bands"
    assert look(folder, KIND, WHOLE).windows[0].nodata == 36 / SIZE**2


def test_one_scene_is_the_same_of_any_baseline_and_from_a_stac_copy(made, tmp_path):
    values, old = made
    new = write_s2(tmp_path / "n0400.SAFE", stored_with(values, 1000), xml=NEWER)
    without = write_s2(tmp_path / "unsaid.SAFE", stored_with(values, 1000), xml=product_xml(baseline="99.99"))
    copied = write_item(tmp_path / "stac", values, **{"earthsearch:boa_offset_applied": True})
    wanted = content(old)
    np.testing.assert_array_equal(content(new), wanted)
    np.testing.assert_array_equal(content(without, declared=-1000), wanted)
    np.testing.assert_array_equal(content(copied), wanted)


def test_nodata_is_told_apart_before_the_offset_and_what_is_below_0_is_0(tmp_path):
    values = {name: np.full((SIZE * 10 // gsd,) * 2, 1500, np.uint16) for name, gsd in BANDS.items()}
    values["B02"][0, :3] = (0, 900, 1000)
    folder = write_s2(tmp_path / "a.SAFE", values, xml=NEWER)
    found = content(folder)[1]
    assert found[0, 1:4].tolist() == [0, 0, 500]
    assert found[0, 0] == np.float32((0 + 500 + 500) / 3), "filled from around"


def test_a_product_is_one_candidate_with_time_and_overpass_from_its_xml_whatever_it_is_called(copy):
    renamed = copy.rename(copy.parent / "march")
    for path in renamed.rglob("*.jp2"):
        path.rename(path.with_name("x_" + path.name.split("_", 2)[2]))
    (found,) = walk(renamed.parent)
    assert isinstance(found, Candidate)
    info = look(found.path, KIND, WHOLE)
    assert info.acquisition == "S2A:20240531T103021"
    assert info.acquired[0] == datetime(2024, 5, 31, 10, 30, 21, 24000, tzinfo=UTC)
    assert (info.width, info.bands, info.crs, info.gsd) == (SIZE, 12, "EPSG:32633", 10)
    assert info.footprint == info.windows[0].footprint
    assert product_at(found.path).classes.path.name.endswith("SCL_20m.jp2")


def test_overpass_is_the_same_across_tiles_levels_and_baselines(tmp_path):
    values = scene(1)
    other = write_s2(tmp_path / "tile.SAFE", values, xml=NEWER, tile="T33UVP", corner=(700_000.0, 5_400_000.0))
    top = write_s2(tmp_path / "top.SAFE", values, level="L1C")
    l1c = modality("sentinel-2-l1c")
    info = look(top, "sentinel-2-l1c", spec(" ".join(l1c.bands), size=SIZE, gsd=10.0, fit="crop"))
    assert (info.bands, info.acquisition) == (13, "S2A:20240531T103021")
    assert look(other, KIND, WHOLE).acquisition == info.acquisition
    plain = product_xml().replace("DATATAKE_SENSING_START", "OTHER")
    (other / "MTD_MSIL2A.xml").write_text(plain)
    assert product_at(other).tags()["ACQUISITION"] == info.acquisition, "else by the datatake's identifier"


def test_a_patch_that_is_given_away_has_the_values_that_were_encoded(made, tmp_path):
    values, _ = made
    folder = write_s2(tmp_path / "a.SAFE", stored_with(values, 1000), xml=NEWER)
    (window,) = look(folder, KIND, WHOLE).windows
    driver, crop_bytes = crop(Item(1, folder, window.window, KIND, window.digest))
    (tmp_path / "given.tif").write_bytes(crop_bytes)
    assert driver == "GTiff"
    np.testing.assert_array_equal(content(tmp_path / "given.tif"), content(folder))


def test_four_bands_are_read_as_colours(made):
    values, folder = made
    wanted = spec("red green blue nir", size=SIZE, gsd=10.0, fit="crop")
    found = content(folder, REFLECTANCE, wanted)
    seen = values["B04"] != 0
    np.testing.assert_array_equal(found[2][seen], values["B02"][seen])


def test_another_xml_or_declaration_makes_another_patch(copy):
    def digests(*declarations):
        looks = (inspect(copy, root=None, modality=OPTICAL, spec=WHOLE, radiometry=said) for said in declarations)
        return [info.windows[0].digest for info in looks]

    (before,) = digests(None)
    window = look(copy, KIND, WHOLE).windows[0].window
    (copy / "MTD_MSIL2A.xml").write_text(product_xml(baseline="03.01") + "\n")
    (after,) = digests(None)
    assert after != before
    assert digests(0, -1000) == [after] * 2, "its XML says it, so nobody's word counts"
    (copy / "MTD_MSIL2A.xml").write_text(product_xml(baseline="99.99"))
    assert len({after, *digests(0, -1000)}) == 3
    with pytest.raises(RasterRejected, match="changed since it was ingested"):
        read(Item(1, copy, window, KIND, "00", radiometry=0), WHOLE)


def band(folder, name):
    return next(folder.rglob(f"*_{name}_*.jp2"))


def lose_band(folder):
    band(folder, "B05").unlink()


def twice(folder):
    path = band(folder, "B05")
    shutil.copy(path, path.with_name("other_B05_20m.jp2"))


def truncated(folder):
    path = band(folder, "B05")
    path.write_bytes(path.read_bytes()[:700])


def narrow(folder):
    path = band(folder, "B05")
    where = {"crs": "EPSG:32633", "transform": UTM["transform"]}
    write_image(path, np.ones((1, 40, 40), np.uint16), driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES", **where)


def two_tiles(folder):
    (tile,) = (folder / "GRANULE").iterdir()
    shutil.copytree(tile, tile.with_name("L2A_T33UVP"))


def no_xml(folder):
    (folder / "MTD_MSIL2A.xml").unlink()


def evil_xml(folder):
    (folder / "MTD_MSIL2A.xml").write_text('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>')


def short_xml(folder):
    path = folder / "MTD_MSIL2A.xml"
    path.write_text(path.read_text()[:300])


def newer(folder):
    (folder / "MTD_MSIL2A.xml").write_text(product_xml(baseline="05.10"))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lose_band, "band B05 is missing; copy it again"),
        (twice, "two files of band B05; remove"),
        (truncated, "band B05: .*truncated or damaged; copy it again"),
        (narrow, "band B05: it covers other ground than other bands"),
        (two_tiles, "2 tiles, not one"),
        (no_xml, "product XML is missing; copy"),
        (evil_xml, "document type"),
        (short_xml, "truncated or no XML; copy"),
        (newer, r"say it by archive\.radiometry = 0 or -1000"),
    ],
)
def test_a_product_that_will_not_do_is_refused_in_one_line_with_the_remedy(copy, harm, reason):
    harm(copy)
    (found,) = walk(copy.parent)
    assert found.name == NAME
    with pytest.raises(RasterRejected, match=reason) as refused:
        look(copy, KIND, WHOLE)
    assert "\n" not in refused.value.public
    assert "T33UUP" not in refused.value.public


@pytest.mark.parametrize("name", ["MTD_MSIL2A.xml", "GRANULE"])
def test_a_link_out_of_the_archive_is_refused_also_inside_a_product(copy, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside") / "file"
    path = copy / name if name.endswith("xml") else band(copy, "B05")
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(RasterRejected, match="link out of the archive"):
        inspect(copy, root=copy.parent, modality=OPTICAL, spec=WHOLE)


def test_a_product_of_another_level_says_where_it_belongs(made):
    with pytest.raises(RasterRejected, match=r"level 2A and the archive holds sentinel-2-l1c; .* sentinel-2-l2a"):
        look(made[1], "sentinel-2-l1c", spec("B02", size=8))
    with pytest.raises(RasterRejected, match="archive holds rgb"):
        look(made[1], "rgb", spec("red", size=8))


def test_other_images_and_folders_beside_a_product_go_in(copy):
    write_image(copy.parent / "plain.tif", np.ones((12, 8, 8), np.uint16), **UTM)
    (copy.parent / "GRANULE").mkdir()
    write_image(copy.parent / "GRANULE" / "b.tif", np.ones((12, 8, 8), np.uint16), **UTM)
    found = list(walk(copy.parent))
    assert not [each for each in found if isinstance(each, Skipped)]
    assert sorted(each.name for each in found) == ["GRANULE/b.tif", NAME, "plain.tif"]


def test_plain_files_are_taken_as_stored_unless_the_operator_declares_it(tmp_path):
    values = np.full((4, 8, 8), 1500, np.uint16)
    values[1, 0, 0] = 0
    path = write_image(tmp_path / "a.tif", values, **UTM)
    wanted = spec("red green blue nir", size=8, gsd=10.0, fit="crop")
    assert content(path, REFLECTANCE, wanted)[:, 0, 0].tolist() == [1500, 0, 1500, 1500]
    declared = content(path, REFLECTANCE, wanted, declared=-1000)
    assert declared[:, 0, 0].tolist() == [500] * 4, "0 is nodata"
    assert declared[:, 1, 1].tolist() == [500] * 4


def test_power_that_is_declared_becomes_decibels(tmp_path):
    values = np.full((2, 8, 8), 0.01, np.float32)
    values[1, 0, 0] = 0
    path = write_image(tmp_path / "a.tif", values, **UTM)
    wanted = spec("VV VH", size=8, gsd=10.0, fit="crop")
    found = content(path, "sentinel-1-rtc-db", wanted, declared="linear")
    assert found[:, 1, 1] == pytest.approx(-20, abs=1e-4)
    assert found[:, 0, 0] == pytest.approx(-20, abs=1e-4), "zero is nodata before the logarithm"
