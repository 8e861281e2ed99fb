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
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate=0.0)

        def say(line: str) -> None:
            bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

        def progressed(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=done / max(time.monotonic() - start, 1e-3))

        yield progressed, say


@contextmanager
def _lines(what: str) -> Iterator[tuple[Progressed, Say]]:
    from rsfed.telemetry import log  # noqa: PLC0415 - loaded only when used

    start = last = time.monotonic()

    def progressed(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_EVERY_S:
            last = time.monotonic()
            left = (last - start) / max(done, 1) * (total - done)
            log.info(f"{what}.progress", count=done, pending=total - done, seconds=round(left))

    yield progressed, lambda line: print(line, file=sys.stderr)
