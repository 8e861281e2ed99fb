"""The content of a training task or result, and its form on the wire.

Arrays travel as safetensors, everything else as protobuf; nothing that is read can run code. Whoever decodes a payload
gets finite float32 arrays and finite numbers within the size limits, or an `InvalidMessage` with a closed reason.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from rsfed.errors import InvalidMessage
from rsfed.v1 import training_pb2 as pb

CHUNK_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 256 << 20
MAX_RECORDS = 16  # of a payload
MAX_ENTRIES = 4096  # of a record
MAX_TEXT = 1 << 18  # characters of a setting
MAX_NAME = 256  # characters of any name
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")

Arrays = dict[str, NDArray[np.float32]]
Metrics = dict[str, float]
Setting = str | int | float | bool | bytes
Config = dict[str, Setting]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Payload:
    """The content of a task or of its result.

    Attributes:
        run_id: Run that the task belongs to.
        round: Round of the run, from 1.
        kind: Kind of the task as Flower names it, for example "train".
        arrays: Named groups of named arrays, float32, any shape.
        metrics: Named groups of numbers.
        configs: Named groups of settings.
        error: Closed reason why there is no result; "" on success.
    """

    run_id: int
    round: int
    kind: str
    arrays: dict[str, Arrays] = field(default_factory=dict)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)
    error: str = ""


def digest(data: bytes) -> bytes:
    """Return what a payload is checked with after its transfer: SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def is_reason(text: str) -> bool:
    """Say whether a text is a closed reason, and not one that somebody made up for people."""
    return _REASON.fullmatch(text) is not None


def encode(payload: Payload) -> bytes:
    """Return a payload in its wire form; equal payloads give equal bytes.

    Raises:
        InvalidMessage: PAYLOAD_TOO_LARGE, PAYLOAD_MALFORMED (an array is not float32) or NOT_FINITE.
    """
    message = pb.TaskPayload(run_id=payload.run_id, round=payload.round, kind=payload.kind, error=payload.error)
    for name, arrays in payload.arrays.items():
        _check_arrays(arrays)
        contiguous = {key: np.asarray(value, order="C") for key, value in arrays.items()}
        message.records.add(name=name, arrays=safetensors.save(contiguous))
    for name, metrics in payload.metrics.items():
        _check_metrics(metrics)
        message.records.add(name=name, metrics=pb.MetricMap(values=metrics))
    for name, config in payload.configs.items():
        values = {key: _to_setting(value) for key, value in config.items()}
        message.records.add(name=name, config=pb.ConfigMap(values=values))
    data = message.SerializeToString(deterministic=True)
    check_size(len(data))
    return data


def decode(data: bytes) -> Payload:
    """Read a payload that came over the wire.

    Raises:
        InvalidMessage: PAYLOAD_TOO_LARGE, PAYLOAD_MALFORMED or NOT_FINITE.
    """
    check_size(len(data))
    try:
        message = pb.TaskPayload.FromString(data)
    except DecodeError as error:
        raise _malformed("it is no task payload") from error
    del data  # arrays are large: each step lets go of what the last one made
    if len(message.records) > MAX_RECORDS:
        raise _malformed(f"it has more than {MAX_RECORDS} records")
    if message.error and not is_reason(message.error):
        raise _malformed("its error is no closed reason")
    payload = Payload(message.run_id, message.round, _name(message.kind), error=message.error)
    packed: dict[str, bytes] = {}
    for record in message.records:
        _read_record(payload, packed, record)
        del record
    del message
    for name in list(packed):
        payload.arrays[name] = _read_arrays(packed.pop(name))
    return payload


def check_size(size: int, limit: int = MAX_PAYLOAD_BYTES) -> None:
    """Refuse a payload that is too large, before its bytes are held.

    Raises:
        InvalidMessage: PAYLOAD_TOO_LARGE.
    """
    if size > limit:
        raise InvalidMessage(f"the payload has {size} bytes; at most {limit} are taken", reason="PAYLOAD_TOO_LARGE")


def _read_record(payload: Payload, packed: dict[str, bytes], record: pb.Record) -> None:
    name = _name(record.name)
    if name in {*packed, *payload.metrics, *payload.configs}:
        raise _malformed("two records have the same name")
    match record.WhichOneof("value"):
        case "arrays":
            packed[name] = record.arrays
        case "metrics":
            metrics = dict(_entries(record.metrics.values))
            _check_metrics(metrics)
            payload.metrics[name] = metrics
        case "config":
            payload.configs[name] = {key: _from_setting(v) for key, v in _entries(record.config.values).items()}
        case _:
            raise _malformed("a record is empty")


def _read_arrays(data: bytes) -> Arrays:
    try:
        arrays: Arrays = safetensors.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _malformed("its arrays are not in safetensors form") from error
    _check_arrays(_entries(arrays))
    return arrays


def _check_arrays(arrays: Mapping[str, NDArray[np.float32]]) -> None:
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise _malformed("arrays must be float32")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise _not_finite()


def _check_metrics(metrics: Mapping[str, float]) -> None:
    if not all(math.isfinite(value) for value in metrics.values()):
        raise _not_finite()


def _to_setting(value: Setting) -> pb.ConfigValue:
    if isinstance(value, bool):
        return pb.ConfigValue(flag=value)
    if isinstance(value, int):
        return pb.ConfigValue(integer=value)
    if isinstance(value, float):
        return pb.ConfigValue(real=value)
    if isinstance(value, bytes):
        return pb.ConfigValue(octets=value)
    return pb.ConfigValue(text=value)


def _from_setting(value: pb.ConfigValue) -> Setting:
    match value.WhichOneof("value"):
        case "text" if len(value.text) <= MAX_TEXT:
            return value.text
        case "integer":
            return value.integer
        case "real" if math.isfinite(value.real):
            return value.real
        case "flag":
            return value.flag
        case "octets":
            return value.octets
        case _:
            raise _malformed("a setting is empty, too long or not finite")


def _entries(values: Mapping[str, T]) -> Mapping[str, T]:
    if len(values) > MAX_ENTRIES or any(len(key) > MAX_NAME for key in values):
        raise _malformed("a record has too many entries or too long names")
    return values


def _name(value: str) -> str:
    if len(value) > MAX_NAME:
        raise _malformed("a name is too long")
    return value


def _malformed(what: str) -> InvalidMessage:
    return InvalidMessage(f"the payload was refused: {what}", reason="PAYLOAD_MALFORMED")


def _not_finite() -> InvalidMessage:
    return InvalidMessage("the payload was refused: a value is not a finite number", reason="NOT_FINITE")
