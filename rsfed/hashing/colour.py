"""Nearest-mean-colour classifier: how far colour alone gets. A data set that it solves shows nothing about hashing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class NearestMeanColour:
    """Assigns a patch to the class whose mean colour is nearest.

    Attributes:
        deviation: Standard deviation of each band over the training patches, 1 where constant, shape (bands,).
        centres: Mean colour of each class in units of that deviation, shape (classes, bands).
    """

    deviation: NDArray[np.float64]
    centres: NDArray[np.float64]

    @classmethod
    def fit(cls, colours: NDArray[np.floating], classes: NDArray[np.int64]) -> Self:
        """Learn the mean colours.

        Args:
            colours: Mean of every band of every training patch, shape (n, bands).
            classes: Class of each patch, int64, shape (n,), from 0 and each with at least one patch.
        """
        deviation = colours.std(axis=0, dtype=np.float64)
        deviation = np.where(deviation > 0, deviation, 1.0)
        centres = [colours[classes == c].mean(axis=0, dtype=np.float64) for c in range(int(classes.max()) + 1)]
        return cls(deviation, np.stack(centres) / deviation)

    def predict(self, colours: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class of each patch, int64, shape (n,), for mean colours of shape (n, bands)."""
        gaps = (colours / self.deviation)[:, None, :] - self.centres[None, :, :]
        nearest: NDArray[np.int64] = np.square(gaps).sum(axis=2).argmin(axis=1)
        return nearest

    def accuracy(self, colours: NDArray[np.floating], classes: NDArray[np.int64]) -> float:
        """Return the share of patches that are assigned to their own class."""
        return float((self.predict(colours) == classes).mean())
