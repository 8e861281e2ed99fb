"""Hash networks by the architecture that a release names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rsfed.codes import check_bits
from rsfed.errors import TrainingError
from rsfed.hashing.head import FourierHead, HashNetwork, TrunkHead
from rsfed.hashing.residual import BranchedNetwork, CompactNetwork, ReducedNetwork
from rsfed.raster.input_spec import MAX_SIZE, BandGroup, InputSpec
from rsfed.trust.manifest import Architecture, CompactResnet, FrozenTrunk, KBranch, ReducedResnet

PROJECTIONS = 4096  # of the closed form; fewer cost mAP, twice as many bring next to nothing at four times the bytes
_SEEDING = threading.Lock()  # torch has one generator for all threads


def build_network(architecture: Architecture, spec: InputSpec, bits: int, *, seed: int = 0) -> HashNetwork:
    """Build the network of an encoder with random weights; of one on a frozen trunk, its head.

    Args:
        architecture: How it is built.
        spec: Input of the encoder.
        bits: Width of the codes.
        seed: Seed of the weights; the same seed gives the same weights, whatever was drawn before.

    Raises:
        CodeError: bits is not a width that codes may have.
        TrainingError: ENCODER_INPUT, the input has several band groups and the network takes one, its size or bands are
            not those of the frozen trunk, or it is too large to be doubled.
    """
    with _seeded(seed):
        return _build(architecture, spec, check_bits(bits))


def on_fourier_features(trunk: FrozenTrunk) -> FrozenTrunk:
    """Return a trunk under a head of the closed form."""
    return trunk.model_copy(update={"head": "fourier", "projections": PROJECTIONS})


def build_fourier_head(features: int, bits: int, *, seed: int = 0) -> FourierHead:
    """Build the head of the closed form for any features: its projections from the seed, its last layer not solved."""
    with _seeded(seed):
        return FourierHead(features, check_bits(bits), PROJECTIONS)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _build(architecture: Architecture, spec: InputSpec, bits: int) -> HashNetwork:
    match architecture:
        case CompactResnet():
            return CompactNetwork(_only_group(spec), bits, architecture)
        case ReducedResnet():
            return ReducedNetwork(_doubled(_only_group(spec), architecture), bits, architecture)
        case KBranch():
            return BranchedNetwork(spec.groups, bits, architecture)
        case FrozenTrunk():
            group = _only_group(spec)
            if (len(group.bands), group.size) != (architecture.bands, architecture.size):
                raise TrainingError(
                    f"the trunk takes {architecture.bands} bands of {architecture.size} pixels; the encoder's input "
                    f"has {len(group.bands)} of {group.size}",
                    reason="ENCODER_INPUT",
                )
            if architecture.head == "fourier":
                return FourierHead(architecture.features, bits, architecture.projections)
            return TrunkHead(architecture.features, bits)


def _doubled(group: BandGroup, architecture: ReducedResnet) -> BandGroup:
    """Return a band group whose maps stay within bounds when they are doubled.

    Raises:
        TrainingError: ENCODER_INPUT, they do not.
    """
    if (size := group.size << architecture.doublings) > MAX_SIZE:
        raise TrainingError(
            f"the network would double its input to {size} pixels; at most {MAX_SIZE} are taken: choose a smaller size "
            "or a greater reduction",
            reason="ENCODER_INPUT",
        )
    return group


def _only_group(spec: InputSpec) -> BandGroup:
    """Return the one band group that a network takes.

    Raises:
        TrainingError: ENCODER_INPUT, there are several.
    """
    if len(spec.groups) != 1:
        raise TrainingError(
            f"this network takes one band group; the encoder's input has {len(spec.groups)}: "
            "bring all bands to one size and ground sampling distance, or choose a network with branches",
            reason="ENCODER_INPUT",
        )
    return spec.groups[0]
