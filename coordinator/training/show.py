"""How training runs look: tables on a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coordinator.training.records import Event, Run, RunCancelled

_MIB = 1 << 20
_UNCUT = 1000  # columns
_NO_CODEBOOK = (
    "this release has no codebook: nodes answer with it at `partner` alone; train again when nodes count "
    "held-out patches of more acquisitions"
)


class View(Protocol):
    """Where the events of a run are shown."""

    def add(self, *events: Event) -> None:
        """Show more events, those that came together in one step."""


@contextmanager
def view(run: int, *, as_json: bool) -> Iterator[View]:
    """Follow a run: NDJSON on standard output; or progress on standard error and a table at the end.

    Progress is that table as it grows on a terminal, drawn once for each step that brings events; elsewhere NDJSON.
    """
    if as_json:
        yield _Lines(run, sys.stdout)
        return
    table = _RunTable(run)
    try:
        if sys.stderr.isatty():
            with Live(table.render(), console=Console(stderr=True), transient=True, auto_refresh=False) as live:
                table.live = live
                yield table
        else:
            yield _Both(_Lines(run, sys.stderr), table)
    finally:
        _console().print(table.render())


def event_object(run: int, event: Event) -> dict[str, Any]:
    """Return an event as `--output json` prints it."""
    return {"run": run, "event": event.kind, "at": event.at.isoformat()} | event.data


def run_object(run: Run) -> dict[str, Any]:
    """Return a run as `--output json` prints it."""
    return {
        "run": run.id,
        "state": run.state,
        "rounds": run.rounds,
        "min_nodes": run.min_nodes,
        "requested": run.requested.isoformat(timespec="seconds"),
        "finished": run.finished and run.finished.isoformat(timespec="seconds"),
        "release_version": run.release_version,
        "error": run.error,
    }


def print_run(run: Run, events: Sequence[Event]) -> None:
    """Print how a run went."""
    table = _RunTable(run.id)
    table.add(*events)
    console = _console()
    console.print(f"run {run.id}: {run.words}, {run.rounds} rounds, asked for {run.requested:%Y-%m-%d %H:%M} UTC")
    console.print(table.render())


def _console() -> Console:
    """Return standard output; a table that goes to a file or pipe is not cut."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNCUT)


class _Lines:
    def __init__(self, run: int, stream: TextIO) -> None:
        self._run, self._stream = run, stream

    def add(self, *events: Event) -> None:
        for event in events:
            print(json.dumps(event_object(self._run, event)), file=self._stream, flush=True)


class _Both:
    def __init__(self, *views: View) -> None:
        self._views = views

    def add(self, *events: Event) -> None:
        for each in self._views:
            each.add(*events)


class _RunTable:
    """The rounds of a run, and below them what is going on."""

    def __init__(self, run: int) -> None:
        self._rows: dict[int, tuple[str, ...]] = {}  # by round: one may be done again after a crash
        self._refused: dict[str, str] = {}  # by node
        self._no_sums: dict[str, str] = {}  # by node
        self._said: dict[tuple[str, int], str] = {}  # what stays in sight, by kind of the event and round
        self._line = f"run {run} is queued"
        self._run = run
        self.live: Live | None = None

    def add(self, *events: Event) -> None:
        for event in events:
            self._take(event)
        if events and self.live is not None:
            self.live.update(self.render(), refresh=True)

    def _take(self, event: Event) -> None:
        data = event.data
        if event.kind == "round":
            self._rows[data["round"]] = _row(data)
            self._line = f"run {self._run}: round {data['round']} of {data['rounds']} done"
        elif event.kind == "waiting":
            self._line = f"round {data['round']} waits for nodes: {data['present']} of {data['needed']} are there"
        elif event.kind == "started":
            base = "fresh weights" if data["based_on"] is None else f"release {data['based_on']}"
            self._line = f"run {self._run} started from {base}{_memory(data)}"
        elif event.kind == "preflight":
            self._refused = {n: r for n, r in self._refused.items() if n not in data["nodes"]} | data["refused"]
            self._no_sums |= data.get("no_sums", {})
            self._line = f"{len(data['nodes'])} nodes take part from round {data['round']}"
        elif event.kind == "resumed":
            self._line = f"run {self._run} goes on after round {data['round']}"
        elif event.kind in _LINES:
            self._line = self._said[event.kind, data.get("round", 0)] = _LINES[event.kind](data)
        elif event.kind == "released":
            self._line = f"release {data['version']} published ({data['digest'][:16]})"
        elif data["reason"] == RunCancelled.reason:
            self._line = f"run {self._run} was cancelled"
        else:
            self._line = f"run {self._run} failed: {data['message']} [{data['reason']}]"

    def render(self) -> RenderableType:
        """Return the table as it is now."""
        table = Table()
        for column in ("round", "nodes", "missing", "loss", "sent MiB", "received MiB", "seconds"):
            table.add_column(column, overflow="fold")
        for row in self._rows.values():
            table.add_row(*map(Text, row))
        lines = [_no_part(node, reason) for node, reason in sorted(self._refused.items())]
        lines += [f"{node} gives no sums for the last layer: {why}" for node, why in sorted(self._no_sums.items())]
        lines += [line for line in self._said.values() if line != self._line]
        below = Text("\n".join([*lines, self._line]))
        return Group(table, below) if self._rows else below


def _no_part(node: str, reason: str) -> str:
    late = " (it did not answer in time: raise training.round_timeout_s)" if reason == "PREFLIGHT_LATE" else ""
    return f"{node} takes no part: {reason}{late}"


def _memory(data: dict[str, Any]) -> str:
    """Say which strategy averages and what it needs; runs of before there was a choice tell neither."""
    if "strategy" not in data:
        return ""
    need = f"{data['memory_bytes'] / _MIB:.0f} MiB of memory for {data['memory_nodes']} nodes"
    return f"; {data['strategy']} needs up to {need}"


def _solved(data: dict[str, Any]) -> str:
    where = f"after round {data['round']}" if data["round"] else "before the first round"
    missing = ", ".join(f"{node}: {reason}" for node, reason in sorted(data["failed"].items()))
    given = ", ".join(data["nodes"]) or "nobody"
    if data["solved"]:
        without = f"; without {missing}" if missing else ""
        return f"last layer solved for {where}, from {data['patches']} patches of {given}{without}"
    needed = f", {data['needed']} nodes are needed" if "needed" in data else ""
    return f"last layer not solved for {where}, it stays as it was: sums of {given}{needed} ({missing})"


def _calibrated(data: dict[str, Any]) -> str:
    if data["queries"] is not None:
        line = f"calibrated with {data['queries']} held-out patches of {len(data['nodes'])} nodes"
    else:
        reasons = ", ".join(sorted(set(data["failed"].values())))
        line = "not calibrated: too few pairs were counted" + (f" ({reasons})" if reasons else "")
    return line if data.get("cells", 1) else f"{line}\n{_NO_CODEBOOK}"  # runs of before there were cells do not tell


_LINES = {"solved": _solved, "calibrated": _calibrated}  # by kind of the event


def _row(data: dict[str, Any]) -> tuple[str, ...]:
    missing = [f"{node}: {reason}" for node, reason in sorted(data["failed"].items())]
    return (
        f"{data['round']}/{data['rounds']}",
        str(len(data["nodes"])),
        "\n".join(missing if data["counted"] else [*missing, "too few: not counted"]),
        "" if data["loss"] is None else f"{data['loss']:.4f}",
        f"{data['sent_bytes'] / _MIB:.2f}",
        f"{data['received_bytes'] / _MIB:.2f}",
        f"{data['seconds']:.1f}",
    )
