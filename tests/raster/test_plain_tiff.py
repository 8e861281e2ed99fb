"""The fast way into plain TIFF files gives what rasterio gives, or leaves the file to rasterio."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_makers import UTM, write_band, write_image

from rsfed.errors import RasterRejected
from rsfed.raster.image_file import ImageFile
from rsfed.raster.item import Window
from rsfed.raster.modality import modality
from rsfed.raster.plain_tiff import PlainTiff
from rsfed.raster.source import opened

DATA = Path(os.environ.get("RSFED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
HEADER = 400  # bytes before the pixels, at least
FACTS = ("width", "height", "dtype", "nodata", "row_bytes", "overview")


def samples(kind, shape=(40, 30), seed=0):
    random = np.random.default_rng(seed)
    if kind == "float32":
        return random.normal(-12, 5, shape).astype(np.float32)
    return random.integers(0, np.iinfo(kind).max, shape).astype(kind)


def plain(path, kind="uint16") -> PlainTiff | None:
    return PlainTiff.open(path, modality(f"{kind}-1"))


def same(fast: PlainTiff, path, kind="uint16") -> None:
    """Compare all that is told of a file, and all its pixels, with what rasterio says."""
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED=False):
        slow = ImageFile.open(path, "GTiff", modality(f"{kind}-1"), "convert it")
        assert {name: getattr(fast, name) for name in FACTS} == {name: getattr(slow, name) for name in FACTS}
        for name in ("crs", "resolution", "affine", "fitted"):
            assert getattr(fast.location, name) == getattr(slow.location, name), name
        window = Window(0, 0, slow.width, slow.height)
        assert fast.location.footprints([window]) == slow.location.footprints([window])
        for where in (window, Window(slow.width // 3, slow.height // 2, slow.width // 2, 1)):
            values, valid = fast.read([0], where)
            wanted, usable = slow.read([0], where)
            assert values.dtype == wanted.dtype
            assert values.tobytes() == wanted.tobytes()
            assert (valid is None) == (usable is None)
            assert valid is None or (valid == usable).all()
        slow.close()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("nodata", [None, 0, 7])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_plain_files_of_every_kind_are_read_equally(tmp_path, kind, nodata, rows):
    values = samples(kind)
    values[3:9, 4] = 7
    if kind == "float32":
        values[0, 0] = np.nan
    where = {} if rows == 7 else UTM
    path = write_image(tmp_path / "a.tif", values[None], blockysize=rows, nodata=nodata, **where)
    fast = plain(path, kind)
    assert fast is not None
    same(fast, path, kind)


@pytest.mark.parametrize(
    "profile",
    [
        {"compress": "deflate"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"photometric": "MINISWHITE"},
        {"nodata": 1.5},
        {"crs": "EPSG:3035"},
        {"crs": "EPSG:4326"},
        {"transform": UTM["transform"] @ UTM["transform"].rotation(10)},
        {"tags": {"ACQUISITION": "x"}},
        {"mask": np.full((40, 30), 255, np.uint8)},
        {"nbits": 12},
    ],
)
def test_whatever_is_not_plain_is_left_to_rasterio(tmp_path, profile):
    path = write_image(tmp_path / "a.tif", samples("uint16")[None] % 4096, **{**UTM, **profile})
    fast = plain(path)
    if "nodata" in profile:
        same(fast, path)
    else:
        assert fast is None
    with opened(path, modality("uint16-1")) as source:
        assert source.read([0], Window(0, 0, 30, 40))[0].any()


def test_links_folders_pipes_and_other_modalities_are_not_read(tmp_path):
    path = write_band(tmp_path / "a.tif", samples("uint16"), gsd=10)
    assert plain(path) is not None
    (tmp_path / "link.tif").symlink_to(path)
    os.mkfifo(tmp_path / "pipe.tif")
    assert plain(tmp_path / "link.tif") is plain(tmp_path) is plain(tmp_path / "pipe.tif") is None
    assert plain(path, "int16") is None
    assert PlainTiff.open(path, modality("uint16-2")) is None
    with pytest.raises(FileNotFoundError):
        plain(tmp_path / "gone.tif")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file as BigEarthNet has them, in several strips."""
    folder = tmp_path_factory.mktemp("plain")
    path = write_band(folder / "a.tif", samples("uint16"), gsd=10, blockysize=9, nodata=0)
    return path.read_bytes(), folder / "changed.tif"


