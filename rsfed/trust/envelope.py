"""The signed query: who asks, proven to every node, so that nobody can ask in another's name.

A node checks in this order: sizes, certificate and role, signature over the exact bytes, and only then what they say.
Whether the same query came before is the node's to know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from rsfed.codes import MAX_BITS, MIN_BITS
from rsfed.errors import EnvelopeRefused, InvalidMessage, NotAdmitted
from rsfed.trust.bundle import Bundle, check_member
from rsfed.trust.certificates import CLOCK_TOLERANCE, load_chain, public_key_of, to_der
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId, Role
from rsfed.v1.access_pb2 import AccessCall
from rsfed.v1.archive_pb2 import ArchiveServiceExpandBucketRequest
from rsfed.v1.envelope_pb2 import QueryEnvelope, SignedEnvelope
from rsfed.v1.outcome_pb2 import FilterField

MAX_CODES = 64
MAX_K = 1000
MAX_RADIUS = MAX_BITS
MAX_LIFETIME = timedelta(minutes=10)
LIFETIME = timedelta(minutes=5)  # what an analyst gives a query: clocks may differ by a minute either way
MAX_SEALED_BYTES = 1 << 20  # of a query that is sealed for each node
QUERY_STEP, ANSWER_STEP = 1 << 10, 4 << 10  # bytes, to multiples of which sealed queries and answers are filled up
REFINE_SLOTS = 16  # buckets of a query that refines, at most
_MAX_ENVELOPE_BYTES = 16 << 10
_MAX_CHAIN_BYTES = 16 << 10
_KEY_BYTES = 32
_NO_BUCKET = b"\xff" * 4
_FILTER_FIELD = "FILTER_FIELD_"


@dataclass(frozen=True, slots=True)
class VerifiedQuery:
    """A query whose requester is proven.

    Attributes:
        envelope: What is asked.
        requester: Who asks.
        digest: SHA-256 of the signed bytes, 32 bytes.
    """

    envelope: QueryEnvelope
    requester: MemberId
    digest: bytes


def sign_envelope(envelope: QueryEnvelope, identity: Identity) -> SignedEnvelope:
    """Sign a query with the analyst's key."""
    data = envelope.SerializeToString(deterministic=True)
    return SignedEnvelope(
        envelope=data,
        certificate_chain=[to_der(cert) for cert in identity.chain],
        signature=identity.key.sign(data, ec.ECDSA(hashes.SHA256())),
    )


def query_digest(signed: SignedEnvelope) -> str:
    """Return how audit logs name a query, genuine or not: SHA-256 of the signed bytes, hexadecimal."""
    return hashlib.sha256(signed.envelope).hexdigest()


def verify_envelope(signed: SignedEnvelope, bundle: Bundle, *, now: datetime) -> VerifiedQuery:
    """Return what is asked and by whom, if the query is genuine, fresh and within the limits.

    Raises:
        NotAdmitted: the requester's certificate is not believed (the reasons of `check_member`), or WRONG_ROLE.
        EnvelopeRefused: ENVELOPE_SIGNATURE, ENVELOPE_REQUESTER, WRONG_FEDERATION, CLOCK_SKEW or ENVELOPE_EXPIRED.
        InvalidMessage: the query breaks a limit or is no query.
    """
    if len(signed.envelope) > MAX_SEALED_BYTES or sum(map(len, signed.certificate_chain)) > _MAX_CHAIN_BYTES:
        raise _too_large()
    requester = _verify_signature(signed, bundle, now)
    try:
        envelope = QueryEnvelope.FromString(signed.envelope)
    except DecodeError as error:
        raise InvalidMessage("the query cannot be read") from error
    if len(signed.envelope) > _MAX_ENVELOPE_BYTES and not envelope.sealed_for:
        raise _too_large()
    if envelope.requester != requester.uri:
        raise EnvelopeRefused("the query names another requester than its certificate", reason="ENVELOPE_REQUESTER")
    if envelope.federation != bundle.federation:
        raise EnvelopeRefused("the query is for another federation", reason="WRONG_FEDERATION")
    check_freshness(envelope, now, what="query")
    check = _check_sealed if envelope.sealed_for else _check_refine if envelope.HasField("refine") else _check_limits
    check(envelope)
    return VerifiedQuery(envelope, requester, hashlib.sha256(signed.envelope).digest())


def check_freshness(signed: QueryEnvelope | AccessCall, now: datetime, *, what: str) -> None:
    """Check that something signed was made lately and is still to be answered.

    Raises:
        EnvelopeRefused: CLOCK_SKEW or ENVELOPE_EXPIRED.
        InvalidMessage: its times cannot be read.
    """
    try:
        created, expires = signed.created.ToDatetime(UTC), signed.expires.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidMessage(f"the {what} has no time that can be read") from error
    if created > now + CLOCK_TOLERANCE:
        raise EnvelopeRefused(f"the {what} was made in the future; check the analyst's clock", reason="CLOCK_SKEW")
    if expires - created > MAX_LIFETIME:
        raise EnvelopeRefused(f"a {what} may live for 10 minutes at most", reason="ENVELOPE_EXPIRED")
    if expires <= now:
        raise EnvelopeRefused(
            f"the {what} has expired; ask again, and check the analyst's clock", reason="ENVELOPE_EXPIRED"
        )


