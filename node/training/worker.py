"""The child process that trains: search stays responsive, and its memory is given back when the run ends.

Parent and child exchange frames (8 bytes of length, then a payload) over the child's standard input and output, so
nothing is pickled. The child ends when its input does, also in the middle of a task.
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from rsfed.errors import TrainingError
from rsfed.hashing.payload import MAX_PAYLOAD_BYTES
from rsfed.home import Home

_NICENESS = 5
_LENGTH = 8  # bytes


class Worker:
    """The parent's side: starts the child when there is work and ends it on request.

    Args:
        home: The node's home.
        threads: Threads that the child may compute with.
    """

    def __init__(self, home: Home, threads: int) -> None:
        self._home = home
        self._threads = threads
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, task: bytes) -> bytes:
        """Train on a task and return its result, both in wire form.

        Raises:
            TrainingError: WORKER_DIED; the next task starts another one.
        """
        try:
            process = self._process or await self._start()
            if process.stdin is None or process.stdout is None:  # never so: both are pipes
                raise _died()
            process.stdin.write(len(task).to_bytes(_LENGTH) + task)
            await process.stdin.drain()
            size = int.from_bytes(await process.stdout.readexactly(_LENGTH))
            return await process.stdout.readexactly(min(size, MAX_PAYLOAD_BYTES))
        except (asyncio.IncompleteReadError, OSError) as error:
            await self.stop()
            raise _died() from error
        except asyncio.CancelledError:
            await self.stop()  # the child is in the middle of a task that nobody waits for
            raise

    async def stop(self) -> None:
        """End the child, if there is one."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        threads = str(self._threads)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", __name__, str(self._home.path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        return self._process


def _died() -> TrainingError:
    return TrainingError("the training process ended; the node's log says why", reason="WORKER_DIED")


def main() -> None:
    """Train on tasks from standard input until it ends."""
    home = Path(sys.argv[1])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not land between frames
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(sys.stdin.buffer, tasks), daemon=True).start()
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process

    from node.training.adapter import run_task  # noqa: PLC0415 - flwr and torch, after the pipe is watched
    from node.training.client_app import app  # noqa: PLC0415 - as above
    from rsfed.telemetry import configure_logs  # noqa: PLC0415 - as above

    configure_logs()
    while True:
        result = run_task(app, home, tasks.get())
        answers.write(len(result).to_bytes(_LENGTH) + result)
        answers.flush()


def _read_tasks(stream: BinaryIO, tasks: queue.SimpleQueue[bytes]) -> None:
    while len(length := stream.read(_LENGTH)) == _LENGTH:
        tasks.put(stream.read(int.from_bytes(length)))
    os._exit(0)  # the parent is gone: nobody wants the task that may be running


if __name__ == "__main__":
    main()
