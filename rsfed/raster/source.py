"""Opening a source: one door, through which nothing but a local, plain, allow-listed image gets in.

- The real path lies inside the archive; a link out of it is refused.
- It is a regular file, or a product of such files, each opened by the one driver that its first bytes allow: no VRT, no
  archive, no `/vsi` name.
- Its header is within the limits before a pixel is read.
- Whatever goes wrong inside comes out as RasterRejected.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import rasterio

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.declared import as_declared
from rsfed.raster.image import Source
from rsfed.raster.image_file import ImageFile
from rsfed.raster.item import Declared
from rsfed.raster.layouts import product_at
from rsfed.raster.modality import Modality
from rsfed.raster.plain_tiff import PlainTiff
from rsfed.raster.product import Product
from rsfed.raster.refusal import refusing

# No look at neighbouring files, no side-car metadata, no name that leads to a server.
_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": False,
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_NUM_THREADS": 1,  # for a small file, starting threads costs more than reading; workers read side by side
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": False,  # it makes up the rows that a truncated file lacks
    "PROJ_NETWORK": "OFF",
    "GDAL_CACHEMAX": 256,  # MiB; by itself it grows to a twentieth of the machine
}
_NOT_AN_IMAGE = "it is not a GeoTIFF, JPEG, PNG or JPEG 2000 image"


def environment() -> Any:  # noqa: ANN401 - rasterio has no types
    """Return a context in which GDAL is set up as sources are read.

    Each source sees to that itself; around many it saves setting GDAL up for the place of each.
    """
    return rasterio.Env(**_OPTIONS)


@contextmanager
def opened(
    path: Path,
    modality: Modality,
    *,
    root: Path | None = None,
    reduction: int = 1,
    radiometry: Declared = None,
) -> Iterator[Source]:
    """Open an image and check its header.

    Args:
        path: The image.
        modality: What the image must be.
        root: Archive that the real path must lie in; None for an image that the user named.
        reduction: Use the file's own overview, or resolution level, of this factor where it has one.
        radiometry: What the operator declared of values that do not say it themselves.

    Yields:
        The source, closed on leaving.

    Raises:
        RasterRejected: with what is wrong and its remedy; also for anything that fails while it is open.
    """
    with refusing(path), ExitStack() as held:
        listed = path.parent.is_file()  # an item of a document that lists several
        real = _contained(path.parent, root) / path.name if listed else _contained(path, root)
        door = _Door(real, root, _remedy(modality, root), held)
        if product := product_at(real):
            source = replace(door.product(product, modality, radiometry), product=product)
            held.callback(source.close)
            _check_contained(source, product, root)
        else:
            source = as_declared(door.image(real, modality, reduction), modality, radiometry)
            held.callback(source.close)
        yield source


class _Door:
    """Opens the files of one source.

    Args:
        real: Its real path.
        root: As for `opened`.
        remedy: What to do about an image of another kind.
        held: What is left when the source is.
    """

    def __init__(self, real: Path, root: Path | None, remedy: str, held: ExitStack) -> None:
        self._folder = str(real)
        self._root = root
        self._remedy = remedy
        self._held = held
        self._prepared = False

    def product(self, product: Product, modality: Modality, radiometry: Declared) -> Source:
        """Open a product as its layout says."""
        for each in product.decides:
            _contained(each, self._root)
        return product.opens(product, modality, self.band, radiometry)

    def band(self, path: Path, modality: Modality) -> Source:
        """Open one file of a product."""
        if str(path).rpartition(os.sep)[0] != self._folder:  # `parent` takes as long as opening
            return self.image(_contained(path, self._root), modality)
        plain = PlainTiff.open(path, modality)  # which follows no link
        return plain or self._any_image(_contained(path, self._root), modality, 1)

    def image(self, real: Path, modality: Modality, reduction: int = 1) -> Source:
        """Open a file by its real path."""
        return PlainTiff.open(real, modality) or self._any_image(real, modality, reduction)

    def _any_image(self, real: Path, modality: Modality, reduction: int) -> Source:
        if not self._prepared:
            self._held.enter_context(environment())
            self._prepared = True
        return ImageFile.open(real, _driver(real, self._root), modality, self._remedy, reduction)


def _check_contained(source: Source, product: Product, root: Path | None) -> None:
    """Check bands that a modality leaves out, too: they are hashed all the same."""
    for each in product.bands.values():
        if str(each) in source.digests:
            continue  # checked when it was opened
        if each.parent != product.folder or not stat.S_ISREG(os.lstat(each).st_mode):
            _contained(each, root)


def _contained(path: Path, root: Path | None) -> Path:
    """Return the real path of a regular file or a folder inside the root."""
    try:
        real = path.resolve(strict=True)
    except RuntimeError as error:  # Python 3.11 says so of a loop
        raise RasterRejected("it is a link that leads to itself; remove the link") from error
    except ValueError as error:
        raise RasterRejected("it has no possible file name; rename it") from error
    if root is not None and not real.is_relative_to(root.resolve()):
        raise RasterRejected("it is a link out of the archive; copy the image into the archive")
    mode = real.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or str(real).startswith("/vsi"):
        raise RasterRejected("it is not a regular file; replace it by the image itself")
    return real


def _remedy(modality: Modality, root: Path | None) -> str:
    """Say what to do about an image of another kind: the owner of an archive has other ways than one who searches."""
    if root is not None:
        return "convert it, or give the archive the modality of its images"
    bands = f"{len(modality.bands)} band{'s' * (len(modality.bands) != 1)}"
    wanted = f"{modality.name} ({bands}, {' or '.join(modality.dtypes)})"
    return f"what is searched is {wanted}: choose or convert to such an image"


def _driver(real: Path, root: Path | None) -> str:
    with real.open("rb") as file:
        head = file.read(limits.MAGIC_BYTES)
    if not head:
        raise RasterRejected("it is empty; copy it again from its origin")
    if head.lstrip().startswith((b"<VRT", b"<?xml")):
        raise RasterRejected("it is a list that points to other files (VRT or XML); give the images themselves")
    if (driver := limits.driver_for(head)) is None:
        remedy = "convert it to one" if root is None else "convert it, or take it out of the archive"
        raise RasterRejected(f"{_NOT_AN_IMAGE}; {remedy}")
    return driver
