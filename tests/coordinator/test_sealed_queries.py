"""Queries that only nodes can read pass through the coordinator: each node gets its part, answers go on unread."""

from contextlib import AsyncExitStack

import pytest
from founded import founded
from test_relay import refusal
from test_serve import Cast, statuses

from coordinator import audit
from coordinator.scopes import Allowed
from rsfed.trust.scope import Scope
from rsfed.v1 import archive_pb2, query_pb2
from rsfed.v1.envelope_pb2 import SealedQuery

OPEN = {"encoder": "", "codes": b"", "k": 0}


@pytest.fixture
async def cast(template, tmp_path):
    with founded(template, tmp_path / "alps") as federation:
        async with AsyncExitStack() as stack:
            serving = await stack.enter_async_context(federation.serving())
            made = Cast(federation, tmp_path, stack)
            made.ada, made.serving = await made.analyst(), serving
            made.bern, made.graz = await made.node("bern"), await made.node("graz")
            made.bern.sealed, made.graz.sealed = b"of bern", b"of graz"
            yield made


def parts(*names):
    return [SealedQuery(node=name, sealed=f"for {name}".encode()) for name in names]


async def search(cast, *names, **changes):
    return await cast.search(cast.ada, [], **OPEN | changes, sealed_for=parts(*names))


async def lines(cast, kind):
    cast.serving._journal.stop()
    await cast.serving._writing
    with cast.federation.state.reading() as connection:
        return [each.data for each in audit.entries(connection, kind=kind)]


async def test_each_node_gets_its_part_alone_and_the_answers_come_unread_without_heads(cast):
    found = await search(cast, "bern", "graz")
    assert [each.sealed_query for each in cast.bern.asked] == [b"for bern"]
    assert [each.sealed_query for each in cast.graz.asked] == [b"for graz"]
    assert not cast.bern.asked[0].HasField("query")
    assert {each.node: each.sealed for each in found.sealed_answers} == {"bern": b"of bern", "graz": b"of graz"}
    assert statuses(found) == {"bern": "SEALED", "graz": "SEALED"}
    assert not found.rankings
    (line,) = await lines(cast, "query.relayed")
    outcomes = {"bern": "SEALED", "graz": "SEALED"}
    assert line == {"query": bytes(range(16)).hex(), "outcomes": outcomes, "reasons": {}}


async def test_a_node_that_the_analyst_had_no_key_of_is_not_asked_and_the_answer_says_so(cast):
    found = await search(cast, "bern")
    assert [(o.node, o.reason) for o in found.outcomes if o.reason] == [("graz", "NO_SEALING_KEY")]
    assert cast.graz.asked == []


async def test_a_node_that_answers_in_clear_is_dropped(cast):
    cast.graz.sealed = b""
    found = await search(cast, "bern", "graz")
    assert statuses(found) == {"bern": "SEALED", "graz": "INVALID"}
    assert [each.node for each in found.sealed_answers] == ["bern"]


async def test_scope_and_quota_hold_for_sealed_queries_too(cast):
    cast.federation.authority.allow("ada", Allowed(Scope(nodes=frozenset({"bern"})), per_minute=1))
    await cast.serving._changed()
    found = await search(cast, "bern", "graz")
    assert [(o.node, o.reason) for o in found.outcomes if o.reason] == [("graz", "SCOPE_NODE")]
    assert cast.graz.asked == []
    assert await refusal(search(cast, "bern")) == "RATE_LIMITED"


async def test_a_sealed_query_that_tells_what_it_asks_reaches_no_node(cast):
    assert await refusal(search(cast, "bern", codes=bytes(4))) == "INVALID_MESSAGE"
    assert await refusal(search(cast, "bern", release_digest=bytes(32))) == "STALE_RELEASE"
    assert cast.bern.asked == []


async def test_a_page_is_passed_on_unread(cast):
    inner = archive_pb2.ArchiveServiceExpandBucketRequest(sealed_request=b"sealed page")
    request = query_pb2.QueryServiceExpandBucketRequest(node="bern", request=inner)
    answer = await cast.ask("ExpandBucket", request, cast.ada)
    assert answer.response.sealed_answer == b"of bern"
    assert cast.bern.asked[0].sealed_request == b"sealed page"
    cast.bern.sealed = b""
    assert await refusal(cast.ask("ExpandBucket", request, cast.ada)) == "INVALID_ANSWER"
    assert [line["outcome"] for line in await lines(cast, "bucket.relayed")] == ["COMPLETE", "INVALID_ANSWER"]
