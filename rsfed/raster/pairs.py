"""Pairs of patches of two modalities, such as Sentinel-1 and Sentinel-2, that show the same ground at nearly one time.

Pure: footprints and times in, pairs out. Two patches show the same ground where their footprints have nine tenths of
what they cover together in common. A tag `PLACE` does not tell that: a place may be a harbour of many patches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import product
from math import floor, frexp
from typing import NamedTuple

from rsfed.raster.geometry import overlap
from rsfed.raster.item import Footprint, Interval

SAME_GROUND = 0.9  # least intersection over union of two footprints
_Cell = tuple[int, int]
"""Power of two of the length of a stretch of degrees, and its number."""


class Seen(NamedTuple):
    """Where and when a patch was taken, each None where nothing tells."""

    footprint: Footprint | None
    acquired: Interval | None


class Alone(StrEnum):
    """Why a patch is in no pair; the first that is true."""

    NO_FOOTPRINT = "no footprint"
    NO_TIME = "no time"
    NO_GROUND = "no dated partner on its ground"
    NO_DAY = "partners at other times only"
    TAKEN = "partners in better pairs"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two patches of the same ground.

    Attributes:
        one: Name of that of the first modality.
        other: Name of that of the second.
        shared: Intersection over union of their footprints in degrees, 0.9 to 1.
        apart: Time between the end of the earlier and the start of the later acquisition; none where they overlap.
    """

    one: str
    other: str
    shared: float
    apart: timedelta

    def swapped(self) -> Pair:
        """Return the same pair with the second modality first."""
        return Pair(self.other, self.one, self.shared, self.apart)


class Pairing(NamedTuple):
    """The pairs in the order of their first names, and why each other patch of either modality has no partner."""

    pairs: list[Pair]
    alone: tuple[dict[str, Alone], dict[str, Alone]]


def find_pairs(one: Mapping[str, Seen], other: Mapping[str, Seen], within: timedelta) -> Pairing:
    """Pair the patches of two modalities, each with one of the other at most.

    Of all pairs that are allowed the best is taken, then the best of those whose patches are both still free, and so
    on: first what has more in common in whole hundredths, then what is less far apart in time, then by names. So
    neither the order of patches matters nor which modality comes first: of equals, the first name by its first partner
    is also the first partner by its first name.

    Args:
        one: Patches of the first modality by name.
        other: Those of the second.
        within: Longest time that may lie between both acquisitions.
    """
    grounded: tuple[set[str], set[str]] = set(), set()
    allowed = []
    for pair in _on_same_ground(one, other):
        grounded[0].add(pair.one)
        grounded[1].add(pair.other)
        if pair.apart <= within:
            allowed.append(pair)
    pairs = sorted(_best(allowed), key=lambda pair: pair.one)
    alone = (
        _alone(one, grounded[0], {pair.one for pair in allowed}, {pair.one for pair in pairs}),
        _alone(other, grounded[1], {pair.other for pair in allowed}, {pair.other for pair in pairs}),
    )
    return Pairing(pairs, alone)


def _best(allowed: Sequence[Pair]) -> Iterator[Pair]:
    """Yield the pairs that are taken, the best first."""
    taken: tuple[set[str], set[str]] = set(), set()
    for pair in sorted(allowed, key=_rank):
        if pair.one not in taken[0] and pair.other not in taken[1]:
            yield pair
            taken[0].add(pair.one)
            taken[1].add(pair.other)


def _rank(pair: Pair) -> tuple[float, timedelta, str, str]:
    return -round(pair.shared, 2), pair.apart, pair.one, pair.other


def _alone(patches: Mapping[str, Seen], grounded: Set[str], timely: Set[str], paired: Set[str]) -> dict[str, Alone]:
    """Return why each patch of one modality that is in no pair is in none.

    Args:
        patches: All of that modality.
        grounded: Those with a partner on the same ground.
        timely: Those with such a partner near enough in time.
        paired: Those in a pair.
    """
    return {name: _why(seen, name in grounded, name in timely) for name, seen in patches.items() if name not in paired}


def _why(seen: Seen, grounded: bool, timely: bool) -> Alone:
    if seen.footprint is None:
        return Alone.NO_FOOTPRINT
    if seen.acquired is None:
        return Alone.NO_TIME
    if not grounded:
        return Alone.NO_GROUND
    return Alone.TAKEN if timely else Alone.NO_DAY


def _on_same_ground(one: Mapping[str, Seen], other: Mapping[str, Seen]) -> Iterator[Pair]:
    """Yield all pairs of the same ground, whatever lies between them in time."""
    held: defaultdict[tuple[_Cell, _Cell], list[tuple[str, Footprint, Interval]]] = defaultdict(list)
    for name, box, acquired in _known(other):
        width = box[2] - box[0]
        held[_cell(box[0], width), _cell(box[1], box[3] - box[1])].append((name, box, acquired))
        for turn in (-360.0, 360.0):  # so that both sides of the antimeridian find each other
            if abs(box[0] + turn) < 180 + width:
                held[_cell(box[0] + turn, width), _cell(box[1], box[3] - box[1])].append((name, box, acquired))
    for name, box, acquired in _known(one):
        for cell in product(_cells_near(box[0], box[2] - box[0]), _cells_near(box[1], box[3] - box[1])):
            for partner, other_box, other_acquired in held.get(cell, ()):
                shared = _shared(box, other_box)
                if shared >= SAME_GROUND:
                    yield Pair(name, partner, shared, _between(acquired, other_acquired))


def _known(patches: Mapping[str, Seen]) -> Iterator[tuple[str, Footprint, Interval]]:
    """Yield patches of known place and time, with west less than east also across the antimeridian."""
    for name, (footprint, acquired) in patches.items():
        if footprint is not None and acquired is not None:
            west, south, east, north = footprint
            yield name, (west, south, east + 360 * (east < west), north), acquired


def _cell(start: float, length: float) -> _Cell:
    """Return in which cell a stretch of degrees is held: by its start, in cells about as long as itself."""
    level = frexp(length)[1]
    return level, floor(start / 2.0**level)


def _cells_near(start: float, length: float) -> Iterator[_Cell]:
    """Yield the cells of all stretches that may have nine tenths in common with one.

    Their lengths differ by no more than a ninth, and so do their starts; an eighth and a quarter leave room for
    rounding.
    """
    for level in range(frexp(length * 0.8)[1], frexp(length * 1.25)[1] + 1):
        first, last = (floor((start + reach) / 2.0**level) for reach in (-length / 8, length / 8))
        for number in range(first, last + 1):
            yield level, number


def _shared(one: Footprint, other: Footprint) -> float:
    """Return intersection over union of two boxes with west less than east; the same whichever comes first."""
    eastern, western = sorted((one, other), reverse=True)
    if eastern[0] - western[0] > 180:
        western = western[0] + 360, western[1], western[2] + 360, western[3]
    return overlap(eastern, western)


def _between(one: Interval, other: Interval) -> timedelta:
    """Return the time between two acquisitions; none where they overlap."""
    return max(one[0] - other[1], other[0] - one[1], timedelta())
