"""ControlService: what the other commands of the same home ask of the running `serve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rsfed.v1 import control_pb2 as pb
from rsfed.v1 import control_pb2_grpc

if TYPE_CHECKING:
    import grpc


class ControlService(control_pb2_grpc.ControlServiceServicer):
    """Answers local commands.

    Args:
        status: Returns what the process is doing.
        notified: Called when another command changed durable state.
    """

    def __init__(self, status: Callable[[], pb.ControlServiceStatusResponse], notified: Callable[[], None]) -> None:
        self._status = status
        self._notified = notified

    async def Notify(  # noqa: N802 - named by the wire
        self, request: pb.ControlServiceNotifyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ControlServiceNotifyResponse:
        """Look at the state again."""
        self._notified()
        return pb.ControlServiceNotifyResponse()

    async def Status(  # noqa: N802 - named by the wire
        self, request: pb.ControlServiceStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ControlServiceStatusResponse:
        """Say what the process is doing."""
        return self._status()
