"""The last layer of a head on a frozen trunk, solved for from sums that nodes give of their own patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from coordinator.training.arrays import record_of, views
from coordinator.training.attendance import Attendance, Nodes
from coordinator.training.blob import Blob
from coordinator.training.changes import shorten
from coordinator.training.updates import MAX_CLAIM, MAX_EXAMPLES, read_result
from rsfed.clock import Deadline
from rsfed.errors import InvalidMessage
from rsfed.hashing.agreement import LEAST_COMPARED
from rsfed.hashing.closed_form import Sums
from rsfed.hashing.exchange import Downlink
from rsfed.hashing.payload import Arrays, Config
from rsfed.hashing.plan import ARRAYS, CONFIG, EXAMPLES, MEMBERS, PLAN, ROUND, SECONDS, SUMS, TrainingPlan
from rsfed.hashing.refit import as_they_came, centres_of, contradicting_of, from_arrays, solved
from rsfed.hashing.weights import from_bytes, to_bytes

SMALL = "TOO_FEW_PATCHES"
CONTRADICTS = "SUMS_CONTRADICT"
DISPENSABLE = frozenset({SMALL, "SUMS_FORM", "SUMS_VALUES", CONTRADICTS})  # why a node is left out: small, or bad
AWAY = frozenset({"NODE_GONE", "NO_ANSWER", "ROUND_DEADLINE"})  # why a node is waited for
_ONCE_MORE = frozenset({"BASE_UNKNOWN", "WORKER_DIED"})  # why a node that is there is asked again: it gets all anew


@dataclass(frozen=True, slots=True)
class SolveReport:
    """What nodes gave for the last layer.

    Attributes:
        round: The round after which they were asked; 0 before the first.
        nodes: Flower's numbers of those that gave sums.
        failed: Why the others gave none, by number.
        patches: Patches that the sums come from.
        needed: Nodes that must answer for it to be solved for.
        solved: Whether the layer was solved for.
    """

    round: int
    nodes: tuple[int, ...]
    failed: dict[int, str]
    patches: int
    needed: int
    solved: bool


@dataclass(frozen=True, slots=True)
class Aside:
    """The sums of a node, put aside: they are large, so memory holds those of one at a time however many give theirs.

    Attributes:
        blob: Where they are.
        patches: Patches that they come from.
    """

    blob: Blob
    patches: int

    def read(self) -> Sums:
        """Return them."""
        return as_they_came(from_bytes(self.blob.read()), self.patches)


@dataclass(frozen=True, slots=True)
class Given:
    """What nodes gave.

    Attributes:
        sums: The sums of each node whose can be right, by Flower's number.
        failed: Why the others gave none, by number.
        slowest: How long the slowest node computed, as it says, in seconds.
    """

    sums: dict[int, Aside]
    failed: dict[int, str]
    slowest: float

    @property
    def patches(self) -> int:
        """Patches that the sums come from."""
        return sum(each.patches for each in self.sums.values())

    def and_of(self, later: Given) -> Given:
        """Return this with what nodes gave that were asked once more."""
        failed = {node: why for node, why in self.failed.items() if node not in later.sums} | later.failed
        sums = dict(sorted((self.sums | later.sums).items()))  # who came first changes no bit
        return Given(sums, failed, max(self.slowest, later.slowest))


@dataclass(frozen=True, slots=True)
class LastLayer:
    """Solves for the last layer of a plan.

    Attributes:
        grid: Reaches the nodes.
        plan: What is trained.
        attendance: Who is there.
        min_nodes: Nodes that must answer.
        timeout_s: How long nodes are waited for.
        downlink: How nodes get the weights.
        aside: Puts bytes aside until they are let go.
    """

    grid: Grid
    plan: TrainingPlan
    attendance: Attendance
    min_nodes: int
    timeout_s: float
    downlink: Downlink
    aside: Callable[[bytes], Blob] = Blob.of

    def solve(
        self, arrays: ArrayRecord, nodes: Nodes, *, after: int, took_part: Collection[int] = ()
    ) -> tuple[ArrayRecord, SolveReport]:
        """Ask nodes for sums and return weights with a last layer that is solved for from what they give.

        Whoever took part in the rounds and is away has the time of a round to come back; then it goes on without. The
        layer stays as it is where fewer nodes answer than a round needs, or where one that took part says that it gives
        none: classes that it alone holds would be lost, and it will not give any later. A node with few patches holds
        next to nothing, and none can stop it by sums that cannot be right.

        Args:
            arrays: The weights.
            nodes: Who is asked first.
            after: The last round that was done; 0 before the first.
            took_part: Nodes whose results any round rests on.

        Returns:
            The weights, and what nodes gave.
        """
        given = self.agreeing(arrays, self.gather(arrays, nodes, max(1, after), took_part))
        withheld = {given.failed[node] for node in took_part if node in given.failed} - AWAY - _ONCE_MORE - DISPENSABLE
        answered = len(given.sums) + sum(why == SMALL for why in given.failed.values())
        complete = bool(given.sums) and not withheld and answered >= self.min_nodes
        if complete:
            arrays = self.solved(arrays, given)
        return arrays, SolveReport(after, tuple(given.sums), given.failed, given.patches, self.min_nodes, complete)

    def solved(self, arrays: ArrayRecord, given: Given) -> ArrayRecord:
        """Return weights with a last layer that is solved for from the sums of nodes, at least one."""
        return record_of(solved(self.plan, views(arrays), _held_down(given.sums)).items())

    def agreeing(self, arrays: ArrayRecord, given: Given) -> Given:
        """Return what nodes gave for these weights, without the sums that contradict those of the others."""
        parts = ((node, each.read()) for node, each in given.sums.items())
        wrong = contradicting_of(self.plan, views(arrays), parts)
        sums = {node: each for node, each in given.sums.items() if node not in wrong}
        return replace(given, sums=sums, failed=given.failed | dict.fromkeys(wrong, CONTRADICTS))

    def gather(self, arrays: ArrayRecord, nodes: Nodes, number: int, awaited: Collection[int]) -> Given:
        """Ask nodes for sums, and those that are away once more as long as a round has time.

        Args:
            arrays: The weights.
            nodes: Who is asked first.
            number: The round that this is done in.
            awaited: Nodes that are waited for.
        """
        deadline = Deadline.after(self.timeout_s)
        task: Config = {PLAN: self.plan.model_dump_json(), ROUND: number}
        given = self._ask(arrays, nodes, task | {MEMBERS: len(nodes.ids)}, deadline)
        failed = given.failed | dict.fromkeys(set(awaited) - set(nodes.ids), "NODE_GONE")
        given, again = replace(given, failed=failed), AWAY | _ONCE_MORE
        while (away := {node for node in awaited if given.failed.get(node) in again}) and deadline.remaining():
            if not (back := self.attendance.returned(away, number, deadline)).ids:
                break
            members = len({*given.sums, *back.ids})
            given, again = given.and_of(self._ask(arrays, back, task | {MEMBERS: members}, deadline)), AWAY
        return given

    def _ask(self, arrays: ArrayRecord, nodes: Nodes, task: Config, deadline: Deadline) -> Given:
        weights = views(arrays)
        content = RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord(dict(task))})
        messages = [Message(content, dst_node_id=node, message_type=SUMS) for node in nodes.ids]
        bits = centres_of(self.plan).shape[1]
        sums: dict[int, Aside] = {}
        slowest = 0.0
        failed = dict.fromkeys(nodes.ids, "NO_ANSWER")
        for reply in self.grid.send_and_receive(shorten(messages, self.downlink), timeout=deadline.remaining()):
            node = reply.metadata.src_node_id
            if reply.has_error():
                failed[node] = reply.error.reason or "NODE_ERROR"
                continue
            try:
                sums[node], seconds = self._take(reply.content, weights, bits)
                del failed[node]
                slowest = max(slowest, seconds)
            except InvalidMessage as error:
                failed[node] = error.reason
            del reply  # or it would be held while the next one is read
        return Given(dict(sorted(sums.items())), failed, slowest)

    def _take(self, content: RecordDict, weights: Arrays, bits: int) -> tuple[Aside, float]:
        """Return the sums of a node, put aside, and how long it computed, in seconds.

        Raises:
            InvalidMessage: SUMS_FORM or SUMS_VALUES.
            TrainingError: RESULTS_UNWRITABLE.
        """
        sums, seconds = _read(content, weights, bits)
        return Aside(self.aside(to_bytes(views(content[ARRAYS]))), sums.patches), seconds


def _read(content: RecordDict, weights: Arrays, bits: int) -> tuple[Sums, float]:
    """Return the sums of a node, and how long it computed, in seconds.

    Raises:
        InvalidMessage: SUMS_FORM or SUMS_VALUES.
    """
    arrays, metrics = read_result(content, "SUMS_FORM")
    if set(metrics) != {EXAMPLES, SECONDS}:
        raise InvalidMessage("the result has other numbers than it was asked for", reason="SUMS_FORM")
    patches, seconds = metrics[EXAMPLES], metrics[SECONDS]
    if not (1 <= patches <= MAX_EXAMPLES and math.isfinite(seconds)):
        raise InvalidMessage("the result claims an impossible number of patches or seconds", reason="SUMS_VALUES")
    return from_arrays(arrays, patches, weights, bits), seconds


def _held_down(given: Mapping[int, Aside]) -> Iterator[Sums]:
    """Give the sums, those of a node that claims far more patches than the others made as light as in a round."""
    fair = len(given) >= LEAST_COMPARED
    most = MAX_CLAIM * median(each.patches for each in given.values()) if fair else math.inf
    return (each.read().at_most(most) for each in given.values())
