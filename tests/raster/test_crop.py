"""A patch as a file of its own holds its pixels and their place, and nothing else of its source."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

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
