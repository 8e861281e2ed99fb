"""A node as the coordinator sees it, and the warm channels to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Protocol, TypeVar

import grpc

from coordinator.registry import Announcement
from rsfed.clock import Deadline
from rsfed.transport.channel import call, open_channel, stream
from rsfed.transport.limits import ANSWER_BYTES
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId, Role
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1.archive_pb2_grpc import ArchiveServiceStub
from rsfed.v1.audit_pb2 import SignedTreeHead

OnHead = Callable[[str, SignedTreeHead], None]
"""Takes a node's name and a signed head of its audit log, empty where none came."""
Response = TypeVar(
    "Response",
    pb.ArchiveServiceSearchResponse,
    pb.ArchiveServiceExpandBucketResponse,
    pb.ArchiveServiceRequestAccessResponse,
    pb.ArchiveServiceCollectAccessResponse,
    pb.ArchiveServiceGetCatalogueResponse,
    pb.ArchiveServiceRefineResponse,
)

_CLOSING_S = 30.0  # for calls in progress on a channel that was replaced


class NodeLink(Protocol):
    """One archive. Every call raises the errors of `rsfed.transport.channel.call`."""

    async def search(
        self, request: pb.ArchiveServiceSearchRequest, deadline: Deadline
    ) -> pb.ArchiveServiceSearchResponse:
        """Ask for the buckets near the codes of a query."""
        ...

    async def expand(
        self, request: pb.ArchiveServiceExpandBucketRequest, deadline: Deadline
    ) -> pb.ArchiveServiceExpandBucketResponse:
        """Ask for more items of one bucket."""
        ...

    async def request_access(
        self, request: pb.ArchiveServiceRequestAccessRequest, deadline: Deadline
    ) -> pb.ArchiveServiceRequestAccessResponse:
        """Pass on a call about one found item."""
        ...

    def collect_access(
        self, request: pb.ArchiveServiceCollectAccessRequest, deadline: Deadline
    ) -> AsyncGenerator[pb.ArchiveServiceCollectAccessResponse]:
        """Pass on a call for what was approved, and give the parts of the answer."""
        ...

    async def catalogue(
        self, request: pb.ArchiveServiceGetCatalogueRequest, deadline: Deadline
    ) -> pb.ArchiveServiceGetCatalogueResponse:
        """Ask for a chunk of what the node publishes."""
        ...

    async def refine(
        self, request: pb.ArchiveServiceRefineRequest, deadline: Deadline
    ) -> pb.ArchiveServiceRefineResponse:
        """Pass on a query for items of buckets."""
        ...

    async def describe(self, deadline: Deadline) -> pb.ArchiveServiceDescribeResponse:
        """Ask what the node is, waiting for a connection."""
        ...

    async def prove(
        self, request: pb.ArchiveServiceProveAuditRequest, deadline: Deadline
    ) -> pb.ArchiveServiceProveAuditResponse:
        """Ask for proofs that the node's audit log only grew."""
        ...


