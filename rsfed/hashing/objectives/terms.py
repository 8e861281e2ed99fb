"""Terms that several objectives share, of sigmoid outputs f from 0 to 1.

All but `view_loss` are means over records, none of which sees another.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def push_loss(outputs: Tensor) -> Tensor:
    """Return minus the mean squared distance of the outputs from 0.5; outputs float, shape (n, bits)."""
    return -(outputs - 0.5).square().mean()


def quantisation_loss(outputs: Tensor) -> Tensor:
    """Return the mean squared distance of 2f - 1 from its sign, 0 for binary outputs, 1 at the threshold."""
    return (1 - (2 * outputs - 1).abs()).square().mean()


def balance_loss(outputs: Tensor) -> Tensor:
    """Return the mean over the images of the squared distance of their mean output from 0.5."""
    return (outputs.mean(dim=1) - 0.5).square().mean()


def related(labels: Tensor) -> Tensor:
    """Say which patches share a class: bool, shape (n, n), of labels bool, shape (n, classes)."""
    wide = labels.float()
    return wide @ wide.T > 0


def view_loss(outputs: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent: the mean over all views of the cross-entropy of picking the other view of the same patch.

    Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020.

    Args:
        outputs: Sigmoid outputs, float, shape (2 x patches, bits), the first views before the second.
        temperature: Divides the cosine of two relaxed codes.
    """
    unit = functional.normalize(2 * outputs - 1, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool)
    likeness = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    partner = torch.arange(len(unit)).roll(len(unit) // 2)
    return functional.cross_entropy(likeness, partner)
