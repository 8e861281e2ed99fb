"""Counts that leave a node: differentially private in the acquisition, and charged to the budget of a release.

The unit is an acquisition. Of each, at most so many patches of at most three classes are counted, so that taking one
acquisition away changes all counts of an epoch by at most that many patches together. Each count gets discrete Laplace
noise from OpenDP, and its epsilon is charged before: at most `MOST_EPSILON` in an epoch and `MOST_OF_RELEASE` under a
release, added up. What comes after the noise (no count below zero, rounding) costs nothing. Pure rules; the charges
are kept by `node.accounting`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Ids
from rsfed.errors import StateError

MOST_CLASSES = 3  # of an acquisition whose patches are counted
MOST_EPSILON = 0.5  # of an epoch
MOST_OF_RELEASE = 2.0  # epsilon of all epochs under a release
STEP = 5  # to a multiple of which counts are rounded

_ROUNDING = 1e-9  # by which sums of charges may be off


@dataclass(frozen=True, slots=True)
class Charge:
    """What one epoch cost.

    Attributes:
        number: Of the epoch under its release, from 1.
        epsilon: What its counts cost.
        at: When it was charged.
    """

    number: int
    epsilon: float
    at: datetime


def counted(
    acquisitions: NDArray[np.uint64], classes: NDArray[np.int64], ids: Ids, *, most_patches: int, key: bytes
) -> NDArray[np.bool_]:
    """Choose the patches that count, the same ones at any time, by an order that nobody knows without the key.

    In that order an acquisition gives its first patches, and the classes of those that come first are its classes. One
    acquisition has no say in what counts of another.

    Args:
        acquisitions: The acquisition of each patch, shape (n,).
        classes: The class of each.
        ids: Its item id.
        most_patches: How many patches of an acquisition count.
        key: A secret of the node.
    """
    order = np.lexsort((draws(ids, key), acquisitions))
    sorted_acquisitions, sorted_classes = acquisitions[order], classes[order]
    of_class = _rank_of_class(sorted_acquisitions, sorted_classes)
    may = order[of_class < MOST_CLASSES]
    chosen = np.zeros(len(ids), np.bool_)
    chosen[may[_rank_within(acquisitions[may]) < most_patches]] = True
    return chosen


def noisy(counts: NDArray[np.int64], *, most_patches: int, epsilon: float) -> NDArray[np.int64]:
    """Return counts with noise, none below zero, rounded to a multiple of `STEP`.

    Args:
        counts: Counts of patches that `counted` chose, each in at most one of them, shape (n,).
        most_patches: As `counted` was told: by how much taking away one acquisition changes all counts together.
        epsilon: What this was charged with; OpenDP is asked for the least noise that it says costs no more.
    """
    import opendp.prelude as dp  # noqa: PLC0415 - takes seconds to load

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    scale = dp.binary_search_param(lambda b: dp.m.make_laplace(*space, scale=b), d_in=most_patches, d_out=epsilon)
    told = np.array(dp.m.make_laplace(*space, scale=scale)(counts.tolist()), np.int64)
    return np.maximum(0, (told + STEP // 2) // STEP * STEP)


def spread(most_patches: int, epsilon: float, *, outside: float = 0.05) -> int:
    """Return how far a told count lies from the true one at most, but for a share of them: what readers are told."""
    return math.ceil(most_patches / epsilon * math.log(1 / outside)) + STEP // 2


def spent(charges: Sequence[Charge]) -> float:
    """Return what epochs under a release have cost together."""
    return math.fsum(charge.epsilon for charge in charges)


def next_charge(charges: Sequence[Charge], latest: datetime | None, epsilon: float, now: datetime) -> Charge:
    """Return the charge of the next epoch.

    Args:
        charges: Those under the release so far, the first one first.
        latest: When an epoch of any release was charged last.
        epsilon: What the next one costs.
        now: Wall clock.

    Raises:
        ValueError: an epoch must not cost so much.
        StateError: COUNTS_SPENT, the release's budget is used up; CLOCK_BACK, the clock was set back since the last
            charge; COUNTS_STORE, these cannot be all charges that there were.
    """
    if not 0 < epsilon <= MOST_EPSILON:
        raise ValueError(f"an epoch costs at most {MOST_EPSILON}")
    whole = [charge.number for charge in charges] == list(range(1, len(charges) + 1))
    if not whole or not all(0 < charge.epsilon <= MOST_EPSILON for charge in charges):
        raise store_broken("the record of what was spent on counts is damaged")
    if latest is not None and now < latest:
        raise StateError(
            "the clock was set back behind the last publication of counts; set it right (NTP)", reason="CLOCK_BACK"
        )
    if spent(charges) + epsilon > MOST_OF_RELEASE + _ROUNDING:
        raise StateError(
            f"all of epsilon {MOST_OF_RELEASE:g} is spent under this release: counts stay as they are until there is"
            " a new release",
            reason="COUNTS_SPENT",
        )
    return Charge(len(charges) + 1, epsilon, now)


def store_broken(what: str) -> StateError:
    """Return the error that stops publication under a release for good."""
    return StateError(
        f"{what}, so no more counts are published under this release; the next release begins anew",
        reason="COUNTS_STORE",
    )


def draws(ids: Ids | NDArray[np.uint64], key: bytes) -> NDArray[np.uint64]:
    """Return a number for each item, or acquisition, that looks random to whoever has not the key."""
    digests = [hashlib.blake2b(item.to_bytes(8, "little"), key=key, digest_size=8).digest() for item in ids.tolist()]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _rank_within(groups: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each of some sorted values how many equal ones stand before it."""
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]])) if len(groups) else np.array([], int)
    sizes = np.diff(np.append(starts, len(groups)))
    ranks: NDArray[np.int64] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return ranks


def _rank_of_class(acquisitions: NDArray[np.uint64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each patch, acquisition after acquisition, which class of its acquisition it is of, from 0."""
    pairs = np.lexsort((np.arange(len(classes)), classes, acquisitions))
    new = np.ones(len(pairs), np.bool_)
    new[1:] = (np.diff(classes[pairs]) != 0) | (acquisitions[pairs][1:] != acquisitions[pairs][:-1])
    firsts = np.sort(pairs[new])  # the first patch of each class of an acquisition, in the order of the patches
    rank_of_first = np.zeros(len(pairs), np.int64)
    rank_of_first[firsts] = _rank_within(acquisitions[firsts])
    ranks = np.empty(len(pairs), np.int64)
    ranks[pairs] = rank_of_first[pairs[new]][np.cumsum(new) - 1]
    return ranks
