"""One place, one item: of patches of one acquisition that overlap by more than half, one is searched.

It is the first of them by path, then row by row; the others are recorded behind it. A patch is behind the first one
that is searched, comes before it and overlaps it, so what is searched depends on what the archive holds and not on the
order in which it came, no two searched patches overlap, and each of the others has two thirds of its ground, where
they are of one size, in the one that it is behind. Decided before there are buckets, so pages, merges, floors and
training see single patches.

Patches of one source overlap by their pixels, those of several by their footprints, if the acquisition is known.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import floor, frexp
from typing import Any

from node.state import UNKNOWN
from rsfed.raster.geometry import Box, overlap

SAME_PLACE = 0.5  # of what two patches cover together; with more than that in common they are one place

_Level = tuple[int, int]

_ELIGIBLE = "(state = 'present' OR same_as IS NOT NULL)"
_PATCHES = f"""
SELECT item.id, path, row, col, item.source, col + width, row + height, west, south, east, north, same_as,
  modality, item.acquisition
FROM item JOIN source ON source.id = item.source WHERE {_ELIGIBLE}
"""  # noqa: S608 - fixed
_OF_ITEMS = "item.id IN (SELECT value FROM json_each(?))"
_OF_SOURCES = "item.source IN (SELECT value FROM json_each(?)) AND state <> 'withdrawn'"
_INSIDE = """
item.acquisition = ? AND south >= ? AND south <= ? AND west >= ? AND west <= ? AND state <> 'withdrawn'
"""


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch that may be searched.

    Attributes:
        id: Its item id.
        rank: Path, row, column, right and lower edge: of one place the first is searched.
        source: What it is cut from.
        window: Its pixels there.
        footprint: Where it lies in degrees, with west < east also across the antimeridian; None where unknown, or
            where it is not known of which acquisition it is.
        behind: The item that is searched in its place; None where it is searched itself.
    """

    id: int
    rank: tuple[str, int, int, int, int]
    source: int
    window: Box
    footprint: Box | None
    behind: int | None = None


class Crowd:
    """Patches, found by where they lie."""

    def __init__(self, patches: Iterable[Patch] = ()) -> None:
        self._held: defaultdict[tuple[int | None, _Level, int, int], list[tuple[Box, Patch]]] = defaultdict(list)
        self._levels: set[_Level] = set()
        for patch in patches:
            self.add(patch)

    def add(self, patch: Patch) -> None:
        """Take in one more."""
        self._put(patch.source, patch.window, patch)
        if patch.footprint is not None:
            west, south, east, north = patch.footprint
            self._put(None, patch.footprint, patch)
            for turn in (-360.0, 360.0):  # so that both sides of the antimeridian find each other
                if abs(west + turn) < 180 + 2 * (east - west):
                    self._put(None, (west + turn, south, east + turn, north), patch)

    def overlapping(self, patch: Patch) -> Iterator[Patch]:
        """Yield those that are one place with a patch, itself among them if it is here."""
        for box, other in self._near(patch.source, patch.window):
            if overlap(box, patch.window) > SAME_PLACE:
                yield other
        if patch.footprint is not None:
            for box, other in self._near(None, patch.footprint):
                if other.source != patch.source and overlap(box, patch.footprint) > SAME_PLACE:
                    yield other

    def _put(self, sheet: int | None, box: Box, patch: Patch) -> None:
        level = _level(box)
        self._levels.add(level)
        col, row = (floor(middle / 2.0**side) for middle, side in zip(_middle(box), level, strict=True))
        self._held[sheet, level, col, row].append((box, patch))

    def _near(self, sheet: int | None, box: Box) -> Iterator[tuple[Box, Patch]]:
        """Yield all that may have more than half in common with a box.

        Their sides are more than half and less than twice as long, so their middles lie less than half a side away.
        """
        own, (x, y) = _level(box), _middle(box)
        across, down = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
        for level in self._levels:
            if abs(level[0] - own[0]) > 1 or abs(level[1] - own[1]) > 1:
                continue
            wide, high = 2.0 ** level[0], 2.0 ** level[1]
            for col in range(floor((x - across) / wide), floor((x + across) / wide) + 1):
                for row in range(floor((y - down) / high), floor((y + down) / high) + 1):
                    yield from self._held.get((sheet, level, col, row), ())


