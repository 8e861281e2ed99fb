"""Augmentation of patches seen from above: any quarter turn or mirror image shows the same land cover."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def turn(patches: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Bring each patch into one of the eight positions of a square, each as likely.

    Args:
        patches: float32, shape (n, bands, size, size).
        rng: Source of chance.

    Returns:
        New array of the same shape.
    """
    position = rng.integers(0, 8, len(patches))
    turned = np.empty_like(patches)
    for each in range(8):
        chosen = position == each
        group = np.rot90(patches[chosen], each % 4, axes=(2, 3))
        turned[chosen] = group[..., ::-1] if each >= 4 else group
    return turned
