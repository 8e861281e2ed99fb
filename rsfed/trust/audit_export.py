"""A part of an audit log as a file that anybody can check without the log: entries, proofs and a signed head.

JSON, so that it can be read; what is signed and hashed is kept as exact bytes. The entries are strings for that reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsfed.errors import InvalidAnswer, InvalidMessage, NotAdmitted, UsageError
from rsfed.trust.audit_head import Head, verify_head
from rsfed.trust.certificates import fingerprint, load_chain
from rsfed.trust.merkle import Tree, extends, includes, leaf_hash
from rsfed.v1.audit_pb2 import SignedTreeHead

_LEAST = 4  # digits by which a query may be named
_PREFIX = re.compile(rf"[0-9a-f]{{{_LEAST},64}}")
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Entry(_Part):
    index: int = Field(ge=0)
    entry: str
    proof: list[Hash]  # inclusion under the head


class _Since(_Part):
    size: int = Field(ge=1)
    proof: list[Hash]  # consistency of the first `size` entries with the head


class _Export(_Part):
    format: Literal["rsfed-audit-1"] = "rsfed-audit-1"
    head: Hex  # bytes of a TreeHead
    certificate_chain: list[Hex]  # DER
    signature: Hex
    entries: list[_Entry]
    since: _Since | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What an export shows.

    Attributes:
        head: Whose log it is and how far it was.
        entries: Number and fields of each entry.
    """

    head: Head
    entries: list[tuple[int, dict[str, Any]]]


def export(signed: SignedTreeHead, size: int, tree: Tree, entries: Iterable[tuple[int, bytes]], since: int) -> bytes:
    """Return a part of a log as a file.

    Args:
        signed: Head of the log.
        size: Number of entries that the head counts.
        tree: Tree of the log.
        entries: Number and bytes of the wanted entries.
        since: Size of an earlier head which the file shall be the continuation of; 0 for none.

    Raises:
        ValueError: the log never had so many entries.
    """
    rows = [
        _Entry(index=index, entry=entry.decode(), proof=_hexes(tree.inclusion(index, size))) for index, entry in entries
    ]
    older = _Since(size=since, proof=_hexes(tree.consistency(since, size))) if since else None
    whole = _Export(
        head=signed.head.hex(),
        certificate_chain=_hexes(signed.certificate_chain),
        signature=signed.signature.hex(),
        entries=rows,
        since=older,
    )
    return whole.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"


def verify(data: bytes, cas: Sequence[x509.Certificate], *, older: bytes | None = None) -> Verified:
    """Return what an export shows, if its signature and every proof hold.

    Args:
        data: The file.
        cas: CA certificates that are believed.
        older: An earlier export of the same log, which this one must continue.

    Raises:
        InvalidMessage: AUDIT_EXPORT, it is no export or something in it does not hold.
    """
    parsed, head = _read(data, cas)
    place = head.position
    for row in parsed.entries:
        if not includes(leaf_hash(row.entry.encode()), row.index, place.size, _bytes(row.proof), place.root):
            raise _refused(f"entry {row.index} is not in the log that was signed")
    if older is not None:
        before = _read(older, cas)[1]
        _check_continues(before, head, parsed.since)
    return Verified(head, [(row.index, json.loads(row.entry)) for row in parsed.entries])


def named_by(prefix: str, names: Iterable[str]) -> str:
    """Return the one name of a query in a log that begins so.

    Raises:
        UsageError: these are no digits of a name, or none or several begin so.
    """
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(
            f"a query is named by the hexadecimal digits of its id or digest, {_LEAST} of the first at least",
            detail=prefix,
        )
    found = {name for name in names if name.startswith(prefix)}
    if len(found) > 1:
        raise UsageError(f"{len(found)} queries of the audit log begin so; give more digits", detail=prefix)
    if not found:
        raise UsageError(
            "the audit log has no entry of this query; nodes' name it by its digest, the coordinator's by its id",
            detail=prefix,
        )
    return found.pop()


def authority_of(data: bytes, wanted: bytes) -> tuple[x509.Certificate, ...]:
    """Return the CA certificate in an export that has the wanted fingerprint, 32 bytes, for who believes that CA.

    Raises:
        InvalidMessage: AUDIT_EXPORT, it holds none.
    """
    try:
        chain = load_chain(_bytes(_parse(data).certificate_chain))
    except NotAdmitted as error:
        raise _refused("its certificates cannot be read") from error
    found = tuple(cert for cert in chain if fingerprint(cert) == wanted)
    if not found:
        raise _refused("it is not signed under the CA with this fingerprint")
    return found


def _read(data: bytes, cas: Sequence[x509.Certificate]) -> tuple[_Export, Head]:
    parsed = _parse(data)
    signed = SignedTreeHead(
        head=bytes.fromhex(parsed.head),
        certificate_chain=_bytes(parsed.certificate_chain),
        signature=bytes.fromhex(parsed.signature),
    )
    try:
        return parsed, verify_head(signed, cas)
    except InvalidAnswer as error:
        raise _refused("its head is not signed by a member of this federation") from error


def _parse(data: bytes) -> _Export:
    try:
        return _Export.model_validate_json(data)
    except ValidationError as error:
        raise _refused("it is no export of an audit log, or damaged") from error


def _check_continues(before: Head, head: Head, since: _Since | None) -> None:
    if (before.signer, before.position.log) != (head.signer, head.position.log):
        raise _refused("the older export is of another log")
    if since is None or since.size != before.position.size:
        raise _refused(f"it does not say how it continues the older one; export it with --since {before.position.size}")
    old, new = before.position, head.position
    if not extends(old.size, old.root, new.size, new.root, _bytes(since.proof)):
        raise _refused("it does not continue the older one: the log was rewritten between them")


def _hexes(parts: Iterable[bytes]) -> list[str]:
    return [part.hex() for part in parts]


def _bytes(parts: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(part) for part in parts]


def _refused(what: str) -> InvalidMessage:
    return InvalidMessage(f"this file proves nothing: {what}", reason="AUDIT_EXPORT")
