"""Drives the queued training runs, one after the other: from coordinator.toml to a published release.

`serve` starts the driver; each run has a thread of its own, in which Flower and torch are loaded.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from coordinator.training import records
from coordinator.training.board import RESULT_MARGIN, RunStopped, TaskBoard
from coordinator.training.checkpoints import Base, Checkpoints, Origin, Progress
from coordinator.training.rules import Rules
from rsfed.clock import Now, utc_now
from rsfed.errors import ConfigError, RsfedError
from rsfed.hashing.payload import Arrays, check_size
from rsfed.hashing.plan import TrainingPlan
from rsfed.telemetry import log
from rsfed.trust.manifest import (
    Architecture,
    CompactResnet,
    FederationClass,
    FrozenTrunk,
    KBranch,
    Nomenclature,
    ReducedResnet,
)
from rsfed.trust.release_store import Release

if TYPE_CHECKING:
    from coordinator.state import State
    from coordinator.training.engine import Trained
    from rsfed.config import CoordinatorConfig
    from rsfed.config_images import EncoderSection

_LOOK_S = 2.0  # a notice that got lost costs so much


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts from.

    Attributes:
        weights: The weights of the first round.
        based_on: Release that they are of; None for fresh ones.
    """

    weights: Arrays
    based_on: Base | None = None


Publish = Callable[[TrainingPlan, "Trained", Base | None], Release]
"""Makes a release of what a run gave: the plan, the trained weights, and the release that they started from.

It is asked again after a crash, and makes no second release of the same weights.
"""


