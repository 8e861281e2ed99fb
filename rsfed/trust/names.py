"""Names of members: `spiffe://<federation>/<role>/<name>`, one canonical form or a refusal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from rsfed.errors import NotAdmitted, UsageError

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Role(StrEnum):
    """The three roles of a federation, carried in certificates."""

    COORDINATOR = "coordinator"
    NODE = "node"
    ANALYST = "analyst"


def check_label(value: str, what: str) -> str:
    """Return `value` if it may name a federation or member.

    Raises:
        UsageError: value is not 1 to 63 lower-case letters, digits or inner hyphens.
    """
    if not _LABEL.fullmatch(value):
        raise UsageError(f"{what} must be 1 to 63 lower-case letters, digits or inner hyphens; got {value!r}")
    return value


@dataclass(frozen=True, slots=True, order=True)
class MemberId:
    """One member of one federation."""

    federation: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        """The SPIFFE id, the URI SAN of the member's certificate."""
        return f"spiffe://{self.federation}/{self.role}/{self.name}"

    @property
    def dns(self) -> str:
        """The DNS SAN of a member that serves."""
        return f"{self.name}.{self.role}.{self.federation}.rsfed.internal"

    @classmethod
    def parse(cls, uri: str) -> MemberId:
        """Read a SPIFFE id; only the canonical form is accepted.

        Raises:
            NotAdmitted: uri is anything else.
        """
        parts = uri.removeprefix("spiffe://").split("/")
        known = uri.startswith("spiffe://") and len(parts) == 3 and parts[1] in set(Role)
        if not known or not _LABEL.fullmatch(parts[0]) or not _LABEL.fullmatch(parts[2]):
            raise NotAdmitted("a member's name must read spiffe://<federation>/<role>/<name>", reason="BAD_NAME")
        return cls(parts[0], Role(parts[1]), parts[2])
