"""Products: folders whose files are the bands of one patch."""

from __future__ import annotations

import contextlib
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_makers import (
    PATCH,
    SENTINEL_2_GSD,
    item_of,
    look,
    optical_patch,
    radar_patch,
    spec,
    write_band,
    write_image,
)

from rsfed.errors import RasterRejected
from rsfed.raster.crop import crop
from rsfed.raster.digest import source_digest
from rsfed.raster.item import Item, Window
from rsfed.raster.layout import Candidate, walk
from rsfed.raster.modality import modality
from rsfed.raster.pixels import strips
from rsfed.raster.preview import preview
from rsfed.raster.reader import read, read_image
from rsfed.raster.source import opened

KIND = "sentinel-2-l2a"
OPTICAL = modality(KIND)
WHOLE = spec(" ".join(OPTICAL.bands), size=120, gsd=10.0, fit="crop")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    parent = tmp_path_factory.mktemp("product")
    return parent / PATCH, optical_patch(parent)


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / PATCH)


def band(folder, name):
    return folder / f"{folder.name}_{name}.tif"


def test_every_pixel_of_a_coarse_band_is_repeated_on_the_finest_grid(made):
    folder, values = made
    content = read(item_of(folder, KIND, WHOLE), WHOLE)["all"]
    for place, (name, gsd) in enumerate(SENTINEL_2_GSD.items()):
        times = round(gsd / 10)
        expected = np.kron(values[name], np.ones((times, times))).astype(np.float32)
        np.testing.assert_array_equal(content[place], expected, err_msg=name)


@pytest.mark.parametrize("window", [Window(0, 0, 1, 1), Window(7, 11, 25, 18), Window(61, 5, 59, 115)])
def test_any_window_of_some_bands_is_the_same_part_of_the_whole(made, window):
    with opened(made[0], OPTICAL) as source:
        (whole,) = strips(source, Window(0, 0, 120, 120))
        (part,) = strips(source, window, [0, 8, 1])
    rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
    np.testing.assert_array_equal(part.values, whole.values[[0, 8, 1], rows, cols])


def test_a_product_is_one_candidate_of_a_walk_and_says_where_it_lies(made):
    folder, _ = made
    (found,) = walk(folder.parent)
    assert isinstance(found, Candidate)
    assert (found.path, found.name) == (folder, PATCH)
    info = look(folder, KIND, WHOLE)
    assert (info.width, info.height, info.bands, info.crs, info.gsd) == (120, 120, 12, "EPSG:32633", 10)
    assert info.acquisition == "S2A:20170613T101031"
    assert info.footprint == info.windows[0].footprint


def test_radar_patch_has_its_two_bands(tmp_path):
    values = radar_patch(tmp_path)
    (found,) = walk(tmp_path)
    wanted = spec("VV VH", size=120, gsd=10.0, fit="crop")
    content = read(item_of(found.path, "sentinel-1-grd", wanted), wanted)["all"]
    np.testing.assert_array_equal(content, np.stack([values["VV"], values["VH"]]))


def test_pixels_without_data_in_a_coarse_band_are_missing_in_all_that_they_cover(copy):
    values = np.full((20, 20), 5, np.uint16)
    values[2, 3] = 0
    write_band(band(copy, "B09"), values, gsd=60, nodata=0)
    with opened(copy, OPTICAL) as source:
        (strip,) = strips(source, Window(0, 0, 120, 120))
    assert (~strip.valid).sum() == 36
    assert not strip.valid[12:18, 18:24].any()


