"""Content digests: what makes a patch the same patch, whatever its file is called."""

from __future__ import annotations

import hashlib
import stat
from functools import lru_cache
from pathlib import Path

from rsfed.errors import RasterRejected
from rsfed.raster.item import Declared, Item, Window
from rsfed.raster.layouts import product_at


def content_digest(file_digest: bytes, window: Window, modality: str, radiometry: Declared = None) -> str:
    """Return the digest of a patch: SHA-256 over all that makes its values, hexadecimal.

    Args:
        file_digest: The source's own SHA-256.
        window: Its pixels of the source.
        modality: Name of the modality.
        radiometry: What the operator declared.
    """
    said = "" if radiometry is None else f",{radiometry}"
    place = f"{window.col},{window.row},{window.width},{window.height},{modality}{said}"
    return hashlib.sha256(file_digest + place.encode()).hexdigest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a source, 32 bytes; a file is hashed again only after it changed.

    That of a product is over band name and SHA-256 of each band's file, in the order of its layout, and over the files
    that decide what they mean, so neither the names of its files nor what else accompanies them changes it.

    Raises:
        RasterRejected: a folder that is no product.
        OSError: it cannot be read.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        product = product_at(path)
        parts = [band.encode() + b"\0" + file_digest(file) for band, file in product.bands.items()]
        parts += [file_digest(file) for file in product.decides]
        return hashlib.sha256(b"".join(parts)).digest()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


def check_unchanged(item: Item) -> None:
    """Check that the source of a patch still is what was ingested.

    Raises:
        RasterRejected: it is not.
        OSError: it cannot be read.
    """
    if content_digest(file_digest(item.path), item.window, item.modality, item.radiometry) != item.digest:
        raise RasterRejected("it changed since it was ingested; run the ingest again")


@lru_cache(maxsize=256)
def _digest(path: Path, _size: int, _modified_ns: int, _inode: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
