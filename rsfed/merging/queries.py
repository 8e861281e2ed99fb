"""From a signed query to what nodes are asked, and from their answers to outcomes and one ranking. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from rsfed.errors import CodeError, InvalidMessage
from rsfed.merging.answers import MergedRanking, NodeAnswer, Question
from rsfed.merging.merge import merge
from rsfed.transport.limits import MAX_MESSAGE_BYTES
from rsfed.trust.envelope import MAX_CODES, filter_values, filtered_fields
from rsfed.trust.manifest import Manifest
from rsfed.v1 import outcome_pb2
from rsfed.v1 import query_pb2 as pb
from rsfed.v1.envelope_pb2 import QueryEnvelope
from rsfed.v1.outcome_pb2 import NodeOutcome


def question_of(envelope: QueryEnvelope, manifest: Manifest) -> Question:
    """Return what a verified query asks of codes of this release.

    Raises:
        InvalidMessage: the release has no such encoder, there are too many codes, or the radius is too large.
        CodeError: the codes have another width than the release's.
    """
    width = manifest.bits // 8
    if envelope.encoder not in manifest.encoders:
        raise InvalidMessage("the release has no such encoder; fetch the release again", reason="ENCODER_UNKNOWN")
    if len(envelope.codes) % width:
        raise CodeError(f"the codes have not the {manifest.bits} bits of the release; fetch the release again")
    if not 1 <= len(envelope.codes) // width <= MAX_CODES:
        raise InvalidMessage(f"a query has 1 to {MAX_CODES} codes")
    if envelope.HasField("radius") and envelope.radius > manifest.bits:
        raise InvalidMessage(f"a radius is 0 to {manifest.bits} bits")
    return Question(
        query_id=envelope.query_id,
        release_digest=envelope.release_digest,
        bits=manifest.bits,
        codes=len(envelope.codes) // width,
        k=envelope.k,
        radius=envelope.radius if envelope.HasField("radius") else None,
        filtered=tuple(filter_values(filtered_fields(envelope))),
    )


@dataclass(slots=True)
class Gathered:
    """What came of asking all nodes.

    Attributes:
        answers: Validated answers by node name.
        outcomes: One outcome for each node asked, in the order of their names.
        sealed: Answers by node name that only the analyst can read.
    """

    answers: dict[str, NodeAnswer] = field(default_factory=dict)
    outcomes: list[NodeOutcome] = field(default_factory=list)
    sealed: dict[str, bytes] = field(default_factory=dict)


def outcome_of(name: str, answer: NodeAnswer, question: Question) -> NodeOutcome:
    """Return how a node took part whose answer keeps the rules."""
    whole = answer.examined == answer.held
    return NodeOutcome(
        node=name,
        status=outcome_pb2.NODE_STATUS_COMPLETE if whole else outcome_pb2.NODE_STATUS_PARTIAL,
        coverage=answer.coverage,
        held=answer.held,
        level=outcome_pb2.PolicyLevel.ValueType(answer.level),
        withheld=outcome_pb2.WithheldReason.ValueType(answer.withheld),
        filtered=map(outcome_pb2.FilterField.ValueType, question.filtered),
        unknown=answer.unknown,
    )


def response_of(question: Question, gathered: Gathered, *, whole: bool = False) -> pb.QueryServiceSearchResponse:
    """Merge what was gathered, code by code.

    Args:
        question: What was asked.
        gathered: What came of it.
        whole: Whether all that nodes list is ranked, however many items were asked for.

    Raises:
        InvalidMessage: ANSWER_TOO_LARGE for one message.
    """
    rankings = []
    for code in range(question.codes):
        columns = {name: answer.columns[code] for name, answer in gathered.answers.items()}
        limit = question.k if question.radius is None and not whole else None
        rankings.append(_to_wire(merge(columns, question.query_id, k=limit)))
    return _sendable(
        pb.QueryServiceSearchResponse(query_id=question.query_id, rankings=rankings, outcomes=gathered.outcomes)
    )


def sealed_response_of(query_id: bytes, gathered: Gathered) -> pb.QueryServiceSearchResponse:
    """Return what was gathered unread.

    Raises:
        InvalidMessage: ANSWER_TOO_LARGE for one message.
    """
    answers = [pb.SealedAnswer(node=node, sealed=sealed) for node, sealed in sorted(gathered.sealed.items())]
    return _sendable(
        pb.QueryServiceSearchResponse(query_id=query_id, outcomes=gathered.outcomes, sealed_answers=answers)
    )


def _sendable(response: pb.QueryServiceSearchResponse) -> pb.QueryServiceSearchResponse:
    if response.ByteSize() > MAX_MESSAGE_BYTES:
        raise InvalidMessage(
            "the answer is too large; ask for fewer codes, a smaller k or a smaller radius", reason="ANSWER_TOO_LARGE"
        )
    return response


def _to_wire(ranking: MergedRanking) -> pb.Ranking:
    return pb.Ranking(
        nodes=ranking.nodes,
        bucket_nodes=_packed(ranking.bucket_nodes),
        bucket_handles=_packed(ranking.bucket_handles),
        bucket_distances=_packed(ranking.bucket_distances),
        bucket_sizes=_packed(ranking.bucket_sizes),
        hit_buckets=_packed(ranking.hit_buckets),
        hit_handles=_packed(ranking.hit_handles),
        footprints=None if ranking.footprints is None else _packed(ranking.footprints),
        acquired=None if ranking.acquired is None else _packed(ranking.acquired),
    )


def _packed(column: NDArray[Any]) -> bytes:
    """Return a column as little-endian bytes."""
    return column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes()