def equal_or_left(content, path):
    """Return whether the file was read in the fast way; then it is as rasterio reads it."""
    path.write_bytes(content)
    fast = plain(path)
    if fast is None:
        return False
    same(fast, path)
    return True


def test_every_byte_of_a_header_is_checked(whole):
    content, path = whole
    assert equal_or_left(content, path)
    taken = 0
    for place in range(HEADER):
        for change in (1, 0x80, 0xFF):
            mutated = bytearray(content)
            mutated[place] ^= change
            taken += equal_or_left(bytes(mutated), path)
    assert 0 < taken < HEADER  # the corner and the pixel size may be any


@pytest.mark.parametrize(("tag", "size"), [(33550, 8), (34735, 2), (34737, 1)])  # pixel size, keys, their text
def test_a_corner_that_lies_over_another_tag_is_never_taken_from_another_file(tmp_path, tag, size):
    """Files that are the same but for the bytes of their corner may still differ in more than their corner."""
    content = bytearray(write_band(tmp_path / "a.tif", samples("uint16"), gsd=10, blockysize=9).read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    entries = {struct.unpack_from("<H", content, start + 2 + 12 * n)[0]: start + 2 + 12 * n for n in range(count)}
    length, over = struct.unpack_from("<II", content, entries[tag] + 4)
    length *= size
    corner = struct.pack("<6d", 0, 0, 0, 600_000, 5_400_000, 0)
    end = len(content)
    content += bytes(24 + max(24, length))  # corner and other values, one over the other
    content[end : end + 48] = corner
    content[end + 24 : end + 24 + length] = content[over : over + length]
    struct.pack_into("<I", content, entries[33922] + 8, end)
    struct.pack_into("<I", content, entries[tag] + 8, end + 24)
    other = bytearray(content)
    other[end + 24 : end + 48] = struct.pack("<3d", 20, 20, 0)
    for each in (content, other, content):
        equal_or_left(bytes(each), tmp_path / "b.tif")


def test_sides_are_as_limited_as_those_of_other_files(tmp_path):
    for shape in ((1, 65_536), (65_536, 1)):
        path = write_image(tmp_path / "a.tif", np.ones((1, *shape), np.uint8))
        assert plain(path, "uint8") is None
        with pytest.raises(RasterRejected, match="the limit is 65,535"), opened(path, modality("uint8-1")):
            pass


@settings(max_examples=150)
@given(st.data())
def test_mutated_files_are_read_equally_or_refused(whole, data):
    content, path = whole
    mutated = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, HEADER))
        value = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([2, 4]).map(bytes)))
        mutated[place : place + len(value)] = value
    cut = data.draw(st.one_of(st.just(len(mutated)), st.integers(0, len(mutated))))
    equal_or_left(bytes(mutated[:cut]), path)
    try:
        with opened(path, modality("uint16-1")) as source:
            source.read([0], Window(0, 0, source.width, source.height))
    except RasterRejected:
        pass


def test_real_patches_are_read_in_the_fast_way(tmp_path):
    archive = DATA / "s1s2_pairs.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not in {DATA}: set RSFED_TEST_DATA to the shared test data")
    with zipfile.ZipFile(archive) as packed:
        names = [each for each in packed.namelist() if each.startswith("bigearthnet_v1_examples/S")]
        names = [each for each in names if each.endswith(".tif")]
        assert len(names) == 6 * 14
        for name in names:
            path = Path(packed.extract(name, tmp_path))
            kind = "float32" if "/S1/" in name else "uint16"
            same(plain(path, kind), path, kind)
