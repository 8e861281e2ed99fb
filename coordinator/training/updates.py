"""What nodes send in a round, looked at before a strategy, which never sees what cannot be right.

Results are gone through twice, one at a time: first each is checked and measured, then those that fit among the others
are handed on. So the bounds are those of the round itself, and memory holds one result however many nodes send.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from coordinator.training.arrays import views
from coordinator.training.changes import lengthen
from rsfed.errors import InvalidMessage
from rsfed.hashing.agreement import LEAST_COMPARED
from rsfed.hashing.payload import Arrays, Metrics
from rsfed.hashing.plan import ARRAYS, EXAMPLES, LOSS, METRICS, SECONDS

MAX_EXAMPLES = 1e8  # patches that a node may claim
MAX_LOSS = 1e6  # that a node may tell
MAX_GROWTH = 10.0  # L2 norm of an update, in norms of the weights that it starts from
MAX_NORM = 10.0  # L2 norm of an update, in medians of the round
MAX_CLAIM = 10.0  # patches that a node counts for, in medians of what the round's nodes claim


@dataclass(frozen=True, slots=True)
class Checked:
    """What is kept of a result that can be right.

    Attributes:
        norm: L2 norm of its update.
        examples: Patches that it counts for.
        loss: Its loss; None where the node does not tell it.
        seconds: How long the node computed, as it says.
        packed: Whether it came as a packed change.
    """

    norm: float
    examples: float
    loss: float | None
    seconds: float
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Updates:
    """The results of a round that a strategy may see, in the order of the weights.

    Attributes:
        replies: What came of the nodes; can be gone through again.
        start: The weights that they started from.
        good: The nodes whose result counts, by Flower's number, in order.
        failed: Why the others gave none, by number.
    """

    replies: Iterable[Message]
    start: Arrays
    good: dict[int, Checked] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        """Patches that the results rest on."""
        return int(sum(each.examples for each in self.good.values()))

    @property
    def slowest(self) -> float:
        """Seconds that the slowest of the nodes computed."""
        return max((each.seconds for each in self.good.values()), default=0.0)

    @property
    def holders(self) -> list[int]:
        """The nodes that sent a packed change, so have the weights of the round and understand changes of them."""
        return [node for node, each in self.good.items() if each.packed]

    @property
    def loss(self) -> float | None:
        """Mean loss of the nodes that tell theirs, each by its patches; None where none does."""
        told = [(each.loss, each.examples) for each in self.good.values() if each.loss is not None]
        return sum(loss * examples for loss, examples in told) / sum(n for _, n in told) if told else None

    def __iter__(self) -> Iterator[Message]:
        """Give the results as strategies take them."""
        for reply in self.replies:
            if (checked := self.good.get(reply.metadata.src_node_id)) is not None:
                lengthen(reply.content, self.start)
                sent, metrics = reply.content[ARRAYS], reply.content[METRICS]
                # Some strategies pair arrays by position, and the wire keeps no order.
                reply.content[ARRAYS] = ArrayRecord({name: sent[name] for name in self.start})
                metrics[EXAMPLES] = checked.examples
                metrics.pop(LOSS, None)  # not all tell it, and strategies want all alike
                del sent, metrics
                yield reply
            del reply  # or it would be held while the next one is read


def sift(replies: Iterable[Message], start: Arrays) -> Updates:
    """Check all results of a round; returns when all that come are there.

    Args:
        replies: What comes of the nodes; can be gone through again.
        start: The weights that they started from.
    """
    good: dict[int, Checked] = {}
    failed: dict[int, str] = {}
    for reply in replies:
        node = reply.metadata.src_node_id
        try:
            if reply.has_error():
                failed[node] = reply.error.reason or "NODE_ERROR"
            else:
                good[node] = check_update(reply.content, start)
        except InvalidMessage as error:
            failed[node] = error.reason
        del reply  # or it would be held while the next one is read
    fitting = _among_each_other(good)
    failed |= dict.fromkeys(good.keys() - fitting.keys(), "UPDATE_TOO_LARGE")
    return Updates(replies, start, fitting, failed)


def _among_each_other(results: dict[int, Checked]) -> dict[int, Checked]:
    """Return the results whose norm fits those of the others, with the patches they claim held down in the same way.

    Half of the nodes would have to err together to move a median to where they want it.
    """
    if len(results) < LEAST_COMPARED:
        return results
    longest = MAX_NORM * median(each.norm for each in results.values())
    most = MAX_CLAIM * median(each.examples for each in results.values())
    return {
        node: replace(each, examples=min(each.examples, most)) for node, each in results.items() if each.norm <= longest
    }


def check_update(content: RecordDict, start: Arrays) -> Checked:
    """Check that a result may reach the strategy, as far as it alone can tell.

    Args:
        content: The records of the result.
        start: The weights that the node started from, by name.

    Raises:
        InvalidMessage: UPDATE_FORM, UPDATE_SHAPE, UPDATE_EXAMPLES, UPDATE_LOSS, UPDATE_NOT_FINITE or UPDATE_TOO_LARGE;
            DELTA_FORM or NOT_FINITE where it came as a packed change.
    """
    packed = lengthen(content, start)
    arrays, metrics = read_result(content, "UPDATE_FORM")
    if metrics.keys() - {LOSS} != {EXAMPLES, SECONDS}:
        raise InvalidMessage("the result has other numbers than it was asked for", reason="UPDATE_FORM")
    forms = [{name: (array.dtype, array.shape) for name, array in each.items()} for each in (arrays, start)]
    if forms[0] != forms[1]:
        raise InvalidMessage("the result has other arrays than the task", reason="UPDATE_SHAPE")
    if not all(map(math.isfinite, metrics.values())):
        raise InvalidMessage("the result has a number that is not finite", reason="UPDATE_NOT_FINITE")
    if not abs(metrics.get(LOSS, 0.0)) <= MAX_LOSS:
        raise InvalidMessage("the result tells an impossible loss", reason="UPDATE_LOSS")
    if not 1 <= metrics[EXAMPLES] <= MAX_EXAMPLES:
        raise InvalidMessage("the result claims an impossible number of patches", reason="UPDATE_EXAMPLES")
    moved = _norm(array - start[name] for name, array in arrays.items())
    if not math.isfinite(moved):
        raise InvalidMessage("the result has a number that is not finite", reason="UPDATE_NOT_FINITE")
    if moved > MAX_GROWTH * (1.0 + _norm(start.values())):
        raise InvalidMessage("the result is too far from the weights of the task", reason="UPDATE_TOO_LARGE")
    return Checked(moved, metrics[EXAMPLES], metrics.get(LOSS), metrics[SECONDS], packed)


def read_result(content: RecordDict, reason: str) -> tuple[Arrays, Metrics]:
    """Return the arrays and the numbers of a result, which a node of any make may have sent.

    Raises:
        InvalidMessage: with the given reason where it is made of anything else.
    """
    # Not by way of Flower's `array_records`, which makes a cycle: the result would stay until Python looks for those.
    if {name: type(record) for name, record in content.items()} != {ARRAYS: ArrayRecord, METRICS: MetricRecord}:
        raise _other_form(reason)
    try:
        return views(content[ARRAYS]), {name: float(value) for name, value in content[METRICS].items()}
    except Exception as error:  # numpy's reader of headers raises whatever the bytes make of it
        raise _other_form(reason) from error


def _other_form(reason: str) -> InvalidMessage:
    """Return the error; kept in a variable of what raises it, it would hold the result in a circle."""
    return InvalidMessage("the result has another form than it was asked for", reason=reason)


def _norm(arrays: Iterable[NDArray[Any]]) -> float:
    """Return the L2 norm of all arrays together; float64, because float32 overflows."""
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))
