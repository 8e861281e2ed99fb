"""What nodes publish, passed on by the coordinator: a node is asked the same whoever asks."""

from contextlib import AsyncExitStack

import pytest
from founded import FakeNode
from honest_archives import Archive

from coordinator import audit
from rsfed.clock import Deadline
from rsfed.errors import UnknownHandle
from rsfed.transport.channel import call
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2, outcome_pb2, query_pb2
from rsfed.v1.query_pb2_grpc import QueryServiceStub


class Publishing(FakeNode):
    """A node that publishes the same bytes to everyone."""

    async def GetCatalogue(self, request, context):  # noqa: N802 - name of the wire
        self.asked.append(request)
        if request.offset:
            raise UnknownHandle("the catalogue was published anew; begin again", reason="CATALOGUE_CHANGED")
        answer = archive_pb2.ArchiveServiceGetCatalogueResponse(digest=b"d" * 32, size=5, chunk=b"bytes")
        answer.audit_head.signature = b"for the coordinator only"
        return answer


async def test_a_catalogue_is_relayed_as_it_is_and_the_node_learns_neither_who_asks_nor_why(federation, tmp_path):
    async with federation.serving(), AsyncExitStack() as stack:
        node = Publishing(await federation.join(tmp_path, "bern"), Archive("bern", [0]))
        address = await stack.enter_async_context(node.serving())
        await federation.announce(node.identity, address, level=outcome_pb2.POLICY_LEVEL_CATALOGUE)
        for name in ("ada", "eve"):
            analyst = await federation.join(tmp_path, name, Role.ANALYST)
            request = query_pb2.QueryServiceGetCatalogueRequest(node="bern")
            async with federation.channel(analyst) as channel:
                stub = QueryServiceStub(channel)
                answer = await call(stub.GetCatalogue, request, Deadline.after(10), what="it")
                assert answer.response.chunk == b"bytes"
                assert not answer.response.HasField("audit_head")
                request.request.offset = 3
                with pytest.raises(UnknownHandle) as refused:
                    await call(stub.GetCatalogue, request, Deadline.after(10), what="it")
                assert refused.value.reason == "CATALOGUE_CHANGED"
        sent = [each.SerializeToString() for each in node.asked]
        assert sent[:2] == sent[2:]
    with federation.state.reading() as connection:
        lines = [line for line in audit.entries(connection) if line.kind == "catalogue.relayed"]
    assert [line.data["outcome"] for line in lines] == ["COMPLETE", "CATALOGUE_CHANGED"] * 2
