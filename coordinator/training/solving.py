"""The last layer of a head on a frozen trunk, solved for from sums that nodes give of their own patches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from statistics import median

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from coordinator.training.arrays import record_of, views
from coordinator.training.attendance import Nodes
from coordinator.training.changes import shorten
from coordinator.training.updates import LEAST_COMPARED, MAX_CLAIM, MAX_EXAMPLES, read_result
from rsfed.errors import InvalidMessage
from rsfed.hashing.closed_form import Sums
from rsfed.hashing.exchange import Downlink
from rsfed.hashing.payload import Arrays
from rsfed.hashing.plan import ARRAYS, CONFIG, EXAMPLES, MEMBERS, PLAN, ROUND, SECONDS, SUMS, TrainingPlan
from rsfed.hashing.refit import centres_of, from_arrays, solved

DISPENSABLE = frozenset({"TOO_FEW_PATCHES", "SUMS_FORM", "SUMS_VALUES"})  # why a node is left out: small, or bad


@dataclass(frozen=True, slots=True)
class SolveReport:
    """What nodes gave for the last layer.

    Attributes:
        round: The round after which they were asked; 0 before the first.
        nodes: Flower's numbers of those that gave sums.
        failed: Why the others gave none, by number.
        patches: Patches that the sums come from.
        solved: Whether the layer was solved for.
    """

    round: int
    nodes: tuple[int, ...]
    failed: dict[int, str]
    patches: int
    solved: bool


@dataclass(frozen=True, slots=True)
class Given:
    """What nodes gave.

    Attributes:
        sums: The sums of each node whose can be right, by Flower's number.
        failed: Why the others gave none, by number.
        slowest: How long the slowest node computed, as it says, in seconds.
    """

    sums: dict[int, Sums]
    failed: dict[int, str]
    slowest: float

    @property
    def patches(self) -> int:
        """Patches that the sums come from."""
        return sum(each.patches for each in self.sums.values())


@dataclass(frozen=True, slots=True)
class LastLayer:
    """Solves for the last layer of a plan.

    Attributes:
        grid: Reaches the nodes.
        plan: What is trained.
        timeout_s: How long nodes are waited for.
        downlink: How nodes get the weights.
    """

    grid: Grid
    plan: TrainingPlan
    timeout_s: float
    downlink: Downlink

    def solve(
        self, arrays: ArrayRecord, nodes: Nodes, *, after: int, rests_on: Collection[int] = ()
    ) -> tuple[ArrayRecord, SolveReport]:
        """Ask nodes for sums and return weights with a last layer that is solved for from what they give.

        The layer stays as it is where a node that the rounds rest on gives no sums: classes that it alone holds would
        be lost. A node with few patches holds next to nothing, and none can stop it by sums that cannot be right.

        Args:
            arrays: The weights.
            nodes: Who is asked.
            after: The last round that was done; 0 before the first.
            rests_on: Nodes whose results that round rests on.

        Returns:
            The weights, and what nodes gave.
        """
        given = self.ask(arrays, nodes, max(1, after))
        failed = given.failed | dict.fromkeys(set(rests_on) - set(nodes.ids), "NODE_GONE")
        complete = bool(given.sums) and all(failed.get(node) in DISPENSABLE for node in set(rests_on) - set(given.sums))
        if complete:
            arrays = self.solved(arrays, given)
        return arrays, SolveReport(after, tuple(given.sums), failed, given.patches, complete)

    def solved(self, arrays: ArrayRecord, given: Given) -> ArrayRecord:
        """Return weights with a last layer that is solved for from the sums of nodes, at least one."""
        return record_of(solved(self.plan, views(arrays), _held_down(given.sums)).items())

    def ask(self, arrays: ArrayRecord, nodes: Nodes, number: int) -> Given:
        """Ask nodes for sums.

        Args:
            arrays: The weights.
            nodes: Who is asked.
            number: The round that this is done in.
        """
        weights = views(arrays)
        config = {PLAN: self.plan.model_dump_json(), ROUND: number, MEMBERS: len(nodes.ids)}
        content = RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord(config)})
        messages = [Message(content, dst_node_id=node, message_type=SUMS) for node in nodes.ids]
        bits = centres_of(self.plan).shape[1]
        sums: dict[int, Sums] = {}
        slowest = 0.0
        failed = dict.fromkeys(nodes.ids, "NO_ANSWER")
        for reply in self.grid.send_and_receive(shorten(messages, self.downlink), timeout=self.timeout_s):
            node = reply.metadata.src_node_id
            if reply.has_error():
                failed[node] = reply.error.reason or "NODE_ERROR"
                continue
            try:
                sums[node], seconds = _read(reply.content, weights, bits)
                del failed[node]
                slowest = max(slowest, seconds)
            except InvalidMessage as error:
                failed[node] = error.reason
            del reply  # or it would be held while the next one is read
        return Given(sums, failed, slowest)


def _read(content: RecordDict, weights: Arrays, bits: int) -> tuple[Sums, float]:
    """Return the sums of a node, and how long it computed, in seconds.

    Raises:
        InvalidMessage: SUMS_FORM or SUMS_VALUES.
    """
    arrays, metrics = read_result(content, "SUMS_FORM")
    if set(metrics) != {EXAMPLES, SECONDS}:
        raise InvalidMessage("the result has other numbers than it was asked for", reason="SUMS_FORM")
    patches = metrics[EXAMPLES]
    if not 1 <= patches <= MAX_EXAMPLES:
        raise InvalidMessage("the result claims an impossible number of patches", reason="SUMS_VALUES")
    return from_arrays(arrays, patches, weights, bits), metrics[SECONDS]


def _held_down(given: dict[int, Sums]) -> list[Sums]:
    """Return the sums, those of a node that claims far more patches than the others made as light as in a round."""
    if len(given) < LEAST_COMPARED:
        return list(given.values())
    most = MAX_CLAIM * median(each.patches for each in given.values())
    return [each if each.patches <= most else each.times(most / each.patches) for each in given.values()]
