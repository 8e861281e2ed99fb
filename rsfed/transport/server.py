"""Servers of a federation: who calls and whether they may is decided before a request is even read.

On every call, also on channels that are open for long: a deadline must be set, the caller's certificate is checked
again against the trust bundle of this moment (CA, expiry, revocation), and the role table must allow the call here.
Servicers raise errors of `rsfed.errors`; nothing else ever reaches the wire.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

import grpc
from cryptography import x509
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rsfed.clock import Deadline, Now, utc_now
from rsfed.errors import DeadlineExceeded, InvalidMessage, NotAdmitted, RsfedError, StateError
from rsfed.telemetry import log
from rsfed.transport.limits import (
    CONNECTION_GRACE_MS,
    MAX_CALL_S,
    MAX_CONNECTION_AGE_MS,
    MAX_MESSAGE_BYTES,
    MIN_KEEPALIVE_MS,
    SMALL_MESSAGE_BYTES,
    size_options,
)
from rsfed.transport.rate import RateLimit
from rsfed.transport.status import to_status
from rsfed.trust.access import RULES, UNNAMED_PORTS, Port, authorize
from rsfed.trust.bundle import Bundle, check_member
from rsfed.trust.certificates import load_chain, to_pem, verify_chain
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Refused: TypeAlias = Callable[[MemberId | None, str], None]
"""Takes who called, as far as that is proven, and the closed reason."""

_member: ContextVar[MemberId] = ContextVar("member")
_certificate: ContextVar[x509.Certificate] = ContextVar("certificate")
_MAX_SOCKET_PATH = 100  # bytes; the system allows 107


def current_member() -> MemberId:
    """Return who makes the call that is being served.

    Raises:
        LookupError: no call is being served, or its port asks for no certificate.
    """
    return _member.get()


def current_certificate() -> x509.Certificate:
    """Return the certificate with which the call is made that is being served.

    Raises:
        LookupError: no call is being served, or its port asks for no certificate.
    """
    return _certificate.get()


def deadline_of(context: _Context) -> Deadline:
    """Return by when the call that is being served must be answered."""
    remaining = context.time_remaining()
    return Deadline.after(min(remaining, MAX_CALL_S) if remaining is not None else 0.0)


def make_server(  # noqa: PLR0913 - all that guards a port, in one place
    port: Port,
    *,
    trust: Callable[[], Bundle] | None,
    now: Now = utc_now,
    max_concurrent: int = 64,
    rate: RateLimit | None = None,
    refused: Refused | None = None,
) -> grpc.aio.Server:
    """Make a server that guards every call; servicers and an address are still to be added.

    Args:
        port: Which port of the federation it is.
        trust: Returns the trust bundle of this moment; None on ports without certificates.
        now: Wall clock.
        max_concurrent: Calls served at once; more are refused as RESOURCE_EXHAUSTED.
        rate: How often a host may call. The join port always has a limit.
        refused: Told of every call that is refused before it is read, with its caller where that is known.

    Raises:
        ValueError: callers have certificates at this port, but there is no bundle to check them against.
    """
    if trust is None and port not in UNNAMED_PORTS:
        raise ValueError(f"port {port.value} needs a trust bundle")
    if port is Port.JOIN and rate is None:
        rate = RateLimit(burst=60, per_second=1, monotonic=time.monotonic)
    options = [
        *size_options(SMALL_MESSAGE_BYTES if port in UNNAMED_PORTS else MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a lottery
        ("grpc.max_connection_age_ms", MAX_CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_KEEPALIVE_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    guard = _Guard(port, trust, now, rate, refused)
    return grpc.aio.server(interceptors=[guard], options=options, maximum_concurrent_rpcs=max_concurrent)


def server_credentials(identity: Callable[[], Identity], *, client_certificates: bool = True) -> grpc.ServerCredentials:
    """Return credentials that follow the identity: a renewed certificate or a new CA counts from the next handshake.

    Args:
        identity: Returns the identity of this moment; called for every handshake.
        client_certificates: Whether callers must show a certificate; not so at the join port.
    """
    in_use = identity()

    def fetch() -> grpc.ServerCertificateConfiguration:
        nonlocal in_use
        newest = identity()
        if newest is in_use:
            return cast(grpc.ServerCertificateConfiguration, None)  # grpc's word for "as before"; its stubs forget it
        in_use = newest
        return _configuration(newest, client_certificates=client_certificates)

    first = _configuration(in_use, client_certificates=client_certificates)
    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=client_certificates)


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Let a server listen at host:port and return the port number; port 0 takes a free one.

    Raises:
        StateError: the address cannot be used.
    """
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StateError(f"cannot listen at {address}; is another process using it?", reason="BIND") from error


def bind_control(server: grpc.aio.Server, path: Path) -> None:
    """Let a server listen at a Unix socket that only its owner can open.

    Raises:
        StateError: the path is too long or cannot be used.
    """
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise StateError(
            f"the control socket's path is longer than {_MAX_SOCKET_PATH} bytes; choose a home with a shorter path",
            detail=str(path),
        )
    path.unlink(missing_ok=True)  # of an earlier process; the lock of the home says that none runs
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise StateError("the control socket cannot be opened", reason="BIND", detail=str(path)) from error
    finally:
        os.umask(mask)


