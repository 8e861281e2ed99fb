"""One run on Flower: puts the app of the rounds, a grid and the run's events together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import Context, Message, RecordDict

from coordinator.training.arrays import record_of
from coordinator.training.attendance import PreflightReport
from coordinator.training.blob import Blob
from coordinator.training.checkpoints import Progress
from coordinator.training.grid import Exchange
from coordinator.training.rounds import CalibrationReport, Hooks, RoundReport, server_app
from coordinator.training.rules import Rules
from coordinator.training.solving import SolveReport
from rsfed.config_strategies import DEFAULT_STRATEGY, StrategySection
from rsfed.hashing.payload import Arrays
from rsfed.hashing.plan import ARRAYS, TrainingPlan
from rsfed.heap import return_freed_memory
from rsfed.trust.manifest import Calibration, CodebookEntry

_CLOSED_FORM = "ClosedForm"  # in the place of a strategy

Note = Callable[[str, dict[str, Any]], None]
"""Takes the kind of an event and what it says."""

Keep = Callable[[Progress, str, dict[str, Any]], None]
"""Takes how far the run is, and kind and words of the event that brought it there."""


class RunGrid(Protocol):
    """What a run asks of a grid: Flower's two calls, and what it takes to tell people of the run."""

    @property
    def exchanges(self) -> Mapping[str, Exchange]:
        """What the last `send_and_receive` moved, by node name; empty where that is not known."""

    def get_node_ids(self) -> list[int]:
        """Return the numbers of the nodes that are present."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the replies."""

    def name_of(self, node: int) -> str:
        """Return the name of a node that was present in this run."""

    def wait(self, seconds: float) -> None:
        """Let time pass for nodes to come."""

    def aside(self, data: bytes) -> Blob:
        """Put bytes aside until they are let go."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run gave.

    Attributes:
        weights: The trained weights.
        rounds: Rounds that changed them.
        nodes: Names of the nodes whose results they rest on.
        loss: Mean loss of the last round that counted and had one; None where no node tells its loss.
        calibration: How likely a hit is relevant, by distance; None where the nodes' counts are too few to tell.
        strategy: How the results became weights, by Flower's name; "ClosedForm" where they were solved for.
        summed: Nodes whose sums the last layer was solved for from after the last round; 0 where it was not.
        codebook: The code of each class that enough acquisitions stand behind.
        reach: How far from the nearest of them queries may lie, in bits.
    """

    weights: Arrays
    rounds: int
    nodes: frozenset[str]
    loss: float | None
    calibration: Calibration | None = None
    strategy: str = DEFAULT_STRATEGY.title
    summed: int = 0
    codebook: tuple[CodebookEntry, ...] = ()
    reach: int = 0


def train(  # noqa: PLR0913 - what a run is made of
    grid: RunGrid,
    plan: TrainingPlan,
    since: Progress,
    *,
    run_id: int,
    strategy: StrategySection = DEFAULT_STRATEGY,
    rules: Rules,
    note: Note,
    keep: Keep | None = None,
    before: Sequence[dict[str, Any]] = (),
) -> Trained:
    """Run the rounds of a plan that are left; blocks until they are done.

    Args:
        grid: Reaches the nodes.
        plan: What is trained.
        since: Where the run goes on; at its begin nothing but the weights to start from. Weights and state of the
            strategy are taken out of it, so that memory holds them once.
        run_id: The run.
        strategy: How results become new weights.
        rules: When a round starts and ends.
        note: Takes events.
        keep: Takes those that change the weights, with what it needs to go on from there; left out, they are noted as
            others are.
        before: What the events of the rounds until `since` said.

    Raises:
        ConfigError: the strategy needs more nodes than the rules do.
        TrainingError: TOO_FEW_NODES, NO_RESULT, RUN_CANCELLED or COORDINATOR_STOPPED.
    """
    return_freed_memory()
    told = _Told(
        grid,
        rounds=plan.rounds,
        note=note,
        keep=keep or (lambda _, kind, data: note(kind, data)),
        before=before,
        summed=since.summed,
    )
    start = record_of(since.weights.items())
    since.weights.clear()
    context = Context(
        run_id=run_id,
        node_id=0,
        node_config={},
        state=RecordDict({ARRAYS: start}),
        run_config={
            "plan": plan.model_dump_json(),
            "strategy": strategy.model_dump_json(),
            "min-nodes": rules.min_nodes,
            "round-timeout-s": rules.timeout_s,
            "fraction-train": rules.fraction,
            "coding": rules.coding,
            "average-rounds": rules.average,
        },
    )
    del start
    hooks = Hooks(
        on_preflight=told.preflight,
        on_solved=told.solved,
        on_round=told.round,
        on_calibration=told.calibrated,
        on_wait=told.waiting,
        pause=grid.wait,
        name=grid.name_of,
        aside=grid.aside,
    )
    server_app(hooks, since)(grid, context)
    counted = [data for data in told.rounds if data["counted"]]
    nodes = frozenset[str]().union(*(data["nodes"] for data in counted))
    return Trained(
        weights={name: array.numpy() for name, array in context.state[ARRAYS].items()},
        rounds=len(counted),
        nodes=nodes,
        loss=next((data["loss"] for data in reversed(counted) if data["loss"] is not None), None),
        calibration=told.calibration,
        strategy=_CLOSED_FORM if plan.closed_form else strategy.title,
        summed=len(nodes) if plan.closed_form else told.summed,
        codebook=told.codebook,
        reach=told.reach,
    )


