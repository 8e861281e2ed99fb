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

from rsfed.config_objectives import CentresSection
from rsfed.errors import InvalidMessage
from rsfed.hashing.closed_form import Matrix, Sums, solve, total
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.head import HashNetwork
from rsfed.hashing.objectives.centres import Centres
from rsfed.hashing.plan import TrainingPlan
from rsfed.hashing.weights import State

RIDGE = 30.0  # what the last layer takes has a squared norm of about its width
_AT_ONCE = 64  # patches
_ROUNDING = 1e-7  # of its trace, that a matrix in float32 may have below zero as an eigenvalue
_SLACK = 1e-3  # of what sums may be
_GRAM, TARGETS = "gram", "targets"  # arrays of sums on the wire
_ROWS, _BIAS, _NORM_ROWS, _NORM_BIAS = "head.weight", "head.bias", "features.weight", "features.bias"  # of weights


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


def refit(state: State, parts: Sequence[Sums]) -> State:
    """Return weights with a last layer that is solved for.

    Its length as a whole stays: what it gives is standardised over the bits of a patch, among them the free ones.

    Args:
        state: The weights that the sums were made with.
        parts: The sums of each node.

    Raises:
        TrainingError: TOO_FEW_PATCHES, no node gave sums.
    """
    summed = total(parts)
    weights = solve(summed, RIDGE + _ROUNDING * float(np.trace(summed.gram)))
    bits = weights.shape[1]
    rows, bias = state[_ROWS].copy(), state[_BIAS].copy()
    scale = np.linalg.norm(rows[:bits]) / max(np.linalg.norm(weights[:-1]), np.finfo(np.float64).tiny)
    rows[:bits], bias[:bits] = scale * weights[:-1].T, scale * weights[-1]
    return dict(state) | {_ROWS: rows, _BIAS: bias}


def to_arrays(given: Sums) -> State:
    """Return sums as arrays for the wire, float32: its rounding is far below the ridge."""
    return {_GRAM: given.gram.astype(np.float32), TARGETS: given.targets.astype(np.float32)}


def from_arrays(arrays: State, patches: float, state: State, bits: int) -> Sums:
    """Read the sums of a node, which weigh no more than its patches can.

    Args:
        arrays: As `to_arrays` gives them.
        patches: Patches that it claims.
        state: The weights that it made them with.
        bits: Bits of the centres.

    Raises:
        InvalidMessage: SUMS_FORM, other arrays or shapes; SUMS_VALUES, no patches have such sums.
    """
    width = state[_ROWS].shape[1] + 1
    forms = {_GRAM: (width, width), TARGETS: (width, bits)}
    if {name: array.shape for name, array in arrays.items()} != forms:
        raise InvalidMessage("the sums have another form than the last layer", reason="SUMS_FORM")
    gram, targets = arrays[_GRAM].astype(np.float64), arrays[TARGETS].astype(np.float64)
    longest = np.sqrt(width) * np.abs(state[_NORM_ROWS]).max() + np.linalg.norm(state[_NORM_BIAS])  # of what it takes
    if not (np.isfinite(gram).all() and np.isfinite(targets).all()):
        raise InvalidMessage("no patches have such sums", reason="SUMS_VALUES")
    slack = _SLACK * max(1.0, float(np.abs(gram).max()))
    lopsided, gram = float(np.abs(gram - gram.T).max()), (gram + gram.T) / 2
    possible = (
        lopsided <= slack
        and abs(gram[-1, -1] - patches) <= _SLACK * patches
        and np.trace(gram) <= (1 + _SLACK) * patches * (1 + longest**2)
        and np.linalg.eigvalsh(gram)[0] >= -_ROUNDING * np.trace(gram)
        and (targets**2 <= (1 + _SLACK) * patches * (np.diag(gram)[:, None] + slack)).all()
    )
    if not possible:
        raise InvalidMessage("no patches have such sums", reason="SUMS_VALUES")
    return Sums(gram, targets, round(patches))


def centres_of(plan: TrainingPlan) -> NDArray[np.bool_]:
    """Return the centres that a plan's last layer is solved for, shape (classes, bits that are not free).

    Raises:
        TrainingError: TOO_MANY_CLASSES.
        InvalidMessage: PLAN_INVALID, its objective has no centres.
    """
    if not isinstance(plan.objective, CentresSection):
        raise InvalidMessage("the plan solves for a last layer without hash centres", reason="PLAN_INVALID")
    return Centres(plan.objective, plan.class_ids, plan.bits, seed=plan.seed).centres


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
