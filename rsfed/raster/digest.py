"""Content digests: what makes a patch the same patch, whatever its file is called."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from rsfed.raster.item import Window


def content_digest(file_digest: bytes, window: Window, modality: str) -> str:
    """Return the digest of a patch: SHA-256 over the file's own SHA-256, the window and the modality, hexadecimal."""
    place = f"{window.col},{window.row},{window.width},{window.height},{modality}"
    return hashlib.sha256(file_digest + place.encode()).hexdigest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, 32 bytes; computed again only after the file changed."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=256)
def _digest(path: Path, _size: int, _modified_ns: int, _inode: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
