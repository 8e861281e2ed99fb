"""Recovery: a member that was away while its certificate expired proves itself by the old key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.timestamp_pb2 import Timestamp

from rsfed.errors import NotAdmitted
from rsfed.trust.bundle import Bundle, check_member
from rsfed.trust.certificates import CLOCK_TOLERANCE, load_chain, public_key_of, to_der
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId
from rsfed.v1.federation_pb2 import FederationServiceRecoverRequest

GRACE = timedelta(days=30)  # after the certificate expired
MAX_AGE = CLOCK_TOLERANCE  # of a request, either way
_CONTEXT = b"rsfed-recover-v1"


def recovery_request(identity: Identity, csr: bytes, *, now: datetime) -> FederationServiceRecoverRequest:
    """Ask for a new certificate with the key of the expired one.

    Args:
        identity: The identity whose certificate expired.
        csr: PKCS#10 request for the new key in DER form.
        now: Time of the request.
    """
    created = Timestamp()
    created.FromDatetime(now)
    return FederationServiceRecoverRequest(
        certificate=to_der(identity.chain[0]),
        csr=csr,
        created=created,
        signature=identity.key.sign(_statement(csr, created), ec.ECDSA(hashes.SHA256())),
    )


def verify_recovery(request: FederationServiceRecoverRequest, bundle: Bundle, *, now: datetime) -> MemberId:
    """Return who asks, if the certificate was genuine, is not revoked and expired not too long ago.

    Raises:
        NotAdmitted: CERT_EXPIRED (too long ago), RECOVER_SIGNATURE, BAD_REQUEST (no time is named), CLOCK_SKEW (an old
            request, or clocks apart), or the reasons of `check_member`.
    """
    (leaf,) = load_chain([request.certificate])
    if now > leaf.not_valid_after_utc + GRACE:
        raise NotAdmitted(
            f"the certificate expired more than {GRACE.days} days ago; ask the federation for a new invitation",
            reason="CERT_EXPIRED",
        )
    _check_signature(request)
    if abs(_created(request) - now) > MAX_AGE:
        raise NotAdmitted("the request was not made now; check this machine's clock and try again", reason="CLOCK_SKEW")
    last_valid = leaf.not_valid_after_utc - timedelta(seconds=1)
    return check_member(bundle, [leaf], now=min(now, last_valid))


def _check_signature(request: FederationServiceRecoverRequest) -> None:
    (leaf,) = load_chain([request.certificate])
    try:
        public_key_of(leaf).verify(
            request.signature, _statement(request.csr, request.created), ec.ECDSA(hashes.SHA256())
        )
    except (InvalidSignature, ValueError, OverflowError) as error:
        raise NotAdmitted("the request is not signed by the certificate's key", reason="RECOVER_SIGNATURE") from error


def _created(request: FederationServiceRecoverRequest) -> datetime:
    try:
        return request.created.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise NotAdmitted("the request does not say when it was made", reason="BAD_REQUEST") from error


def _statement(csr: bytes, created: Timestamp) -> bytes:
    milliseconds = created.seconds * 1000 + created.nanos // 1_000_000
    return _CONTEXT + csr + milliseconds.to_bytes(8)
