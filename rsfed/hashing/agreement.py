"""Whose sums contradict those of the other nodes: each node is held against the last layer that the others give.

What that layer makes of a node's patches follows from the node's own sums, without a patch: per bit of a patch, with
targets of -1 and 1, its agreement with the centres that the node names (1 where all are met, -1 where each is the
opposite) and its squared error (1 for a layer that says nothing).

- A node that is alone with its classes agrees with nobody, but not below 0 either: centres are balanced and far from
  each other. Measured on UC Merced over divisions from Dirichlet 1.0 to one class a node: never below -0.005, while
  sums with the wrong sign come to -0.3 to -0.8. So a node that is *opposed* is left out whatever the division.
- Wrong classes (each taken for the next one) agree as little as a lonely node does; what tells them apart is that the
  others are sure of these patches. A node that is alone comes to an error of up to 1.5 by itself. So a node with a
  larger one is left out only where most nodes hold the same classes, which shows in small errors of most.

Half of the nodes would have to err together to have honest ones left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from rsfed.hashing.closed_form import Matrix, Sums, total

LEAST_COMPARED = 3  # nodes below which nobody can say who is right
OPPOSED = -0.1  # agreement
WRONG = 1.5  # error
ALIKE = 0.75  # error of the median node where most hold the same classes


@dataclass(frozen=True, slots=True)
class Fit:
    """What the layer of the others makes of a node's patches, for each bit of a patch.

    Attributes:
        agreement: Mean product of what it gives and the target, -1 and 1.
        error: Mean squared difference of these.
    """

    agreement: float
    error: float


def contradicting(parts: Mapping[int, Sums], solve: Callable[[Sums], Matrix]) -> set[int]:
    """Return the nodes whose sums contradict those of the others.

    They are found one after the other, the worst first: as long as it counts, it makes honest ones look worse.

    Args:
        parts: The sums of each node, as they count.
        solve: Gives the weights of a layer, float64, shape (width, bits).
    """
    left, found = dict(parts), set[int]()
    while len(left) >= LEAST_COMPARED:
        fits = against_others(left, solve)
        worst = max(fits, key=lambda node: fits[node].error)
        alike = median(fit.error for fit in fits.values()) < ALIKE
        if not (fits[worst].agreement < OPPOSED or (alike and fits[worst].error > WRONG)):
            break
        found.add(worst)
        del left[worst]
    return found


def against_others(parts: Mapping[int, Sums], solve: Callable[[Sums], Matrix]) -> dict[int, Fit]:
    """Return of each of several nodes what the layer that the others give makes of its patches."""
    whole = total(parts.values())
    return {node: _fit(part, solve(_without(whole, part))) for node, part in parts.items()}


def _without(whole: Sums, part: Sums) -> Sums:
    """Return what the others give together."""
    return replace(whole, gram=whole.gram - part.gram, targets=whole.targets - part.targets)


def _fit(part: Sums, weights: Matrix) -> Fit:
    """Return what a layer makes of the patches that sums come from."""
    signs = float(part.gram[-1, -1]) * weights.shape[1]
    agreement = float(np.vdot(weights, part.targets)) / signs
    power = float(np.vdot(weights, part.gram @ weights)) / signs
    return Fit(agreement, 1 - 2 * agreement + power)
