"""The residual networks: the compact one of one band group, that of reduced images, and the K-branch one.

Residual networks (He et al., "Deep residual learning for image recognition", CVPR 2016) small enough to train on two
CPU cores, with three deliberate choices:

- GroupNorm (Wu and He, ECCV 2018) and no BatchNorm: running statistics of archives that differ do not average, and the
  code of an image must not depend on the images beside it.
- Dense convolutions over maps stored channels last: depthwise ones train slowly on a CPU.
- A trunk is pooled to the mean and the deviation of every channel, because land cover is told apart by texture, which
  a mean alone blurs.

The K-branch network is that of BigEarthNet (Sumbul et al., IGARSS 2019): every ground sampling distance has a branch of
its own that sees its bands at their native size, so no band is resampled to the size of another; the branches are
joined before the head. A branch of a small input has fewer stages.

The network of reduced images is after Byju et al., "Remote sensing image scene classification with deep neural networks
in JPEG 2000 compressed domain", TGRS 2021: only the coarsest wavelet sub-bands are decoded, and transposed convolutions
learn to stand in for the finer ones. Here they are narrow, and the convolution behind them goes back to the size that
the compact network would see at the reduced resolution: at full size it would cost what the decoder saved. The last of
these maps are few pixels wide, so every block is pooled, and texture is told by the first ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsfed.hashing.head import HashNetwork
from rsfed.raster.input_spec import BandGroup
from rsfed.trust.manifest import CompactResnet, KBranch, ReducedResnet

STAGES = (1, 2, 4, 8)  # channels of each stage, in widths
_SMALLEST_MAP = 5  # pixels that the last stage of a branch keeps, where its input has them
_GROUP_CHANNELS = 4  # least number of channels that are normalised together
_MOST_GROUPS = 8
_EPSILON = 1e-5


class CompactNetwork(HashNetwork):
    """Residual trunk with a hash head.

    Args:
        group: The band group that it takes.
        bits: Width of the codes.
        architecture: Width of the first stage and residual blocks of each stage.
    """

    def __init__(self, group: BandGroup, bits: int, architecture: CompactResnet) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*_trunk(len(group.bands), architecture, len(STAGES)))
        self.add_head(2 * architecture.width * STAGES[-1], bits)

    def describe(self, *groups: Tensor) -> Tensor:
        """Return the pooled maps of the only group."""
        return _pooled(self.trunk, groups[0])


class ReducedNetwork(HashNetwork):
    """Transposed convolutions that stand in for the detail that a reduced image lacks, and a residual trunk behind.

    Args:
        group: The band group that it takes, of the size of the reduced image.
        bits: Width of the codes.
        architecture: The convolutions, width of the first stage and residual blocks of each stage.
    """

    def __init__(self, group: BandGroup, bits: int, architecture: ReducedResnet) -> None:
        super().__init__()
        detail, layers, channels = architecture.detail, [], len(group.bands)
        for _ in range(architecture.doublings):
            layers += [_doubling(channels, detail), nn.ReLU()]
            channels = detail
        stride = 2 << architecture.doublings
        self.trunk = nn.Sequential(*layers, *_trunk(channels, architecture, len(STAGES), stride=stride))
        self.add_head(2 * architecture.width * architecture.blocks * sum(STAGES), bits)

    def describe(self, *groups: Tensor) -> Tensor:
        """Return the pooled maps of every residual block, one after the other."""
        maps, pooled = _channels_last(groups[0]), []
        for layer in self.trunk:
            maps = layer(maps)
            if isinstance(layer, _Residual):
                pooled.append(_statistics(maps))
        return torch.cat(pooled, dim=1)


class BranchedNetwork(HashNetwork):
    """One residual trunk for each band group, joined before the hash head.

    Args:
        groups: The band groups, each with its branch.
        bits: Width of the codes.
        architecture: Width of the first stage and residual blocks of each stage, of every branch.
    """

    def __init__(self, groups: tuple[BandGroup, ...], bits: int, architecture: KBranch) -> None:
        super().__init__()
        depths = [_stages_for(group.size) for group in groups]
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*_trunk(len(group.bands), architecture, depth))
                for group, depth in zip(groups, depths, strict=True)
            ]
        )
        self.add_head(sum(2 * architecture.width * STAGES[depth - 1] for depth in depths), bits)

    def describe(self, *groups: Tensor) -> Tensor:
        """Return the pooled maps of all branches, one after the other."""
        pooled = [_pooled(branch, maps) for branch, maps in zip(self.branches, groups, strict=True)]
        return torch.cat(pooled, dim=1)


def _trunk(
    bands: int, architecture: CompactResnet | ReducedResnet | KBranch, stages: int, *, stride: int = 2
) -> list[nn.Module]:
    """Return a convolution and the stages behind it; its kernel just overlaps the next one."""
    width = channels = architecture.width
    layers: list[nn.Module] = [_convolution(bands, width, stride=stride, kernel=stride + 1), _norm(width), nn.ReLU()]
    for stage, factor in enumerate(STAGES[:stages]):
        for block in range(architecture.blocks):
            halve = stage > 0 and block == 0
            layers.append(_Residual(channels, width * factor, halve=halve))
            channels = width * factor
    return layers


def _stages_for(size: int) -> int:
    """Return how many stages an input can feed; the first convolution and each stage after the first halve it."""
    return max(1, min(len(STAGES), int(math.log2(max(1.0, size / _SMALLEST_MAP)))))


def _pooled(trunk: nn.Module, patches: Tensor) -> Tensor:
    """Return mean and deviation of every channel of a trunk's last maps, shape (n, 2 * channels).

    By `var`, slow as it is beside `_statistics`: another order of sums would give networks in use other codes.
    """
    maps = trunk(_channels_last(patches)).flatten(2)
    deviation = (maps.var(dim=2, correction=0) + _EPSILON).sqrt()
    return torch.cat([maps.mean(dim=2), deviation], dim=1)


def _channels_last(patches: Tensor) -> Tensor:
    return patches.contiguous(memory_format=torch.channels_last)


def _statistics(maps: Tensor) -> Tensor:
    """Return mean and deviation of every channel, shape (n, 2 * channels), in a tenth of the time that `var` takes."""
    values = maps.flatten(2)
    mean = values.mean(dim=2)
    variance = (values.square().mean(dim=2) - mean.square()).clamp(min=0)
    return torch.cat([mean, (variance + _EPSILON).sqrt()], dim=1)


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


def _doubling(channels: int, out: int) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(channels, out, 2, 2)
    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return layer


def _convolution(channels: int, out: int, *, stride: int, kernel: int = 3) -> nn.Conv2d:
    layer = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
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
