"""Central similarity: outputs go to the fixed hash centres of their classes.

After Yuan et al., "Central similarity quantization for efficient image and video retrieval", CVPR 2020: cross-entropy
between outputs and centre, and a quantisation term. Every node trains for the same centres. With
`within` = 0 the loss is a mean over records, none of which sees another, as differential privacy needs it.

- Several labels: each bit goes where most of the patch's centres have it, with the weight of their majority. A bit on
  which they are divided evenly is left to the patch; a mean would pull it to the threshold, where it flips.
- Unlabelled patches are in no batch as long as there are labelled ones; in a batch of them quantisation and views
  count.
- Centres alone bring all patches of a class to one code, so that nothing is ranked within it. So they leave the last
  bits free: these keep the random hyperplanes of the start, in the space that the other bits shape, and patches that
  are near in it stay near (Charikar, STOC 2002).
- With `within`, two augmented views of a patch shall also be more alike than views of different patches, of whatever
  class: what tells patches apart beyond their class is kept, and so is what tells new classes apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rsfed.config_objectives import CentresSection
from rsfed.hashing.centres import centres_beside_free
from rsfed.hashing.objectives.interface import ADAM_BETAS, Losses
from rsfed.hashing.objectives.sampling import balanced
from rsfed.hashing.objectives.terms import quantisation_loss, view_loss

_TEMPERATURE = 0.2  # of NT-Xent


class Centres:
    """Cross-entropy to hash centres and quantisation; NT-Xent where it has a weight.

    Args:
        section: Share of free bits, and weights.
        classes: Stable ids of the classes in the order of the columns of labels.
        bits: Width of the codes.
        seed: Seed of the centres.

    Attributes:
        centres: The centres, bool, shape (classes, bits that are not free).

    Raises:
        TrainingError: TOO_MANY_CLASSES.
    """

    betas = ADAM_BETAS

    def __init__(self, section: CentresSection, classes: Sequence[int], bits: int, *, seed: int) -> None:
        self._section = section
        self.views = 2 if section.within else 1
        self.centres = centres_beside_free(classes, bits, section.free, seed)
        self._signs = torch.from_numpy(2.0 * self.centres - 1)

    def sample(self, labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose about equally many patches of several classes; none twice where each is told apart from all others."""
        chosen = balanced(labels, batch, rng)
        return np.unique(chosen) if self._section.within else chosen

    def losses(self, outputs: Tensor, labels: Tensor) -> Losses:
        """Return the weighted sum of all losses, without a label that of all but the centres'."""
        total = self._section.quantisation * quantisation_loss(outputs)
        if self._section.within:
            total = total + self._section.within * view_loss(outputs, _TEMPERATURE)
        labelled = labels.any(dim=1)
        if not labelled.any():
            return Losses(total, compared=False)
        held = outputs[labelled, : self._signs.shape[1]]
        return Losses(total + centre_loss(held, labels[labelled], self._signs), compared=True)


def centre_loss(outputs: Tensor, labels: Tensor, signs: Tensor) -> Tensor:
    """Return the mean over patches and bits of the cross-entropy to the majority of the patch's centres.

    Args:
        outputs: Sigmoid outputs, float, shape (n, bits).
        labels: bool, shape (n, classes); each row has a class.
        signs: Centres, 1 where a bit is set, else -1, shape (classes, bits).
    """
    chosen = labels.to(outputs.dtype)
    majority = chosen @ signs.to(outputs.dtype) / chosen.sum(dim=1, keepdim=True)
    return functional.binary_cross_entropy(outputs, (majority > 0).to(outputs.dtype), weight=majority.abs())
