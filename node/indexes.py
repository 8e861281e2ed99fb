"""The indexes on disk of a node: one for each encoder of a release, made equal to what the catalogue says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsfed.codes import Codes, Ids
from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.index import shelf
from rsfed.index.files import Owner
from rsfed.index.writer import IndexWriter
from rsfed.telemetry import log
from rsfed.trust.release_store import Release


def indexes_folder(home: Home) -> Path:
    """Return where the indexes of a node lie; in no backup, because the catalogue has all codes."""
    return home.path / "index"


def open_index(home: Home, release: Release, encoder_id: str, ids: Ids, codes: Codes) -> IndexWriter:
    """Open the index of an encoder and make it hold exactly these items.

    What is damaged is logged and taken from these codes again.

    Args:
        home: The node's home.
        release: The release.
        encoder_id: The encoder within it.
        ids: Item ids, int64, shape (n,).
        codes: Their packed codes, uint8, shape (n, bits // 8).

    Raises:
        StateError: another process changes the index, or newer software wrote it.
    """
    owner = Owner(release.digest, encoder_id, release.manifest.bits)
    writer = _opened(shelf.folder_of(indexes_folder(home), owner), owner)
    known = writer.view.item_ids
    writer.remove(np.setdiff1d(known, ids))
    new = ~np.isin(ids, known)
    if new.any():
        writer.append(ids[new], codes[new])
    return writer


def served_release(home: Home) -> bytes | None:
    """Return the digest of the release whose indexes were served last; None where no file says so any more."""
    try:
        return shelf.current(indexes_folder(home))
    except StateError as error:
        if error.reason != "INDEX_DAMAGED":
            raise
        log.error("index.damaged", name="current", reason=error.reason)
        return None


def serve_release(home: Home, digest: bytes) -> None:
    """Make the indexes of a release the served ones, in one step, and delete those of all others."""
    shelf.swap(indexes_folder(home), digest)
    shelf.discard(indexes_folder(home), [digest])


def _opened(folder: Path, owner: Owner) -> IndexWriter:
    try:
        return IndexWriter(folder, owner)
    except StateError as error:
        if error.reason != "INDEX_DAMAGED":
            raise
        writer = IndexWriter.mended(folder, owner)
        for name in writer.damaged:
            log.error("index.damaged", name=name, reason=error.reason)
        return writer
