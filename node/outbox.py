"""What was approved and waits to be collected: one file each, sealed for its requester. Nobody here can open it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rsfed.home import Home, make_folder
from rsfed.trust.identity import write_atomically

_SUFFIX = ".sealed"


def sealed_file(home: Home, request_id: bytes) -> Path:
    """Return where the delivery of a request lies."""
    return home.path / "outbox" / f"{request_id.hex()}{_SUFFIX}"


def put(home: Home, request_id: bytes, sealed: bytes) -> None:
    """Lay a delivery out."""
    file = sealed_file(home, request_id)
    make_folder(file.parent, mode=0o700)
    write_atomically(file, sealed)


def drop(home: Home, request_id: bytes) -> None:
    """Take a delivery away, if it is there."""
    sealed_file(home, request_id).unlink(missing_ok=True)


def keep_only(home: Home, request_ids: Collection[bytes]) -> None:
    """Take all deliveries away but those of these requests."""
    kept = {sealed_file(home, each) for each in request_ids}
    for file in (home.path / "outbox").glob(f"*{_SUFFIX}"):
        if file not in kept:
            file.unlink(missing_ok=True)
