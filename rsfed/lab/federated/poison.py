"""A node that errs or attacks: what it sends instead of what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from numpy.typing import NDArray

from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.plan import ARRAYS
from rsfed.hashing.refit import TARGETS

_Values = NDArray[np.float32]
_NONE = np.zeros((), np.float32)


@dataclass(frozen=True, slots=True)
class Attack:
    """What is wrong with a node.

    Attributes:
        sent: Returns an array that is sent instead of the one that was found, given that and the one of the task,
            which is 0 for sums; of those it is the products with the centres that are tampered with.
        flips: Whether the node takes each class for the next one.
    """

    sent: Callable[[_Values, _Values], _Values] = lambda found, _start: found
    flips: bool = False


ATTACKS: Mapping[str, Attack] = {
    "nan": Attack(lambda found, _start: np.full_like(found, np.nan)),
    "scale": Attack(lambda found, _start: found + np.float32(1e6)),
    "signflip": Attack(lambda found, start: 2 * start - found),
    "labelflip": Attack(flips=True),
}
"""By the names that `make bench-federated` tells them by."""

App = Callable[[Message, Context], Message]
Wrap = Callable[[Callable[[PatchSet], App], PatchSet, int], App]
"""Returns the app of a node: given what makes one of patches, the node's patches, and its place among the nodes."""


def poisoned(attack: Attack) -> Wrap:
    """Return what makes the first of the nodes attack."""

    def wrap(app_of: Callable[[PatchSet], App], patches: PatchSet, place: int) -> App:
        if place:
            return app_of(patches)
        app = app_of(replace(patches, labels=np.roll(patches.labels, 1, axis=1)) if attack.flips else patches)

        def attacking(message: Message, context: Context) -> Message:
            return _tampered(app(message, context), message, attack)

        return attacking

    return wrap


def _tampered(reply: Message, message: Message, attack: Attack) -> Message:
    if reply.has_error() or ARRAYS not in reply.content.array_records:
        return reply
    start = message.content[ARRAYS]

    def sent(name: str, found: _Values) -> _Values:
        if name in start:
            return attack.sent(found, start[name].numpy())
        return attack.sent(found, _NONE) if name == TARGETS else found  # other products would give it away

    found = reply.content[ARRAYS].items()
    reply.content[ARRAYS] = ArrayRecord({name: Array(sent(name, array.numpy())) for name, array in found})
    return reply