@pytest.mark.parametrize("window", [Window(0, 0, 120, 120), Window(7, 11, 25, 18), Window(90, 90, 30, 30)])
def test_where_all_bands_have_data_is_the_same_with_and_without_their_values(copy, window):
    for name, size, gsd in (("B09", 20, 60), ("B11", 60, 20), ("B02", 120, 10)):
        values = np.full((size, size), 5, np.uint16)
        values[2 : size // 3, 3] = 0
        write_band(band(copy, name), values, gsd=gsd, nodata=0)
    with opened(copy, OPTICAL) as source:
        (full,), (bare,) = strips(source, window), strips(source, window, ())
    assert bare.values.shape == (0, window.height, window.width)
    assert (bare.valid is None) == (full.valid is None) == (window.col == 90)
    assert bare.valid is None or (bare.valid == full.valid).all()


def test_crop_and_preview_of_a_product_are_of_the_finest_grid(made):
    folder, _ = made
    driver, content = crop(item_of(folder, KIND, WHOLE))
    assert driver == "GTiff"
    assert len(content) > 100
    assert preview(folder, OPTICAL, 32).shape == (32, 32, 3)


def test_digest_follows_the_pixels_and_no_name(made, tmp_path):
    folder, _ = made

    def digest_of(product):
        return look(product, KIND, WHOLE).digest

    digest = digest_of(folder)
    other = PATCH.replace("26_57", "27_57")
    optical_patch(tmp_path, other)
    assert digest_of(tmp_path / other) == digest
    swapped = shutil.copytree(folder, tmp_path / PATCH)
    band(swapped, "B02").rename(tmp_path / "b2")
    band(swapped, "B03").rename(band(swapped, "B02"))
    (tmp_path / "b2").rename(band(swapped, "B03"))
    assert digest_of(swapped) != digest


def test_the_folder_of_a_product_is_listed_once_when_it_is_looked_at(made, monkeypatch):
    folder, _ = made
    listed, listing = [], os.scandir

    def counted(path):
        listed.append(os.fspath(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", counted)
    look(folder, KIND, WHOLE)
    assert listed == [str(folder)]


def test_no_file_of_a_patch_is_read_twice(made, monkeypatch):
    monkeypatch.setattr("rsfed.raster.digest.file_digest", lambda _: pytest.fail("a file was read again"))
    assert read(item_of(made[0], KIND, WHOLE), WHOLE)


def test_a_digest_is_that_of_the_pixels_also_where_a_file_changes_behind_them(copy):
    digest, whole = look(copy, KIND, WHOLE).digest, Window(0, 0, 120, 120)
    with opened(copy, OPTICAL) as source:
        before = source.read([0], whole)[0]
        write_band(band(copy, "B01"), np.ones((20, 20), np.uint16), gsd=60)
        assert source_digest(source) == digest
        assert (source.read([0], whole)[0] == before).all()
    with opened(copy, OPTICAL) as source:
        assert source_digest(source) != digest


def test_a_band_that_changed_since_the_ingest_is_refused(copy):
    item = item_of(copy, KIND, WHOLE)
    write_band(band(copy, "B01"), np.ones((20, 20), np.uint16), gsd=60)
    with pytest.raises(RasterRejected, match="changed since it was ingested"):
        read(item, WHOLE)


def test_stamp_follows_every_file(copy):
    (found,) = walk(copy.parent)
    before = found.stamp()
    assert found.stamp() == before
    os.utime(band(copy, "B05"), ns=(1, 1))
    assert found.stamp() != before


def test_bad_products_are_refused_with_band_reason_and_remedy(copy, tmp_path):
    small = np.ones((20, 20), np.uint16)

    def refused():
        with pytest.raises(RasterRejected) as error:
            look(copy, KIND, WHOLE, root=copy.parent)
        assert ";" in error.value.public
        return error.value.public

    kept = band(copy, "B09").read_bytes()
    band(copy, "B09").unlink()
    assert "band B09 is missing" in refused()
    band(copy, "B09").symlink_to(write_image(tmp_path.parent / "outside.tif", small[None]))
    assert "band B09: it is a link out of the archive" in refused()
    band(copy, "B09").unlink()
    for reason, changed in {
        "band B09: it covers other ground": {"gsd": 60, "west": 600_060.0},
        "other ground than other bands, or its pixels": {"gsd": 50},
        "band B09: it is in another projection": {"gsd": 60, "epsg": 32632},
        "band B09: it has no coordinate reference system": {"gsd": 60, "epsg": None},
    }.items():
        write_band(band(copy, "B09"), small, **changed)
        assert reason in refused()
    write_band(band(copy, "B09"), small[:19], gsd=60)
    assert "band B09: it covers other ground" in refused()
    write_band(band(copy, "B09"), small.astype(np.int16), gsd=60)
    assert "band B09: its samples are int16 and those of others uint16" in refused()
    write_image(band(copy, "B09"), np.ones((2, 20, 20), np.uint16))
    assert "band B09: it has 2 bands" in refused()
    band(copy, "B09").write_bytes(kept[: len(kept) - 200])
    assert "band B09: its pixels cannot be decoded" in refused()
    band(copy, "B09").write_bytes(b"")
    assert "band B09: it is empty" in refused()
    band(copy, "B09").write_bytes(kept)
    assert look(copy, KIND, WHOLE).width == 120


def test_a_product_of_another_sensor_is_refused(tmp_path):
    radar_patch(tmp_path)
    (found,) = walk(tmp_path)
    with pytest.raises(RasterRejected, match="it holds VV, VH and modality sentinel-2-l2a has none of these"):
        look(found.path, KIND, WHOLE)


def test_a_folder_that_is_no_product_any_more_is_refused(copy):
    item = Item(1, copy, Window(0, 0, 120, 120), KIND, "00")
    for each in copy.iterdir():
        each.unlink()
    with pytest.raises(RasterRejected, match="folder of no known layout"):
        read(item, WHOLE)


@settings(max_examples=100)
@given(st.data())
def test_a_product_with_a_mutated_file_is_read_or_refused(made, data):
    folder, _ = made
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    whole = path.read_bytes()
    mutated = bytearray(whole)
    place = data.draw(st.integers(0, 500))
    mutated[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        path.write_bytes(mutated[: data.draw(st.integers(0, len(mutated)))] if data.draw(st.booleans()) else mutated)
        with contextlib.suppress(RasterRejected):
            info, contents = read_image(folder, OPTICAL, WHOLE)
            assert (info.width, next(contents)["all"].shape) == (120, (12, 120, 120))
    finally:
        path.write_bytes(whole)
