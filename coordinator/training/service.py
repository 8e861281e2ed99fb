"""TrainingService: hands tasks to the nodes they are for and takes their results in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rsfed.errors import InvalidMessage
from rsfed.hashing.payload import CHUNK_BYTES
from rsfed.transport.server import current_member
from rsfed.v1 import training_pb2 as pb
from rsfed.v1.training_pb2_grpc import TrainingServiceServicer

if TYPE_CHECKING:
    from typing import Any

    import grpc

    from coordinator.training.board import TaskBoard
    from rsfed.trust.names import MemberId

    Context = grpc.aio.ServicerContext[Any, Any]

MAX_WAIT_S = 30.0
_WAY_BACK_S = 1.0  # left of the caller's deadline for the answer


class TrainingServicer(TrainingServiceServicer):
    """Unpacks calls, asks the board, packs answers.

    Args:
        board: Where the tasks are.
        member: Says who calls.
    """

    def __init__(self, board: TaskBoard, member: Callable[[], MemberId] = current_member) -> None:
        self._board = board
        self._member = member

    async def PullTask(  # noqa: N802 - name of the wire
        self, request: pb.TrainingServicePullTaskRequest, context: Context
    ) -> pb.TrainingServicePullTaskResponse:
        """Wait for the caller's next task, or return more bytes of one."""
        node = self._member().name
        if request.task_id:
            task = self._board.task(node, request.task_id)
        else:
            left = context.time_remaining()
            wait_s = min(request.wait_ms / 1000, MAX_WAIT_S, max(0.0, (left or MAX_WAIT_S) - _WAY_BACK_S))
            found = await self._board.next_task(node, wait_s)
            if found is None:
                return pb.TrainingServicePullTaskResponse()
            task = found
        chunk = task.payload.read(request.offset, CHUNK_BYTES)
        task.sent += len(chunk)
        return pb.TrainingServicePullTaskResponse(
            task_id=task.id, total_bytes=len(task.payload), sha256=task.payload.sha256, chunk=chunk
        )

    async def PushResult(  # noqa: N802 - name of the wire
        self, request: pb.TrainingServicePushResultRequest, context: Context
    ) -> pb.TrainingServicePushResultResponse:
        """Take part of a result."""
        if len(request.chunk) > CHUNK_BYTES or len(request.sha256) not in {0, 32}:
            raise InvalidMessage(f"a chunk has at most {CHUNK_BYTES} bytes, a digest 32", reason="CHUNK_INVALID")
        expected = (request.total_bytes, request.sha256)
        node = self._member().name
        position = self._board.receive(node, request.task_id, expected, request.offset, request.chunk)
        return pb.TrainingServicePushResultResponse(next_offset=position)
