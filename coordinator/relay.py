"""Calls about found items, and queries that refine, passed on between an analyst and a node.

They are sealed for each other, so nothing is read here.
Who may ask which node until when, and how often, is checked here too; nothing that passes through is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from coordinator.live import Live
from coordinator.nodes import Nodes
from rsfed.errors import InvalidAnswer, InvalidMessage, RsfedError
from rsfed.transport.limits import CHUNK_BYTES, SMALL_MESSAGE_BYTES
from rsfed.transport.server import current_member
from rsfed.trust.sealing import MAX_DELIVERY_BYTES
from rsfed.v1 import query_pb2 as pb

if TYPE_CHECKING:
    from coordinator.heads import HeadKeeper
    from coordinator.journal import Journal
    from coordinator.links import NodeLink
    from coordinator.scopes import Quotas
    from rsfed.clock import Deadline


class AccessRelay:
    """Passes calls on.

    Args:
        live: What the coordinator knows at this moment.
        nodes: Reaches the nodes.
        journal: Takes note of every call.
        quotas: Counts the requests of analysts.
        heads: Knows whose audit log went back.
    """

    def __init__(self, live: Live, nodes: Nodes, journal: Journal, quotas: Quotas, heads: HeadKeeper) -> None:
        self._live = live
        self._nodes = nodes
        self._journal = journal
        self._heads = heads
        self._quotas = quotas

    async def request(
        self, request: pb.QueryServiceRequestAccessRequest, deadline: Deadline
    ) -> pb.QueryServiceRequestAccessResponse:
        """Pass on a call and its answer.

        Raises:
            RsfedError: the analyst may not ask this node, or the node refused the call.
        """
        with self._noting("access.relayed", request.node, request.request.sealed_call):
            link = await self._link(request.node, request.request.sealed_call)
            response = await link.request_access(request.request, deadline)
            if len(response.sealed_answer) > SMALL_MESSAGE_BYTES:
                raise InvalidAnswer("the node sent an answer that is larger than any")
        return pb.QueryServiceRequestAccessResponse(response=response)

    async def collect(
        self, request: pb.QueryServiceCollectAccessRequest, deadline: Deadline
    ) -> AsyncGenerator[pb.QueryServiceCollectAccessResponse]:
        """Pass on a call and the parts of its answer, each as it comes.

        Raises:
            RsfedError: the analyst may not ask this node, or the node refused the call.
        """
        with self._noting("access.delivered", request.node, request.request.sealed_call) as note:
            link = await self._link(request.node, request.request.sealed_call)
            note["bytes"] = passed = 0
            async with aclosing(link.collect_access(request.request, deadline)) as parts:
                async for part in parts:
                    passed += len(part.chunk)
                    if len(part.chunk) > CHUNK_BYTES or passed > MAX_DELIVERY_BYTES:
                        raise InvalidAnswer("the node sent more than any delivery has")
                    yield pb.QueryServiceCollectAccessResponse(response=part)
                    note["bytes"] = passed

    async def expand(
        self, request: pb.QueryServiceExpandBucketRequest, deadline: Deadline
    ) -> pb.QueryServiceExpandBucketResponse:
        """Pass on a request for more items of a bucket, and its answer.

        Raises:
            RsfedError: the analyst may not ask this node, or the node refused the call.
        """
        inner = request.request
        with self._noting("bucket.relayed", request.node, inner.sealed_request):
            link = await self._link(request.node, inner.sealed_request)
            inner.remaining_ms = int(deadline.remaining() * 1000)
            response = await link.expand(inner, deadline)
            if not response.sealed_answer:
                raise InvalidAnswer("the node's answer was dropped: it is not sealed")
        return pb.QueryServiceExpandBucketResponse(response=response)

    async def refine(self, request: pb.QueryServiceRefineRequest, deadline: Deadline) -> pb.QueryServiceRefineResponse:
        """Pass on a query for items of buckets, and its answer.

        Raises:
            TrustError: AUDIT_FORK or AUDIT_ROLLBACK, what the node spent on refine may have gone back with its log.
            RsfedError: the analyst may not ask this node, or the node refused the query.
        """
        inner = request.request
        with self._noting("refine.relayed", request.node, inner.sealed_query):
            link = await self._link(request.node, inner.sealed_query)
            await self._heads.check_not_rolled_back(request.node)
            inner.remaining_ms = int(deadline.remaining() * 1000)
            response = await link.refine(inner, deadline)
            if len(response.sealed_answer) > SMALL_MESSAGE_BYTES:
                raise InvalidAnswer("the node sent an answer that is larger than any")
        return pb.QueryServiceRefineResponse(response=response)

    async def _link(self, node: str, sealed: bytes) -> NodeLink:
        """Return the link to the node, once it is sure that the analyst may ask it."""
        if len(sealed) > SMALL_MESSAGE_BYTES:
            raise InvalidMessage("the call is too large", reason="MESSAGE_TOO_LARGE")
        caller = current_member()
        scope = self._live.bundle.scope_of(caller)
        scope.check_time(self._live.now())
        link = self._nodes.link(node, scope)
        await self._quotas.take(caller)
        return link

    @contextmanager
    def _noting(self, kind: str, node: str, sealed: bytes) -> Iterator[dict[str, object]]:
        """Note who called which node and what came of it: the digest of the call is all that is known of it here."""
        note: dict[str, object] = {"node": node[:63], "call": hashlib.sha256(sealed).hexdigest(), "outcome": "FAILED"}
        try:
            yield note
            note["outcome"] = "COMPLETE"
        except RsfedError as error:
            note["outcome"] = error.reason
            raise
        finally:
            self._journal.note(kind, current_member().uri, **note)
