"""The accountant of published counts: what each epoch cost, kept in the node's database and in its audit log.

An epoch is charged before anything of it is published, first in the database and then in the audit log, and nothing
gives a charge back: an epoch that a crash cut short is lost. Who replaces the database by an older one, or by none, is
found out by the log; from then on nothing more is published under the release.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from node.auditing import Kind
from node.spending import spending_lost
from rsfed.home import Home, transaction
from rsfed.privacy.counts import Charge, next_charge, store_broken
from rsfed.trust.audit_log import read_entries
from rsfed.trust.release_store import Release

Note = Callable[..., None]
"""Writes an entry into the node's audit log, durably."""

_MARK = f'"{Kind.COUNTS_CHARGED}"'.encode()


class Accountant:
    """Charges epochs.

    Args:
        home: The node's home, with its audit log.
        connection: The node's database.
        note: Writes into the audit log.
    """

    def __init__(self, home: Home, connection: sqlite3.Connection, note: Note) -> None:
        self._home = home
        self._connection = connection
        self._note = note

    def charge(self, release: Release, epsilon: float, *, now: datetime) -> Charge:
        """Charge the next epoch of a release; its counts may be drawn once this returns.

        Raises:
            StateError: COUNTS_SPENT, COUNTS_STORE or CLOCK_BACK, as `next_charge` says; COUNTS_STORE also where the
                database is older than the audit log, or database or log may be, as `spending_lost` says; AUDIT_...
                where the log cannot be read or written.
        """
        logged = _logged(read_entries(self._home.audit), release)
        with transaction(self._connection):
            known = _checked(self._home, self._connection, release, logged)
            charge = next_charge(known, self._latest(), epsilon, now)
            row = (release.digest, charge.number, charge.epsilon, charge.at.astimezone(UTC).isoformat())
            self._connection.execute("INSERT INTO count_charge VALUES (?, ?, ?, ?)", row)
        self._note(Kind.COUNTS_CHARGED, release=release.digest.hex(), epoch=charge.number, epsilon=repr(charge.epsilon))
        return charge

    def charges(self, release: Release) -> list[Charge]:
        """Return what the database knows of a release, the first epoch first.

        Raises:
            StateError: COUNTS_STORE, it is damaged.
        """
        return _charges(self._connection, release)

    def _latest(self) -> datetime | None:
        row = self._connection.execute("SELECT max(at) FROM count_charge").fetchone()
        return None if row[0] is None else datetime.fromisoformat(row[0])


def check_charges(home: Home, connection: sqlite3.Connection, release: Release, entries: Iterable[bytes]) -> None:
    """Check that all that counts spent under a release is known: hold the record against entries of the audit log.

    Raises:
        StateError: COUNTS_STORE, or AUDIT_... where the log cannot be read.
    """
    _checked(home, connection, release, _logged(entries, release))


def _checked(home: Home, connection: sqlite3.Connection, release: Release, logged: Mapping[int, str]) -> list[Charge]:
    """Return the charges of a release if they are all."""
    if lost := spending_lost(home, connection, release):
        raise store_broken(lost)
    known = _charges(connection, release)
    if not logged.items() <= {charge.number: repr(charge.epsilon) for charge in known}.items():
        raise store_broken("the record of what was spent on counts is older than the audit log")
    return known


def _charges(connection: sqlite3.Connection, release: Release) -> list[Charge]:
    query = "SELECT number, epsilon, at FROM count_charge WHERE release = ? ORDER BY number"
    try:
        rows = connection.execute(query, (release.digest,)).fetchall()
        return [Charge(number, epsilon, datetime.fromisoformat(at)) for number, epsilon, at in rows]
    except (sqlite3.DatabaseError, ValueError) as error:
        raise store_broken("the record of what was spent on counts is damaged") from error


def _logged(entries: Iterable[bytes], release: Release) -> dict[int, str]:
    """Return the epsilon of each epoch of a release that the audit log knows of."""
    charges = (json.loads(entry) for entry in entries if _MARK in entry)
    return {each["epoch"]: each["epsilon"] for each in charges if each["release"] == release.digest.hex()}
