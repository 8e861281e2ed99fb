"""Whose sums contradict those of the other nodes: each node is held against the last layer that the others give.

How far that layer gives a node's patches the centres that the node names follows from the node's own sums, without a
patch: the mean product of what it gives and the target of a bit, both about -1 and 1. The products with the centres
also tell the patches of each class apart, where no centre follows from others.

- A node that is alone with its classes agrees with nobody, but not below 0 either: centres are balanced and far from
  each other. Measured on UC Merced over divisions from Dirichlet 1.0 to one class a node: never below -0.005, while
  sums with the wrong sign come to -0.3 to -0.8. So a node that is *opposed* is left out.
- Wrong classes (each taken for the next one) come to 0 as a lonely node does. But a lonely node agrees on the classes
  that the others hold as much of: honest ones came to 0.69 to 0.90 there, wrong classes to -0.01 to 0.01.
- A node that errs makes honest ones look worse (down to 0.2 on such classes, to -0.14 on all), so the worst is left out
  first, and then all are held against each other anew.
- No node is left out by the word of one other: what it contradicts must stay without any one of the others. A node
  that claims many patches is as heavy here as the median one, or it would be the measure.

Half of the nodes would have to err together to have honest ones left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.closed_form import LEAST_PATCHES, Matrix, Sums, total

LEAST_COMPARED = 3  # nodes, or their results, below which nobody can say who is right
OPPOSED = -0.1  # agreement over all patches
STRANGE = 0.1  # agreement over patches of classes that the others hold, too
_ENOUGH = LEAST_PATCHES - 0.5  # patches; numbers that are solved for are whole but for rounding

Solve = Callable[[Sums], Matrix]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the layer of the others gives a node's patches what the node wants, -1 to 1 where it is as sure as it.

    Attributes:
        whole: Over all patches.
        shared: Over those of classes that the others hold as many patches of; None where these are too few, or where
            sums do not tell classes apart.
    """

    whole: float
    shared: float | None

    @property
    def contradicts(self) -> bool:
        """Whether no honest node comes to this."""
        return self.whole < OPPOSED or (self.shared is not None and self.shared < STRANGE)

    @property
    def least(self) -> float:
        """The smaller one of both."""
        return self.whole if self.shared is None else min(self.whole, self.shared)


def contradicting(parts: Mapping[int, Sums], centres: NDArray[np.bool_], solve: Solve) -> set[int]:
    """Return the nodes whose sums contradict those of the others.

    Args:
        parts: The sums of each node, as it gave them.
        centres: What they are sums of, bool, shape (classes, bits).
        solve: Gives the weights of a layer, float64, shape (width, bits).
    """
    left, found = dict(parts), set[int]()
    while len(left) >= LEAST_COMPARED and (wrong := _worst(left, centres, solve)) is not None:
        found.add(wrong)
        del left[wrong]
    return found


def agreements(parts: Mapping[int, Sums], centres: NDArray[np.bool_], solve: Solve) -> dict[int, Agreement]:
    """Return of each of several nodes how far it agrees with the others."""
    parts = _even(parts)
    whole = total(parts.values())
    return {node: _agreement(part, _without(whole, part), centres, solve) for node, part in parts.items()}


def _worst(parts: Mapping[int, Sums], centres: NDArray[np.bool_], solve: Solve) -> int | None:
    """Return the node that agrees least with the others, of those that contradict them; None where none does."""
    found = agreements(parts, centres, solve)
    suspects = sorted((node for node in found if found[node].contradicts), key=lambda node: found[node].least)
    return next((node for node in suspects if all(_without_any_other(parts, node, centres, solve))), None)


def _without_any_other(
    parts: Mapping[int, Sums], node: int, centres: NDArray[np.bool_], solve: Solve
) -> Iterator[bool]:
    """Yield whether a node still contradicts the others, each time without another one of them."""
    parts = _even(parts)
    others = [part for other, part in parts.items() if other != node]
    whole = total(others)
    for part in others:
        yield _agreement(parts[node], _without(whole, part), centres, solve).contradicts


def _even(parts: Mapping[int, Sums]) -> dict[int, Sums]:
    """Return the sums, none of them heavier than the median."""
    most = median(part.patches for part in parts.values())
    return {node: part.at_most(most) for node, part in parts.items()}


def _without(whole: Sums, part: Sums) -> Sums:
    """Return what the others give together."""
    return replace(whole, gram=whole.gram - part.gram, targets=whole.targets - part.targets)


def _agreement(part: Sums, others: Sums, centres: NDArray[np.bool_], solve: Solve) -> Agreement:
    """Return how far a node agrees with others."""
    weights, bits = solve(others), centres.shape[1]
    whole = float(np.vdot(weights, part.targets)) / (float(part.gram[-1, -1]) * bits)
    signs = np.where(centres, 1.0, -1.0)
    if np.linalg.matrix_rank(signs) < len(signs):
        return Agreement(whole, None)
    apart = np.linalg.pinv(signs)
    own, held = part.targets @ apart, others.targets[-1] @ apart  # sums over the patches of each class; their number
    counted = own[-1]
    shared = (counted > 0.5) & (held >= np.maximum(0.99 * counted, _ENOUGH))
    patches = float(counted[shared].sum())
    if patches < _ENOUGH:
        return Agreement(whole, None)
    agreed = ((own.T @ weights) * signs)[shared].sum() / bits
    return Agreement(whole, float(agreed) / patches)
