"""What `make bench-index` measured: times, its table, its last line and its picture."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from rsfed.lab.charts import Line, line_chart

_COLOURS = ("#1f6fb4", "#c2571a", "#555555")
Times = NDArray[np.float64]


@dataclass
class Report:
    """What was measured.

    Attributes:
        figures: By name, for the last line.
        lines: The table.
        exact: Whether every answer that was compared was right.
        growth: Mean time of a query by power of 10, for each kind of codes.
        shared: Whether others use the machine too, so that a query counts its thread's own time.
    """

    shared: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    exact: bool = True
    growth: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Add a line and print it."""
        self.lines.append(text)
        print(text, flush=True)

    def row(self, what: str, times: Times) -> None:
        """Add a line of times in milliseconds."""
        self.say(f"{what:<52} mean {times.mean():9.4f}  p50 {np.median(times):9.4f}  p99 {p99(times):9.4f} ms")

    def compare(self, what: str, *, same: bool) -> None:
        """Remember whether answers were right."""
        self.exact &= same
        if not same:
            self.say(f"WRONG: {what}")


def p99(times: Times) -> float:
    """Return the 99th percentile."""
    return float(np.quantile(times, 0.99))


def timed(call: Callable[..., Any], *arguments: Iterable[Any], shared: bool = False) -> tuple[Times, list[Any]]:
    """Return how long a call took with each argument, in milliseconds, and what it gave.

    Args:
        call: What is timed.
        arguments: For each parameter its values, one after the other.
        shared: Count the thread's own time, because others use the machine too; not for what waits for a disk.
    """
    clock = time.thread_time if shared else time.perf_counter
    times, results = [], []
    for values in zip(*arguments, strict=True):
        started = clock()
        results.append(call(*values))
        times.append((clock() - started) * 1e3)
    return np.array(times), results


def machine() -> str:
    """Say what this is measured on, and how busy that was before."""
    models = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "faiss-cpu"))
    return (
        f"{models[0].split(':')[1].strip() if models else platform.machine()}, {os.cpu_count()} cores (one is used), "
        f"{memory:.0f} GiB, {platform.system()}, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {versions}"
    )


def picture(growth: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw how the cost of a query grows, as a file of its own."""
    lines = [
        Line(name, f"line-{number}", [(power, np.log10(1000 * ms)) for power, ms in points])
        for number, (name, points) in enumerate(growth.items())
    ]
    drawn = str(
        line_chart(
            lines,
            title="One query",
            x_label="codes, as a power of 10",
            y_label="microseconds, as a power of 10",
        )
    )
    names = "".join(
        f'<text x="90" y="{34 + 16 * number}" style="fill:{colour}">{name}</text>'
        for number, (name, colour) in enumerate(zip(growth, _COLOURS, strict=False))
    )
    rules = "".join(
        f".line-{number}{{stroke:{colour};fill:{colour}}}polyline.line-{number}{{fill:none}}"
        for number, colour in enumerate(_COLOURS)
    )
    style = f"<style>text{{font:12px sans-serif}}line{{stroke:#ccc}}{rules}</style>"
    head, rest = drawn.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1).split(">", 1)
    return f"{head}>{style}{rest.replace('</svg>', names + '</svg>')}\n"


def last_line(figures: Mapping[str, float], *, exact: bool) -> str:
    """Return all figures as one line of JSON."""
    return json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()} | {"exact": exact})
