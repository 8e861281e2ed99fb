"""The trust bundle: what every member of a federation believes, signed by the CA and only ever replaced by a newer one.

Order of the checks, each before the next: signature by a CA that is already believed, form, federation, clock, expiry,
version. Nothing of an unsigned bundle is looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError

from rsfed.errors import NotAdmitted
from rsfed.trust.certificates import CLOCK_TOLERANCE, ca_key_of, fingerprint, load_chain, verify_chain
from rsfed.trust.names import MemberId, Role
from rsfed.trust.release_rules import key_id
from rsfed.trust.scope import EVERYTHING, Scope
from rsfed.v1.federation_pb2 import BundleSignature, SignedTrustBundle, TrustBundle

MAX_BUNDLE_BYTES = 8 << 20
MAX_BUNDLE_AGE = timedelta(hours=24)  # without news from the coordinator, revocations count as unknown


@dataclass(frozen=True, slots=True)
class Bundle:
    """A trust bundle whose signature was checked.

    Attributes:
        federation: Name of the federation.
        version: Rises with every bundle.
        created: When it was made.
        expires: After this moment nobody is believed on its word.
        cas: Certificates of the CA, the one that signs new leaves first.
        release_keys: Keys that sign releases, by key id.
        coordinator: The one coordinator.
        revoked_serials: Serial numbers of revoked certificates.
        revoked_names: SPIFFE ids of revoked members.
        members: X25519 sealing keys, 32 bytes each, by SPIFFE id.
        digest: SHA-256 of the signed bytes.
        refreshed: When the coordinator last said that this is the newest bundle; None at the coordinator itself.
        scopes: What analysts may ask, by SPIFFE id; who has none may ask everything.
    """

    federation: str
    version: int
    created: datetime
    expires: datetime
    cas: tuple[x509.Certificate, ...]
    release_keys: dict[str, Ed25519PublicKey]
    coordinator: MemberId
    revoked_serials: frozenset[int]
    revoked_names: frozenset[str]
    members: dict[str, bytes]
    digest: bytes
    refreshed: datetime | None = None
    scopes: Mapping[str, Scope] = field(default_factory=dict)

    def scope_of(self, member: MemberId) -> Scope:
        """Return what an analyst may ask."""
        return self.scopes.get(member.uri, EVERYTHING)

    def stale(self, now: datetime) -> bool:
        """Say whether too long ago was asked which certificates are revoked; a clock that jumped counts as long."""
        return self.refreshed is not None and abs(now - self.refreshed) > MAX_BUNDLE_AGE


def sign_bundle(
    bundle_proto: TrustBundle, ca_keys: Sequence[tuple[x509.Certificate, ec.EllipticCurvePrivateKey]]
) -> SignedTrustBundle:
    """Sign a bundle with every CA key that the federation still has."""
    data = bundle_proto.SerializeToString(deterministic=True)
    signatures = [
        BundleSignature(ca_fingerprint=fingerprint(cert), signature=key.sign(data, ec.ECDSA(hashes.SHA256())))
        for cert, key in ca_keys
    ]
    return SignedTrustBundle(bundle=data, signatures=signatures)


def admit_bundle(
    current: Bundle | None, signed: SignedTrustBundle, *, anchors: Sequence[x509.Certificate], now: datetime
) -> Bundle:
    """Return the bundle if it may replace the current one.

    Args:
        current: The bundle that is believed now; None at enrolment.
        signed: The candidate.
        anchors: CA certificates that are believed already: those of the current bundle, or the token's.
        now: Time of the check.

    Raises:
        NotAdmitted: BUNDLE_SIGNATURE, BUNDLE_MALFORMED, WRONG_FEDERATION, CLOCK_SKEW (made in the future),
            BUNDLE_EXPIRED, or BUNDLE_ROLLBACK (a lower version, or the same with other bytes).
    """
    candidate = open_bundle(signed, anchors=anchors)
    if current and candidate.federation != current.federation:
        raise NotAdmitted("the trust bundle is of another federation", reason="WRONG_FEDERATION")
    if candidate.created > now + CLOCK_TOLERANCE:
        raise NotAdmitted("the trust bundle was made in the future; check this machine's clock", reason="CLOCK_SKEW")
    _check_expiry(candidate, now)
    if current and candidate.version <= current.version and candidate.digest != current.digest:
        raise NotAdmitted(
            f"trust bundle {candidate.version} may not replace {current.version}", reason="BUNDLE_ROLLBACK"
        )
    return candidate


def open_bundle(signed: SignedTrustBundle, *, anchors: Sequence[x509.Certificate] | None = None) -> Bundle:
    """Check the signature of a bundle, then read it.

    Args:
        signed: The bundle as it was sent or stored.
        anchors: CA certificates one of which must have signed; None for one's own stored bundle, which only has to be
            whole: signed by a CA that it lists.

    Raises:
        NotAdmitted: BUNDLE_SIGNATURE or BUNDLE_MALFORMED.
    """
    if len(signed.bundle) > MAX_BUNDLE_BYTES:
        raise NotAdmitted("the trust bundle is too large", reason="BUNDLE_MALFORMED")
    if anchors is not None:
        _check_signature(signed, anchors)
    try:
        bundle = _read(TrustBundle.FromString(signed.bundle), hashlib.sha256(signed.bundle).digest())
    except (DecodeError, ValueError, OverflowError, NotAdmitted) as error:
        raise NotAdmitted("the trust bundle cannot be read", reason="BUNDLE_MALFORMED") from error
    if anchors is None:
        _check_signature(signed, bundle.cas)
    return bundle


def check_member(bundle: Bundle, chain: Sequence[x509.Certificate], *, now: datetime) -> MemberId:
    """Return whose certificate this is, if the bundle's federation believes it now.

    Raises:
        NotAdmitted: the reasons of `verify_chain`, and WRONG_FEDERATION, REVOKED, REVOCATION_STALE, BUNDLE_EXPIRED.
    """
    member = verify_chain(chain, bundle.cas, now=now)
    if member.federation != bundle.federation:
        raise NotAdmitted("the certificate is of another federation", reason="WRONG_FEDERATION")
    if chain[0].serial_number in bundle.revoked_serials or member.uri in bundle.revoked_names:
        raise NotAdmitted("the certificate was revoked; ask the federation for a new invitation", reason="REVOKED")
    if member.role is Role.COORDINATOR and member != bundle.coordinator:
        raise NotAdmitted("the certificate is not that of the federation's coordinator", reason="BAD_NAME")
    _check_expiry(bundle, now)
    if bundle.stale(now):
        raise NotAdmitted(
            "the list of revoked certificates is older than 24 hours; check the connection to the coordinator",
            reason="REVOCATION_STALE",
        )
    return member


def _check_expiry(bundle: Bundle, now: datetime) -> None:
    if bundle.expires <= now:
        raise NotAdmitted(
            f"the trust bundle expired on {bundle.expires:%Y-%m-%d %H:%M} UTC; check the connection to the coordinator",
            reason="BUNDLE_EXPIRED",
        )


def _check_signature(signed: SignedTrustBundle, anchors: Sequence[x509.Certificate]) -> None:
    keys = {fingerprint(anchor): ca_key_of(anchor) for anchor in anchors}
    for item in signed.signatures:
        if (key := keys.get(item.ca_fingerprint)) and _signed_by(key, item.signature, signed.bundle):
            return
    raise NotAdmitted("the trust bundle is not signed by a CA that is trusted here", reason="BUNDLE_SIGNATURE")


def _signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _read(proto: TrustBundle, digest: bytes) -> Bundle:
    cas = load_chain(list(proto.ca_certificates))
    for ca in cas:
        ca_key_of(ca)
    release_keys = {key.key_id: Ed25519PublicKey.from_public_bytes(key.public_key) for key in proto.release_keys}
    if any(key_id(key) != name for name, key in release_keys.items()):
        raise ValueError("a release key does not fit its id")
    if any(len(member.sealing_key) not in (0, 32) for member in proto.members):
        raise ValueError("a sealing key has the wrong length")
    return Bundle(
        federation=proto.federation,
        version=proto.version,
        created=proto.created.ToDatetime(UTC),
        expires=proto.expires.ToDatetime(UTC),
        cas=cas,
        release_keys=release_keys,
        coordinator=MemberId.parse(proto.coordinator),
        revoked_serials=frozenset(int.from_bytes(serial) for serial in proto.revoked_serials),
        revoked_names=frozenset(proto.revoked_names),
        members={member.member: member.sealing_key for member in proto.members},
        digest=digest,
        scopes={member.member: Scope.of_wire(member.scope) for member in proto.members if member.HasField("scope")},
    )
