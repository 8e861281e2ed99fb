"""Which node holds which images: divisions with more or less skew between classes. Pure, repeatable by a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.split import Sample, deal, spread

Positions = NDArray[np.int64]
_Deal = Callable[[Sequence[Sample], int, int], list[list[Sample]]]


def _dirichlet(skew: float, samples: Sequence[Sample], nodes: int, seed: int) -> list[list[Sample]]:
    return spread(samples, nodes, skew=skew, seed=seed)


def _one_class(samples: Sequence[Sample], nodes: int, seed: int) -> list[list[Sample]]:
    return deal(samples, nodes, seed=seed)


PARTITIONS: Mapping[str, _Deal] = {
    "dirichlet-0.1": partial(_dirichlet, 0.1),
    "dirichlet-0.2": partial(_dirichlet, 0.2),
    "dirichlet-1.0": partial(_dirichlet, 1.0),
    "one-class": _one_class,
}
"""Ways to divide images over nodes, by their names. `one-class`: every class is at one node alone, so a node has one
class where there are as many nodes as classes, and else as many as any other."""


def partition(images: ImageSet, train: Positions, nodes: int, name: str, seed: int) -> list[Positions]:
    """Divide the part to learn from over nodes; images of one acquisition stay together.

    An image of several classes goes by the first of them.

    Args:
        images: All images.
        train: Positions of the images to divide.
        nodes: Number of nodes.
        name: One of `PARTITIONS`.
        seed: Seed of the draw.

    Returns:
        Positions of the images of each node, rising; every image is at exactly one.

    Raises:
        UsageError: the images do not allow this division.
    """
    samples = [
        Sample(Path(str(each)), images.entries[each].labels[0], images.whereabouts[each].acquisition)
        for each in train.tolist()
    ]
    parts = PARTITIONS[name](samples, nodes, seed)
    return [np.array(sorted(int(str(sample.path)) for sample in part), np.int64) for part in parts]


def owners(images: ImageSet, parts: Sequence[Positions], seed: int) -> Positions:
    """Return the node of every image: those that nodes learn from, and by the same skew all others.

    An image that nobody learns from is at a node with the share that this node has of what is learnt of its class.

    Args:
        images: All images.
        parts: Positions of the images that each node learns from.
        seed: Seed of the draw.

    Returns:
        int64, shape (images,).
    """
    first = np.array([images.classes.index(entry.labels[0]) for entry in images.entries])
    held = np.full(len(first), -1)
    for node, part in enumerate(parts):
        held[part] = node
    rng = np.random.default_rng(seed)
    for column in range(len(images.classes)):
        counts = np.bincount(held[(first == column) & (held >= 0)], minlength=len(parts))
        shares = counts / counts.sum() if counts.any() else np.full(len(parts), 1 / len(parts))
        free = np.flatnonzero((first == column) & (held < 0))
        held[free] = rng.choice(len(parts), len(free), p=shares)
    return held
