"""What the audit commands of all roles share: exports are written, and checked by who was given one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import typer

from rsfed.errors import UsageError
from rsfed.trust.audit_export import Verified, authority_of, verify
from rsfed.trust.certificates import fingerprint
from rsfed.trust.identity import Identity, load_bundle, write_atomically

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def write_export(file: Path, data: bytes) -> None:
    """Write an export into a new file.

    Raises:
        UsageError: the file exists, or its folder does not.
    """
    if file.exists() or not file.absolute().parent.is_dir():
        raise UsageError("the export needs a new name in a folder that exists", detail=str(file))
    write_atomically(file, data)


def say_exported(data: bytes, identity: Identity) -> None:
    """Say what was exported, and what the one who checks it has to know."""
    shown = verify(data, identity.bundle.cas)
    place = shown.head.position
    typer.echo(f"{len(shown.entries)} of {place.size} entries of log {place.log}, root {place.root.hex()}")
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
        f"proven: {len(shown.entries)} entries are in the log {place.log} of {shown.head.signer.uri}, which had"
        f" {place.size} entries on {shown.head.time:%Y-%m-%d %H:%M} UTC",
        err=True,
    )
    if older is not None:
        typer.echo("proven: it continues the older export", err=True)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError("the export cannot be read", detail=f"{file}: {error.strerror}") from error


def _authority(identity: Identity) -> str:
    return fingerprint(identity.chain[-1]).hex()
