"""What each analyst may ask, and how often: kept here, signed into the trust bundle, counted where queries arrive."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from coordinator.state import State, from_ms, to_ms
from rsfed.clock import Now
from rsfed.errors import Busy
from rsfed.transport.rate import RateLimit
from rsfed.trust.names import MemberId
from rsfed.trust.scope import EVERYTHING, Scope, level_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one analyst may.

    Attributes:
        scope: What may be asked.
        per_day: Requests in one day of UTC; None for any number.
        per_minute: Requests in a minute, all at once or spread; None for any number.
    """

    scope: Scope = EVERYTHING
    per_day: int | None = None
    per_minute: int | None = None

    def as_json(self) -> dict[str, object]:
        """Return it as docs/output.md describes it; an empty list or null is no limit."""
        scope = self.scope
        return {
            "nodes": sorted(scope.nodes),
            "modalities": sorted(scope.modalities),
            "level": level_name(scope.level) or None,
            "until": scope.until and scope.until.isoformat(timespec="seconds"),
            "per_day": self.per_day,
            "per_minute": self.per_minute,
        }

    def in_words(self) -> str:
        """Return it as operators read it."""
        scope = self.scope
        words = [", ".join(sorted(scope.nodes)) or "all archives"]
        words += [f"for {', '.join(sorted(scope.modalities))}"] if scope.modalities else []
        words += [f"down to level {level_name(scope.level)}"] if scope.level else []
        words += [f"until {scope.until:%Y-%m-%d %H:%M} UTC"] if scope.until else []
        limits = {"day": self.per_day, "minute": self.per_minute}
        most = [f"{number} requests a {span}" for span, number in limits.items() if number is not None]
        return " ".join(words) + (f", at most {' and '.join(most)}" if most else "")


def allow(connection: sqlite3.Connection, member: MemberId, allowed: Allowed) -> None:
    """Say what an analyst may from now on, in the transaction that publishes the next trust bundle."""
    connection.execute("DELETE FROM scope WHERE member = ?", (member.uri,))
    if allowed != Allowed():
        scope = allowed.scope
        row = (
            member.uri,
            json.dumps(sorted(scope.nodes)),
            json.dumps(sorted(scope.modalities)),
            scope.level,
            None if scope.until is None else to_ms(scope.until),
            allowed.per_day,
            allowed.per_minute,
        )
        connection.execute("INSERT INTO scope VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def allowed_by_member(connection: sqlite3.Connection) -> dict[str, Allowed]:
    """Return what analysts may, by SPIFFE id; who is missing may everything."""
    return {row["member"]: _allowed(row) for row in connection.execute("SELECT * FROM scope")}


class Quotas:
    """Counts the requests of analysts who may not make any number of them.

    Args:
        state: The coordinator's database; the count of a day is kept there, so a restart gives nobody a new one.
        now: Wall clock.
        monotonic: Clock in seconds.
    """

    def __init__(self, state: State, now: Now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._now = now
        self._monotonic = monotonic
        self._rates: dict[int, RateLimit] = {}  # requests a minute -> who made how many

    async def take(self, member: MemberId) -> None:
        """Count one request.

        Raises:
            Busy: RATE_LIMITED or QUOTA_USED, with the time after which it may be made.
        """
        allowed = await asyncio.to_thread(self._allowed, member)
        if allowed.per_minute is not None:
            rate = self._rates.setdefault(
                allowed.per_minute, RateLimit(allowed.per_minute, allowed.per_minute / 60, self._monotonic)
            )
            rate.take(member.uri)
        if allowed.per_day is not None:
            await asyncio.to_thread(self._count, member, allowed.per_day)

    def _allowed(self, member: MemberId) -> Allowed:
        with self._state.reading() as connection:
            row = connection.execute("SELECT * FROM scope WHERE member = ?", (member.uri,)).fetchone()
        return Allowed() if row is None else _allowed(row)

    def _count(self, member: MemberId, per_day: int) -> None:
        now = self._now()
        day = (now - _EPOCH) // _DAY
        with self._state.writing() as connection:
            connection.execute("DELETE FROM usage WHERE member = ? AND day < ?", (member.uri, day))
            counted = connection.execute(  # a clock that was set back counts on in the latest day
                "INSERT INTO usage VALUES (?, max(?, coalesce((SELECT max(day) FROM usage WHERE member = ?), 0)), 1)"
                " ON CONFLICT DO UPDATE SET requests = requests + 1 WHERE requests < ? RETURNING day",
                (member.uri, day, member.uri, per_day),
            ).fetchone()
        if counted is None or not per_day:
            wait = _EPOCH + (day + 1) * _DAY - now
            raise Busy(
                f"you have used your {per_day} requests of this day; ask again after midnight UTC",
                reason="QUOTA_USED",
                retry_after=wait.total_seconds(),
            )


def _allowed(row: sqlite3.Row) -> Allowed:
    scope = Scope(
        nodes=frozenset(json.loads(row["nodes"])),
        modalities=frozenset(json.loads(row["modalities"])),
        level=row["level"],
        until=None if row["until"] is None else from_ms(row["until"]),
    )
    return Allowed(scope, row["per_day"], row["per_minute"])
