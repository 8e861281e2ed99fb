"""ControlService: what the operator's other commands tell and ask the running `serve`."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from coordinator.live import Live
from rsfed.v1 import control_pb2 as pb
from rsfed.v1.control_pb2_grpc import ControlServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


class ControlService(ControlServiceServicer):
    """Serves the Unix socket.

    Args:
        live: What the coordinator knows at this moment.
        address: Where the federation port listens.
        doing: Says what the process does: "serving", "training" or "draining".
        changed: Reads the state again.
    """

    def __init__(
        self, live: Live, address: str, doing: Callable[[], str], changed: Callable[[], Awaitable[None]]
    ) -> None:
        self._live = live
        self._address = address
        self._doing = doing
        self._changed = changed

    async def Notify(  # noqa: N802 - name of the wire
        self, request: pb.ControlServiceNotifyRequest, context: Context
    ) -> pb.ControlServiceNotifyResponse:
        """Read the state again, then answer."""
        await self._changed()
        return pb.ControlServiceNotifyResponse()

    async def Status(  # noqa: N802 - name of the wire
        self, request: pb.ControlServiceStatusRequest, context: Context
    ) -> pb.ControlServiceStatusResponse:
        """Say what the process does."""
        member, release = self._live.identity.member, self._live.release
        return pb.ControlServiceStatusResponse(
            pid=os.getpid(),
            role=member.role,
            name=member.name,
            release_version=release.manifest.version,
            release_digest=release.digest,
            state=self._doing(),
            address=self._address,
            connected=True,
        )
