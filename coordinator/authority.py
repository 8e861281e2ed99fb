"""Who belongs to the federation: invitations, certificates, revocation. Every change publishes a new trust bundle.

Each call is one transaction: a certificate exists exactly when the state that explains it does.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from coordinator import audit
from coordinator.bundles import current_bundle, issuing_ca, publish_bundle, serving_ca, trusted_cas
from coordinator.keyring import Keyring
from coordinator.scopes import Allowed, allow
from coordinator.state import State, to_ms
from rsfed.clock import Now, utc_now
from rsfed.config import CoordinatorConfig
from rsfed.errors import Busy, InvalidMessage, NotAdmitted, UsageError
from rsfed.home import Home
from rsfed.trust.bundle import open_bundle
from rsfed.trust.certificates import LEAF_DAYS, fingerprint, is_issued_by, issue_leaf, load_chain, to_pem
from rsfed.trust.names import MemberId, Role, check_label
from rsfed.trust.recovery import verify_recovery
from rsfed.trust.tokens import Token
from rsfed.v1.federation_pb2 import FederationServiceRecoverRequest, SignedTrustBundle

ISSUED_PER_HOUR = 6  # certificates of one member; more are refused
_REFUSED_INVITATION = {
    "used": ("the invitation was used already; ask for a new one", "TOKEN_USED"),
    "withdrawn": ("the invitation was withdrawn; ask for a new one", "TOKEN_WITHDRAWN"),
    "expired": ("the invitation has expired; ask for a new one", "TOKEN_EXPIRED"),
}


@dataclass(frozen=True, slots=True)
class Admission:
    """A fresh certificate with its CA certificate, and the newest trust bundle."""

    member: MemberId
    chain: tuple[x509.Certificate, x509.Certificate]
    bundle: SignedTrustBundle


class Authority:
    """Admits and removes members.

    Args:
        home: The coordinator's home.
        state: Its database.
        config: coordinator.toml.
        now: Clock.
    """

    def __init__(self, home: Home, state: State, config: CoordinatorConfig, *, now: Now = utc_now) -> None:
        self.coordinator = MemberId(config.federation, Role.COORDINATOR, config.name)
        self._config = config
        self._state = state
        self._keyring = Keyring(home)
        self._now = now

    def invite(self, name: str, role: Role, *, hours: float) -> Token:
        """Make an invitation. It replaces an open one of the same name and role.

        Raises:
            UsageError: the name will not do, or a coordinator would be invited.
        """
        member = self._member(name, role)
        now = self._now()
        token_id, secret = secrets.token_hex(8), secrets.token_bytes(32)
        with self._state.writing() as connection:
            _withdraw_invitations(connection, member, now)
            expires = now + timedelta(hours=hours)
            connection.execute(
                "INSERT INTO invitation (id, secret_digest, role, name, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
                (token_id, _digest(secret), role, name, to_ms(now), to_ms(expires)),
            )
            audit.record(connection, now, "member.invited", member.uri)
            anchors = [serving_ca(connection), *trusted_cas(connection)[:-1]]
        return Token(
            address=self._config.serve.join_advertise,
            server_name=self.coordinator.dns,
            ca_pem=to_pem([ca.certificate for ca in anchors]),
            federation=member.federation,
            role=role,
            name=name,
            invitation=token_id,
            secret=secret,
            expires=expires,
        )

    def enroll(self, invitation: str, secret: bytes, csr: bytes, sealing_key: bytes) -> Admission:
        """Exchange an invitation for a certificate. Certificates that the member had before are revoked.

        Raises:
            NotAdmitted: TOKEN_UNKNOWN, TOKEN_USED, TOKEN_WITHDRAWN, TOKEN_EXPIRED, or BAD_REQUEST; the last one leaves
                the invitation open.
            InvalidMessage: the sealing key has not 32 bytes.
        """
        if len(sealing_key) != 32:
            raise InvalidMessage("a sealing key has 32 bytes", reason="BAD_REQUEST")
        now = self._now()
        with self._state.writing() as connection:
            member = self._redeem(connection, invitation, secret, now)
            _revoke_certificates(connection, member, now)
            connection.execute(
                "INSERT INTO member (uri, role, name, sealing_key, joined) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (uri) DO UPDATE SET sealing_key = excluded.sealing_key, joined = excluded.joined,"
                " revoked = NULL",
                (member.uri, member.role, member.name, sealing_key, to_ms(now)),
            )
            if member.role is Role.NODE:  # where the former holder was reached
                connection.execute("DELETE FROM node WHERE name = ?", (member.name,))
            chain = self._issue(connection, member, csr, now)
            bundle = publish_bundle(connection, self._keyring, self.coordinator, now)
            audit.record(connection, now, "member.enrolled", member.uri, serial=_serial(chain[0]))
        return Admission(member, chain, bundle)

    def renew(self, member: MemberId, present: x509.Certificate, csr: bytes) -> Admission:
        """Issue a fresh certificate to a member whose present one was just verified.

        Raises:
            NotAdmitted: REVOKED, perhaps since then; or BAD_REQUEST.
            Busy: RENEWED_TOO_OFTEN.
        """
        now = self._now()
        with self._state.writing() as connection:
            _require_member(connection, member, present)
            _require_pause(connection, member, now)
            chain = self._issue(connection, member, csr, now)
            audit.record(connection, now, "certificate.renewed", member.uri, serial=_serial(chain[0]))
            return Admission(member, chain, current_bundle(connection))

    def recover(self, request: FederationServiceRecoverRequest) -> Admission:
        """Exchange a certificate that expired at most 30 days ago, proved by its key, for a fresh one.

        Raises:
            NotAdmitted: REVOKED, BAD_REQUEST, or a reason of `verify_recovery`.
            Busy: RENEWED_TOO_OFTEN.
        """
        now = self._now()
        with self._state.reading() as connection:
            signed = current_bundle(connection)
        member = verify_recovery(request, open_bundle(signed), now=now)
        (expired,) = load_chain([request.certificate])
        with self._state.writing() as connection:
            _require_member(connection, member, expired)
            _require_pause(connection, member, now)
            chain = self._issue(connection, member, request.csr, now)
            audit.record(connection, now, "certificate.recovered", member.uri, serial=_serial(chain[0]))
            return Admission(member, chain, current_bundle(connection))

    def revoke(self, name: str, role: Role | None = None) -> MemberId:
        """Put a member out of the federation, with all its certificates and open invitations.

        Args:
            name: Name of the member.
            role: Its role; with it also a name that is not known here is put out, since a coordinator that was restored
                does not know who joined after the backup.

        Raises:
            UsageError: no role is given, and no member or invitation has this name or several have.
        """
        now = self._now()
        with self._state.writing() as connection:
            member = self._member(name, role) if role else self._find(connection, name)
            _withdraw_invitations(connection, member, now)
            _revoke_certificates(connection, member, now)
            connection.execute(
                "INSERT INTO member (uri, role, name, sealing_key, joined, revoked) VALUES (?, ?, ?, x'', ?, ?)"
                " ON CONFLICT (uri) DO UPDATE SET revoked = coalesce(revoked, excluded.revoked)",
                (member.uri, member.role, member.name, to_ms(now), to_ms(now)),
            )
            publish_bundle(connection, self._keyring, self.coordinator, now)
            audit.record(connection, now, "member.revoked", member.uri)
        return member

    def allow(self, name: str, allowed: Allowed) -> tuple[MemberId, bool]:
        """Say what an analyst may from now on, also one that has not joined yet.

        Returns:
            The analyst, and whether it is a member now.

        Raises:
            UsageError: the name will not do or is that of a node, or a node of the scope is not known or revoked.
        """
        now = self._now()
        member = self._member(name, Role.ANALYST)
        with self._state.writing() as connection:
            roles = _roles(connection, name)
            if roles and Role.ANALYST not in roles:
                raise UsageError(
                    f"{name!r} is a {min(roles)}, and only analysts ask; name an analyst, or invite one of this name"
                    " first"
                )
            for node in sorted(allowed.scope.nodes):
                uri = self._member(node, Role.NODE).uri
                known = "SELECT 1 FROM member WHERE uri = ? AND revoked IS NULL"
                if connection.execute(known, (uri,)).fetchone() is None:
                    raise UsageError(
                        f"the federation has no node {node!r}, or it was revoked; see `rsfed coordinator members`"
                    )
            allow(connection, member, allowed)
            publish_bundle(connection, self._keyring, self.coordinator, now)
            audit.record(connection, now, "scope.set", member.uri, **allowed.as_json())
            joined = "SELECT 1 FROM member WHERE uri = ? AND revoked IS NULL"
            return member, connection.execute(joined, (member.uri,)).fetchone() is not None

    def renew_own(self, csr: bytes) -> tuple[x509.Certificate, x509.Certificate]:
        """Issue the coordinator's own certificate, by the oldest CA: members may not know a newer one yet."""
        now = self._now()
        with self._state.writing() as connection:
            chain = self._issue(connection, self.coordinator, csr, now)
            audit.record(connection, now, "certificate.renewed", self.coordinator.uri, serial=_serial(chain[0]))
        return chain

    def own_is_of_serving_ca(self, leaf: x509.Certificate) -> bool:
        """Say whether the coordinator's certificate is signed by the CA that ought to sign it."""
        with self._state.reading() as connection:
            return is_issued_by(leaf, serving_ca(connection).certificate)

    def _member(self, name: str, role: Role) -> MemberId:
        if role is Role.COORDINATOR:
            raise UsageError("a federation has one coordinator; invite a node or an analyst")
        return MemberId(self.coordinator.federation, role, check_label(name, "a member's name"))

    def _issue(
        self, connection: sqlite3.Connection, member: MemberId, csr: bytes, now: datetime
    ) -> tuple[x509.Certificate, x509.Certificate]:
        ca = serving_ca(connection) if member.role is Role.COORDINATOR else issuing_ca(connection, now)
        leaf = issue_leaf(self._keyring.ca(ca.fingerprint), ca.certificate, csr, member, now=now)
        connection.execute(
            "INSERT INTO certificate (serial, member, issuer, expires) VALUES (?, ?, ?, ?)",
            (_serial(leaf), member.uri, fingerprint(ca.certificate).hex(), to_ms(leaf.not_valid_after_utc)),
        )
        return leaf, ca.certificate

    def _redeem(self, connection: sqlite3.Connection, invitation: str, secret: bytes, now: datetime) -> MemberId:
        """Use an invitation up. The one UPDATE decides: of many callers exactly one sees its row change."""
        row = connection.execute(
            "UPDATE invitation SET used = ? WHERE id = ? AND secret_digest = ?"
            " AND used IS NULL AND withdrawn IS NULL AND expires > ? RETURNING role, name",
            (to_ms(now), invitation, _digest(secret), to_ms(now)),
        ).fetchone()
        if row is not None:
            return MemberId(self.coordinator.federation, Role(row["role"]), row["name"])
        known = connection.execute(
            "SELECT * FROM invitation WHERE id = ? AND secret_digest = ?", (invitation, _digest(secret))
        ).fetchone()
        if known is None:
            raise NotAdmitted("the invitation is not known here; ask for a new one", reason="TOKEN_UNKNOWN")
        why = "used" if known["used"] else "withdrawn" if known["withdrawn"] else "expired"
        text, reason = _REFUSED_INVITATION[why]
        raise NotAdmitted(text, reason=reason)

    def _find(self, connection: sqlite3.Connection, name: str) -> MemberId:
        roles = _roles(connection, name) - {Role.COORDINATOR}
        if not roles:
            raise UsageError(
                f"no member named {name!r} is known here; `rsfed coordinator members` lists all. One that joined after"
                " the backup that was restored is revoked with --role"
            )
        if len(roles) > 1:
            raise UsageError(f"{name!r} names a node and an analyst; say which with --role")
        return self._member(name, roles.pop())


