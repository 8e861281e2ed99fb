"""Where a run goes on after a crash: its state after each round, as a file of arrays that a row in SQLite names.

The file is on disk before the row, and the row comes with the round's event in one transaction: whoever sees a round
can rely on it. The last two are kept, so that a damaged file costs one round.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from coordinator.training import records
from coordinator.training.rules import Rules
from rsfed.config_strategies import DEFAULT_STRATEGY, StrategySection
from rsfed.errors import TrainingError
from rsfed.hashing.payload import Arrays
from rsfed.telemetry import log
from rsfed.trust.identity import writing_atomically

if TYPE_CHECKING:
    import sqlite3

    from coordinator.state import State
    from rsfed.home import Home

KEPT = 2  # of a run
_STRATEGIES: TypeAdapter[StrategySection] = TypeAdapter(StrategySection)
_WEIGHTS, _STRATEGY = "weights/", "strategy/"  # before the names of arrays

RandomState = tuple[Any, ...]
"""What `random.getstate` returns."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        round: The last round that was done; 0 before the first.
        weights: The weights after it.
        strategy: What the strategy carries from round to round, by name.
        random: State of the generator that draws nodes; None before the first draw.
        counted: Rounds that changed the weights.
        nodes: Flower's numbers of the nodes whose results the last round that counted rests on.
        took_part: Of those whose results any round rests on.
        asked: Whether nodes were asked after it for sums for the last layer.
        summed: Nodes whose sums the last layer was solved for from, after the last round.
    """

    round: int = 0
    weights: Arrays = field(default_factory=dict)
    strategy: dict[str, NDArray[Any]] = field(default_factory=dict)
    random: RandomState | None = None
    counted: int = 0
    nodes: tuple[int, ...] = ()
    took_part: tuple[int, ...] = ()
    asked: bool = False
    summed: int = 0


@dataclass(frozen=True, slots=True)
class Base:
    """The release whose weights a run starts from.

    Attributes:
        version: Its version.
        digest: Its digest.
        rounds: Rounds that its weights were trained for.
    """

    version: int
    digest: bytes
    rounds: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run was begun with, whatever coordinator.toml says by now.

    Attributes:
        plan: The training plan, as JSON.
        based_on: Release that it starts from; None for fresh weights.
        strategy: How results become new weights.
        rules: When its rounds start and end, and how weights travel.
    """

    plan: str
    based_on: Base | None
    strategy: StrategySection = DEFAULT_STRATEGY
    rules: Rules = field(default_factory=Rules)


