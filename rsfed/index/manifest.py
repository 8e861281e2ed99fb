"""What an index on disk consists of: its manifest, one small file whose replacement is the moment of every change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rsfed.index import files
from rsfed.index.files import Owner

NAME = "manifest.json"
_FEW = 4  # segments of about one size that are merged
_HOLES = 0.25  # share of gone items from which a segment is written anew


@dataclass(frozen=True, slots=True)
class Entry:
    """One segment.

    Attributes:
        file: Name of its file.
        checksum: Checksum of its arrays: another segment under its name is found.
        items: How many items it has, gone ones too.
        first, last: Smallest and largest item id.
        gone: Name of the file with the places of its items that are gone; None where none is.
        gone_checksum: Checksum of that file's arrays.
        gone_items: How many are gone.
    """

    file: str
    checksum: str
    items: int
    first: int
    last: int
    gone: str | None = None
    gone_checksum: str = ""
    gone_items: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """All segments of an index.

    Attributes:
        owner: Whose codes they hold.
        number: Number of the next file.
        entries: The segments, oldest first.
    """

    owner: Owner
    number: int = 0
    entries: tuple[Entry, ...] = ()

    @classmethod
    def read(cls, folder: Path, owner: Owner) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            FileNotFoundError: there is no index.
            StateError: INDEX_DAMAGED, INDEX_FORMAT, INDEX_FOREIGN as for `files.read`.
        """
        return cls.parse(folder, owner, (folder / NAME).read_bytes())

    @classmethod
    def parse(cls, folder: Path, owner: Owner, content: bytes) -> Manifest:
        """Return the manifest that the file of a folder holds.

        Raises:
            StateError: as for `read`.
        """
        path = folder / NAME
        body = files.unsealed(path, content)
        files.check_owner(path, owner, body)
        return cls(owner, body["number"], tuple(Entry(**entry) for entry in body["entries"]))

    def write(self, folder: Path) -> None:
        """Put the manifest in place durably."""
        entries = [{name: getattr(entry, name) for name in Entry.__slots__} for entry in self.entries]
        body = self.owner.described() | {"number": self.number, "entries": entries}
        files.replace(folder / NAME, [files.sealed(body)])

    @property
    def names(self) -> set[str]:
        """Names of all files of the index."""
        return {NAME} | {name for entry in self.entries for name in (entry.file, entry.gone) if name is not None}

    def numbered(self) -> Manifest:
        """Return the manifest after its next number was used."""
        return replace(self, number=self.number + 1)

    def swapped(self, old: Sequence[Entry], new: Sequence[Entry]) -> Manifest:
        """Return the manifest with some entries in the place of others."""
        kept = [entry for entry in self.entries if entry.file not in {each.file for each in old}]
        return replace(self, entries=(*kept, *new))

    def due(self) -> list[Entry]:
        """Return the segments that are to be merged: several of about one size, or those with many holes.

        So each item is written again about log4(items) times, and a search looks at few segments.
        """
        tiers: dict[int, list[Entry]] = {}
        for entry in self.entries:
            tiers.setdefault((entry.items.bit_length() + 1) // 2, []).append(entry)
        many = [tier for _, tier in sorted(tiers.items()) if len(tier) >= _FEW]
        if many:
            return many[0]
        return [entry for entry in self.entries if entry.gone_items > _HOLES * entry.items]
