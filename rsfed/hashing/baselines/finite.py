"""What all baselines ask of features before they learn from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import TrainingError


def check_finite(features: NDArray[np.floating]) -> None:
    """Refuse features that no code can be made of.

    Args:
        features: Shape (n, features).

    Raises:
        TrainingError: there are none, or one is not finite.
    """
    if not len(features):
        raise TrainingError("there are no features to learn from; give at least one image")
    if not np.isfinite(features).all():
        raise TrainingError("the features hold values that are not finite; compute them again")
