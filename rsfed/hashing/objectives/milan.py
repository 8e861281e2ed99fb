"""The losses of MiLaN.

Roy, Sangineto, Demir and Sebe, "Deep metric and hash-code learning for content-based retrieval of remote sensing
images", IGARSS 2018 (called MHCLN there), and "Metric-learning-based deep hashing network for content-based retrieval
of remote sensing images", IEEE GRSL 2021. For sigmoid outputs f of K bits:

- triplet: max(0, |a - p|^2 - |a - n|^2 + margin), where a, p, n are the outputs of anchor, positive and negative
  normalised to length 1 (the authors' code does so; the paper does not say it);
- push: -(1/K) sum (f - 0.5)^2, drives outputs away from the threshold;
- balance: (mean(f) - 0.5)^2 over the bits of *one* image, so that about half of them are set.

Two things differ. The authors draw triplets from one random pair of classes at each step; here a batch holds several
classes, every triplet in it is formed, and those that violate the margin are averaged (Hermans, Beyer and Leibe, "In
defense of the triplet loss for person re-identification", 2017, "batch all"). And with several labels per patch,
positives share at least one class with the anchor, negatives none.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rsfed.config import ObjectiveSection
from rsfed.hashing.objectives import Losses

_PATCHES_PER_CLASS = 4  # least number in a batch
_MOST_PAIRS = 4096  # of anchor and positive in a batch; bounds its memory to this many times the batch


class Milan:
    """Triplet, push and balance.

    Args:
        section: Margin and weights.
    """

    def __init__(self, section: ObjectiveSection) -> None:
        self._margin = section.margin
        self._push = section.push
        self._balance = section.balance

    def sample(self, labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose about equally many patches of each of several classes, so that rare classes count as much.

        A class with too few patches gives some of them twice. Unlabelled patches are chosen only where there is no
        label at all. See `Objective.sample`.
        """
        classes = np.flatnonzero(labels.any(axis=0))
        if not len(classes):
            return rng.integers(0, len(labels), batch)
        drawn = rng.permutation(classes)[: max(2, batch // _PATCHES_PER_CLASS)]
        counts = np.full(len(drawn), batch // len(drawn))
        counts[: batch % len(drawn)] += 1
        chosen = [_draw(np.flatnonzero(labels[:, c]), n, rng) for c, n in zip(drawn, counts, strict=True)]
        return np.concatenate(chosen)

    def losses(self, outputs: Tensor, labels: Tensor) -> Losses:
        """Return the weighted sum of the three losses; without a valid triplet that of push and balance alone."""
        total = self._push * push_loss(outputs) + self._balance * balance_loss(outputs)
        triplet = triplet_loss(outputs, labels, self._margin)
        return Losses(total if triplet is None else total + triplet, triplet is not None)


def triplet_loss(outputs: Tensor, labels: Tensor, margin: float) -> Tensor | None:
    """Return the mean over the triplets that violate the margin, 0 when none does; None without a valid triplet.

    Args:
        outputs: Sigmoid outputs, float32, shape (n, bits).
        labels: bool, shape (n, classes); unlabelled patches are in no triplet.
        margin: By how much a negative must be farther than a positive, in squared L2 of normalised outputs.
    """
    wide = labels.float()
    related = wide @ wide.T > 0
    labelled = labels.any(dim=1)
    unrelated = ~related & labelled[:, None] & labelled[None, :]
    pairs = (related & ~torch.eye(len(labels), dtype=torch.bool)).nonzero()
    pairs = pairs[:: -(-len(pairs) // _MOST_PAIRS) or 1]
    negatives = unrelated[pairs[:, 0]]
    if not negatives.any():
        return None
    unit = functional.normalize(outputs, dim=1)
    distance = 2 - 2 * unit @ unit.T
    violation = distance[pairs[:, 0], pairs[:, 1], None] - distance[pairs[:, 0]] + margin
    violation = functional.relu(violation) * negatives
    return violation.sum() / torch.count_nonzero(violation.detach()).clamp(min=1)


def push_loss(outputs: Tensor) -> Tensor:
    """Return minus the mean squared distance of the outputs from 0.5; outputs float32, shape (n, bits)."""
    return -(outputs - 0.5).square().mean()


def balance_loss(outputs: Tensor) -> Tensor:
    """Return the mean over the images of the squared distance of their mean output from 0.5."""
    return (outputs.mean(dim=1) - 0.5).square().mean()


def _draw(members: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw members without repetition, each again only when all were drawn."""
    rounds = -(-count // len(members))
    return np.concatenate([rng.permutation(members) for _ in range(rounds)])[:count]
