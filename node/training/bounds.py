"""How far training may go at this node, as node.toml says: rules without IO. The coordinator can only ask for less."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from rsfed.config import NodeTraining
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.closed_form import LEAST_PATCHES as LEAST_PATCHES_OF_SUMS
from rsfed.hashing.payload import Metrics
from rsfed.hashing.plan import LOSS, TrainingPlan

LEAST_PATCHES, LEAST_ACQUISITIONS = 200, 5  # that a loss comes from which is told
Labels = NDArray[np.bool_]
_LOSS_PLACES = 2  # of a loss that is told


def check_plan(plan: TrainingPlan, limits: NodeTraining, now: datetime) -> None:
    """Refuse a plan, or a time of day, that the operator does not allow.

    Args:
        plan: What the coordinator asks for.
        limits: What the operator allows.
        now: The present moment, in any time zone.

    Raises:
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS or OUTSIDE_HOURS.
    """
    if not limits.enabled:
        raise TrainingError("training is switched off at this node", reason="TRAINING_DISABLED")
    if limits.objectives and plan.objective.name not in limits.objectives:
        raise TrainingError(f"this node does not train {plan.objective.name}", reason="OBJECTIVE_REFUSED")
    if plan.local_steps > limits.max_steps:
        raise TrainingError(
            f"the plan asks for {plan.local_steps} steps in a round; this node allows {limits.max_steps}",
            reason="PLAN_LIMITS",
        )
    if limits.hours and not within(limits.hours, now.astimezone().hour):
        raise TrainingError(f"this node trains from {limits.hours} o'clock, its time", reason="OUTSIDE_HOURS")


def within(hours: str, hour: int) -> bool:
    """Say whether an hour of the day is in "from-until"; until may be before from, and the same is the whole day."""
    first, end = map(int, hours.split("-"))
    return (hour - first) % 24 < ((end - first) % 24 or 24)


def check_round(limits: NodeTraining, members: object, rounds_today: int) -> None:
    """Refuse a round too many, or one with too few others.

    Args:
        limits: What the operator allows.
        members: Nodes that have the task, this one among them, as the task says it.
        rounds_today: Rounds that got a result in the last 24 hours.

    Raises:
        TrainingError: TOO_FEW_MEMBERS or ROUNDS_PER_DAY.
    """
    others = members - 1 if isinstance(members, int) else 0
    if others < limits.min_others:
        raise TrainingError(
            f"{others} others train with this node, which wants {limits.min_others}", reason="TOO_FEW_MEMBERS"
        )
    if limits.rounds_per_day is not None and rounds_today >= limits.rounds_per_day:
        raise TrainingError(
            f"this node trains {limits.rounds_per_day} rounds in 24 hours, and has", reason="ROUNDS_PER_DAY"
        )


def check_epochs(plan: TrainingPlan, limits: NodeTraining, patches: int) -> None:
    """Refuse a round with more passes over the own patches than the operator allows.

    Raises:
        TrainingError: PLAN_LIMITS.
    """
    if (
        limits.max_epochs is not None
        and not plan.closed_form
        and plan.local_steps * plan.batch > Fraction(limits.max_epochs) * patches
    ):
        raise TrainingError(
            f"the plan asks for {plan.local_steps * plan.batch / max(1, patches):.1f} passes in a round; this node "
            f"allows {limits.max_epochs:g}",
            reason="PLAN_LIMITS",
        )


def classes_of_sums(
    plan: TrainingPlan, limits: NodeTraining, labels: Labels, acquisitions: Sequence[str], *, floor: int
) -> NDArray[np.bool_]:
    """Return the classes that sums may come from: those that enough acquisitions stand behind.

    Sums disclose the mean features of each class, so a class of few acquisitions is left out of them, with its count.
    Of how many patches they must come in all, `rsfed.hashing.closed_form` says.

    Args:
        plan: What the coordinator asks for.
        limits: What the operator allows.
        labels: Those of the patches, bool, shape (patches, classes).
        acquisitions: That of each patch.
        floor: Distinct acquisitions that class statistics must come from, as the policy's level says.

    Returns:
        bool, shape (classes,).

    Raises:
        TrainingError: SUMS_REFUSED, or TOO_FEW_ACQUISITIONS: all labelled patches are of fewer, or those of a class
            with so many patches that the last layer would be wrong without it.
        InvalidMessage: PLAN_INVALID.
    """
    if not limits.sums:
        raise TrainingError("this node gives no sums for the last layer", reason="SUMS_REFUSED")
    if not plan.solves:
        raise InvalidMessage("the training plan has no use for sums", reason="PLAN_INVALID")
    least = max(floor, limits.sums_acquisitions)
    numbers = np.unique(np.asarray(acquisitions, dtype=str), return_inverse=True)[1]
    behind = np.array([len(np.unique(numbers[having])) for having in labels.T], dtype=np.int64)
    large = labels.sum(axis=0) >= LEAST_PATCHES_OF_SUMS
    few = min([len(np.unique(numbers[labels.any(axis=1)])), *behind[large].tolist()])
    if few < least:
        raise TrainingError(
            f"sums would come from {few} acquisitions, of all classes or of a large one, and may from {least} or more",
            reason="TOO_FEW_ACQUISITIONS",
        )
    enough: NDArray[np.bool_] = behind >= least
    return enough


def check_rounds_left(plan: TrainingPlan, limits: NodeTraining, number: object, rounds_today: int) -> None:
    """Refuse what a run would ask for beyond the rounds that the operator allows; sums count as a round.

    Args:
        plan: What the coordinator asks for.
        limits: What the operator allows.
        number: The next round of the run, as the task says it.
        rounds_today: Rounds that got a result in the last 24 hours.

    Raises:
        TrainingError: ROUNDS_PER_DAY.
    """
    done = number - 1 if isinstance(number, int) else 0
    asked = plan.rounds - done + plan.solve_end + (plan.solve_start and not done)
    if limits.rounds_per_day is not None and rounds_today + asked > limits.rounds_per_day:
        raise TrainingError(
            f"the run asks for {asked} rounds more, and this node trains {limits.rounds_per_day} in 24 hours",
            reason="ROUNDS_PER_DAY",
        )


def reported(limits: NodeTraining, loss: float, *, patches: int, acquisitions: int) -> Metrics:
    """Return what is told of a round beside its update: the rounded loss, where the operator lists it.

    A loss of few patches or acquisitions is never told.
    """
    enough = patches >= LEAST_PATCHES and acquisitions >= LEAST_ACQUISITIONS
    return {LOSS: round(loss, _LOSS_PLACES)} if enough and "loss" in limits.report else {}
