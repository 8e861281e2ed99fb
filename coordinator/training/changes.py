"""Messages and results whose weights travel as packed changes, and back: what is around them sees whole weights."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ConfigRecord, Message, RecordDict

from coordinator.training.arrays import record_of
from rsfed.hashing.exchange import Downlink, result
from rsfed.hashing.payload import Arrays
from rsfed.hashing.plan import ARRAYS, DELTA


def shorten(messages: Iterable[Message], downlink: Downlink) -> list[Message]:
    """Replace the weights by a packed change in messages to nodes that have what it builds on; each change goes once.

    Messages that share their records go on doing so: each record is put into its wire form once.
    """
    shortened: dict[int, RecordDict] = {}
    messages = list(messages)
    for message in messages:
        content = message.content
        if (change := downlink.change_for(message.metadata.dst_node_id)) is not None:
            rest = {name: record for name, record in content.items() if name != ARRAYS}
            message.content = shortened.setdefault(id(content), RecordDict(rest | {DELTA: ConfigRecord(change)}))
    downlink.spend()
    return messages


def lengthen(content: RecordDict, start: Arrays) -> bool:
    """Put the weights that a result's packed change says in its place; return whether there was one.

    Raises:
        InvalidMessage: DELTA_FORM or NOT_FINITE.
    """
    if DELTA not in content:  # asked of the records by their type, they would be held in a circle
        return False
    content[ARRAYS] = record_of(result(content.pop(DELTA), start))
    return True
