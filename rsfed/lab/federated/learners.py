"""Ways to learn how to hash from images at several nodes: in one place, together, or each node for itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, RecordDict
from flwr.serverapp import ServerApp

from rsfed.config import SHORT_ROUNDS, Coding, CoordinatorTraining
from rsfed.config_objectives import CentresSection, ClosedFormSection, ObjectiveSection
from rsfed.config_strategies import FedAvgSection, StrategySection, default_strategy
from rsfed.errors import ConfigError
from rsfed.hashing.centres import centres_beside_free
from rsfed.hashing.closed_form import LEAST_PATCHES
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.network import build_fourier_head, build_network, on_fourier_features
from rsfed.hashing.objectives.sampling import Sample
from rsfed.hashing.plan import ARRAYS, TrainingPlan
from rsfed.hashing.refit import fit, sums
from rsfed.hashing.weights import State, get_state, set_state
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.methods import BATCH, HASHES, RATE, STRETCHES, WIDTH, Hasher, Task
from rsfed.lab.federated.grid import LocalGrid
from rsfed.lab.federated.partition import Positions
from rsfed.lab.federated.poison import App, Wrap
from rsfed.trust.manifest import Architecture, CompactResnet, FederationClass, Nomenclature

OBJECTIVE = CentresSection()
_TIMEOUT_S = 600.0
_SERVER, _CLIENT = "coordinator.training.rounds:server_app", "node.training.bare_app:app_over"


@dataclass(frozen=True, slots=True)
class Way:
    """How nodes train together.

    Attributes:
        objective: What they learn by; the closed form needs a frozen trunk.
        rounds: Rounds at most. The default is many short ones, before nodes with other classes drift apart.
        strategy: How results become new weights; None for that of the architecture.
        start: Whether the last layer is solved for before the first round, where it can be.
        end: Whether it is after the last round.
        coding: How weights travel.
        average: Last rounds, the mean of whose weights is taken.
        sample: Chooses batches in the place of the objective.
    """

    objective: ObjectiveSection = OBJECTIVE
    rounds: int = SHORT_ROUNDS.rounds
    strategy: StrategySection | None = None
    start: bool = True
    end: bool = True
    coding: Coding = CoordinatorTraining().coding
    average: int = CoordinatorTraining().average_rounds
    sample: Sample | None = None


PLAIN = Way(rounds=20, strategy=FedAvgSection(), start=False, end=False, coding="float32")
ROUNDS = Way()
"""Rounds of training with all that helps against skew."""


def default(images: ImageSet) -> Way:
    """Return how a coordinator has these images learnt from that says nothing else."""
    return Way(objective=ClosedFormSection()) if images.trunk is not None else ROUNDS


def network(task: Task) -> Hasher:
    """Train the network on all images of the task in one place."""
    return HASHES[OBJECTIVE.name](task)


def closed_form(task: Task, parts: Sequence[Positions], free: float = 0.0) -> Hasher:
    """Fit the closed form on the features of each part, with centres of all bits but a share that is free."""
    centres = centres_beside_free(range(len(task.images.classes)), task.bits, free, task.seed)
    head = build_fourier_head(task.features.shape[1], task.bits, seed=task.seed)

    def rows(positions: Positions) -> PatchSet:
        labels = task.images.labels[positions]
        return PatchSet(tuple((row,) for row in task.features[positions]), labels, len(labels), augmentable=False)

    given = [
        sums(head, rows(part), centres)
        for part in parts
        if np.count_nonzero(task.images.labels[part].any(axis=1)) >= LEAST_PATCHES
    ]
    set_state(head, fit(get_state(head), given, task.seed))

    encoder = Encoder(head, task.images.spec)
    return lambda positions: encoder.encode_set(rows(positions))


def federated(task: Task, parts: Sequence[Positions], way: Way, wrap: Wrap | None = None) -> Hasher:
    """Train together, over the apps of both sides.

    Args:
        task: What is learnt.
        parts: Positions of the images of each node.
        way: How.
        wrap: Returns the app of a node that is not as it should be.
    """
    made, threads = _app(_CLIENT), len(os.sched_getaffinity(0))
    clients: list[App] = []
    for place, part in enumerate(parts):
        make = partial(made, threads=threads, acquisitions=acquisitions(task.images, part), sample=way.sample)
        patches = task.images.subset(part)
        clients.append(wrap(make, patches, place) if wrap else make(patches))
    plan = plan_of(task, parts, way)
    model = build_network(plan.architecture, plan.input, plan.bits, seed=task.seed)
    strategy = way.strategy or default_strategy(plan.architecture.kind)
    least = 1 if plan.closed_form else len(parts) - bool(wrap)  # small nodes give no sums
    start = get_state(model)
    coding = way.coding if wrap is None else "float32"  # what is wrong with a node is wrong with its weights
    app = _app(_SERVER)()
    end = run_over(app, plan, clients, start, strategy, least=least, coding=coding, average=way.average)
    set_state(model, end)
    encoder = Encoder(model, task.images.spec)
    return lambda positions: encoder.encode_set(task.images.subset(positions))


def acquisitions(images: ImageSet, part: Positions) -> list[str]:
    """Return the acquisition of each image; an image of none that is known is one of its own."""
    return [images.whereabouts[each].acquisition or f"image {each}" for each in part.tolist()]


def steps_of(task: Task, parts: Sequence[Positions], way: Way) -> tuple[int, int]:
    """Return rounds and steps of each node in one, with at most as many sample passes as training in one place.

    Args:
        task: What is learnt.
        parts: Positions of the images of each node.
        way: How nodes train; where it would take fewer steps than nodes, rounds are fewer.
    """
    if way.objective.name == "closed_form":
        return 1, 0
    central = STRETCHES * max(1, math.ceil(task.epochs * sum(map(len, parts)) / BATCH / STRETCHES))
    rounds = max(1, min(way.rounds, central // len(parts)))
    return rounds, max(1, central // (rounds * len(parts)))


def plan_of(task: Task, parts: Sequence[Positions], way: Way) -> TrainingPlan:
    """Return the plan of a run that takes no more than training in one place."""
    images, closed = task.images, way.objective.name == "closed_form"
    architecture = _architecture(images, closed=closed)
    rounds, steps = steps_of(task, parts, way)
    strategy = way.strategy or default_strategy(architecture.kind)
    solvable = architecture.kind == "frozen-trunk" and not closed
    return TrainingPlan(
        modality=images.listing.modality.name,
        input=images.spec,
        architecture=architecture,
        bits=task.bits,
        objective=way.objective,
        nomenclature=Nomenclature(
            classes=tuple(FederationClass(id=column, name=name[:64]) for column, name in enumerate(images.classes))
        ),
        rounds=rounds,
        local_steps=max(1, steps),
        batch=BATCH,
        learning_rate=RATE,
        seed=task.seed,
        proximal=strategy.proximal,
        solve_start=way.start and solvable,
        solve_end=way.end and solvable,
    )


def run_over(  # noqa: PLR0913 - what a run is made of
    app: ServerApp,
    plan: TrainingPlan,
    clients: Sequence[App],
    start: State,
    strategy: StrategySection,
    *,
    least: int,
    coding: Coding = "float32",
    average: int = 1,
) -> State:
    """Run the coordinator's app over nodes in this process and return the weights that it ends with.

    Args:
        app: The coordinator's app.
        plan: What nodes are told.
        clients: Their apps.
        start: Weights to start from.
        strategy: How results become new weights.
        least: Nodes that a round needs a result of.
        coding: How weights travel.
        average: Last rounds, the mean of whose weights is taken.

    Raises:
        TrainingError: TOO_FEW_NODES, or NO_RESULT in any round.
    """
    context = Context(
        run_id=1,
        node_id=0,
        node_config={},
        state=RecordDict({ARRAYS: ArrayRecord({name: Array(array) for name, array in start.items()})}),
        run_config={
            "plan": plan.model_dump_json(),
            "strategy": strategy.model_dump_json(),
            "min-nodes": least,
            "round-timeout-s": _TIMEOUT_S,
            "fraction-train": 1.0,
            "coding": coding,
            "average-rounds": average,
        },
    )
    app(LocalGrid(clients), context)
    return {name: array.numpy() for name, array in context.state[ARRAYS].items()}


def _app(side: str) -> Callable[..., Any]:
    """Return what makes the app of the coordinator or of a node, by its name: the lab imports neither side.

    Raises:
        ConfigError: EXTRA_MISSING.
    """
    try:
        made: Callable[..., Any] = resolve_name(side)
    except ImportError as error:
        raise ConfigError(
            "the federated evaluation needs the coordinator and the node; install rsfed again", reason="EXTRA_MISSING"
        ) from error
    return made


def _architecture(images: ImageSet, *, closed: bool) -> Architecture:
    if images.trunk is None:
        return CompactResnet(width=WIDTH)
    return on_fourier_features(images.trunk) if closed else images.trunk
