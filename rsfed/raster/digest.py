"""Content digests: what makes a patch the same patch, whatever its file is called."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from rsfed.errors import RasterRejected
from rsfed.raster.item import Item, Window


def content_digest(file_digest: bytes, window: Window, modality: str) -> str:
    """Return the digest of a patch: SHA-256 over the file's own SHA-256, the window and the modality, hexadecimal."""
    place = f"{window.col},{window.row},{window.width},{window.height},{modality}"
    return hashlib.sha256(file_digest + place.encode()).hexdigest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, 32 bytes; computed again only after the file changed."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


def check_unchanged(item: Item) -> None:
    """Check that the file of a patch still is what was ingested.

    Raises:
        RasterRejected: it is not.
        OSError: it cannot be read.
    """
    if content_digest(file_digest(item.path), item.window, item.modality) != item.digest:
        raise RasterRejected("it changed since it was ingested; run the ingest again")


@lru_cache(maxsize=256)
def _digest(path: Path, _size: int, _modified_ns: int, _inode: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
