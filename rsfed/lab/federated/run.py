"""Federated evaluation: how far a federation falls behind all images in one place, measured on the union of galleries.

Every way has the same splits, seeds, divisions over nodes and metric; gaps are differences on the same split.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes
from rsfed.hashing.evaluation.expected import Values
from rsfed.hashing.evaluation.tables import Spread, spread
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.division import Division, Split, divide
from rsfed.lab.evaluate.methods import Hasher, Task, describe
from rsfed.lab.federated import learners
from rsfed.lab.federated.measures import merged, own_galleries, union
from rsfed.lab.federated.partition import PARTITIONS, Positions, owners, partition

CENTRAL = ("network", "closed_form")
"""Ways to learn in one place; the one with the highest mean is what gaps are measured from."""
TOGETHER: Mapping[str, Callable[[Task, Sequence[Positions]], Hasher]] = {
    "fedavg": partial(learners.federated, way=learners.PLAIN),
    "default": lambda task, parts: learners.federated(task, parts, learners.default(task.images)),
    "closed_form": learners.closed_form,
}
ALONE = ("local_own", "local_union")
"""Ways to learn at each node alone, by the galleries that are searched."""
ROWS = ("central", *TOGETHER, *ALONE)


@dataclass(frozen=True, slots=True)
class FederatedSettings:
    """What the user chose.

    Attributes:
        bits: Width of the codes.
        seeds: Number of seeds, from 0; each draws a split and a division of it over nodes.
        nodes: Number of nodes.
        split: How images are split.
        k: Cut-off of the figure.
        epochs: Passes over the part to learn from that training in one place takes; a federation takes no more.
        partitions: How images are divided over nodes.
        ways: Those of `ROWS` to measure beside the best central model.
    """

    bits: int
    seeds: int
    nodes: int
    split: Split
    k: int
    epochs: int
    partitions: tuple[str, ...] = tuple(PARTITIONS)
    ways: tuple[str, ...] = (*TOGETHER, *ALONE)


@dataclass(frozen=True, slots=True)
class FederatedRow:
    """One way under one division.

    Attributes:
        partition: Name of the division.
        way: One of `ROWS`.
        figure: Mean average precision (`map_found`) over the seeds.
        gap: Figure of the best central model less this one, on the same split; over the seeds.
        runs: The figure of each seed.
        seconds: Mean time of learning and hashing.
    """

    partition: str
    way: str
    figure: Spread
    gap: Spread
    runs: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class FederatedEvaluation:
    """Everything that a federated evaluation found.

    Attributes:
        settings: What was asked.
        images: Number of images.
        classes: Number of classes.
        central: The figure of each way of `CENTRAL`.
        central_runs: The same of each seed.
        best: Name of the best of them.
        rounds: Rounds and steps of a node in one, of plain FedAvg and of the default; the closed form takes no steps.
        rows: The ways under each division, in the order of `ROWS`.
    """

    settings: FederatedSettings
    images: int
    classes: int
    central: Mapping[str, Spread]
    central_runs: Mapping[str, tuple[float, ...]]
    best: str
    rounds: Mapping[str, tuple[int, int]]
    rows: tuple[FederatedRow, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One split: what is learnt from its one part, and measured on the others.

    Attributes:
        task: What is learnt.
        division: How the images are split.
        k: Cut-off of the figure.
    """

    task: Task
    division: Division
    k: int

    def parts(self, name: str, nodes: int) -> list[Positions]:
        """Return what each node learns from under a division of `PARTITIONS`.

        Raises:
            UsageError: the images do not allow this division.
        """
        return partition(self.task.images, self.task.train, nodes, name, self.task.seed)

    def codes(self, hasher: Hasher) -> Codes:
        """Return the codes of all images."""
        return hasher(np.arange(len(self.task.images)))

    def measure(self, hasher: Hasher) -> float:
        """Return the mean average precision of one encoder over the union of the galleries."""
        return float(self.precisions(hasher).mean())

    def precisions(self, hasher: Hasher) -> Values:
        """Return the average precision of each query by one encoder over the union of the galleries."""
        return union(self.task.images, self.division, self.codes(hasher), self.k)

    def lonely(self, parts: Sequence[Positions]) -> NDArray[np.bool_]:
        """Return which queries are of a class that one node alone learns from, bool, shape (queries,)."""
        labels = self.task.images.labels
        holders = np.sum([labels[part].any(axis=0) for part in parts], axis=0)
        found: NDArray[np.bool_] = (labels[self.division.queries] & (holders == 1)).any(axis=1)
        return found


