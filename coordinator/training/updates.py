"""What nodes send in a round, looked at one by one on its way to the strategy, which never sees what cannot be right.

Each is let go before the next is read, so that a strategy that streams holds one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from numpy.typing import NDArray

from coordinator.training.arrays import record_of, view
from rsfed.errors import InvalidMessage
from rsfed.hashing.payload import Arrays
from rsfed.hashing.plan import ARRAYS, EXAMPLES, LOSS, METRICS, SECONDS

MAX_EXAMPLES = 1e8  # patches that a node may claim; the claim itself is believed, members are known by name
MAX_GROWTH = 10.0  # L2 norm of an update, in norms of the weights that it starts from


class TooFewUpdates(Exception):
    """The round gave too few results for the weights to change."""


class Updates:
    """The results of a round that a strategy may see, once through, in the order of the weights.

    Args:
        replies: What came of the nodes.
        start: The weights that they started from.
        needed: Results below which the strategy must not take a step.
        limit: L2 norm that each update is shortened to where it is longer; None for none.

    Attributes:
        nodes: Flower's numbers of the nodes whose result counts, in order.
        failed: Why the others gave none, by number.
        losses: Loss and patches of each result with a loss.
        examples: Patches that the results rest on.
        norms: L2 norm of each update as it came.
    """

    def __init__(self, replies: Iterable[Message], start: Arrays, *, needed: int, limit: float | None) -> None:
        self._replies, self._start, self._needed, self._limit = replies, start, needed, limit
        self.nodes: list[int] = []
        self.failed: dict[int, str] = {}
        self.losses: list[tuple[float, int]] = []
        self.examples = 0
        self.norms: list[float] = []

    def __iter__(self) -> Iterator[Message]:
        """Give the results that may be seen.

        Raises:
            TooFewUpdates: there were fewer than needed; nothing of what the strategy saw may stay.
        """
        for reply in self._replies:
            if self._takes(reply):
                yield reply
            del reply  # or it would be held while the next one is read
        if len(self.nodes) < self._needed:
            raise TooFewUpdates

    def _takes(self, reply: Message) -> bool:
        node = reply.metadata.src_node_id
        if reply.has_error():
            self.failed[node] = reply.error.reason or "NODE_ERROR"
            return False
        try:
            norm = check_update(reply.content, self._start)
        except InvalidMessage as error:
            self.failed[node] = error.reason
            return False
        metrics = reply.content[METRICS]
        examples = int(metrics[EXAMPLES])
        if LOSS in metrics:  # taken out: not all tell it, and strategies want all alike
            self.losses.append((float(metrics.pop(LOSS)), examples))
        self.nodes.append(node)
        self.norms.append(norm)
        self.examples += examples
        share = 1.0 if self._limit is None or norm <= self._limit else self._limit / norm
        reply.content[ARRAYS] = _in_order(reply.content[ARRAYS], self._start, share)
        return True


def _in_order(sent: ArrayRecord, start: Arrays, share: float) -> ArrayRecord:
    """Return an update in the order of the weights, which some strategies rely on and the wire does not keep.

    Args:
        sent: The update; emptied where it is shortened.
        start: What it started from.
        share: Part of the way that is gone.
    """
    if share == 1.0:
        return ArrayRecord({name: sent[name] for name in start})
    way = np.float32(share)
    return record_of({name: was + (view(sent.pop(name)) - was) * way for name, was in start.items()})


def mean_loss(losses: list[tuple[float, int]]) -> float | None:
    """Return the mean of losses, each by its patches; None of none."""
    total = sum(examples for _, examples in losses)
    return sum(loss * examples for loss, examples in losses) / total if losses else None


def check_update(content: RecordDict, start: Arrays) -> float:
    """Check that a result may reach the strategy, and return the L2 norm of its update.

    Args:
        content: The records of the result.
        start: The weights that the node started from, by name.

    Raises:
        InvalidMessage: UPDATE_FORM, UPDATE_SHAPE, UPDATE_EXAMPLES, UPDATE_NOT_FINITE or UPDATE_TOO_LARGE.
    """
    if set(content) != {ARRAYS, METRICS} or set(content[METRICS]) - {LOSS} != {EXAMPLES, SECONDS}:
        raise InvalidMessage("the result has other records than it was asked for", reason="UPDATE_FORM")
    arrays = content[ARRAYS]
    forms = {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()}
    if forms != {name: (str(array.dtype), array.shape) for name, array in start.items()}:
        raise InvalidMessage("the result has other arrays than the task", reason="UPDATE_SHAPE")
    if not 1 <= float(content[METRICS][EXAMPLES]) <= MAX_EXAMPLES:
        raise InvalidMessage("the result claims an impossible number of patches", reason="UPDATE_EXAMPLES")
    moved = _norm(view(array) - start[name] for name, array in arrays.items())
    if not np.isfinite([moved, *content[METRICS].values()]).all():
        raise InvalidMessage("the result has a number that is not finite", reason="UPDATE_NOT_FINITE")
    if moved > MAX_GROWTH * (1.0 + _norm(start.values())):
        raise InvalidMessage("the result is too far from the weights of the task", reason="UPDATE_TOO_LARGE")
    return moved


def _norm(arrays: Iterable[NDArray[Any]]) -> float:
    """Return the L2 norm of all arrays together; float64, because float32 overflows."""
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))
