"""The mean of the weights after the last rounds of a run, which smooths what single rounds do to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from coordinator.training.arrays import record_of, view

_MEAN, _COUNT = "mean/", "mean-count"  # in what is kept of a run


class LateMean:
    """A running mean, whatever the strategy; of one round alone, which is its own mean, it takes no memory.

    Args:
        last: Last rounds whose weights it takes.
        rounds: Rounds of the run.
        kept: What an interrupted run kept, other things included.
    """

    def __init__(self, last: int, rounds: int, kept: Mapping[str, NDArray[Any]]) -> None:
        self._first = rounds - last + 1 if min(last, rounds) > 1 else rounds + 1
        self._count = int(kept.get(_COUNT, 0))
        self._mean: dict[str, NDArray[np.float32]] = {
            name.removeprefix(_MEAN): np.array(array) for name, array in kept.items() if name.startswith(_MEAN)
        }

    def add(self, number: int, arrays: ArrayRecord) -> None:
        """Take the weights after a round that changed them."""
        if number < self._first:
            return
        self._count += 1
        for name, array in arrays.items():
            if self._count == 1:
                self._mean[name] = np.array(view(array))
            else:
                step = view(array) - self._mean[name]
                step /= np.float32(self._count)
                step += self._mean[name]  # a new array: what is kept of a run stays as it was
                self._mean[name] = step

    @property
    def kept(self) -> dict[str, NDArray[Any]]:
        """What a run that is interrupted goes on from."""
        count = {_COUNT: np.array(self._count)} if self._count else {}
        return {_MEAN + name: array for name, array in self._mean.items()} | count

    def result(self) -> ArrayRecord | None:
        """Return the mean, which is used up; None where there is none to take."""
        mean, self._mean = self._mean, {}
        self._count = 0
        return record_of(mean.items()) if mean else None
