"""One round of training on the node's own patches, and their sums for the last layer; knows nothing of Flower."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from rsfed.errors import InvalidMessage
from rsfed.hashing.closed_form import Sums
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives import make_objective
from rsfed.hashing.objectives.sampling import Sample
from rsfed.hashing.payload import Arrays
from rsfed.hashing.plan import TrainingPlan
from rsfed.hashing.refit import centres_of, sums
from rsfed.hashing.training import train_steps
from rsfed.hashing.weights import get_state, set_state


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What leaves the node after a round.

    Attributes:
        arrays: The trained weights.
        examples: Patches that they were trained on.
        loss: Mean loss of the last quarter of the steps.
        seconds: Time that training took.
    """

    arrays: Arrays
    examples: int
    loss: float
    seconds: float


def train_round(  # noqa: PLR0913 - each is one setting of a round
    plan: TrainingPlan,
    number: object,
    start: Arrays,
    patches: PatchSet,
    *,
    threads: int,
    sample: Sample | None = None,
) -> RoundResult:
    """Train for one round of a plan; the same arguments give the same weights.

    Args:
        plan: What to train.
        number: Round, from 1, as the task says it.
        start: Weights to start from.
        patches: Patches to train on.
        threads: Threads to compute with.
        sample: Chooses batches in the place of the plan's objective.

    Raises:
        InvalidMessage: PLAN_INVALID, the plan has no such round.
        TrainingError: WEIGHTS_UNFIT, NOTHING_TO_COMPARE (patches of one class only), TOO_MANY_CLASSES (for the hash
            centres of codes of this width), or DIVERGED.
    """
    if not isinstance(number, int) or not 1 <= number <= plan.rounds:
        raise InvalidMessage("the training plan has no such round", reason="PLAN_INVALID")
    torch.set_num_threads(threads)
    network = build_network(plan.architecture, plan.input, plan.bits)
    set_state(network, start)
    report = train_steps(
        network,
        patches,
        make_objective(plan.objective, plan.class_ids, plan.bits, seed=plan.seed),
        steps=plan.local_steps,
        batch=plan.batch,
        learning_rate=plan.rate(number),
        seed=plan.round_seed(number),
        proximal=plan.proximal,
        sample=sample,
    )
    report.refuse_idle()
    return RoundResult(get_state(network), len(patches), report.loss, report.seconds)


def sum_up(plan: TrainingPlan, weights: Arrays, patches: PatchSet, *, threads: int) -> tuple[Sums, float]:
    """Return the sums that the last layer of a plan is solved for from, and the seconds that they took.

    Args:
        plan: What is trained.
        weights: The weights whose last layer it is.
        patches: Patches to sum over.
        threads: Threads to compute with.

    Raises:
        TrainingError: WEIGHTS_UNFIT, TOO_MANY_CLASSES, or TOO_FEW_PATCHES.
    """
    start = time.monotonic()
    torch.set_num_threads(threads)
    network = build_network(plan.architecture, plan.input, plan.bits)
    set_state(network, weights)
    return sums(network, patches, centres_of(plan)), time.monotonic() - start
