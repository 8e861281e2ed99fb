"""Queries that only nodes can read: sealed for each of them, their answers opened and merged here.

The coordinator learns who asks, when, and how each node took part, but neither codes nor answers. Answers are validated
and merged by the coordinator's own functions (`rsfed.merging`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError, Message

from rsfed.errors import InvalidAnswer, RsfedError, SealRefused
from rsfed.merging.answers import Question
from rsfed.merging.queries import Gathered, outcome_of, question_of, response_of
from rsfed.merging.validate import validate
from rsfed.trust.bundle import Bundle
from rsfed.trust.envelope import QUERY_STEP, page_context, sign_envelope
from rsfed.trust.identity import Identity
from rsfed.trust.manifest import Manifest
from rsfed.trust.names import MemberId, Role
from rsfed.trust.sealing import Purpose, open_sealed, padded, sealing_key_of, unpadded, wrap
from rsfed.v1.archive_pb2 import (
    ArchiveServiceExpandBucketRequest,
    ArchiveServiceExpandBucketResponse,
    ArchiveServiceSearchResponse,
)
from rsfed.v1.envelope_pb2 import QueryEnvelope, SealedQuery, SignedEnvelope
from rsfed.v1.outcome_pb2 import (
    NODE_STATUS_COMPLETE,
    NODE_STATUS_INVALID,
    NODE_STATUS_PARTIAL,
    NODE_STATUS_SEALED,
    NodeOutcome,
)
from rsfed.v1.query_pb2 import QueryServiceSearchResponse

Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class ClosedQuery:
    """A query that only nodes can read.

    Attributes:
        envelope: What is asked.
        inner: The same, signed: what nodes open, and what further pages of a bucket are asked with.
        outer: What the coordinator gets.
        key: Opens the answers.
    """

    envelope: QueryEnvelope
    inner: SignedEnvelope
    outer: SignedEnvelope
    key: X25519PrivateKey = field(repr=False)


def close_query(envelope: QueryEnvelope, identity: Identity) -> ClosedQuery:
    """Seal a query for every node of the federation, with a key of its own for the answers.

    Nodes that the analyst's scope leaves out, or that have no sealing key, get no part.
    """
    key = X25519PrivateKey.generate()
    envelope.answer_key = key.public_key().public_bytes_raw()
    inner = sign_envelope(envelope, identity)
    content, bundle = padded(inner.SerializeToString(), QUERY_STEP), identity.bundle
    outer = QueryEnvelope(
        query_id=envelope.query_id,
        requester=envelope.requester,
        federation=envelope.federation,
        release_digest=envelope.release_digest,
        created=envelope.created,
        expires=envelope.expires,
    )
    for node in _nodes(bundle, identity.member):
        with suppress(SealRefused):  # a key that is none keeps its node out, and no other
            outer.sealed_for.append(
                SealedQuery(node=node.name, sealed=sealed_for(content, Purpose.QUERY, bundle, node))
            )
    return ClosedQuery(envelope, inner, sign_envelope(outer, identity), key)


def merge_locally(  # noqa: PLR0913 - what is merged, for whom, and how
    response: QueryServiceSearchResponse,
    query: ClosedQuery,
    identity: Identity,
    manifest: Manifest,
    *,
    now: datetime,
    whole: bool = False,
) -> QueryServiceSearchResponse:
    """Open the answers of nodes and merge them, as the coordinator would have.

    Args:
        response: What the coordinator passed on; an answer that breaks a rule is dropped, the others stay.
        query: What was asked.
        identity: Who asked.
        manifest: Of the release that made the codes.
        now: Time of the check.
        whole: As for `response_of`.

    Raises:
        InvalidAnswer: the coordinator speaks in the name of a node.
        InvalidMessage: ANSWER_TOO_LARGE, the merged ranking is.
    """
    question, gathered = question_of(query.envelope, manifest), Gathered()
    sealed = {answer.node: answer.sealed for answer in response.sealed_answers}
    for outcome in response.outcomes:
        judged = outcome
        if outcome.status in {NODE_STATUS_COMPLETE, NODE_STATUS_PARTIAL}:
            raise InvalidAnswer("the coordinator says of a sealed answer what only its archive can; ask its operator")
        if outcome.status == NODE_STATUS_SEALED:
            judged = _take(outcome.node, sealed.get(outcome.node, b""), query, question, gathered, identity, now)
            judged.elapsed.CopyFrom(outcome.elapsed)
        gathered.outcomes.append(judged)
    merged = response_of(question, gathered, whole=whole)
    merged.query_id = response.query_id
    return merged


def close_page(request: ArchiveServiceExpandBucketRequest, node: str, bundle: Bundle) -> bytes:
    """Seal a request for more of a bucket for the node that listed it.

    Raises:
        NotAdmitted: NO_SEALING_KEY, the node is no longer in the federation.
    """
    member = MemberId(bundle.federation, Role.NODE, node)
    return sealed_for(padded(request.SerializeToString(), QUERY_STEP), Purpose.BUCKET, bundle, member)


def open_page(  # noqa: PLR0913 - what a page is bound to
    sealed: bytes,
    request: ArchiveServiceExpandBucketRequest,
    key: X25519PrivateKey,
    identity: Identity,
    *,
    node: str,
    now: datetime,
) -> ArchiveServiceExpandBucketResponse:
    """Open the page of a bucket that a node sealed.

    Raises:
        SealRefused, NotAdmitted: it is not that node's answer to this request.
        InvalidAnswer: it cannot be read.
    """
    return opened_from(
        sealed,
        Purpose.BUCKET_ANSWER,
        ArchiveServiceExpandBucketResponse(),
        identity=identity,
        node=node,
        key=key,
        context=page_context(request),
        now=now,
    )


def sealed_for(content: bytes, purpose: Purpose, bundle: Bundle, node: MemberId) -> bytes:
    """Seal something signed for a node.

    Raises:
        NotAdmitted: NO_SEALING_KEY, the node is no longer in the federation.
        SealRefused: SEALING_KEY, its key is none.
    """
    return wrap(content, purpose, recipient=node, key=sealing_key_of(bundle, node))


def opened_from(  # noqa: PLR0913 - what an answer is bound to
    sealed: bytes,
    purpose: Purpose,
    into: Answer,
    *,
    identity: Identity,
    node: str,
    key: X25519PrivateKey,
    context: bytes,
    now: datetime,
) -> Answer:
    """Open what a node sealed for the key of a query.

    Raises:
        SealRefused, NotAdmitted: it is not that node's, or belongs to something else.
        InvalidAnswer: it cannot be read.
    """
    opened = open_sealed(
        sealed,
        purpose,
        recipient=identity.member,
        key=key,
        bundle=identity.bundle,
        now=now,
        context=context,
        sender=MemberId(identity.member.federation, Role.NODE, node),
    )
    try:
        into.ParseFromString(unpadded(opened.content))
    except DecodeError as error:
        raise InvalidAnswer("what the node sent cannot be read") from error
    return into


def _take(  # noqa: PLR0913, PLR0917 - all that judges an answer
    node: str,
    sealed: bytes,
    query: ClosedQuery,
    question: Question,
    gathered: Gathered,
    identity: Identity,
    now: datetime,
) -> NodeOutcome:
    """Keep the answer of a node if it keeps the rules, and say how the node took part."""
    into, context = ArchiveServiceSearchResponse(), query.envelope.query_id
    try:
        opened = opened_from(
            sealed, Purpose.QUERY_ANSWER, into, identity=identity, node=node, key=query.key, context=context, now=now
        )
        gathered.answers[node] = validate(opened, question)
    except RsfedError as error:
        return NodeOutcome(node=node, status=NODE_STATUS_INVALID, reason=error.reason)
    return outcome_of(node, gathered.answers[node], question)


def _nodes(bundle: Bundle, analyst: MemberId) -> Iterator[MemberId]:
    scope = bundle.scope_of(analyst)
    for uri, key in bundle.members.items():
        member = MemberId.parse(uri)
        if member.role is Role.NODE and key and (not scope.nodes or member.name in scope.nodes):
            yield member
