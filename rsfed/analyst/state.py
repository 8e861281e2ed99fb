"""What an analyst's home remembers: where a handle came from and what its node claimed, and what was asked for."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from rsfed.errors import UnknownHandle, UsageError
from rsfed.home import Home, open_database, transaction

_HANDLE = re.compile(r"[0-9a-fA-F]{32}")
KEPT = timedelta(days=90)  # nodes know handles no longer
_SCHEMA_1 = """
CREATE TABLE found (               -- items that queries found
  handle BLOB PRIMARY KEY,         -- 16 bytes
  node TEXT NOT NULL,
  query_id BLOB NOT NULL,          -- 16 bytes
  at TEXT NOT NULL                 -- ISO 8601, UTC
) STRICT, WITHOUT ROWID;
CREATE INDEX found_by_age ON found (at);

CREATE TABLE request (             -- what was asked for
  id BLOB PRIMARY KEY,             -- 16 bytes
  node TEXT NOT NULL,
  handle BLOB NOT NULL,
  want TEXT NOT NULL,
  reason TEXT NOT NULL,
  asked TEXT NOT NULL,             -- ISO 8601, UTC
  state TEXT NOT NULL,             -- as the node said last
  expires TEXT,
  note TEXT NOT NULL,              -- what its operator said to a denial
  file TEXT                        -- where it was put, once it was collected
) STRICT, WITHOUT ROWID;
"""
_SCHEMA_2 = """
ALTER TABLE found ADD COLUMN claim TEXT NOT NULL DEFAULT '';  -- what its node said of it: rsfed.analyst.claims.Claim
ALTER TABLE request ADD COLUMN claim TEXT;  -- what the image that came says of that: rsfed.analyst.claims.Verdict
"""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a handle came from, and what its node said of the item; "" where that is not known."""

    handle: bytes
    node: str
    query_id: bytes
    claim: str = ""


class Result(Protocol):
    """Something that a node found."""

    def found(self) -> list[Found]:
        """Return where its handles came from."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, and what became of it as far as is known here.

    Attributes:
        id: Name of the request, 16 bytes.
        node: Who holds the item.
        handle: The item, 16 bytes.
        want: What of it: quicklook, crop or file.
        reason: Why.
        asked: When.
        state: What became of it: open, approved, denied, withdrawn, expired; `unsent` where no answer came.
        expires: When it ends, or can no longer be collected.
        note: What the operator says to a denial.
        file: Where it was put, once it was collected.
        claim: What the image that came says of the node's claim; None before.
    """

    id: bytes
    node: str
    handle: bytes
    want: str
    reason: str
    asked: datetime
    state: str = "unsent"
    expires: datetime | None = None
    note: str = ""
    file: str | None = None
    claim: str | None = None


_NAMES = [field.name for field in fields(Asked)]


def open_state(home: Home) -> sqlite3.Connection:
    """Open the analyst's database and bring its schema up to date.

    Raises:
        StateError: the file is newer than this software, damaged, or on a network file system.
    """
    return open_database(home.database, (_SCHEMA_1, _SCHEMA_2))


def keep_found(connection: sqlite3.Connection, results: Iterable[Result], *, now: datetime) -> None:
    """Keep where the handles of results came from, and forget those that mean nothing any more."""
    found = [each for result in results for each in result.found()]
    rows = [(each.handle, each.node, each.query_id, _text(now), each.claim) for each in found]
    with transaction(connection):
        connection.execute("DELETE FROM found WHERE at < ?", (_text(now - KEPT),))
        connection.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?, ?)", rows)


def find(connection: sqlite3.Connection, text: str) -> Found:
    """Return where a handle came from.

    Args:
        connection: The analyst's database.
        text: The handle, 32 hexadecimal digits.

    Raises:
        UsageError: the text is no handle.
        UnknownHandle: no query of this home found it in the last 90 days.
    """
    if not _HANDLE.fullmatch(text):
        raise UsageError("a handle has 32 hexadecimal digits", detail=text)
    query = "SELECT handle, node, query_id, claim FROM found WHERE handle = ?"
    row = connection.execute(query, (bytes.fromhex(text),)).fetchone()
    if row is None:
        raise UnknownHandle(
            "no `rsfed query` of this home found this handle in the last 90 days; search again, or name the --home that"
            " did"
        )
    return Found(*row)


def put(connection: sqlite3.Connection, asked: Asked) -> None:
    """Keep what is known of a request."""
    marks = ", ".join("?" * len(_NAMES))
    row = [_column(getattr(asked, name)) for name in _NAMES]
    statement = f"INSERT OR REPLACE INTO request ({', '.join(_NAMES)}) VALUES ({marks})"  # noqa: S608 - fixed names
    with transaction(connection):
        connection.execute(statement, row)


def all_asked(connection: sqlite3.Connection) -> list[Asked]:
    """Return all requests, the oldest first."""
    rows = connection.execute(f"SELECT {', '.join(_NAMES)} FROM request ORDER BY asked, id")  # noqa: S608 - fixed names
    return [_asked(row) for row in rows]


def chosen(connection: sqlite3.Connection, beginnings: Sequence[str]) -> list[Asked]:
    """Return the requests whose ids begin so.

    Raises:
        UnknownHandle: UNKNOWN_REQUEST, none begins so, or several do.
    """
    found = []
    for beginning in beginnings:
        fitting = [each for each in all_asked(connection) if beginning and each.id.hex().startswith(beginning.lower())]
        if len(fitting) != 1:
            raise UnknownHandle(
                f"{len(fitting) or 'no'} requests of this home begin so; see `rsfed access list`",
                reason="UNKNOWN_REQUEST",
                detail=beginning,
            )
        found += fitting
    return found


def distrusted(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the nodes that claimed of an item what its image does not bear out."""
    return frozenset(node for (node,) in connection.execute("SELECT node FROM request WHERE claim = 'broken'"))


def forgive(connection: sqlite3.Connection, node: str) -> bool:
    """Believe a node again; return whether it was not believed."""
    with transaction(connection):
        changed = connection.execute(
            "UPDATE request SET claim = 'forgiven' WHERE node = ? AND claim = 'broken'", (node,)
        )
    return changed.rowcount > 0


def _asked(row: Sequence[object]) -> Asked:
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    for name in ("asked", "expires"):
        values[name] = datetime.fromisoformat(str(values[name])) if values[name] else None
    return Asked(**values)


def _column(value: object) -> object:
    return _text(value) if isinstance(value, datetime) else value


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
