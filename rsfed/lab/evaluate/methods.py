"""The ways to search that are compared, by their names: each learns from some images how to hash all."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rsfed.codes import Codes
from rsfed.config_objectives import ObjectiveSection
from rsfed.errors import TrainingError
from rsfed.hashing.baselines.hyperplanes import RandomHyperplanes
from rsfed.hashing.baselines.kslsh import KSLSH
from rsfed.hashing.baselines.kulsh import KULSH
from rsfed.hashing.dataset import Patch
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.features import band_ranges, plain_features
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives import Objective, make_objective
from rsfed.hashing.training import train_steps
from rsfed.lab.evaluate.data import ImageSet
from rsfed.trust.manifest import CompactResnet

WIDTH = 32  # channels of the compact network's first stage, as the demo takes for real images
STRETCHES = 4  # of training, each at a lower learning rate
RATE, BATCH = 1e-3, 64
MILAN_RATE, MILAN_BATCH, MILAN_STEPS = 1e-4, 90, 10_000  # as its authors train on a frozen trunk
_AT_ONCE = 256  # images whose plain features are made together
_RANGE_IMAGES = 512  # of the training part, that the ends of the histograms are measured on

Features = NDArray[np.float32]
Hasher = Callable[[NDArray[np.int64]], Codes]
"""Returns the codes of images by their positions."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a method is given.

    Attributes:
        images: All images.
        features: What describes each, float32, shape (images, features).
        train: Positions of the images that it may learn from.
        bits: Width of the codes.
        seed: Seed of all chance.
        epochs: Passes over the training part.
    """

    images: ImageSet
    features: Features
    train: NDArray[np.int64]
    bits: int
    seed: int
    epochs: int


def _hyperplanes(task: Task) -> Hasher:
    fitted = RandomHyperplanes.fit(task.features[task.train], task.bits, task.seed)
    return lambda positions: fitted.encode(task.features[positions])


def _kulsh(task: Task) -> Hasher:
    fitted = KULSH.fit(task.features[task.train], task.bits, task.seed)
    return lambda positions: fitted.encode(task.features[positions])


def _kslsh(task: Task) -> Hasher:
    fitted = KSLSH.fit(task.features[task.train], task.images.labels[task.train], task.bits, task.seed)
    return lambda positions: fitted.encode(task.features[positions])


def _objective(name: str, classes: int, bits: int, seed: int) -> Objective:
    section = TypeAdapter[ObjectiveSection](ObjectiveSection).validate_python({"name": name})
    return make_objective(section, range(classes), bits, seed=seed)


def _network(objective: str) -> Callable[[Task], Hasher]:
    def learn(task: Task) -> Hasher:
        """Train the network (with a frozen trunk, its head)."""
        images = task.images
        model = build_network(images.trunk or CompactResnet(width=WIDTH), images.spec, task.bits, seed=task.seed)
        aim = _objective(objective, len(images.classes), task.bits, task.seed)
        data = images.subset(task.train)
        for stretch, recipe in enumerate(_recipe(objective, task, len(data))):
            seed = task.seed * STRETCHES + stretch
            train_steps(model, data, aim, **asdict(recipe), seed=seed).refuse_idle()
        encoder = Encoder(model, images.spec)
        return lambda positions: encoder.encode_set(images.subset(positions))

    return learn


@dataclass(frozen=True, slots=True)
class Recipe:
    """A stretch of training, as `train_steps` takes it."""

    steps: int
    batch: int
    learning_rate: float


def _recipe(objective: str, task: Task, patches: int) -> list[Recipe]:
    """Return the stretches of training: on a frozen trunk, `milan` is trained as its authors do."""
    if objective == "milan" and task.images.trunk is not None:
        return [Recipe(MILAN_STEPS, MILAN_BATCH, MILAN_RATE)]
    if objective == "milan":
        return schedule(task.epochs, patches, MILAN_RATE, MILAN_BATCH)
    return schedule(task.epochs, patches)


def schedule(epochs: int, patches: int, rate: float = RATE, batch: int = BATCH) -> list[Recipe]:
    """Return the stretches of training for some epochs, each slower than the one before."""
    steps = max(1, math.ceil(epochs * patches / batch / STRETCHES))
    slowed = [rate * (1 + math.cos(math.pi * stretch / STRETCHES)) / 2 for stretch in range(STRETCHES)]
    return [Recipe(steps, batch, each) for each in slowed]


FLOAT = "float"
BASELINES: Mapping[str, Callable[[Task], Hasher]] = {"lsh": _hyperplanes, "kulsh": _kulsh, "kslsh": _kslsh}
NETWORKS: Mapping[str, Callable[[Task], Hasher]] = {
    name: _network(name) for name in ("milan", "milan_batchall", "centres", "pairwise", "contrastive")
}
"""Methods that train a network, named after their objectives."""
HASHES = {**BASELINES, **NETWORKS}
METHODS = (*BASELINES, FLOAT, *NETWORKS)


def check(method: str, classes: int, bits: int) -> None:
    """Find out before any work whether a method can hash so many classes.

    Raises:
        TrainingError: it cannot, for example because there is no room for as many hash centres.
    """
    if method not in NETWORKS:
        return
    try:
        _objective(method, classes, bits, 0)
    except TrainingError as error:
        raise TrainingError(
            f"{method} cannot tell {classes} classes apart by {bits} bits; give --bits larger widths, or leave "
            f"{method} out of --methods",
            reason=error.reason,
        ) from error


def training_in_words(methods: Collection[str], epochs: int, *, on_trunk: bool) -> str:
    """Say how the networks among these methods are trained."""
    trained = NETWORKS.keys() & methods
    if not trained:
        return "no method trains a network"
    passes = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    told = []
    if trained - {"milan"}:
        told.append(f"{passes} with Adam, {BATCH} patches a step, the learning rate falling from {RATE:g}")
    if "milan" in trained and on_trunk:
        steps = f"{MILAN_STEPS:,} steps of {MILAN_BATCH} patches at {MILAN_RATE:g}"
        told.append(f"milan with the losses, sampling and {steps} of its authors, on a head as all networks have")
    elif "milan" in trained:
        told.append(f"milan {passes} with {MILAN_BATCH} patches a step, the learning rate falling from {MILAN_RATE:g}")
    return "; ".join(told)


def describe(images: ImageSet, train: NDArray[np.int64]) -> Features:
    """Return the features of all images: those of the frozen trunk, else plain ones.

    Args:
        images: The images.
        train: Positions of the images whose values set the ranges of plain features' histograms.
    """
    if images.trunk is not None:
        return np.stack([patch[0] for patch in images.patches]).astype(np.float32)
    return plain_description([images.patches[position] for position in train])(images.patches)


def plain_description(train: Sequence[Patch]) -> Callable[[Sequence[Patch]], Features]:
    """Return what gives patches their plain features: those of each band at its native size, side by side.

    Args:
        train: Patches whose values set the ranges of the histograms.
    """
    sampled = train[:: max(1, len(train) // _RANGE_IMAGES)]
    ranges = [band_ranges(np.stack(group)) for group in zip(*sampled, strict=True)]

    def some(patches: Sequence[Patch]) -> Features:
        groups = map(np.stack, zip(*patches, strict=True))
        return np.concatenate([plain_features(group, ends) for group, ends in zip(groups, ranges, strict=True)], axis=1)

    def describe_all(patches: Sequence[Patch]) -> Features:
        starts = range(0, len(patches), _AT_ONCE)
        return np.concatenate([some(patches[start : start + _AT_ONCE]) for start in starts])

    return describe_all