class Checkpoints:
    """Keeps how far runs are; used by the run's thread alone.

    Args:
        home: The coordinator's home.
        state: Its database.
    """

    def __init__(self, home: Home, state: State) -> None:
        self._folder = home.path / "runs"
        self._state = state

    def keep(
        self, run: int, origin: Origin, progress: Progress, event: tuple[str, records.Data], *, now: datetime
    ) -> None:
        """Keep how far a run is, together with the event that says so.

        Args:
            run: The run.
            origin: What it was begun with.
            progress: How far it is.
            event: Kind of the event, and what it says.
            now: The present moment.

        Raises:
            RunCancelled: it has ended already.
            TrainingError: CHECKPOINT_UNWRITABLE, for example because the disk is full.
        """
        arrays = _prefixed(_WEIGHTS, progress.weights) | _prefixed(_STRATEGY, progress.strategy)
        path = self._folder / _file_name(run, progress.round, asked=progress.asked)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with writing_atomically(path) as draft:  # not by way of bytes, which memory would hold several times
                safetensors.save_file(arrays, draft)
                sha256 = _digest(draft)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                "the state of the run could not be written; make room on the disk of the coordinator's home, and train "
                "again",
                reason="CHECKPOINT_UNWRITABLE",
                detail=str(error),
            ) from error
        with self._state.writing() as connection:
            records.append_event(connection, run, *event, now)
            connection.execute(
                "INSERT OR REPLACE INTO checkpoint (run, round, digest, data) VALUES (?, ?, ?, ?)",
                (run, progress.round, sha256, _to_json(origin, progress)),
            )
            connection.execute(
                "DELETE FROM checkpoint WHERE run = :run AND round NOT IN "
                "(SELECT round FROM checkpoint WHERE run = :run ORDER BY round DESC LIMIT :kept)",
                {"run": run, "kept": KEPT},
            )
        self._remove_others()

    def newest(self, run: int) -> tuple[Origin, Progress] | None:
        """Return how far a run is; None where it has not begun. What was damaged is passed over, and forgotten.

        Raises:
            TrainingError: CHECKPOINT_DAMAGED, no state that was kept can be read.
        """
        with self._state.reading() as connection:
            rows = connection.execute("SELECT * FROM checkpoint WHERE run = ? ORDER BY round DESC", (run,)).fetchall()
        for row in rows:
            if (found := self._read(row)) is not None:
                return found
            log.error("training.checkpoint_damaged", run=run, round=row["round"])
            with self._state.writing() as connection:
                connection.execute("DELETE FROM checkpoint WHERE run = ? AND round = ?", (run, row["round"]))
        if rows:
            raise TrainingError(
                "what was kept of the run is missing or damaged, so it cannot go on; train again",
                reason="CHECKPOINT_DAMAGED",
            )
        return None

    def discard_ended(self) -> None:
        """Forget what was kept of runs that have ended."""
        marks = ", ".join("?" * len(records.OPEN))
        with self._state.writing() as connection:
            connection.execute(
                f"DELETE FROM checkpoint WHERE run NOT IN (SELECT id FROM run WHERE state IN ({marks}))",  # noqa: S608 - question marks only
                records.OPEN,
            )
        self._remove_others()

    def _read(self, row: sqlite3.Row) -> tuple[Origin, Progress] | None:
        try:
            path = self._folder / _file_of(row)
            if _digest(path) != row["digest"]:
                return None
            return _from_json(json.loads(row["data"]), row["round"], safetensors.load_file(path))
        except (OSError, SafetensorError, KeyError):  # the last of software of before, which kept less
            return None

    def _remove_others(self) -> None:
        """Delete files that no row names: of earlier rounds, of ended runs, and drafts."""
        with self._state.reading() as connection:
            rows = connection.execute("SELECT run, round, data FROM checkpoint").fetchall()
        named = set(map(_file_of, rows))
        for path in self._folder.glob("*") if self._folder.exists() else ():
            if path.name not in named:
                path.unlink()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _file_name(run: int, round_: int, *, asked: bool) -> str:
    """Return the name of a file: none overwrites another that a row names."""
    return f"{run}-{round_}{'-solved' if asked else ''}.safetensors"


def _file_of(row: sqlite3.Row) -> str:
    return _file_name(row["run"], row["round"], asked=json.loads(row["data"]).get("asked", False))


def _prefixed(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {prefix + name: np.asarray(array, order="C") for name, array in arrays.items()}


def _without(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _to_json(origin: Origin, progress: Progress) -> str:
    base = origin.based_on
    return json.dumps(
        {
            "plan": origin.plan,
            "based_on": base and {"version": base.version, "digest": base.digest.hex(), "rounds": base.rounds},
            "strategy": origin.strategy.model_dump(),
            "rules": asdict(origin.rules),
            "weights": list(progress.weights),  # their order: safetensors has its own
            "random": progress.random,
            "counted": progress.counted,
            "nodes": progress.nodes,
            "took_part": progress.took_part,
            "asked": progress.asked,
            "summed": progress.summed,
        }
    )


def _from_json(data: dict[str, Any], round_: int, arrays: dict[str, NDArray[Any]]) -> tuple[Origin, Progress]:
    base, drawn = data["based_on"], data["random"]
    weights = _without(_WEIGHTS, arrays)
    return (
        Origin(
            data["plan"],
            base and Base(base["version"], bytes.fromhex(base["digest"]), base["rounds"]),
            _STRATEGIES.validate_python(data["strategy"]),
            Rules(**data["rules"]),
        ),
        Progress(
            round=round_,
            weights={name: weights[name] for name in data["weights"]},
            strategy=_without(_STRATEGY, arrays),
            random=drawn and (drawn[0], tuple(drawn[1]), drawn[2]),  # JSON has no tuples, `setstate` takes no lists
            counted=data["counted"],
            nodes=tuple(data["nodes"]),
            took_part=tuple(data["took_part"]),
            asked=data["asked"],
            summed=data["summed"],
        ),
    )
