"""The rounds of a run as a Flower `ServerApp`: works over any `Grid`, knows nothing of gRPC, SQLite or releases.

The loop calls the strategy's public `configure_train` and `aggregate_train` with true round numbers. A node that fails
or sends what cannot be right costs that round its share, never the run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from pydantic import TypeAdapter

from coordinator.training.arrays import as_float32, record_of, view, views
from coordinator.training.attendance import Attendance, Nodes, PreflightReport
from coordinator.training.blob import Blob
from coordinator.training.changes import shorten
from coordinator.training.checkpoints import Progress
from coordinator.training.late import LateMean
from coordinator.training.rules import Rules
from coordinator.training.solving import LastLayer, SolveReport
from coordinator.training.strategies import go_on_from, make_strategy, restore, state_of
from coordinator.training.updates import Updates, read_result, sift
from rsfed.config_strategies import StrategySection
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing import codebook
from rsfed.hashing.calibration import PairCounts, fit, from_records, total
from rsfed.hashing.codebook import CodeCounts
from rsfed.hashing.exchange import Downlink
from rsfed.hashing.plan import ARRAYS, CODING, CONFIG, MEMBERS, PLAN, TrainingPlan
from rsfed.hashing.refit import centres_if_any
from rsfed.telemetry import log
from rsfed.trust.manifest import Calibration, CodebookEntry

_LOST = "lost/"  # what packed changes owe the nodes, in what is kept of a run
_STRATEGIES: TypeAdapter[StrategySection] = TypeAdapter(StrategySection)


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
        slowest: How long the slowest node computed, as it says, in seconds.
    """

    round: int
    nodes: tuple[int, ...]
    failed: dict[int, str]
    loss: float | None
    examples: int
    counted: bool
    seconds: float
    slowest: float


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What the calibration after the last round gave.

    Attributes:
        calibration: The table; None where the counts are too few for one.
        nodes: Flower's numbers of the nodes whose counts it rests on.
        failed: Why the others gave none, by number.
        codebook: The code of each class that nodes counted; none where no class is of enough acquisitions.
        reach: How far from the nearest of them queries may lie, in bits.
    """

    calibration: Calibration | None = None
    nodes: tuple[int, ...] = ()
    failed: dict[int, str] = field(default_factory=dict)
    codebook: tuple[CodebookEntry, ...] = ()
    reach: int = 0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a run tells while it goes on.

    Attributes:
        on_preflight: Called after nodes were asked whether they take part.
        on_solved: Called after nodes were asked for sums for the last layer, also with how far the run is by then.
        on_round: Called after each round, also with how far the run is by then.
        on_calibration: Called after the last one.
        on_wait: Called with a round, the nodes that are there and those that it takes, while they are too few.
        pause: Lets seconds pass.
        name: Returns the name of a node by its number, for people.
        aside: Puts bytes aside until they are let go.
    """

    on_preflight: Callable[[PreflightReport], None] = field(default=lambda _: None)
    on_solved: Callable[[SolveReport, Progress], None] = field(default=lambda _report, _progress: None)
    on_round: Callable[[RoundReport, Progress], None] = field(default=lambda _report, _progress: None)
    on_calibration: Callable[[CalibrationReport], None] = field(default=lambda _: None)
    on_wait: Callable[[int, int, int], None] = field(default=lambda _round, _present, _needed: None)
    pause: Callable[[float], None] = time.sleep
    name: Callable[[int], str] = str
    aside: Callable[[bytes], Blob] = Blob.of


def server_app(hooks: Hooks | None = None, since: Progress | None = None) -> ServerApp:
    """Return the Flower app of a run.

    It reads the plan, the strategy and the rules from `context.run_config`, starts from the arrays in `context.state`
    and leaves the trained ones there.

    Args:
        hooks: What is told while the run goes on; nothing where they are left out.
        since: Where an interrupted run goes on; its weights are those in `context.state`.
    """
    app, hooks = ServerApp(), hooks or Hooks()

    def main(grid: Grid, context: Context) -> None:
        settings = context.run_config
        plan = TrainingPlan.model_validate_json(settings["plan"])
        rules = Rules(
            int(settings["min-nodes"]),
            float(settings["round-timeout-s"]),
            float(settings["fraction-train"]),
            str(settings["coding"]),
            int(settings["average-rounds"]),
        )
        strategy = _STRATEGIES.validate_json(settings["strategy"])
        loop = RoundLoop(grid, plan, strategy, rules=rules, hooks=hooks, since=since or Progress())
        context.state[ARRAYS] = loop.run(context.state.pop(ARRAYS))
        hooks.on_calibration(loop.calibrate(context.state[ARRAYS]))

    app.main()(main)
    return app


