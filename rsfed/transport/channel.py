"""Channels to servers whose name is known beforehand, and calls that end in an answer or in one of our errors."""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc

from rsfed.clock import Deadline
from rsfed.errors import DeadlineExceeded, InvalidAnswer
from rsfed.transport.limits import KEEPALIVE_MS, MAX_MESSAGE_BYTES, size_options
from rsfed.transport.status import to_error
from rsfed.trust.access import RULES
from rsfed.trust.certificates import to_pem
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId

# An answer that grpc cannot parse becomes our InvalidAnswer; its own log of it would be a traceback a peer can cause.
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)

Response = TypeVar("Response")

_RETRIES = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# Each failure takes one token, each success gives back a tenth; below half, nothing is retried.
_THROTTLE = {"maxTokens": 10, "tokenRatio": 0.1}


def open_channel(
    address: str, identity: Identity, expect: MemberId, *, receive: int = MAX_MESSAGE_BYTES
) -> grpc.aio.Channel:
    """Open an mTLS channel to a member; whoever answers under another name is not believed.

    Args:
        address: host:port.
        identity: Who dials, and which CAs it believes.
        expect: Who must answer.
        receive: Bytes of an answer that are taken at most.
    """
    credentials = grpc.ssl_channel_credentials(to_pem(identity.bundle.cas), identity.key_pem, identity.chain_pem)
    return grpc.aio.secure_channel(address, credentials, options=_options(address, expect.dns, receive))


def open_join_channel(address: str, ca_pem: bytes, server_name: str) -> grpc.aio.Channel:
    """Open a channel to a join port, where the caller has no certificate yet.

    Args:
        address: host:port.
        ca_pem: CA certificates of the federation, from the token or the trust bundle.
        server_name: DNS name that the server's certificate must carry.
    """
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(ca_pem), options=_options(address, server_name)
    )


def open_control_channel(socket_path: Path) -> grpc.aio.Channel:
    """Open a channel to a running `serve` of the same home."""
    return grpc.aio.insecure_channel(f"unix:{socket_path}", options=[*size_options(), ("grpc.enable_http_proxy", 0)])


async def call(
    stub_method: Callable[..., Awaitable[Response]], request: object, deadline: Deadline, *, what: str
) -> Response:
    """Make a call and wait for its answer.

    Args:
        stub_method: Method of a generated stub on an aio channel.
        request: The request.
        deadline: When the answer is due.
        what: Whom or what is called, the subject of an error's sentence: "the coordinator".

    Raises:
        RsfedError: the error that the server named, else Unreachable, DeadlineExceeded, Busy, InvalidMessage, ...
    """
    _check_time(deadline, what)
    try:
        return _readable(await stub_method(request, timeout=deadline.remaining()), what)
    except grpc.aio.AioRpcError as error:
        raise to_error(error, what) from error


async def stream(
    stub_method: Callable[..., AsyncIterable[Response]], request: object, deadline: Deadline, *, what: str
) -> AsyncGenerator[Response]:
    """Make a call that answers in many messages and yield them; arguments and errors as in `call`."""
    _check_time(deadline, what)
    answers = cast("grpc.aio.UnaryStreamCall[object, Response]", stub_method(request, timeout=deadline.remaining()))
    try:
        async for answer in answers:
            yield _readable(answer, what)
    except grpc.aio.AioRpcError as error:
        raise to_error(error, what) from error
    finally:
        answers.cancel()  # whoever stops listening stops the server too


def service_config() -> str:
    """Return the service config of every channel: reads are tried three times when the connection fails."""
    reads = [name.strip("/").split("/") for name, rule in RULES.items() if rule.read]
    names = [{"service": service, "method": method} for service, method in reads]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRIES}], "retryThrottling": _THROTTLE})


def _options(address: str, server_name: str, receive: int = MAX_MESSAGE_BYTES) -> list[tuple[str, Any]]:
    return [
        *size_options(receive),
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_permit_without_calls", 1),  # an idle channel stays warm behind firewalls
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.service_config", service_config()),
        ("grpc.use_local_subchannel_pool", 1),  # a new identity gets new connections
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.enable_http_proxy", 0 if _is_loopback(address) else 1),
    ]


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_time(deadline: Deadline, what: str) -> None:
    """Refuse to send what is late already: grpc would send some calls with a timeout of 0."""
    if deadline.remaining() <= 0:
        raise DeadlineExceeded(f"there was no time left to ask {what}")


def _readable(answer: Response | None, what: str) -> Response:
    """Refuse None: it is what grpc.aio gives for an answer that it could not parse."""
    if answer is None:
        raise InvalidAnswer(f"{what} gave an answer that cannot be read")
    return answer
