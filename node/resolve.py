"""Which of the node's own files a handle means: for its operator only, and never without a note of it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from node.auditing import Kind, handle_digest, note_beside
from node.catalogue import Catalogue, State
from node.handles import Handles
from node.keys import handle_key
from node.ledger import Entry, Ledger
from rsfed.errors import UnknownHandle, UsageError
from rsfed.home import Home, transaction
from rsfed.raster.item import Item

_HANDLE = re.compile(r"[0-9a-fA-F]{32}")
_FIRST_DIGITS = re.compile(r"[0-9a-fA-F]{4,}")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a handle means.

    Attributes:
        handle: The handle, 16 bytes.
        item: The patch.
        state: Whether the patch is still in the archive.
        labels: Its labels as the archive spells them.
        query: The query in whose answer the handle was given.
    """

    handle: bytes
    item: Item
    state: State
    labels: tuple[str, ...]
    query: Entry


def resolve(home: Home, handles: Sequence[str], *, operator: str, now: datetime) -> list[Resolved]:
    """Say what handles mean, after the look-ups were noted.

    Args:
        home: The node's home.
        handles: Handles in hexadecimal digits; of one that was looked up or asked for before its first digits, or those
            of its digest, as `rsfed node audit show` has them.
        operator: Who asks, a user of the operating system.
        now: Time of the look-up.

    Raises:
        UsageError: what was given is no handle, or no known one or several begin so.
        UnknownHandle: a handle is of another node, made up, of a bucket, or older than 90 days; none is resolved then.
    """
    with closing(Catalogue(home)) as catalogue:
        ledger = Ledger(catalogue.connection)
        opener = Handles(handle_key(home))
        whole = [_whole(catalogue.connection, text) for text in handles]
        found = [_find(catalogue, ledger, opener, handle, now) for handle in whole]
        with transaction(catalogue.connection) as connection:
            connection.executemany(
                "INSERT INTO resolved (at, operator, handle, requester, query_id, item) VALUES (?, ?, ?, ?, ?, ?)",
                [(now.isoformat(), operator, r.handle, r.query.requester, r.query.query_id, r.item.id) for r in found],
            )
        for each in found:
            named = {"handle": handle_digest(each.handle), "query": each.query.envelope_digest.hex()}
            note_beside(home, catalogue.connection, Kind.HANDLE_RESOLVED, now=now, **named)
    return found


def _whole(connection: sqlite3.Connection, text: str) -> bytes:
    """Return the handle that is named by all of its digits, or by the first ones of a known one or of its digest.

    Handles are not stored as they are given, so known are those that were looked up or asked for.
    """
    if _HANDLE.fullmatch(text):
        return bytes.fromhex(text)
    if not _FIRST_DIGITS.fullmatch(text):
        raise UsageError("a handle has 32 hexadecimal digits; of a known one the first four will do", detail=text)
    known = connection.execute("SELECT handle FROM resolved UNION SELECT handle FROM access_request").fetchall()
    names: dict[bytes, tuple[str, str]] = {handle: (handle.hex(), handle_digest(handle)) for (handle,) in known}
    found = [handle for handle, both in names.items() if any(name.startswith(text.lower()) for name in both)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} handles begin so; give more digits", detail=text)
    if not found:
        raise UsageError(
            "no handle that was looked up or asked for at this node begins so; give all of its 32 hexadecimal digits",
            detail=text,
        )
    return found[0]


def _find(catalogue: Catalogue, ledger: Ledger, opener: Handles, handle: bytes, now: datetime) -> Resolved:
    item_id, salt = opener.open(handle)
    entry = ledger.by_salt(salt, now=now)
    if entry is None:
        raise UnknownHandle(
            "this handle was not given by this node in the last 90 days; resolve it at the node that the hit names",
            detail=handle.hex(),
        )
    state = catalogue.state(item_id)
    if state is None:
        raise UnknownHandle("this handle names a bucket; expand it and resolve its items", detail=handle.hex())
    return Resolved(handle, catalogue.item(item_id), state, catalogue.labels(item_id), entry)
