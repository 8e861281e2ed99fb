"""Which patches form a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_PATCHES_PER_CLASS = 4  # least number in a batch

Sample = Callable[[NDArray[np.bool_], int, np.random.Generator], NDArray[np.int64]]
"""Chooses the patches of a batch, as `Objective.sample`."""


def balanced(labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose about equally many patches of each of several classes, so that rare classes count as much.

    A class with too few patches gives some of them twice. Unlabelled patches are chosen only where there is no label
    at all. See `Objective.sample`.
    """
    classes = np.flatnonzero(labels.any(axis=0))
    if not len(classes):
        return rng.integers(0, len(labels), batch)
    drawn = rng.permutation(classes)[: max(2, batch // _PATCHES_PER_CLASS)]
    counts = np.full(len(drawn), batch // len(drawn))
    counts[: batch % len(drawn)] += 1
    return np.concatenate([draw(np.flatnonzero(labels[:, c]), n, rng) for c, n in zip(drawn, counts, strict=True)])


def uniform(labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose labelled patches whatever their class, so that a class counts by its number of patches.

    Unlabelled patches are chosen only where there is no label at all. See `Objective.sample`.
    """
    labelled = np.flatnonzero(labels.any(axis=1))
    return draw(labelled if len(labelled) else np.arange(len(labels)), batch, rng)


def draw(members: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw members without repetition, each again only when all were drawn."""
    rounds = -(-count // len(members))
    return np.concatenate([rng.permutation(members) for _ in range(rounds)])[:count]