@dataclass(frozen=True, slots=True)
class _Run:
    figure: float
    seconds: float


def cases(images: ImageSet, settings: FederatedSettings) -> list[Case]:
    """Return the split of each seed.

    Raises:
        UsageError: the images do not allow the split.
    """
    divisions = [divide(images, settings.split, seed) for seed in range(settings.seeds)]
    return [
        Case(
            Task(images, describe(images, each.train), each.train, settings.bits, seed, settings.epochs),
            each,
            settings.k,
        )
        for seed, each in enumerate(divisions)
    ]


def evaluate_federated(
    images: ImageSet, settings: FederatedSettings, say: Callable[[str], None] = lambda _line: None
) -> FederatedEvaluation:
    """Split, divide, learn in every way and measure.

    Args:
        images: The images.
        settings: What to do.
        say: Told each step.

    Raises:
        UsageError: the images do not allow the split or a division.
        TrainingError: they cannot be learnt from.
        ConfigError: EXTRA_MISSING, the coordinator or the node is not installed.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it tells of every step
    splits = cases(images, settings)
    divided = {name: [case.parts(name, settings.nodes) for case in splits] for name in settings.partitions}

    def each_seed(what: str, found: Iterable[dict[str, _Run]]) -> dict[str, list[_Run]]:
        runs: dict[str, list[_Run]] = {}
        for seed, figures in enumerate(found):
            for way, run in figures.items():
                say(f"  seed {seed}: {what} {way}: mAP@{settings.k} {run.figure:.3f}")
                runs.setdefault(way, []).append(run)
        return runs

    central = each_seed("central", map(_central, splits))
    best = max(CENTRAL, key=lambda name: float(np.mean([run.figure for run in central[name]])))
    rows = []
    for name, parts in divided.items():
        found = map(partial(_federated, ways=settings.ways), splits, parts)
        runs = {"central": central[best], **each_seed(name, found)}
        rows += [_row(name, way, runs[way], central[best]) for way in ROWS if way in runs]
    some = splits[0].task, divided[settings.partitions[0]][0]
    return FederatedEvaluation(
        settings=settings,
        images=len(images),
        classes=len(images.classes),
        central={name: spread([run.figure for run in runs]) for name, runs in central.items()},
        central_runs={name: tuple(run.figure for run in runs) for name, runs in central.items()},
        best=best,
        rounds={
            "fedavg": learners.steps_of(*some, learners.PLAIN),
            "default": learners.steps_of(*some, learners.default(images)),
        },
        rows=tuple(rows),
    )


def _central(case: Case) -> dict[str, _Run]:
    task = case.task
    return {
        "network": _timed(lambda: case.measure(learners.network(task))),
        "closed_form": _timed(lambda: case.measure(learners.closed_form(task, [task.train]))),
    }


def _federated(case: Case, parts: Sequence[Positions], ways: Sequence[str]) -> dict[str, _Run]:
    task = case.task

    def together(learn: Callable[[Task, Sequence[Positions]], Hasher]) -> _Run:
        return _timed(lambda: case.measure(learn(task, parts)))

    runs = {way: together(learn) for way, learn in TOGETHER.items() if way in ways}
    return runs | _alone(case, parts) if set(ALONE) & set(ways) else runs


def _alone(case: Case, parts: Sequence[Positions]) -> dict[str, _Run]:
    task = case.task
    start = time.perf_counter()
    alone = np.stack([case.codes(learners.network(replace(task, train=part))) for part in parts])
    seconds = time.perf_counter() - start
    holder = owners(task.images, parts, task.seed)
    return {
        way: _Run(measure(task.images, case.division, alone, holder, case.k), seconds)
        for way, measure in zip(ALONE, (own_galleries, merged), strict=True)
    }


def _timed(work: Callable[[], float]) -> _Run:
    start = time.perf_counter()
    figure = work()
    return _Run(figure, time.perf_counter() - start)


def _row(name: str, way: str, runs: Sequence[_Run], central: Sequence[_Run]) -> FederatedRow:
    return FederatedRow(
        partition=name,
        way=way,
        figure=spread([run.figure for run in runs]),
        gap=spread([best.figure - run.figure for best, run in zip(central, runs, strict=True)]),
        runs=tuple(run.figure for run in runs),
        seconds=float(np.mean([run.seconds for run in runs])),
    )
