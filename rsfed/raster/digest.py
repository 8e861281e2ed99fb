"""Content digests: what makes a patch the same patch, whatever its file is called."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from rsfed.errors import RasterRejected
from rsfed.raster.image import Source
from rsfed.raster.item import Declared, Item, Window

_AT_ONCE = 1 << 20  # bytes of a file that is read in one go


def content_digest(source_digest: bytes, window: Window, modality: str, declared: Declared = None) -> str:
    """Return the digest of a patch: SHA-256 over all that makes its values, hexadecimal.

    Args:
        source_digest: The source's own SHA-256.
        window: Its pixels of the source.
        modality: Name of the modality.
        declared: What the operator said of its values, where they were taken by that.
    """
    said = "" if declared is None else f",{declared}"
    place = f"{window.col},{window.row},{window.width},{window.height},{modality}{said}"
    return hashlib.sha256(source_digest + place.encode()).hexdigest()


def source_digest(source: Source) -> bytes:
    """Return the SHA-256 of an open source, 32 bytes.

    Files that are in memory are not read once more, others are hashed again only after they changed.

    That of a product is over band name and SHA-256 of each band's file, in the order of its layout, and over the files
    that decide what they mean, so neither the names of its files nor what else accompanies them changes it.

    Raises:
        OSError: it cannot be read.
    """
    if source.product is None:
        return _held(source, source.path)
    parts = [band.encode() + b"\0" + _held(source, file) for band, file in source.product.bands.items()]
    parts += [file_digest(file) for file in source.product.decides]
    return hashlib.sha256(b"".join(parts) + source.product.says).digest()


def _held(source: Source, path: Path) -> bytes:
    """Return the SHA-256 of a file of a source."""
    return source.digests.get(str(path)) or file_digest(path)


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, 32 bytes; it is hashed again only after it changed.

    Raises:
        OSError: it cannot be read.
    """
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


def check_unchanged(item: Item, source: Source) -> None:
    """Check that the source of a patch, which is open, still is what was ingested.

    Raises:
        RasterRejected: it is not.
        OSError: it cannot be read.
    """
    if content_digest(source_digest(source), item.window, item.modality, source.declared) != item.digest:
        raise RasterRejected("it changed since it was ingested; run the ingest again")


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, _modified_ns: int, _inode: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        if size <= _AT_ONCE:  # most files are small, and then making a buffer takes longer than reading
            return hashlib.sha256(file.read()).digest()
        return hashlib.file_digest(file, "sha256").digest()
