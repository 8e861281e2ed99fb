"""Time as an argument: wall clock for certificates and releases, monotonic clock for deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from rsfed.errors import DeadlineExceeded

Now = Callable[[], datetime]
MOMENT_FORMS = "2024-05-01 or 2024-05-01T10:30:00Z"
"""How users write a moment, for messages."""
_DAY_LESS_A_MILLISECOND = timedelta(days=1) - timedelta(milliseconds=1)


def utc_now() -> datetime:
    """Return the wall clock's time in UTC."""
    return datetime.now(UTC)


def moment_of(text: str, *, end_of_day: bool = False) -> datetime:
    """Return the moment that a user wrote, in UTC unless it names another zone.

    Args:
        text: A date, or a date and a time.
        end_of_day: Whether a date takes in its whole day; otherwise it stands for the day's beginning.

    Raises:
        ValueError: it is neither, or lies outside the calendar.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
        return moment + _DAY_LESS_A_MILLISECOND if end_of_day and _is_date(text.strip()) else moment
    except OverflowError as error:
        raise ValueError(text) from error


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock by which an answer is due."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that lies `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds that are left, never below 0."""
        return max(0.0, self.at - time.monotonic())

    def check(self) -> None:
        """Check that there is time left.

        Raises:
            DeadlineExceeded: there is none.
        """
        if self.remaining() <= 0:
            raise DeadlineExceeded("there was no time left to answer")

    def less(self, seconds: float) -> Deadline:
        """Return a deadline that lies `seconds` earlier, to leave time for the way back."""
        return Deadline(self.at - seconds)