class GrpcLink:
    """A node at its announced address.

    Args:
        node: Who must answer there.
        address: host:port.
        identity: The coordinator's identity.
        on_head: Given the head of the node's audit log that came with an answer, which goes no further.
    """

    def __init__(self, node: MemberId, address: str, identity: Identity, on_head: OnHead) -> None:
        self._name = node.name
        self._what = f"node {node.name}"
        self._on_head = on_head
        self._channel = open_channel(address, identity, node, receive=ANSWER_BYTES)
        self._stub = ArchiveServiceStub(self._channel)

    async def search(
        self, request: pb.ArchiveServiceSearchRequest, deadline: Deadline
    ) -> pb.ArchiveServiceSearchResponse:
        """Ask for the buckets near the codes of a query."""
        return self._without_head(await call(self._stub.Search, request, deadline, what=self._what))

    async def expand(
        self, request: pb.ArchiveServiceExpandBucketRequest, deadline: Deadline
    ) -> pb.ArchiveServiceExpandBucketResponse:
        """Ask for more items of one bucket."""
        return self._without_head(await call(self._stub.ExpandBucket, request, deadline, what=self._what))

    async def request_access(
        self, request: pb.ArchiveServiceRequestAccessRequest, deadline: Deadline
    ) -> pb.ArchiveServiceRequestAccessResponse:
        """Pass on a call about one found item."""
        return self._without_head(await call(self._stub.RequestAccess, request, deadline, what=self._what))

    async def collect_access(
        self, request: pb.ArchiveServiceCollectAccessRequest, deadline: Deadline
    ) -> AsyncGenerator[pb.ArchiveServiceCollectAccessResponse]:
        """Pass on a call for what was approved, and give the parts of the answer."""
        async with aclosing(stream(self._stub.CollectAccess, request, deadline, what=self._what)) as parts:
            async for part in parts:
                yield self._without_head(part) if part.HasField("audit_head") else part

    async def catalogue(
        self, request: pb.ArchiveServiceGetCatalogueRequest, deadline: Deadline
    ) -> pb.ArchiveServiceGetCatalogueResponse:
        """Ask for a chunk of what the node publishes."""
        return self._without_head(await call(self._stub.GetCatalogue, request, deadline, what=self._what))

    async def refine(
        self, request: pb.ArchiveServiceRefineRequest, deadline: Deadline
    ) -> pb.ArchiveServiceRefineResponse:
        """Pass on a query for items of buckets."""
        return self._without_head(await call(self._stub.Refine, request, deadline, what=self._what))

    async def describe(self, deadline: Deadline) -> pb.ArchiveServiceDescribeResponse:
        """Ask what the node is, waiting for a connection."""
        describe = partial(self._stub.Describe, wait_for_ready=True)
        return await call(describe, pb.ArchiveServiceDescribeRequest(), deadline, what=self._what)

    async def prove(
        self, request: pb.ArchiveServiceProveAuditRequest, deadline: Deadline
    ) -> pb.ArchiveServiceProveAuditResponse:
        """Ask for proofs that the node's audit log only grew."""
        return await call(self._stub.ProveAudit, request, deadline, what=self._what)

    def _without_head(self, response: Response) -> Response:
        self._on_head(self._name, response.audit_head)
        response.ClearField("audit_head")
        return response

    def warm_up(self) -> None:
        """Start connecting, so that the first query need not wait for it."""
        self._channel.get_state(try_to_connect=True)

    def broken(self) -> bool:
        """Say whether the last try to connect failed; the next one is then only made after a pause."""
        return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def close(self, grace: float | None = None) -> None:
        """Close the channel after the calls in progress."""
        await self._channel.close(grace)


class LinkPool:
    """One link for each node, opened again when its address or the coordinator's identity changed.

    Args:
        identity: Returns the coordinator's identity of this moment.
        on_head: Given the heads of the nodes' audit logs.
    """

    def __init__(self, identity: Callable[[], Identity], on_head: OnHead) -> None:
        self._identity = identity
        self._on_head = on_head
        self._links: dict[str, tuple[str, Identity, GrpcLink]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def link(self, node: Announcement) -> NodeLink:
        """Return the link to a node."""
        identity = self._identity()
        entry = self._links.get(node.name)
        if entry and entry[0] == node.address and identity.fits_channel_of(entry[1]):
            return entry[2]
        self.drop(node.name)
        member = MemberId(identity.member.federation, Role.NODE, node.name)
        link = GrpcLink(member, node.address, identity, self._on_head)
        link.warm_up()
        self._links[node.name] = (node.address, identity, link)
        return link

    def warm_up(self, node: Announcement) -> None:
        """Have a connection to a node that is there now, also when the last try to connect failed."""
        entry = self._links.get(node.name)
        if entry and entry[2].broken():
            self.drop(node.name)
        self.link(node)

    def keep_only(self, names: set[str]) -> set[str]:
        """Close the links to nodes that left, and return their names."""
        gone = set(self._links) - names
        for name in gone:
            self.drop(name)
        return gone

    def drop(self, name: str) -> None:
        """Close the link to a node, once its calls in progress are done; the next call opens a new one."""
        if entry := self._links.pop(name, None):
            task = asyncio.get_running_loop().create_task(entry[2].close(_CLOSING_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all links now."""
        links = [link for _, _, link in self._links.values()]
        self._links.clear()
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(link.close() for link in links), *self._closing, return_exceptions=True)
