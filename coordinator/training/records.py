"""Training runs in the coordinator's database: what was asked for, what happened, how it ended."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from coordinator.state import State, from_ms, to_ms
from rsfed.errors import TrainingError, UsageError

RunState = Literal["queued", "running", "publishing", "done", "failed"]
Data = dict[str, Any]
MOST_RESUMED = 10  # times that a run goes on without a round done between
OPEN: tuple[RunState, ...] = ("queued", "running", "publishing")


class RunCancelled(TrainingError):
    """The operator cancelled the run; it ends without a release."""

    reason = "RUN_CANCELLED"

    def __init__(self) -> None:
        super().__init__("the run was cancelled")


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        id: Its number.
        state: "queued", "running", "publishing" (its release; it can no longer be cancelled), "done" or "failed".
        rounds: Rounds that were asked for.
        min_nodes: Nodes that every round needs.
        requested: When it was asked for.
        finished: When it ended; None before.
        release_version: Version of the release that it published; None where it published none.
        error: Why it failed, with its reason; None otherwise.
    """

    id: int
    state: RunState
    rounds: int
    min_nodes: int
    requested: datetime
    finished: datetime | None
    release_version: int | None
    error: str | None

    @property
    def words(self) -> str:
        """The state as people read it: a run that was cancelled did not fail."""
        return "cancelled" if self.error == _error(RunCancelled.reason, RunCancelled().public) else self.state


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run.

    Attributes:
        id: Number, rising.
        kind: "started", "resumed", "preflight", "waiting", "solved", "round", "calibrated", "released" or "failed".
        at: When.
        data: What, as `rsfed coordinator train --help` tells.
    """

    id: int
    kind: str
    at: datetime
    data: Data


def request_run(state: State, rounds: int, min_nodes: int, now: datetime) -> int:
    """Queue a run and return its number."""
    with state.writing() as connection:
        row = connection.execute(
            "INSERT INTO run (state, rounds, options, requested) VALUES ('queued', ?, ?, ?) RETURNING id",
            (rounds, json.dumps({"min_nodes": min_nodes}), to_ms(now)),
        ).fetchone()
        return int(row["id"])


def claim_next(state: State) -> Run | None:
    """Take the oldest run that has not ended, if there is one: one that was interrupted goes on, before any other."""
    oldest = "SELECT id FROM run WHERE state IN ('queued', 'running', 'publishing') ORDER BY id LIMIT 1"
    with state.reading() as connection:  # usually there is none, and looking must not wait for whoever writes
        if connection.execute(oldest).fetchone() is None:
            return None
    with state.writing() as connection:
        connection.execute(f"UPDATE run SET state = 'running' WHERE id = ({oldest}) AND state = 'queued'")  # noqa: S608 - a constant
        row = connection.execute(f"SELECT * FROM run WHERE id = ({oldest})").fetchone()  # noqa: S608 - a constant
    return None if row is None else _run(row)


def add_event(state: State, run: int, kind: str, data: Data, now: datetime) -> None:
    """Note what happened in a run.

    Raises:
        RunCancelled: it has ended already; nothing may follow the end.
    """
    with state.writing() as connection:
        append_event(connection, run, kind, data, now)


def append_event(connection: sqlite3.Connection, run: int, kind: str, data: Data, now: datetime) -> None:
    """Note what happened in a run, within a transaction.

    Raises:
        RunCancelled: it has ended already.
    """
    row = connection.execute("SELECT state FROM run WHERE id = ?", (run,)).fetchone()
    if row is None or row["state"] not in OPEN:
        raise RunCancelled
    _add_event(connection, run, kind, data, now)


def begin_publishing(state: State, run: int) -> None:
    """Note that a run publishes its release; from now on it cannot be cancelled.

    Raises:
        RunCancelled: it was cancelled before.
    """
    with state.writing() as connection:
        connection.execute("UPDATE run SET state = 'publishing' WHERE id = ? AND state = 'running'", (run,))
        if get_run(state, run).state != "publishing":
            raise RunCancelled


def finish(state: State, run: int, version: int, digest: bytes, now: datetime) -> None:
    """Note that a run published a release."""
    with state.writing() as connection:
        _add_event(connection, run, "released", {"version": version, "digest": digest.hex()}, now)
        connection.execute(
            "UPDATE run SET state = 'done', finished = ?, release_version = ? WHERE id = ?", (to_ms(now), version, run)
        )


def fail(state: State, run: int, reason: str, message: str, now: datetime) -> None:
    """Note that a run failed, unless it has ended already."""
    with state.writing() as connection:
        if get_run(state, run).state in OPEN:
            _fail(connection, run, reason, message, now)


def cancel(state: State, run: int, now: datetime) -> None:
    """End a run at once as failed: by this alone it publishes nothing, whether or not `serve` runs and is told.

    Raises:
        UsageError: RUN_ENDED, it has ended or is being published; or UNKNOWN_RUN.
    """
    with state.writing() as connection:
        found = get_run(state, run)
        if found.state not in {"queued", "running"}:
            raise UsageError(_ending(found), reason="RUN_ENDED")
        _fail(connection, run, RunCancelled.reason, RunCancelled().public, now)


def get_run(state: State, run: int) -> Run:
    """Return a run.

    Raises:
        UsageError: there is no such run.
    """
    with state.reading() as connection:
        row = connection.execute("SELECT * FROM run WHERE id = ?", (run,)).fetchone()
    if row is None:
        raise UsageError(f"there is no run {run}; `rsfed coordinator runs list` shows all", reason="UNKNOWN_RUN")
    return _run(row)


def list_runs(state: State) -> list[Run]:
    """Return all runs, the newest first."""
    with state.reading() as connection:
        return [_run(row) for row in connection.execute("SELECT * FROM run ORDER BY id DESC").fetchall()]


def events(state: State, run: int, *, after: int = 0) -> list[Event]:
    """Return what happened in a run, in order, from behind the event with number `after`."""
    with state.reading() as connection:
        rows = connection.execute(
            "SELECT id, kind, at, data FROM run_event WHERE run = ? AND id > ? ORDER BY id", (run, after)
        ).fetchall()
    return [Event(row["id"], row["kind"], from_ms(row["at"]), json.loads(row["data"])) for row in rows]


def rounds_until(state: State, run: int, last: int) -> list[Data]:
    """Return what the events of the rounds until `last` said, by rising round; of one that was done again, the last."""
    told = {event.data["round"]: event.data for event in events(state, run) if event.kind == "round"}
    return [told[number] for number in sorted(told) if number <= last]


def nodes_met(state: State, run: int) -> set[str]:
    """Return the names of the nodes that were there when a run began, and of those that took part by its events."""
    told = [event.data for event in events(state, run) if event.kind in {"started", "preflight"}]
    return {name for data in told for name in data.get("nodes", ())}


def check_resumable(state: State, run: int) -> None:
    """Give a run up that ends the coordinator again and again, for example because memory does not do.

    Raises:
        TrainingError: RUN_STUCK.
    """
    kinds = [event.kind for event in events(state, run)]
    since = kinds[len(kinds) - kinds[::-1].index("round") :] if "round" in kinds else kinds
    if since.count("resumed") >= MOST_RESUMED:
        raise TrainingError(
            f"the coordinator ended {MOST_RESUMED} times in the same round of this run; its log and that of the system "
            "say why",
            reason="RUN_STUCK",
        )


def _add_event(connection: sqlite3.Connection, run: int, kind: str, data: Data, now: datetime) -> None:
    connection.execute(
        "INSERT INTO run_event (run, at, kind, data) VALUES (?, ?, ?, ?)", (run, to_ms(now), kind, json.dumps(data))
    )


def _fail(connection: sqlite3.Connection, run: int, reason: str, message: str, now: datetime) -> None:
    _add_event(connection, run, "failed", {"reason": reason, "message": message}, now)
    connection.execute(
        "UPDATE run SET state = 'failed', finished = ?, error = ? WHERE id = ?",
        (to_ms(now), _error(reason, message), run),
    )


def _error(reason: str, message: str) -> str:
    return f"{message} [{reason}]"


def _ending(run: Run) -> str:
    """Say how a run ended or ends that can no longer be cancelled."""
    if run.state == "publishing":
        return f"run {run.id} is publishing its release just now; it can no longer be cancelled"
    if run.words == "cancelled":
        return f"run {run.id} was cancelled already"
    how = f"published release {run.release_version}" if run.state == "done" else f"failed: {run.error}"
    return f"run {run.id} has ended already: it {how}"


def _run(row: sqlite3.Row) -> Run:
    return Run(
        id=row["id"],
        state=row["state"],
        rounds=row["rounds"],
        min_nodes=json.loads(row["options"])["min_nodes"],
        requested=from_ms(row["requested"]),
        finished=None if row["finished"] is None else from_ms(row["finished"]),
        release_version=row["release_version"],
        error=row["error"],
    )