def filtered_fields(envelope: QueryEnvelope) -> list[str]:
    """Return the fields that a query is filtered by, in the order of `FilterField`: of time, bbox, modality, label."""
    wanted = envelope.filter
    asked = {
        FilterField.FILTER_FIELD_TIME: wanted.HasField("after") or wanted.HasField("before"),
        FilterField.FILTER_FIELD_BBOX: wanted.HasField("bbox"),
        FilterField.FILTER_FIELD_MODALITY: wanted.HasField("modality"),
        FilterField.FILTER_FIELD_LABEL: bool(wanted.labels),
    }
    return filter_names([field for field, is_asked in asked.items() if is_asked])


def filter_names(fields: Iterable[FilterField.ValueType]) -> list[str]:
    """Return what fields of filters are called.

    Raises:
        ValueError: a field is not known to this software.
    """
    return [FilterField.Name(field).removeprefix(_FILTER_FIELD).lower() for field in fields]


def filter_values(names: Iterable[str]) -> list[FilterField.ValueType]:
    """Return fields of filters as the wire has them."""
    return [FilterField.Value(_FILTER_FIELD + name.upper()) for name in names]


def refine_slots(buckets: Sequence[int]) -> bytes:
    """Return the slots of a query that refines, equally long however many buckets it names, at most `REFINE_SLOTS`."""
    used = b"".join(bucket.to_bytes(4, "little") for bucket in buckets)
    return used + _NO_BUCKET * (REFINE_SLOTS - len(buckets))


def refined_buckets(envelope: QueryEnvelope) -> list[int]:
    """Return the buckets that a query refines, in the order of their slots."""
    slots = envelope.refine.buckets
    parts = (slots[start : start + 4] for start in range(0, len(slots), 4))
    return [int.from_bytes(part, "little") for part in parts if part != _NO_BUCKET]


def page_context(request: ArchiveServiceExpandBucketRequest) -> bytes:
    """Return what the sealed page of a bucket belongs to, so that no other page takes its place."""
    place = ArchiveServiceExpandBucketRequest(
        code_index=request.code_index,
        bucket_handle=request.bucket_handle,
        offset=request.offset,
        limit=request.limit,
    )
    return hashlib.sha256(request.query.envelope + place.SerializeToString(deterministic=True)).digest()


def _verify_signature(signed: SignedEnvelope, bundle: Bundle, now: datetime) -> MemberId:
    chain = load_chain(list(signed.certificate_chain))
    requester = check_member(bundle, chain, now=now)
    if requester.role is not Role.ANALYST:
        raise NotAdmitted(f"queries are for analysts, not for the role {requester.role}", reason="WRONG_ROLE")
    try:
        public_key_of(chain[0]).verify(signed.signature, signed.envelope, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise EnvelopeRefused("the query's signature is wrong", reason="ENVELOPE_SIGNATURE") from error
    return requester


def _check_limits(envelope: QueryEnvelope) -> None:
    """Check the sizes that need no release; whether the width of the codes is the release's, the node knows."""
    if len(envelope.query_id) != 16 or len(envelope.release_digest) != 32:
        raise InvalidMessage("a query has an id of 16 bytes and a release digest of 32")
    if not MIN_BITS // 8 <= len(envelope.codes) <= MAX_CODES * MAX_BITS // 8:
        raise InvalidMessage(f"a query has 1 to {MAX_CODES} codes")
    if not 1 <= envelope.k <= MAX_K:
        raise InvalidMessage(f"k is 1 to {MAX_K}")
    if envelope.HasField("radius") and envelope.radius > MAX_RADIUS:
        raise InvalidMessage(f"a radius is 0 to {MAX_RADIUS} bits")
    if len(envelope.answer_key) not in {0, _KEY_BYTES}:
        raise InvalidMessage(f"a key for answers has {_KEY_BYTES} bytes")


def _check_refine(envelope: QueryEnvelope) -> None:
    """Check a query that refines: nothing tells one from another before it is opened."""
    if len(envelope.query_id) != 16 or len(envelope.release_digest) != 32 or len(envelope.answer_key) != _KEY_BYTES:
        raise InvalidMessage("a query has an id of 16 bytes, a release digest and a key for answers of 32")
    if envelope.codes or envelope.k or envelope.HasField("radius") or envelope.HasField("filter"):
        raise InvalidMessage("a query that refines has neither codes nor a filter")
    buckets = refined_buckets(envelope)
    if len(envelope.refine.buckets) != len(_NO_BUCKET) * REFINE_SLOTS or len(set(buckets)) != len(buckets):
        raise InvalidMessage(f"a query that refines has {REFINE_SLOTS} slots, and no bucket twice")


def _check_sealed(envelope: QueryEnvelope) -> None:
    """Check a query that is sealed for nodes: nothing of what it asks is outside of that."""
    if len(envelope.query_id) != 16 or len(envelope.release_digest) != 32:
        raise InvalidMessage("a query has an id of 16 bytes and a release digest of 32")
    asked = (envelope.encoder, envelope.codes, envelope.k, envelope.answer_key)
    if any(asked) or any(envelope.HasField(field) for field in ("radius", "filter", "refine")):
        raise InvalidMessage("a query that is sealed for nodes has what it asks in there only")
    if len({part.node for part in envelope.sealed_for}) != len(envelope.sealed_for):
        raise InvalidMessage("a query is sealed for each node once")


def _too_large() -> InvalidMessage:
    return InvalidMessage("the query is too large", reason="MESSAGE_TOO_LARGE")
