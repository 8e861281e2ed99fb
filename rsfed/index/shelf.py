"""Indexes of several releases side by side: one is current, and another takes its place in one step."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from rsfed.index import files
from rsfed.index.files import Owner

_CURRENT = "current"


def folder_of(root: Path, owner: Owner) -> Path:
    """Return where the index of one encoder of one release lies."""
    return root / owner.release.hex() / owner.encoder.encode().hex()


def current(root: Path) -> bytes | None:
    """Return the digest of the release whose indexes are current; None before the first.

    Raises:
        StateError: INDEX_DAMAGED, the file that says so is not as it was written; INDEX_FORMAT.
    """
    path = root / _CURRENT
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return bytes.fromhex(files.unsealed(path, content)["release"])


def swap(root: Path, release: bytes) -> None:
    """Make the indexes of a release the current ones, durably and in one step."""
    files.make_folder(root)
    files.replace(root / _CURRENT, [files.sealed({"release": release.hex()})])


def discard(root: Path, kept: Collection[bytes]) -> None:
    """Delete the indexes of all releases but some; who has their files mapped keeps them."""
    names = {release.hex() for release in kept}
    for path in root.iterdir():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)
