"""The closed form for the last layer of a network, as its start or when its training is over.

Averaging weights that nodes with different classes trained apart harms the last layer most: each node has pushed it
towards its own centres. Given the layers below, its best weights in the sense of ridge regression follow exactly from
sums over nodes, as in `closed_form`: of products of what the last layer takes, and of these with the centres. The bits
that `centres` leaves free keep their weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rsfed.hashing.closed_form import Matrix, Sums, solve, total
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.head import HashNetwork
from rsfed.hashing.weights import State, get_state

RIDGE = 30.0  # what the last layer takes has a squared norm of about its width
_AT_ONCE = 64  # patches


def sums(network: HashNetwork, patches: PatchSet, centres: NDArray[np.bool_]) -> Sums:
    """Return what a node gives: the sums over its labelled patches for the last layer of a network.

    Args:
        network: The network.
        patches: The node's patches.
        centres: bool, shape (classes, centre bits).

    Raises:
        TrainingError: TOO_FEW_PATCHES.
    """
    return Sums.of(_taken(network, patches), patches.labels, centres)


def refit(network: HashNetwork, parts: Sequence[Sums]) -> State:
    """Return the network's weights with a last layer that is solved for.

    Its length as a whole stays: what it gives is standardised over the bits of a patch, among them the free ones.

    Args:
        network: The network that the sums were made with.
        parts: The sums of each node.

    Raises:
        TrainingError: TOO_FEW_PATCHES, no node gave sums.
    """
    weights = solve(total(parts), RIDGE)
    bits = weights.shape[1]
    state = get_state(network)
    rows, bias = state["head.weight"], state["head.bias"]
    scale = np.linalg.norm(rows[:bits]) / max(np.linalg.norm(weights[:-1]), np.finfo(np.float64).tiny)
    rows[:bits], bias[:bits] = scale * weights[:-1].T, scale * weights[-1]
    return state


def _taken(network: HashNetwork, patches: PatchSet) -> Matrix:
    """Return what the last layer takes of each patch, and a 1 for its bias, shape (n, width + 1)."""
    network.eval()
    rows = np.ones((len(patches), network.head.in_features + 1))
    with torch.inference_mode():
        for start in range(0, len(patches), _AT_ONCE):
            chosen = np.arange(start, min(start + _AT_ONCE, len(patches)))
            described = network.describe(*map(torch.from_numpy, patches.batch(chosen)))
            rows[chosen, :-1] = network.features(described).numpy()
    return rows
