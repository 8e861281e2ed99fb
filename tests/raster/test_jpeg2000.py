"""JPEG 2000 at a reduced resolution: what GDAL does not offer of small images equals what it does of larger ones."""

import hashlib

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_makers import UTM, item_of, look, spec, write_image
from rasterio import Affine
from rasterio.io import MemoryFile

from rsfed.errors import RasterRejected
from rsfed.raster.digest import source_digest
from rsfed.raster.image_file import ImageFile
from rsfed.raster.item import Window
from rsfed.raster.jpeg2000 import coarse_level
from rsfed.raster.modality import modality
from rsfed.raster.reader import read, read_image
from rsfed.raster.source import opened

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
JP2 = {"driver": "JP2OpenJPEG", "RESOLUTIONS": "5"}
LOSSY, LOSSLESS = {"QUALITY": "25"}, {"QUALITY": "100", "REVERSIBLE": "YES"}
RGB = modality("rgb")


def textured(height, width, bands=3, seed=0):
    """Coarse blocks under noise, so that every resolution level has something to say."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 200, (bands, -(-height // 16), -(-width // 16)))
    values = np.kron(blocks, np.ones((16, 16), int))[:, :height, :width]
    return (values + rng.integers(0, 56, values.shape)).astype(np.uint8)


def level(path, halvings):
    """What GDAL itself decodes at a resolution level."""
    with rasterio.open(path, overview_level=halvings - 1) as dataset:
        return dataset.read()


def of_bytes(data):
    with MemoryFile(data) as memory, memory.open(driver="JP2OpenJPEG") as dataset:
        return dataset.read()


def raw(bands, size, reduction, **rest):
    return spec(bands, size=size, reduction=reduction, **rest)


@pytest.mark.parametrize(
    "options",
    [
        LOSSY,
        LOSSLESS,
        LOSSY | {"PROGRESSION": "RPCL", "PRECINCTS": "{256,256},{128,128},{64,64},{32,32},{32,32}"},
        {"QUALITY": "10,25", "PROGRESSION": "RLCP"},
        LOSSY | {"TLM": "YES"},
        LOSSY | {"CODEC": "J2K"},
    ],
    ids=["lossy", "lossless", "precincts", "layers", "tile lengths", "bare codestream"],
)
def test_a_level_made_of_the_header_equals_the_one_that_gdal_offers(tmp_path, options):
    path = write_image(tmp_path / "a.jp2", textured(1031, 77), **JP2, BLOCKXSIZE=77, BLOCKYSIZE=1031, **options)
    for halvings in (1, 2):
        made = coarse_level(path.read_bytes(), halvings)
        assert (of_bytes(made.data) == level(path, halvings)).all()
        assert (made.width, made.height) == (77, 1031)
    assert of_bytes(coarse_level(path.read_bytes(), 3).data).shape == (3, 129, 10)


@pytest.mark.parametrize("options", [LOSSY, LOSSLESS], ids=["lossy", "lossless"])
def test_a_patch_is_read_at_every_reduction_from_its_own_level(tmp_path, options):
    values = textured(256, 256)
    path = write_image(tmp_path / "a.jp2", values, **JP2, **options)
    for factor in (2, 4, 8):
        with opened(path, RGB, reduction=factor) as source:
            assert source.overview == factor
            assert source.size == (256, 256)
        content = next(read_image(path, RGB, raw("red green blue", 256 // factor, factor))[1])["all"]
        assert (content == of_bytes(coarse_level(path.read_bytes(), factor.bit_length() - 1).data)).all()
        mean = values.reshape(3, 256 // factor, factor, 256 // factor, factor).mean(axis=(2, 4))
        assert np.abs(content - mean).mean() > 1, "the sub-band, which is not the mean"
        assert np.corrcoef(content.ravel(), mean.ravel())[0, 1] > 0.8
    assert (next(read_image(path, RGB, raw("red green blue", 128, 2))[1])["all"] == level(path, 1)).all()


def test_a_patch_is_of_the_very_bytes_that_its_digest_is_of(tmp_path):
    first = write_image(tmp_path / "a.jp2", textured(256, 256), **JP2, **LOSSY)
    other = write_image(tmp_path / "b.jp2", textured(256, 256, seed=1), **JP2, **LOSSY).read_bytes()
    kept = first.read_bytes()
    with opened(first, RGB, reduction=4) as source:
        first.write_bytes(other)  # while it is open
        values, _ = source.read(range(3), Window(0, 0, 64, 64))
        digest = source_digest(source)
    assert (values == of_bytes(coarse_level(kept, 2).data)).all()
    assert digest == hashlib.sha256(kept).digest()


def test_a_form_that_cannot_be_cut_is_averaged(tmp_path):
    values = textured(128, 128)
    for options in (
        {"QUALITY": "10,25"},  # by layer first
        LOSSY | {"PROGRESSION": "PCRL"},
        LOSSY | {"BLOCKXSIZE": "64", "BLOCKYSIZE": "64"},
        LOSSY | {"PLT": "YES"},
        {"QUALITY": "25", "RESOLUTIONS": "2"},
    ):
        path = write_image(tmp_path / "a.jp2", values, **(JP2 | options))
        assert coarse_level(path.read_bytes(), 2) is None
        full = next(read_image(path, RGB, raw("red green blue", 128, 1))[1])["all"]
        small = next(read_image(path, RGB, raw("red green blue", 32, 4))[1])["all"]
        np.testing.assert_allclose(small, full.reshape(3, 32, 4, 32, 4).mean(axis=(2, 4)), atol=1e-3)


@pytest.mark.parametrize("grid", [UTM, {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 7, 0, -1e-3, 60)}])
def test_what_is_known_of_a_source_does_not_depend_on_the_reduction(tmp_path, grid):
    path = write_image(tmp_path / "a.jp2", textured(320, 256), **JP2, **LOSSY, **grid)
    one, other = look(path), look(path, wanted=raw("red green blue", 64, 4))
    assert one == other
    assert (other.width, other.height, other.windows[0].window.height) == (256, 320, 320)
    assert other.footprint


def test_looking_at_an_archive_decodes_no_more_than_the_encoder_takes(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.jp2", textured(256, 256), **JP2, **LOSSY)
    decode, shapes = ImageFile.read, []
    monkeypatch.setattr(ImageFile, "read", lambda file, *rest: shapes.append(file.dataset.shape) or decode(file, *rest))
    wanted = raw("red green blue", 64, 4)
    assert look(path, wanted=wanted).windows[0].nodata == 0
    read(item_of(path, "rgb", wanted), wanted)
    assert set(shapes) == {(64, 64)}


@pytest.mark.parametrize("overviews", [[], [2, 4, 8]], ids=["averaged", "overviews"])
def test_the_share_without_data_is_that_of_the_reduced_image(tmp_path, overviews):
    values = np.full((1, 256, 256), 900, np.uint16)
    values[:, :, :120] = 0
    path = write_image(tmp_path / "a.tif", values, nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews(overviews)
    for factor in (1, 2, 4, 8):
        wanted = raw("band1", 256 // factor, factor)
        assert look(path, "uint16-1", wanted).windows[0].nodata == 120 / 256
        assert (read(item_of(path, "uint16-1", wanted), wanted)["all"] == 900).all(), "0 takes part in no value"


@pytest.mark.parametrize("size", [128, 640], ids=["a patch", "an image with overviews"])
def test_a_truncated_file_is_refused_at_every_reduction(tmp_path, size):
    whole = write_image(tmp_path / "a.jp2", textured(size, size), **JP2, **LOSSY).read_bytes()
    cut = tmp_path / "cut.jp2"
    for share in (0.02, 0.1, 0.5, 0.99):
        cut.write_bytes(whole[: int(share * len(whole))])
        for factor in (1, 2, 4):
            with pytest.raises(RasterRejected, match="truncated or damaged; copy it again from its origin"):
                look(cut, wanted=raw("red green blue", 64, factor))


@pytest.mark.parametrize(("layers", "taken"), [(1000, True), (1001, False), (65535, False)])
@pytest.mark.parametrize("boxes", [True, False])
def test_a_header_that_promises_more_layers_than_archives_have_is_refused(tmp_path, boxes, layers, taken):
    path = write_image(tmp_path / "a.jp2", textured(64, 64), **JP2, **LOSSY)
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\x4f\xff\x51")
    place = data.index(b"\xff\x52", start) + 6
    data[place : place + 2] = layers.to_bytes(2, "big")
    path.write_bytes(data if boxes else data[start:])
    if taken:
        assert look(path, wanted=raw("red green blue", 64, 1)).windows
        return
    with pytest.raises(RasterRejected, match=f"promises {layers:,} layers of quality, the limit is 1,000; copy it"):
        look(path, wanted=raw("red green blue", 64, 1))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path_factory, changes, headers):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        folder.mkdir()
        write_image(folder / "whole.jp2", textured(128, 96), **JP2, **LOSSY)
    data = bytearray((folder / "whole.jp2").read_bytes())
    for place, value in changes:
        data[int(place * ((250 if headers else len(data)) - 1))] = value
    path = folder / "a.jp2"
    path.write_bytes(data)
    try:
        info = look(path, wanted=raw("red green blue", 32, 4))
    except RasterRejected:
        return
    assert info.windows
