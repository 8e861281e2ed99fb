"""What nodes publish, passed on by the coordinator: a node is asked the same whoever asks."""

import hashlib
from contextlib import AsyncExitStack

import pytest
from founded import FakeNode
from honest_archives import Archive

from coordinator import audit
from rsfed.clock import Deadline
from rsfed.errors import InvalidAnswer, InvalidMessage, UnknownHandle
from rsfed.transport.channel import call
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2, outcome_pb2, query_pb2
from rsfed.v1.query_pb2_grpc import QueryServiceStub


class Publishing(FakeNode):
    """A node that publishes the same bytes to everyone."""

    async def Refine(self, request, context):  # noqa: N802 - name of the wire
        self.asked.append(request)
        answer = archive_pb2.ArchiveServiceRefineResponse(sealed_answer=b"sealed" * self.times)
        answer.audit_head.signature = b"for the coordinator only"
        return answer

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


async def test_a_query_that_refines_is_relayed_unread_counted_and_noted_by_its_digest(federation, tmp_path):
    async with federation.serving(), AsyncExitStack() as stack:
        node = Publishing(await federation.join(tmp_path, "bern"), Archive("bern", [0]))
        node.times = 1
        address = await stack.enter_async_context(node.serving())
        await federation.announce(node.identity, address, level=outcome_pb2.POLICY_LEVEL_CATALOGUE)
        analyst = await federation.join(tmp_path, "ada", Role.ANALYST)
        inner = archive_pb2.ArchiveServiceRefineRequest(sealed_query=b"for bern")
        request = query_pb2.QueryServiceRefineRequest(node="bern", request=inner)
        async with federation.channel(analyst) as channel:
            stub = QueryServiceStub(channel)
            answer = await call(stub.Refine, request, Deadline.after(10), what="it")
            assert answer.response.sealed_answer == b"sealed"
            assert not answer.response.HasField("audit_head")
            node.times = 1 << 14
            with pytest.raises(InvalidAnswer):
                await call(stub.Refine, request, Deadline.after(10), what="it")
            request.request.sealed_query = bytes(1 << 17)
            with pytest.raises(InvalidMessage) as refused:
                await call(stub.Refine, request, Deadline.after(10), what="it")
            assert refused.value.reason == "MESSAGE_TOO_LARGE"
        assert [each.sealed_query for each in node.asked] == [b"for bern"] * 2
        assert all(0 < each.remaining_ms < 10_000 for each in node.asked)
    with federation.state.reading() as connection:
        lines = [line for line in audit.entries(connection) if line.kind == "refine.relayed"]
    assert [line.data["outcome"] for line in lines] == ["COMPLETE", "INVALID_ANSWER", "MESSAGE_TOO_LARGE"]
    assert lines[0].data["call"] == hashlib.sha256(b"for bern").hexdigest()
