"""Queries that are sealed for this node, opened before the guard sees them, and answers sealed for who asked.

The guard checks what was opened as it checks every query: who asks is proven by the signature inside. Answers go to the
key that the signed query names, so nobody gains by passing on what was sealed for this node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from node.auditing import Auditor, Kind
from rsfed.clock import Deadline
from rsfed.errors import InvalidMessage, RsfedError
from rsfed.trust.envelope import ANSWER_STEP, MAX_SEALED_BYTES, page_context
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId
from rsfed.trust.sealing import Purpose, padded, seal, unpadded, unwrap
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1.catalogue_pb2 import RefineAnswer
from rsfed.v1.envelope_pb2 import QueryEnvelope, SignedEnvelope

Inner = TypeVar("Inner", bound=Message)
Search = Callable[[pb.ArchiveServiceSearchRequest, Deadline], pb.ArchiveServiceSearchResponse]
Refine = Callable[[SignedEnvelope, Deadline], RefineAnswer]
Expand = Callable[[pb.ArchiveServiceExpandBucketRequest, Deadline], pb.ArchiveServiceExpandBucketResponse]


class SealedQueries:
    """Stands between the wire and what answers queries.

    Args:
        identity: Returns the node's identity of the moment.
        auditor: Notes what cannot be opened.
    """

    def __init__(self, identity: Callable[[], Identity], auditor: Auditor) -> None:
        self._identity = identity
        self._auditor = auditor

    def searched(
        self, search: Search, request: pb.ArchiveServiceSearchRequest, deadline: Deadline
    ) -> pb.ArchiveServiceSearchResponse:
        """Search, whether the query is sealed or not, and seal the answer if the query wants that.

        Raises:
            SealRefused: SEAL_BROKEN, the query cannot be opened; noted.
            RsfedError: what `search` raises.
        """
        if request.sealed_query:
            query = self._opened(request.sealed_query, Purpose.QUERY, SignedEnvelope(), Kind.QUERY_REFUSED)
            request = pb.ArchiveServiceSearchRequest(query=query, remaining_ms=request.remaining_ms)
        response = search(request, deadline)
        asked = QueryEnvelope.FromString(request.query.envelope)
        if not asked.answer_key:
            return response
        answer = pb.ArchiveServiceSearchResponse(query_id=response.query_id, audit_head=response.audit_head)
        response.ClearField("audit_head")  # it is for the coordinator
        answer.sealed_answer = self._sealed(response, asked, Purpose.QUERY_ANSWER, asked.query_id)
        return answer

    def expanded(
        self, expand: Expand, request: pb.ArchiveServiceExpandBucketRequest, deadline: Deadline
    ) -> pb.ArchiveServiceExpandBucketResponse:
        """Page through a bucket, as `searched` searches."""
        if request.sealed_request:
            inner = pb.ArchiveServiceExpandBucketRequest()
            opened = self._opened(request.sealed_request, Purpose.BUCKET, inner, Kind.BUCKET_REFUSED)
            opened.remaining_ms = request.remaining_ms
            request = opened
        response = expand(request, deadline)
        asked = QueryEnvelope.FromString(request.query.envelope)
        if not asked.answer_key:
            return response
        answer = pb.ArchiveServiceExpandBucketResponse(audit_head=response.audit_head)
        response.ClearField("audit_head")
        answer.sealed_answer = self._sealed(response, asked, Purpose.BUCKET_ANSWER, page_context(request))
        return answer

    def refined(
        self, refine: Refine, request: pb.ArchiveServiceRefineRequest, deadline: Deadline
    ) -> pb.ArchiveServiceRefineResponse:
        """Refine; query and answer are always sealed, and each is as long as any other."""
        query = self._opened(request.sealed_query, Purpose.REFINE, SignedEnvelope(), Kind.REFINE_REFUSED)
        answer, asked = refine(query, deadline), QueryEnvelope.FromString(query.envelope)
        sealed = self._sealed(answer, asked, Purpose.REFINE_ANSWER, asked.query_id)
        return pb.ArchiveServiceRefineResponse(sealed_answer=sealed, audit_head=self._auditor.head())

    def _opened(self, sealed: bytes, purpose: Purpose, into: Inner, refused: Kind) -> Inner:
        identity = self._identity()
        try:
            if len(sealed) > MAX_SEALED_BYTES:
                raise InvalidMessage("the query is too large", reason="MESSAGE_TOO_LARGE")
            content = unwrap(sealed, purpose, recipient=identity.member, key=identity.sealing_key)
            into.ParseFromString(unpadded(content))
        except (RsfedError, DecodeError) as error:
            refusal = error if isinstance(error, RsfedError) else InvalidMessage("the query cannot be read")
            self._auditor.note(refused, reason=refusal.reason, call=hashlib.sha256(sealed).hexdigest())
            raise refusal from error
        return into

    def _sealed(self, response: Message, asked: QueryEnvelope, purpose: Purpose, context: bytes) -> bytes:
        return seal(
            padded(response.SerializeToString(), ANSWER_STEP),
            purpose,
            sender=self._identity(),
            recipient=MemberId.parse(asked.requester),
            key=asked.answer_key,
            context=context,
        )
