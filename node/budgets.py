"""What refine spent on each item of the archive, kept in the node's database and in its audit log.

A query is charged before it is answered: one record and the counters of its items in one transaction, then an entry in
the audit log. Nothing gives a charge back. An item is known by its content, so what was withdrawn and comes back keeps
what it spent. Who replaces the database by an older one, or by none, is found out by the log when `serve` starts; from
then on nothing is refined under the release. So it is where the log was begun anew since the release was made.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from node.auditing import Kind, name_digest
from node.spending import spending_lost
from node.state import utc_text, writing_soon
from rsfed.errors import StateError
from rsfed.privacy.budgets import MOST_ITEMS, Budget, Spent, listed, payable
from rsfed.trust.audit_log import read_entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from node.accounting import Note
    from node.bucketed import Rows
    from rsfed.clock import Now
    from rsfed.codes import Ids
    from rsfed.home import Home
    from rsfed.trust.envelope import VerifiedQuery
    from rsfed.trust.release_store import Release

_MARK = f'"{Kind.REFINE_CHARGED}"'.encode()
_SPENT = """
SELECT sum(own) FILTER (WHERE requester = ?), count(*) FILTER (WHERE own > 0), sum(common) FROM json_each(?)
LEFT JOIN refine_spent ON release = ? AND content = value GROUP BY key ORDER BY key
"""
_SPEND = """
INSERT INTO refine_spent VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET own = own + excluded.own, common = common + excluded.common
"""


class Budgets:
    """Charges queries; may be used from several threads.

    Args:
        home: The node's home, with its audit log.
        connection: The node's database, used by nothing else meanwhile.
        budget: Of each item under a release.
        note: Writes into the audit log.
        now: Wall clock.
    """

    def __init__(self, home: Home, connection: sqlite3.Connection, budget: Budget, *, note: Note, now: Now) -> None:
        self._home = home
        self._connection = connection
        self._budget = budget
        self._note = note
        self._now = now
        self._lock = threading.Lock()
        self._sound: set[bytes] = set()  # releases whose record was held against the audit log
        self._latest: dict[bytes, str] = {}  # time of the last charge, by release

    def close(self) -> None:
        """Close the database once no thread uses it."""
        with self._lock:
            self._connection.close()

    def charge(
        self, release: Release, query: VerifiedQuery, buckets: Sequence[Rows], floor: int, rng: np.random.Generator
    ) -> list[Ids]:
        """Charge a query for all items of the buckets that it may still be told of, and draw those that are listed.

        Args:
            release: Under which the items are spoken of.
            query: Who asks.
            buckets: Items of each bucket, no content twice in one.
            floor: Items that are listed of each bucket, each of another acquisition.
            rng: Draws them.

        Returns:
            Ids of the listed items of each bucket; none, and nothing charged, where too few have something left.

        Raises:
            StateError: REFINE_STORE, what was spent is damaged, older than the audit log, or cannot be known, as
                `spending_lost` says; CLOCK_BACK; AUDIT_... where the log cannot be read or written.
            Busy: another process keeps the database.
        """
        with self._lock, _whole():
            self._check(release)
            with writing_soon(self._connection):
                found = [self._spend(release, query, rows, floor, rng) for rows in buckets]
                charged = sum(items for items, _ in found)
                number = self._record(release, query, charged) if charged else 0
        if charged:
            asked = {"requester": name_digest(query.requester.uri), "query": query.digest.hex()}
            self._note(Kind.REFINE_CHARGED, release=release.digest.hex(), number=number, items=charged, **asked)
        return [ids for _, ids in found]

    def _spend(
        self, release: Release, query: VerifiedQuery, rows: Rows, floor: int, rng: np.random.Generator
    ) -> tuple[int, Ids]:
        """Charge one bucket; return how many items were charged, and which are listed.

        Looking up and charging is as much work as for a full bucket, so that time tells nothing of how many it has.
        """
        requester = _number(query.requester.uri)
        own, common = payable(self._budget, self._spent(release, requester, rows["content"]))
        left = np.flatnonzero(own | common)
        drawn = left[listed(rows["acquisition"][left], floor, rng)]
        if not len(drawn):
            return 0, np.empty(0, np.int64)
        charged = np.zeros((MOST_ITEMS, 2), np.int64)  # what is behind the bucket's items charges nothing
        charged[: len(rows)] = np.column_stack([own, common])
        columns = np.resize(rows["content"], MOST_ITEMS).tolist(), charged.tolist()
        values = ((release.digest, content, requester, *each) for content, each in zip(*columns, strict=True))
        self._connection.executemany(_SPEND, values)
        return len(left), rows["id"][drawn].astype(np.int64)

    def _spent(self, release: Release, requester: int, contents: NDArray[np.int64]) -> Spent:
        asked = str(np.resize(contents, MOST_ITEMS).tolist())
        found = self._connection.execute(_SPENT, (requester, asked, release.digest)).fetchall()
        table = np.array([(own or 0, holders, common or 0) for own, holders, common in found], np.int64)
        return Spent(*table[: len(contents)].T)

    def _record(self, release: Release, query: VerifiedQuery, items: int) -> int:
        at = utc_text(self._now())
        if at < self._latest.get(release.digest, ""):
            raise StateError(
                "the clock was set back behind the last query that was refined; set it right (NTP)",
                reason="CLOCK_BACK",
            )
        last = "SELECT coalesce(max(number), 0) + 1 FROM refine_charge WHERE release = ?"
        (number,) = self._connection.execute(last, (release.digest,)).fetchone()
        row = (release.digest, number, query.digest, items, at)
        self._connection.execute("INSERT INTO refine_charge VALUES (?, ?, ?, ?, ?)", row)
        self._latest[release.digest] = at
        return int(number)

    def _check(self, release: Release) -> None:
        """Check the record of a release once in a run of `serve`."""
        if release.digest in self._sound:
            return
        check_record(self._home, self._connection, release, read_entries(self._home.audit))
        last = "SELECT max(at) FROM refine_charge WHERE release = ?"
        (latest,) = self._connection.execute(last, (release.digest,)).fetchone()
        if latest is not None:
            self._latest[release.digest] = utc_text(datetime.fromisoformat(latest))
        self._sound.add(release.digest)


def check_record(home: Home, connection: sqlite3.Connection, release: Release, entries: Iterable[bytes]) -> None:
    """Check that all that refine spent under a release is known: hold the record against itself and the audit log.

    Args:
        home: The node's home, with its audit log.
        connection: The node's database.
        release: The release.
        entries: Entries of the log, read where the record itself is sound.

    Raises:
        StateError: REFINE_STORE, or AUDIT_... where the log cannot be read.
    """
    if lost := spending_lost(home, connection, release):
        raise _broken(lost)
    record = "SELECT count(*), coalesce(max(number), 0), coalesce(sum(items), 0) FROM refine_charge WHERE release = ?"
    counters = "SELECT coalesce(sum(own + common), 0) FROM refine_spent WHERE release = ?"
    with _whole():
        charges, number, items = connection.execute(record, (release.digest,)).fetchone()
        (spent,) = connection.execute(counters, (release.digest,)).fetchone()
    if charges != number or items != spent:
        raise _broken("the record of what refine spent is damaged")
    if number < _logged(entries, release):
        raise _broken("the record of what refine spent is older than the audit log")


def _logged(entries: Iterable[bytes], release: Release) -> int:
    """Return the number of the last charge that the audit log knows of."""
    charges = (json.loads(entry) for entry in entries if _MARK in entry)
    return max((each["number"] for each in charges if each["release"] == release.digest.hex()), default=0)


@contextmanager
def _whole() -> Iterator[None]:
    """Take what the database cannot read or write as damage."""
    try:
        yield
    except (sqlite3.DatabaseError, ValueError) as error:
        raise _broken("the record of what refine spent cannot be read or written") from error


def _broken(what: str) -> StateError:
    return StateError(
        f"{what}, so nothing more is refined under this release; the next release begins anew", reason="REFINE_STORE"
    )


def _number(requester: str) -> int:
    """Return by what the counters know a requester: 64 bits of the digest of its SPIFFE id."""
    return int.from_bytes(hashlib.sha256(requester.encode()).digest()[:8], "little", signed=True)
