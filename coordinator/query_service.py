"""QueryService: verify the query, ask the nodes, merge, and say how each archive took part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from coordinator.fanout import ClosedQuery, OpenQuery
from coordinator.live import Live
from coordinator.nodes import Nodes
from coordinator.offload import sized
from coordinator.relay import AccessRelay
from rsfed.clock import Deadline
from rsfed.errors import Busy, EnvelopeRefused, NoNodeReachable, RsfedError
from rsfed.merging.queries import Gathered, question_of, response_of, sealed_response_of
from rsfed.merging.validate import rows_of_page, validate_expansion
from rsfed.telemetry import log
from rsfed.transport.server import current_member, deadline_of
from rsfed.trust.envelope import VerifiedQuery, verify_envelope
from rsfed.v1 import query_pb2 as pb
from rsfed.v1.envelope_pb2 import QueryEnvelope, SignedEnvelope
from rsfed.v1.outcome_pb2 import NodeOutcome, NodeStatus
from rsfed.v1.query_pb2_grpc import QueryServiceServicer

if TYPE_CHECKING:
    import grpc

    from coordinator.heads import HeadKeeper
    from coordinator.journal import Journal
    from coordinator.scopes import Quotas

    Context = grpc.aio.ServicerContext[Any, Any]

_WAY_BACK_S = 0.05
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a search may take.

    Attributes:
        longest_s: Seconds that nodes have at most, when the analyst allows longer.
        at_once: Searches in progress; more are refused.
    """

    longest_s: float
    at_once: int


