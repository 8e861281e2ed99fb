"""Writes the audit lines of queries beside the queries, so that no analyst waits for the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import suppress
from datetime import datetime

from coordinator import audit
from coordinator.state import State
from rsfed.clock import Now
from rsfed.errors import Busy
from rsfed.telemetry import log
from rsfed.transport.rate import RateLimit
from rsfed.trust.names import MemberId

_GATHER_S = 0.05  # lines of so long a time share a transaction
_AGAIN_S = 1.0  # before lines that could not be written, for example on a full disk, are tried again
_KEPT = 100_000  # lines that wait at most; older ones are lost


class Journal:
    """Notes what happened; lines are on disk a moment later, and all of them once `run` has returned.

    Args:
        state: The coordinator's database.
        now: Clock.
    """

    def __init__(self, state: State, now: Now) -> None:
        self._state = state
        self._now = now
        self._lines: list[tuple[datetime, str, str, dict[str, object]]] = []
        self._wake = asyncio.Event()
        self._stopped = False
        self._floods = RateLimit(burst=60, per_second=0.1, monotonic=time.monotonic)  # for each reason

    def note(self, kind: str, subject: str, **data: object) -> None:
        """Take note of something."""
        self._lines.append((self._now(), kind, subject, data))
        self._wake.set()

    def call_refused(self, member: MemberId | None, reason: str) -> None:
        """Take note of a call that was refused before it was read; a flood is not noted whole."""
        with suppress(Busy):
            self._floods.take(reason)
            self.note("call.refused", member.uri if member else "", reason=reason)

    def stop(self) -> None:
        """Let `run` write what is left and return."""
        self._stopped = True
        self._wake.set()

    async def run(self) -> None:
        """Write lines until stopped."""
        while not self._stopped or self._lines:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(_GATHER_S)
            lines, self._lines = self._lines, []
            try:
                await asyncio.to_thread(self._write, lines)
            except sqlite3.Error as error:
                log.error("journal.failed", error_type=type(error).__name__, count=len(lines))
                if self._stopped:
                    return
                self._lines = (lines + self._lines)[-_KEPT:]
                await asyncio.sleep(_AGAIN_S)
                self._wake.set()

    def _write(self, lines: list[tuple[datetime, str, str, dict[str, object]]]) -> None:
        with self._state.writing() as connection:
            for moment, kind, subject, data in lines:
                audit.record(connection, moment, kind, subject, **data)
