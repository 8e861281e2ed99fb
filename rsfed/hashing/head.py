"""What all hash networks share: the head that turns the description of a patch into outputs.

The head is that of MiLaN (Roy et al., IGARSS 2018): one sigmoid output per bit, the bit being [output > 0.5]. MiLaN put
it on features of a trained network; from random weights its outputs all start near 0.5, where the triplet loss is flat
and training collapses. So each image's description and logits are standardised (LayerNorm, Ba et al., 2016), which
keeps outputs apart from the first step on and every code near balance.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

_HIDDEN = (1024, 512)  # of the trained head on a frozen trunk
_SLOPE = 0.2  # of LeakyReLU
_LOGIT_SCALE = 4.0  # deviation of one image's logits over its bits; more makes outputs binary before codes are right


class HashNetwork(nn.Module, ABC):
    """A network with one sigmoid output for each bit.

    A subclass builds what describes a patch, then calls `add_head`.
    """

    features: nn.Module  # what the last layer takes: the description, standardised
    head: nn.Linear

    def add_head(self, width: int, bits: int) -> None:
        """Build the head for descriptions of this width."""
        self.features = nn.LayerNorm(width)
        self.head = nn.Linear(width, bits)

    @abstractmethod
    def describe(self, *inputs: Tensor) -> Tensor:
        """Return one description for each patch, float32, shape (n, width)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the sigmoid outputs.

        Args:
            inputs: One tensor for each band group, float32, shape (n, bands, height, width), normalised as the
                InputSpec says; of a head on a frozen trunk its features, float32, shape (n, features).

        Returns:
            float32, shape (n, bits), each from 0 to 1.
        """
        logits = self.head(self.features(self.describe(*inputs)))
        return torch.sigmoid(_LOGIT_SCALE * functional.layer_norm(logits, (self.head.out_features,)))


class TrunkHead(HashNetwork):
    """The head on the features of a frozen trunk: 1024-512-bits as in MiLaN, LeakyReLU and no BatchNorm.

    Each patch's features are standardised first: trunks differ in scale by orders of magnitude, and a federation must
    not choose another learning rate for each.

    Args:
        features: Width of the trunk's features.
        bits: Width of the codes.
    """

    def __init__(self, features: int, bits: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(features)]
        for width, out in zip((features, *_HIDDEN), _HIDDEN, strict=False):
            layers += [nn.Linear(width, out), nn.LeakyReLU(_SLOPE)]
        self.hidden = nn.Sequential(*layers)
        self.add_head(_HIDDEN[-1], bits)

    def describe(self, *inputs: Tensor) -> Tensor:
        """Return the last hidden layer."""
        described: Tensor = self.hidden(inputs[0])
        return described


class FourierHead(HashNetwork):
    """The head of the closed form: random Fourier features of a patch's features, and one linear layer.

    After Rahimi and Recht, "Random features for large-scale kernel machines", NIPS 2007: products of the projections of
    two patches approach a Gaussian kernel of them. Its bandwidth needs no data: its square is the squared norm of a
    standardised patch, which is the number of features, so patches without correlation have a kernel of 1/e.

    Projections are drawn once and stay; the linear layer is solved for (`rsfed.hashing.refit`). They are weights as all
    others are: a generator need not draw the same under its next version, and codes must be the same for ever.

    Args:
        features: Width of the trunk's features.
        bits: Width of the codes.
        count: Number of projections.
    """

    def __init__(self, features: int, bits: int, count: int) -> None:
        super().__init__()
        self.standardise = nn.LayerNorm(features, elementwise_affine=False)
        self.projections = nn.Linear(features, count)
        self.features = nn.Identity()
        self.head = nn.Linear(count, bits)
        with torch.no_grad():
            self.projections.weight.normal_(0, 1 / math.sqrt(features))
            self.projections.bias.uniform_(0, 2 * math.pi)

    def describe(self, *inputs: Tensor) -> Tensor:
        """Return the projections; their squares sum to about 1 for each patch."""
        projected: Tensor = self.projections(self.standardise(inputs[0]))
        return torch.cos(projected) * math.sqrt(2 / self.head.in_features)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the sigmoid outputs; bits stand for themselves, so they are not standardised over those of a patch."""
        return torch.sigmoid(self.head(self.describe(*inputs)))
