"""What the audit commands of all roles share: exports are written, and checked by who was given one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Protocol

import typer

from rsfed.errors import UsageError
from rsfed.trust.audit_export import Verified, authority_of, verify
from rsfed.trust.certificates import fingerprint
from rsfed.trust.identity import Identity, load_bundle, write_atomically

_WIDTH = 100  # columns of a table that goes to a file or pipe
_SHORTEST = 8  # digits of an id or digest in a table
_IN_SUBJECT = frozenset({"requester", "caller", "claims", "run"})  # what the table has in another column
_NOTHING: tuple[object, ...] = (None, "", [], {})  # values of which a table says nothing
_DIGITS = re.compile(r"[0-9a-f]{32,}")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d\+00:00")
_MEMBER = re.compile(r"spiffe://[^/]+/([^/]+)/([^/]+)")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class Entry(Protocol):
    """One entry of an audit log as its operator reads it."""

    @property
    def number(self) -> int:
        """Number of the entry."""

    @property
    def at(self) -> datetime:
        """When it was written."""

    @property
    def kind(self) -> str:
        """What it tells."""

    @property
    def subject(self) -> str:
        """Whom or what it is about."""

    @property
    def data(self) -> Mapping[str, object]:
        """All else."""


def print_entries(entries: Sequence[Entry]) -> None:
    """Print entries as a table of 100 columns, or as wide as the terminal; ids and digests by their first digits."""
    from rich.console import Console  # noqa: PLC0415 - loaded only when used
    from rich.table import Table  # noqa: PLC0415 - loaded only when used
    from rich.text import Text  # noqa: PLC0415 - loaded only when used

    known = {word for entry in entries for word in _DIGITS.findall(f"{entry.subject} {dict(entry.data)}")}
    digits = next(n for n in count(_SHORTEST) if len({word[:n] for word in known}) == len(known))

    def short(text: str) -> str:
        return _MOMENT.sub(r"\1 \2", _DIGITS.sub(lambda found: found[0][:digits], text))

    table = Table(box=None, pad_edge=False)
    for column in ("number", "at", "kind", "subject", "data"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        member = _MEMBER.fullmatch(entry.subject)
        subject = " ".join(member.groups()) if member else short(entry.subject)
        data = {key: value for key, value in entry.data.items() if key not in _IN_SUBJECT and value not in _NOTHING}
        words = " ".join(f"{key}={short(_flat(value))}" for key, value in data.items())
        cells = (str(entry.number), f"{entry.at:%Y-%m-%d %H:%M}", entry.kind, subject, words)
        table.add_row(*map(Text, cells))
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH)).print(table)


def _flat(value: object) -> str:
    """Return a value of an entry in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key}:{_flat(each)}" for key, each in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, list) else str(value)


def write_export(file: Path, data: bytes) -> None:
    """Write an export into a new file.

    Raises:
        UsageError: the file exists, or its folder does not.
    """
    if file.exists() or not file.absolute().parent.is_dir():
        raise UsageError("the export needs a new name in a folder that exists", detail=str(file))
    write_atomically(file, data)


def say_exported(file: Path, data: bytes, identity: Identity) -> None:
    """Say what was exported and where to, and what the one who checks it has to know."""
    shown = verify(data, identity.bundle.cas)
    place = shown.head.position
    typer.echo(f"{len(shown.entries)} of {place.size} entries of log {place.log}, root {place.root.hex()}")
    typer.echo(f"written to {file}", err=True)
    typer.echo(f"who has no home in this federation checks it with --ca-fingerprint {_authority(identity)}", err=True)


def open_export(file: Path, *, ca_fingerprint: str, identity: Path, older: Path | None = None) -> Verified:
    """Check an export.

    Args:
        file: The export.
        ca_fingerprint: Of the CA that is believed, hexadecimal; "" for those that a home trusts.
        identity: The identity of that home.
        older: An earlier export that must be the beginning of the same log.

    Raises:
        UsageError: a file cannot be read, or it is not said which CA is believed.
        InvalidMessage: AUDIT_EXPORT, something does not hold.
    """
    data = _read(file)
    before = None if older is None else _read(older)
    if not ca_fingerprint:
        if not identity.is_dir():
            raise UsageError("this home trusts no federation; name its CA with --ca-fingerprint", detail=str(identity))
        return verify(data, load_bundle(identity).cas, older=before)
    wanted = ca_fingerprint.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(wanted):
        raise UsageError("a fingerprint has 64 hexadecimal digits", detail=ca_fingerprint)
    return verify(data, authority_of(data, bytes.fromhex(wanted)), older=before)


def say_verified(file: Path, *, older: Path | None, ca_fingerprint: str, identity: Path) -> None:
    """Check an export, print its entries, one a line, and say on standard error what was proven.

    Raises:
        UsageError, InvalidMessage: as for `open_export`.
    """
    shown = open_export(file, older=older, ca_fingerprint=ca_fingerprint, identity=identity)
    place = shown.head.position
    for number, fields in shown.entries:
        typer.echo(json.dumps({"number": number, **fields}))
    typer.echo(
        f"proven: {_counted(len(shown.entries))} in the log {place.log} of {shown.head.signer.uri}, which had"
        f" {place.size} entries on {shown.head.time:%Y-%m-%d %H:%M} UTC",
        err=True,
    )
    if older is not None:
        typer.echo("proven: it continues the older export", err=True)


def _counted(entries: int) -> str:
    return "1 entry is" if entries == 1 else f"{entries} entries are"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError("the export cannot be read", detail=f"{file}: {error.strerror}") from error


def _authority(identity: Identity) -> str:
    return fingerprint(identity.chain[-1]).hex()