def _withdraw_invitations(connection: sqlite3.Connection, member: MemberId, now: datetime) -> None:
    connection.execute(
        "UPDATE invitation SET withdrawn = ? WHERE role = ? AND name = ? AND used IS NULL AND withdrawn IS NULL",
        (to_ms(now), member.role, member.name),
    )


def _roles(connection: sqlite3.Connection, name: str) -> set[Role]:
    """Return the roles in which a name is or was a member, or is invited."""
    found = connection.execute(
        "SELECT role FROM member WHERE name = :name UNION SELECT role FROM invitation WHERE name = :name"
        " AND used IS NULL AND withdrawn IS NULL",
        {"name": name},
    )
    return {Role(row["role"]) for row in found}


def _revoke_certificates(connection: sqlite3.Connection, member: MemberId, now: datetime) -> None:
    connection.execute(
        "UPDATE certificate SET revoked = ? WHERE member = ? AND revoked IS NULL", (to_ms(now), member.uri)
    )


def _require_member(connection: sqlite3.Connection, member: MemberId, leaf: x509.Certificate) -> None:
    """Check in the transaction that issues: between the check of a call and this one a member may be replaced.

    A certificate that is not known here is believed, as everywhere: it was issued after the backup that was restored.
    """
    row = connection.execute("SELECT revoked FROM member WHERE uri = ?", (member.uri,)).fetchone()
    revoked = "SELECT 1 FROM certificate WHERE serial = ? AND revoked IS NOT NULL"
    if row is None or row["revoked"] is not None or connection.execute(revoked, (_serial(leaf),)).fetchone():
        raise NotAdmitted("the member was revoked; ask the federation for a new invitation", reason="REVOKED")


def _require_pause(connection: sqlite3.Connection, member: MemberId, now: datetime) -> None:
    """Check that a member does not fill the database with certificates."""
    issued_lately = now + timedelta(days=LEAF_DAYS[member.role]) - timedelta(hours=1)  # as the expiry tells
    lately = connection.execute(
        "SELECT count(*) FROM certificate WHERE member = ? AND expires > ?", (member.uri, to_ms(issued_lately))
    ).fetchone()[0]
    if lately >= ISSUED_PER_HOUR:
        raise Busy("too many certificates were issued to this member; try again in an hour", reason="RENEWED_TOO_OFTEN")


def _serial(leaf: x509.Certificate) -> str:
    return f"{leaf.serial_number:040x}"


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
