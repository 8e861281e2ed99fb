"""New keys for the CA and for releases. A new CA is listed before it signs; the old one stays while its leaves live."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509 import Certificate

from coordinator import audit
from coordinator.bundles import SETTLING, Ca, publish_bundle, trusted_cas
from coordinator.keyring import Keyring
from coordinator.releases import Publisher
from coordinator.state import State, to_ms
from rsfed.clock import Now
from rsfed.errors import ReleaseRefused, UsageError
from rsfed.trust.certificates import make_ca, to_der
from rsfed.trust.names import MemberId
from rsfed.trust.recovery import GRACE


class Rotation:
    """Replaces keys of the federation.

    Args:
        state: The coordinator's database.
        keyring: Where the keys lie.
        coordinator: The coordinator's name.
        now: Clock.
    """

    def __init__(self, state: State, keyring: Keyring, coordinator: MemberId, now: Now) -> None:
        self._state = state
        self._keyring = keyring
        self._coordinator = coordinator
        self._now = now

    def new_ca(self) -> str:
        """Add a new CA and return its fingerprint; leaves are signed by it as soon as members have heard of it.

        Raises:
            UsageError: the last change is not over yet.
        """
        now = self._now()
        key, certificate = make_ca(self._coordinator.federation, now=now)
        with self._state.writing() as connection:
            if len(trusted_cas(connection)) > 1:
                raise UsageError(
                    f"the CA was changed lately; its old key goes {GRACE.days} days after its last certificate expired"
                )
            name = add_ca(connection, self._keyring, certificate, key, now)
            publish_bundle(connection, self._keyring, self._coordinator, now)
            audit.record(connection, now, "ca.added", name)
        return name

    def retire_cas(self) -> list[str]:
        """Take CAs out of the bundle that nobody needs any more, and return which."""
        now = self._now()
        with self._state.writing() as connection:
            *older, newest = trusted_cas(connection)[::-1]
            if newest.added > now - SETTLING or self._is_awaited(connection, newest, now):
                return []
            ended = [ca.fingerprint for ca in older if not self._in_use(connection, ca.fingerprint, now)]
            if not ended:
                return []
            for name in ended:
                connection.execute("UPDATE authority SET retired = ? WHERE fingerprint = ?", (to_ms(now), name))
                audit.record(connection, now, "ca.retired", name)
            publish_bundle(connection, self._keyring, self._coordinator, now)
        for name in ended:
            self._keyring.discard_ca(name)
        return ended

    def new_release_key(self, publisher: Publisher) -> str:
        """Sign releases by a new key from now on and return its id; members stop trusting the old one at once.

        Raises:
            ReleaseRefused: the current release cannot be signed anew, for example because it expired; nothing changed.
        """
        now = self._now()
        if publisher.current().manifest.expired(now):
            raise ReleaseRefused(
                "the current release has expired; publish a new one first, by `rsfed coordinator train`",
                reason="RELEASE_EXPIRED",
            )
        with self._state.writing() as connection:
            connection.execute("UPDATE release_key SET retired = ? WHERE retired IS NULL", (to_ms(now),))
            name = add_release_key(connection, self._keyring, now)
            publish_bundle(connection, self._keyring, self._coordinator, now)
            audit.record(connection, now, "release-key.changed", name)
            publisher.sign_anew(connection, now)
        publisher.discard_retired_keys()
        return name

    @staticmethod
    def _is_awaited(connection: sqlite3.Connection, newest: Ca, now: datetime) -> bool:
        """Say whether somebody still holds an open invitation that does not name the newest CA."""
        row = connection.execute(
            "SELECT 1 FROM invitation WHERE used IS NULL AND withdrawn IS NULL"
            " AND expires > ? AND created <= ? LIMIT 1",  # of one millisecond either may have come first
            (to_ms(now), to_ms(newest.added)),
        ).fetchone()
        return row is not None

    def _in_use(self, connection: sqlite3.Connection, ca: str, now: datetime) -> bool:
        """Say whether a member has a certificate of this CA that is valid or can be recovered.

        The coordinator's own can be replaced any time.
        """
        row = connection.execute(
            "SELECT 1 FROM certificate WHERE issuer = ? AND expires > ? AND revoked IS NULL AND member <> ? LIMIT 1",
            (ca, to_ms(now - GRACE), self._coordinator.uri),
        ).fetchone()
        return row is not None


def add_ca(
    connection: sqlite3.Connection,
    keyring: Keyring,
    certificate: Certificate,
    key: EllipticCurvePrivateKey,
    now: datetime,
) -> str:
    """Keep a new CA and return its fingerprint."""
    name = keyring.add_ca(certificate, key)
    connection.execute(
        "INSERT INTO authority (fingerprint, certificate, added) VALUES (?, ?, ?)",
        (name, to_der(certificate), to_ms(now)),
    )
    return name


def add_release_key(connection: sqlite3.Connection, keyring: Keyring, now: datetime) -> str:
    """Make and keep a new release key and return its id."""
    key = Ed25519PrivateKey.generate()
    name = keyring.add_release_key(key)
    connection.execute(
        "INSERT INTO release_key (key_id, public_key, added) VALUES (?, ?, ?)",
        (name, key.public_key().public_bytes_raw(), to_ms(now)),
    )
    return name
