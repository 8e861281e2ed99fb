"""What leaves of an item once its operator says so: a small picture, the patch, or the file."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

from node.requests import Want
from rsfed.errors import AccessRefused, RasterRejected
from rsfed.raster import limits
from rsfed.raster.crop import crop, crop_bytes
from rsfed.raster.digest import content_digest
from rsfed.raster.layouts import product_at
from rsfed.raster.modality import modality
from rsfed.raster.preview import preview
from rsfed.raster.refusal import refusing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rsfed.raster.item import Item

QUICKLOOK = 256  # pixels, width and height


def deliver(item: Item, want: Want, *, most: int) -> tuple[str, bytes]:
    """Return what is wanted of an item.

    Args:
        item: The patch.
        want: What of it.
        most: Bytes that it may hold.

    Returns:
        The driver that reads it (PNG, GTiff, JPEG or JP2OpenJPEG), and its content.

    Raises:
        RasterRejected: the file is gone, damaged, or changed since it was ingested.
        AccessRefused: ACCESS_TOO_LARGE.
    """
    _check_size(size_of(item, want), most)
    driver, content = {Want.QUICKLOOK: quicklook, Want.CROP: crop, Want.FILE: _whole_file}[want](item)
    _check_size(len(content), most)
    return driver, content


def size_of(item: Item, want: Want) -> int:
    """Return about how many bytes would leave: of a file all of them, of pixels before they are packed.

    Raises:
        RasterRejected: the file is gone or damaged.
    """
    with refusing(item.path):
        if want is Want.FILE and product_at(item.path) is None:
            return item.path.stat().st_size
    return 3 * QUICKLOOK**2 if want is Want.QUICKLOOK else crop_bytes(item)


def quicklook(item: Item) -> tuple[str, bytes]:
    """Return a small picture of a patch, as a PNG.

    Raises:
        RasterRejected: the file is gone, damaged, or changed since it was ingested.
    """
    return "PNG", _png(preview(item, modality(item.modality), QUICKLOOK))


def _whole_file(item: Item) -> tuple[str, bytes]:
    """Return the file of a patch; of a product, which is several files, all bands on one grid as one file."""
    with refusing(item.path):
        if product_at(item.path) is not None:
            return crop(item)
        content = item.path.read_bytes()
        driver = limits.driver_for(content[: limits.MAGIC_BYTES])
        if (
            driver is None
            or content_digest(hashlib.sha256(content).digest(), item.window, item.modality, item.radiometry)
            != item.digest
        ):
            raise RasterRejected("it changed since it was ingested; run the ingest again")
    return driver, content


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # noqa: PLC0415 - loaded only when used

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise AccessRefused(
            f"it has {size / 2**20:,.1f} MiB and the limit is {most >> 20} MiB: raise access.max_mib in node.toml, or "
            "deny it and have a crop or quicklook asked for",
            reason="ACCESS_TOO_LARGE",
        )
