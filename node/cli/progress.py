"""Progress on standard error: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG_EVERY_S = 5.0
Progressed = Callable[[int, int], None]
"""Called with what is done and all there is."""
Say = Callable[[str], None]
"""Prints one line on standard error without tearing the bar."""


class _Pace:
    """How many are done in a second; begins anew where fewer are done than before, as what is fetched is then read."""

    def __init__(self) -> None:
        self._start, self._done = time.monotonic(), 0

    def rate(self, done: int) -> float:
        """Return how many are done in a second.

        Args:
            done: How many are done now.
        """
        if done < self._done:
            self._start = time.monotonic()
        self._done = done
        return done / max(time.monotonic() - self._start, 1e-3)


@contextmanager
def progress(what: str) -> Iterator[tuple[Progressed, Say]]:
    """Show the progress of something, and give a way to print lines meanwhile.

    Args:
        what: What goes on, for example "ingest".
    """
    with _bar(what) if sys.stderr.isatty() else _lines(what) as ways:
        yield ways


@contextmanager
def _bar(what: str) -> Iterator[tuple[Progressed, Say]]:
    from rich.console import Console  # noqa: PLC0415 - loaded only when used
    from rich.progress import (  # noqa: PLC0415 - loaded only when used
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    rate = TextColumn("{task.fields[rate]:.1f}/s")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    pace = _Pace()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate=0.0)

        def say(line: str) -> None:
            bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

        def progressed(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=pace.rate(done))

        yield progressed, say


@contextmanager
def _lines(what: str) -> Iterator[tuple[Progressed, Say]]:
    from rsfed.telemetry import log  # noqa: PLC0415 - loaded only when used

    last = time.monotonic()
    pace = _Pace()

    def progressed(done: int, total: int) -> None:
        nonlocal last
        rate = pace.rate(done)
        if time.monotonic() - last >= _LOG_EVERY_S:
            last = time.monotonic()
            left = (total - done) / rate if rate else 0
            log.info(f"{what}.progress", count=done, pending=total - done, rate=round(rate, 1), seconds=round(left))

    yield progressed, lambda line: print(line, file=sys.stderr)
