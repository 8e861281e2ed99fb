"""What the suite tells: a line of JSON for each attack and level, and a table for people while it runs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """One attack against one level.

    Attributes:
        attack: Name of the attack, and after a dot which figure of it.
        level: The level.
        control: The same figure against a node without protection.
        won: Whether the attack succeeded there; where not, it shows nothing.
        measured: The figure at the level, the worst of the archives.
        limit: What it may be at most, or at least where `least`; None where none is set.
        archives: The figure of each archive.
        more: What else is worth telling.
        least: Whether the limit is a lower one.
        built: Whether there is anything yet that should hold the limit.
        why: Why a limit is not held.
    """

    attack: str
    level: str
    control: float
    won: bool
    measured: float
    limit: float | None
    archives: dict = field(default_factory=dict)
    more: dict = field(default_factory=dict)
    least: bool = False
    built: bool = True
    why: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the limit is held; None where none is set, and neither where the attack shows nothing."""
        if not (self.won and self.built):
            return False
        if self.limit is None:
            return None
        return bool(self.measured >= self.limit if self.least else self.measured <= self.limit)

    def to_json(self) -> str:
        told = {
            "attack": self.attack,
            "control": rounded(self.control),
            "level": self.level,
            "measured": rounded(self.measured),
            "limit": self.limit,
            "held": self.held,
            **({"control_won": False} if not self.won else {}),
            **({"archives": rounded(self.archives)} if self.archives else {}),
            **rounded(self.more),
            **({"why": self.why} if self.why else {}),
        }
        return json.dumps(told)

    def show(self) -> None:
        """Print it for people, on standard error."""
        limit = "" if self.limit is None else f"{'>=' if self.least else '<='} {self.limit:g}"
        word = {True: "held", False: "NOT HELD", None: "told"}[self.held] if self.won else "CONTROL NOT WON"
        parts = " ".join(f"{name} {rounded(each)}" for name, each in self.archives.items())
        figures = f"{rounded(self.control)!s:>9}{rounded(self.measured)!s:>10}{limit:>9}"
        sys.stderr.write(f"{self.attack:<42}{self.level:<10}{figures}  {word:<9} {parts}\n")


def worst(archives: dict, *, least: bool = False) -> float:
    """The figure that is farthest on the wrong side."""
    return (min if least else max)(archives.values())


def rounded(value):
    """Numbers to four digits after the point, whatever they lie in."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return round(float(value), 4) + 0.0 if isinstance(value, float) or hasattr(value, "dtype") else value
