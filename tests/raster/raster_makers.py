"""Makers of images, good and bad, for the tests of the raster layer."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning

from rsfed.raster.input_spec import BandGroup, InputSpec
from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item
from rsfed.raster.modality import modality

UTM = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
REFLECTANCE = "rgbn-reflectance"


def write_image(path: Path, values: np.ndarray, *, driver="GTiff", tags=None, mask=None, **profile) -> Path:
    """Write samples of shape (bands, height, width)."""
    bands, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.Env(GDAL_PAM_ENABLED=False, GDAL_TIFF_INTERNAL_MASK=True):
            form = {"driver": driver, "count": bands, "height": height, "width": width, "dtype": values.dtype.name}
            with rasterio.open(path, "w", **form, **profile) as dataset:
                dataset.write(values)
                if tags:
                    dataset.update_tags(**tags)
                if mask is not None:
                    dataset.write_mask(mask)
    return path


def reflectance(seed=0, size=32, bands=4) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 4000, (bands, size, size)).astype(np.uint16)


def photo(seed=0, size=32, bands=3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (bands, size, size)).astype(np.uint8)


def spec(bands, *, size=16, gsd=None, offset=0.0, scale=1.0, **rest) -> InputSpec:
    names = tuple(bands.split())
    group = BandGroup(bands=names, gsd=gsd, size=size, offset=(offset,) * len(names), scale=(scale,) * len(names))
    return InputSpec(groups=(group,), **{"holes": "rings"} | rest)


RGB = spec("red green blue")
RGBN = spec("red green blue nir")


def look(path: Path, kind="rgb", wanted: InputSpec | None = None, root: Path | None = None):
    """Inspect an image with a spec that takes the whole of it."""
    known = modality(kind)
    return inspect(path, root=root, modality=known, spec=wanted or spec(" ".join(known.bands)))


def item_of(path: Path, kind: str, wanted: InputSpec, place=0) -> Item:
    """Return a patch of an image as a catalogue would hold it."""
    window = look(path, kind, wanted).windows[place]
    return Item(1, path, window.window, kind, window.digest)


def raw_tiff(
    path: Path, *, width=16, height=16, bands=1, bits=8, rows_per_strip=None, data=b"\0" * 256, compression=1
) -> Path:
    """Write a TIFF whose header says what one likes, whatever the data are."""
    bits_offset = 8
    per_band = struct.pack("<H", bits) * bands
    data_offset = bits_offset + max(len(per_band), 4)
    ifd_offset = data_offset + len(data) + len(data) % 2
    inline = struct.unpack("<I", per_band[:4].ljust(4, b"\0"))[0]
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, bands, inline if len(per_band) <= 4 else bits_offset),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, data_offset),
        (277, 3, 1, bands),
        (278, 4, 1, rows_per_strip or height),
        (279, 4, 1, len(data)),
    ]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    head = struct.pack("<2sHI", b"II", 42, ifd_offset) + per_band.ljust(4, b"\0")
    path.write_bytes(head + data + b"\0" * (len(data) % 2) + ifd)
    return path


def raw_png(path: Path, *, width: int, height: int, colour=2, rows=1) -> Path:
    """Write a PNG whose header promises any size and which holds a few rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    samples = {0: 1, 2: 3, 6: 4}[colour]
    body = zlib.compress((b"\0" + bytes(min(width, 1 << 20) * samples)) * rows, 9)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def bomb(path: Path, *, size=11_000, **blocks) -> Path:
    """Write a GeoTIFF of some KB that decodes to hundreds of MB: its blocks were never written."""
    profile = {"count": 4, "height": size, "width": size, "dtype": "uint16", "driver": "GTiff"}
    with rasterio.open(path, "w", **profile, **UTM, tiled=True, compress="deflate", sparse_ok=True, **blocks):
        pass
    return path


SENTINEL_2_GSD = dict(zip(modality("sentinel-2-l2a").bands, modality("sentinel-2-l2a").native_gsd, strict=True))
PATCH = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
RADAR_PATCH = "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57"


def optical_patch(
    parent: Path, name: str = PATCH, seed: int = 0, *, without=(), west=600_000.0, span=1200
) -> dict[str, np.ndarray]:
    """Write the folder of a BigEarthNet patch; returns the values of each band, shape (rows, columns)."""
    random, bands = np.random.default_rng(seed), {}
    for band, gsd in SENTINEL_2_GSD.items():
        side = round(span / gsd)
        bands[band] = random.integers(1, 4000, (side, side)).astype(np.uint16)
        if band not in without:
            write_band(parent / name / f"{name}_{band}.tif", bands[band], gsd=gsd, west=west)
    return bands


def radar_patch(parent: Path, name: str = RADAR_PATCH, seed: int = 0) -> dict[str, np.ndarray]:
    """Write the folder of a BigEarthNet patch of Sentinel-1; returns the values of each band."""
    random, bands = np.random.default_rng(seed), {}
    for band in ("VV", "VH"):
        bands[band] = random.uniform(-25, -5, (120, 120)).astype(np.float32)
        write_band(parent / name / f"{name}_{band}.tif", bands[band], gsd=10)
    return bands


def write_band(path: Path, values: np.ndarray, *, gsd: float, west=600_000.0, epsg=32633, **profile) -> Path:
    """Write one band of a product whose upper left corner is fixed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    where = {"crs": f"EPSG:{epsg}" if epsg else None, "transform": Affine(gsd, 0, west, 0, -gsd, 5_400_000)}
    return write_image(path, values[None], **where, **profile)
