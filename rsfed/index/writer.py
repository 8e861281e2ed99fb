"""Changing an index on disk: one process, durably, while others search it.

Every change writes new files and then replaces the manifest, in one step that is durable when the call returns. Files
that the manifest no longer names are deleted; who has them mapped keeps them.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from rsfed.codes import Codes, Ids, check_bits
from rsfed.errors import CodeError, StateError
from rsfed.index import files
from rsfed.index.facets import Columns
from rsfed.index.files import Owner
from rsfed.index.manifest import NAME, Entry, Manifest
from rsfed.index.reader import load
from rsfed.index.search import Snapshot, View
from rsfed.index.segment import Part, Segment
from rsfed.index.sorting import Rows

LOCK = "lock"


class IndexWriter:
    """An index on disk that this process may change; made empty where there is none.

    Args:
        folder: Where it lies.
        owner: Whose codes it holds.

    Raises:
        StateError: INDEX_LOCKED, another process changes it; INDEX_DAMAGED names a damaged file, `IndexWriter.mended`
            does without it; INDEX_FORMAT; INDEX_FOREIGN.
    """

    def __init__(self, folder: Path, owner: Owner) -> None:
        check_bits(owner.bits)
        files.make_folder(folder)
        self._folder = folder
        self._lock = _locked(folder)
        try:
            self._manifest = _manifest(folder, owner)
            self._parts = load(folder, self._manifest, {})
        except FileNotFoundError as error:
            self._lock.close()
            raise files.missing(error) from error
        except BaseException:
            self._lock.close()
            raise
        self._view = self._viewed()
        self.damaged: tuple[str, ...] = ()
        """Names of the segments, or of the manifest, that `mended` left out."""
        self._changing = threading.Lock()
        self._merging = threading.Lock()
        self._sweep()

    @classmethod
    def mended(cls, folder: Path, owner: Owner) -> Self:
        """Open an index without its damaged segments.

        The caller appends what is missing from `view` again; until then the index holds less, which `view` shows.

        Raises:
            StateError: INDEX_LOCKED; INDEX_FORMAT; INDEX_FOREIGN where the manifest is of another release.
        """
        files.make_folder(folder)
        with _locked(folder):
            damaged = []
            try:
                manifest = _manifest(folder, owner)
            except StateError as error:
                if error.reason != "INDEX_DAMAGED":
                    raise
                manifest, damaged = Manifest(owner), [NAME]
            sound = [entry for entry in manifest.entries if _is_sound(folder, manifest, entry)]
            damaged += [entry.file for entry in manifest.entries if entry not in sound]
            replace(manifest, entries=tuple(sound)).write(folder)
        writer = cls(folder, owner)
        writer.damaged = tuple(damaged)
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process change the index."""
        self._lock.close()

    @property
    def view(self) -> View:
        """What the index holds now."""
        return self._view

    def snapshot(self) -> Snapshot:
        """Return what the index holds now, under the release and encoder that made the codes."""
        return Snapshot(self._manifest.owner.release, self._manifest.owner.encoder, self._view)

    def _viewed(self) -> View:
        return View(self._manifest.owner.bits, tuple(loaded.part for loaded in self._parts.values()))

    def append(self, ids: Ids, codes: Codes, columns: Columns | None = None) -> None:
        """Add items: all of them or, after a crash, none.

        Raises:
            CodeError: the codes have another width or number, or an item is in the index already.
        """
        segment = Segment.build(self._manifest.owner.bits, ids, codes, columns)
        if not len(segment):
            return
        with self._changing:
            if any(len(self._places(entry, segment.ids)) for entry in self._near(segment.ids)):
                raise CodeError("an item has one code in an index; remove it before it is added again")
            entry = self._written(self._next(), segment)
            self._commit(self._manifest.swapped([], [entry]))

    def remove(self, ids: Ids) -> int:
        """Remove items and return how many were there; those that are not in the index are passed over."""
        ids = np.asarray(ids, np.int64)
        with self._changing:
            old, new, removed = [], [], 0
            for entry in self._near(ids):
                places = self._places(entry, ids)
                if not len(places):
                    continue
                gone = np.sort(np.concatenate([self._parts[entry.file].part.gone, places]))
                old.append(entry)
                new.append(self._with_gone(self._next(), entry, gone))
                removed += len(places)
            if old:
                self._commit(self._manifest.swapped(old, new))
        return removed

    def merge(self) -> bool:
        """Merge segments where that is due; searches and changes go on meanwhile. Return whether something was due."""
        with self._merging:
            with self._changing:
                due = self._manifest.due()
                if not due:
                    return False
                parts = [self._parts[each.file].part for each in due]
                number = self._next()
            merged = merged_segment(parts)
            entry = self._written(number, merged) if len(merged) else None
            with self._changing:
                self._swap_merged(due, parts, merged, entry)
        return True

    def _swap_merged(self, due: Sequence[Entry], parts: Sequence[Part], merged: Segment, entry: Entry | None) -> None:
        """Put a merged segment in the place of its sources, without what was removed while it was made."""
        names = {each.file for each in due}
        now = [each for each in self._manifest.entries if each.file in names]
        late = [
            part.segment.ids[_without(self._parts[each.file].part.gone, part.gone)]
            for each, part in zip(due, parts, strict=True)
        ]
        if entry is not None and len(places := merged.places_of(np.concatenate(late))):
            entry = self._with_gone(self._next(), entry, places)
        self._commit(self._manifest.swapped(now, [] if entry is None else [entry]))

    def _next(self) -> int:
        """Return a number for a file that no other has; those of changes that came to nothing are swept or replaced."""
        number = self._manifest.number
        self._manifest = self._manifest.numbered()
        return number

    def _near(self, ids: Ids) -> list[Entry]:
        """Return the segments that may hold some of these items."""
        if not len(ids):
            return []
        first, last = ids.min(), ids.max()
        return [entry for entry in self._manifest.entries if entry.first <= last and first <= entry.last]

    def _places(self, entry: Entry, ids: Ids) -> Rows:
        """Return the places of those of some items that are in a segment and not gone."""
        part = self._parts[entry.file].part
        return _without(part.segment.places_of(ids), part.gone)

    def _written(self, number: int, segment: Segment) -> Entry:
        name = f"segment-{number:08d}.rsx"
        about = {"kinds": [list(kind) for kind in segment.facets.kind_values]}
        checksum = files.write(self._folder / name, self._manifest.owner, segment.arrays(), about)
        return Entry(name, checksum, len(segment), int(segment.ids.min()), int(segment.ids.max()))

    def _with_gone(self, number: int, entry: Entry, gone: Rows) -> Entry:
        name = f"gone-{number:08d}.rsx"
        checksum = files.write(
            self._folder / name, self._manifest.owner, {"gone": gone.astype(np.uint32)}, {"of": entry.file}
        )
        return replace(entry, gone=name, gone_checksum=checksum, gone_items=len(gone))

    def _commit(self, manifest: Manifest) -> None:
        parts = load(self._folder, manifest, self._parts)
        manifest.write(self._folder)
        stale = self._manifest.names - manifest.names
        self._manifest, self._parts = manifest, parts
        self._view = self._viewed()
        for name in stale:
            (self._folder / name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Delete what a crash left behind."""
        for path in self._folder.iterdir():
            if path.name not in self._manifest.names and path.name != LOCK:
                path.unlink()


def merged_segment(parts: Sequence[Part]) -> Segment:
    """Return one segment of what is left of several."""
    ids, words, columns = [], [], []
    for part in parts:
        stays = np.ones(len(part.segment), np.bool_)
        stays[part.gone] = False
        ids.append(part.segment.ids[stays])
        words.append(part.segment.item_words()[stays])
        columns.append(part.segment.facets.columns().take(np.flatnonzero(stays)))
    bits = parts[0].segment.bits
    return Segment.of_words(bits, np.concatenate(ids), np.concatenate(words), Columns.joined(columns))


def _manifest(folder: Path, owner: Owner) -> Manifest:
    try:
        return Manifest.read(folder, owner)
    except FileNotFoundError as error:
        if any(folder.glob("segment-*")):
            raise files.missing(error) from error
        empty = Manifest(owner)
        empty.write(folder)
        return empty


def _is_sound(folder: Path, manifest: Manifest, entry: Entry) -> bool:
    try:
        load(folder, replace(manifest, entries=(entry,)), {})
    except (StateError, FileNotFoundError):
        return False
    return True


def _without(places: Rows, others: Rows) -> Rows:
    """Return the places that are not among others; both rise."""
    if not len(others):
        return places
    following = np.minimum(np.searchsorted(others, places), len(others) - 1)
    left: Rows = places[others[following] != places]
    return left


def _locked(folder: Path) -> IO[bytes]:
    """Return the open lock file; closing it, or the end of the process, lets go of it."""
    file = (folder / LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StateError(
            "another process changes this index; end it first", reason="INDEX_LOCKED", detail=str(folder)
        ) from error
    return file
