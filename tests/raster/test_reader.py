"""From an item to what its encoder takes: exact pixels, in the right place, normalised, filled."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_makers import REFLECTANCE, UTM, item_of, look, photo, reflectance, spec, write_image
from rasterio import Affine

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.input_spec import BandGroup, InputSpec, default_spec
from rsfed.raster.modality import modality
from rsfed.raster.reader import read, read_image

BANDS = "red green blue nir"


def _at(gsd, **rest):
    return {"crs": "EPSG:32633", "transform": Affine(gsd, 0, 500_000, 0, -gsd, 5_000_000), **rest}


def _read(path, kind, wanted, place=0):
    return read(item_of(path, kind, wanted, place), wanted)["all"]


def test_patch_of_the_right_size_is_read_as_stored(tmp_path):
    values = reflectance(size=16)
    path = write_image(tmp_path / "a.tif", values, **UTM)
    for fit in ("resize", "crop", "tile"):
        content = _read(path, REFLECTANCE, spec(BANDS, size=16, gsd=10.0, fit=fit))
        assert content.dtype == np.float32
        assert content.flags.c_contiguous
        assert (content == values).all()


def test_values_are_normalised_band_by_band(tmp_path):
    values = reflectance(size=16)
    path = write_image(tmp_path / "a.tif", values, **UTM)
    group = BandGroup(bands=("nir", "red"), size=16, offset=(100, 200), scale=(10, 20))
    content = _read(path, REFLECTANCE, InputSpec(groups=(group,)))
    np.testing.assert_allclose(content[0], (values[3].astype(float) - 100) / 10, rtol=1e-6)
    np.testing.assert_allclose(content[1], (values[0].astype(float) - 200) / 20, rtol=1e-6)


def test_crop_is_the_centre(tmp_path):
    values = reflectance(size=33)
    path = write_image(tmp_path / "a.tif", values, **UTM)
    content = _read(path, REFLECTANCE, spec(BANDS, size=16, gsd=10.0, fit="crop"))
    assert (content == values[:, 8:24, 8:24]).all()


def test_crop_brings_finer_pixels_to_the_sampling_distance(tmp_path):
    values = reflectance(size=64)
    path = write_image(tmp_path / "a.tif", values, **_at(5))
    content = _read(path, REFLECTANCE, spec(BANDS, size=16, gsd=10.0, fit="crop", resampling="average"))
    np.testing.assert_allclose(content, values[:, 16:48, 16:48].reshape(4, 16, 2, 16, 2).mean(axis=(2, 4)), rtol=1e-6)


def test_crop_brings_coarser_pixels_to_the_sampling_distance(tmp_path):
    values = reflectance(size=32)
    path = write_image(tmp_path / "a.tif", values, **_at(20))
    content = _read(path, REFLECTANCE, spec(BANDS, size=16, gsd=10.0, fit="crop", resampling="nearest"))
    assert (content == values[:, 12:20, 12:20].repeat(2, axis=1).repeat(2, axis=2)).all()


def test_source_smaller_than_the_crop_lies_in_the_middle_and_is_continued(tmp_path):
    values = reflectance(size=12)
    values[:, 0], values[:, :, -1] = 700, 700
    path = write_image(tmp_path / "a.tif", values, **UTM)
    for fit in ("crop", "tile"):
        content = _read(path, REFLECTANCE, spec(BANDS, size=16, gsd=10.0, fit=fit, fill=-5.0))
        assert (content[:, 2:14, 2:14] == values).all()
        assert (content[:, :2, 4:] == 700).all()
        assert (content[:, :12, 14:] == 700).all()
        assert content[0, 15, 5] == pytest.approx(values[0, 11].astype(float)[1:6] @ [1, 2, 3, 2, 1] / 9)


@pytest.mark.parametrize("tiled", [False, True])
def test_tiles_are_the_pixels_of_their_windows(tmp_path, tiled):
    values = reflectance(size=40)
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"} if tiled else {}
    path = write_image(tmp_path / "a.tif", values, **UTM, **blocks)
    wanted = spec(BANDS, size=16, gsd=10.0, fit="tile")
    places = [(0, 0), (16, 0), (24, 0), (0, 16), (16, 16), (24, 16), (0, 24), (16, 24), (24, 24)]
    assert [(w.window.col, w.window.row) for w in look(path, REFLECTANCE, wanted).windows] == places
    for number, (col, row) in enumerate(places):
        assert (_read(path, REFLECTANCE, wanted, number) == values[:, row : row + 16, col : col + 16]).all()


def test_groups_are_read_each_at_its_own_size(tmp_path):
    values = reflectance(size=32)
    path = write_image(tmp_path / "a.tif", values, **UTM)
    fine = BandGroup(name="10m", bands=("red", "nir"), gsd=10, size=16, offset=(0, 0), scale=(1, 1))
    coarse = BandGroup(name="20m", bands=("blue",), gsd=20, size=8, offset=(0,), scale=(1,))
    wanted = InputSpec(groups=(fine, coarse), fit="crop", resampling="average")
    content = read(item_of(path, REFLECTANCE, wanted), wanted)
    assert (content["10m"] == values[[0, 3], 8:24, 8:24]).all()
    np.testing.assert_allclose(
        content["20m"][0], values[2, 8:24, 8:24].reshape(8, 2, 8, 2).mean(axis=(1, 3)), rtol=1e-6
    )


def test_photograph_is_resized_whatever_its_shape(tmp_path):
    path = write_image(tmp_path / "a.png", photo(size=48)[:, :31], driver="PNG")
    content = _read(path, "rgb", default_spec(modality("rgb"), 16))
    assert content.shape == (3, 16, 16)
    assert -1 <= content.min() < content.max() <= 1


NODATA = {
    "nodata value": (REFLECTANCE, np.uint16, 0, {"nodata": 0}),
    "signed nodata value": ("int16-4", np.int16, -9999, {"nodata": -9999}),
    "float nodata value": ("float32-4", np.float32, -3.4028235e38, {"nodata": -3.4028235e38}),
    "NaN": ("float32-4", np.float32, np.nan, {}),
    "NaN as nodata": ("float32-4", np.float32, np.nan, {"nodata": np.nan}),
    "infinity": ("float32-4", np.float32, np.inf, {}),
}


@pytest.mark.parametrize("name", NODATA)
@pytest.mark.parametrize("resampling", ["bilinear", "nearest", "average"])
def test_nodata_is_filled_from_around_and_its_neighbours_keep_their_values(tmp_path, name, resampling):
    kind, dtype, nodata, options = NODATA[name]
    values = np.full((4, 32, 32), 1000, dtype)
    values[:, 8:12, 8:24] = 3000
    values[2, 8:12, 8:24] = nodata  # one band is enough
    path = write_image(tmp_path / "a.tif", values, **UTM, **options)
    bands = " ".join(modality(kind).bands)
    wanted = spec(bands, size=16, offset=500, scale=250, resampling=resampling, fill=9.0)
    assert look(path, kind, wanted).windows[0].nodata == 64 / 1024
    assert (_read(path, kind, wanted) == 2).all()


def test_mask_and_alpha_count_as_nodata(tmp_path):
    mask = np.ones((32, 32), bool)
    mask[:4] = False
    masked = write_image(tmp_path / "a.tif", photo(), mask=mask)
    alpha = np.concatenate([photo(), mask[None] * np.uint8(255)])
    transparent = write_image(tmp_path / "b.png", alpha, driver="PNG")
    for path in (masked, transparent):
        assert look(path).bands == 3
        assert look(path).windows[0].nodata == 4 / 32
        content = _read(path, "rgb", spec("red green blue", size=32))
        assert (content[:, 4:] == photo()[:, 4:]).all()
        np.testing.assert_allclose(content[:, 3, 5], photo()[:, 4, 4:7].mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize(("rows", "usable"), [(9, True), (10, True), (11, False), (100, False)])
def test_share_of_nodata_decides_whether_an_image_is_searched(tmp_path, rows, usable):
    values = np.ones((1, 100, 100), np.float32)
    values[:, :rows] = np.nan
    path = write_image(tmp_path / "a.tif", values)
    wanted = spec("band1", size=16)
    assert look(path, "float32-1", wanted).windows[0].nodata == rows / 100
    if usable:
        assert len(list(read_image(path, modality("float32-1"), wanted)[1])) == 1
    else:
        with pytest.raises(RasterRejected, match="more than 10% of it has no data; choose another image"):
            read_image(path, modality("float32-1"), wanted)


def test_nodata_value_that_the_type_cannot_hold_hides_nothing(tmp_path):
    zeros = write_image(tmp_path / "a.tif", np.zeros((1, 16, 16), np.float32), nodata=-12345)
    zeros.write_bytes(zeros.read_bytes().replace(b"-12345", b"-1e300"))
    assert look(zeros, "float32-1").windows[0].nodata == 0
    ones = write_image(tmp_path / "b.tif", np.full((1, 16, 16), 255, np.uint8), nodata=100)
    for value in (b"300", b"1.5", b"nan", b" -1"):
        other = tmp_path / "c.tif"
        other.write_bytes(ones.read_bytes().replace(b"100\0", value + b"\0"))
        assert look(other, "panchromatic").windows[0].nodata == 0


def test_crop_counts_nodata_only_where_it_looks(tmp_path):
    values = reflectance(size=64)
    values[:, :20] = 0
    path = write_image(tmp_path / "a.tif", values, **UTM, nodata=0)
    assert look(path, REFLECTANCE, spec(BANDS, size=16, gsd=10.0, fit="crop")).windows[0].nodata == 0
    assert look(path, REFLECTANCE, spec(BANDS, size=16, fit="resize")).windows[0].nodata == 20 / 64


def test_values_too_large_for_floats_are_filled(tmp_path):
    values = np.full((1, 16, 16), 3e38, np.float32)
    values[0, 8:] = 1
    path = write_image(tmp_path / "a.tif", values)
    assert (_read(path, "float32-1", spec("band1", size=16, offset=-3e38)) == np.float32(3e38)).all()


def test_a_group_without_any_data_has_the_fill_of_the_release(tmp_path):
    values = reflectance(size=40)
    values[:, 12:28, 12:28] = 0
    path = write_image(tmp_path / "a.tif", values, **UTM, nodata=0)
    centre = BandGroup(name="centre", bands=("red",), gsd=10, size=16, offset=(0,), scale=(1,))
    groups = (*spec(BANDS, size=40, gsd=10.0).groups, centre)
    wanted = InputSpec(groups=groups, fit="crop", max_nodata=1, holes="rings", fill=-5.0)
    content = read(item_of(path, REFLECTANCE, wanted), wanted)
    assert (content["centre"] == -5).all()
    assert content["all"].min() >= values[values > 0].min()


@pytest.mark.parametrize("driver", ["GTiff", "JP2OpenJPEG"])
def test_reduction_uses_the_files_overviews_or_averages(tmp_path, driver):
    smooth = np.linspace(100, 3000, 128 * 128).reshape(1, 128, 128).astype(np.uint16)
    options = {"quality": "100", "reversible": "yes"} if driver == "JP2OpenJPEG" else {}
    path = write_image(tmp_path / "a", smooth, driver=driver, **options)
    full = _read(path, "uint16-1", spec("band1", size=16, resampling="average"))
    for factor in (2, 4):
        reduced = _read(path, "uint16-1", spec("band1", size=16, resampling="average", reduction=factor))
        np.testing.assert_allclose(reduced, full, atol=8)
    cropped = spec("band1", size=16, fit="crop", reduction=4)
    content = _read(path, "uint16-1", cropped)
    np.testing.assert_allclose(content.mean(), smooth[:, 56:72, 56:72].mean(), atol=8)


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.sampled_from(["resize", "crop", "tile"]), st.integers(1, 4))
def test_large_images_are_read_in_pieces_with_the_same_result(tmp_path_factory, width, height, fit, seed):
    path = tmp_path_factory.mktemp("pieces") / "a.tif"
    values = np.random.default_rng(seed).integers(0, 3000, (4, height, width)).astype(np.uint16)
    write_image(path, values, **UTM, nodata=0)
    wanted = spec(BANDS, size=24, gsd=7.0, fit=fit, max_nodata=1.0)
    info, contents = read_image(path, modality(REFLECTANCE), wanted)
    whole = list(contents)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "STRIP_BYTES", 1)
        info_in_pieces, contents = read_image(path, modality(REFLECTANCE), wanted)
        pieces = list(contents)
    assert info == info_in_pieces
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one["all"], other["all"], rtol=1e-4, atol=1e-2)


def test_changed_source_is_not_read(tmp_path):
    path = write_image(tmp_path / "a.tif", reflectance(), **UTM)
    item = item_of(path, REFLECTANCE, spec(BANDS))
    read(item, spec(BANDS))
    write_image(path, reflectance(seed=1), **UTM)
    with pytest.raises(RasterRejected, match="changed since it was ingested; run the ingest again"):
        read(item, spec(BANDS))
    path.unlink()
    with pytest.raises(RasterRejected, match="there is no such file"):
        read(item, spec(BANDS))


def test_query_image_gives_the_same_as_an_item(tmp_path):
    path = write_image(tmp_path / "a.tif", reflectance(size=40), **UTM)
    for fit in ("resize", "crop", "tile"):
        wanted = spec(BANDS, size=16, gsd=10.0, fit=fit)
        info, contents = read_image(path, modality(REFLECTANCE), wanted)
        for number, content in enumerate(contents):
            assert (content["all"] == _read(path, REFLECTANCE, wanted, number)).all()
        assert info == look(path, REFLECTANCE, wanted)


def test_tiles_of_a_query_without_enough_data_are_left_out(tmp_path):
    values = reflectance(size=32)
    values[:, :16, :16] = 0
    path = write_image(tmp_path / "a.tif", values, **UTM, nodata=0)
    info, contents = read_image(path, modality(REFLECTANCE), spec(BANDS, size=16, gsd=10.0, fit="tile"))
    assert [(w.window.col, w.window.row) for w in info.windows] == [(16, 0), (0, 16), (16, 16)]
    assert (next(contents)["all"] == values[:, :16, 16:]).all()


def test_tiles_of_a_query_are_read_one_at_a_time(tmp_path):
    path = write_image(tmp_path / "a.tif", reflectance(size=96), **UTM)
    info, contents = read_image(path, modality(REFLECTANCE), spec(BANDS, size=16, gsd=10.0, fit="tile"))
    taken, alive = [], []
    for content in contents:
        taken.append(weakref.ref(content["all"]))
        alive.append(sum(each() is not None for each in taken))
    assert len(alive) == len(info.windows) == 36
    assert max(alive) <= 2, "the one in hand and the one before"


def test_reading_twice_gives_the_same_bytes(tmp_path):
    path = write_image(tmp_path / "a.jpg", photo(size=50), driver="JPEG")
    first, second = (_read(path, "rgb", default_spec(modality("rgb"), 32)).tobytes() for _ in range(2))
    assert first == second


def test_digest_follows_content_window_and_modality_not_the_name(tmp_path):
    values = reflectance(size=32)
    wanted = spec(BANDS, size=16, gsd=10.0, fit="tile")
    a = look(write_image(tmp_path / "a.tif", values, **UTM), REFLECTANCE, wanted)
    b = look(write_image(tmp_path / "b.tif", values, **UTM), REFLECTANCE, wanted)
    c = look(write_image(tmp_path / "c.tif", values + 1, **UTM), REFLECTANCE, wanted)
    assert [w.digest for w in a.windows] == [w.digest for w in b.windows]
    assert len({w.digest for w in (*a.windows, *c.windows)}) == 8
    whole, other = (look(tmp_path / "a.tif", kind).windows[0] for kind in (REFLECTANCE, "uint16-4"))
    assert whole.window == other.window
    assert whole.digest != other.digest


def test_a_release_of_before_keeps_one_value_in_all_holes(tmp_path):
    values = reflectance(size=16)
    values[:, 4:6, 4:6] = 0
    path = write_image(tmp_path / "a.tif", values, **UTM, nodata=0)
    before = InputSpec.model_validate_json(spec(BANDS, size=16, gsd=10.0, fill=7.0).model_dump_json(exclude={"holes"}))
    old, new = (_read(path, REFLECTANCE, each) for each in (before, spec(BANDS, size=16, gsd=10.0, fill=7.0)))
    assert (old[:, 4:6, 4:6] == 7).all()
    assert not (new[:, 4:6, 4:6] == 7).any()
    old[:, 4:6, 4:6] = new[:, 4:6, 4:6] = 0
    assert (old == new).all()
