"""Real images of the shared test data; skipped where they are absent."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raster_makers import look, spec

from rsfed.errors import RasterRejected
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.raster.preview import preview
from rsfed.raster.reader import read_image

DATA = Path(os.environ.get("RSFED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def sample(tmp_path):
    """Unpack images of one of the archives, each by the end of its name."""

    def unpack(archive, *endings):
        if not (DATA / archive).exists():
            pytest.skip(f"{archive} is not in {DATA}: set RSFED_TEST_DATA to the shared test data")
        with zipfile.ZipFile(DATA / archive) as packed:
            names = sorted(packed.namelist())
            chosen = [next(name for name in names if name.endswith(ending)) for ending in endings]
            return [Path(packed.extract(name, tmp_path)) for name in chosen]

    return unpack


def test_eurosat_jpeg_is_read_as_another_decoder_reads_it(sample):
    (path,) = sample("eurosat_rgb_15k.zip", ".jpg")
    info, (content,) = read_image(path, modality("rgb"), default_spec(modality("rgb"), 64))
    assert (info.width, info.height, info.crs, info.acquisition) == (64, 64, None, None)
    wanted = np.asarray(Image.open(path)).transpose(2, 0, 1).astype(np.float32)
    difference = abs(content["all"] * 127.5 + 127.5 - wanted)  # decoders differ in how they widen colour
    assert difference.mean() < 2
    assert difference.max() < 25


def test_uc_merced_images_of_all_sizes_are_resized(sample):
    for path in sample("ucmerced_jpeg.zip", "airplane00.jpg", "harbor05.jpg", "agricultural00.jpg"):
        _, (content,) = read_image(path, modality("rgb"), default_spec(modality("rgb"), 64))
        wanted = np.asarray(Image.open(path).resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert abs(content["all"] * 127.5 + 127.5 - wanted).mean() < 1.5
        assert preview(path, modality("rgb"), 64).std() > 5


def test_bigearthnet_band_has_its_place_time_and_acquisition(sample):
    optical, radar = sample("s1s2_pairs.zip", "20170613T101031_87_48_B02.tif", "20170613T165043_33UUP_87_48_VV.tif")
    info = look(optical, "uint16-1", spec("band1", size=64, gsd=10, fit="crop"))
    assert (info.width, info.crs, info.gsd, info.acquisition) == (120, "EPSG:32633", 10, "S2A:20170613T101031")
    assert info.acquired[0].isoformat() == "2017-06-13T10:10:31+00:00"
    backscatter = look(radar, "float32-1", spec("band1", size=64, gsd=10, fit="crop"))
    assert backscatter.footprint == pytest.approx(info.footprint, abs=1e-6), "both are of one place"
    assert backscatter.acquisition is None, "the short name does not tell the overpass"
    assert info.footprint == pytest.approx((13.7127, 48.2168, 13.7292, 48.2278), abs=1e-4)


def test_scene_with_a_slanted_border_gives_the_tiles_that_have_data(sample):
    (path,) = sample("s1s2_pairs.zip", "RGB.byte.tif")
    wanted = spec("red green blue", size=64, gsd=600, fit="tile")
    info = look(path, "rgb", wanted)
    assert (info.width, info.height, len(info.windows)) == (791, 718, 42)
    shares = [each.nodata for each in info.windows]
    assert max(shares) == 1
    assert min(shares) == 0
    usable, contents = read_image(path, modality("rgb"), wanted)
    assert len(list(contents)) == len(usable.windows) == sum(share <= 0.1 for share in shares)
    with pytest.raises(RasterRejected, match="more than 10% of it has no data"):
        read_image(path, modality("rgb"), spec("red green blue", size=64))


def test_jpeg_2000_is_read_and_its_own_overview_used(sample):
    path, bands = sample("s1s2_pairs.zip", "L2A_SCL_1830px_EPSG32701.jp2", "L1C_preview_B02.jp2")
    full = next(read_image(path, modality("panchromatic"), spec("pan", size=64, resampling="nearest"))[1])["all"]
    reduced = next(read_image(path, modality("panchromatic"), spec("pan", size=64, reduction=8))[1])["all"]
    assert full.shape == reduced.shape == (1, 64, 64)
    assert abs(full.mean() - reduced.mean()) < 0.3
    assert look(bands, "uint16-1").crs is None
    bands.write_bytes(bands.read_bytes()[:200_000])
    with pytest.raises(RasterRejected, match="truncated or damaged"):
        look(bands, "uint16-1")
