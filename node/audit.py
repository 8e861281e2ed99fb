"""What left this node and what its operator looked up, from the tables that note it: one list, in order of time.

Nothing is stored here. Answered queries are kept for 90 days, look-ups and training for good.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from node import ledger, resolve
from node.training import journal


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the record.

    Attributes:
        at: When the query was answered, the handle looked up, or the task came.
        kind: "query.answered", "handle.resolved" or "training.task".
        subject: Who asked, who looked up, or which run.
        data: What, as docs/output.md tells.
    """

    at: datetime
    kind: str
    subject: str
    data: dict[str, Any]


def entries(connection: sqlite3.Connection, *, last: int) -> list[Entry]:
    """Return the newest `last` lines, at least one, the oldest of them first."""
    answered = map(_answered, ledger.newest(connection, last))
    looked_up = map(_looked_up, resolve.look_ups(connection, last))
    trained = map(_trained, journal.entries(connection, last))
    return merge((looked_up, trained, answered), last=last)


def merge(sources: Iterable[Iterable[Entry]], *, last: int) -> list[Entry]:
    """Return the newest entries of all sources, the oldest first.

    Args:
        sources: Entries, the newest first; of each its `last` newest are enough. Of one moment, those of an earlier
            source count as newer: a look-up comes after the answer.
        last: How many to return, at least 1.
    """
    newest_first = sorted(chain.from_iterable(sources), key=lambda entry: entry.at, reverse=True)
    return newest_first[:last][::-1]


def _answered(query: ledger.Entry) -> Entry:
    data = {"query": query.query_id.hex(), "release": query.release.hex()}
    return Entry(query.created, "query.answered", query.requester, data)


def _looked_up(note: resolve.LookUp) -> Entry:
    data = {"handle": note.handle.hex(), "requester": note.requester, "query": note.query_id.hex()}
    return Entry(note.at, "handle.resolved", note.operator, data)


def _trained(task: journal.Entry) -> Entry:
    data = {
        "run": task.run,
        "round": task.round,
        "task": task.kind,
        "state": task.state,
        "received_bytes": task.received_bytes,
        "sent_bytes": task.sent_bytes,
        "seconds": task.seconds,
        "loss": task.loss,
        "objective": task.objective,
        "steps": task.steps,
        "sent_digest": task.sent_digest,
    }
    return Entry(task.time, "training.task", f"run {task.run}", data)
