"""Queries that only nodes can read: merged at the analyst as the coordinator would, whatever lies between."""

from dataclasses import dataclass, replace

import pytest
from google.protobuf.duration_pb2 import Duration
from honest_archives import Archive
from hypothesis import given, settings
from hypothesis import strategies as st
from members import World

from rsfed.analyst.local_merge import close_page, close_query, merge_locally, open_page
from rsfed.errors import InvalidAnswer, NotAdmitted, SealRefused
from rsfed.merging.answers import Question
from rsfed.merging.queries import Gathered, outcome_of, response_of
from rsfed.merging.validate import validate
from rsfed.trust.envelope import ANSWER_STEP, LIFETIME, QUERY_STEP, page_context, verify_envelope
from rsfed.trust.names import Role
from rsfed.trust.scope import Scope
from rsfed.trust.sealing import OVERHEAD_BYTES, Purpose, padded, seal, unpadded, unwrap
from rsfed.v1 import archive_pb2, outcome_pb2, query_pb2
from rsfed.v1.envelope_pb2 import QueryEnvelope, SignedEnvelope

NAMES = ["bern", "graz", "lyon"]
WORLD = World()
RELEASE = WORLD.release(bits=16)
NODES = {name: WORLD.identity(Role.NODE, name) for name in NAMES}
WORLD.knows(*NODES.values())
ADA = replace(WORLD.identity(Role.ANALYST, "ada"), bundle=WORLD.bundle())
ELAPSED = Duration(nanos=5_000_000)
CODES = st.lists(st.integers(0, 7) | st.integers(0, 0xFFFF), max_size=12)


def envelope(codes=(0,), k=3, radius=None):
    made = QueryEnvelope(
        query_id=bytes(range(16)),
        requester=ADA.member.uri,
        federation="alps",
        release_digest=RELEASE.digest,
        encoder="rgb",
        codes=b"".join(code.to_bytes(2, "big") for code in codes),
        k=k,
        radius=radius,
    )
    made.created.FromDatetime(WORLD.clock())
    made.expires.FromDatetime(WORLD.clock() + LIFETIME)
    return made


def sealed_answer(query, name, content, *, signer=None, key=None, context=None, purpose=Purpose.QUERY_ANSWER):
    return seal(
        padded(content.SerializeToString(), ANSWER_STEP),
        purpose,
        sender=signer or NODES[name],
        recipient=ADA.member,
        key=key or query.envelope.answer_key,
        context=query.envelope.query_id if context is None else context,
    )


@dataclass
class Asked:
    """A query, and what honest archives answer to it."""

    contents: dict
    codes: tuple = (0,)
    k: int = 3
    radius: int | None = None

    def __post_init__(self):
        self.query = close_query(envelope(self.codes, self.k, self.radius), ADA)
        digest = RELEASE.digest
        self.question = Question(bytes(range(16)), digest, 16, len(self.codes), self.k, self.radius)
        archives = {name: Archive(name, codes) for name, codes in self.contents.items()}
        self.answers = {name: archive.response(self.codes, self.question) for name, archive in archives.items()}

    def passed_on(self, **spoiled):
        """What the coordinator passes on; `spoiled` are other sealed answers by node."""
        sealed = {name: sealed_answer(self.query, name, answer) for name, answer in self.answers.items()} | spoiled
        outcomes = [
            outcome_pb2.NodeOutcome(node=name, status=outcome_pb2.NODE_STATUS_SEALED, elapsed=ELAPSED)
            for name in sorted(self.answers)
        ]
        return query_pb2.QueryServiceSearchResponse(
            query_id=bytes(range(16)),
            outcomes=outcomes,
            sealed_answers=[query_pb2.SealedAnswer(node=name, sealed=each) for name, each in sealed.items()],
        )

    def merged(self, response=None, **spoiled):
        return merge_locally(
            response or self.passed_on(**spoiled), self.query, ADA, RELEASE.manifest, now=WORLD.clock()
        )

    def by_coordinator(self, *without):
        """What the coordinator would have made of the answers in clear."""
        gathered = Gathered()
        for name in sorted(self.answers):
            if name in without:
                continue
            gathered.answers[name] = validate(self.answers[name], self.question)
            gathered.outcomes.append(outcome_of(name, gathered.answers[name], self.question))
            gathered.outcomes[-1].elapsed.CopyFrom(ELAPSED)
        return response_of(self.question, gathered)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), CODES),
    st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple),
    st.integers(1, 9),
    st.none() | st.integers(0, 16),
)
def test_the_merge_is_the_coordinators_to_the_last_byte(contents, codes, k, radius):
    asked = Asked(contents, codes, k, radius)
    assert asked.merged() == asked.by_coordinator()


def test_each_node_gets_the_signed_query_and_the_coordinator_nothing_of_what_is_asked():
    query = close_query(envelope((0xBEEF,) * 4), ADA)
    outer = verify_envelope(query.outer, ADA.bundle, now=WORLD.clock()).envelope
    assert {part.node for part in outer.sealed_for} == set(NAMES)
    assert (outer.codes, outer.encoder, outer.k, outer.answer_key) == (b"", "", 0, b"")
    assert b"\xbe\xef" * 4 not in query.outer.envelope
    assert len({len(part.sealed) for part in outer.sealed_for}) == 1
    for part in outer.sealed_for:
        node = NODES[part.node]
        content = unwrap(part.sealed, Purpose.QUERY, recipient=node.member, key=node.sealing_key)
        assert len(content) % QUERY_STEP == 0
        inner = verify_envelope(SignedEnvelope.FromString(unpadded(content)), ADA.bundle, now=WORLD.clock())
        assert (inner.requester, inner.envelope.codes) == (ADA.member, b"\xbe\xef" * 4)
        other = NODES[next(name for name in NAMES if name != part.node)]
        with pytest.raises(SealRefused):
            unwrap(part.sealed, Purpose.QUERY, recipient=other.member, key=other.sealing_key)


