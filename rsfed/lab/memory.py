"""How much memory a family of processes holds: proportional set size, which counts shared pages once."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from types import TracebackType
from typing import Self

import psutil

_EVERY_S = 1.0
_SHARE = 0.03  # of a core that the meter may take: the kernel walks every page table of every process


class MemoryMeter:
    """Samples this process and all its descendants in a thread while the context is open.

    Attributes:
        peak: Most bytes that all held at once.
        peaks: Most bytes that each child of this process held together with its descendants, by process id; this
            process itself is there, too, without them.
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
        while True:
            start = time.monotonic()
            self._sample()
            if self._stop.wait(max(_EVERY_S, (time.monotonic() - start) / _SHARE)):
                return

    def _sample(self) -> None:
        root = psutil.Process()
        sizes = {child.pid: sum(map(held_bytes, family(child))) for child in root.children()}
        sizes[root.pid] = held_bytes(root)
        self.peak = max(self.peak, sum(sizes.values()))
        for pid, size in sizes.items():
            self.peaks[pid] = max(self.peaks[pid], size)


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants; none when it is gone."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def held_bytes(process: psutil.Process) -> int:
    """Return the proportional set size of a process, else its resident size; 0 when it is gone."""
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(info, "pss", info.rss))
