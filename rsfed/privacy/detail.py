"""In how much detail a node tells, and lets be asked, where and when: tiles of degrees, and whole units of time.

What is told is widened outward, so it always holds the truth. Filters are widened alike: by a finer one, asked again
and again, a footprint could be found more finely than it is told. A box cannot be widened to a country, nor does the
box of a country hold all of a footprint on its border: so where countries are told, no place can be asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsfed.index.filters import Filter
from rsfed.wire import DEGREE, EARLIEST, LATEST, NO_FOOTPRINT, NO_TIME

if TYPE_CHECKING:
    from rsfed.privacy.countries import Countries

_STEPS: Mapping[str, int] = {"exact": 1, "10km": DEGREE // 10, "100km": DEGREE}
_UNITS: Mapping[str, str] = {"exact": "ms", "day": "D", "month": "M", "year": "Y"}
_HALF_TURN = 180 * DEGREE


@dataclass(frozen=True, slots=True)
class Detail:
    """What is told in how much detail.

    Attributes:
        places: `exact`, `10km` (tiles of a tenth of a degree), `100km` (of a degree), `country` or `none`.
        times: `exact`, `day`, `month`, `year` or `none`.
        unfilterable: Further fields that no query may be filtered by, of `time`, `bbox`, `modality` and `label`.
        countries: The countries, at `country`; without them nothing is told there.
    """

    places: str = "exact"
    times: str = "exact"
    unfilterable: Collection[str] = ()
    countries: Countries | None = None

    @property
    def kept(self) -> frozenset[str]:
        """Fields that no query may be filtered by: the unfilterable ones, and what no filter can be widened to."""
        untold = (("bbox", self.places not in _STEPS), ("time", self.times not in _UNITS))
        return frozenset(name for name, kept in untold if kept).union(self.unfilterable)

    def boxes(self, boxes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return footprints as they may be told.

        Args:
            boxes: West, south, east, north in 1e-7 degree, int32, shape (n, 4); NO_FOOTPRINT stays.
        """
        if self.countries is not None:
            return self.countries.boxes_of(self.countries.holding(boxes))
        if self.places not in _STEPS:
            return np.full_like(boxes, NO_FOOTPRINT)
        known: NDArray[np.bool_] = boxes[:, :1] != NO_FOOTPRINT
        return np.where(known, _outward(boxes.astype(np.int64), _STEPS[self.places]), boxes).astype(np.int32)

    def shared(self, boxes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the tiles or countries of published atoms as they may be told; arguments as for `boxes`.

        `rsfed.privacy.grid` made them of footprints by the same countries, so of a country none is looked for anew.
        """
        return boxes if self.countries is not None else self.boxes(boxes)

    def intervals(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return acquired intervals as they may be told.

        Args:
            times: First and last millisecond since 1970, int64, shape (n, 2); NO_TIME stays.
        """
        if self.times == "none":
            return np.full_like(times, NO_TIME)
        known: NDArray[np.bool_] = (times[:, :1] >= EARLIEST) & (times[:, 1:] <= LATEST)
        return np.where(known, _whole_units(np.where(known, times, 0), _UNITS[self.times]), times)

    def filter(self, where: Filter) -> Filter:
        """Return a filter whose time and box are widened to what is told."""
        return Filter(
            after=None if where.after is None else int(self._around(where.after)[0]),
            before=None if where.before is None else int(self._around(where.before)[1]),
            box=None if where.box is None else self._wide(where.box),
            modality=where.modality,
            labels=where.labels,
        )

    def _around(self, moment: int) -> NDArray[np.int64]:
        """Return first and last millisecond of the unit of a moment, which may lie outside the calendar."""
        found: NDArray[np.int64] = self.intervals(np.full((1, 2), moment, np.int64))[0]
        return found

    def _wide(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        west, south, east, north = _outward(np.array([box], np.int64), _STEPS[self.places])[0].tolist()
        return west, south, east, north


def _outward(boxes: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Return boxes widened to multiples of a step; one that then goes all around crosses the antimeridian no more."""
    low, high = boxes[:, :2] // step * step, -(-boxes[:, 2:] // step) * step
    around = (boxes[:, 0] > boxes[:, 2]) & (low[:, 0] <= high[:, 0])
    low[around, 0], high[around, 0] = -_HALF_TURN, _HALF_TURN
    return np.concatenate([low, high], axis=1)


def _whole_units(times: NDArray[np.int64], unit: str) -> NDArray[np.int64]:
    """Return the first millisecond of the first and the last of the last calendar unit of each interval."""
    units = times.astype("datetime64[ms]").astype(f"datetime64[{unit}]")
    starts = units[:, 0].astype("datetime64[ms]").astype(np.int64)
    ends = (units[:, 1] + 1).astype("datetime64[ms]").astype(np.int64) - 1
    return np.stack([starts, ends], axis=1)
