"""Augmentation of patches seen from above; only training uses it.

Any quarter turn or mirror image shows the same land cover. Light and haze change all bands together: one gain and one
offset per patch, alike for all bands, so that ratios between bands, which tell land cover apart, stay nearly as they
are. Pixels without data are changed like the others: their fill is a typical value, not a mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

DROPPED = 0.2  # share of features of a frozen trunk that a view lacks
JITTER = 0.1  # most change of gain, of 1, and of offset, in units of normalised values


def positions(patches: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return patches, shape (..., size, size), in the eight positions of a square: four turned, then four mirrored."""
    turned = [np.rot90(patches, quarter, axes=(-2, -1)) for quarter in range(4)]
    return turned + [each[..., ::-1] for each in turned]


def drop_features(features: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a view of features of a frozen trunk, which know no turns: some of each patch are set to 0.

    Noise on features as the one augmentation is that of Gao et al., "SimCSE", EMNLP 2021.

    Args:
        features: float32, shape (n, features).
        rng: Source of chance.
    """
    kept = rng.random(features.shape, dtype=np.float32) >= DROPPED
    return features * kept


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One view of each of some patches; the same for all band groups of a patch.

    Attributes:
        position: Which of the eight positions of a square, int, shape (n,): quarter turns, and from 4 on mirrored.
        gain: Factor of all values, float32, shape (n,).
        offset: Added after that, float32, shape (n,).
    """

    position: NDArray[np.int64]
    gain: NDArray[np.float32]
    offset: NDArray[np.float32]

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Self:
        """Draw views of `count` patches, each position, gain and offset as likely."""
        position = rng.integers(0, 8, count)
        gain, offset = rng.uniform(-JITTER, JITTER, (2, count)).astype(np.float32)
        return cls(position, 1 + gain, offset)

    def apply(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the view of each patch as a new array; patches are float32, shape (n, bands, size, size)."""
        view = np.empty_like(patches)
        for each in range(8):
            chosen = self.position == each
            view[chosen] = positions(patches[chosen])[each]
        view *= self.gain[:, None, None, None]
        view += self.offset[:, None, None, None]
        return view
