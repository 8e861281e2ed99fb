"""Augmentation of patches seen from above: any quarter turn or mirror image shows the same land cover."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def turn(groups: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
    """Bring each patch into one of the eight positions of a square, each as likely; all its bands into the same.

    Args:
        groups: For each band group float32, shape (n, bands, size, size).
        rng: Source of chance.

    Returns:
        New arrays of the same shapes.
    """
    position = rng.integers(0, 8, len(groups[0]))
    return tuple(_turned(patches, position) for patches in groups)


def _turned(patches: NDArray[np.float32], position: NDArray[np.int64]) -> NDArray[np.float32]:
    turned = np.empty_like(patches)
    for each in range(8):
        chosen = position == each
        group = np.rot90(patches[chosen], each % 4, axes=(2, 3))
        turned[chosen] = group[..., ::-1] if each >= 4 else group
    return turned
