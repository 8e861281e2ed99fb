"""Which nodes are left out of queries for a while because they failed too often. Pure: time is an argument.

Five failures in a row eject a node for 30 s; each further ejection lasts 30 s longer, at most 300 s. Afterwards, or
once a health check finds it well, the next query tries it: one success readmits it, one failure ejects it again. A node
that then stays well for 300 s starts afresh. Never more than half of the nodes are ejected at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FAILURES = 5
EJECTION_S = 30.0
MAX_EJECTION_S = 300.0
MAX_SHARE = 0.5


@dataclass(slots=True)
class _Record:
    failures: int = 0
    ejections: int = 0
    until: float | None = None  # end of the running ejection
    readmitted: float = 0.0


@dataclass(slots=True)
class Breaker:
    """Counts what became of the calls to each node. Times are seconds of the monotonic clock."""

    _records: dict[str, _Record] = field(default_factory=dict)

    def ejected(self, node: str, now: float) -> bool:
        """Say whether a node is left out now."""
        until = self._record(node).until
        return until is not None and now < until

    def succeeded(self, node: str, now: float) -> None:
        """Note that a node answered a query."""
        record = self._record(node)
        record.failures = 0
        if record.until is not None:
            record.until, record.readmitted = None, now
        elif record.ejections and now - record.readmitted >= MAX_EJECTION_S:
            record.ejections = 0

    def found_well(self, node: str, now: float) -> None:
        """Note that a node that may be left out passed a health check: the next query tries it.

        Only a query shows whether it answers queries again, so what it failed at before still counts.
        """
        record = self._record(node)
        if record.until is not None:
            record.until = min(record.until, now)

    def failed(self, node: str, now: float, nodes: int) -> None:
        """Note that a node failed; `nodes` are registered in all."""
        record = self._record(node)
        record.failures += 1
        if self.ejected(node, now) or record.failures < FAILURES:
            return
        others = sum(self.ejected(other, now) for other in self._records if other != node)
        if others + 1 <= nodes * MAX_SHARE:
            record.ejections += 1
            record.until = now + min(EJECTION_S * record.ejections, MAX_EJECTION_S)

    def forget(self, node: str) -> None:
        """Drop what is known of a node that left the federation."""
        self._records.pop(node, None)

    def _record(self, node: str) -> _Record:
        return self._records.setdefault(node, _Record())
