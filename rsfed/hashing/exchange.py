"""How weights travel between a coordinator and its nodes: whole at first, then as packed changes, both ways.

The weights of a run are always exactly those that its nodes hold. Where they change, both ends apply the same packed
change to the same weights, and what rounding lost is kept by the sender for the next change.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import InvalidMessage
from rsfed.hashing.deltas import fingerprint, pack, unpack
from rsfed.hashing.payload import Arrays, Config, Setting
from rsfed.hashing.plan import CODING

BASE, PACKED_CHANGE = "base", "change"  # what a packed change says of itself beside its coding

Values = NDArray[np.float32]
Weights = Mapping[str, Values]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a node keeps of a run after one of its rounds.

    Attributes:
        round: The round.
        start: The weights that it started from.
        lost: What rounding took from this and earlier changes and still has to be sent.
        before: The same before this round, for when it is asked again.
        applied: Fingerprint of the packed change that led to the start; empty where the weights came whole. A node
            that was killed before its result was sent whole gets that change again.
    """

    round: int
    start: Arrays
    lost: Arrays
    before: Arrays
    applied: bytes = b""


def received(change: Mapping[str, Setting], kept: Kept | None) -> Arrays:
    """Return the weights that a packed change leads to.

    Args:
        change: As `Downlink.change` gives it.
        kept: What the node kept of the run.

    Raises:
        InvalidMessage: BASE_UNKNOWN, the change is one of weights that this node does not have; DELTA_FORM; NOT_FINITE.
    """
    if kept is not None and kept.applied and kept.applied == _mark(change):
        return kept.start
    if kept is None or change.get(BASE) != fingerprint(kept.start):
        raise InvalidMessage("the change is one of weights that are not here", reason="BASE_UNKNOWN")
    return dict(_applied(kept.start, change))


def answered(  # noqa: PLR0913 - what a round was made of
    round_: int,
    start: Arrays,
    trained: Weights,
    coding: str,
    kept: Kept | None,
    *,
    change: Mapping[str, Setting] | None = None,
) -> tuple[dict[str, Setting], Kept]:
    """Return a node's result as a packed change, and what the node keeps for its next round.

    Args:
        round_: The round.
        start: The weights that it started from.
        trained: Those that it led to.
        coding: How they travel.
        kept: What the node kept of the run.
        change: The packed change that led to the start; None where the weights came whole.

    Raises:
        InvalidMessage: DELTA_FORM, the coding is unknown, or NOT_FINITE.
    """
    before: Arrays = {} if kept is None else kept.before if kept.round == round_ else kept.lost
    lost: Arrays = {}

    def take(name: str, change: Values, given: Values) -> None:
        lost[name] = np.asarray(change - given)

    changes = ((name, _change(to, start[name], before.get(name))) for name, to in trained.items())
    packed = pack(changes, coding, take)
    applied = b"" if change is None else _mark(change)
    return {CODING: coding, PACKED_CHANGE: packed}, Kept(round_, start, lost, before, applied)


def result(change: Mapping[str, Setting], start: Weights) -> Iterator[tuple[str, Values]]:
    """Yield the names and values of the weights that a node's packed change says.

    Args:
        change: As `answered` gives it.
        start: The weights that the node started from.

    Raises:
        InvalidMessage: DELTA_FORM or NOT_FINITE.
    """
    return _applied(start, change)


class Downlink:
    """The coordinator's end: decides what the weights of a run become, and how each node gets them.

    Args:
        coding: How weights travel.
        lost: What rounding took so far and still has to be sent, of an interrupted run.

    Attributes:
        lost: The same now; empty before the first change.
    """

    def __init__(self, coding: str, lost: Arrays | None = None) -> None:
        self._coding = coding
        self.lost: Arrays = dict(lost or {})
        self._change: Config = {}
        self._holders: frozenset[int] = frozenset()  # nodes that have the weights before the change

    def settle(
        self, before: Weights, new: Iterable[tuple[str, Values]], holders: Iterable[int]
    ) -> Iterator[tuple[str, Values]]:
        """Yield what the weights of the run become: the new ones as far as a packed change can say them.

        Array by array, because memory is short; go through it to its end.

        Args:
            before: The weights that the last round started from.
            new: What the strategy made of the results, name by name.
            holders: Nodes that have the former, and understand changes of them.

        Raises:
            InvalidMessage: DELTA_FORM, the coding is unknown, or NOT_FINITE.
        """
        lost, self.lost = self.lost, {}
        settled: deque[tuple[str, Values]] = deque()

        def take(name: str, change: Values, given: Values) -> None:
            self.lost[name] = np.asarray(change - given)
            lost.pop(name, None)
            given += before[name]  # in place: layers are large
            settled.append((name, given))

        changes = ((name, _change(to, before[name], lost.get(name))) for name, to in new)
        packed = pack(changes, self._coding, take)
        self._change = {CODING: self._coding, BASE: fingerprint(before), PACKED_CHANGE: packed}
        self._holders = frozenset(holders)
        while settled:
            yield settled.popleft()

    def spend(self) -> None:
        """Let go of a change that was sent: who has which weights is not known until the next one."""
        self._change, self._holders = {}, frozenset()

    def change_for(self, node: int) -> Config | None:
        """Return the packed change that leads a node to the weights of the run; None where it needs them whole."""
        return self._change if node in self._holders else None


def _mark(change: Mapping[str, Setting]) -> bytes:
    """Return what tells a packed change from every other: SHA-256 over its weights before and its bytes."""
    found = hashlib.sha256()
    for part in (change.get(BASE), change.get(PACKED_CHANGE)):
        found.update(part if isinstance(part, bytes) else b"")
    return found.digest()


def _change(to: Values, start: Values, owed: Values | None) -> Values:
    """Return what has to be sent of an array: its change, and what rounding took of earlier ones."""
    change = to - start
    return np.asarray(change if owed is None else change + owed)


def _applied(start: Weights, change: Mapping[str, Setting]) -> Iterator[tuple[str, Values]]:
    coding, packed = change.get(CODING), change.get(PACKED_CHANGE)
    if not isinstance(packed, bytes):
        raise InvalidMessage("a change of the weights was refused: it is missing", reason="DELTA_FORM")
    values = unpack(packed, start, str(coding))
    del change, packed  # large, and of no more use once it is inflated
    for name, given in values:
        yield name, np.add(given, start[name], out=given)  # in place: layers are large
