"""Which of the node's own files a handle means: for its operator only, and never without a note of it."""

from __future__ import annotations

import re
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
        handles: Handles in hexadecimal digits.
        operator: Who asks, a user of the operating system.
        now: Time of the look-up.

    Raises:
        UsageError: what was given is no handle.
        UnknownHandle: a handle is of another node, made up, of a bucket, or older than 90 days; none is resolved then.
    """
    with closing(Catalogue(home)) as catalogue:
        ledger = Ledger(catalogue.connection)
        opener = Handles(handle_key(home))
        found = [_find(catalogue, ledger, opener, text, now) for text in handles]
        with transaction(catalogue.connection) as connection:
            connection.executemany(
                "INSERT INTO resolved (at, operator, handle, requester, query_id, item) VALUES (?, ?, ?, ?, ?, ?)",
                [(now.isoformat(), operator, r.handle, r.query.requester, r.query.query_id, r.item.id) for r in found],
            )
        for each in found:
            named = {"handle": handle_digest(each.handle), "query": each.query.envelope_digest.hex()}
            note_beside(home, catalogue.connection, Kind.HANDLE_RESOLVED, now=now, **named)
    return found


def _find(catalogue: Catalogue, ledger: Ledger, opener: Handles, text: str, now: datetime) -> Resolved:
    if not _HANDLE.fullmatch(text):
        raise UsageError("a handle has 32 hexadecimal digits", detail=text)
    handle = bytes.fromhex(text)
    item_id, salt = opener.open(handle)
    entry = ledger.by_salt(salt, now=now)
    if entry is None:
        raise UnknownHandle(
            "this handle was not given by this node in the last 90 days; resolve it at the node that the hit names",
            detail=text,
        )
    state = catalogue.state(item_id)
    if state is None:
        raise UnknownHandle("this handle names a bucket; expand it and resolve its items", detail=text)
    return Resolved(handle, catalogue.item(item_id), state, catalogue.labels(item_id), entry)
