"""Errors on the wire: `google.rpc.Status` with one `ErrorInfo`, and back to the same error class on the other side.

Where it is known when the same call will succeed, a `RetryInfo` says so; for which fields of its filter a query was
refused, or at which policy level, stands in the metadata of the `ErrorInfo`.
"""

from __future__ import annotations

import re

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from rsfed.errors import (
    Busy,
    DeadlineExceeded,
    EnvelopeRefused,
    InvalidAnswer,
    InvalidMessage,
    NotAdmitted,
    RsfedError,
    UnknownHandle,
    Unreachable,
    WithheldByPolicy,
    error_classes,
)

DOMAIN = "rsfed"
_KIND = "kind"  # the class's own reason; tells classes apart when the reason is that of one instance
_FIELDS = "fields"  # of a filter, separated by commas
_LEVEL = "level"  # name of a policy level
_MAX_TEXT = 400  # characters of a peer's text that are shown
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_CLASSES = {cls.reason: cls for cls in reversed(error_classes())}
_BY_STATUS: dict[grpc.StatusCode, type[RsfedError]] = {
    grpc.StatusCode.CANCELLED: Unreachable,
    grpc.StatusCode.DATA_LOSS: InvalidAnswer,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidMessage,
    grpc.StatusCode.NOT_FOUND: UnknownHandle,
    grpc.StatusCode.PERMISSION_DENIED: NotAdmitted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Busy,
    grpc.StatusCode.UNAUTHENTICATED: NotAdmitted,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
}
_WORDS: dict[type[RsfedError], str] = {
    Busy: "has too much to do; try again later",
    DeadlineExceeded: "did not answer in time",
    NotAdmitted: "refused the call",
    Unreachable: "cannot be reached; check its address, that it runs, and that its certificate is valid",
}


def to_status(error: RsfedError) -> grpc.Status:
    """Return what the wire says of an error: its public text and reason, never its detail."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={_KIND: type(error).reason})
    if isinstance(error, EnvelopeRefused) and error.fields:
        info.metadata[_FIELDS] = ",".join(error.fields)
    if isinstance(error, WithheldByPolicy) and error.level:
        info.metadata[_LEVEL] = error.level
    details = [_packed(info)]
    if isinstance(error, Busy) and error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(_packed(retry))
    code = grpc.StatusCode[error.grpc_status]
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=code.value[0], message=error.public, details=details)
    )
    return status


def to_error(call_error: grpc.aio.AioRpcError, what: str) -> RsfedError:
    """Return the error that a failed call stands for.

    Args:
        call_error: What grpc raised.
        what: Whom or what was called, the subject of the sentence: "the coordinator".
    """
    info = _error_info(call_error)
    details = call_error.details() or ""
    if info is None:
        return _plain(call_error.code(), details, what)
    cls = _CLASSES.get(info.metadata.get(_KIND, ""), _BY_STATUS.get(call_error.code(), RsfedError))
    if cls is Busy:
        return Busy(f"{what}: {_clean(details)}", reason=info.reason, retry_after=_retry_after(call_error))
    if cls is EnvelopeRefused:
        fields = tuple(filter(None, info.metadata.get(_FIELDS, "").split(",")))
        return EnvelopeRefused(f"{what}: {_clean(details)}", reason=info.reason, fields=fields)
    if cls is WithheldByPolicy:
        level = info.metadata.get(_LEVEL, "")
        return WithheldByPolicy(f"{what}: {_clean(details)}", reason=info.reason, level=level)
    return cls(f"{what}: {_clean(details)}", reason=info.reason)


def _plain(code: grpc.StatusCode, details: str, what: str) -> RsfedError:
    """Return the error for a status that grpc itself made."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "CLIENT: Received message larger than max" in details:
        return InvalidAnswer(f"{what} gave an answer that is larger than allowed", reason="MESSAGE_TOO_LARGE")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return InvalidMessage(f"{what}: a message is larger than allowed", reason="MESSAGE_TOO_LARGE")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return RsfedError(f"{what} does not know this call; update the older software", reason="UNIMPLEMENTED")
    cls = _BY_STATUS.get(code, RsfedError)
    return cls(f"{what} {_WORDS.get(cls, 'failed')}")


def _error_info(call_error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    info = error_details_pb2.ErrorInfo()
    if not _unpacked(call_error, info):
        return None
    return info if info.domain == DOMAIN and _REASON.fullmatch(info.reason) else None


def _retry_after(call_error: grpc.aio.AioRpcError) -> float | None:
    retry = error_details_pb2.RetryInfo()
    return max(0.0, retry.retry_delay.ToMilliseconds() / 1000) if _unpacked(call_error, retry) else None


def _unpacked(call_error: grpc.aio.AioRpcError, into: Message) -> bool:
    """Fill in the detail of this kind and say whether there is one."""
    try:
        status = rpc_status.from_call(call_error)
        return status is not None and any(detail.Unpack(into) for detail in status.details)
    except (ValueError, DecodeError):
        return False


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _clean(text: str) -> str:
    """Keep a peer's text printable and short, whatever the peer sent."""
    return "".join(c if c.isprintable() else " " for c in text[:_MAX_TEXT])
