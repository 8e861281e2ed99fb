"""What the coordinator asked of this node, and what the node sent: one row for each task, for its operator."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime

from rsfed.clock import Now, utc_now
from rsfed.errors import InvalidMessage
from rsfed.hashing.payload import Payload
from rsfed.hashing.plan import CONFIG, PLAN, SUMS, TRAIN, parse_plan

WORKING, DONE, INTERRUPTED = "working", "done", "INTERRUPTED"
_RUNS = 1 << 64  # numbers of runs: the stock Flower engine takes them from all of uint64, SQLite has int64


@dataclass(frozen=True, slots=True)
class Entry:
    """One task.

    Attributes:
        run: Number of the run.
        round: Round of the run.
        kind: Kind of the task, for example "train".
        received_bytes: Size of the task.
        sent_bytes: What was sent of its result.
        seconds: From the task's arrival to the end.
        loss: Mean loss of the node's training, as it was told; None where it was not.
        state: "working", "done", or the closed reason why there is no result.
        time: When it came.
        objective: What the plan trains; None where the task had no plan.
        steps: Optimiser steps that the plan asks for in a round.
        sent_digest: SHA-256 of the result, in hexadecimal; None where none was sent whole.
    """

    run: int
    round: int
    kind: str
    received_bytes: int
    sent_bytes: int
    seconds: float
    loss: float | None
    state: str
    time: datetime
    objective: str | None
    steps: int | None
    sent_digest: str | None


def begin(  # noqa: PLR0913 - the columns of one row
    connection: sqlite3.Connection,
    run: int,
    round_: int,
    kind: str,
    size: int,
    *,
    objective: str | None = None,
    steps: int | None = None,
    now: Now = utc_now,
) -> int:
    """Note that a task came and return the number of its row."""
    row = connection.execute(
        "INSERT INTO training_log "
        "(run, round, kind, received_bytes, sent_bytes, seconds, loss, state, time, objective, steps) "
        "VALUES (?, ?, ?, ?, 0, 0, NULL, ?, ?, ?, ?) RETURNING id",
        (_signed(run), round_, kind, size, WORKING, now().astimezone(UTC).isoformat(), objective, steps),
    ).fetchone()
    return int(row[0])


def end(  # noqa: PLR0913 - the columns of one row
    connection: sqlite3.Connection,
    row: int,
    *,
    state: str,
    sent: int,
    seconds: float,
    loss: float | None,
    sent_digest: str | None = None,
) -> None:
    """Note how a task ended."""
    connection.execute(
        "UPDATE training_log SET state = ?, sent_bytes = ?, seconds = ?, loss = ?, sent_digest = ? WHERE id = ?",
        (state, sent, seconds, loss, sent_digest, row),
    )


def close_interrupted(connection: sqlite3.Connection) -> None:
    """Mark what an earlier process was still working on when it ended."""
    connection.execute("UPDATE training_log SET state = ? WHERE state = ?", (INTERRUPTED, WORKING))


def rounds_since(connection: sqlite3.Connection, moment: datetime) -> int:
    """Return how many rounds of training sent anything of a result after a moment; sums count as a round.

    Also where the coordinator says that it did not take the result: it may have read it all.
    """
    row = connection.execute(
        "SELECT count(*) FROM training_log WHERE kind IN (?, ?) AND (state = ? OR sent_bytes > 0) AND time > ?",
        (TRAIN, SUMS, DONE, moment.astimezone(UTC).isoformat()),
    ).fetchone()
    return int(row[0])


def entries(connection: sqlite3.Connection, limit: int) -> list[Entry]:
    """Return the last tasks, the newest first."""
    rows = connection.execute(
        "SELECT run, round, kind, received_bytes, sent_bytes, seconds, loss, state, time, objective, steps, "
        "sent_digest FROM training_log ORDER BY id DESC LIMIT ?",
        (limit,),
    )
    return [
        Entry(
            run % _RUNS,
            round_,
            kind,
            received,
            sent,
            seconds,
            loss,
            state,
            datetime.fromisoformat(time),
            *plan_and_digest,
        )
        for run, round_, kind, received, sent, seconds, loss, state, time, *plan_and_digest in rows
    ]


def knows(connection: sqlite3.Connection, run: int) -> bool:
    """Say whether a run ever asked this node for anything."""
    found = connection.execute("SELECT 1 FROM training_log WHERE run = ? LIMIT 1", (_signed(run),)).fetchone()
    return found is not None


def asked(task: Payload) -> tuple[str | None, int | None]:
    """Return the objective of a task's plan and its steps in a round, for the operator to read."""
    try:
        plan = parse_plan(task.configs.get(CONFIG, {}).get(PLAN))
    except InvalidMessage:
        return None, None
    return plan.objective.name, plan.local_steps


def _signed(run: int) -> int:
    return run if run < _RUNS // 2 else run - _RUNS
