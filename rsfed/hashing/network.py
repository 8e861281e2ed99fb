"""The compact residual hash network.

A residual network (He et al., "Deep residual learning for image recognition", CVPR 2016) small enough to train on two
CPU cores, with three deliberate choices:

- GroupNorm (Wu and He, ECCV 2018) and no BatchNorm: running statistics of archives that differ do not average, and the
  code of an image must not depend on the images beside it.
- Dense convolutions over maps stored channels last: depthwise ones train slowly on a CPU.
- The trunk is pooled to the mean and the deviation of every channel, because land cover is told apart by texture, which
  a mean alone blurs.

The head is that of MiLaN (Roy et al., IGARSS 2018): one sigmoid output per bit, the bit being [output > 0.5]. MiLaN put
it on features of a trained network; from random weights its outputs all start near 0.5, where the triplet loss is flat
and training collapses. So each image's pooled features and logits are standardised (LayerNorm, Ba et al., 2016), which
keeps outputs apart from the first step on and every code near balance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsfed.codes import check_bits
from rsfed.errors import TrainingError
from rsfed.raster.input_spec import BandGroup, InputSpec
from rsfed.trust.manifest import Architecture

STAGES = (1, 2, 4, 8)  # channels of each stage, in widths
_GROUP_CHANNELS = 4  # least number of channels that are normalised together
_MOST_GROUPS = 8
_LOGIT_SCALE = 4.0  # deviation of one image's logits over its bits; more makes outputs binary before codes are right
_EPSILON = 1e-5


class HashNetwork(nn.Module):
    """Residual trunk with a hash head.

    Args:
        bands: Bands of the input.
        bits: Width of the codes.
        architecture: Width of the first stage and residual blocks of each stage.
    """

    def __init__(self, bands: int, bits: int, architecture: Architecture) -> None:
        super().__init__()
        width, channels = architecture.width, architecture.width
        layers: list[nn.Module] = [_convolution(bands, width, stride=2), _norm(width), nn.ReLU()]
        for stage, factor in enumerate(STAGES):
            for block in range(architecture.blocks):
                halve = stage > 0 and block == 0
                layers.append(_Residual(channels, width * factor, halve=halve))
                channels = width * factor
        self.trunk = nn.Sequential(*layers)
        self.features = nn.LayerNorm(2 * channels)
        self.head = nn.Linear(2 * channels, bits)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the sigmoid outputs.

        Args:
            patches: float32, shape (n, bands, height, width), normalised as the InputSpec says.

        Returns:
            float32, shape (n, bits), each from 0 to 1.
        """
        maps = self.trunk(patches.contiguous(memory_format=torch.channels_last)).flatten(2)
        deviation = (maps.var(dim=2, correction=0) + _EPSILON).sqrt()
        logits = self.head(self.features(torch.cat([maps.mean(dim=2), deviation], dim=1)))
        return torch.sigmoid(_LOGIT_SCALE * functional.layer_norm(logits, logits.shape[1:]))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut; the sum starts as the shortcut alone."""

    def __init__(self, channels: int, out: int, *, halve: bool) -> None:
        super().__init__()
        self.first = _convolution(channels, out, stride=2 if halve else 1)
        self.first_norm = _norm(out)
        self.second = _convolution(out, out, stride=1)
        self.second_norm = _norm(out)
        nn.init.zeros_(self.second_norm.weight)
        self.shortcut = _shortcut(channels, out, halve=halve)

    def forward(self, maps: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(maps)))
        return functional.relu(self.shortcut(maps) + self.second_norm(self.second(inner)))


def build_network(architecture: Architecture, spec: InputSpec, bits: int, *, seed: int = 0) -> HashNetwork:
    """Build the network of an encoder with random weights.

    Args:
        architecture: How it is built.
        spec: Input of the encoder.
        bits: Width of the codes.
        seed: Seed of the weights; the same seed gives the same weights, whatever was drawn before.

    Raises:
        CodeError: bits is not a width that codes may have.
        TrainingError: ENCODER_INPUT, the input has several band groups.
    """
    group = only_group(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HashNetwork(len(group.bands), check_bits(bits), architecture)


def only_group(spec: InputSpec) -> BandGroup:
    """Return the one band group that this network takes.

    Raises:
        TrainingError: ENCODER_INPUT, there are several.
    """
    if len(spec.groups) != 1:
        raise TrainingError(
            f"this network takes one band group; the encoder's input has {len(spec.groups)}: "
            "bring all bands to one size and ground sampling distance",
            reason="ENCODER_INPUT",
        )
    return spec.groups[0]


def _convolution(channels: int, out: int, *, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _norm(channels: int) -> nn.GroupNorm:
    """Normalise in the largest number of equal groups that leaves each enough channels."""
    most = min(_MOST_GROUPS, max(1, channels // _GROUP_CHANNELS))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


def _shortcut(channels: int, out: int, *, halve: bool) -> nn.Module:
    """Bring maps to the size and number of channels of a block's output, averaging where they are halved."""
    if channels == out and not halve:
        return nn.Identity()
    mix = nn.Conv2d(channels, out, 1, bias=False)
    return nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), mix) if halve else mix
