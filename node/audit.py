"""The node's audit log as its operator reads it: names and ids beside the digests, where the node still has them.

The log itself holds digests only; who asked is known for 90 days from the ledger, and who looked up a handle for good.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from node.auditing import Kind, handle_digest, name_digest
from node.ledger import Ledger
from node.state import audited_to
from rsfed.errors import StateError, UsageError
from rsfed.home import Home
from rsfed.trust.audit_export import export, named_by, verify
from rsfed.trust.audit_head import sign_head
from rsfed.trust.audit_log import Position, position_of, read_entries
from rsfed.trust.identity import Identity, load_bundle
from rsfed.trust.preflight import check_identity

_WHO = ("requester", "caller", "claims")  # fields that name a member by a digest
_ID = re.compile(r"[0-9a-f]{32}")
_MOST = 10_000  # entries of one export
_OF_LEVEL = {"NOT_SEARCHED", "NOT_PUBLISHED", "NO_CODEBOOK", "NOT_PAGED"}  # refusals that another level may not make


@dataclass(frozen=True, slots=True)
class Line:
    """One entry as it is shown.

    Attributes:
        number: Number of the entry, from 0.
        at: When it was written.
        kind: What it tells.
        subject: Who asked, called or looked up, or which run; a digest where the node no longer knows the name.
        data: All else, with `query_id` and `handle_id` where the node still knows them.
    """

    number: int
    at: datetime
    kind: str
    subject: str
    data: dict[str, Any]


def lines(home: Home, connection: sqlite3.Connection, *, last: int) -> list[Line]:
    """Return the newest entries, the oldest of them first.

    Raises:
        StateError: AUDIT_MISSING, where there was a log, or AUDIT_DAMAGED.
    """
    if audited_to(connection) is None and not home.audit.exists():
        return []
    entries = [(number, json.loads(entry)) for number, entry in _last(read_entries(home.audit), last)]
    known = _Known(home, connection, [fields for _, fields in entries])
    return [known.line(number, fields) for number, fields in entries]


@dataclass(frozen=True, slots=True)
class Load:
    """What was asked of the node, as far as its log says: when and how often, but neither codes nor k nor filters.

    Attributes:
        queries: Queries that were answered, or refused for the level of that time alone.
        pages: The same of further pages of a bucket.
        refused: Queries and pages that were refused for another reason, as any level would.
        requesters: How many analysts were answered.
        first: When the first of them was asked; None without any.
        last: The last.
    """

    queries: int
    pages: int
    refused: int
    requesters: int
    first: datetime | None
    last: datetime | None


def load(home: Home, connection: sqlite3.Connection) -> Load:
    """Count the queries of the whole log.

    Raises:
        StateError: AUDIT_MISSING, where there was a log, or AUDIT_DAMAGED.
    """
    if audited_to(connection) is None and not home.audit.exists():
        return Load(0, 0, 0, 0, None, None)
    counts: Counter[str] = Counter()
    requesters: set[str] = set()
    times: list[int] = []
    for entry in map(json.loads, read_entries(home.audit)):
        if (what := _asked(entry)) is None:
            continue
        counts[what] += 1
        times = [*times[:1], entry["at"]]
        requesters |= {entry["requester"]} if "requester" in entry else set()
    first, last = (datetime.fromtimestamp(at / 1000, UTC) for at in (times[0], times[-1])) if times else (None, None)
    return Load(counts["query"], counts["page"], counts["refused"], len(requesters), first, last)


def _asked(entry: dict[str, Any]) -> str | None:
    """Return what an entry counts as; None where it is of no query."""
    kind = entry["kind"]
    if kind in {Kind.QUERY_REFUSED, Kind.BUCKET_REFUSED} and entry["reason"] not in _OF_LEVEL:
        return "refused"
    if kind in {Kind.QUERY_ANSWERED, Kind.QUERY_WITHHELD, Kind.QUERY_REFUSED}:
        return "query"
    return "page" if kind in {Kind.BUCKET_ANSWERED, Kind.BUCKET_REFUSED} else None


def check(home: Home, connection: sqlite3.Connection, *, older: Position | None = None) -> Position:
    """Check the whole log and return how far it is.

    Args:
        home: The node's home.
        connection: Its database.
        older: How far it was once, for example according to an export.

    Raises:
        StateError: AUDIT_MISSING, AUDIT_DAMAGED or AUDIT_OLDER.
    """
    position, tree = position_of(read_entries(home.audit))
    for known in filter(None, (audited_to(connection), older)):
        if known.log != position.log or known.size > position.size or known.root != tree.root(known.size):
            raise StateError(
                f"the audit log is not the one that had {known.size} entries once: it is older, rewritten or another;"
                " restore a backup, or begin a new log with `rsfed node audit restart`",
                reason="AUDIT_OLDER",
                detail=str(home.audit),
            )
    return position


def export_part(  # noqa: PLR0913 - what is exported
    home: Home, identity: Identity, *, now: datetime, last: int, query: str | None = None, since: int = 0
) -> bytes:
    """Return a part of the log with proofs and a signed head, as `rsfed.trust.audit_export` tells.

    Args:
        home: The node's home.
        identity: Signs the head.
        now: Time of the head.
        last: The newest entries only, of those that are wanted.
        query: Digest of the query whose entries are wanted, hexadecimal, or its first digits; all when None.
        since: Size of an earlier head that shall be continued; 0 for none.

    Raises:
        NotAdmitted: the node's certificate will not do.
        StateError: AUDIT_MISSING or AUDIT_DAMAGED.
        UsageError: the log has no entry of the query or of several such, or never had so many entries.
    """
    check_identity(identity, now=now)
    position, tree = position_of(read_entries(home.audit))
    digests = (json.loads(entry).get("query", "") for _, entry in _counted(home, position))
    digest = None if query is None else named_by(query, digests)
    of_query = (each for each in _counted(home, position) if digest in {None, json.loads(each[1]).get("query")})
    wanted = deque(of_query, maxlen=min(last, _MOST))
    if since > position.size:
        raise UsageError(f"the audit log has {position.size} entries, not {since}; it was begun anew, or is older")
    data = export(sign_head(position, identity, now=now), position.size, tree, wanted, since)
    verify(data, identity.bundle.cas)
    return data


def digest_of_query(connection: sqlite3.Connection, named: str, *, now: datetime) -> str:
    """Return the digest by which the log names a query of an id, if it was answered here in the last 90 days.

    Args:
        connection: The node's database.
        named: How a user names the query; returned as it is where it is no such id.
        now: The time.
    """
    if not _ID.fullmatch(named):
        return named
    entry = Ledger(connection).by_query(bytes.fromhex(named), now=now)
    return named if entry is None else entry.envelope_digest.hex()


class _Known:
    """What the node's own tables know of digests."""

    def __init__(self, home: Home, connection: sqlite3.Connection, entries: Iterable[dict[str, Any]]) -> None:
        digests = json.dumps(sorted({fields["query"] for fields in entries if "query" in fields}))
        queries = connection.execute(
            "SELECT lower(hex(envelope_digest)), lower(hex(query_id)), requester FROM query_ledger"
            " WHERE lower(hex(envelope_digest)) IN (SELECT value FROM json_each(?))",
            (digests,),
        ).fetchall()
        self._query_ids = {digest: query_id for digest, query_id, _ in queries}
        self._names = {name_digest(requester): requester for _, _, requester in queries}
        with suppress(StateError):  # before it joined
            self._names |= {name_digest(name): name for name in load_bundle(home.identity).members}
        looked_up = connection.execute("SELECT handle, operator FROM resolved").fetchall()
        self._look_ups = {handle_digest(handle): (handle.hex(), operator) for handle, operator in looked_up}

    def line(self, number: int, fields: dict[str, Any]) -> Line:
        data = dict(fields)
        at, kind = datetime.fromtimestamp(data.pop("at") / 1000, UTC), data.pop("kind")
        subject = next((self._names.get(data[key], data[key]) for key in _WHO if key in data), "")
        if "run" in data:
            subject = f"run {data['run']}"
        if query_id := self._query_ids.get(data.get("query", "")):
            data["query_id"] = query_id
        if found := self._look_ups.get(data.get("handle", "")):
            data["handle_id"], operator = found
            subject = subject or operator  # only a look-up itself names nobody; who asked for the item is another
        return Line(number, at, kind, subject, data)


def _last(entries: Iterator[bytes], count: int) -> deque[tuple[int, bytes]]:
    return deque(enumerate(entries), maxlen=count)


def _counted(home: Home, position: Position) -> Iterator[tuple[int, bytes]]:
    """Give the entries that a position counts, with their numbers."""
    return ((number, entry) for number, entry in enumerate(read_entries(home.audit)) if number < position.size)