class QueryService(QueryServiceServicer):
    """Serves searches to analysts.

    Args:
        live: What the coordinator knows at this moment.
        nodes: Reaches the nodes.
        journal: Takes note of every query.
        quotas: Counts the requests of analysts.
        limits: How much a search may take.
        heads: Knows whose audit log went back.
    """

    def __init__(  # noqa: PLR0913 - the parts of a coordinator that answer
        self, live: Live, nodes: Nodes, journal: Journal, quotas: Quotas, limits: Limits, *, heads: HeadKeeper
    ) -> None:
        self._live = live
        self._nodes = nodes
        self._journal = journal
        self._quotas = quotas
        self._limits = limits
        self._relay = AccessRelay(live, nodes, journal, quotas, heads)
        self._searches = 0

    async def Search(  # noqa: N802 - name of the wire
        self, request: pb.QueryServiceSearchRequest, context: Context
    ) -> pb.QueryServiceSearchResponse:
        """Send a query to every node and merge the answers."""
        return await self._search(request.query, self._due(context))

    async def WatchSearch(  # noqa: N802 - name of the wire
        self, request: pb.QueryServiceWatchSearchRequest, context: Context
    ) -> AsyncIterator[pb.QueryServiceWatchSearchResponse]:
        """Do the same and tell each node's outcome as it arrives."""
        arrived: asyncio.Queue[NodeOutcome | None] = asyncio.Queue()
        search = asyncio.create_task(self._search(request.query, self._due(context), arrived.put_nowait))
        search.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while (outcome := await arrived.get()) is not None:
                yield pb.QueryServiceWatchSearchResponse(outcome=outcome)
            yield pb.QueryServiceWatchSearchResponse(result=await search)
        finally:
            search.cancel()

    async def ExpandBucket(  # noqa: N802 - name of the wire
        self, request: pb.QueryServiceExpandBucketRequest, context: Context
    ) -> pb.QueryServiceExpandBucketResponse:
        """Relay a request for more items of one bucket."""
        deadline = self._due(context).less(_WAY_BACK_S)
        if request.request.sealed_request:
            return await self._relay.expand(request, deadline)
        with self._refusal_noted("bucket.refused", request.request.query):
            verified = self._verify(request.request.query)
            link = self._nodes.link(request.node, self._live.bundle.scope_of(verified.requester))
            await self._quotas.take(verified.requester)
        request.request.remaining_ms = int(deadline.remaining() * 1000)
        outcome = "FAILED"
        try:
            response = await link.expand(request.request, deadline)
            await sized(rows_of_page(response), validate_expansion, response, request.request)
            outcome = "COMPLETE"
        except RsfedError as error:
            outcome = error.reason
            raise
        finally:
            query = verified.envelope.query_id.hex()
            self._journal.note(
                "bucket.expanded", verified.requester.uri, query=query, node=request.node, outcome=outcome
            )
        return pb.QueryServiceExpandBucketResponse(response=response)

    async def GetCatalogue(  # noqa: N802 - name of the wire
        self, request: pb.QueryServiceGetCatalogueRequest, context: Context
    ) -> pb.QueryServiceGetCatalogueResponse:
        """Relay a request for a chunk of what a node publishes; it says nothing of any query."""
        deadline, requester = self._due(context).less(_WAY_BACK_S), current_member()
        scope = self._live.bundle.scope_of(requester)
        for encoder in self._live.release.manifest.encoders.values():
            scope.check(encoder.modality, self._live.now())
        link = self._nodes.link(request.node, scope)
        await self._quotas.take(requester)
        outcome = "FAILED"
        try:
            response = await link.catalogue(request.request, deadline)
            outcome = "COMPLETE"
        except RsfedError as error:
            outcome = error.reason
            raise
        finally:
            self._journal.note("catalogue.relayed", requester.uri, node=request.node, outcome=outcome)
        return pb.QueryServiceGetCatalogueResponse(response=response)

    async def Refine(  # noqa: N802 - name of the wire
        self, request: pb.QueryServiceRefineRequest, context: Context
    ) -> pb.QueryServiceRefineResponse:
        """Relay a query for items of buckets of a node's catalogue."""
        return await self._relay.refine(request, self._due(context).less(_WAY_BACK_S))

    async def ListNodes(  # noqa: N802 - name of the wire
        self, request: pb.QueryServiceListNodesRequest, context: Context
    ) -> pb.QueryServiceListNodesResponse:
        """List the nodes of the federation."""
        now = self._live.now()
        response = pb.QueryServiceListNodesResponse(
            release_version=self._live.release.manifest.version, release_digest=self._live.release.digest
        )
        for node in self._live.registry.nodes():
            summary = response.nodes.add(
                name=node.name,
                online=node.online(now),
                release_version=node.release_version,
                held=node.held,
                level=node.level,
                software=node.software,
            )
            summary.last_seen.FromDatetime(node.last_seen)
        return response

    async def RequestAccess(  # noqa: N802 - name of the wire
        self, request: pb.QueryServiceRequestAccessRequest, context: Context
    ) -> pb.QueryServiceRequestAccessResponse:
        """Relay a call about one found item."""
        return await self._relay.request(request, self._due(context).less(_WAY_BACK_S))

    async def CollectAccess(  # noqa: N802 - name of the wire
        self, request: pb.QueryServiceCollectAccessRequest, context: Context
    ) -> AsyncIterator[pb.QueryServiceCollectAccessResponse]:
        """Relay what a node approved; that may take longer than a search."""
        async with aclosing(self._relay.collect(request, deadline_of(context).less(_WAY_BACK_S))) as parts:
            async for part in parts:
                yield part

    async def _search(
        self,
        query: SignedEnvelope,
        deadline: Deadline,
        on_outcome: Callable[[NodeOutcome], None] = lambda _: None,
    ) -> pb.QueryServiceSearchResponse:
        """Do one search, unless too many are in progress.

        Raises:
            Busy: they are, or the analyst has used up a quota.
            NoNodeReachable: no node ever announced itself.
            RsfedError: the query is refused.
        """
        with self._refusal_noted("query.refused", query):
            if self._searches >= self._limits.at_once:
                raise Busy("the coordinator has too many searches in progress; try again")
            self._searches += 1
            try:
                return await self._answer(query, deadline, on_outcome)
            finally:
                self._searches -= 1

    async def _answer(
        self, query: SignedEnvelope, deadline: Deadline, on_outcome: Callable[[NodeOutcome], None]
    ) -> pb.QueryServiceSearchResponse:
        """Verify, ask, merge and note one query."""
        verified = self._verify(query)
        if verified.envelope.sealed_for:
            return await self._pass_on(verified, deadline, on_outcome)
        manifest = self._live.release_of(verified.envelope.release_digest).manifest
        question = question_of(verified.envelope, manifest)
        scope = self._live.bundle.scope_of(verified.requester)
        scope.check(manifest.encoders[verified.envelope.encoder].modality, self._live.now())
        await self._quotas.take(verified.requester)
        self._require_nodes()
        gathered = await self._nodes.ask(OpenQuery(query, question), deadline, scope, on_outcome)
        self._note_answer("query.answered", verified, gathered)
        return await sized(sum(answer.rows for answer in gathered.answers.values()), response_of, question, gathered)

    async def _pass_on(
        self, verified: VerifiedQuery, deadline: Deadline, on_outcome: Callable[[NodeOutcome], None]
    ) -> pb.QueryServiceSearchResponse:
        """Give each node its part of a query, and the analyst the answers, all of it unread."""
        envelope, scope = verified.envelope, self._live.bundle.scope_of(verified.requester)
        self._live.release_of(envelope.release_digest)
        scope.check_time(self._live.now())
        await self._quotas.take(verified.requester)
        self._require_nodes()
        parts = {part.node: part.sealed for part in envelope.sealed_for}
        gathered = await self._nodes.ask(ClosedQuery(parts), deadline, scope, on_outcome)
        self._note_answer("query.relayed", verified, gathered)
        return sealed_response_of(envelope.query_id, gathered)

    def _note_answer(self, kind: str, verified: VerifiedQuery, gathered: Gathered) -> None:
        outcomes = {o.node: NodeStatus.Name(o.status).removeprefix("NODE_STATUS_") for o in gathered.outcomes}
        reasons = {o.node: o.reason for o in gathered.outcomes if o.reason}
        requester, query = verified.requester.uri, verified.envelope.query_id.hex()
        self._journal.note(kind, requester, query=query, outcomes=outcomes, reasons=reasons)
        log.info(kind, query=query, requester=requester, outcome=outcomes)

    def _require_nodes(self) -> None:
        if not self._live.registry.nodes():
            raise NoNodeReachable("the federation has no node yet; start one with `rsfed node serve`")

    @contextmanager
    def _refusal_noted(self, kind: str, query: SignedEnvelope) -> Iterator[None]:
        """Take note of a query that is refused here, in the name of who called: the query itself may be forged."""
        try:
            yield
        except Exception as error:
            reason = error.reason if isinstance(error, RsfedError) else RsfedError.reason
            self._journal.note(kind, current_member().uri, reason=reason, query=_id_of(query))
            raise

    def _verify(self, query: SignedEnvelope) -> VerifiedQuery:
        """Return the verified query of the caller; nobody passes on what another one signed."""
        verified = verify_envelope(query, self._live.bundle, now=self._live.now())
        if verified.requester != current_member():
            raise EnvelopeRefused("the query is signed by another analyst", reason="ENVELOPE_REQUESTER")
        return verified

    def _due(self, context: Context) -> Deadline:
        return Deadline(min(deadline_of(context).at, Deadline.after(self._limits.longest_s).at))


def _id_of(query: SignedEnvelope) -> str:
    """Return the id by which the audit log names a query, hexadecimal; "" for what has none and is no query.

    It is not named by its digest, as in the logs of nodes: who has both could find the codes by trying.
    """
    try:
        query_id = QueryEnvelope.FromString(query.envelope).query_id
    except DecodeError:
        return ""
    return query_id.hex() if len(query_id) == _ID_BYTES else ""
