"""Terms that several objectives share, all of sigmoid outputs f from 0 to 1 and a mean over records alone."""

from __future__ import annotations

from torch import Tensor


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
