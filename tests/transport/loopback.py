"""Real servers on loopback that serve every call of the contract with a script."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from members import World

from rsfed import v1
from rsfed.transport.server import bind, bind_control, make_server, server_credentials
from rsfed.trust.access import UNNAMED_PORTS, Port
from rsfed.trust.bundle import Bundle
from rsfed.trust.identity import Identity
from rsfed.trust.names import Role


def methods() -> dict[str, MethodDescriptor]:
    """Every call of every service in rsfed.v1 and of grpc.health.v1, by full name."""
    modules = [importlib.import_module(f"rsfed.v1.{m.name}") for m in pkgutil.iter_modules(v1.__path__)]
    files = [m.DESCRIPTOR for m in (*modules, health_pb2) if isinstance(getattr(m, "DESCRIPTOR", None), FileDescriptor)]
    services = [service for file in files for service in file.services_by_name.values()]
    return {f"/{service.full_name}/{method.name}": method for service in services for method in service.methods}


@dataclass
class Script:
    """What the server does, and what reached it.

    Attributes:
        answer: Called with method, request and context instead of answering with an empty message.
        seen: Calls that got past the guard.
    """

    answer: Callable[[str, Any, Any], Any] | None = None
    seen: list[str] = field(default_factory=list)

    async def reply(self, method: str, request: Any, context: Any, empty: Any) -> Any:
        self.seen.append(method)
        result = self.answer(method, request, context) if self.answer else None
        return (await result if hasattr(result, "__await__") else result) or empty


def add_everything(server: grpc.aio.Server, script: Script) -> None:
    """Serve every call, at whatever port: only the guard stands between it and the caller."""
    handlers: dict[str, dict[str, Any]] = {}
    for name, method in methods().items():
        _, service, call = name.split("/")
        handlers.setdefault(service, {})[call] = _handler(name, method, script)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, calls) for service, calls in handlers.items()]
    )


def _handler(name: str, method: MethodDescriptor, script: Script) -> Any:
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

    async def unary(message, context):
        return await script.reply(name, message, context, response())

    async def many(message, context):
        yield await script.reply(name, message, context, response())

    make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
    return make(
        many if method.server_streaming else unary,
        request_deserializer=request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


@dataclass
class Running:
    """A server that runs, and what it believes; tests change `identity` and `bundle` while it does."""

    address: str
    identity: Identity
    bundle: Bundle
    script: Script
    server: grpc.aio.Server | None = None


@asynccontextmanager
async def serving(
    world: World,
    port: Port = Port.FEDERATION,
    *,
    prepare=None,
    folder: Path | None = None,
    at: str = "127.0.0.1:0",
    **options,
):
    """Run one server of the federation; the coordinator's, or a node's at the node port."""
    role = Role.NODE if port is Port.NODE else Role.COORDINATOR
    running = Running("", world.identity(role), world.bundle(), Script())
    trust = None if port in UNNAMED_PORTS else lambda: running.bundle
    server = running.server = make_server(port, trust=trust, now=world.clock, **options)
    prepare(server) if prepare else add_everything(server, running.script)
    if port is Port.CONTROL:
        bind_control(server, folder / "control.sock")
        running.address = f"unix:{folder / 'control.sock'}"
    else:
        credentials = server_credentials(lambda: running.identity, client_certificates=port is not Port.JOIN)
        running.address = f"127.0.0.1:{bind(server, at, credentials)}"
    await server.start()
    try:
        yield running
    finally:
        await server.stop(0)
