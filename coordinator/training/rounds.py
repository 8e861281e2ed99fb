"""The rounds of a run as a Flower `ServerApp`: works over any `Grid`, knows nothing of gRPC, SQLite or releases.

The loop calls the strategy's public `configure_train` and `aggregate_train` with true round numbers. A node that fails
or sends what cannot be right costs that round its share, never the run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from coordinator.training.attendance import Attendance, Nodes, PreflightReport
from coordinator.training.checkpoints import Progress
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.calibration import PairCounts, fit, from_records, total
from rsfed.hashing.payload import Arrays
from rsfed.hashing.plan import (
    ARRAYS,
    CONFIG,
    EXAMPLES,
    LOSS,
    MEMBERS,
    METRICS,
    PLAN,
    SECONDS,
    TrainingPlan,
)
from rsfed.telemetry import log
from rsfed.trust.manifest import Calibration

MAX_EXAMPLES = 1e8  # patches that a node may claim; the claim itself is believed, members are known by name
MAX_GROWTH = 10.0  # L2 norm of an update, in norms of the weights that it starts from


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round gave.

    Attributes:
        round: Number of the round, from 1.
        nodes: Flower's numbers of the nodes whose result counts.
        failed: Why the others gave none, by number.
        loss: Mean loss over the nodes that tell theirs, weighted by their patches; None where none does.
        examples: Patches that the results rest on.
        counted: Whether the weights changed: at least the minimum of nodes gave a result.
        seconds: How long it took.
    """

    round: int
    nodes: tuple[int, ...]
    failed: dict[int, str]
    loss: float | None
    examples: int
    counted: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What the calibration after the last round gave.

    Attributes:
        calibration: The table; None where the counts are too few for one.
        nodes: Flower's numbers of the nodes whose counts it rests on.
        failed: Why the others gave none, by number.
    """

    calibration: Calibration | None = None
    nodes: tuple[int, ...] = ()
    failed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """When a round starts and ends.

    Attributes:
        min_nodes: Nodes that a round needs, present at its start and with a result at its end.
        timeout_s: How long a round waits for nodes to come, and then for their results.
        fraction: Share of the present nodes that a round asks, drawn at random; at least the minimum of nodes.
    """

    min_nodes: int = 1
    timeout_s: float = 600.0
    fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a run tells while it goes on.

    Attributes:
        on_preflight: Called after nodes were asked whether they take part.
        on_round: Called after each round, also with how far the run is by then.
        on_calibration: Called after the last one.
        on_wait: Called with the number of present nodes while they are too few.
        pause: Lets seconds pass.
        name: Returns the name of a node by its number, for people.
    """

    on_preflight: Callable[[PreflightReport], None] = field(default=lambda _: None)
    on_round: Callable[[RoundReport, Progress], None] = field(default=lambda _report, _progress: None)
    on_calibration: Callable[[CalibrationReport], None] = field(default=lambda _: None)
    on_wait: Callable[[int, int], None] = field(default=lambda _round, _present: None)
    pause: Callable[[float], None] = time.sleep
    name: Callable[[int], str] = str


def server_app(hooks: Hooks | None = None, since: Progress | None = None) -> ServerApp:
    """Return the Flower app of a run.

    It reads the plan and the rules from `context.run_config`, starts from the arrays in `context.state` and leaves the
    trained ones there.

    Args:
        hooks: What is told while the run goes on; nothing where they are left out.
        since: Where an interrupted run goes on; its weights are those in `context.state`.
    """
    app, hooks = ServerApp(), hooks or Hooks()

    def main(grid: Grid, context: Context) -> None:
        settings = context.run_config
        plan = TrainingPlan.model_validate_json(settings["plan"])
        rules = Rules(int(settings["min-nodes"]), float(settings["round-timeout-s"]), float(settings["fraction-train"]))
        loop = RoundLoop(grid, plan, rules, hooks, since or Progress())
        context.state[ARRAYS] = loop.run(context.state[ARRAYS])
        hooks.on_calibration(loop.calibrate(context.state[ARRAYS]))

    app.main()(main)
    return app


