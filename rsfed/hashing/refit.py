"""The closed form for the last layer of a head on a frozen trunk, over the sums of `closed_form`.

Of a `FourierHead` it is all that is learnt: `fit`. Of a trained head it is where training starts and ends: `refit`.
Averaging weights that nodes with different classes trained apart harms the last layer most: each node has pushed it
towards its own centres. Given the layers below, its best weights follow exactly from sums over nodes; the bits that
`centres` leaves free keep their weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from rsfed.config_objectives import CentresSection, ClosedFormSection
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.agreement import contradicting
from rsfed.hashing.centres import centres_beside_free
from rsfed.hashing.closed_form import LEAST_PATCHES, ROUNDING, Sums, hyperplanes, solve, total
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.head import HashNetwork
from rsfed.hashing.plan import TrainingPlan
from rsfed.hashing.weights import State

RIDGE = 0.1  # of the closed form: what its last layer takes has a norm of about 1
REFIT_RIDGE = 30.0  # what that of a trained head takes has a squared norm of about its width
_AT_ONCE = 512  # patches
_ENOUGH = 1024  # random features that sums are held against each other by
_AT_A_TIME = 4  # square matrices in float64 while sums are checked and the layer is solved for, with some margin
_PARTS = 2  # copies of what the sums of a node are held against those of others by
_SLACK = 1e-3  # of what sums may be
_GRAM, TARGETS = "gram", "targets"  # arrays of sums on the wire
_ROWS, _BIAS, _NORM_ROWS, _NORM_BIAS = "head.weight", "head.bias", "features.weight", "features.bias"  # of weights


def sums(network: HashNetwork, patches: PatchSet, centres: NDArray[np.bool_]) -> Sums:
    """Return what a node gives: the sums over its labelled patches for the last layer of a network, float64.

    Args:
        network: The network.
        patches: The node's patches.
        centres: bool, shape (classes, centre bits).

    Raises:
        TrainingError: TOO_FEW_PATCHES.
    """
    known = np.flatnonzero(patches.labels.any(axis=1))
    if len(known) < LEAST_PATCHES:
        raise TrainingError(
            f"{len(known)} labelled patches are too few for sums that do not disclose them; ingest or map at least "
            f"{LEAST_PATCHES}",
            reason="TOO_FEW_PATCHES",
        )
    return total(_stretches(network, patches, known, centres))


def sums_bytes(state: State, nodes: int) -> int:
    """Return the memory that solving for the last layer of these weights needs, where sums are read one by one."""
    width: int = state[_ROWS].shape[1]
    held = _AT_A_TIME * np.dtype(np.float64).itemsize * (width + 1) ** 2
    return held + nodes * _PARTS * np.dtype(np.float32).itemsize * (min(width, _ENOUGH) + 1) ** 2


def wire_bytes(state: State, bits: int) -> int:
    """Return the size of the arrays of one node's sums for the last layer of these weights, bits of centres at most."""
    width: int = state[_ROWS].shape[1] + 1
    return np.dtype(np.float32).itemsize * (width * (width + 1) // 2 + width * bits)


def fit(state: State, parts: Iterable[Sums], seed: int) -> State:
    """Return the weights of a head of the closed form, its last layer solved for.

    Args:
        state: The weights that the sums were made with.
        parts: The sums of each node.
        seed: Seed of the run.

    Raises:
        TrainingError: TOO_FEW_PATCHES, no node gave sums.
    """
    summed = total(parts)
    weights = solve(summed, RIDGE)
    if free := len(state[_BIAS]) - weights.shape[1]:
        weights = np.hstack([weights, hyperplanes(summed, free, seed)])
    return dict(state) | {_ROWS: weights[:-1].T.astype(np.float32), _BIAS: weights[-1].astype(np.float32)}


def refit(state: State, parts: Iterable[Sums]) -> State:
    """Return weights with a last layer that is solved for.

    Its length as a whole stays: what it gives is standardised over the bits of a patch, among them the free ones.

    Args:
        state: The weights that the sums were made with.
        parts: The sums of each node.

    Raises:
        TrainingError: TOO_FEW_PATCHES, no node gave sums.
    """
    summed = total(parts)
    weights = solve(summed, REFIT_RIDGE)
    bits = weights.shape[1]
    rows, bias = state[_ROWS].copy(), state[_BIAS].copy()
    scale = np.linalg.norm(rows[:bits]) / max(np.linalg.norm(weights[:-1]), np.finfo(np.float64).tiny)
    rows[:bits], bias[:bits] = scale * weights[:-1].T, scale * weights[-1]
    return dict(state) | {_ROWS: rows, _BIAS: bias}


def to_arrays(given: Sums) -> State:
    """Return sums as arrays for the wire, float32: its rounding is far below the ridge.

    Products stand once: the lower triangle, row by row.
    """
    gram = np.concatenate([row[: place + 1] for place, row in enumerate(given.gram.astype(np.float32))])
    return {_GRAM: gram, TARGETS: given.targets.astype(np.float32)}


def from_arrays(arrays: State, patches: float, state: State, bits: int) -> Sums:
    """Read the sums of a node, which weigh no more than its patches can, float32.

    Args:
        arrays: As `to_arrays` gives them.
        patches: Patches that it claims.
        state: The weights that it made them with.
        bits: Bits of the centres.

    Raises:
        InvalidMessage: SUMS_FORM, other arrays or shapes; SUMS_VALUES, no patches have such sums.
    """
    width = state[_ROWS].shape[1] + 1
    forms = {_GRAM: (width * (width + 1) // 2,), TARGETS: (width, bits)}
    if {name: array.shape for name, array in arrays.items()} != forms:
        raise InvalidMessage("the sums have another form than the last layer", reason="SUMS_FORM")
    sums = as_they_came(arrays, round(patches))
    if patches < LEAST_PATCHES or not _possible(sums, patches, state):
        raise InvalidMessage("no patches have such sums", reason="SUMS_VALUES")
    return sums


def as_they_came(arrays: State, patches: int) -> Sums:
    """Read sums that `from_arrays` found in order once."""
    return Sums(_square(arrays[_GRAM], len(arrays[TARGETS])), arrays[TARGETS], patches)


def centres_of(plan: TrainingPlan) -> NDArray[np.bool_]:
    """Return the centres that a plan's last layer is solved for, shape (classes, bits that are not free).

    Raises:
        TrainingError: TOO_MANY_CLASSES.
        InvalidMessage: PLAN_INVALID, its objective has no centres.
    """
    if (centres := centres_if_any(plan)) is None:
        raise InvalidMessage("the plan solves for a last layer without hash centres", reason="PLAN_INVALID")
    return centres


def centres_if_any(plan: TrainingPlan) -> NDArray[np.bool_] | None:
    """Return the same; None where the objective of a plan has no centres.

    Raises:
        TrainingError: TOO_MANY_CLASSES.
    """
    if not isinstance(plan.objective, CentresSection | ClosedFormSection):
        return None
    return centres_beside_free(plan.class_ids, plan.bits, plan.objective.free, plan.seed)


def solved(plan: TrainingPlan, state: State, parts: Iterable[Sums]) -> State:
    """Return the weights of a plan with their last layer solved for.

    Args:
        plan: What is trained.
        state: The weights that the sums were made with.
        parts: The sums of each node.

    Raises:
        TrainingError: TOO_FEW_PATCHES, no node gave sums.
    """
    return fit(state, parts, plan.seed) if plan.objective.name == "closed_form" else refit(state, parts)


def contradicting_of(plan: TrainingPlan, state: State, parts: Iterable[tuple[int, Sums]]) -> set[int]:
    """Return the nodes whose sums contradict those of the others, by what a plan's last layer is solved with.

    A part of many random features is a smaller kernel machine of the same kind. It says as much of agreement (a few
    hundredths apart on UC Merced), and a layer for each node costs a sixtieth. Which part is drawn anew each time: who
    knew it could be right there and wrong elsewhere.

    Args:
        plan: What is trained.
        state: The weights that the sums were made with.
        parts: The sums of each node; those that are read one by one are held one by one.
    """
    width: int = state[_ROWS].shape[1]
    taken, ridge = np.arange(width), REFIT_RIDGE
    if plan.objective.name == "closed_form":
        taken = np.sort(np.random.default_rng().choice(width, min(width, _ENOUGH), replace=False))
        ridge = RIDGE * len(taken) / width  # as the squared norm of what the layer takes
    narrow = {node: part.over(taken) for node, part in parts}
    return contradicting(narrow, centres_of(plan), partial(solve, ridge=ridge))


def _square(triangle: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return the symmetric matrix whose lower triangle this is, row by row."""
    square, start = np.zeros((width, width), np.float32), 0
    for place in range(width):
        square[place, : place + 1] = square[: place + 1, place] = triangle[start : start + place + 1]
        start += place + 1
    return square


def _possible(sums: Sums, claimed: float, state: State) -> bool:
    """Say whether so many patches can have these sums: of what a layer of these weights takes, and of signs.

    For rows Z of patches and signs S there is nothing in Z'S outside the range of Z'Z: with L L' = Z'Z, each column of
    the solution X of L X = Z'S is as long as at most all signs together.
    """
    gram, targets = sums.gram, sums.targets
    if not (np.isfinite(gram).all() and np.isfinite(targets).all()):
        return False
    longest = np.sqrt(2.0)  # of what the last layer takes, where its squares sum to twice a mean of cosines
    if _NORM_ROWS in state:
        longest = np.sqrt(len(gram)) * np.abs(state[_NORM_ROWS]).max() + np.linalg.norm(state[_NORM_BIAS])
    weight = float(np.trace(gram, dtype=np.float64))
    if abs(gram[-1, -1] - claimed) > _SLACK * claimed or weight > (1 + _SLACK) * claimed * (1 + longest**2):
        return False
    lifted = gram.astype(np.float64)
    lifted[np.diag_indices_from(lifted)] += ROUNDING * weight
    try:  # of its transpose, which is the same and lies as LAPACK wants it: it is large, and needs no copy
        factor = cholesky(lifted.T, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return False
    signs = solve_triangular(factor, targets.astype(np.float64), lower=True, check_finite=False)
    return bool((np.square(signs).sum(axis=0) <= (1 + _SLACK) * claimed).all())


def _stretches(
    network: HashNetwork, patches: PatchSet, known: NDArray[np.int64], centres: NDArray[np.bool_]
) -> Iterator[Sums]:
    """Yield the sums of a stretch of the labelled patches at a time."""
    network.eval()
    for start in range(0, len(known), _AT_ONCE):
        chosen = known[start : start + _AT_ONCE]
        rows = np.ones((len(chosen), network.head.in_features + 1))
        with torch.inference_mode():
            described = network.describe(*map(torch.from_numpy, patches.batch(chosen)))
            rows[:, :-1] = network.features(described).numpy()
        yield Sums.of(rows, patches.labels[chosen], centres)
