"""The coordinator's own audit log as a Merkle tree: its entries are the rows of the record, in order of their numbers.

The rows are written in the transactions of what they tell, so the tree is made from them when somebody wants a proof.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime

from coordinator import audit
from coordinator.state import to_ms
from rsfed.errors import StateError, UsageError
from rsfed.trust.audit_export import export, named_by, verify
from rsfed.trust.audit_head import sign_head
from rsfed.trust.audit_log import Position
from rsfed.trust.identity import Identity
from rsfed.trust.merkle import Tree, leaf_hash
from rsfed.trust.preflight import check_identity


def position_of(connection: sqlite3.Connection) -> tuple[Position, Tree]:
    """Return how far the log is, and its tree.

    Raises:
        StateError: AUDIT_DAMAGED, a row is missing.
    """
    tree = Tree()
    for entry in _entries(connection):
        tree.append(leaf_hash(entry))
    log = connection.execute("SELECT value FROM meta WHERE key = 'audit_log'").fetchone()[0]
    return Position(log, len(tree), tree.root()), tree


def check(connection: sqlite3.Connection, *, older: Position | None = None) -> Position:
    """Check the log and return how far it is.

    Args:
        connection: The coordinator's database.
        older: How far it was once, for example according to an export.

    Raises:
        StateError: AUDIT_DAMAGED or AUDIT_OLDER.
    """
    position, tree = position_of(connection)
    if older is not None and (
        older.log != position.log or older.size > position.size or older.root != tree.root(older.size)
    ):
        raise StateError(
            f"the audit log is not the one that had {older.size} entries once: the state is older, or was rewritten;"
            " restore the newest backup",
            reason="AUDIT_OLDER",
        )
    return position


def export_part(  # noqa: PLR0913 - what is exported
    connection: sqlite3.Connection,
    identity: Identity,
    *,
    now: datetime,
    last: int,
    query: str | None = None,
    since: int = 0,
) -> bytes:
    """Return the newest entries with proofs and a signed head, as `rsfed.trust.audit_export` tells.

    Args:
        connection: The coordinator's database.
        identity: Signs the head.
        now: Time of the head.
        last: How many entries.
        query: Id of the query whose entries are wanted, hexadecimal, or its first digits; all when None.
        since: Size of an earlier head that shall be continued; 0 for none.

    Raises:
        NotAdmitted: the coordinator's certificate will not do.
        StateError: AUDIT_DAMAGED.
        UsageError: the log has no entry of the query or of several such, or never had so many entries.
    """
    check_identity(identity, now=now)
    position, tree = position_of(connection)
    if since > position.size:
        raise UsageError(f"the audit log has {position.size} entries, not {since}; the state is older than that")
    query_id = None if query is None else named_by(query.lower(), map(_query_of, _entries(connection)))
    of_query = (each for each in enumerate(_entries(connection)) if query_id in {None, _query_of(each[1])})
    wanted = deque(of_query, maxlen=last)
    data = export(sign_head(position, identity, now=now), position.size, tree, wanted, since)
    verify(data, identity.bundle.cas)
    return data


def _entries(connection: sqlite3.Connection) -> Iterator[bytes]:
    for number, entry in enumerate(audit.entries(connection), start=1):
        if entry.number != number:
            raise StateError(
                f"the audit log is damaged: line {number} is missing; restore a backup", reason="AUDIT_DAMAGED"
            )
        fields = asdict(entry) | {"at": to_ms(entry.at)}
        yield json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _query_of(entry: bytes) -> str:
    return str(json.loads(entry)["data"].get("query", ""))
