"""X.509 of a federation: its CA, the certificates of its members, and when one is believed.

One federation has one CA (two while the key is being changed), ECDSA P-256, and signs leaves directly. The name of a
member is the one URI SAN of its leaf; what a certificate request asks for beside its key is ignored.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rsfed.errors import NotAdmitted
from rsfed.trust.names import MemberId, Role

LEAF_DAYS = {Role.NODE: 30, Role.COORDINATOR: 30, Role.ANALYST: 7}
CA_DAYS = 10 * 365
SERVING_ROLES = frozenset({Role.NODE, Role.COORDINATOR})
CLOCK_TOLERANCE = timedelta(seconds=60)  # between the clocks of two members

_PARSING = threading.Lock()
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)
_KNOWN_CRITICAL = frozenset({x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage})
_CA_USAGE = {"key_cert_sign", "crl_sign"}
_LEAF_USAGE = {"digital_signature"}
_ALL_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def make_ca(federation: str, *, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make a CA key and its self-signed certificate.

    The subject carries part of the key's digest, so that an old and a new CA never share a name.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    key_digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"rsfed CA {key_digest[:16]} {federation}"[:64])])
    certificate = (
        _builder(subject, subject, key.public_key(), now, timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(_CA_USAGE), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a PKCS#10 request for a key in DER form; it names nobody, since the issuer decides the name."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def issue_leaf(
    ca_key: ec.EllipticCurvePrivateKey, ca_cert: x509.Certificate, csr_der: bytes, member: MemberId, *, now: datetime
) -> x509.Certificate:
    """Issue a member's certificate for the key of a request.

    Args:
        ca_key: Key of the CA.
        ca_cert: Certificate of the CA.
        csr_der: PKCS#10 request in DER form; only its key is taken.
        member: Whose certificate it becomes, as the invitation or the old certificate says.
        now: Time of issue; the certificate is valid from a minute earlier, for members with slow clocks.

    Raises:
        NotAdmitted: BAD_REQUEST, the request is unreadable, not signed by its key, or its key is not on P-256.
    """
    public_key = _requested_key(csr_der)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(member.uri)]
    if member.role in SERVING_ROLES:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names.append(x509.DNSName(member.dns))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, member.name)])
    life = timedelta(days=LEAF_DAYS[member.role])
    return (
        _builder(ca_cert.subject, subject, public_key, now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(_LEAF_USAGE), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def verify_chain(chain: Sequence[x509.Certificate], cas: Sequence[x509.Certificate], *, now: datetime) -> MemberId:
    """Return whose certificate this is, once everything about it was checked but revocation.

    Args:
        chain: Certificates as presented, the leaf first; the rest is not needed, leaves are signed by a CA directly.
        cas: CA certificates of the federation.
        now: Time of the check.

    Raises:
        NotAdmitted: WRONG_CA, CERT_EXPIRED, CERT_NOT_YET_VALID, BAD_NAME or BAD_CERTIFICATE.
    """
    if not chain:
        raise _bad("no certificate was presented")
    issuer, member = _recognise(chain[0], tuple(cas))
    check_validity(issuer, now, "the federation's CA certificate")
    check_validity(chain[0], now, "the certificate")
    return member


def check_validity(cert: x509.Certificate, now: datetime, what: str) -> None:
    """Check that a certificate counts at a moment.

    Args:
        cert: The certificate.
        now: The moment.
        what: The subject of an error's sentence: "the certificate".

    Raises:
        NotAdmitted: CERT_EXPIRED or CERT_NOT_YET_VALID.
    """
    if now >= cert.not_valid_after_utc:
        raise NotAdmitted(f"{what} expired on {cert.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", reason="CERT_EXPIRED")
    if now < cert.not_valid_before_utc:
        raise NotAdmitted(
            f"{what} is valid only from {cert.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; check this machine's clock",
            reason="CERT_NOT_YET_VALID",
        )


def member_of(leaf: x509.Certificate) -> MemberId:
    """Return the member that a certificate names, without asking whether it is believed.

    Raises:
        NotAdmitted: BAD_NAME, the certificate has not exactly one name in canonical form, or another DNS name than
            the member's; BAD_CERTIFICATE, it cannot be read.
    """
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise NotAdmitted("the certificate names no member", reason="BAD_NAME") from error
    except _UNREADABLE as error:
        raise _bad("the certificate cannot be read") from error
    uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise NotAdmitted(f"a certificate names exactly one member; this one names {len(uris)}", reason="BAD_NAME")
    member = MemberId.parse(uris[0])
    expected = [member.dns] if member.role in SERVING_ROLES else []
    if san.get_values_for_type(x509.DNSName) != expected or len(san) != 1 + len(expected):
        raise NotAdmitted("the certificate has other names than its member's", reason="BAD_NAME")
    return member


def needs_renewal(cert: x509.Certificate, *, now: datetime) -> bool:
    """Say whether two thirds of a certificate's life are over."""
    life = cert.not_valid_after_utc - cert.not_valid_before_utc
    return now >= cert.not_valid_before_utc + life * 2 / 3


def is_issued_by(leaf: x509.Certificate, ca: x509.Certificate) -> bool:
    """Say whether a certificate carries the signature of a CA certificate's key."""
    try:
        leaf.verify_directly_issued_by(ca)
    except (InvalidSignature, *_UNREADABLE):
        return False
    return True


