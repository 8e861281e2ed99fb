"""Who takes part in a round: nodes that are there, and that said before their first one that they may and can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

import rsfed
from coordinator.training.checkpoints import Progress
from rsfed.clock import Deadline
from rsfed.errors import TrainingError
from rsfed.hashing.payload import is_reason
from rsfed.hashing.plan import CONFIG, MEMBERS, NO_SUMS, PLAN, PREFLIGHT, ROUND, SOFTWARE, TrainingPlan

if TYPE_CHECKING:
    from coordinator.training.rounds import Hooks
    from coordinator.training.rules import Rules

RETURN_S = 30.0  # that nodes which a run knew have to come back after a restart; they ask every 15 s at least
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """What nodes said before their first round.

    Attributes:
        round: The round that they were asked before.
        nodes: Flower's numbers of those that take part.
        refused: Why the others do not, by number.
        no_sums: Why some of them give no sums for the last layer, by number.
    """

    round: int
    nodes: tuple[int, ...]
    refused: dict[int, str]
    no_sums: dict[int, str]


_LATE = "PREFLIGHT_LATE"
_ASKED_LATE = 2  # times in a run that a node may be late to say: waiting for it costs the others a round's time each
_OF_SUMS = frozenset({"SUMS_REFUSED", "TOO_FEW_ACQUISITIONS", "TOO_FEW_PATCHES"})
_WITHOUT_SUMS = (
    ', or train without sums (objective.name = "centres" in coordinator.toml); where every file is an acquisition of '
    "its own, a node may say so (archive.independent_files in node.toml)"
)


@dataclass(frozen=True, slots=True)
class Nodes:
    """All that `configure_train` asks of a grid, fixed for the round: sampling waits for ever once a node left."""

    ids: list[int]

    def get_node_ids(self) -> list[int]:
        """Return their numbers."""
        return self.ids


class Attendance:
    """Keeps who takes part in a run.

    Args:
        grid: Reaches the nodes.
        plan: What they are asked to train.
        rules: When a round starts.
        hooks: What is told.
        since: Where the run goes on.
    """

    def __init__(self, grid: Grid, plan: TrainingPlan, rules: Rules, hooks: Hooks, since: Progress) -> None:
        self._grid, self._plan, self._rules, self._hooks = grid, plan, rules, hooks
        self._awaited = frozenset(since.nodes)
        self._admitted: set[int] = set()
        self._refused: dict[int, str] = {}
        self._late: Counter[int] = Counter()  # how often each node did not say in time

    def for_round(self, number: int) -> Nodes:
        """Return the nodes that are there for a round and said that they take part; wait until they are enough.

        Raises:
            TrainingError: TOO_FEW_NODES came within the time of a round, or are willing before the first one.
        """
        deadline = Deadline.after(self._rules.timeout_s)
        nodes = self._willing(number, self._await_return())
        while len(nodes.ids) < self._rules.min_nodes:
            came = sum(node not in self._refused for node in self._present().ids)  # not asked yet, while too few
            if not deadline.remaining() or (number == 1 and self._refused):
                raise self._too_few(number, came)
            self._hooks.on_wait(number, came, self._rules.min_nodes)
            self._hooks.pause(min(_POLL_S, deadline.remaining()))
            nodes = self._willing(number, self._present())
        return nodes

    def late(self, number: int, known: Collection[int]) -> Nodes | None:
        """Return the nodes that take part and came after the known ones; None where there are none."""
        new = [node for node in self._willing(number, self._present()).ids if node not in known]
        return Nodes(new) if new else None

    def not_refused(self) -> Nodes:
        """Return the nodes that are there and did not say that they take no part."""
        return Nodes([node for node in self._await_return().ids if node not in self._refused])

    def returned(self, away: Collection[int], number: int, deadline: Deadline) -> Nodes:
        """Wait for nodes that are away; return those that are back once all are, or the deadline passed."""
        while True:
            back = [node for node in self._present().ids if node in away]
            if len(back) == len(away) or not deadline.remaining():
                return Nodes(back)
            self._hooks.on_wait(number, len(back), len(away))
            self._hooks.pause(min(_POLL_S, deadline.remaining()))

    def _too_few(self, number: int, came: int) -> TrainingError:
        refused = ", ".join(f"{self._hooks.name(node)} ({reason})" for node, reason in self._refused.items())
        late = ", ".join(self._hooks.name(node) for node, reason in self._refused.items() if reason == _LATE)
        return TrainingError(
            f"round {number} needs {self._rules.min_nodes} nodes and {came} came; "
            + (f"these take no part: {refused}; " if refused else "")
            + (self._remedy_of(late) if late else "")
            + "start more nodes, or train with a lower --nodes"
            + (_WITHOUT_SUMS if self._plan.closed_form and _OF_SUMS & set(self._refused.values()) else ""),
            reason="TOO_FEW_NODES",
        )

    def _remedy_of(self, late: str) -> str:
        return (
            f"{late} did not say within {self._rules.timeout_s:g} s whether to take part, as when the machine there is "
            "busy: train again when it is less so, or raise training.round_timeout_s in coordinator.toml; else "
        )

    def _willing(self, number: int, present: Nodes) -> Nodes:
        """Return those of the present nodes that take part; new ones are asked, once there are enough for a round.

        Whoever was away is asked again: it may have been restarted with other settings. So is, once, who was late.
        """
        there = set(present.ids)
        self._admitted &= there
        self._refused = {node: reason for node, reason in self._refused.items() if node in there}
        new = [node for node in present.ids if node not in self._admitted and not self._answered(node)]
        if new and len(there) >= self._rules.min_nodes:
            self._preflight(number, new, len(there))
        return Nodes([node for node in present.ids if node in self._admitted])

    def _answered(self, node: int) -> bool:
        """Say whether a node that takes no part is not asked again."""
        reason = self._refused.get(node)
        return reason is not None and (reason != _LATE or self._late[node] >= _ASKED_LATE)

    def _preflight(self, number: int, nodes: list[int], members: int) -> None:
        config = {PLAN: self._plan.model_dump_json(), ROUND: number, MEMBERS: members, SOFTWARE: rsfed.__version__}
        content = RecordDict({CONFIG: ConfigRecord(config)})
        messages = [Message(content, dst_node_id=node, message_type=PREFLIGHT) for node in nodes]
        refused = dict.fromkeys(nodes, _LATE)
        no_sums: dict[int, str] = {}
        for reply in self._grid.send_and_receive(messages, timeout=self._rules.timeout_s):
            refused.pop(reply.metadata.src_node_id)
            if reply.has_error():
                refused[reply.metadata.src_node_id] = _refusal(reply.error.reason or "NODE_ERROR")
            elif why := _no_sums(reply.content):
                no_sums[reply.metadata.src_node_id] = why
        self._admitted |= set(nodes) - set(refused)
        self._late.update(node for node, reason in refused.items() if reason == _LATE)
        self._refused = {node: reason for node, reason in self._refused.items() if node not in nodes} | refused
        willing = tuple(node for node in nodes if node not in refused)
        self._hooks.on_preflight(PreflightReport(number, willing, refused, no_sums))

    def _await_return(self) -> Nodes:
        """Return the present nodes; just after a restart, give those that it knew a moment to come back."""
        deadline = Deadline.after(min(RETURN_S, self._rules.timeout_s))
        while self._awaited - set((nodes := self._present()).ids) and deadline.remaining():
            self._hooks.pause(min(_POLL_S, deadline.remaining()))
        self._awaited = frozenset()
        return nodes

    def _present(self) -> Nodes:
        return Nodes(list(self._grid.get_node_ids()))


def _no_sums(content: RecordDict) -> str:
    """Return why a node gives no sums; nothing where it does, or says it in another form than a closed reason."""
    said = content[CONFIG].get(NO_SUMS) if isinstance(content.get(CONFIG), ConfigRecord) else None
    return said if isinstance(said, str) and is_reason(said) else ""


def _refusal(reason: str) -> str:
    """Return why a node takes no part; one of before there was a preflight fails at it as at any unknown kind."""
    if reason in {"UNKNOWN_KIND", "TRAINING_FAILED"}:
        return "OTHER_SOFTWARE"
    return _LATE if reason == "ROUND_DEADLINE" else reason