class RoundLoop:
    """Drives a strategy over a grid.

    Args:
        grid: Reaches the nodes; the replies that it returns can be gone through twice.
        plan: What the nodes are told.
        strategy: How results become new weights.
        rules: When a round starts and ends.
        hooks: What is told while the run goes on.
        since: Where the run goes on; what the strategy carried is taken out of it.

    Raises:
        ConfigError: the strategy needs more nodes than a round.
    """

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        grid: Grid,
        plan: TrainingPlan,
        strategy: StrategySection,
        *,
        rules: Rules,
        hooks: Hooks,
        since: Progress,
    ) -> None:
        self._grid, self._plan, self._rules, self._hooks = grid, plan, rules, hooks
        self._since = since
        self._attendance = Attendance(grid, plan, rules, hooks, since)
        self._random = since.random or random.Random(plan.seed).getstate()  # noqa: S311 - repeatable, keeps no secret
        self._strategy = make_strategy(strategy, fraction=rules.fraction, min_nodes=rules.min_nodes)
        restore(self._strategy, since.strategy)
        lost = {name.removeprefix(_LOST): a for name, a in since.strategy.items() if name.startswith(_LOST)}
        self._late = LateMean(rules.average, plan.rounds, since.strategy)
        self._downlink = Downlink(rules.coding, lost if rules.packs else {})
        since.strategy.clear()  # it is large, and whoever made it may hold it as long as the run
        self._last_layer = LastLayer(
            grid, plan, self._attendance, rules.min_nodes, rules.timeout_s, self._downlink, hooks.aside
        )

    def run(self, arrays: ArrayRecord) -> ArrayRecord:
        """Train for the rounds of the plan that are left and return the trained weights.

        Raises:
            TrainingError: TOO_FEW_NODES came within the time of a round, or NO_RESULT in any round.
        """
        since, rounds = self._since, self._plan.rounds
        done = replace(since, strategy={})
        reasons: set[str] = set()
        if self._plan.solve_start and not since.round and not since.asked:
            arrays = self._solve(arrays, self._attendance.for_round(1), done)
        for number in range(since.round + 1, rounds + 1):
            arrays, report = self._one_round(number, arrays, self._attendance.for_round(number))
            reasons.update(report.failed.values())
            done = _after(done, report)
            if report.counted:
                self._late.add(number, arrays)
            self._hooks.on_round(report, self._progress(arrays, done))
        counted = done.counted
        if not counted:
            what = ", ".join(sorted(reasons)) or "too few results"
            raise TrainingError(f"no round gave a result: {what}; the nodes' logs say more", reason="NO_RESULT")
        if since.round == rounds and since.asked:
            return arrays
        if (mean := self._late.result()) is not None:
            arrays = mean
            self._downlink.spend()  # nodes have the weights of the last round, so they get these whole
        if self._plan.solve_end:
            arrays = self._solve(arrays, self._attendance.not_refused(), done)
        return arrays

    def _solve(self, arrays: ArrayRecord, nodes: Nodes, done: Progress) -> ArrayRecord:
        """Have nodes give sums, and return weights with the last layer that follows from them."""
        arrays, report = self._last_layer.solve(arrays, nodes, after=done.round, took_part=done.took_part)
        summed = len(report.nodes) if report.solved and report.round else 0
        self._hooks.on_solved(report, self._progress(arrays, replace(done, asked=True, summed=summed)))
        return arrays

    def _progress(self, arrays: ArrayRecord, done: Progress) -> Progress:
        """Return how far the run is, with all that it needs to go on from there."""
        return replace(
            done,
            weights=views(arrays),
            strategy=state_of(self._strategy)
            | {_LOST + name: a for name, a in self._downlink.lost.items()}
            | self._late.kept,
            random=self._random,
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
        asked = self._strategy.configure_evaluate(self._plan.rounds, arrays, config, nodes)
        messages = shorten(asked, self._downlink)
        counts: dict[int, tuple[PairCounts, CodeCounts]] = {}
        failed: dict[int, str] = {}
        for reply in self._grid.send_and_receive(messages, timeout=self._rules.timeout_s):
            node = reply.metadata.src_node_id
            if reply.has_error():
                failed[node] = reply.error.reason or "NODE_ERROR"
                continue
            try:
                counts[node] = read_counts(reply.content, self._plan)
            except InvalidMessage as error:
                failed[node] = error.reason
        if not counts:
            return CalibrationReport(failed=failed)
        pairs, codes = zip(*counts.values(), strict=True)
        calibration = fit(total(pairs), nodes=len(counts))
        centres = centres_if_any(self._plan)
        entries, reach = codebook.make_codebook(codes, self._plan.class_ids, centres)
        return CalibrationReport(calibration, tuple(counts), failed, entries, reach)

    def _one_round(self, number: int, arrays: ArrayRecord, nodes: Nodes) -> tuple[ArrayRecord, RoundReport]:
        return self._solved(number, arrays, nodes) if self._plan.closed_form else self._trained(number, arrays, nodes)

    def _solved(self, number: int, arrays: ArrayRecord, nodes: Nodes) -> tuple[ArrayRecord, RoundReport]:
        """Do the round of the closed form, which asks all nodes, also those that came meanwhile.

        Whoever is left out has no part in the codes.
        """
        start = time.monotonic()
        given = self._last_layer.gather(arrays, nodes, number, nodes.ids)
        while late := self._attendance.late(number, {*given.sums, *given.failed}):
            given = given.and_of(self._last_layer.gather(arrays, late, number, late.ids))
        given = self._last_layer.agreeing(arrays, given)
        counted = len(given.sums) >= self._rules.min_nodes
        if counted:
            arrays = self._last_layer.solved(arrays, given)
        report = RoundReport(
            round=number,
            nodes=tuple(given.sums),
            failed=given.failed,
            loss=None,
            examples=given.patches,
            counted=counted,
            seconds=time.monotonic() - start,
            slowest=given.slowest,
        )
        return arrays, report

    def _trained(self, number: int, arrays: ArrayRecord, nodes: Nodes) -> tuple[ArrayRecord, RoundReport]:
        start = time.monotonic()
        config = ConfigRecord({PLAN: self._plan.model_dump_json()})
        if self._rules.packs:
            config[CODING] = self._rules.coding
        messages = shorten(self._drawn(number, arrays, config, nodes), self._downlink)
        asked = {message.metadata.dst_node_id for message in messages}
        replies = self._grid.send_and_receive(messages, timeout=self._rules.timeout_s)
        updates = sift(replies, views(arrays))
        if (new := self._aggregate(number, updates)) is not None:
            arrays = self._settled(arrays, new, updates.holders)
        answered = {*updates.failed, *updates.good}
        report = RoundReport(
            round=number,
            nodes=tuple(updates.good),
            failed=updates.failed | dict.fromkeys(asked - answered, "NO_ANSWER"),
            loss=updates.loss,
            examples=updates.examples,
            counted=new is not None,
            seconds=time.monotonic() - start,
            slowest=updates.slowest,
        )
        return arrays, report

    def _aggregate(self, number: int, updates: Updates) -> ArrayRecord | None:
        """Return the new weights; None of too few results, which the strategy never sees: it would remember a step."""
        if len(updates.good) < self._rules.min_nodes:
            return None
        new, _ = self._strategy.aggregate_train(number, updates)
        return None if new is None else as_float32(new)

    def _settled(self, before: ArrayRecord, new: ArrayRecord, holders: list[int]) -> ArrayRecord:
        """Return what the weights of the run become: just what nodes will have of the new ones, which are used up."""
        if not self._rules.packs:
            return new
        go_on_from(self._strategy, before)  # lets go of the new ones, which go one by one: memory is short here
        pairs = ((name, view(new.pop(name))) for name in list(new))
        settled = record_of(self._downlink.settle(views(before), pairs, holders))
        go_on_from(self._strategy, settled)
        return settled

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


def _after(done: Progress, report: RoundReport) -> Progress:
    """Return how far a run is after one more round, but for the weights."""
    done = replace(done, round=report.round, asked=False)
    if not report.counted:
        return done
    took_part = tuple(sorted({*done.took_part, *report.nodes}))
    return replace(done, counted=done.counted + 1, nodes=report.nodes, took_part=took_part)


def read_counts(content: RecordDict, plan: TrainingPlan) -> tuple[PairCounts, CodeCounts]:
    """Return what a node counted for calibration, and of its codes.

    Raises:
        InvalidMessage: CALIBRATION_FORM, CALIBRATION_COUNTS, CODEBOOK_FORM or CODEBOOK_COUNTS, what came may not reach
            the sum.
    """
    arrays, metrics = read_result(content, "CALIBRATION_FORM")
    codes = {name: arrays.pop(name) for name in codebook.ARRAYS_OF_CODES & arrays.keys()}
    pairs = from_records(arrays, metrics, plan.bits)
    return pairs, codebook.from_arrays(codes, len(plan.class_ids), plan.bits)
