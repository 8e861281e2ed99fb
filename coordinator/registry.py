"""The nodes that announced themselves: how each is reached and what it serves, kept over restarts."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

from coordinator.state import State, from_ms, to_ms
from rsfed.clock import Now

ONLINE = timedelta(seconds=35)
"""A node announces itself every 10 s; after three missed announcements it counts as offline."""
MAX_VERSION_LEAD = 10_000
"""How far an announced release may lie ahead of ours and still count: a lying node must not use up all versions."""

_REGISTERED = (
    "SELECT node.* FROM node JOIN member ON member.role = 'node' AND member.name = node.name"
    " WHERE member.revoked IS NULL ORDER BY node.name"
)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node said of itself last.

    Attributes:
        name: Registered name.
        address: host:port that the coordinator dials.
        software: Version of its software.
        protocol: Version of the wire protocol.
        release_version: Release that it serves; 0 while none.
        release_digest: Digest of that release, 32 bytes; empty while none.
        held: Items held, as its policy discloses it.
        level: Policy level, a value of rsfed.v1.PolicyLevel.
        last_seen: When it said so.
    """

    name: str
    address: str
    software: str
    protocol: int
    release_version: int
    release_digest: bytes
    held: int | None
    level: int
    last_seen: datetime

    def online(self, now: datetime) -> bool:
        """Say whether the node announced itself lately."""
        return now - self.last_seen <= ONLINE


class Registry:
    """The registered nodes: announced at least once, and not revoked.

    Args:
        state: The coordinator's database.
        now: Clock.
    """

    def __init__(self, state: State, now: Now) -> None:
        self._state = state
        self._now = now
        self._nodes: dict[str, Announcement] = {}
        self.reload()

    def announce(self, announcement: Announcement) -> None:
        """Take what a node says of itself."""
        with self._state.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    announcement.name,
                    announcement.address,
                    announcement.software,
                    announcement.protocol,
                    announcement.release_version,
                    announcement.release_digest,
                    announcement.held,
                    announcement.level,
                    to_ms(announcement.last_seen),
                ),
            )
        self.reload()

    def reload(self) -> None:
        """Read the nodes again, after another command changed the members."""
        with self._state.reading() as connection:
            self._nodes = {row["name"]: _announcement(row) for row in connection.execute(_REGISTERED)}

    def nodes(self) -> list[Announcement]:
        """Return all registered nodes in the order of their names."""
        return list(self._nodes.values())

    def get(self, name: str) -> Announcement | None:
        """Return one registered node, or None."""
        return self._nodes.get(name)

    def online(self) -> list[str]:
        """Return the names of the nodes that announced themselves lately."""
        now = self._now()
        return [node.name for node in self._nodes.values() if node.online(now)]


def highest_announced(connection: sqlite3.Connection, known: int) -> int:
    """Return the highest release version that a node announced and that is believable next to the one `known` here."""
    row = connection.execute(
        "SELECT coalesce(max(release_version), 0) FROM node WHERE release_version <= ?", (known + MAX_VERSION_LEAD,)
    ).fetchone()
    version: int = row[0]
    return version


def _announcement(row: sqlite3.Row) -> Announcement:
    return Announcement(**{**dict(row), "last_seen": from_ms(row["last_seen"])})
