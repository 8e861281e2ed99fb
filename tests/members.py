"""A federation in memory: real CA, certificates, bundles and releases, with a clock that tests set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.trust import certificates
from rsfed.trust.bundle import Bundle, open_bundle, sign_bundle
from rsfed.trust.identity import Identity
from rsfed.trust.manifest import CompactResnet, EncoderEntry, FileEntry, Manifest
from rsfed.trust.names import MemberId, Role
from rsfed.trust.release_rules import key_id, sign_manifest
from rsfed.trust.scope import Scope
from rsfed.v1.federation_pb2 import MemberKeys, ReleaseHeader, ReleaseKey, SignedTrustBundle, TrustBundle

START = datetime.now(UTC).replace(microsecond=0)  # TLS itself reads the real clock
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass
class Clock:
    """A wall clock that stands still until a test moves it."""

    moment: datetime = START

    def __call__(self) -> datetime:
        return self.moment

    def move(self, **by: float) -> None:
        self.moment += timedelta(**by)


@dataclass
class Authority:
    """A CA with its key."""

    key: ec.EllipticCurvePrivateKey
    cert: x509.Certificate

    @classmethod
    def new(cls, federation: str = "alps", now: datetime = START) -> Authority:
        return cls(*certificates.make_ca(federation, now=now))


@dataclass
class World:
    """One federation: its CAs, its members and what its trust bundle says."""

    name: str = "alps"
    clock: Clock = field(default_factory=Clock)
    cas: list[Authority] = field(default_factory=lambda: [Authority.new()])
    release_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    version: int = 1
    revoked_serials: list[int] = field(default_factory=list)
    revoked_names: list[str] = field(default_factory=list)
    keys: dict[str, bytes] = field(default_factory=dict)  # sealing keys that the bundle lists, by SPIFFE id
    scopes: dict[str, Scope] = field(default_factory=dict)

    def member(self, role: Role, name: str = "") -> MemberId:
        return MemberId(self.name, role, name or {Role.COORDINATOR: "coordinator"}.get(role, f"some-{role}"))

    def proto(self, **changes) -> TrustBundle:
        """The unsigned bundle of this moment."""
        proto = TrustBundle(
            federation=self.name,
            version=self.version,
            ca_certificates=[certificates.to_der(ca.cert) for ca in self.cas],
            release_keys=[
                ReleaseKey(
                    key_id=key_id(self.release_key.public_key()),
                    public_key=self.release_key.public_key().public_bytes_raw(),
                )
            ],
            coordinator=self.member(Role.COORDINATOR).uri,
            revoked_serials=[serial.to_bytes(20) for serial in self.revoked_serials],
            revoked_names=self.revoked_names,
            members=[MemberKeys(member=self.member(Role.NODE).uri, sealing_key=bytes(32))],
        )
        for uri, key in self.keys.items():
            scope = self.scopes[uri].to_wire() if uri in self.scopes else None
            proto.members.append(MemberKeys(member=uri, sealing_key=key, scope=scope))
        proto.created.FromDatetime(self.clock())
        proto.expires.FromDatetime(self.clock() + timedelta(days=7))
        for name, value in changes.items():
            if isinstance(value, datetime):
                getattr(proto, name).FromDatetime(value)
            else:
                setattr(proto, name, value)
        return proto

    def signed_bundle(self, **changes) -> SignedTrustBundle:
        return sign_bundle(self.proto(**changes), [(ca.cert, ca.key) for ca in self.cas])

    def bundle(self, *, refreshed: datetime | None = None, **changes) -> Bundle:
        return replace(open_bundle(self.signed_bundle(**changes)), refreshed=refreshed)

    def identity(
        self, role: Role, name: str = "", *, ca: Authority | None = None, now: datetime | None = None
    ) -> Identity:
        """A member with a genuine certificate, issued at `now` by `ca`."""
        issuer, key, member = ca or self.cas[0], ec.generate_private_key(ec.SECP256R1()), self.member(role, name)
        leaf = certificates.issue_leaf(
            issuer.key, issuer.cert, certificates.make_csr(key), member, now=now or self.clock()
        )
        return Identity(member, key, (leaf, issuer.cert), X25519PrivateKey.generate(), self.bundle())

    def knows(self, *identities: Identity) -> None:
        """Have the bundle list these members' sealing keys, as if they had enrolled."""
        for identity in identities:
            self.keys[identity.member.uri] = identity.sealing_key.public_key().public_bytes_raw()

    def release(self, version: int = 1, *, key: Ed25519PrivateKey | None = None, **changes) -> SignedRelease:
        return SignedRelease.make(self.name, version, key or self.release_key, self.clock(), **changes)


@dataclass(frozen=True)
class SignedRelease:
    """A release as a coordinator would send it."""

    header: ReleaseHeader
    weights: bytes
    manifest: Manifest

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.header.manifest).digest()

    @classmethod
    def make(cls, federation: str, version: int, key: Ed25519PrivateKey, now: datetime, **changes) -> SignedRelease:
        weights = changes.pop("weights", f"weights of {version}".encode() * 100)
        rgb = modality("rgb")
        encoder = EncoderEntry(
            modality="rgb",
            input=default_spec(rgb, 32),
            architecture=CompactResnet(),
            weights=FileEntry(
                name="weights.safetensors", size=len(weights), sha256=hashlib.sha256(weights).hexdigest()
            ),
        )
        fields = {
            "federation": federation,
            "version": version,
            "created": now,
            "expires": now + timedelta(days=90),
            "bits": 32,
            "encoders": {"rgb": encoder},
            "objective": {"name": "milan"},
            **changes,
        }
        manifest = Manifest(**fields)
        return cls(sign(manifest.to_bytes(), key), weights, manifest)


def sign(manifest: bytes, key: Ed25519PrivateKey) -> ReleaseHeader:
    """Sign any bytes as if they were a manifest."""
    return ReleaseHeader(manifest=manifest, signature=sign_manifest(manifest, key), key_id=key_id(key.public_key()))


def forge(
    ca: Authority,
    names: list[x509.GeneralName],
    *,
    usages=(CLIENT,),
    is_ca: bool = False,
    key=None,
    now: datetime = START,
    extra: x509.ExtensionType | None = None,
    key_usages=frozenset({"digital_signature"}),
) -> x509.Certificate:
    """A leaf that the CA really signed, with any content: what a careless issuer might make."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    all_usages = certificates._ALL_USAGES
    builder = (
        x509.CertificateBuilder()
        .issuer_name(ca.cert.subject)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{u: u in key_usages for u in all_usages}), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extra:
        builder = builder.add_extension(extra, critical=True)
    return builder.sign(ca.key, hashes.SHA256())
