"""Requests for found items as the node's database has them: who asks for what and why, and what became of it.

Every function works inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum

from node.state import utc_text
from rsfed.errors import AccessRefused, Busy, EnvelopeRefused, UnknownHandle

WAITING = timedelta(days=14)  # that a request waits for its answer
COLLECTABLE = timedelta(days=7)  # that what was approved can be collected: less than certificates live once approved
KEPT = timedelta(days=90)  # after the end of a request
MAX_OPEN_OF_ONE = 50  # requests of one requester that wait for an answer
MAX_OPEN = 1000
MAX_REASON = 500  # characters


class State(StrEnum):
    """What became of a request."""

    OPEN = "open"
    APPROVED = "approved"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"  # never stored: follows from the time


class Want(StrEnum):
    """What of an item is wanted."""

    QUICKLOOK = "quicklook"
    CROP = "crop"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """One request.

    Attributes:
        id: Chosen by who asks, 16 bytes.
        requester: SPIFFE id of who asks.
        serial: Of the certificate that it was signed with, hexadecimal.
        query_digest: Of the envelope of the query that found the item, 32 bytes.
        handle: Under which it was found, 16 bytes.
        item: Id of the patch.
        modality: Its modality.
        want: What of it is wanted.
        reason: Why, in the requester's words.
        asked: When.
        expires: When it ends, unless it was answered; then, when what was approved can no longer be collected.
        state: What became of it, but for its end.
        answered: When the operator answered.
        operator: User of the operating system who did.
        note: What the operator says to a denial.
        sealed_size: Bytes of what was approved, as it travels.
        sealed_digest: SHA-256 of it, 32 bytes.
        collected: When it left last.
    """

    id: bytes
    requester: str
    serial: str
    query_digest: bytes
    handle: bytes
    item: int
    modality: str
    want: Want
    reason: str
    asked: datetime
    expires: datetime
    state: State = State.OPEN
    answered: datetime | None = None
    operator: str | None = None
    note: str = ""
    sealed_size: int | None = None
    sealed_digest: bytes | None = None
    collected: datetime | None = None

    def state_at(self, now: datetime) -> State:
        """Return what became of it until now."""
        ends = self.state in {State.OPEN, State.APPROVED}
        return State.EXPIRED if ends and self.expires <= now else self.state

    def require(self, state: State, now: datetime) -> None:
        """Check what became of it.

        Raises:
            AccessRefused: ACCESS_OPEN, ACCESS_APPROVED, ACCESS_DENIED, ACCESS_WITHDRAWN or ACCESS_EXPIRED.
        """
        found = self.state_at(now)
        if found is not state:
            raise AccessRefused(_WORDS[found][0], reason=_WORDS[found][1])


_WORDS = {
    State.OPEN: ("the request waits for the archive's operator; look again later", "ACCESS_OPEN"),
    State.APPROVED: ("the request was approved already; `deny` takes that back", "ACCESS_APPROVED"),
    State.DENIED: ("the request was denied; an answer stands", "ACCESS_DENIED"),
    State.WITHDRAWN: ("the request was withdrawn; ask anew if it is still wanted", "ACCESS_WITHDRAWN"),
    State.EXPIRED: ("the request has expired; ask anew if it is still wanted", "ACCESS_EXPIRED"),
}
_NAMES = [field.name for field in fields(AccessRequest)]
_TIMES = {"asked", "expires", "answered", "collected"}
_SELECT = f"SELECT {', '.join(_NAMES)} FROM access_request"  # noqa: S608 - fixed names


def take_call(connection: sqlite3.Connection, call_id: bytes, expires: datetime, now: datetime) -> None:
    """Note a call, so that it is taken once.

    Raises:
        EnvelopeRefused: REPLAY, it was taken before.
    """
    connection.execute("DELETE FROM access_call WHERE expires < ?", (utc_text(now),))
    row = (call_id, utc_text(expires))
    if connection.execute("INSERT OR IGNORE INTO access_call VALUES (?, ?)", row).rowcount != 1:
        raise EnvelopeRefused("this call was answered before; ask again with a new one", reason="REPLAY")


def add(connection: sqlite3.Connection, request: AccessRequest, now: datetime) -> None:
    """Take a request.

    Raises:
        EnvelopeRefused: REPLAY, there was one of this id.
        Busy: TOO_MANY_REQUESTS wait for an answer.
    """
    if _found(connection, request.id) is not None:
        raise EnvelopeRefused("this request was made before; ask again with a new one", reason="REPLAY")
    waiting = "SELECT count(*), count(*) FILTER (WHERE requester = ?) FROM access_request WHERE state = 'open'"
    in_all, own = connection.execute(f"{waiting} AND expires > ?", (request.requester, utc_text(now))).fetchone()
    if own >= MAX_OPEN_OF_ONE or in_all >= MAX_OPEN:
        raise Busy("too many requests wait for this archive's operator; ask again later", reason="TOO_MANY_REQUESTS")
    marks = ", ".join("?" * len(_NAMES))
    connection.execute(
        f"INSERT INTO access_request ({', '.join(_NAMES)}) VALUES ({marks})",  # noqa: S608 - fixed names
        [_to_column(getattr(request, name)) for name in _NAMES],
    )


def count_waiting(connection: sqlite3.Connection, now: datetime) -> int:
    """Return how many requests wait for the operator's answer."""
    query = "SELECT count(*) FROM access_request WHERE state = 'open' AND expires > ?"
    return int(connection.execute(query, (utc_text(now),)).fetchone()[0])


