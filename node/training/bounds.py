"""How far training may go at this node, as node.toml says: rules without IO. The coordinator can only ask for less."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction

from rsfed.config import NodeTraining
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.payload import Metrics
from rsfed.hashing.plan import LOSS, TrainingPlan

LEAST_PATCHES, LEAST_ACQUISITIONS = 200, 5  # that a loss comes from which is told
LEAST_ACQUISITIONS_OF_SUMS = 5
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
    if limits.max_epochs is not None and plan.local_steps * plan.batch > Fraction(limits.max_epochs) * patches:
        raise TrainingError(
            f"the plan asks for {plan.local_steps * plan.batch / max(1, patches):.1f} passes in a round; this node "
            f"allows {limits.max_epochs:g}",
            reason="PLAN_LIMITS",
        )


def check_sums(plan: TrainingPlan, limits: NodeTraining, *, acquisitions: int, floor: int) -> None:
    """Refuse sums that the operator does not allow, that no run has a use for, or that few acquisitions stand behind.

    Of how many patches they must come, `rsfed.hashing.closed_form` says.

    Args:
        plan: What the coordinator asks for.
        limits: What the operator allows.
        acquisitions: Distinct ones among the patches.
        floor: Distinct acquisitions that class statistics must come from, as the policy's level says.

    Raises:
        TrainingError: SUMS_REFUSED or TOO_FEW_ACQUISITIONS.
        InvalidMessage: PLAN_INVALID.
    """
    if not limits.sums:
        raise TrainingError("this node gives no sums for the last layer", reason="SUMS_REFUSED")
    if not plan.solves:
        raise InvalidMessage("the training plan has no use for sums", reason="PLAN_INVALID")
    if acquisitions < (least := max(floor, LEAST_ACQUISITIONS_OF_SUMS)):
        raise TrainingError(
            f"sums would come from {acquisitions} acquisitions, and may from {least} or more",
            reason="TOO_FEW_ACQUISITIONS",
        )


def reported(limits: NodeTraining, loss: float, *, patches: int, acquisitions: int) -> Metrics:
    """Return what is told of a round beside its update: the rounded loss, where the operator lists it.

    A loss of few patches or acquisitions is never told.
    """
    enough = patches >= LEAST_PATCHES and acquisitions >= LEAST_ACQUISITIONS
    return {LOSS: round(loss, _LOSS_PLACES)} if enough and "loss" in limits.report else {}
