"""The rules of a run's rounds, as plain data: a run keeps to those that it began with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from rsfed.config import CoordinatorTraining
from rsfed.hashing.deltas import PACKED


@dataclass(frozen=True, slots=True)
class Rules:
    """When a round starts and ends, and how weights travel.

    Attributes:
        min_nodes: Nodes that a round needs, present at its start and with a result at its end.
        timeout_s: How long a round waits for nodes to come, and then for their results.
        fraction: Share of the present nodes that a round asks, drawn at random; at least the minimum of nodes.
        coding: How weights travel, as `rsfed.config.Coding`.
        average: Last rounds of a run, the mean of whose weights it ends with.
    """

    min_nodes: int = 1
    timeout_s: float = 600.0
    fraction: float = 1.0
    coding: str = "float32"
    average: int = 1

    @classmethod
    def of(cls, section: CoordinatorTraining, min_nodes: int) -> Self:
        """Return the rules of a run that begins now.

        Args:
            section: What coordinator.toml says.
            min_nodes: Nodes that the run was asked for with.
        """
        return cls(min_nodes, section.round_timeout_s, section.fraction, section.coding, section.average_rounds)

    @property
    def packs(self) -> bool:
        """Whether weights travel as packed changes."""
        return self.coding in PACKED
