"""Ways to learn how to hash from images at several nodes: in one place, together, or each node for itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Context, RecordDict
from flwr.clientapp import ClientApp

from rsfed.config_objectives import CentresSection
from rsfed.errors import ConfigError
from rsfed.hashing.closed_form import LEAST_PATCHES, ClosedForm
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.head import HashNetwork
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives.centres import Centres
from rsfed.hashing.plan import ARRAYS, TrainingPlan
from rsfed.hashing.refit import refit, sums
from rsfed.hashing.weights import State, get_state, set_state
from rsfed.lab.evaluate.methods import BATCH, HASHES, RATE, STRETCHES, WIDTH, Hasher, Task
from rsfed.lab.federated.grid import LocalGrid
from rsfed.lab.federated.partition import Positions
from rsfed.trust.manifest import Architecture, CompactResnet, FederationClass, Nomenclature

OBJECTIVE = CentresSection()
ROUNDS = 60  # of the default: many short ones, before nodes with other classes drift apart
PLAIN_ROUNDS = 20  # of plain FedAvg
_TIMEOUT_S = 600.0
_SERVER, _CLIENT = "coordinator.training.rounds:server_app", "node.training.client_app:app_over"


def network(task: Task) -> Hasher:
    """Train the network on all images of the task in one place."""
    return HASHES[OBJECTIVE.name](task)


def closed_form(task: Task, parts: Sequence[Positions]) -> Hasher:
    """Fit the closed form on the features of each part."""
    nodes = [(task.features[part], task.images.labels[part]) for part in parts]
    fitted = ClosedForm.fit(nodes, range(len(task.images.classes)), task.bits, task.seed)
    return lambda positions: fitted.encode(task.features[positions])


def fedavg(task: Task, parts: Sequence[Positions]) -> Hasher:
    """Train by plain FedAvg: some rounds from random weights."""
    return _hasher(task, _rounds(task, parts, get_state(_network(task)), PLAIN_ROUNDS))


def default(task: Task, parts: Sequence[Positions]) -> Hasher:
    """Train by the default: FedAvg in many short rounds, its last layer solved for before and after them."""
    trained = _rounds(task, parts, _refitted(task, parts, get_state(_network(task))), ROUNDS)
    return _hasher(task, _refitted(task, parts, trained))


def steps_of(task: Task, parts: Sequence[Positions], rounds: int) -> tuple[int, int]:
    """Return rounds and steps of each node in one, with at most as many sample passes as training in one place.

    Args:
        task: What is learnt.
        parts: Positions of the images of each node.
        rounds: Rounds at most; fewer where there are fewer steps than nodes.
    """
    central = STRETCHES * max(1, math.ceil(task.epochs * sum(map(len, parts)) / BATCH / STRETCHES))
    rounds = max(1, min(rounds, central // len(parts)))
    return rounds, max(1, central // (rounds * len(parts)))


def plan_of(task: Task, parts: Sequence[Positions], rounds: int) -> TrainingPlan:
    """Return the plan of a run that takes no more than training in one place; arguments as of `steps_of`."""
    images = task.images
    taken, steps = steps_of(task, parts, rounds)
    return TrainingPlan(
        modality=images.listing.modality.name,
        input=images.spec,
        architecture=_architecture(task),
        bits=task.bits,
        objective=OBJECTIVE,
        nomenclature=Nomenclature(
            classes=tuple(FederationClass(id=column, name=name[:64]) for column, name in enumerate(images.classes))
        ),
        rounds=taken,
        local_steps=steps,
        batch=BATCH,
        learning_rate=RATE,
        seed=task.seed,
    )


def rounds_over(plan: TrainingPlan, clients: Sequence[ClientApp], start: State, *, least: int) -> State:
    """Run the coordinator's app over nodes in this process and return the weights after the last round.

    Args:
        plan: What nodes are told.
        clients: Their apps.
        start: Weights to start from.
        least: Nodes that a round needs a result of.

    Raises:
        ConfigError: EXTRA_MISSING, the coordinator is not installed.
        TrainingError: TOO_FEW_NODES, or NO_RESULT in any round.
    """
    context = Context(
        run_id=1,
        node_id=0,
        node_config={},
        state=RecordDict({ARRAYS: ArrayRecord({name: Array(array) for name, array in start.items()})}),
        run_config={
            "plan": plan.model_dump_json(),
            "min-nodes": least,
            "round-timeout-s": _TIMEOUT_S,
            "fraction-train": 1.0,
        },
    )
    _app(_SERVER)()(LocalGrid(clients), context)
    return {name: array.numpy() for name, array in context.state[ARRAYS].items()}


def _rounds(task: Task, parts: Sequence[Positions], start: State, rounds: int) -> State:
    client, threads = _app(_CLIENT), torch.get_num_threads()
    clients = [client(task.images.subset(part), threads) for part in parts]
    return rounds_over(plan_of(task, parts, rounds), clients, start, least=len(parts))


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


def _architecture(task: Task) -> Architecture:
    return task.images.trunk or CompactResnet(width=WIDTH)


def _network(task: Task) -> HashNetwork:
    return build_network(_architecture(task), task.images.spec, task.bits, seed=task.seed)


def _loaded(task: Task, state: State) -> HashNetwork:
    model = _network(task)
    set_state(model, state)
    return model


def _hasher(task: Task, state: State) -> Hasher:
    encoder = Encoder(_loaded(task, state), task.images.spec)
    return lambda positions: encoder.encode_set(task.images.subset(positions))


def _refitted(task: Task, parts: Sequence[Positions], state: State) -> State:
    """Solve for the last layer from the sums of the nodes that have enough patches."""
    model = _loaded(task, state)
    aim = Centres(OBJECTIVE, range(len(task.images.classes)), task.bits, seed=task.seed)
    large = [part for part in parts if len(part) >= LEAST_PATCHES]
    return refit(model, [sums(model, task.images.subset(part), aim.centres) for part in large])