def get(connection: sqlite3.Connection, request_id: bytes, requester: str | None = None) -> AccessRequest:
    """Return a request.

    Args:
        connection: The node's database.
        request_id: Its id.
        requester: Whose it must be; None for the operator, who sees all.

    Raises:
        UnknownHandle: UNKNOWN_REQUEST, there is no such request of this requester.
    """
    found = _found(connection, request_id)
    if found is None or requester not in {None, found.requester}:
        raise UnknownHandle("this archive has no such request of yours", reason="UNKNOWN_REQUEST")
    return found


def matching(connection: sqlite3.Connection, beginning: str) -> list[AccessRequest]:
    """Return the requests whose id starts with these hexadecimal digits, the oldest first."""
    like = f"{_SELECT} WHERE substr(lower(hex(id)), 1, ?) = ? ORDER BY asked, id"
    rows = connection.execute(like, (len(beginning), beginning.lower()))
    return [_of_row(row) for row in rows]


def change(connection: sqlite3.Connection, request_id: bytes, **values: object) -> None:
    """Change columns of a request."""
    assignments = ", ".join(f"{name} = ?" for name in values)
    connection.execute(
        f"UPDATE access_request SET {assignments} WHERE id = ?",  # noqa: S608 - names of our own code
        [*map(_to_column, values.values()), request_id],
    )


def forget_old(connection: sqlite3.Connection, now: datetime) -> None:
    """Delete requests that ended long ago."""
    connection.execute("DELETE FROM access_request WHERE expires < ?", (utc_text(now - KEPT),))


def _found(connection: sqlite3.Connection, request_id: bytes) -> AccessRequest | None:
    row = connection.execute(f"{_SELECT} WHERE id = ?", (request_id,)).fetchone()
    return None if row is None else _of_row(row)


def _of_row(row: sqlite3.Row | tuple[object, ...]) -> AccessRequest:
    values = dict(zip(_NAMES, row, strict=True))
    for name in _TIMES:
        values[name] = datetime.fromisoformat(str(values[name])) if values[name] else None
    values["want"], values["state"] = Want(str(values["want"])), State(str(values["state"]))
    return AccessRequest(**values)


def _to_column(value: object) -> object:
    return utc_text(value) if isinstance(value, datetime) else value
