"""Processes that work ahead: what they make comes back in the order of the tasks, and no more of it than fits.

A process takes one task at a time and gives what it makes of it in parts. A part stays with the process until it is
taken, so at most two wait for each process, however fast they are: the last one is told as such, and has to be known. A
process that dies, by a decoder's fault or for lack of memory, costs the task that it had; another takes its place.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from enum import IntEnum
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from rsfed.errors import ArchiveError
from rsfed.raster.limits import ONE_OF_SEVERAL

Task = TypeVar("Task")
Part = TypeVar("Part")
_GRACE_S = 5.0


class _Kind(IntEnum):
    READY = 0
    PART = 1
    LAST = 2
    NONE = 3
    FAILED = 4
    DEAD = 5


class Crew(Generic[Task, Part]):
    """Some processes that do the same work.

    Args:
        work: Gives the parts of a task; a function of a module, or a `partial` of one, as it is pickled.
        workers: How many processes, at least one.
        niceness: How far they stand back behind other processes.
    """

    def __init__(self, work: Callable[[Task], Iterable[Part]], workers: int, *, niceness: int = 0) -> None:
        self._work = work
        self._workers = workers
        self._niceness = niceness

    def parts(self, tasks: Iterable[Task]) -> Generator[tuple[Task, Part | None], None, None]:
        """Yield each task with each of its parts, in the order of the tasks; None where its process died over it.

        Args:
            tasks: Taken as processes become free.

        Raises:
            ArchiveError: WORKERS, the processes cannot be started, or the work fails otherwise than by dying.
        """
        coming = iter(tasks)
        idle = deque(self._worker() for _ in range(self._workers))
        busy: deque[tuple[Task, _Worker]] = deque()
        try:
            while True:
                while idle and (task := next(coming, None)) is not None:
                    idle[0].give(task)
                    busy.append((task, idle.popleft()))
                if not busy:
                    return
                task, worker = busy[0]
                kind, part = worker.take()
                if kind is _Kind.PART:
                    yield task, part
                elif kind is _Kind.LAST:  # with it the task is done, so nobody can die over a task that gave all
                    idle.append(busy.popleft()[1])
                    yield task, part
                elif kind is _Kind.NONE:
                    idle.append(busy.popleft()[1])
                elif kind is _Kind.DEAD:
                    yield task, None
                    busy.popleft()[1].stop()
                    idle.append(self._worker())
                else:
                    raise ArchiveError(f"an image made its reader fail by {part}; please report this", reason="WORKERS")
        finally:
            for each in (*idle, *(worker for _, worker in busy)):
                each.stop()

    def _worker(self) -> _Worker:
        return _Worker(self._work, self._niceness)


class _Worker:
    """One process, and this end of the pipe to it."""

    def __init__(self, work: Callable[[Any], Iterable[Any]], niceness: int) -> None:
        spawn = get_context("spawn")  # a fork of a process that has threads may hang
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, work, niceness), daemon=True)
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
            kind, part = self._pipe.recv()
        except (EOFError, OSError) as error:
            if not self._ready:
                raise ArchiveError(
                    "processes that read images cannot be started; set workers = 0 in [archive] of node.toml",
                    reason="WORKERS",
                ) from error
            return _Kind.DEAD, None
        return _Kind(kind), part

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(_GRACE_S)


def _serve(pipe: Connection, work: Callable[[Any], Iterable[Any]], niceness: int) -> None:
    """Work until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the terminal sends to all; the one that gives tasks decides
    os.environ.update({key: value for key, value in ONE_OF_SEVERAL.items() if key not in os.environ})
    os.nice(niceness)
    with suppress(EOFError, OSError):
        pipe.send((_Kind.READY, None))
        while True:
            task = pipe.recv()
            try:
                waiting: deque[Any] = deque(maxlen=1)  # the last part has to be known as such
                for part in work(task):
                    if waiting:
                        pipe.send((_Kind.PART, waiting[0]))
                    waiting.append(part)
                pipe.send((_Kind.LAST, waiting[0]) if waiting else (_Kind.NONE, None))
            except (EOFError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - told to whoever gave the task
                pipe.send((_Kind.FAILED, type(error).__name__))
