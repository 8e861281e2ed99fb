"""What the demo says while it runs: on standard error, a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Narrator:
    """Tells steps and takes their time.

    Attributes:
        phases: Seconds of each step that is done, in order.
    """

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Tell that a step goes on, and how long it took once it is done."""
        start = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"{name} ...")
            yield
        else:
            with self._console.status(name):
                yield
        self.phases[name] = time.monotonic() - start
        self._console.print(f"[bold]{name}[/bold]: {self.phases[name]:.1f} s")

    def say(self, line: str) -> None:
        """Tell one thing."""
        self._console.print(line, markup=False)
