"""A plain, append-only record of what the federation did: who joined and left, what was released, who asked.

No code, handle, label or secret is written. The database refuses to change or delete a line.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coordinator.state import from_ms, to_ms


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the record."""

    number: int
    at: datetime
    kind: str  # for example "member.enrolled"
    subject: str  # whom or what it is about
    data: dict[str, Any]


def record(connection: sqlite3.Connection, now: datetime, kind: str, subject: str, **data: object) -> None:
    """Append one line, in the transaction of what it tells."""
    connection.execute(
        "INSERT INTO audit (at, kind, subject, data) VALUES (?, ?, ?, ?)",
        (to_ms(now), kind, subject, json.dumps(data, sort_keys=True)),
    )


def entries(connection: sqlite3.Connection, *, last: int | None = None, kind: str | None = None) -> list[Entry]:
    """Return the record, oldest line first; only lines of a `kind`, and only the newest `last` of them, when given."""
    rows = connection.execute(
        "SELECT * FROM audit WHERE kind = coalesce(?, kind) ORDER BY id DESC LIMIT ?",
        (kind, -1 if last is None else last),
    )
    found = [Entry(r["id"], from_ms(r["at"]), r["kind"], r["subject"], json.loads(r["data"])) for r in rows]
    return found[::-1]
