"""What an analyst may ask: of which archives, of which modalities, down to which policy level, and until when.

The coordinator keeps scopes and signs them into the trust bundle, so that every node checks them for itself. An analyst
without a scope may ask everything. Pure rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from rsfed.errors import NotAdmitted
from rsfed.v1.federation_pb2 import MemberScope
from rsfed.v1.outcome_pb2 import POLICY_LEVEL_UNSPECIFIED, PolicyLevel

LEVELS = {
    name.removeprefix("POLICY_LEVEL_").lower(): number
    for name, number in PolicyLevel.items()
    if number != POLICY_LEVEL_UNSPECIFIED
}
"""Policy levels on the wire by their names, as configurations have them."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one analyst may ask.

    Attributes:
        nodes: Names of the nodes that may be asked; empty for all.
        modalities: Modalities that may be searched; empty for all.
        level: What answers may disclose at most, a value of rsfed.v1.PolicyLevel; unspecified for anything.
        until: After this moment nothing may be asked; None for ever.
    """

    nodes: frozenset[str] = frozenset()
    modalities: frozenset[str] = frozenset()
    level: int = POLICY_LEVEL_UNSPECIFIED
    until: datetime | None = None

    def check(self, modality: str, now: datetime) -> None:
        """Check that the analyst may search a modality now.

        Raises:
            NotAdmitted: SCOPE_ENDED or SCOPE_MODALITY.
        """
        self.check_time(now)
        if self.modalities and modality not in self.modalities:
            raise NotAdmitted(f"you may not search {modality}; ask the coordinator's operator", reason="SCOPE_MODALITY")

    def check_time(self, now: datetime) -> None:
        """Check that the analyst may still ask.

        Raises:
            NotAdmitted: SCOPE_ENDED.
        """
        if self.until is not None and now >= self.until:
            raise NotAdmitted(
                f"you may ask until {self.until:%Y-%m-%d %H:%M} UTC; ask the coordinator's operator for more time",
                reason="SCOPE_ENDED",
            )

    def check_node(self, node: str, level: int) -> None:
        """Check that the analyst may be answered by a node at its policy level.

        Raises:
            NotAdmitted: SCOPE_NODE, or SCOPE_LEVEL where the node discloses more than the analyst may learn.
        """
        self.check_name(node)
        if self.level != POLICY_LEVEL_UNSPECIFIED and level < self.level:  # later levels disclose less
            raise NotAdmitted(
                "this archive discloses more than you may learn; ask the coordinator's operator", reason="SCOPE_LEVEL"
            )

    def check_name(self, node: str) -> None:
        """Check that the analyst may ask a node.

        Raises:
            NotAdmitted: SCOPE_NODE.
        """
        if self.nodes and node not in self.nodes:
            raise NotAdmitted("you may not ask this archive; ask the coordinator's operator", reason="SCOPE_NODE")

    def to_wire(self) -> MemberScope:
        """Return it as the trust bundle has it."""
        wire = MemberScope(
            nodes=sorted(self.nodes), modalities=sorted(self.modalities), level=PolicyLevel.ValueType(self.level)
        )
        if self.until is not None:
            wire.until.FromDatetime(self.until)
        return wire

    @classmethod
    def of_wire(cls, wire: MemberScope) -> Self:
        """Read it from the trust bundle.

        Raises:
            ValueError, OverflowError: its time cannot be read.
        """
        until = wire.until.ToDatetime(UTC) if wire.HasField("until") else None
        return cls(frozenset(wire.nodes), frozenset(wire.modalities), wire.level, until)


def level_name(level: int) -> str:
    """Return the name of a policy level as configurations have it; "" for none, the number of a newer one."""
    names = {number: name for name, number in LEVELS.items()}
    return names.get(PolicyLevel.ValueType(level), str(level)) if level != POLICY_LEVEL_UNSPECIFIED else ""


EVERYTHING = Scope()
