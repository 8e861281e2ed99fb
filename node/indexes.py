"""The indexes on disk of a node: one for each encoder of a release, made equal to what the catalogue says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, Ids
from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.index import shelf
from rsfed.index.facets import Columns
from rsfed.index.files import Owner
from rsfed.index.manifest import NAME
from rsfed.index.search import View
from rsfed.index.writer import IndexWriter
from rsfed.telemetry import log
from rsfed.trust.release_store import Release


def indexes_folder(home: Home) -> Path:
    """Return where the indexes of a node lie; in no backup, because the catalogue has all codes."""
    return home.path / "index"


def open_index(home: Home, release: Release, encoder_id: str) -> IndexWriter:
    """Open the index of an encoder; what is damaged is logged and left out, for `make_equal` to write it again.

    A manifest of another release in the folder of this one was put there by somebody: it is damage too.

    Raises:
        StateError: another process changes the index, or newer software wrote it.
    """
    owner = Owner(release.digest, encoder_id, release.manifest.bits)
    folder = shelf.folder_of(indexes_folder(home), owner)
    try:
        return IndexWriter(folder, owner)
    except StateError as error:
        if error.reason not in {"INDEX_DAMAGED", "INDEX_FOREIGN"}:
            raise
        if error.reason == "INDEX_FOREIGN":
            (folder / NAME).unlink()
        writer = IndexWriter.mended(folder, owner)
        for name in writer.damaged or (NAME,):
            log.error("index.damaged", name=name, reason=error.reason)
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


def make_equal(writer: IndexWriter, ids: Ids, codes: Codes, columns: Columns) -> None:
    """Make an index hold exactly these items; one of which filters knew something else is written anew.

    Args:
        writer: The index.
        ids: Item ids, int64, shape (n,).
        codes: Their packed codes, uint8, shape (n, bits // 8).
        columns: What filters know of them.
    """
    known, own = _held(writer.view)
    shared, theirs, ours = np.intersect1d(known, ids, assume_unique=True, return_indices=True)
    same = shared[_alike(own.take(theirs), columns.take(ours))]
    writer.remove(np.setdiff1d(known, same, assume_unique=True))
    new = ~np.isin(ids, same)
    if new.any():
        writer.append(ids[new], codes[new], columns.take(np.flatnonzero(new)))


def _held(view: View) -> tuple[Ids, Columns]:
    """Return the items of an index and what filters know of them."""
    parts = [
        part.segment.facets.columns().take(np.delete(np.arange(len(part.segment)), part.gone)) for part in view.parts
    ]
    ids = np.concatenate([np.empty(0, np.int64), *(part.ids for part in view.parts)])
    return ids, Columns.joined([Columns.unknown(0), *parts])


def _alike(first: Columns, second: Columns) -> NDArray[np.bool_]:
    """Return of which items, the same ones in the same order, both say the same."""
    number = {kind: place for place, kind in enumerate({*first.kind_values, *second.kind_values})}
    kinds = [np.array([number[kind] for kind in each.kind_values])[each.kinds] for each in (first, second)]
    same: NDArray[np.bool_] = (first.boxes == second.boxes).all(axis=1)
    same &= (first.times == second.times).all(axis=1)
    same &= kinds[0] == kinds[1]
    return same