def decided(due: Iterable[Patch], around: Iterable[Patch]) -> tuple[dict[int, int | None], set[int]]:
    """Decide which of some patches are searched.

    Args:
        due: They, each as it stands before.
        around: Others that may overlap them, as they stand.

    Returns:
        Behind which item each is that stands otherwise now, None for those that are searched; and which of the others
        are due because of that.
    """
    rest = list(around)
    searched, others = Crowd(each for each in rest if each.behind is None), Crowd(rest)
    changed: dict[int, int | None] = {}
    touched: set[int] = set()
    for patch in sorted(due, key=lambda each: each.rank):
        before = (each for each in searched.overlapping(patch) if each.rank < patch.rank)
        first = min(before, key=lambda each: each.rank, default=None)
        behind = None if first is None else first.id
        if behind is None:
            searched.add(patch)
        if behind != patch.behind:
            changed[patch.id] = behind
        for each in others.overlapping(patch):
            if each.rank > patch.rank and (each.behind == patch.id) != (behind is None):
                touched.add(each.id)
    return changed, touched


def settle(connection: sqlite3.Connection, items: Collection[int]) -> None:
    """Decide anew which of some items are searched, and of those that follow from it; inside a transaction."""
    due = set(items)
    while due:
        groups: defaultdict[tuple[str, str | int], list[Patch]] = defaultdict(list)
        for modality, acquisition, patch in _patches(connection, _OF_ITEMS, _list(due)):
            groups[modality, patch.source if acquisition is None else acquisition].append(patch)
        due = set()
        for (modality, group), patches in groups.items():
            changed, touched = decided(patches, _around(connection, modality, group, patches))
            _write(connection, changed)
            due |= touched


def left_behind(connection: sqlite3.Connection, items: Collection[int]) -> set[int]:
    """Return the items that are behind some others, which are to be settled once those are gone."""
    query = "SELECT id FROM item WHERE same_as IN (SELECT value FROM json_each(?))"
    return {item for (item,) in connection.execute(query, (_list(items),))}


def _around(connection: sqlite3.Connection, modality: str, group: str | int, due: Sequence[Patch]) -> Iterator[Patch]:
    """Yield the other patches that may overlap some of one acquisition, or of one source where that is not known."""
    done = {patch.id for patch in due}
    near = [_patches(connection, f"{_OF_SOURCES} AND modality = ?", _list({each.source for each in due}), modality)]
    if boxes := [patch.footprint for patch in due if patch.footprint is not None]:
        west, south = (min(box[edge] for box in boxes) for edge in (0, 1))
        east, north = (max(box[edge] for box in boxes) for edge in (2, 3))
        wide, high = (2 * max(box[edge + 2] - box[edge] for box in boxes) for edge in (0, 1))
        beyond = west - wide < -180 or east + wide > 180  # others may be told from the far side of the antimeridian
        inside = (south - high, north, *((-180.0, 180.0) if beyond else (west - wide, east)))
        near.append(_patches(connection, f"{_INSIDE} AND modality = ?", group, *inside, modality))
    for _, _, patch in chain(*near):
        if patch.id not in done:
            done.add(patch.id)
            yield patch


def _patches(
    connection: sqlite3.Connection,
    which: str,
    *values: Any,  # noqa: ANN401 - what SQLite takes
) -> Iterator[tuple[str, str | None, Patch]]:
    """Yield patches with their modality, and their acquisition where it is known."""
    for row in connection.execute(f"{_PATCHES} AND {which}", values):
        item, path, line, col, source, right, lower, west, south, east, north, behind, modality, acquisition = row
        known = not acquisition.startswith(UNKNOWN)
        footprint = (west, south, east + 360 * (east < west), north) if known and west is not None else None
        patch = Patch(item, (path, line, col, right, lower), source, (col, line, right, lower), footprint, behind)
        yield modality, acquisition if known else None, patch


def _write(connection: sqlite3.Connection, changed: dict[int, int | None]) -> None:
    """Take items out of the search, codes included, or back into it."""
    connection.executemany(
        "UPDATE item SET same_as = ?, state = ? WHERE id = ?",
        ((behind, "present" if behind is None else "recorded", item) for item, behind in changed.items()),
    )
    connection.executemany(
        "DELETE FROM code WHERE item = ? AND code_set IN (SELECT id FROM code_set)",
        ((item,) for item, behind in changed.items() if behind is not None),
    )


def _level(box: Box) -> _Level:
    """Return the powers of two above the sides of a box: cells that large hold its middle."""
    return frexp(box[2] - box[0])[1], frexp(box[3] - box[1])[1]


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _list(numbers: Iterable[int]) -> str:
    return json.dumps(list(numbers))
