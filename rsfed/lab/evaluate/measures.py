"""Every figure of one method on one split; the metrics are those of `rsfed.hashing.evaluation`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes
from rsfed.hashing.evaluation import Histograms, distance_histograms, expected_average_precision, expected_precision
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.division import Division, places
from rsfed.lab.evaluate.methods import Features
from rsfed.lab.evaluate.results import Leak

Measured = tuple[dict[str, float], dict[str, float], Histograms]
"""Figures, mean average precision of the queries of each class, and items at each distance."""


@dataclass(frozen=True, slots=True)
class Case:
    """One split of the images.

    Attributes:
        images: All images.
        features: What describes each, float32, shape (images, features).
        division: The split.
        k: Cut-off of every figure.
    """

    images: ImageSet
    features: Features
    division: Division
    k: int
