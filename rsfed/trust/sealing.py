"""Sealing: what one member says to another through a third that must not read it. Pure.

HPKE (RFC 9180) hides the content from all but the holder of the recipient's sealing key, but does not say who sealed.
So the sender signs inside of it: purpose, recipient, context and the content's digest. Nobody, the recipient included,
can pass something sealed on as meant for somebody else, for another purpose or as the answer to something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from google.protobuf.message import DecodeError

from rsfed.errors import NotAdmitted, SealRefused
from rsfed.trust.bundle import Bundle, check_member
from rsfed.trust.certificates import load_chain, public_key_of, to_der
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId
from rsfed.v1.access_pb2 import SignedContent

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
OVERHEAD_BYTES = 16 << 10  # that sealing adds at most: certificates, signature, encapsulated key
MAX_DELIVERY_BYTES = (256 << 20) + OVERHEAD_BYTES  # of the largest that a node may be told to give
_DOMAIN = b"rsfed-seal-v1"
_KEY_BYTES = 32
_LENGTH_BYTES = 4


class Purpose(StrEnum):
    """What something sealed is for."""

    ACCESS_CALL = "access-call"
    ACCESS_ANSWER = "access-answer"
    ACCESS_DELIVERY = "access-delivery"
    QUERY = "query"
    QUERY_ANSWER = "query-answer"
    BUCKET = "bucket"
    BUCKET_ANSWER = "bucket-answer"
    REFINE = "refine"
    REFINE_ANSWER = "refine-answer"


@dataclass(frozen=True, slots=True)
class Opened:
    """What was sealed, and by whom.

    Attributes:
        content: What is said.
        sender: Whose signature it carries.
        serial: Serial number of the sender's certificate.
    """

    content: bytes
    sender: MemberId
    serial: int


def sealing_key_of(bundle: Bundle, member: MemberId) -> bytes:
    """Return the key that messages to a member are sealed with, 32 bytes.

    Raises:
        NotAdmitted: NO_SEALING_KEY, the federation knows none of this member, or the member is no longer in it.
    """
    key = bundle.members.get(member.uri, b"")
    if len(key) == _KEY_BYTES and member.uri not in bundle.revoked_names:
        return key
    raise NotAdmitted(
        f"no sealing key of the {member.role} is known here: whoever joined just now has to wait up to 30 seconds, "
        "until the trust bundle is renewed here; else it is no longer a member, or has to join again",
        reason="NO_SEALING_KEY",
        detail=member.name,
    )


def seal(  # noqa: PLR0913 - all that a seal is bound to
    content: bytes, purpose: Purpose, *, sender: Identity, recipient: MemberId, key: bytes, context: bytes = b""
) -> bytes:
    """Sign content and seal it for one member.

    Args:
        content: What is said.
        purpose: What it is for.
        sender: Who says it.
        recipient: Who may read it.
        key: The recipient's sealing key, 32 bytes.
        context: What it belongs to, for example the call that it answers; the recipient has to know it.

    Raises:
        SealRefused: SEALING_KEY, the key is none.
    """
    signature = sender.key.sign(_signed_bytes(purpose, recipient, context, content), ec.ECDSA(hashes.SHA256()))
    chain = [to_der(certificate) for certificate in sender.chain]
    inner = SignedContent(content=content, certificate_chain=chain, signature=signature).SerializeToString()
    return wrap(inner, purpose, recipient=recipient, key=key, context=context)


def open_sealed(  # noqa: PLR0913 - all that a seal is bound to
    sealed: bytes,
    purpose: Purpose,
    *,
    recipient: MemberId,
    key: X25519PrivateKey,
    bundle: Bundle,
    now: datetime,
    context: bytes = b"",
    sender: MemberId | None = None,
) -> Opened:
    """Open what was sealed for oneself, and prove who sealed it; nothing of it is used before.

    Args:
        sealed: As `seal` returned it.
        purpose: What it must be for.
        recipient: Oneself.
        key: One's own sealing key.
        bundle: Whom one believes.
        now: Time of the check.
        context: What it must belong to.
        sender: Who must have sealed it; None for any member, whom the caller has to judge.

    Raises:
        SealRefused: SEAL_BROKEN, it was changed, or sealed for another key, purpose or context; SEAL_SIGNATURE, it is
            not signed by whom it names; SEAL_SENDER, by another member than it must be.
        NotAdmitted: the sender's certificate is not believed (the reasons of `check_member`).
    """
    inner = _signed_content(unwrap(sealed, purpose, recipient=recipient, key=key, context=context))
    chain = load_chain(list(inner.certificate_chain))
    member = check_member(bundle, chain, now=now)
    try:
        signed = _signed_bytes(purpose, recipient, context, inner.content)
        public_key_of(chain[0]).verify(inner.signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise SealRefused("what was sealed is not signed by whom it names", reason="SEAL_SIGNATURE") from error
    if sender is not None and member != sender:
        raise SealRefused("what was sealed comes from another member than it should", reason="SEAL_SENDER")
    return Opened(inner.content, member, chain[0].serial_number)


def wrap(content: bytes, purpose: Purpose, *, recipient: MemberId, key: bytes, context: bytes = b"") -> bytes:
    """Seal content that proves by itself who made it; arguments and errors as for `seal`."""
    try:
        return SUITE.encrypt(content, X25519PublicKey.from_public_bytes(key), _info(purpose, recipient, context))
    except ValueError as error:  # of another length, or a point of small order
        raise SealRefused("the recipient's sealing key is none; it has to join again", reason="SEALING_KEY") from error


def unwrap(
    sealed: bytes, purpose: Purpose, *, recipient: MemberId, key: X25519PrivateKey, context: bytes = b""
) -> bytes:
    """Open what `wrap` sealed; who made it is not proven.

    Raises:
        SealRefused: SEAL_BROKEN, it was changed, or sealed for another key, purpose or context.
    """
    try:
        return SUITE.decrypt(sealed, key, _info(purpose, recipient, context))
    except (InvalidTag, ValueError) as error:
        raise _broken() from error


def padded(content: bytes, step: int) -> bytes:
    """Return content after its length, filled up with zeros to a multiple of `step` bytes: its size tells less so."""
    return len(content).to_bytes(_LENGTH_BYTES) + content + bytes(-(len(content) + _LENGTH_BYTES) % step)


def unpadded(data: bytes) -> bytes:
    """Return the content of what `padded` made.

    Raises:
        SealRefused: SEAL_BROKEN, it was not made so.
    """
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES])
    if len(data) < end:
        raise _broken()
    return data[_LENGTH_BYTES:end]


def _signed_content(inner: bytes) -> SignedContent:
    try:
        return SignedContent.FromString(inner)
    except DecodeError as error:
        raise _broken() from error


def _broken() -> SealRefused:
    return SealRefused(
        "what was sealed cannot be opened: it was changed, or sealed for another key; ask again", reason="SEAL_BROKEN"
    )


def _info(purpose: Purpose, recipient: MemberId, context: bytes) -> bytes:
    return _joined((purpose.encode(), recipient.uri.encode(), context))


def _signed_bytes(purpose: Purpose, recipient: MemberId, context: bytes, content: bytes) -> bytes:
    return _joined((purpose.encode(), recipient.uri.encode(), context, hashlib.sha256(content).digest()))


def _joined(fields: Iterable[bytes]) -> bytes:
    """Return fields in a form that no other fields have: each after its length."""
    return _DOMAIN + b"".join(len(field).to_bytes(4) + field for field in fields)
