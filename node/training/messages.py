"""The messages of a task: its settings, plan and weights as they come, and the answer as it goes."""

from __future__ import annotations

from typing import Protocol

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from node.training.trainer import RoundResult
from rsfed.errors import InvalidMessage
from rsfed.hashing.closed_form import Sums
from rsfed.hashing.exchange import Kept, answered, received
from rsfed.hashing.payload import Arrays, Metrics
from rsfed.hashing.plan import (
    ARRAYS,
    CODING,
    CONFIG,
    DELTA,
    EXAMPLES,
    METRICS,
    PLAN,
    ROUND,
    SECONDS,
    TrainingPlan,
    parse_plan,
)
from rsfed.hashing.refit import to_arrays


class Memory(Protocol):
    """Where a node keeps what its next round builds on."""

    def recall(self, run_id: int) -> Kept | None:
        """Return what the last round of a run left; None where there is nothing of it."""

    def keep(self, run_id: int, kept: Kept) -> None:
        """Keep what a round left, in place of what the round before left."""


def settings_of(message: Message) -> ConfigRecord:
    """Return the settings of a task.

    Raises:
        InvalidMessage: TASK_INCOMPLETE.
    """
    if CONFIG not in message.content.config_records:
        raise InvalidMessage("the task has no settings", reason="TASK_INCOMPLETE")
    return message.content[CONFIG]


def read(message: Message, memory: Memory) -> tuple[TrainingPlan, Arrays]:
    """Return the plan and the weights of a task, which come whole or as a change of those of the last round.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, PLAN_INVALID, BASE_UNKNOWN, DELTA_FORM or NOT_FINITE.
    """
    plan, content = parse_plan(settings_of(message).get(PLAN)), message.content
    if DELTA in content.config_records:
        return plan, received(content[DELTA], memory.recall(message.metadata.run_id))
    if ARRAYS not in content.array_records:
        raise InvalidMessage("the task has no weights", reason="TASK_INCOMPLETE")
    return plan, {name: array.numpy() for name, array in content[ARRAYS].items()}


def trained(message: Message, start: Arrays, result: RoundResult, told: Metrics, memory: Memory) -> Message:
    """Answer with trained weights, or with their change in the coding that the task asks for.

    Args:
        message: The task.
        start: The weights that the round started from.
        result: What the round gave.
        told: Numbers that are told beside patches and seconds.
        memory: Keeps what the next round builds on.

    Raises:
        InvalidMessage: DELTA_FORM, the coding is unknown, or NOT_FINITE.
    """
    metrics = {EXAMPLES: result.examples, SECONDS: result.seconds} | told
    config, run_id = settings_of(message), message.metadata.run_id
    if CODING not in config:
        return with_arrays(message, result.arrays, metrics)
    coding, before = str(config[CODING]), memory.recall(run_id)
    change, kept = answered(config[ROUND], start, result.arrays, coding, before, change=message.content.get(DELTA))
    memory.keep(run_id, kept)
    return _reply(message, RecordDict({DELTA: ConfigRecord(change)}), metrics)


def summed(message: Message, sums: Sums, seconds: float) -> Message:
    """Answer with sums for the last layer, and how long they took."""
    return with_arrays(message, to_arrays(sums), {EXAMPLES: sums.patches, SECONDS: seconds})


def with_arrays(message: Message, arrays: Arrays, metrics: Metrics) -> Message:
    """Answer with arrays and numbers."""
    content = RecordDict({ARRAYS: ArrayRecord({name: Array(array) for name, array in arrays.items()})})
    return _reply(message, content, metrics)


def _reply(message: Message, content: RecordDict, metrics: Metrics) -> Message:
    content[METRICS] = MetricRecord(dict(metrics))
    return Message(content, reply_to=message)
