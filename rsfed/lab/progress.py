"""How far a long step is: a bar on a terminal, a log line every few seconds elsewhere, both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG_EVERY_S = 5.0


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give what is to be called with the number that is done.

    Args:
        what: The command that goes on, in one word.
        total: Number that will be done.
    """
    if not sys.stderr.isatty():
        yield _logged(what, total)
        return
    from rich.console import Console  # noqa: PLC0415 - loaded only when used
    from rich.progress import Progress  # noqa: PLC0415 - loaded only when used

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _logged(what: str, total: int) -> Callable[[int], None]:
    from rsfed.telemetry import configure_logs, log  # noqa: PLC0415 - loaded only when used

    configure_logs()
    last = time.monotonic()

    def progressed(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_EVERY_S:
            last = time.monotonic()
            log.info(f"{what}.progress", count=done, pending=total - done)

    return progressed
