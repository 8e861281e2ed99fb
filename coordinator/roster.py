"""Who belongs to the federation, did, or is invited: the list that `rsfed coordinator revoke` takes its names from."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from coordinator.heads import Kept, kept_heads
from coordinator.scopes import Allowed, allowed_by_member
from coordinator.state import from_ms, to_ms
from rsfed.trust.names import MemberId

_MEMBERS = (
    "SELECT role, name, joined, revoked, length(sealing_key) AS enrolled,"
    " (SELECT max(expires) FROM certificate WHERE member = uri AND certificate.revoked IS NULL) AS expires"
    " FROM member WHERE role <> 'coordinator'"
)
_REJECTED = (
    "SELECT failed.key AS name, count(*) AS times FROM run_event, json_each(run_event.data, '$.failed') AS failed"
    " WHERE kind IN ('round', 'solved') AND (substr(failed.value, 1, 7) = 'UPDATE_' OR failed.value IN"
    " ('DELTA_FORM', 'NOT_FINITE', 'PAYLOAD_MALFORMED', 'SUMS_CONTRADICT', 'SUMS_FORM', 'SUMS_VALUES'))"
    " GROUP BY failed.key"
)
_INVITED = "SELECT role, name, expires FROM invitation WHERE used IS NULL AND withdrawn IS NULL AND expires > ?"


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the roster; a member that is invited again has two.

    Attributes:
        name: Its name.
        role: "node" or "analyst".
        state: "member", "revoked" or "invited".
        joined: When it joined last; None for one that never did, or that a restored backup does not know.
        expires: When its newest unrevoked certificate expires, or its invitation.
        revoked: When it was put out.
        rejected: Results of training that it sent and that could not be right, in all runs.
        audit: What is known of a node's audit log; None where no head came yet.
        allowed: What an analyst may; None for everything.
    """

    name: str
    role: str
    state: Literal["member", "revoked", "invited"]
    joined: datetime | None
    expires: datetime | None
    revoked: datetime | None
    rejected: int = 0
    audit: Kept | None = None
    allowed: Allowed | None = None


def roster(connection: sqlite3.Connection, now: datetime) -> list[Listed]:
    """Return members and open invitations by name; the coordinator itself is neither."""
    rejected = {row["name"]: row["times"] for row in connection.execute(_REJECTED)}
    audits = kept_heads(connection)
    allowed = {MemberId.parse(uri).name: each for uri, each in allowed_by_member(connection).items()}
    members = [
        Listed(
            name=row["name"],
            role=row["role"],
            state="member" if row["revoked"] is None else "revoked",
            joined=_moment(row["joined"] if row["enrolled"] else None),  # revoked before it ever joined
            expires=_moment(row["expires"]),
            revoked=_moment(row["revoked"]),
            rejected=rejected.get(row["name"], 0) if row["role"] == "node" else 0,
            audit=audits.get(row["name"]) if row["role"] == "node" else None,
            allowed=allowed.get(row["name"]) if row["role"] == "analyst" else None,
        )
        for row in connection.execute(_MEMBERS)
    ]
    invited = [
        Listed(
            name=row["name"],
            role=row["role"],
            state="invited",
            joined=None,
            expires=from_ms(row["expires"]),
            revoked=None,
            allowed=allowed.get(row["name"]) if row["role"] == "analyst" else None,
        )
        for row in connection.execute(_INVITED, (to_ms(now),))
    ]
    return sorted(members + invited, key=lambda listed: (listed.name, listed.role, listed.state == "invited"))


def _moment(value: int | None) -> datetime | None:
    return None if value is None else from_ms(value)
