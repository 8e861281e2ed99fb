"""Fetches training tasks from the coordinator, has them worked on in the child process and sends the results.

Only outgoing calls, so training needs no open port. While the coordinator is away everything is tried again, later and
later; a transfer goes on where it stopped. What the operator said (`node.training.consent`) is looked up before every
step: a paused node waits for no task, and nothing more is sent to a run that was refused.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from node.state import open_state
from node.training import consent, journal
from node.training.kept import DiskMemory
from node.training.noted import TaskNotes
from node.training.worker import Worker
from rsfed.clock import Deadline
from rsfed.errors import Busy, DeadlineExceeded, InvalidMessage, RsfedError, StateError, Unreachable
from rsfed.hashing.payload import CHUNK_BYTES, Payload, check_size, decode, digest, encode
from rsfed.hashing.plan import EVALUATE, LOSS, METRICS
from rsfed.home import Home
from rsfed.telemetry import log
from rsfed.transport.channel import call
from rsfed.v1 import training_pb2 as pb

if TYPE_CHECKING:
    from rsfed.config import NodeTraining
    from rsfed.v1.training_pb2_grpc import TrainingServiceAsyncStub

POLL_S = 25.0  # how long the coordinator may hold a request for the next task
CALL_S = 30.0  # deadline of a transfer's step
HEARTBEAT_S = 5.0  # between two signs of life while a task is worked on, and two looks at what the operator said
IDLE_S = 120.0  # after which the child process is ended
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
REFUSED_PAUSE_S = 60.0
MOST_REWINDS = 3  # times that a coordinator may ask for a part of a result again
JOURNAL_WAIT_MS = 2000  # for the database; the search of the node waits meanwhile
_EXPIRED = "TASK_EXPIRED"
_NOT_WANTED = frozenset({_EXPIRED, "UNKNOWN_TASK"})  # the coordinator's reasons to take no result
Answer = TypeVar("Answer")


class Trainer(Protocol):
    """Works on tasks; tests pass a fake."""

    async def run(self, task: bytes) -> bytes:
        """Return the result of a task, both in wire form."""

    async def stop(self) -> None:
        """Give back what it holds."""


@dataclass(slots=True)
class _Job:
    """A task with what happened to it."""

    id: str
    task: Payload
    started: float
    check: Callable[[], None] = lambda: None  # raises once the operator refused the run
    sent: int = 0  # bytes


class Puller:
    """Takes part in training until it is cancelled.

    Args:
        home: The node's home.
        limits: What the node's operator allows.
        connect: Returns the stub of the coordinator's service; asked anew for every call.
        trainer: Works on the tasks; a child process unless a test says otherwise.
        sleep: Lets seconds pass.

    Attributes:
        busy: Whether a task is being worked on or its result sent.
    """

    def __init__(
        self,
        home: Home,
        limits: NodeTraining,
        connect: Callable[[], TrainingServiceAsyncStub],
        *,
        trainer: Trainer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._home = home
        self._connect = connect
        self._trainer = trainer or Worker(home, limits.threads)
        self._sleep = sleep
        self._memory = DiskMemory(home)
        self._told = asyncio.Event()
        self.busy = False

    def notify(self) -> None:
        """Look at once at what the operator said; without it that happens every few seconds."""
        self._told.set()

    async def run(self) -> None:
        """Take tasks for ever; the child process is ended when this is cancelled."""
        connection = open_state(self._home)
        connection.execute(f"PRAGMA busy_timeout = {JOURNAL_WAIT_MS}")
        journal.close_interrupted(connection)
        idle_since = time.monotonic()
        try:
            while True:
                first = await self._insist(partial(self._next_task, connection))
                if first.task_id:
                    self.busy = True
                    await self._take(connection, first)
                    self.busy, idle_since = False, time.monotonic()
                elif time.monotonic() - idle_since > IDLE_S:
                    await self._trainer.stop()
                    self._memory.forget_old()
        finally:
            connection.close()
            await self._trainer.stop()

    async def _next_task(self, connection: sqlite3.Connection) -> pb.TrainingServicePullTaskResponse:
        """Wait for a task, which may not come; a node that is paused hangs up, so that no round counts on it."""
        asked = time.monotonic()
        request = pb.TrainingServicePullTaskRequest(wait_ms=int(POLL_S * 1000))

        async def may_go_on() -> None:
            consent.check_not_paused(connection)

        try:
            await may_go_on()
            polling = call(self._connect().PullTask, request, Deadline.after(POLL_S + CALL_S), what="the coordinator")
            answer = await self._while(may_go_on, polling)
        except consent.TrainingPaused:
            await self._trainer.stop()
            await self._moment()
            return pb.TrainingServicePullTaskResponse()
        except (Unreachable, DeadlineExceeded, Busy):
            raise
        except RsfedError as error:  # for example until a certificate is renewed; search goes on without training
            log.warning("training.refused", reason=error.reason, seconds=REFUSED_PAUSE_S)
            await self._sleep(REFUSED_PAUSE_S)
            return pb.TrainingServicePullTaskResponse()
        if not answer.task_id and time.monotonic() - asked < 1.0:
            await self._sleep(1.0)  # a coordinator that stops sends everybody away at once
        return answer

    async def _take(self, connection: sqlite3.Connection, first: pb.TrainingServicePullTaskResponse) -> None:
        """Work on a task; whatever goes wrong concerns this task only, and search goes on."""
        try:
            await self._do(connection, first)
        except (sqlite3.Error, StateError) as error:  # the disk may be full
            log.error("training.not_recorded", error_type=type(error).__name__)
            await self._sleep(LONGEST_PAUSE_S)

    async def _do(self, connection: sqlite3.Connection, first: pb.TrainingServicePullTaskResponse) -> None:
        """Fetch a task, have it worked on and send the result."""
        notes = TaskNotes(self._home, connection)
        try:
            consent.check_not_paused(connection)  # it was paused while the task was on its way
            data = await self._fetch(first)
            task = decode(data)
            job = _Job(first.task_id, task, time.monotonic(), partial(consent.check_run, connection, task.run_id))
        except RsfedError as error:
            log.warning("training.task_refused", reason=error.reason)
            notes.refused(error.reason)
            await self._refuse(first.task_id, error.reason)
            return
        objective, steps = journal.asked(task)
        row = journal.begin(connection, task.run_id, task.round, task.kind, len(data), objective=objective, steps=steps)
        state, loss, sent_digest = journal.INTERRUPTED, None, None
        try:
            notes.begun(task, data)
            job.check()
            result = await self._work(job, data)
            await self._send(job, result)
            answer, sent_digest = decode(result), digest(result).hex()
            state, loss = answer.error or journal.DONE, answer.metrics.get(METRICS, {}).get(LOSS)
        except RsfedError as error:
            state = error.reason
            if state in {_EXPIRED, consent.RunRefused.reason}:  # not where a coordinator was restarted: it goes on
                self._memory.forget()  # the run is over for this node, or sends it whole weights next
            await self._refuse(job.id, state)
        finally:
            seconds = time.monotonic() - job.started
            journal.end(
                connection, row, state=state, sent=job.sent, seconds=seconds, loss=loss, sent_digest=sent_digest
            )
            log.info("training.task", run=task.run_id, round=task.round, state=state, seconds=round(seconds, 1))
            notes.ended(task, state=state, sent=job.sent, sent_digest=sent_digest)
        if task.kind == EVALUATE:  # the last task of a run
            await self._trainer.stop()

    async def _fetch(self, first: pb.TrainingServicePullTaskResponse) -> bytes:
        check_size(first.total_bytes)
        data = bytearray(first.chunk)
        while len(data) < first.total_bytes:
            request = pb.TrainingServicePullTaskRequest(task_id=first.task_id, offset=len(data))
            part = await self._insist(
                lambda request=request: call(  # type: ignore[misc]
                    self._connect().PullTask, request, Deadline.after(CALL_S), what="the coordinator"
                )
            )
            if not part.chunk:
                raise InvalidMessage("the task ended early", reason="PAYLOAD_DIGEST")
            data += part.chunk
        if len(data) != first.total_bytes or digest(bytes(data)) != first.sha256:
            raise InvalidMessage("the task does not fit its digest", reason="PAYLOAD_DIGEST")
        return bytes(data)

    async def _work(self, job: _Job, data: bytes) -> bytes:
        """Return the result; give up where the coordinator no longer wants it, or the operator refuses the run."""

        async def still_wanted() -> None:
            job.check()
            with suppress(Unreachable, DeadlineExceeded, Busy):  # the work may be done before the coordinator is back
                await self._push(pb.TrainingServicePushResultRequest(task_id=job.id))

        return await self._while(still_wanted, self._trainer.run(data))

    async def _while(self, check: Callable[[], Awaitable[None]], work: Coroutine[Any, Any, Answer]) -> Answer:
        """Return what work gives; an error of the check, which is made again and again meanwhile, ends the work."""
        task = asyncio.create_task(work)
        try:
            await self._moment(task)
            while not task.done():
                await check()
                await self._moment(task)
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _moment(self, *work: asyncio.Task[Any]) -> None:
        """Let time pass until it is time to look again: the work is done, the operator said something, or some time."""
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait({told, *work}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
        self._told.clear()

    async def _send(self, job: _Job, result: bytes) -> None:
        sha256, position, rewinds = digest(result), 0, 0
        while position < len(result):
            request = pb.TrainingServicePushResultRequest(
                task_id=job.id,
                total_bytes=len(result),
                sha256=sha256,
                offset=position,
                chunk=result[position : position + CHUNK_BYTES],
            )
            answer = await self._insist(partial(self._push_part, job, request))
            job.sent += len(request.chunk)
            rewinds += answer.next_offset <= position
            if rewinds > MOST_REWINDS:
                raise InvalidMessage("the coordinator does not take the result", reason="UPLOAD_STUCK")
            position = answer.next_offset

    async def _push_part(
        self, job: _Job, request: pb.TrainingServicePushResultRequest
    ) -> pb.TrainingServicePushResultResponse:
        job.check()  # before every try: the coordinator may have been away when the operator refused
        return await self._push(request)

    async def _push(self, request: pb.TrainingServicePushResultRequest) -> pb.TrainingServicePushResultResponse:
        return await call(self._connect().PushResult, request, Deadline.after(CALL_S), what="the coordinator")

    async def _refuse(self, task_id: str, reason: str) -> None:
        """Tell the coordinator why there is no result, unless it no longer wants one."""
        if reason in _NOT_WANTED:
            return
        result = encode(Payload(0, 0, "", error=reason))
        try:
            await self._send(_Job(task_id, Payload(0, 0, ""), time.monotonic()), result)
        except RsfedError as error:
            log.info("training.refusal_refused", reason=error.reason)

    async def _insist(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Try for as long as the coordinator is away or busy."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await attempt()
            except (Unreachable, DeadlineExceeded, Busy) as error:
                log.debug("training.waiting", reason=error.reason, seconds=pause)
            await self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the nodes, keeps no secret
            pause = min(LONGEST_PAUSE_S, pause * 2)
