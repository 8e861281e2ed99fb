"""Pictures of one's own images."""

from __future__ import annotations

import numpy as np
import pytest
from raster_makers import REFLECTANCE, UTM, item_of, photo, spec, write_image

from rsfed.errors import RasterRejected
from rsfed.raster.modality import modality
from rsfed.raster.preview import preview


def test_photograph_keeps_its_values(tmp_path):
    values = photo(size=24)
    path = write_image(tmp_path / "a.png", values, driver="PNG")
    picture = preview(path, modality("rgb"), 24)
    assert picture.dtype == np.uint8
    assert (picture == values.transpose(1, 2, 0)).all()


def test_reflectance_is_stretched_in_its_true_colours(tmp_path):
    values = np.tile(np.linspace(500, 900, 32), (4, 32, 1)).astype(np.uint16)
    values[2] //= 2  # little blue
    values[3] = 9000  # near infrared is not shown
    picture = preview(write_image(tmp_path / "a.tif", values, **UTM), modality(REFLECTANCE), 32)
    assert picture.min() == 0
    assert picture.max() == 255
    assert (picture[:, :, 0] == picture[:, :, 1]).all()
    assert (picture[:, :, 2] < picture[:, :, 0]).any()


def test_item_is_drawn_from_its_window(tmp_path):
    values = photo(size=32)
    path = write_image(tmp_path / "a.png", values, driver="PNG")
    item = item_of(path, "rgb", spec("red green blue", size=16, fit="tile"), place=3)
    assert (preview(item, modality("rgb"), 16) == values[:, 16:, 16:].transpose(1, 2, 0)).all()


def test_other_shapes_and_nodata_leave_paper(tmp_path):
    picture = preview(write_image(tmp_path / "a.png", photo(size=32)[:, :16], driver="PNG"), modality("rgb"), 32)
    assert (picture[:8] == 255).all()
    assert (picture[24:] == 255).all()
    assert not (picture[8:24] == 255).all()
    upright = preview(write_image(tmp_path / "c.png", photo(size=32)[:, :, :16], driver="PNG"), modality("rgb"), 32)
    assert (upright[:, :8] == 255).all()
    assert (upright[:, 24:] == 255).all()
    empty = np.full((1, 16, 16), np.nan, np.float32)
    assert (preview(write_image(tmp_path / "b.tif", empty), modality("float32-1"), 16) == 255).all()


@pytest.mark.parametrize("name", ["panchromatic", "sentinel-1-grd", "sentinel-2-l2a", "float32-5"])
def test_every_modality_has_a_picture(tmp_path, name):
    known = modality(name)
    values = (np.random.default_rng(1).random((len(known.bands), 16, 16)) * 200).astype(known.dtypes[0])
    assert preview(write_image(tmp_path / "a.tif", values), known, 40).shape == (40, 40, 3)


def test_an_item_that_changed_is_not_drawn(tmp_path):
    path = write_image(tmp_path / "a.png", photo(size=32), driver="PNG")
    item = item_of(path, "rgb", spec("red green blue", size=16, fit="tile"))
    write_image(path, photo(1, size=32), driver="PNG")
    with pytest.raises(RasterRejected, match="changed since it was ingested"):
        preview(item, modality("rgb"), 16)


def test_bad_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(RasterRejected):
        preview(tmp_path / "a.png", modality("rgb"), 16)
