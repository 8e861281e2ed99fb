"""Signed heads of audit logs: what a member once said that its log holds, so that it can never say anything else.

Signed with the key of the member's certificate; the chain travels along, so that a head is evidence by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from rsfed.errors import InvalidAnswer, NotAdmitted
from rsfed.trust.audit_log import Position
from rsfed.trust.certificates import CLOCK_TOLERANCE, load_chain, public_key_of, to_der, verify_chain
from rsfed.trust.identity import Identity
from rsfed.trust.merkle import HASH_BYTES
from rsfed.trust.names import MemberId
from rsfed.v1.audit_pb2 import SignedTreeHead, TreeHead

_DOMAIN = b"rsfed-audit-v1"
_LOG_BYTES = 16


@dataclass(frozen=True, slots=True)
class Head:
    """A head whose signature is right.

    Attributes:
        signer: Whose log it is.
        position: How far the log was.
        time: When it was signed, by the signer's clock.
    """

    signer: MemberId
    position: Position
    time: datetime


def sign_head(position: Position, identity: Identity, *, now: datetime) -> SignedTreeHead:
    """Sign how far a log is; what the position counts must be durable already."""
    head = TreeHead(log=bytes.fromhex(position.log), size=position.size, root=position.root)
    head.time.FromDatetime(now)
    data = head.SerializeToString(deterministic=True)
    return SignedTreeHead(
        head=data,
        certificate_chain=[to_der(cert) for cert in identity.chain],
        signature=identity.key.sign(_DOMAIN + data, ec.ECDSA(hashes.SHA256())),
    )


def verify_head(signed: SignedTreeHead, cas: Sequence[x509.Certificate], *, now: datetime | None = None) -> Head:
    """Return what a head says, if a member of the federation with these CAs signed it.

    Args:
        signed: The head as it came.
        cas: CA certificates that are believed.
        now: Time of the check; None for an old head, whose certificate must have been valid when it was signed.

    Raises:
        InvalidAnswer: AUDIT_HEAD, it is malformed, of the future, or the signature or certificate is wrong.
    """
    try:
        head = TreeHead.FromString(signed.head)
        time = head.time.ToDatetime(UTC)
        chain = load_chain(list(signed.certificate_chain))
        signer = verify_chain(chain, cas, now=now or time)
        public_key_of(chain[0]).verify(signed.signature, _DOMAIN + signed.head, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, NotAdmitted, DecodeError, ValueError, OverflowError) as error:
        raise _refused() from error
    sized = len(head.log) == _LOG_BYTES and len(head.root) == HASH_BYTES and 0 < head.size < 1 << 63
    if not sized or (now and time > now + CLOCK_TOLERANCE):
        raise _refused()
    return Head(signer, Position(head.log.hex(), head.size, head.root), time)


def _refused() -> InvalidAnswer:
    return InvalidAnswer("the head of the audit log is not genuine", reason="AUDIT_HEAD")
