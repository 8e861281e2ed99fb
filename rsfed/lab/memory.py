"""How much memory a family of processes holds: proportional set size, which counts shared pages once."""

from __future__ import annotations

import threading
from collections import defaultdict
from types import TracebackType
from typing import Self

import psutil

_EVERY_S = 0.5


class MemoryMeter:
    """Samples this process and all its descendants in a thread while the context is open.

    Attributes:
        peak: Most bytes that all held at once.
        peaks: Most bytes that each process held, by process id.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.peaks: dict[int, int] = defaultdict(int)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-meter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        root = psutil.Process()
        while True:
            sizes = {process.pid: held_bytes(process) for process in [root, *root.children(recursive=True)]}
            self.peak = max(self.peak, sum(sizes.values()))
            for pid, size in sizes.items():
                self.peaks[pid] = max(self.peaks[pid], size)
            if self._stop.wait(_EVERY_S):
                return


def held_bytes(process: psutil.Process) -> int:
    """Return the proportional set size of a process, else its resident size; 0 when it is gone."""
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(info, "pss", info.rss))
