"""One run on Flower: puts the app of the rounds, the grid over the board and the run's events together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, Context, RecordDict

from coordinator.training.board import TaskBoard
from coordinator.training.grid import BoardGrid, Exchange, node_number
from coordinator.training.rounds import CalibrationReport, Hooks, RoundReport, Rules, server_app
from rsfed.hashing.payload import Arrays
from rsfed.hashing.plan import ARRAYS, TrainingPlan
from rsfed.trust.manifest import Calibration

Note = Callable[[str, dict[str, Any]], None]
"""Takes the kind of an event and what it says."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run gave.

    Attributes:
        weights: The trained weights.
        rounds: Rounds that changed them.
        nodes: Names of the nodes whose results they rest on.
        loss: Mean loss of the last round that counted.
        calibration: How likely a hit is relevant, by distance; None where the nodes' counts are too few to tell.
    """

    weights: Arrays
    rounds: int
    nodes: frozenset[str]
    loss: float
    calibration: Calibration | None = None


def train(  # noqa: PLR0913 - what a run is made of
    board: TaskBoard, plan: TrainingPlan, weights: Arrays, *, run_id: int, rules: Rules, note: Note
) -> Trained:
    """Run all rounds of a plan; blocks until they are done.

    Raises:
        TrainingError: TOO_FEW_NODES, NO_RESULT, RUN_CANCELLED or COORDINATOR_STOPPED.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)  # its log is free text; ours has a fixed list of fields
    grid = BoardGrid(board, run_id)
    told = _Told(grid, plan, rules, note)
    context = Context(
        run_id=run_id,
        node_id=0,
        node_config={},
        state=RecordDict({ARRAYS: ArrayRecord({name: Array(array) for name, array in weights.items()})}),
        run_config={
            "plan": plan.model_dump_json(),
            "min-nodes": rules.min_nodes,
            "round-timeout-s": rules.timeout_s,
        },
    )
    hooks = Hooks(on_round=told.round, on_calibration=told.calibrated, on_wait=told.waiting, pause=grid.wait)
    server_app(hooks)(grid, context)
    counted = [(report, nodes) for report, nodes in told.rounds if report.counted]
    return Trained(
        weights={name: array.numpy() for name, array in context.state[ARRAYS].items()},
        rounds=len(counted),
        nodes=frozenset().union(*(nodes for _, nodes in counted)),
        loss=next((report.loss for report, _ in reversed(counted) if report.loss is not None), 0.0),
        calibration=told.calibration,
    )


class _Told:
    """Turns what the rounds tell into events with the nodes' names and the bytes that moved."""

    def __init__(self, grid: BoardGrid, plan: TrainingPlan, rules: Rules, note: Note) -> None:
        self._grid, self._plan, self._rules, self._note = grid, plan, rules, note
        self._present = -1
        self.rounds: list[tuple[RoundReport, frozenset[str]]] = []
        self.calibration: Calibration | None = None

    def waiting(self, number: int, present: int) -> None:
        """Say once for each change that nodes are missing."""
        if present != self._present:
            self._note("waiting", {"round": number, "present": present, "needed": self._rules.min_nodes})
        self._present = present

    def round(self, report: RoundReport) -> None:
        """Say what a round gave."""
        self._present = -1
        moved: dict[str, Exchange] = self._grid.exchanges
        names = {node_number(name): name for name in moved}
        good = sorted(names[node] for node in report.nodes)
        self.rounds.append((report, frozenset(good)))
        self._note(
            "round",
            {
                "round": report.round,
                "rounds": self._plan.rounds,
                "nodes": good,
                "failed": {names[node]: reason for node, reason in report.failed.items()},
                "counted": report.counted,
                "loss": report.loss,
                "examples": report.examples,
                "sent_bytes": sum(exchange.sent for exchange in moved.values()),
                "received_bytes": sum(exchange.received for exchange in moved.values()),
                "seconds": round(report.seconds, 3),
            },
        )

    def calibrated(self, report: CalibrationReport) -> None:
        """Keep the table and say what it rests on."""
        names = {node_number(name): name for name in self._grid.exchanges}
        table = self.calibration = report.calibration
        self._note(
            "calibrated",
            {
                "nodes": sorted(names[node] for node in report.nodes),
                "failed": {names[node]: reason for node, reason in report.failed.items()},
                "queries": None if table is None else table.queries,
                "prior": None if table is None else table.prior,
                "error": None if table is None else table.error,
            },
        )