class RunDriver:
    """Runs what is queued.

    Args:
        state: The coordinator's database.
        config: Returns coordinator.toml as it is now: a change counts from the next run on.
        board: Where nodes take their tasks.
        starting: Returns the weights that a run of this plan starts from.
        publish: Makes a release of what a run gave, or returns the one that it made of that already.
        checkpoints: Keeps how far runs are.
        trunk: Returns the federation's frozen trunk, where it has one.
        now: Wall clock.

    Attributes:
        running: Number of the run in progress; None where there is none.
    """

    def __init__(  # noqa: PLR0913 - one argument for each thing a run touches
        self,
        state: State,
        config: Callable[[], CoordinatorConfig],
        board: TaskBoard,
        *,
        starting: Callable[[TrainingPlan], Start],
        publish: Publish,
        checkpoints: Checkpoints,
        trunk: Callable[[], FrozenTrunk | None] = lambda: None,
        now: Now = utc_now,
    ) -> None:
        self._state, self._config, self._board = state, config, board
        self._starting, self._publish, self._trunk = starting, publish, trunk
        self._checkpoints = checkpoints
        self._now = now
        self._wake = asyncio.Event()
        self.running: int | None = None

    def wake(self) -> None:
        """Look at once whether a run was queued or cancelled."""
        self._wake.set()

    async def run(self) -> None:
        """Drive runs until cancelled; a run in progress goes on when this is called again, in whatever process."""
        while True:
            self._wake.clear()
            if (run := records.claim_next(self._state)) is None:
                await self._woken()
                continue
            self._board.begin()
            work = asyncio.create_task(asyncio.to_thread(self._drive, run))
            try:
                await self._watch(run, work)
            except asyncio.CancelledError:
                self._board.stop()
                await asyncio.wait({work})
                raise

    async def _watch(self, run: records.Run, work: asyncio.Task[None]) -> None:
        """Wait until the run's thread is done; when the run was cancelled meanwhile, tell the thread."""
        work.add_done_callback(lambda _: self._wake.set())
        while not work.done():
            self._wake.clear()
            with suppress(sqlite3.Error):  # looked at again in a moment; the thread must not be left alone for it
                if (await asyncio.to_thread(records.get_run, self._state, run.id)).state not in records.OPEN:
                    self._board.cancel()
            await self._woken()
        work.result()

    async def _woken(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._wake.wait()

    def _drive(self, run: records.Run) -> None:
        """Do one run from start to end; in its own thread."""
        self.running = run.id
        log.info("training.run", run=run.id, state="running")
        try:
            release = self._train(run)
            records.finish(self._state, run.id, release.manifest.version, release.digest, self._now())
            log.info("training.run", run=run.id, state="done", version=release.manifest.version)
        except RunStopped:
            log.info("training.run", run=run.id, state="interrupted")
        except RsfedError as error:
            log.warning("training.run", run=run.id, state="failed", reason=error.reason)
            records.fail(self._state, run.id, error.reason, error.public, self._now())
        except Exception as error:  # noqa: BLE001 - a run may fail, serve goes on
            log.error("training.run", run=run.id, state="failed", error_type=type(error).__name__)
            records.fail(self._state, run.id, "INTERNAL", "internal error; its log says more", self._now())
        finally:
            self.running = None
            self._checkpoints.discard_ended()

    def _train(self, run: records.Run) -> Release:
        from coordinator.training.engine import train  # noqa: PLC0415 - loads Flower
        from coordinator.training.grid import BoardGrid  # noqa: PLC0415 - loads Flower
        from rsfed.hashing.refit import wire_bytes  # noqa: PLC0415 - loads torch

        origin, since = self._resume(run) or self._begin(run)
        plan = TrainingPlan.model_validate_json(origin.plan)
        if plan.solves:
            self._board.expect(wire_bytes(since.weights, plan.bits))
        trained = train(
            BoardGrid(self._board, run.id),
            plan,
            since,
            run_id=run.id,
            strategy=origin.strategy,
            rules=origin.rules,
            note=partial(self._note, run.id),
            keep=partial(self._keep, run.id, origin),
            before=records.rounds_until(self._state, run.id, since.round),
        )
        records.begin_publishing(self._state, run.id)
        return self._publish(plan, trained, origin.based_on)

    def _begin(self, run: records.Run) -> tuple[Origin, Progress]:
        from coordinator.training.strategies import copies_held, make_strategy  # noqa: PLC0415 - loads Flower
        from rsfed.hashing.objectives import check_objective  # noqa: PLC0415 - loads torch
        from rsfed.hashing.refit import sums_bytes  # noqa: PLC0415 - loads torch

        config = self._config()
        plan = make_plan(config, run.rounds, self._trunk())
        check_objective(plan.objective, plan.class_ids, plan.bits, seed=plan.seed)  # else every node would refuse it
        strategy, rules = config.averages_by, Rules.of(config.training, run.min_nodes)
        make_strategy(strategy, fraction=rules.fraction, min_nodes=rules.min_nodes)  # or says why not
        start = self._starting(plan)
        origin = Origin(plan.model_dump_json(), start.based_on, strategy, rules)
        progress = Progress(weights=start.weights)
        version = None if start.based_on is None else start.based_on.version
        check_size(sum(array.nbytes for array in start.weights.values()) + RESULT_MARGIN)  # or no node could get them
        fraction = 1.0 if plan.closed_form else rules.fraction
        present = self._board.present()
        nodes = max(rules.min_nodes, int(fraction * len(present)))
        copies = copies_held(strategy, nodes)
        model = sum(array.nbytes for array in start.weights.values())
        data = {
            "rounds": plan.rounds,
            "min_nodes": run.min_nodes,
            "based_on": version,
            "nodes": present,
            "strategy": plan.objective.name if plan.closed_form else strategy.name,
            "memory_nodes": nodes,
            "memory_bytes": model + sums_bytes(start.weights, nodes) if plan.closed_form else copies * model,
        }
        self._checkpoints.keep(run.id, origin, progress, ("started", data), now=self._now())
        return origin, progress

    def _resume(self, run: records.Run) -> tuple[Origin, Progress] | None:
        """Return where an interrupted run goes on; None where it has not begun."""
        from coordinator.training.grid import node_number  # noqa: PLC0415 - loads Flower

        if (found := self._checkpoints.newest(run.id)) is None:
            return None
        records.check_resumable(self._state, run.id)
        origin, since = found
        self._note(run.id, "resumed", {"round": since.round})
        if not since.nodes:  # no round counted yet, so nobody is waited for because of one
            since = replace(since, nodes=tuple(map(node_number, records.nodes_met(self._state, run.id))))
        return origin, since

    def _keep(self, run: int, origin: Origin, progress: Progress, kind: str, data: records.Data) -> None:
        self._checkpoints.keep(run, origin, progress, (kind, data), now=self._now())

    def _note(self, run: int, kind: str, data: records.Data) -> None:
        records.add_event(self._state, run, kind, data, self._now())


def make_plan(config: CoordinatorConfig, rounds: int, trunk: FrozenTrunk | None = None) -> TrainingPlan:
    """Return what coordinator.toml says a run shall train.

    Args:
        config: coordinator.toml.
        rounds: Rounds of the run.
        trunk: The federation's frozen trunk, where it has one.

    Raises:
        ConfigError: it asks for a trunk that the federation has not, or has another one than it asks for.
    """
    closed = config.learns_by.name == "closed_form"
    names = sorted(config.nomenclature.classes.items(), key=lambda entry: entry[1])
    return TrainingPlan(
        modality=config.encoder.modality,
        input=config.encoder.input(),
        architecture=_architecture(config.encoder, trunk, closed=closed),
        bits=config.encoder.bits,
        objective=config.learns_by,
        nomenclature=Nomenclature(
            name=config.nomenclature.name,
            version=config.nomenclature.version,
            classes=tuple(FederationClass(id=number, name=name) for name, number in names),
        ),
        rounds=1 if closed else rounds,
        local_steps=config.pace.local_steps,
        batch=config.training.batch,
        learning_rate=config.training.learning_rate,
        seed=config.training.seed,
        proximal=config.averages_by.proximal,
        solve_start=config.solves_start,
        solve_end=config.solves_end,
    )


def _architecture(encoder: EncoderSection, trunk: FrozenTrunk | None, *, closed: bool) -> Architecture:
    match encoder.kind:
        case "compact-resnet":
            build = CompactResnet if encoder.reduction == 1 else ReducedResnet
            return build(width=encoder.width, blocks=encoder.blocks)
        case "k-branch":
            return KBranch(width=encoder.width, blocks=encoder.blocks)
        case "frozen-trunk":
            return _fitting(encoder, trunk, closed=closed)


def _fitting(encoder: EncoderSection, trunk: FrozenTrunk | None, *, closed: bool) -> FrozenTrunk:
    """Return the trunk under its head; it must take what the configuration says that the encoder sees."""
    if trunk is None:
        raise ConfigError(
            "encoder.kind is frozen-trunk, and this federation has no trunk; one is brought when a federation is made: "
            "`rsfed coordinator init --trunk FILE`"
        )
    bands = len(encoder.input().groups[0].bands)
    if trunk.bands != bands:
        raise ConfigError(f"the trunk takes {trunk.bands} bands; encoder.modality {encoder.modality} has {bands}")
    if trunk.size != encoder.size:
        raise ConfigError(f"the trunk takes {trunk.size} pixels; encoder.size says {encoder.size}")
    if closed:
        from rsfed.hashing.network import on_fourier_features  # noqa: PLC0415 - loads torch

        return on_fourier_features(trunk)
    return trunk.model_copy(update={"head": "perceptron"})
