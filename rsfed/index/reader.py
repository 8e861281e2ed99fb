"""Reading an index on disk: any number of processes, while one other changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rsfed.index import files
from rsfed.index.files import Owner
from rsfed.index.manifest import NAME, Entry, Manifest
from rsfed.index.search import View
from rsfed.index.segment import NONE_GONE, Part, Segment
from rsfed.index.sorting import Rows

_TRIES = 20  # how often a manifest is read again because its files went meanwhile


@dataclass(frozen=True, slots=True)
class Loaded:
    """A segment in memory, and the entry that it was loaded for."""

    entry: Entry
    part: Part


class IndexReader:
    """An index on disk, as it is at each moment.

    Args:
        folder: Where it lies.
        owner: Whose codes are wanted.

    Raises:
        StateError: INDEX_DAMAGED names the file that is damaged or missing; INDEX_FORMAT; INDEX_FOREIGN.
    """

    def __init__(self, folder: Path, owner: Owner) -> None:
        self._folder = folder
        self._owner = owner
        self._seen: bytes | None = None
        self._parts: Mapping[str, Loaded] = {}
        self.view()

    def view(self) -> View:
        """Return what the index holds now; cheap where nothing changed.

        Raises:
            StateError: as for the class; what was seen before stays as it was.
        """
        for attempt in range(_TRIES):
            seen = self._content()
            if seen == self._seen:
                break
            try:
                self._parts = load(self._folder, Manifest.parse(self._folder, self._owner, seen), self._parts)
            except FileNotFoundError as error:
                if self._content() == seen or attempt == _TRIES - 1:
                    raise files.missing(error) from error
                continue  # the writer replaced it meanwhile
            self._seen = seen
        return View(self._owner.bits, tuple(loaded.part for loaded in self._parts.values()))

    def _content(self) -> bytes:
        try:
            return (self._folder / NAME).read_bytes()
        except FileNotFoundError as error:
            raise files.missing(error) from error


def load(folder: Path, manifest: Manifest, known: Mapping[str, Loaded]) -> dict[str, Loaded]:
    """Return the parts of an index by the names of their files; those that are known already are kept.

    Raises:
        FileNotFoundError: a file of the manifest is gone.
        StateError: as for `files.read`, and INDEX_DAMAGED where a file is not the one that the manifest means.
    """
    return {entry.file: _loaded(folder, manifest.owner, entry, known.get(entry.file)) for entry in manifest.entries}


def _loaded(folder: Path, owner: Owner, entry: Entry, known: Loaded | None) -> Loaded:
    if known is not None and known.entry == entry:
        return known
    if known is not None and known.entry.checksum == entry.checksum:
        return Loaded(entry, Part(known.part.segment, _gone(folder, owner, entry)))
    segment = _segment(folder, owner, entry)
    return Loaded(entry, Part(segment, _gone(folder, owner, entry)))


def _segment(folder: Path, owner: Owner, entry: Entry) -> Segment:
    stored = files.read(folder / entry.file, owner)
    if stored.checksum != entry.checksum:
        raise files.damaged(folder / entry.file, "it is another segment")
    return Segment.of_arrays(owner.bits, stored.arrays, tuple(tuple(kind) for kind in stored.about["kinds"]))


def _gone(folder: Path, owner: Owner, entry: Entry) -> Rows:
    if entry.gone is None:
        return NONE_GONE
    stored = files.read(folder / entry.gone, owner)
    if stored.checksum != entry.gone_checksum:
        raise files.damaged(folder / entry.gone, "it is of another state")
    return stored.arrays["gone"]