class RoundLoop:
    """Drives a strategy over a grid.

    Args:
        grid: Reaches the nodes.
        plan: What the nodes are told.
        rules: When a round starts and ends.
        hooks: What is told while the run goes on.
        since: Where the run goes on.
    """

    def __init__(self, grid: Grid, plan: TrainingPlan, rules: Rules, hooks: Hooks, since: Progress) -> None:
        self._grid, self._plan, self._rules, self._hooks, self._since = grid, plan, rules, hooks, since
        self._attendance = Attendance(grid, plan, rules, hooks, since)
        self._random = since.random or random.Random(plan.seed).getstate()  # noqa: S311 - repeatable, keeps no secret
        self._strategy = FedAvg(
            fraction_train=rules.fraction,
            fraction_evaluate=1.0,
            min_train_nodes=rules.min_nodes,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            weighted_by_key=EXAMPLES,
        )

    def run(self, arrays: ArrayRecord) -> ArrayRecord:
        """Train for the rounds of the plan that are left and return the trained weights.

        Raises:
            TrainingError: TOO_FEW_NODES came within the time of a round, or NO_RESULT in any round.
        """
        counted = self._since.counted
        reasons: set[str] = set()
        for number in range(self._since.round + 1, self._plan.rounds + 1):
            arrays, report = self._one_round(number, arrays, self._attendance.for_round(number))
            counted += report.counted
            reasons.update(report.failed.values())
            self._hooks.on_round(report, self._progress(report, arrays, counted))
        if not counted:
            what = ", ".join(sorted(reasons)) or "too few results"
            raise TrainingError(f"no round gave a result: {what}; the nodes' logs say more", reason="NO_RESULT")
        return arrays

    def _progress(self, report: RoundReport, arrays: ArrayRecord, counted: int) -> Progress:
        return Progress(
            round=report.round,
            weights={name: array.numpy() for name, array in arrays.items()},
            strategy={},  # FedAvg carries nothing from round to round
            random=self._random,
            counted=counted,
            nodes=report.nodes,
        )

    def calibrate(self, arrays: ArrayRecord) -> CalibrationReport:
        """Have the nodes that are present count near pairs with the trained weights, and fit what they count.

        Without a table the weights are as good as with one, so only the end of the run is an error.

        Raises:
            TrainingError: the run was cancelled, or the coordinator stops.
        """
        try:
            return self._calibrate(arrays)
        except TrainingError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the trained weights are good
            log.error("training.calibration", error_type=type(error).__name__)
            return CalibrationReport()

    def _calibrate(self, arrays: ArrayRecord) -> CalibrationReport:
        nodes = self._attendance.not_refused()
        if not nodes.ids:
            return CalibrationReport()
        config = ConfigRecord({PLAN: self._plan.model_dump_json()})
        messages = self._strategy.configure_evaluate(self._plan.rounds, arrays, config, nodes)
        counts: dict[int, PairCounts] = {}
        failed: dict[int, str] = {}
        for reply in self._grid.send_and_receive(messages, timeout=self._rules.timeout_s):
            node = reply.metadata.src_node_id
            if reply.has_error():
                failed[node] = reply.error.reason or "NODE_ERROR"
                continue
            try:
                counts[node] = read_counts(reply.content, self._plan.bits)
            except InvalidMessage as error:
                failed[node] = error.reason
        calibration = fit(total(list(counts.values())), nodes=len(counts)) if counts else None
        return CalibrationReport(calibration, tuple(counts), failed)

    def _one_round(self, number: int, arrays: ArrayRecord, nodes: Nodes) -> tuple[ArrayRecord, RoundReport]:
        start = time.monotonic()
        config = ConfigRecord({PLAN: self._plan.model_dump_json()})
        messages = self._drawn(number, arrays, config, nodes)
        asked = {message.metadata.dst_node_id for message in messages}
        replies = self._grid.send_and_receive(messages, timeout=self._rules.timeout_s)
        good, failed = _sift(replies, {name: array.numpy() for name, array in arrays.items()})
        answered = {*failed, *(reply.metadata.src_node_id for reply in good)}
        counted = len(good) >= self._rules.min_nodes
        losses = _take_losses(good)
        if counted:  # else the strategy must not see them: it would remember a step that was not made
            arrays, _ = self._strategy.aggregate_train(number, good)
        report = RoundReport(
            round=number,
            nodes=tuple(reply.metadata.src_node_id for reply in good),
            failed=failed | dict.fromkeys(asked - answered, "NO_ANSWER"),
            loss=_mean(losses),
            examples=sum(_examples(reply) for reply in good),
            counted=counted,
            seconds=time.monotonic() - start,
        )
        return arrays, report

    def _drawn(self, number: int, arrays: ArrayRecord, config: ConfigRecord, nodes: Nodes) -> list[Message]:
        """Return the messages of a round to the nodes that are drawn for it; they say how many these are.

        Strategies draw by the process's own generator. Its state is ours for that moment, so that a run that was
        interrupted draws on as if it had not been, whatever else draws in this process.
        """
        elsewhere = random.getstate()
        random.setstate(self._random)
        try:
            messages = list(self._strategy.configure_train(number, arrays, config, nodes))
        finally:
            self._random = random.getstate()
            random.setstate(elsewhere)
        for message in messages:
            message.content[CONFIG][MEMBERS] = len(messages)
        return messages