def ca_key_of(ca: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return the key of a CA certificate.

    Raises:
        NotAdmitted: BAD_CERTIFICATE, it is not the certificate of a CA of ours.
    """
    extensions = _extensions(ca)
    constraints, usage = extensions.get(x509.BasicConstraints), extensions.get(x509.KeyUsage)
    is_ca = isinstance(constraints, x509.BasicConstraints) and constraints.ca
    may_sign = isinstance(usage, x509.KeyUsage) and usage.key_cert_sign
    if not is_ca or not may_sign or not is_issued_by(ca, ca):
        raise _bad("this is not the certificate of a federation's CA")
    return _p256_key(ca)


def load_chain(pem_or_der: bytes | Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Read certificates: PEM text, or one DER item for each.

    Raises:
        NotAdmitted: BAD_CERTIFICATE, one of them cannot be read, or there is none.
    """
    if isinstance(pem_or_der, bytes):
        return _parse_pem(pem_or_der)
    chain = tuple(_parse_der(der) for der in pem_or_der)
    if not chain:
        raise _bad("no certificate was presented")
    return chain


def to_der(cert: x509.Certificate) -> bytes:
    """Return a certificate in DER form."""
    return cert.public_bytes(serialization.Encoding.DER)


def to_pem(certs: Sequence[x509.Certificate]) -> bytes:
    """Return certificates in PEM form, one after the other."""
    return b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in certs)


def fingerprint(cert: x509.Certificate) -> bytes:
    """Return the SHA-256 fingerprint of a certificate, 32 bytes."""
    return cert.fingerprint(hashes.SHA256())


def public_key_of(leaf: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return the key of a member's certificate.

    Raises:
        NotAdmitted: BAD_CERTIFICATE, the key is not on P-256.
    """
    return _p256_key(leaf)


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - CLOCK_TOLERANCE)
        .not_valid_after(now.astimezone(UTC) + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(allowed: set[str]) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in allowed for usage in _ALL_USAGES})


def _requested_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_der_x509_csr(csr_der)
        if request.is_signature_valid:
            return _p256_key(request)
    except (NotAdmitted, *_UNREADABLE) as error:
        raise NotAdmitted(
            "the certificate request cannot be used; it needs a P-256 key", reason="BAD_REQUEST"
        ) from error
    raise NotAdmitted("the certificate request is not signed by its own key", reason="BAD_REQUEST")


@lru_cache(maxsize=1024)
def _parse_pem(pem: bytes) -> tuple[x509.Certificate, ...]:
    with _strictly():
        return tuple(x509.load_pem_x509_certificates(pem))


@lru_cache(maxsize=1024)
def _parse_der(der: bytes) -> x509.Certificate:
    with _strictly():
        return x509.load_der_x509_certificate(der)


@contextmanager
def _strictly() -> Iterator[None]:
    """Refuse forms that are hardly certificates; one thread at a time, since warnings belong to the whole process."""
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            yield
    except (CryptographyDeprecationWarning, *_UNREADABLE) as error:
        raise _bad("a certificate cannot be read") from error


@lru_cache(maxsize=1024)
def _recognise(leaf: x509.Certificate, cas: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, MemberId]:
    """Return who signed a leaf and whom it names: what never changes about it, so the calls of a channel share it."""
    issuer = next((ca for ca in cas if is_issued_by(leaf, ca)), None)
    if issuer is None:
        raise NotAdmitted("the certificate is not signed by this federation's CA; join it first", reason="WRONG_CA")
    member = member_of(leaf)
    _check_form(leaf, member)
    return issuer, member


def _check_form(leaf: x509.Certificate, member: MemberId) -> None:
    """Check that a leaf is what `issue_leaf` makes: no CA, signs only, used as its role allows."""
    _p256_key(leaf)
    if to_der(leaf)[-len(leaf.signature) - 1] != 0:
        raise _bad("the certificate's signature is not made of whole bytes")  # a second spelling of the same signature
    extensions = _extensions(leaf)
    usages = {ExtendedKeyUsageOID.CLIENT_AUTH}
    if member.role in SERVING_ROLES:
        usages.add(ExtendedKeyUsageOID.SERVER_AUTH)
    extended = extensions.get(x509.ExtendedKeyUsage)
    if not isinstance(extended, x509.ExtendedKeyUsage) or set(extended) != usages:
        raise _bad("the certificate may not be used as its role needs")
    constraints = extensions.get(x509.BasicConstraints)
    if not isinstance(constraints, x509.BasicConstraints) or constraints.ca:
        raise _bad("the certificate is not a member's")
    if extensions.get(x509.KeyUsage) != _key_usage(_LEAF_USAGE):
        raise _bad("the certificate's key may do more or less than sign")


def _extensions(cert: x509.Certificate) -> dict[type[x509.ExtensionType], x509.ExtensionType]:
    try:
        found = list(cert.extensions)
    except _UNREADABLE as error:
        raise _bad("the certificate cannot be read") from error
    if any(e.critical and type(e.value) not in _KNOWN_CRITICAL for e in found):
        raise _bad("the certificate has a critical extension that this software does not know")
    return {type(e.value): e.value for e in found}


def _p256_key(source: x509.Certificate | x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    try:
        key = source.public_key()
    except _UNREADABLE as error:
        raise _bad("the key of the certificate cannot be read") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise _bad("keys of certificates are on the curve P-256")


def _bad(message: str) -> NotAdmitted:
    return NotAdmitted(message, reason="BAD_CERTIFICATE")
