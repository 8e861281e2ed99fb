"""Work that is done ahead by others: what they make comes back in the order of the tasks, and no more of it than fits.

`Crew` is processes of this machine, `rsfed.cluster` workers of other machines. A process takes one task at a time and
gives what it makes of it in parts. A part stays with the process until it is taken, so at most two wait for each
process, however fast they are: the last one is told as such, and has to be known. A process that dies, by a decoder's
fault or for lack of memory, costs the task that it had; another takes its place.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from enum import IntEnum
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

import numpy as np

from rsfed.errors import ArchiveError
from rsfed.heap import keep_freed_memory
from rsfed.raster.limits import ONE_OF_SEVERAL

Task = TypeVar("Task")
Part = TypeVar("Part")
Each = TypeVar("Each")
Made = TypeVar("Made")
_GRACE_S = 5.0
_NICENESS = 10  # what works ahead stands back behind whoever takes from it, who would wait for its core otherwise


class Hands(Protocol):
    """Whoever does the work.

    Attributes:
        elsewhere: Whether that is on other machines, which may not see all files that are here.
    """

    elsewhere: bool

    def parts(
        self, work: Callable[[Task], Iterable[Part]], tasks: Iterable[Task]
    ) -> Generator[tuple[Task, Part | None], None, None]:
        """Yield each task with each of its parts, in the order of the tasks; None where a process died over it.

        Args:
            work: Gives the parts of a task; a function of a module, or a `partial` of one, as it is pickled.
            tasks: Taken as processes become free.

        Raises:
            ArchiveError: WORKERS, the processes cannot be started, or the work fails otherwise than by dying.
        """


def made_of_each(
    hands: Hands,
    work: Callable[[list[Each]], Iterable[list[Made]]],
    portions: Iterable[list[Each]],
    divided: Callable[[list[Each]], Iterable[list[Each]]],
) -> Generator[tuple[Each, Made | None], None, None]:
    """Yield all of each portion in order with what the work makes of it; None for what a process died over.

    Of a portion that one died over, what is left is tried once more in smaller portions.

    Args:
        hands: Who does it.
        work: Gives what it makes of each of a portion, in order, some at a time.
        portions: What is given to a process at a time, none of them empty.
        divided: Divides what is left of one; what it leaves whole is not tried again.
    """
    done = 0
    with closing(hands.parts(work, portions)) as parts:
        for portion, part in parts:
            if part is not None:
                yield from zip(portion[done : done + len(part)], part, strict=True)
                done = (done + len(part)) % len(portion)
                continue
            smaller, done = list(divided(portion[done:])), 0
            if len(smaller) == 1:
                yield from ((each, None) for each in smaller[0])
            else:
                yield from made_of_each(hands, work, smaller, divided)


class _Kind(IntEnum):
    READY = 0
    PART = 1
    LAST = 2
    NONE = 3
    FAILED = 4
    DEAD = 5


def failed(kind: str) -> ArchiveError:
    """Return what to say of work that failed by an error of this kind, which it never should."""
    return ArchiveError(f"an image made its reader fail by {kind}; please report this", reason="WORKERS")


class Crew:
    """Some processes of this machine, started as there is work for them.

    Args:
        workers: How many processes, at least one.
    """

    elsewhere = False

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def parts(
        self, work: Callable[[Task], Iterable[Part]], tasks: Iterable[Task]
    ) -> Generator[tuple[Task, Part | None], None, None]:
        """Yield each task with each of its parts, as `Hands` says."""
        coming = iter(tasks)
        idle: deque[_Worker] = deque()
        busy: deque[tuple[Task, _Worker]] = deque()

        def occupy() -> None:
            while len(busy) < self._workers and (task := next(coming, None)) is not None:
                worker = idle.popleft() if idle else _Worker(work)
                busy.append((task, worker))
                worker.give(task)

        try:
            occupy()
            while busy:
                task, worker = busy[0]
                kind, part = worker.take()
                if kind is not _Kind.PART:  # with the last part the task is done, so nobody can die over it any more
                    busy.popleft()
                    if kind is _Kind.DEAD:
                        worker.stop()
                    else:
                        idle.append(worker)
                    if kind is _Kind.FAILED:
                        raise failed(part)
                    occupy()  # before the part is given away: whoever gets it takes long over it
                if kind is not _Kind.NONE:
                    yield task, part
        finally:
            for each in (*idle, *(worker for _, worker in busy)):
                each.stop()


class _Worker:
    """One process, and this end of the pipe to it."""

    def __init__(self, work: Callable[[Any], Iterable[Any]]) -> None:
        spawn = get_context("spawn")  # a fork of a process that has threads may hang
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, work), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False

    def give(self, task: object) -> None:
        """Hand over a task; that it is dead shows when its parts are taken."""
        with suppress(OSError):
            self._pipe.send(task)

    def take(self) -> tuple[_Kind, Any]:
        """Return the next part of the task, or what has become of it.

        Raises:
            ArchiveError: WORKERS, the process did not come to life.
        """
        try:
            if not self._ready:
                self._pipe.recv()
                self._ready = True
            kind, part = _received(self._pipe)
        except (EOFError, OSError) as error:
            if not self._ready:
                raise ArchiveError(
                    "processes that read images cannot be started; set workers = 0 in [archive] of node.toml",
                    reason="WORKERS",
                ) from error
            return _Kind.DEAD, None
        return kind, part

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(_GRACE_S)


def _serve(pipe: Connection, work: Callable[[Any], Iterable[Any]]) -> None:
    """Work until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the terminal sends to all; the one that gives tasks decides
    os.environ.update({key: value for key, value in ONE_OF_SEVERAL.items() if key not in os.environ})
    os.nice(_NICENESS)
    keep_freed_memory()
    with suppress(EOFError, OSError):
        pipe.send((_Kind.READY, None))
        while True:
            task = pipe.recv()
            try:
                waiting: deque[Any] = deque(maxlen=1)  # the last part has to be known as such
                for part in work(task):
                    if waiting:
                        _send(pipe, _Kind.PART, waiting[0])
                    waiting.append(part)
                _send(pipe, *((_Kind.LAST, waiting[0]) if waiting else (_Kind.NONE, None)))
            except (EOFError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - told to whoever gave the task
                _send(pipe, _Kind.FAILED, type(error).__name__)


def _send(pipe: Connection, kind: _Kind, part: object) -> None:
    """Send a part; what its arrays hold is written from where it lies, never copied into a message first."""
    buffers: list[pickle.PickleBuffer] = []
    told = pickle.dumps(part, protocol=5, buffer_callback=buffers.append)
    held = [buffer.raw() for buffer in buffers]
    pipe.send((kind, told, [each.nbytes for each in held]))
    for each in held:
        _write(pipe.fileno(), each)


def _received(pipe: Connection) -> tuple[_Kind, Any]:
    """Return what was sent; its arrays are filled where they stay."""
    kind, told, sizes = pipe.recv()
    held = [np.empty(size, np.uint8) for size in sizes]
    for each in held:
        _fill(pipe.fileno(), each.data)
    return kind, pickle.loads(told, buffers=held)  # noqa: S301 - our own process made it


def _write(handle: int, left: memoryview) -> None:
    while left.nbytes:
        left = left[os.write(handle, left) :]


def _fill(handle: int, left: memoryview) -> None:
    while left.nbytes:
        if not (count := os.readv(handle, [left])):
            raise EOFError
        left = left[count:]