class _Told:
    """Turns what the rounds tell into events with the nodes' names and the bytes that moved."""

    def __init__(  # noqa: PLR0913 - as many as it takes to tell a run
        self,
        grid: RunGrid,
        *,
        rounds: int,
        note: Note,
        keep: Keep,
        before: Sequence[dict[str, Any]],
        summed: int,
    ) -> None:
        self._grid, self._rounds, self._note, self._keep = grid, rounds, note, keep
        self._present = -1
        self.rounds = list(before)
        self.summed = summed
        self.calibration: Calibration | None = None
        self.codebook: tuple[CodebookEntry, ...] = ()
        self.reach = 0

    def waiting(self, number: int, present: int, needed: int) -> None:
        """Say once for each change that nodes are missing."""
        if present != self._present:
            self._note("waiting", {"round": number, "present": present, "needed": needed})
        self._present = present

    def preflight(self, report: PreflightReport) -> None:
        """Say which nodes take part, and why others do not."""
        name = self._grid.name_of
        self._note(
            "preflight",
            {
                "round": report.round,
                "nodes": sorted(map(name, report.nodes)),
                "refused": {name(node): reason for node, reason in report.refused.items()},
                "no_sums": {name(node): reason for node, reason in report.no_sums.items()},
            },
        )

    def solved(self, report: SolveReport, progress: Progress) -> None:
        """Say who gave sums for the last layer, and what came of it."""
        name = self._grid.name_of
        data = {
            "round": report.round,
            "nodes": sorted(map(name, report.nodes)),
            "failed": {name(node): reason for node, reason in report.failed.items()},
            "patches": report.patches,
            "needed": report.needed,
            "solved": report.solved,
        }
        self._keep(progress, "solved", data)
        self._present, self.summed = -1, progress.summed

    def round(self, report: RoundReport, progress: Progress) -> None:
        """Say what a round gave."""
        self._present = -1
        moved = self._grid.exchanges
        name = self._grid.name_of
        data = {
            "round": report.round,
            "rounds": self._rounds,
            "nodes": sorted(map(name, report.nodes)),
            "failed": {name(node): reason for node, reason in report.failed.items()},
            "counted": report.counted,
            "loss": report.loss,
            "examples": report.examples,
            "sent_bytes": sum(exchange.sent for exchange in moved.values()),
            "received_bytes": sum(exchange.received for exchange in moved.values()),
            "seconds": round(report.seconds, 3),
            "slowest_node_seconds": round(report.slowest, 3),
        }
        self._keep(progress, "round", data)
        self.rounds.append(data)

    def calibrated(self, report: CalibrationReport) -> None:
        """Keep the table and say what it rests on."""
        name = self._grid.name_of
        table = self.calibration = report.calibration
        self.codebook, self.reach = report.codebook, report.reach
        self._note(
            "calibrated",
            {
                "nodes": sorted(map(name, report.nodes)),
                "failed": {name(node): reason for node, reason in report.failed.items()},
                "queries": None if table is None else table.queries,
                "prior": None if table is None else table.prior,
                "error": None if table is None else table.error,
                "cells": len(report.codebook),
            },
        )
