"""The one place that knows how Flower talks to nodes: a `Grid` over the task board.

Flower stamps messages with a process-wide identity, so one run at a time uses a process.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from coordinator.training.arrays import record_of, views
from coordinator.training.blob import Blob
from coordinator.training.board import Task, TaskBoard
from rsfed.clock import Deadline
from rsfed.errors import InvalidMessage
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import ROUND

_LONGEST_S = 7 * 24 * 3600.0
_NO_RESULT = 0  # Flower's code of an error without a code of its own


@dataclass(frozen=True, slots=True)
class Exchange:
    """What went to a node and came back in one round."""

    sent: int  # bytes
    received: int  # bytes
    reason: str  # why there is no result; "" where there is one


def node_number(name: str) -> int:
    """Return the number by which Flower knows a node: the same in every process, for the same name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])


def to_payload(content: RecordDict, run_id: int, kind: str) -> Payload:
    """Return Flower's records as a payload."""
    configs = {name: dict(record) for name, record in content.config_records.items()}
    rounds = [int(config[ROUND]) for config in configs.values() if ROUND in config]
    return Payload(
        run_id,
        rounds[0] if rounds else 0,
        kind,
        {name: views(r) for name, r in content.array_records.items()},
        {name: {key: float(value) for key, value in r.items()} for name, r in content.metric_records.items()},
        configs,
    )


def to_records(payload: Payload) -> RecordDict:
    """Return a payload as Flower's records."""
    records: dict[str, Any] = {name: record_of(arrays.items()) for name, arrays in payload.arrays.items()}
    records |= {name: MetricRecord(dict(metrics)) for name, metrics in payload.metrics.items()}
    records |= {name: ConfigRecord(dict(config)) for name, config in payload.configs.items()}
    return RecordDict(records)


class Replies:
    """The replies to messages; each is read when its turn comes, so memory holds one of them.

    Args:
        read: Goes through them; the first time it waits for each.
    """

    def __init__(self, read: Callable[[], Iterator[Message]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Message]:
        """Go through them, once more if need be."""
        return self._read()


class BoardGrid(Grid):  # type: ignore[misc]  # flwr stays untyped behind this folder
    """Sends a strategy's messages over the task board and brings back the replies.

    Args:
        board: Where nodes take their tasks.
        run_id: The run.

    Attributes:
        exchanges: What the last `send_and_receive` moved, by node name.
    """

    def __init__(self, board: TaskBoard, run_id: int) -> None:
        logging.getLogger("flwr").setLevel(logging.ERROR)  # its log is free text; ours has a fixed list of fields
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, run_id
        self._board = board
        self._run_id = run_id
        self._run: object = None
        self._names: dict[int, str] = {}
        self._sent: dict[str, tuple[Message, Task]] = {}  # by task id
        self.exchanges: dict[str, Exchange] = {}

    @property
    def run(self) -> object:
        """What Flower knows of the run."""
        return self._run

    def set_run(self, run: object) -> None:
        """Keep what Flower knows of the run."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        """Return the numbers of the nodes that are present, in the order of their names."""
        present = {node_number(name): name for name in self._board.present()}
        self._names |= present
        return list(present)

    def name_of(self, node: int) -> str:
        """Return the name of a node; its number where it was not there since the coordinator started."""
        return self._names.get(node, str(node))

    def wait(self, seconds: float) -> None:
        """Let time pass for nodes to come.

        Raises:
            RunStopped: the coordinator stops.
            RunCancelled: the run was cancelled.
        """
        self._board.pause(seconds)

    def aside(self, data: bytes) -> Blob:
        """Put bytes aside until they are let go, where tasks and results are.

        Raises:
            TrainingError: RESULTS_UNWRITABLE.
        """
        return self._board.blob(data)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Pin messages to the board and return their ids. Messages that share their records are encoded once."""
        encoded: dict[int, tuple[RecordDict, Blob]] = {}  # the records, too: a number counts as long as they live
        ids = []
        for message in messages:
            content, key = message.content, id(message.content)
            if key not in encoded:
                payload = to_payload(content, self._run_id, message.metadata.message_type)
                encoded[key] = content, self._board.blob(encode(payload))
            task = self._board.offer(self._names[message.metadata.dst_node_id], encoded[key][1])
            message.content = RecordDict()  # it is on its way, and may be large
            self._sent[task.id] = (message, task)
            ids.append(task.id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are here, in the order of the ids; what cannot be read is an error reply."""
        replies = []
        for task_id in message_ids:
            message, task = self._sent[task_id]
            if task.done:
                replies.append(_reply(message, task))
                del self._sent[task_id]
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Replies:
        """Send messages and return the replies of nodes that are still there.

        Returns:
            One reply for each message, in the order of the nodes' names; an error reply where there is no result.
        """
        ids = self.push_messages(messages)
        pairs = sorted((self._sent.pop(task_id) for task_id in ids), key=lambda pair: pair[1].node)
        self.exchanges = {}
        deadline = Deadline.after(_LONGEST_S if timeout is None else timeout)
        return Replies(partial(self._replies, pairs, deadline))

    def _replies(self, pairs: list[tuple[Message, Task]], deadline: Deadline) -> Iterator[Message]:
        messages = {task.id: message for message, task in pairs}
        for task in self._board.collect((task for _, task in pairs), deadline):
            late = "NODE_GONE" if deadline.remaining() else "ROUND_DEADLINE"
            yield self._reply_to(messages[task.id], task, late)

    def _reply_to(self, message: Message, task: Task, late: str) -> Message:
        reply = _reply(message, task) if task.done else error_reply(message, late)
        reason = (reply.error.reason or "") if reply.has_error() else ""
        self.exchanges[task.node] = Exchange(task.sent, task.received, reason)
        return reply


def _reply(message: Message, task: Task) -> Message:
    try:
        payload = decode(task.upload.read())
    except InvalidMessage as error:
        return error_reply(message, error.reason)
    return error_reply(message, payload.error) if payload.error else Message(to_records(payload), reply_to=message)


def error_reply(message: Message, reason: str) -> Message:
    """Return what stands for a result that a node did not give."""
    return Message(Error(_NO_RESULT, reason), reply_to=message)
