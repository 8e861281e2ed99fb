"""The ledger of answered queries: one row each, durable before the answer leaves.

It makes sure that a query id is answered once, and that handles can be resolved, by the right requester, for 90 days.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from node.handles import SALT_BYTES
from node.state import mark_audited, utc_text, writing_soon
from rsfed.errors import Busy, EnvelopeRefused
from rsfed.telemetry import log
from rsfed.trust.audit_log import Position
from rsfed.trust.envelope import VerifiedQuery

KEPT = timedelta(days=90)
_COLUMNS = "salt, requester, query_id, envelope_digest, release, created"


@dataclass(frozen=True, slots=True)
class Entry:
    """One answered query.

    Attributes:
        salt: What its handles are salted with, 8 bytes, unique.
        requester: SPIFFE id of who asked.
        query_id: Name of the query, 16 bytes, unique.
        envelope_digest: SHA-256 of the signed bytes, 32 bytes.
        release: Digest of the release that was searched, 32 bytes.
        created: When the query was answered.
    """

    salt: bytes
    requester: str
    query_id: bytes
    envelope_digest: bytes
    release: bytes
    created: datetime


class Ledger:
    """The ledger table; may be used from several threads.

    Args:
        connection: The node's database, used by nothing else meanwhile.
        restored_at: When the state came out of a backup, which does not know what was answered after it was made.
        audited: Returns how far the audit log is; noted with every query.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        restored_at: datetime | None = None,
        audited: Callable[[], Position] | None = None,
    ) -> None:
        self._connection = connection
        self._restored_at = restored_at
        self._audited = audited
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the database once no thread uses it; SQLite crashes when it is closed in the middle of a call."""
        with self._lock:
            self._connection.close()

    def record(self, query: VerifiedQuery, *, now: datetime) -> Entry:
        """Write a query down; it may be answered once this returns.

        Raises:
            EnvelopeRefused: REPLAY, the query id was answered before, or may have been before a restore.
            Busy: another process keeps the database.
        """
        if self._restored_at and query.envelope.created.ToDatetime(UTC) < self._restored_at:
            raise EnvelopeRefused("the query is older than this node's restored state; ask again", reason="REPLAY")
        salt, asked = secrets.token_bytes(SALT_BYTES), query.envelope
        row = (salt, query.requester.uri, asked.query_id, query.digest, asked.release_digest)
        with self._writing():
            if self._find("query_id", asked.query_id):
                raise EnvelopeRefused("this query was answered before; ask again with a new id", reason="REPLAY")
            self._connection.execute(
                f"INSERT INTO query_ledger ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - a fixed text
                (*row, utc_text(now)),
            )
            if self._audited is not None:
                mark_audited(self._connection, self._audited())
        return Entry(*row, now)

    def by_query(self, query_id: bytes, *, now: datetime) -> Entry | None:
        """Return the entry of a query, unless it is too old."""
        with self._lock:
            return _fresh(self._find("query_id", query_id), now)

    def by_salt(self, salt: bytes, *, now: datetime) -> Entry | None:
        """Return the entry of the query that handles of this salt belong to, unless it is too old."""
        with self._lock:
            return _fresh(self._find("salt", salt), now)

    def prune(self, *, now: datetime) -> None:
        """Delete what is too old; the queries themselves expired long before and cannot be replayed.

        What cannot be deleted now is deleted the next time: nobody can use it meanwhile.
        """
        try:
            with self._writing():
                self._connection.execute("DELETE FROM query_ledger WHERE created < ?", (utc_text(now - KEPT),))
        except (Busy, sqlite3.Error) as error:
            log.warning("ledger.not_pruned", error_type=type(error).__name__)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write as one transaction, soon or not at all."""
        with self._lock, writing_soon(self._connection):
            yield

    def _find(self, column: str, value: bytes) -> Entry | None:
        row = self._connection.execute(
            f"SELECT {_COLUMNS} FROM query_ledger WHERE {column} = ?",  # noqa: S608 - one of two fixed names
            (value,),
        ).fetchone()
        return None if row is None else _entry(row)


def _entry(row: tuple[bytes, str, bytes, bytes, bytes, str]) -> Entry:
    salt, requester, query, digest, release, created = row
    return Entry(salt, requester, query, digest, release, datetime.fromisoformat(created))


def _fresh(entry: Entry | None, now: datetime) -> Entry | None:
    return entry if entry and entry.created >= now - KEPT else None
