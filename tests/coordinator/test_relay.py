"""Calls about found items pass through the coordinator: unread, unkept, and only where the analyst may ask."""

import hashlib
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest
from founded import founded
from test_serve import Cast

from coordinator import audit, relay
from coordinator.scopes import Allowed
from rsfed.clock import Deadline
from rsfed.errors import NotAdmitted, RsfedError
from rsfed.transport.channel import stream
from rsfed.transport.limits import CHUNK_BYTES
from rsfed.trust.names import Role
from rsfed.trust.scope import Scope
from rsfed.v1 import archive_pb2, query_pb2
from rsfed.v1.query_pb2_grpc import QueryServiceStub

CALL = b"sealed call" * 20


@pytest.fixture
async def cast(template, tmp_path):
    with founded(template, tmp_path / "alps") as federation:
        async with AsyncExitStack() as stack:
            serving = await stack.enter_async_context(federation.serving())
            made = Cast(federation, tmp_path, stack)
            made.ada, made.bern, made.serving = await made.analyst(), await made.node("bern"), serving
            yield made


def request(node="bern", sealed=CALL):
    inner = archive_pb2.ArchiveServiceRequestAccessRequest(sealed_call=sealed)
    return query_pb2.QueryServiceRequestAccessRequest(node=node, request=inner)


async def collect(cast, identity=None, node="bern"):
    inner = archive_pb2.ArchiveServiceCollectAccessRequest(sealed_call=CALL)
    asked = query_pb2.QueryServiceCollectAccessRequest(node=node, request=inner)
    async with cast.federation.channel(identity or cast.ada) as channel:
        stub = QueryServiceStub(channel)
        return [each.response async for each in stream(stub.CollectAccess, asked, Deadline.after(20), what="it")]


async def refusal(awaited):
    with pytest.raises(RsfedError) as caught:
        await awaited
    return caught.value.reason


async def noted(cast):
    """What the record says once everything is written."""
    cast.serving._journal.stop()
    await cast.serving._writing
    with cast.federation.state.reading() as connection:
        found = [each for each in audit.entries(connection) if each.kind.startswith("access.")]
    return [(each.kind, each.subject, each.data) for each in found]


async def test_a_call_reaches_its_node_unchanged_and_the_answer_comes_without_the_head(cast):
    answer = await cast.ask("RequestAccess", request(), cast.ada)
    assert [each.sealed_call for each in cast.bern.asked] == [CALL]
    assert answer.response == archive_pb2.ArchiveServiceRequestAccessResponse(sealed_answer=b"sealed answer")
    ((kind, subject, data),) = await noted(cast)
    assert (kind, subject) == ("access.relayed", cast.ada.member.uri)
    assert data == {"node": "bern", "call": hashlib.sha256(CALL).hexdigest(), "outcome": "COMPLETE"}


async def test_a_delivery_passes_part_by_part_and_only_its_size_is_noted(cast):
    cast.bern.parts = (b"a" * CHUNK_BYTES, b"b" * 5)
    parts = await collect(cast)
    assert [each.chunk for each in parts] == list(cast.bern.parts)
    assert not any(each.HasField("audit_head") for each in parts)
    ((kind, _, data),) = await noted(cast)
    assert (kind, data["bytes"], data["outcome"]) == ("access.delivered", CHUNK_BYTES + 5, "COMPLETE")


async def test_a_node_that_sends_without_end_or_too_much_at_once_is_cut_off(cast, monkeypatch):
    cast.bern.sealed = b"x" * (1 << 17)
    assert await refusal(cast.ask("RequestAccess", request(), cast.ada)) == "INVALID_ANSWER"
    cast.bern.parts = (b"a" * (CHUNK_BYTES + 1),)
    assert await refusal(collect(cast)) == "INVALID_ANSWER"
    monkeypatch.setattr(relay, "MAX_DELIVERY_BYTES", 10)
    cast.bern.parts = (b"a" * 6, b"a" * 6)
    assert await refusal(collect(cast)) == "INVALID_ANSWER"
    assert {data["outcome"] for _, _, data in await noted(cast)} == {"INVALID_ANSWER"}


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (Scope(nodes=frozenset({"graz"})), "SCOPE_NODE"),
        (Scope(until=datetime(2020, 1, 1, tzinfo=UTC)), "SCOPE_ENDED"),
    ],
)
async def test_what_is_outside_the_scope_reaches_no_node(cast, scope, reason):
    await cast.node("graz")
    cast.federation.authority.allow("ada", Allowed(scope))
    await cast.serving._changed()
    assert await refusal(cast.ask("RequestAccess", request(), cast.ada)) == reason
    assert await refusal(collect(cast)) == reason
    assert cast.bern.asked == []
    assert {data["outcome"] for _, _, data in await noted(cast)} == {reason}


async def test_calls_count_for_the_quota_and_have_a_size(cast):
    assert await refusal(cast.ask("RequestAccess", request(sealed=b"x" * 70_000), cast.ada)) == "MESSAGE_TOO_LARGE"
    assert await refusal(cast.ask("RequestAccess", request("nowhere"), cast.ada)) == "UNKNOWN_NODE"
    cast.federation.authority.allow("ada", Allowed(per_minute=1))
    await cast.ask("RequestAccess", request(), cast.ada)
    assert await refusal(cast.ask("RequestAccess", request(), cast.ada)) == "RATE_LIMITED"
    assert await refusal(collect(cast)) == "RATE_LIMITED"


async def test_only_analysts_ask_and_nobody_who_was_put_out(cast):
    assert await refusal(cast.ask("RequestAccess", request(), cast.bern.identity)) == "WRONG_ROLE"
    assert await refusal(collect(cast, cast.bern.identity)) == "WRONG_ROLE"
    cast.federation.authority.revoke("ada", Role.ANALYST)
    await cast.serving._changed()
    assert await refusal(collect(cast)) == "REVOKED"
    assert cast.bern.asked == []


async def test_what_a_node_refuses_is_told_and_noted_with_its_reason(cast):
    def refuse():
        raise NotAdmitted("no", reason="SCOPE_MODALITY")

    cast.bern.before = refuse
    assert await refusal(cast.ask("RequestAccess", request(), cast.ada)) == "SCOPE_MODALITY"
    ((_, _, data),) = await noted(cast)
    assert data["outcome"] == "SCOPE_MODALITY"
