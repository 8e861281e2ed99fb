"""Talking to the node's own running `serve` over its Unix socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rsfed.errors import RsfedError
from rsfed.home import Home

if TYPE_CHECKING:
    from rsfed.v1.control_pb2 import ControlServiceStatusResponse

_PATIENCE_S = 3.0


def serve_status(home: Home) -> ControlServiceStatusResponse | None:
    """Return what the running `serve` does; None when none runs."""
    from rsfed.v1 import control_pb2  # noqa: PLC0415 - loaded only when used

    status: ControlServiceStatusResponse | None = _ask(home, "Status", control_pb2.ControlServiceStatusRequest())
    return status


def notify_serve(home: Home) -> bool:
    """Tell a running `serve` that the state changed and say whether one heard it; it looks by itself later, too."""
    from rsfed.v1 import control_pb2  # noqa: PLC0415 - loaded only when used

    return _ask(home, "Notify", control_pb2.ControlServiceNotifyRequest()) is not None


def _ask(home: Home, method: str, request: object) -> Any:  # noqa: ANN401 - one of two answers, typed by the callers
    if not home.control_socket.exists():
        return None
    from rsfed.clock import Deadline  # noqa: PLC0415 - loaded only when used
    from rsfed.transport.channel import call, open_control_channel  # noqa: PLC0415 - loaded only when used
    from rsfed.v1.control_pb2_grpc import ControlServiceStub  # noqa: PLC0415 - loaded only when used

    async def ask() -> Any:  # noqa: ANN401 - as above
        async with open_control_channel(home.control_socket) as channel:
            stub_method = getattr(ControlServiceStub(channel), method)
            return await call(stub_method, request, Deadline.after(_PATIENCE_S), what="the node's serve")

    try:
        return asyncio.run(ask())
    except RsfedError:
        return None
