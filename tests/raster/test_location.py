"""Where a source lies, against GDAL's own transformation of bounds."""

from __future__ import annotations

import numpy as np
import pytest
from raster_makers import REFLECTANCE, UTM, look, photo, reflectance, spec, write_image
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.warp import transform_bounds


def test_footprint_and_sampling_distance_of_a_projected_image(tmp_path):
    info = look(write_image(tmp_path / "a.tif", reflectance(size=64), **UTM), REFLECTANCE)
    assert info.crs == "EPSG:32633"
    assert info.gsd == 10
    wanted = transform_bounds("EPSG:32633", "EPSG:4326", 500_000, 5_000_000 - 640, 500_640, 5_000_000)
    assert info.footprint == pytest.approx(wanted, abs=1e-6)
    assert info.windows[0].footprint == info.footprint


def test_every_tile_has_its_own_footprint(tmp_path):
    path = write_image(tmp_path / "a.tif", reflectance(size=48), **UTM)
    info = look(path, REFLECTANCE, spec("red green blue nir", size=16, gsd=10, fit="tile"))
    for each in info.windows:
        west, north = 500_000 + each.window.col * 10, 5_000_000 - each.window.row * 10
        wanted = transform_bounds("EPSG:32633", "EPSG:4326", west, north - 160, west + 160, north)
        assert each.footprint == pytest.approx(wanted, abs=1e-6)
    west, south, east, north = np.array([each.footprint for each in info.windows]).T
    assert (west.min(), south.min(), east.max(), north.max()) == pytest.approx(info.footprint, abs=1e-6)


def test_sampling_distance_of_degrees_and_feet_is_in_metres(tmp_path):
    degrees = {"crs": "EPSG:4326", "transform": Affine(0.001, 0, 10, 0, -0.001, 60.016)}
    info = look(write_image(tmp_path / "a.tif", photo(), **degrees))
    assert info.gsd == pytest.approx(np.sqrt(111_320 * 111_320 * 0.5) * 0.001, rel=1e-3)
    assert info.footprint == pytest.approx((10, 60.016 - 0.032, 10.032, 60.016))
    feet = {"crs": "EPSG:2263", "transform": Affine(10, 0, 980_000, 0, -10, 200_000)}
    assert look(write_image(tmp_path / "b.tif", photo(), **feet)).gsd == pytest.approx(3.048, rel=1e-4)


def test_image_without_a_reference_system_has_no_place(tmp_path):
    for name, options in {"a": {}, "b": {"transform": UTM["transform"]}}.items():
        info = look(write_image(tmp_path / name, photo(), **options))
        assert (info.crs, info.gsd, info.footprint, info.windows[0].footprint) == (None, None, None, None)


@pytest.mark.parametrize(
    "affine", [Affine(0, 0, 0, 0, 0, 0), Affine(10, 0, 1e300, 0, -10, 0), Affine(1e-300, 0, 0, 0, 1e300, 0)]
)
def test_impossible_place_is_no_place(tmp_path, affine):
    info = look(write_image(tmp_path / "a.tif", photo(), crs="EPSG:32633", transform=affine))
    assert info.footprint is None


def test_footprint_across_the_antimeridian_runs_eastward(tmp_path):
    across = {"crs": "EPSG:32701", "transform": Affine(300, 0, 166_000, 0, -300, 8_000_000)}
    west, south, east, north = look(write_image(tmp_path / "a.tif", photo(size=64), **across)).footprint
    assert 179 < west <= 180
    assert -180 <= east < -179
    assert south < north


def test_ground_control_points_give_a_place(tmp_path):
    points = [GroundControlPoint(row, col, 10 + col / 1000, 50 - row / 1000) for row in (0, 64) for col in (0, 64)]
    info = look(write_image(tmp_path / "a.tif", photo(size=64), gcps=points, crs="EPSG:4326"))
    assert info.footprint == pytest.approx((10, 49.936, 10.064, 50), abs=1e-6)
