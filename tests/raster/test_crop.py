"""A patch as a file of its own holds its pixels and their place, and nothing else of its source."""

import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from rsfed.errors import RasterRejected
from rsfed.raster.crop import crop, crop_bytes
from rsfed.raster.digest import content_digest, file_digest
from rsfed.raster.item import Item, Window
from rsfed.raster.writer import Grid, write_geotiff


def item_of(path: Path, window: Window, modality: str) -> Item:
    return Item(1, path, window, modality, content_digest(file_digest(path), window, modality))


@pytest.fixture
def scene(tmp_path):
    values = np.random.default_rng(0).integers(1, 4000, (4, 96, 128)).astype(np.uint16)
    path = tmp_path / "secret-name.tif"
    write_geotiff(path, values, Grid(32632, 600_000.0, 5_200_000.0, 10.0), {"OWNER": "secret-owner"})
    return item_of(path, Window(32, 16, 48, 40), "rgbn-reflectance"), values


def test_it_holds_the_stored_pixels_of_all_bands_where_they_lie(scene, tmp_path):
    item, values = scene
    driver, content = crop(item)
    copy = tmp_path / "copy.tif"
    copy.write_bytes(content)
    with rasterio.open(copy, driver=driver) as found:
        assert driver == "GTiff"
        np.testing.assert_array_equal(found.read(), values[:, 16:56, 32:80])
        assert found.crs.to_epsg() == 32632
        assert found.transform[:6] == (10.0, 0.0, 600_320.0, 0.0, -10.0, 5_199_840.0)
        assert found.descriptions == ("red", "green", "blue", "nir")


def test_it_holds_nothing_else_of_its_source(scene):
    _, content = crop(scene[0])
    assert b"secret" not in content


def test_what_means_nothing_still_does(tmp_path):
    values = np.full((1, 40, 40), -12.5, np.float32)
    path = tmp_path / "radar.tif"
    profile = {"driver": "GTiff", "count": 2, "height": 40, "width": 40, "dtype": "float32", "nodata": -9999.0}
    profile |= {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(np.concatenate([values, values]))
    driver, content = crop(item_of(path, Window(0, 0, 20, 20), "sentinel-1-grd"))
    copy = tmp_path / "copy.tif"
    copy.write_bytes(content)
    with rasterio.open(copy, driver=driver) as found:
        assert found.nodata == -9999.0


@contextmanager
def lying_nowhere():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def read_back(tmp_path, item):
    """Return the values of a delivered patch and where each band has data."""
    driver, content = crop(item)
    copy = tmp_path / "copy"
    copy.write_bytes(content)
    with lying_nowhere(), rasterio.open(copy, driver=driver) as found:
        return found.read(), found.read_masks() != 0


def holed(values, where, tmp_path):
    """Write an image that has no data in some places, by a mask of its own."""
    bands, height, width = values.shape
    path = tmp_path / "holes.tif"
    form = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": values.dtype.name}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), lying_nowhere(), rasterio.open(path, "w", **form) as dataset:
        dataset.write(values)
        dataset.write_mask(~where)
    return path


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("rgbn-reflectance", np.random.default_rng(0).integers(0, 4000, (4, 40, 40)).astype(np.uint16)),
        ("rgb", np.random.default_rng(0).integers(0, 200, (3, 40, 40)).astype(np.uint8)),
        ("rgb", (np.arange(3 * 40 * 40) % 256).astype(np.uint8).reshape(3, 40, 40)),  # no value is left for nodata
        ("int16-1", np.random.default_rng(0).integers(-3, 4, (1, 40, 40)).astype(np.int16)),
        ("sentinel-1-grd", np.random.default_rng(0).normal(size=(2, 40, 40)).astype(np.float32)),
    ],
)
def test_holes_of_a_mask_stay_holes_and_pixels_stay_pixels(tmp_path, kind, values):
    where = np.random.default_rng(1).random((40, 40)) < 0.1
    item = item_of(holed(values, where, tmp_path), Window(5, 10, 30, 20), kind)
    found, has_data = read_back(tmp_path, item)
    part = (slice(10, 30), slice(5, 35))
    assert (has_data == ~where[part]).all()
    np.testing.assert_array_equal(found[:, ~where[part]], values[:, *part][:, ~where[part]])


def test_what_an_offset_makes_dark_is_no_hole_and_holes_are(tmp_path):
    values = np.full((4, 16, 16), 1500, np.uint16)
    values[:, 0, 0], values[:, 1, 1] = 0, 900
    path = tmp_path / "scene.tif"
    write_geotiff(path, values, Grid(32632, 600_000.0, 5_200_000.0, 10.0), {})
    kind, window = "rgbn-reflectance", Window(0, 0, 16, 16)
    digest = content_digest(file_digest(path), window, kind, -1000)
    found, has_data = read_back(tmp_path, Item(1, path, window, kind, digest, radiometry=-1000))
    assert [tuple(place) for place in np.argwhere(~has_data.all(axis=0))] == [(0, 0)]
    assert (found[:, 1, 1] == 0).all(), "reflectance that is not above 0"
    assert (found[:, 2, 2] == 500).all()


def test_power_without_a_logarithm_is_a_hole(tmp_path):
    values = np.full((2, 16, 16), 0.01, np.float32)
    values[1, 3, 4] = 0
    path = tmp_path / "power.tif"
    write_geotiff(path, values, Grid(32632, 600_000.0, 5_200_000.0, 10.0), {})
    kind, window = "sentinel-1-rtc-db", Window(0, 0, 16, 16)
    digest = content_digest(file_digest(path), window, kind, "linear")
    found, has_data = read_back(tmp_path, Item(1, path, window, kind, digest, radiometry="linear"))
    assert [tuple(place) for place in np.argwhere(~has_data.all(axis=0))] == [(3, 4)]
    assert found[0, 0, 0] == pytest.approx(-20, abs=1e-4)


def test_a_photograph_becomes_a_png(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    item = item_of(path, Window(10, 5, 20, 20), "rgb")
    driver, content = crop(item)
    copy = tmp_path / "copy.png"
    copy.write_bytes(content)
    assert driver == "PNG"
    np.testing.assert_array_equal(np.asarray(Image.open(copy)), pixels[5:25, 10:30])
    assert crop_bytes(item) == 20 * 20 * 3


def test_a_source_that_changed_or_went_is_refused(scene, tmp_path):
    item, _ = scene
    with pytest.raises(RasterRejected, match="changed"):
        crop(replace(item, digest="00" * 32))
    item.path.unlink()
    with pytest.raises(RasterRejected, match="no such file"):
        crop(item)
