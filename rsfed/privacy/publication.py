"""What a guarded node has published of its archive: atoms of at least `floor` acquisitions, which change in batches.

Everything that an answer says is said of atoms: all published items of one cell of the codebook, one tile and one
period. What comes to an atom is a batch of at least `floor` acquisitions, else it waits. Of a batch, withdrawn items
are counted until so many are gone that they make a batch themselves, and what is left does, too. So no answer, and no
two answers, whatever their filters and epochs, differ by fewer than `floor` acquisitions.

Items that are too few for an atom of their tile and month are put together in the next coarser tier, at last in one
that tells neither place nor time; what is too few even there is not published.

Under a new release, whose cells are others, the items that were published are put together anew, those that are counted
though they are gone included; what came since waits for its batch all the same. A catalogue, which is of all
acquisitions at once, goes on with those of the last one (`of_a_batch`). Pure rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Ids
from rsfed.privacy.counts import draws
from rsfed.privacy.grid import TIERS, Places

ROW = np.dtype(
    [
        ("id", "<i8"),
        ("acquisition", "<u8"),
        ("epoch", "<u4"),  # in which it came
        ("cell", "<u2"),
        ("tier", "u1"),
        ("place", "<i4"),
        ("time", "<i4"),
    ]
)
"""One published item."""

_ATOM = ("cell", "tier", "place", "time")
Rows = NDArray[np.void]
"""Published items, by rising id, of the type `ROW`."""
Acquisitions = NDArray[np.uint64]
"""Numbers of acquisitions; see `acquisition_numbers`."""


@dataclass(frozen=True, slots=True)
class Present:
    """The items of an archive that may be published.

    Attributes:
        ids: Item ids in rising order, int64, shape (n,).
        acquisitions: A number for the acquisition of each, uint64; see `acquisition_numbers`.
        cells: The cell that each is in, int64.
        places: The tile of each at every tier.
        times: The period of each at every tier.
    """

    ids: Ids
    acquisitions: NDArray[np.uint64]
    cells: NDArray[np.int64]
    places: tuple[Places, ...]
    times: tuple[Places, ...]

    def rows(self, tier: int, epoch: int) -> Rows:
        """Return the items as they are published at a tier in an epoch."""
        rows = np.zeros(len(self.ids), ROW)
        rows["id"], rows["acquisition"], rows["cell"] = self.ids, self.acquisitions, self.cells
        rows["epoch"], rows["tier"] = epoch, tier
        rows["place"], rows["time"] = self.places[tier], self.times[tier]
        return rows


def nothing() -> Rows:
    """Return what is published before anything is."""
    return np.zeros(0, ROW)


def acquisition_numbers(names: Iterable[str]) -> NDArray[np.uint64]:
    """Return a number for each acquisition, the same at any time: part of the SHA-256 of its name."""
    return np.array([int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in names], np.uint64)


def published(before: Rows, present: Present, floor: int, epoch: int) -> Rows:
    """Return what is published next: as much as can be changed in batches.

    Args:
        before: What is published.
        present: The items of the archive now.
        floor: Distinct acquisitions of an atom, and of each change of one.
        epoch: Number of this publication, higher than those before.
    """
    kept = _without_gone(before, present.ids, floor)
    waiting = ~np.isin(present.ids, kept["id"])
    parts = [kept]
    for tier in range(TIERS):
        rows = present.rows(tier, epoch)[waiting]
        enough = _behind(rows) >= floor
        parts.append(rows[enough])
        waiting[np.flatnonzero(waiting)[enough]] = False
    rows = np.concatenate(parts)
    ordered: Rows = rows[np.argsort(rows["id"], kind="stable")]
    return ordered


def cells_now(before: Rows, present: Present) -> NDArray[np.int64]:
    """Return the cell that each published item is in now, where the cells are others than before.

    Of one that is gone nobody knows: it is counted where most of those are that were in one cell with it.

    Args:
        before: What is published.
        present: The items of the archive now, and their cells.
    """
    there = np.isin(before["id"], present.ids)
    cells = np.zeros(len(before), np.int64)
    cells[there] = present.cells[np.searchsorted(present.ids, before["id"][there])]
    for former in np.unique(before["cell"][~there]):
        own = before["cell"] == former
        beside = cells[own & there] if (own & there).any() else cells[there]
        cells[own & ~there] = np.bincount(beside, minlength=1).argmax()
    return cells


def of_a_batch(now: Acquisitions, before: Acquisitions, least: int, key: bytes) -> Acquisitions:
    """Return the acquisitions that a publication under other codes may be of, beside one that was made before.

    The two differ by none or by a whole batch. Where so few went that they would stand out, as many others are left
    out with them as make a batch; where so few came, they wait.

    Args:
        now: Numbers of the acquisitions of the archive, rising.
        before: Of those that the publication before is of, rising.
        least: Acquisitions of a batch, and of a publication.
        key: A secret of the node, which decides who is left out.

    Returns:
        Their numbers, rising; none where too few would be left.
    """
    if len(np.setxor1d(now, before)) >= least:
        return now
    stay = np.intersect1d(now, before)
    if len(stay) == len(before):
        return before
    kept = stay[np.argsort(draws(stay, key))][: max(0, len(before) - least)]
    return np.sort(kept) if len(kept) >= least else kept[:0]


def atoms(rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """Return the first row of each atom, and the atom of each row as a place among them."""
    firsts, numbers = _grouped(rows, _ATOM)
    return rows[firsts], numbers


def size_class(count: int) -> int:
    """Return the size that is told of so many items: the largest power of two that is not above it."""
    return 1 << count.bit_length() - 1 if count else 0


def held_class(count: int) -> int:
    """Return the number of items that is told of an archive: the least power of two that is not below it."""
    return 1 << (count - 1).bit_length() if count else 0


def _without_gone(before: Rows, ids: Ids, floor: int) -> Rows:
    """Return the rows that stay: withdrawn items of a batch go where they, and what is left, are enough."""
    gone = ~np.isin(before["id"], ids)
    if not gone.any():
        return before
    _, batches = _grouped(before, (*_ATOM, "epoch"))
    left, lost = _counts(before, batches, ~gone), _counts(before, batches, gone)
    may_go = (lost >= floor) & ((left >= floor) | (left == 0))
    kept: Rows = before[~(gone & may_go[batches])]
    return kept


def _behind(rows: Rows) -> NDArray[np.int64]:
    """Return for each row how many acquisitions the atom has that it would be in."""
    _, numbers = atoms(rows)
    return _counts(rows, numbers, np.ones(len(rows), np.bool_))[numbers]


def _grouped(rows: Rows, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row of each combination of columns, and the combination of each row as a number."""
    order = np.lexsort([rows[name] for name in names])
    new = np.zeros(len(rows), np.bool_)
    new[:1] = True
    for name in names:
        new[1:] |= np.diff(rows[name][order].astype(np.int64)) != 0
    numbers = np.empty(len(rows), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return order[new], numbers


def _counts(rows: Rows, groups: NDArray[np.int64], which: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the number of distinct acquisitions of each group among some of the rows."""
    chosen, behind = groups[which], rows["acquisition"][which]
    order = np.lexsort((behind, chosen))
    chosen, behind = chosen[order], behind[order]
    new = np.ones(len(chosen), np.bool_)
    new[1:] = (np.diff(chosen) != 0) | (behind[1:] != behind[:-1])
    return np.bincount(chosen[new], minlength=int(groups.max(initial=-1)) + 1)