def test_every_query_has_a_key_of_its_own_for_its_answers():
    assert close_query(envelope(), ADA).envelope.answer_key != close_query(envelope(), ADA).envelope.answer_key


def test_a_node_whose_key_is_none_keeps_itself_out_and_nobody_else():
    assert ADA.bundle.members["spiffe://alps/node/some-node"] == bytes(32)
    parts = QueryEnvelope.FromString(close_query(envelope(), ADA).outer.envelope).sealed_for
    assert {part.node for part in parts} == set(NAMES)


def test_nodes_outside_the_scope_get_no_part():
    bundle = replace(ADA.bundle, scopes={ADA.member.uri: Scope(nodes=frozenset({"graz"}))})
    query = close_query(envelope(), replace(ADA, bundle=bundle))
    assert [part.node for part in QueryEnvelope.FromString(query.outer.envelope).sealed_for] == ["graz"]


def other_key():
    return ADA.sealing_key.public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda asked, good: good[:-1], "SEAL_BROKEN"),
        (lambda asked, good: b"", "SEAL_BROKEN"),
        (lambda asked, good: sealed_answer(asked.query, "bern", asked.answers["bern"]), "SEAL_SENDER"),
        (lambda asked, good: sealed_answer(asked.query, "graz", asked.answers["bern"], signer=ADA), "SEAL_SENDER"),
        (lambda asked, good: sealed_answer(asked.query, "graz", asked.answers["graz"], key=other_key()), "SEAL_BROKEN"),
        (lambda asked, good: sealed_answer(asked.query, "graz", asked.answers["graz"], context=b"q"), "SEAL_BROKEN"),
        (
            lambda asked, good: sealed_answer(asked.query, "graz", archive_pb2.ArchiveServiceSearchResponse()),
            "INVALID_ANSWER",
        ),
    ],
)
def test_an_answer_that_breaks_a_rule_is_dropped_and_the_others_stay(spoil, reason):
    asked = Asked({"bern": [0, 1], "graz": [0, 3]})
    good = sealed_answer(asked.query, "graz", asked.answers["graz"])
    found = asked.merged(graz=spoil(asked, good))
    assert found.rankings == asked.by_coordinator("graz").rankings
    assert [(o.node, o.status, o.reason) for o in found.outcomes] == [
        ("bern", outcome_pb2.NODE_STATUS_COMPLETE, ""),
        ("graz", outcome_pb2.NODE_STATUS_INVALID, reason),
    ]


def test_nodes_that_did_not_answer_keep_the_outcome_that_the_coordinator_saw():
    asked = Asked({"bern": [0], "graz": [1]})
    response = asked.passed_on()
    response.outcomes[1].status, response.outcomes[1].reason = outcome_pb2.NODE_STATUS_TIMED_OUT, "DEADLINE"
    found = asked.merged(response)
    assert found.rankings == asked.by_coordinator("graz").rankings
    assert found.outcomes[1] == response.outcomes[1]


def test_a_coordinator_that_speaks_for_a_node_is_not_believed():
    asked = Asked({"bern": [0]})
    response = asked.passed_on()
    response.outcomes[0].status = outcome_pb2.NODE_STATUS_COMPLETE
    with pytest.raises(InvalidAnswer):
        asked.merged(response)


def test_the_length_of_an_answer_tells_little():
    few, many = Asked({"bern": [0]}), Asked({"bern": list(range(12))}, k=9)
    sizes = [len(each.passed_on().sealed_answers[0].sealed) for each in (few, many)]
    assert abs(sizes[0] - sizes[1]) < 16  # signatures in DER differ by some bytes
    assert sizes[0] < ANSWER_STEP + OVERHEAD_BYTES


def page_request(offset=0):
    query = close_query(envelope(), ADA)
    request = archive_pb2.ArchiveServiceExpandBucketRequest(
        query=query.inner, bucket_handle=b"b" * 16, offset=offset, limit=5
    )
    return query, request


def test_a_page_is_asked_for_and_answered_sealed():
    query, request = page_request()
    bern = NODES["bern"]
    content = unwrap(
        close_page(request, "bern", ADA.bundle), Purpose.BUCKET, recipient=bern.member, key=bern.sealing_key
    )
    assert archive_pb2.ArchiveServiceExpandBucketRequest.FromString(unpadded(content)) == request
    page = archive_pb2.ArchiveServiceExpandBucketResponse(size=5, item_handles=b"h" * 16)
    how = {"context": page_context(request), "purpose": Purpose.BUCKET_ANSWER}
    sealed = sealed_answer(query, "bern", page, **how)
    assert open_page(sealed, request, query.key, ADA, node="bern", now=WORLD.clock()) == page
    _, further = page_request(offset=5)
    further.query.CopyFrom(request.query)
    with pytest.raises(SealRefused):
        open_page(sealed, further, query.key, ADA, node="bern", now=WORLD.clock())
    with pytest.raises(SealRefused):
        open_page(sealed, request, query.key, ADA, node="graz", now=WORLD.clock())
    with pytest.raises(NotAdmitted):
        close_page(request, "oslo", ADA.bundle)
