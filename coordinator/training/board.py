"""The task board: where the run's thread and the training service's event loop meet.

A run pins one task per node to the board and waits; nodes take theirs, report back in chunks, and are *present* while
they wait for a task or were heard of lately. Every method may be called from any thread.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.training.blob import Blob
from coordinator.training.records import RunCancelled
from rsfed.clock import Deadline
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.payload import check_size

GRACE_S = 10.0  # between two calls of a node that waits for tasks
SILENCE_S = 30.0  # after which a node that works on a task counts as gone; it reports every few seconds
RESULT_MARGIN = 1 << 20  # bytes that a result may have beyond the largest task of its run, which is whole weights
_REMEMBERED = 1024  # closed tasks, to tell "too late" from "unknown"


class RunStopped(TrainingError):
    """The coordinator stops; the run goes on when it starts again."""

    reason = "COORDINATOR_STOPPED"


@dataclass(slots=True)
class Task:
    """One task of one node, with what came back of its result."""

    node: str
    payload: Blob
    upload: Blob  # what came of the result so far
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    sent: int = 0  # bytes of the payload that were handed out, repeats included
    expected: tuple[int, bytes] = (0, b"")  # size and SHA-256 of the result that is coming in
    done: bool = False  # the whole result is in `upload`

    @property
    def received(self) -> int:
        """Bytes of the result that came."""
        return len(self.upload)


class TaskBoard:
    """Holds at most one task for each node.

    Args:
        folder: Where large tasks and results lie while they are on their way; see `Blob`.
        monotonic: Clock in seconds, for tests.
    """

    def __init__(self, folder: Path | None = None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._tasks: dict[str, Task] = {}  # by node
        self._closed: OrderedDict[str, str] = OrderedDict()  # id -> node
        self._heard: dict[str, float] = {}  # node -> moment
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}  # by node
        self._stopped = False
        self._cancelled = False
        self._largest = 0  # bytes of the largest task of the run, or of the result that it expects
        self._monotonic = monotonic

    def present(self) -> list[str]:
        """Return the names of the nodes that can take a task now, sorted."""
        with self._changed:
            since = self._monotonic() - GRACE_S
            recent = {node for node, moment in self._heard.items() if moment > since}
            return sorted(recent | set(self._waiting))

    def blob(self, data: bytes = b"") -> Blob:
        """Return bytes as a task or a result on its way.

        Raises:
            TrainingError: RESULTS_UNWRITABLE.
        """
        return Blob.of(data, self._folder)

    def offer(self, node: str, payload: Blob) -> Task:
        """Pin a task for a node; one that the node still has is withdrawn.

        Raises:
            RunStopped: the coordinator stops.
            RunCancelled: the run was cancelled.
        """
        task = Task(node, payload, self.blob())
        with self._changed:
            self._check_running()
            self._close(self._tasks.pop(node, None))
            self._tasks[node] = task
            self._largest = max(self._largest, len(payload))
            self._heard.setdefault(node, self._monotonic())
            self._wake(node)
        return task

    def collect(self, tasks: Iterable[Task], deadline: Deadline) -> Iterator[Task]:
        """Give the tasks in their order, each as soon as it has its result and is closed.

        One that has none is given without once no other is waited for, or the deadline passed. What the caller leaves
        is closed, too.

        Raises:
            RunStopped: the coordinator stops.
            RunCancelled: the run was cancelled.
        """
        left = deque(tasks)
        try:
            while left:
                self._await_first(left, deadline)
                yield left.popleft()
        finally:
            with self._changed:
                self._withdraw(left)

    def _await_first(self, tasks: Collection[Task], deadline: Deadline) -> None:
        """Wait for the result of the first task as long as any result may come, and close the task."""
        first = next(iter(tasks))
        with self._changed:
            self._check_running()
            while not first.done and deadline.remaining() and any(self._expected(task) for task in tasks):
                self._changed.wait(min(1.0, deadline.remaining()))
                self._check_running()
            self._withdraw([first] if deadline.remaining() else tasks)

    def _withdraw(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if self._tasks.get(task.node) is task:
                self._close(self._tasks.pop(task.node))

    def pause(self, seconds: float) -> None:
        """Wait without a task, for example for nodes to come.

        Raises:
            RunStopped: the coordinator stops.
            RunCancelled: the run was cancelled.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._cancelled, seconds)
            self._check_running()

    def begin(self) -> None:
        """Be ready for the next run, whatever became of the last one."""
        with self._changed:
            self._cancelled = False
            self._largest = 0

    def expect(self, size: int) -> None:
        """Take results of so many bytes in this run, though no task is as large."""
        with self._changed:
            self._largest = max(self._largest, size)

    def cancel(self) -> None:
        """End the run that is in progress: it raises `RunCancelled`, and its tasks are no longer wanted."""
        with self._changed:
            self._cancelled = True
            for task in self._tasks.values():
                self._close(task)
            self._tasks.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        """End what waits here: runs raise `RunStopped`, nodes are sent away empty-handed."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for node in self._waiting:
                self._wake(node)

    async def next_task(self, node: str, wait_s: float) -> Task | None:
        """Wait for a node's task; one that the node took and did not finish is handed out again.

        A caller that goes away while it waits is no longer present, but it has a moment to come back for its task.
        One that asks again while it waits is sent away there: no node takes the places of others by waiting twice.
        """
        deadline = Deadline.after(wait_s)
        entry = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._wake(node)
            self._waiting[node] = entry
        try:
            while (task := self._open_task(node)) is None and self._waits(node, entry) and deadline.remaining():
                await _wait(entry[1], deadline.remaining())
        except asyncio.CancelledError:
            with self._changed:
                self._heard[node] = self._monotonic() - GRACE_S
            raise
        finally:
            with self._changed:
                if self._waiting.get(node) is entry:
                    del self._waiting[node]
        return task

    def _waits(self, node: str, entry: tuple[asyncio.AbstractEventLoop, asyncio.Event]) -> bool:
        with self._changed:
            return not self._stopped and self._waiting.get(node) is entry

    def _wake(self, node: str) -> None:
        if node in self._waiting:
            loop, event = self._waiting[node]
            loop.call_soon_threadsafe(event.set)

    def task(self, node: str, task_id: str) -> Task:
        """Return an open task of this node.

        Raises:
            TrainingError: TASK_EXPIRED (its round is over) or UNKNOWN_TASK (made up, or another node's).
        """
        with self._changed:
            self._heard[node] = self._monotonic()
            task = self._tasks.get(node)
            if task is not None and task.id == task_id:
                return task
            if self._closed.get(task_id) == node:
                raise TrainingError("the round of this task is over", reason="TASK_EXPIRED")
        raise TrainingError("there is no such task for this node", reason="UNKNOWN_TASK")

    def receive(self, node: str, task_id: str, expected: tuple[int, bytes], offset: int, chunk: bytes) -> int:
        """Take part of a result and return the next byte expected.

        A chunk at another position is not taken; one at 0 with another size or digest starts the upload again.
        An empty chunk only says that the node is at work.

        Args:
            node: Who sends.
            task_id: The task.
            expected: Size in bytes and SHA-256 of the whole result.
            offset: Position of the chunk.
            chunk: Part of the result.

        Raises:
            TrainingError: TASK_EXPIRED or UNKNOWN_TASK.
            InvalidMessage: PAYLOAD_TOO_LARGE, or PAYLOAD_DIGEST (the whole does not fit its digest; start again).
        """
        task = self.task(node, task_id)
        size, sha256 = expected
        check_size(size, self._largest + RESULT_MARGIN)
        with self._changed:
            if task.done:
                return task.received
            if chunk and offset == 0 and task.expected != expected:
                task.expected, task.upload = expected, self.blob()
            if not chunk or task.expected != expected or offset != len(task.upload):
                return len(task.upload) if task.expected == expected else 0
            check_size(offset + len(chunk), size)
            task.upload.append(chunk)
            if len(task.upload) == size:
                self._finish(task, sha256)
            return task.received

    def _finish(self, task: Task, sha256: bytes) -> None:
        if task.upload.sha256 != sha256:
            task.upload = self.blob()
            raise InvalidMessage("the result does not fit its digest; send it again", reason="PAYLOAD_DIGEST")
        task.done = True
        self._changed.notify_all()

    def _open_task(self, node: str) -> Task | None:
        with self._changed:
            self._heard[node] = self._monotonic()
            task = self._tasks.get(node)
            return task if task is not None and not task.done else None

    def _expected(self, task: Task) -> bool:
        alive = self._heard.get(task.node, float("-inf")) >= self._monotonic() - SILENCE_S
        present = alive or task.node in self._waiting
        return not task.done and self._tasks.get(task.node) is task and present

    def _close(self, task: Task | None) -> None:
        if task is not None:
            self._closed[task.id] = task.node
            while len(self._closed) > _REMEMBERED:
                self._closed.popitem(last=False)

    def _check_running(self) -> None:
        if self._stopped:
            raise RunStopped("the coordinator stopped")
        if self._cancelled:
            raise RunCancelled


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long, and arm it again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
            event.clear()