def add_health(server: grpc.aio.Server) -> Callable[[bool], Awaitable[None]]:
    """Add grpc.health.v1, NOT_SERVING at first, and return what switches it: `await serving(True)`."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    status = health_pb2.HealthCheckResponse

    async def serving(on: bool) -> None:
        await servicer.set("", status.SERVING if on else status.NOT_SERVING)

    servicer._server_status[""] = status.NOT_SERVING  # noqa: SLF001 - it has no argument for the first status
    return serving


@dataclass(frozen=True, slots=True)
class _Guard(grpc.aio.ServerInterceptor):
    """Stands before every call of a server."""

    port: Port
    trust: Callable[[], Bundle] | None
    now: Now
    rate: RateLimit | None
    refused: Refused | None

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wrap the handler of a call; a method that is not served stays UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        return _Call(self, handler_call_details.method, handler).wrapped()

    def admit(self, method: str, context: _Context) -> None:
        """Check deadline, caller and role, and note who calls.

        Raises:
            RsfedError: the call is refused.
        """
        if self.rate is not None:
            self.rate.take(_host(context.peer()))
        if context.time_remaining() is None:
            raise InvalidMessage("every call needs a deadline", reason="NO_DEADLINE")
        member = None
        if self.trust is not None and self.port not in UNNAMED_PORTS:
            chain = _peer_chain(context)
            member = check_member(self.trust(), chain, now=self.now())
            _member.set(member)
            _certificate.set(chain[0])
        authorize(method, self.port, member)

    def caller(self, context: _Context) -> MemberId | None:
        """Return who makes a call, as far as a certificate proves it, be it one that was revoked."""
        if self.trust is None or self.port in UNNAMED_PORTS:
            return None
        try:
            return verify_chain(_peer_chain(context), self.trust().cas, now=self.now())
        except NotAdmitted:
            return None


@dataclass(frozen=True, slots=True)
class _Call:
    """One method of a server, guarded.

    Requests arrive as bytes and are parsed after the caller was admitted; answers are packed here too, since what goes
    wrong in grpc's own hands is sent to the caller with its text.
    """

    guard: _Guard
    method: str
    handler: Any  # grpc's handler: a named tuple without types

    def wrapped(self) -> _Handler:
        """Return the handler that grpc shall call instead."""
        if self.handler.request_streaming:
            raise TypeError("no call of the contract streams requests")
        if not self.handler.response_streaming or self.method not in RULES:  # without a row there is only the refusal
            return grpc.unary_unary_rpc_method_handler(self._answer)
        return grpc.unary_stream_rpc_method_handler(self._stream)

    async def _answer(self, request: bytes, context: _Context) -> bytes:
        try:
            async with _bounded():
                return self._pack(await self.handler.unary_unary(self._admit(request, context), context))
        except Exception as error:  # noqa: BLE001 - the wire is where every error ends
            await self._refuse(error, context)

    async def _stream(self, request: bytes, context: _Context) -> AsyncIterator[bytes]:
        try:
            async with _bounded():
                async for answer in self.handler.unary_stream(self._admit(request, context), context):
                    yield self._pack(answer)
        except Exception as error:  # noqa: BLE001 - the wire is where every error ends
            await self._refuse(error, context)

    def _admit(self, request: bytes, context: _Context) -> Message:
        try:
            self.guard.admit(self.method, context)
        except RsfedError as error:
            if self.guard.refused is not None:
                self.guard.refused(self.guard.caller(context), error.reason)
            raise
        try:
            return cast(Message, self.handler.request_deserializer(request))
        except (DecodeError, ValueError) as error:
            raise InvalidMessage("the request cannot be read", reason="MALFORMED") from error

    def _pack(self, answer: Message) -> bytes:
        return cast(bytes, self.handler.response_serializer(answer))

    async def _refuse(self, error: Exception, context: _Context) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if not isinstance(error, RsfedError):
            log.error("call.failed", method=self.method, error_type=type(error).__name__)
            error = RsfedError("internal error")
        else:
            member = _member.get(None)
            log.info("call.refused", method=self.method, reason=error.reason, member=member.uri if member else "")
        await context.abort_with_status(to_status(error))


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """End a call whose deadline lies beyond what anybody is granted."""
    limit = asyncio.timeout(MAX_CALL_S)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if limit.expired():
            raise DeadlineExceeded("the call took too long") from error
        raise


def _configuration(identity: Identity, *, client_certificates: bool) -> grpc.ServerCertificateConfiguration:
    roots = to_pem(identity.bundle.cas) if client_certificates else None
    return grpc.ssl_server_certificate_configuration([(identity.key_pem, identity.chain_pem)], root_certificates=roots)


def _peer_chain(context: _Context) -> tuple[x509.Certificate, ...]:
    certificates = context.auth_context().get("x509_pem_cert", ())
    if not certificates:
        raise NotAdmitted("a client certificate is needed; join the federation first", reason="NO_CERTIFICATE")
    return load_chain(b"".join(certificates))


def _host(peer: str) -> str:
    """Return the host of a peer such as "ipv4:192.0.2.1:5000"."""
    return peer.rpartition(":")[0]
