"""What a node answers from where answers go by cells: the published items, ready to be listed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Ids
from rsfed.index.filters import Filter
from rsfed.index.order import keyed, seeds
from rsfed.privacy import grid
from rsfed.privacy.cells import Cells
from rsfed.privacy.policy import Ask
from rsfed.privacy.publication import Rows, atoms, held_class, size_class

if TYPE_CHECKING:
    from rsfed.privacy.countries import Countries


@dataclass(frozen=True, slots=True)
class Listed:
    """One cell as it is listed.

    Attributes:
        mark: A number below 0 that stands for the cell.
        distance_upper: Upper edge of the band of its distance from the query's cell.
        size: Class of the number of its items that pass.
        ids: Those that are listed, int64, shape (n,).
        boxes: The tile or country of each, int32, shape (n, 4).
        times: The period of each, int64, shape (n, 2).
    """

    mark: int
    distance_upper: int
    size: int
    ids: Ids
    boxes: NDArray[np.int32]
    times: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Published:
    """The published items of one encoder of one release in one epoch.

    Attributes:
        cells: The cells of the release.
        epoch: Number of the publication.
        ids: The items, cell after cell, in the order in which they are listed, int64, shape (n,).
        starts: Where each cell starts among them, int64, shape (cells + 1,).
        atoms: The atom of each item, as a place in the three below, int64, shape (n,).
        places: The tile, or country, of each atom.
        times: Its period.
        tiers: Its tier, uint8.
        countries: Told in place of tiles; None where tiles are.
    """

    cells: Cells
    epoch: int
    ids: Ids
    starts: NDArray[np.int64]
    atoms: NDArray[np.int64]
    places: grid.Places
    times: grid.Places
    tiers: NDArray[np.uint8]
    countries: Countries | None = None

    @classmethod
    def of(  # noqa: PLR0913 - what is published, and what its order depends on
        cls,
        cells: Cells,
        rows: Rows,
        epoch: int,
        *,
        tie_key: bytes,
        release: bytes,
        countries: Countries | None = None,
    ) -> Self:
        """Order what is published; the order of a cell is kept for the epoch and known to nobody without the key.

        Args:
            cells: The cells of the release.
            rows: What is published.
            epoch: Number of the publication.
            tie_key: The node's tie key, 32 bytes.
            release: Digest of the release, 32 bytes.
            countries: By which places are numbered; None where these are tiles.
        """
        firsts, numbers = atoms(rows)
        by_cell = np.argsort(rows["cell"], kind="stable")
        sizes = np.bincount(rows["cell"], minlength=len(cells.codes)).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        of_cells = seeds(tie_key, release, epoch, b"", [b"cell" + code.tobytes() for code in cells.codes])
        ranks = np.arange(len(rows)) - np.repeat(starts[:-1], sizes)
        positions = keyed(np.repeat(of_cells, sizes, axis=0), np.repeat(sizes, sizes), ranks)
        order = by_cell[np.repeat(starts[:-1], sizes) + positions]
        told = firsts["place"], firsts["time"], firsts["tier"]
        return cls(cells, epoch, rows["id"][order], starts, numbers[order], *told, countries)

    @property
    def held(self) -> int:
        """Class of the number of all items."""
        return held_class(len(self.ids))

    def around(self, cell: int, ask: Ask, where: Filter | None) -> Iterator[Listed]:
        """Yield the cells around one until k items are reached, or within the radius.

        Args:
            cell: The query's cell.
            ask: What is wanted.
            where: A snapped filter; None where all items count.
        """
        good = None if where is None else grid.passes(where, self.places, self.times, self.tiers)
        found = 0
        for near, upper in zip(*(each.tolist() for each in self.cells.around(cell)), strict=True):
            if found >= ask.row_limit or (found >= ask.k if ask.radius is None else upper > ask.radius):
                return
            inside = np.arange(self.starts[near], self.starts[near + 1])
            if good is not None:
                inside = inside[good[self.atoms[inside]]]
            if size := size_class(len(inside)):
                shown = inside[: min(size, ask.k)]
                found += size if ask.radius is None else len(shown)
                yield self._listed(near, upper, size, shown)

    def _listed(self, cell: int, upper: int, size: int, shown: NDArray[np.int64]) -> Listed:
        told = self.atoms[shown]
        boxes = grid.told(self.places[told], self.tiers[told], self.countries)
        times = grid.times_of(self.times[told], self.tiers[told])
        return Listed(-1 - cell, upper, size, self.ids[shown], boxes, times)