def _sift(replies: Iterable[Message], start: Arrays) -> tuple[list[Message], dict[int, str]]:
    good, failed = [], {}
    for reply in replies:
        reason = (reply.error.reason or "NODE_ERROR") if reply.has_error() else check_update(reply.content, start)
        if reason:
            failed[reply.metadata.src_node_id] = reason
        else:
            good.append(reply)
    return good, failed


def _take_losses(replies: Iterable[Message]) -> list[tuple[float, int]]:
    """Take the losses out of the results, which need not have one and must be alike for a strategy.

    Returns:
        Loss and number of patches, of each result with a loss.
    """
    return [
        (float(reply.content[METRICS].pop(LOSS)), _examples(reply))
        for reply in replies
        if LOSS in reply.content[METRICS]
    ]


def _examples(reply: Message) -> int:
    return int(reply.content[METRICS][EXAMPLES])


def _mean(losses: list[tuple[float, int]]) -> float | None:
    total_ = sum(examples for _, examples in losses)
    return sum(loss * examples for loss, examples in losses) / total_ if losses else None


def read_counts(content: RecordDict, bits: int) -> PairCounts:
    """Return what a node counted for calibration.

    Raises:
        InvalidMessage: CALIBRATION_FORM or CALIBRATION_COUNTS, what came may not reach the sum.
    """
    if set(content) != {ARRAYS, METRICS}:
        raise InvalidMessage("the counts for calibration have another form", reason="CALIBRATION_FORM")
    return from_records({name: array.numpy() for name, array in content[ARRAYS].items()}, content[METRICS], bits)


def check_update(content: RecordDict, start: Arrays) -> str:
    """Say why a result may not reach the strategy, or "" where it may.

    Args:
        content: The records of the result.
        start: The weights that the node started from, by name.

    Returns:
        UPDATE_FORM, UPDATE_SHAPE, UPDATE_EXAMPLES, UPDATE_NOT_FINITE, UPDATE_TOO_LARGE or "".
    """
    if set(content) != {ARRAYS, METRICS} or set(content[METRICS]) - {LOSS} != {EXAMPLES, SECONDS}:
        return "UPDATE_FORM"
    arrays = {name: array.numpy() for name, array in content[ARRAYS].items()}
    if {n: (a.shape, a.dtype) for n, a in arrays.items()} != {n: (a.shape, a.dtype) for n, a in start.items()}:
        return "UPDATE_SHAPE"
    if not 1 <= float(content[METRICS][EXAMPLES]) <= MAX_EXAMPLES:
        return "UPDATE_EXAMPLES"
    moved = _norm({name: array - start[name] for name, array in arrays.items()})
    if not np.isfinite([moved, *content[METRICS].values()]).all():
        return "UPDATE_NOT_FINITE"
    return "UPDATE_TOO_LARGE" if moved > MAX_GROWTH * (1.0 + _norm(start)) else ""


def _norm(arrays: Arrays) -> float:
    """Return the L2 norm of all arrays together; float64, because float32 overflows."""
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays.values())))
