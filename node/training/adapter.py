"""The one place of the node that knows Flower's messages: runs a `ClientApp` on a task and returns its result."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from rsfed.errors import InvalidMessage, RsfedError
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.telemetry import log

_HERE, _COORDINATOR = 1, 0  # Flower's node numbers; they mean nothing outside this process


def run_task(app: ClientApp, home: Path, task: bytes) -> bytes:
    """Run a Flower app on a task and return the result in its wire form.

    A task that fails gives a result with a closed reason; what went wrong stays in the local log.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)  # its log is free text; ours has a fixed list of fields
    payload = Payload(0, 0, "")
    try:
        payload = decode(task)
        return encode(_answer(app, home, payload))
    except RsfedError as error:
        log.warning("training.failed", run=payload.run_id, round=payload.round, reason=error.reason)
        reason = error.reason
    except MemoryError:
        reason = "OUT_OF_MEMORY"
    except Exception as error:  # noqa: BLE001 - whatever the app raises costs this round only
        log.error("training.failed", run=payload.run_id, round=payload.round, error_type=type(error).__name__)
        reason = "TRAINING_FAILED"
    return encode(Payload(payload.run_id, payload.round, payload.kind, error=reason))


def _answer(app: ClientApp, home: Path, task: Payload) -> Payload:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = task.run_id, _COORDINATOR, task.run_id
    try:
        message = Message(to_records(task), dst_node_id=_HERE, message_type=task.kind)
    except ValueError as error:
        raise InvalidMessage("the task is of a kind that this software does not know", reason="UNKNOWN_KIND") from error
    context = Context(
        run_id=task.run_id, node_id=_HERE, node_config={"home": str(home)}, state=RecordDict(), run_config={}
    )
    return to_payload(app(message, context).content, task)


def to_records(payload: Payload) -> RecordDict:
    """Return a payload as Flower's records."""
    records: dict[str, Any] = {
        name: ArrayRecord({key: Array(np.asarray(array)) for key, array in arrays.items()})
        for name, arrays in payload.arrays.items()
    }
    records |= {name: MetricRecord(dict(metrics)) for name, metrics in payload.metrics.items()}
    records |= {name: ConfigRecord(dict(config)) for name, config in payload.configs.items()}
    return RecordDict(records)


def to_payload(content: RecordDict, task: Payload) -> Payload:
    """Return Flower's records as the content of a task or of its result."""
    arrays = {name: {key: a.numpy() for key, a in record.items()} for name, record in content.array_records.items()}
    metrics = {name: {key: float(v) for key, v in record.items()} for name, record in content.metric_records.items()}
    configs = {name: dict(record) for name, record in content.config_records.items()}
    return Payload(task.run_id, task.round, task.kind, arrays, metrics, configs)
