"""ArchiveService on the wire: unpack, let a thread answer, pack. No rule lives here."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import rsfed
from node.auditing import Auditor
from node.cataloguing import catalogue_chunk
from node.desk import AccessDesk
from node.refining import Refiner
from node.sealed_queries import SealedQueries
from node.search import Searcher
from rsfed.clock import Deadline
from rsfed.errors import WithheldByPolicy
from rsfed.privacy.policy import Policies
from rsfed.telemetry import log
from rsfed.transport.limits import CHUNK_BYTES
from rsfed.transport.server import deadline_of
from rsfed.trust.scope import LEVELS
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1 import archive_pb2_grpc
from rsfed.v1.audit_pb2 import SignedTreeHead
from rsfed.v1.envelope_pb2 import QueryEnvelope
from rsfed.wire import PROTOCOL

if TYPE_CHECKING:
    import grpc

STEP_S = 0.02  # what answers that a policy shapes take, or a multiple of it
_THREADS = min(4, os.cpu_count() or 1)
Request = TypeVar(
    "Request",
    pb.ArchiveServiceSearchRequest,
    pb.ArchiveServiceExpandBucketRequest,
    pb.ArchiveServiceRefineRequest,
)
Response = TypeVar("Response")


class ArchiveService(archive_pb2_grpc.ArchiveServiceServicer):
    """Answers the coordinator.

    Args:
        name: Name of the node.
        searcher: Answers queries.
        auditor: Notes every answer and refusal before it leaves.
        policies: Who is answered at which level.
        desk: Answers calls about found items.
        sealed: Opens queries that are sealed for this node, and seals answers.
        refiner: Lists items of the catalogue's buckets.
    """

    def __init__(  # noqa: PLR0913 - the parts of a node that answer
        self,
        name: str,
        searcher: Searcher,
        auditor: Auditor,
        policies: Policies,
        *,
        desk: AccessDesk,
        sealed: SealedQueries,
        refiner: Refiner,
    ) -> None:
        self._name = name
        self._policies = policies
        self._searcher = searcher
        self._auditor = auditor
        self._desk = desk
        self._sealed = sealed
        self._refiner = refiner
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="search")

    async def close(self) -> None:
        """Let running searches end."""
        await asyncio.to_thread(self._pool.shutdown)

    async def Describe(  # noqa: N802 - named by the wire
        self, request: pb.ArchiveServiceDescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ArchiveServiceDescribeResponse:
        """Say what this node is."""
        del request, context
        answer = pb.ArchiveServiceDescribeResponse(
            node=self._name, software=rsfed.__version__, protocol=PROTOCOL, level=LEVELS[self._policies.chosen.level]
        )
        if served := self._searcher.shelf.served:
            answer.release_digest = served.release.digest
            answer.release_version = served.release.manifest.version
            if (held := served.held_at(self._policies.chosen)) is not None:
                answer.held = held
        return answer

    async def Search(  # noqa: N802 - named by the wire
        self, request: pb.ArchiveServiceSearchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ArchiveServiceSearchResponse:
        """List the buckets near each code of a query."""
        started = time.monotonic()
        search = partial(self._sealed.searched, partial(self._auditor.searched, self._searcher.search))
        answer = await self._in_thread(search, request, context)
        log.info("query.answered", query=answer.query_id.hex(), ms=round((time.monotonic() - started) * 1000, 3))
        return answer

    async def ExpandBucket(  # noqa: N802 - named by the wire
        self, request: pb.ArchiveServiceExpandBucketRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ArchiveServiceExpandBucketResponse:
        """List more items of one bucket."""
        started = time.monotonic()
        expand = partial(self._sealed.expanded, partial(self._auditor.expanded, self._searcher.expand))
        answer = await self._in_thread(expand, request, context)
        query = QueryEnvelope.FromString(request.query.envelope).query_id.hex()
        log.info("bucket.expanded", query=query, ms=round((time.monotonic() - started) * 1000, 3))
        return answer

    async def ProveAudit(  # noqa: N802 - named by the wire
        self, request: pb.ArchiveServiceProveAuditRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ArchiveServiceProveAuditResponse:
        """Prove that the audit log only grew."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._auditor.prove, request)

    async def RequestAccess(  # noqa: N802 - named by the wire
        self, request: pb.ArchiveServiceRequestAccessRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ArchiveServiceRequestAccessResponse:
        """Take a call about one found item."""
        del context
        answer = await asyncio.to_thread(self._desk.answer, request.sealed_call)
        return pb.ArchiveServiceRequestAccessResponse(sealed_answer=answer, audit_head=self._auditor.head())

    async def CollectAccess(  # noqa: N802 - named by the wire
        self, request: pb.ArchiveServiceCollectAccessRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ArchiveServiceCollectAccessResponse]:
        """Send what was approved, part by part."""
        del context
        with await asyncio.to_thread(self._desk.collect, request.sealed_call) as file:
            head: SignedTreeHead | None = self._auditor.head()
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield pb.ArchiveServiceCollectAccessResponse(chunk=chunk, audit_head=head)
                head = None

    async def GetCatalogue(  # noqa: N802 - named by the wire
        self, request: pb.ArchiveServiceGetCatalogueRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ArchiveServiceGetCatalogueResponse:
        """Give away a chunk of the catalogue."""
        served = self._searcher.shelf.served
        response = catalogue_chunk(served.catalogue if served else b"", request)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._auditor.catalogue_given, response)

    async def Refine(  # noqa: N802 - named by the wire
        self, request: pb.ArchiveServiceRefineRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ArchiveServiceRefineResponse:
        """List items of buckets of the catalogue."""
        refine = partial(self._sealed.refined, partial(self._auditor.refined, self._refiner.refine))
        return await self._in_thread(refine, request, context)

    async def _in_thread(
        self,
        answer: Callable[[Request, Deadline], Response],
        request: Request,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> Response:
        """Answer in the thread pool, by the earlier of the call's deadline and the request's.

        Where anybody is answered by cells, or refines, all answers and refusals leave in steps of time, and of what the
        policy refuses only that it does, at which level.
        """
        deadline = min(deadline_of(context), Deadline.after(request.remaining_ms / 1000), key=Deadline.remaining)
        started = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, answer, request, deadline)
        except WithheldByPolicy as error:
            raise WithheldByPolicy("this archive's policy does not let this be answered", level=error.level) from error
        finally:
            if self._policies.in_steps:
                await asyncio.sleep(STEP_S - (time.monotonic() - started) % STEP_S)
