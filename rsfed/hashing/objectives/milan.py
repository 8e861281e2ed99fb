"""MiLaN as its authors train it.

Roy, Sangineto, Demir and Sebe, "Deep metric and hash-code learning for content-based retrieval of remote sensing
images", IGARSS 2018 (called MHCLN there), and "Metric-learning-based deep hashing network for content-based retrieval
of remote sensing images", IEEE GRSL 2021. For sigmoid outputs f of K bits:

- triplet: max(0, |a - p|^2 - |a - n|^2 + margin), where a, p, n are the outputs of anchor, positive and negative
  normalised to length 1 (the authors' code does so; the paper does not say it), the mean over the triplets of a step;
- push: -(1/K) sum (f - 0.5)^2, drives outputs away from the threshold;
- balance: (mean(f) - 0.5)^2 over the bits of *one* image, so that about half of them are set.

At each step one random class gives anchors and positives, each image once, and one other class as many negatives: 30
triplets of a batch of 90. Adam has the decay rates 0.5 and 0.9 there, and `training.learning_rate` is 1e-4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rsfed.config_objectives import MilanSection
from rsfed.hashing.objectives.interface import Losses
from rsfed.hashing.objectives.sampling import draw
from rsfed.hashing.objectives.terms import balance_loss, push_loss


class Milan:
    """Triplets of one pair of classes, push and balance.

    Args:
        section: Margin, weights and decay rates.
    """

    views = 1

    def __init__(self, section: MilanSection) -> None:
        self._section = section
        self.betas = (section.beta_1, section.beta_2)

    def sample(self, labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose equally many anchors, positives and negatives, one after the other; see `Objective.sample`.

        A class with one image gives negatives only; one with fewer than a batch has room for, fewer triplets. Where
        no class has two images or there is no other class, patches are chosen that no triplet can be formed of.
        """
        classes = np.flatnonzero(labels.any(axis=0))
        for alike in rng.permutation(classes[labels[:, classes].sum(axis=0) > 1]):
            others = labels & ~labels[:, [alike]]
            if others.any():
                members = np.flatnonzero(labels[:, alike])
                count = min(batch // 3, len(members) // 2)
                unlike = rng.choice(np.flatnonzero(others.any(axis=0)))
                negatives = draw(np.flatnonzero(others[:, unlike]), count, rng)
                return np.concatenate([rng.permutation(members)[: 2 * count], negatives])
        usable = np.flatnonzero(labels.any(axis=1)) if len(classes) else np.arange(len(labels))
        return draw(usable, max(3, min(batch, len(usable)) // 3 * 3), rng)

    def losses(self, outputs: Tensor, labels: Tensor) -> Losses:
        """Return the weighted sum of the three losses; without a valid triplet that of push and balance alone.

        Args:
            outputs: Sigmoid outputs of anchors, positives and negatives, float, shape (3 x triplets, bits).
            labels: bool, shape (3 x triplets, classes). With several labels per patch, a triplet is valid whose
                positive shares a class with the anchor and whose negative shares none.
        """
        total = self._section.push * push_loss(outputs) + self._section.balance * balance_loss(outputs)
        anchor, positive, negative = functional.normalize(outputs, dim=1).chunk(3)
        of_anchor, of_positive, of_negative = labels.chunk(3)
        valid = (of_anchor & of_positive).any(dim=1) & ~(of_anchor & of_negative).any(dim=1) & of_negative.any(dim=1)
        if not valid.any():
            return Losses(total, compared=False)
        gap = (anchor - positive).square().sum(dim=1) - (anchor - negative).square().sum(dim=1)
        return Losses(total + functional.relu(gap + self._section.margin)[valid].mean(), compared=True)
