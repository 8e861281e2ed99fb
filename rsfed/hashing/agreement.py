"""Whose sums contradict those of the other nodes: each node is held against the last layer that the others give.

What that layer makes of a node's patches follows from the node's own sums, without a patch: per bit of a patch, with
targets of -1 and 1, its agreement with the centres that the node names (1 where all are met, -1 where each is the
opposite) and its squared error (1 for a layer that says nothing).

- A node that is alone with its classes agrees with nobody, but not below 0 either: centres are balanced and far from
  each other. Measured on UC Merced over divisions from Dirichlet 1.0 to one class a node: never below -0.005, while
  sums with the wrong sign come to -0.3 to -0.8. So a node that is *opposed* is left out whatever the division.
- Wrong classes (each taken for the next one) agree as little as a lonely node does; what tells them apart is that the
  others are sure of these patches (1.7 to 1.8). A node that is alone comes to an error of up to 1.53 by itself. So a
  node with a larger one is left out only where most nodes hold the same classes, which shows in small errors of most.
- No node is left out by the word of one other: what it contradicts must stay without any one of the others. So nobody
  gets an honest node left out that holds a class beside nobody but the one who lies about it; of two nobody can say
  who is right. A node that claims many patches is as heavy here as the median one, or it would be the measure.

Half of the nodes would have to err together to have honest ones left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from rsfed.hashing.closed_form import Matrix, Sums, total

LEAST_COMPARED = 3  # nodes below which nobody can say who is right
OPPOSED = -0.1  # agreement
WRONG = 1.6  # error
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
        parts: The sums of each node, as it gave them.
        solve: Gives the weights of a layer, float64, shape (width, bits).
    """
    left, found = dict(parts), set[int]()
    while len(left) >= LEAST_COMPARED and (wrong := _worst(left, solve)) is not None:
        found.add(wrong)
        del left[wrong]
    return found


def against_others(parts: Mapping[int, Sums], solve: Callable[[Sums], Matrix]) -> dict[int, Fit]:
    """Return of each of several nodes what the layer that the others give makes of its patches."""
    most = _most(parts)
    whole = total(part.at_most(most) for part in parts.values())
    return {node: _fit(part, solve(_without(whole, part.at_most(most)))) for node, part in parts.items()}


def _worst(parts: Mapping[int, Sums], solve: Callable[[Sums], Matrix]) -> int | None:
    """Return the node with the largest error of those that contradict the others; None where none does."""
    fits = against_others(parts, solve)
    alike = median(fit.error for fit in fits.values()) < ALIKE

    def contradicts(fit: Fit) -> bool:
        return fit.agreement < OPPOSED or (alike and fit.error > WRONG)

    suspects = sorted((node for node in fits if contradicts(fits[node])), key=lambda node: -fits[node].error)
    return next((node for node in suspects if all(map(contradicts, _without_any_other(parts, node, solve)))), None)


def _without_any_other(parts: Mapping[int, Sums], node: int, solve: Callable[[Sums], Matrix]) -> Iterator[Fit]:
    """Yield what the others make of a node's patches, each time without another one of them."""
    most = _most(parts)
    others = [part for other, part in parts.items() if other != node]
    whole = total(part.at_most(most) for part in others)
    for part in others:
        yield _fit(parts[node], solve(_without(whole, part.at_most(most))))


def _most(parts: Mapping[int, Sums]) -> float:
    """Return the patches that a node counts for at most while it is compared."""
    return median(part.patches for part in parts.values())


def _without(whole: Sums, part: Sums) -> Sums:
    """Return what the others give together."""
    return replace(whole, gram=whole.gram - part.gram, targets=whole.targets - part.targets)


def _fit(part: Sums, weights: Matrix) -> Fit:
    """Return what a layer makes of the patches that sums come from."""
    signs = float(part.gram[-1, -1]) * weights.shape[1]
    agreement = float(np.vdot(weights, part.targets)) / signs
    power = float(np.vdot(weights, part.gram @ weights)) / signs
    return Fit(agreement, 1 - 2 * agreement + power)
