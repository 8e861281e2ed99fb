"""Processes of the demo: commands that run to their end, servers that run until the demo ends, and none left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rsfed.errors import RsfedError

RSFED = (sys.executable, "-P", "-m", "rsfed")  # -P: a folder `rsfed` in the current one is none of ours
_GRACE_S = 15.0  # that servers have to end by themselves
_TAIL = 12  # lines of a log that an error shows
_MAX_LINE_BYTES = 8 << 20  # of a command that prints one line for each event


class CommandFailed(RsfedError):
    """A command or server of the demo ended with an error."""

    reason = "COMMAND_FAILED"


@dataclass(frozen=True, slots=True)
class _Server:
    process: Process
    log: Path


class Processes:
    """Runs `rsfed` commands; on leaving the context every server and command has ended.

    Args:
        logs: Folder for what they print to standard error.
        environment: Variables that are added to this process's own; `configure` adds more.

    Attributes:
        servers: Ids of the running servers by name.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = dict(environment)
        self._running: dict[str, _Server] = {}
        self._commands: set[Process] = set()
        self._count = 0

    async def __aenter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = asyncio.gather(*map(_end, [*self._commands, *(server.process for server in self._running.values())]))
        with suppress(asyncio.CancelledError):  # a second Ctrl-C must not leave servers behind
            await asyncio.shield(ending)
        await ending

    @property
    def servers(self) -> dict[str, int]:
        """Process ids of the servers by name."""
        return {name: server.process.pid for name, server in self._running.items()}

    def configure(self, environment: Mapping[str, str]) -> None:
        """Add variables for whatever is started from now on."""
        self._environment |= environment

    async def run(self, *arguments: str | Path) -> str:
        """Run one command to its end and return its standard output.

        Raises:
            CommandFailed: it exited with an error.
        """
        return "".join([line async for line in self.lines(*arguments)])

    async def lines(self, *arguments: str | Path) -> AsyncIterator[str]:
        """Run one command and yield each line of its standard output as it comes.

        Raises:
            CommandFailed: it exited with an error.
        """
        self._count += 1
        log = self._logs / f"command-{self._count:03d}.log"
        with log.open("wb") as errors:
            process = await self._spawn(arguments, stdout=PIPE, stderr=errors.fileno())
        self._commands.add(process)
        try:
            if process.stdout is not None:
                async for line in process.stdout:
                    yield line.decode()
            code = await process.wait()
        finally:
            if process.returncode is not None:
                self._commands.discard(process)
        if code:
            raise CommandFailed(f"`rsfed {' '.join(map(str, arguments[:2]))}` failed", detail=_tail(log))

    async def start(self, name: str, *arguments: str | Path) -> None:
        """Start a server."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            process = await self._spawn(arguments, stdout=output.fileno(), stderr=output.fileno())
        self._running[name] = _Server(process, log)

    async def kill(self, name: str) -> None:
        """End a server at once, without a word to it, as a crash does."""
        process = self._running.pop(name).process
        process.kill()
        await process.wait()

    def check(self) -> None:
        """Make sure that every server still runs.

        Raises:
            CommandFailed: one has ended, with the last lines of its log.
        """
        for name, server in self._running.items():
            if server.process.returncode is not None:
                raise CommandFailed(f"the server {name} ended by itself", detail=_tail(server.log))

    async def _spawn(self, arguments: tuple[str | Path, ...], *, stdout: int, stderr: int) -> Process:
        return await asyncio.create_subprocess_exec(
            *RSFED,
            *map(str, arguments),
            stdin=DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **self._environment},
            limit=_MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which ends the others in order
        )


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens at, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


async def _end(process: Process) -> None:
    """Ask a process to end, and make it end when it does not."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _GRACE_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
