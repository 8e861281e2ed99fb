"""The trust bundle of the federation: made from the state, signed by every CA key, published by storing it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from coordinator.keyring import Keyring
from coordinator.scopes import allowed_by_member
from coordinator.state import from_ms, to_ms
from rsfed.errors import StateError
from rsfed.trust.bundle import sign_bundle
from rsfed.trust.certificates import to_der
from rsfed.trust.names import MemberId
from rsfed.trust.recovery import GRACE
from rsfed.v1.federation_pb2 import MemberKeys, ReleaseKey, SignedTrustBundle, TrustBundle

BUNDLE_LIFE = timedelta(days=7)
SETTLING = timedelta(seconds=90)
"""How long a new CA is only listed before it signs leaves: members fetch the bundle every 30 s."""


@dataclass(frozen=True, slots=True)
class Ca:
    """A CA certificate that the federation trusts."""

    fingerprint: str  # SHA-256 in hexadecimal digits
    certificate: x509.Certificate
    added: datetime


def publish_bundle(
    connection: sqlite3.Connection, keyring: Keyring, coordinator: MemberId, now: datetime
) -> SignedTrustBundle:
    """Make, sign and store a new bundle, in the transaction of the change that it tells.

    Its version is at least the time in milliseconds, so that a restored coordinator never repeats one.
    """
    cas = trusted_cas(connection)
    proto = TrustBundle(
        federation=coordinator.federation,
        version=max(to_ms(now), bundle_version(connection) + 1),
        ca_certificates=[to_der(ca.certificate) for ca in cas],
        coordinator=coordinator.uri,
    )
    proto.created.FromDatetime(now)
    proto.expires.FromDatetime(now + BUNDLE_LIFE)
    for row in connection.execute("SELECT * FROM release_key WHERE retired IS NULL ORDER BY added DESC"):
        proto.release_keys.append(ReleaseKey(key_id=row["key_id"], public_key=row["public_key"]))
    for row in connection.execute(  # an expired certificate can be recovered for a while, a revoked one never
        "SELECT serial FROM certificate LEFT JOIN member ON member.uri = certificate.member"
        " WHERE certificate.revoked IS NOT NULL AND expires > ? AND member.revoked IS NULL ORDER BY serial",
        (to_ms(now - GRACE),),
    ):  # those of members that are out by name need no list
        proto.revoked_serials.append(bytes.fromhex(row["serial"]))
    allowed = allowed_by_member(connection)
    for row in connection.execute("SELECT uri, sealing_key, revoked FROM member ORDER BY uri"):
        if row["revoked"] is None:
            member = MemberKeys(member=row["uri"], sealing_key=row["sealing_key"])
            if row["uri"] in allowed:
                member.scope.CopyFrom(allowed[row["uri"]].scope.to_wire())
            proto.members.append(member)
        else:
            proto.revoked_names.append(row["uri"])
    signed = sign_bundle(proto, [(ca.certificate, keyring.ca(ca.fingerprint)) for ca in cas])
    connection.execute("DELETE FROM bundle")
    connection.execute(
        "INSERT INTO bundle VALUES (?, ?, ?)",
        (proto.version, signed.SerializeToString(), to_ms(now + BUNDLE_LIFE)),
    )
    return signed


def current_bundle(connection: sqlite3.Connection) -> SignedTrustBundle:
    """Return the newest signed bundle.

    Raises:
        StateError: there is none.
    """
    row = connection.execute("SELECT signed FROM bundle ORDER BY version DESC LIMIT 1").fetchone()
    if row is None:
        raise StateError("there is no trust bundle; restore a backup")
    return SignedTrustBundle.FromString(row["signed"])


def bundle_version(connection: sqlite3.Connection) -> int:
    """Return the version of the newest bundle; 0 before the first."""
    version: int = connection.execute("SELECT coalesce(max(version), 0) FROM bundle").fetchone()[0]
    return version


def bundle_is_due(connection: sqlite3.Connection, now: datetime) -> bool:
    """Say whether half of the newest bundle's life is over."""
    row = connection.execute("SELECT max(expires) FROM bundle").fetchone()
    return row[0] is None or from_ms(row[0]) - now < BUNDLE_LIFE / 2


def trusted_cas(connection: sqlite3.Connection) -> list[Ca]:
    """Return every CA in the bundle, the newest first."""
    rows = connection.execute("SELECT * FROM authority WHERE retired IS NULL ORDER BY added DESC")
    return [Ca(r["fingerprint"], x509.load_der_x509_certificate(r["certificate"]), from_ms(r["added"])) for r in rows]


def issuing_ca(connection: sqlite3.Connection, now: datetime) -> Ca:
    """Return the CA that signs members' leaves now: the newest that members had time to hear of."""
    cas = trusted_cas(connection)
    return next((ca for ca in cas if ca.added <= now - SETTLING), cas[-1])


def serving_ca(connection: sqlite3.Connection) -> Ca:
    """Return the CA that signs the coordinator's own leaf: the oldest, which every member knows."""
    return trusted_cas(connection)[-1]
