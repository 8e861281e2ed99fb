"""Signed queries: nobody asks in another's name, and nothing about a query can be changed on its way."""

from dataclasses import replace
from datetime import timedelta

import pytest
from members import START, Authority, World

from rsfed.errors import EnvelopeRefused, InvalidMessage, NotAdmitted, RsfedError
from rsfed.trust.envelope import LIFETIME, MAX_LIFETIME, sign_envelope, verify_envelope
from rsfed.trust.names import Role
from rsfed.v1.envelope_pb2 import QueryEnvelope, QueryFilter, SealedQuery, SignedEnvelope


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def ada(world):
    return world.identity(Role.ANALYST, "ada")


def envelope(requester="spiffe://alps/analyst/ada", created=START, life=LIFETIME, **changes):
    fields = {
        "query_id": bytes(16),
        "requester": requester,
        "federation": "alps",
        "release_digest": bytes(32),
        "encoder": "rgb",
        "codes": bytes(8),
        "k": 20,
        **changes,
    }
    query = QueryEnvelope(**fields)
    query.created.FromDatetime(created)
    query.expires.FromDatetime(created + life)
    return query


def refusal(signed, bundle, kind=RsfedError, now=START):
    with pytest.raises(kind) as caught:
        verify_envelope(signed, bundle, now=now)
    return caught.value.reason


def test_a_genuine_query_is_read_as_it_was_signed(world, ada):
    verified = verify_envelope(sign_envelope(envelope(), ada), world.bundle(), now=START)
    assert verified.requester == ada.member
    assert verified.envelope == envelope()
    assert len(verified.digest) == 32


def test_a_query_with_any_flipped_byte_is_refused(world, ada):
    signed, bundle = sign_envelope(envelope(), ada), world.bundle()
    for position in range(len(signed.envelope)):
        data = bytearray(signed.envelope)
        data[position] ^= 1 << position % 8
        forged = SignedEnvelope(
            envelope=bytes(data), certificate_chain=signed.certificate_chain, signature=signed.signature
        )
        assert refusal(forged, bundle, EnvelopeRefused) == "ENVELOPE_SIGNATURE"


def test_a_signature_or_certificate_with_any_flipped_byte_is_refused(world, ada):
    signed, bundle = sign_envelope(envelope(), ada), world.bundle()
    for position in range(len(signed.signature)):
        data = bytearray(signed.signature)
        data[position] ^= 1 << position % 8
        forged = SignedEnvelope(
            envelope=signed.envelope, certificate_chain=signed.certificate_chain, signature=bytes(data)
        )
        assert refusal(forged, bundle, EnvelopeRefused) == "ENVELOPE_SIGNATURE"
    leaf = signed.certificate_chain[0]
    for position in range(len(leaf)):
        data = bytearray(leaf)
        data[position] ^= 1 << position % 8
        forged = SignedEnvelope(envelope=signed.envelope, certificate_chain=[bytes(data)], signature=signed.signature)
        assert refusal(forged, bundle)


def test_nobody_asks_in_anothers_name(world, ada):
    bob = world.identity(Role.ANALYST, "bob")
    posing = sign_envelope(envelope(requester=bob.member.uri), ada)
    assert refusal(posing, world.bundle(), EnvelopeRefused) == "ENVELOPE_REQUESTER"
    borrowed = sign_envelope(envelope(requester=bob.member.uri), ada)
    borrowed.certificate_chain[0] = sign_envelope(envelope(), bob).certificate_chain[0]
    assert refusal(borrowed, world.bundle(), EnvelopeRefused) == "ENVELOPE_SIGNATURE"


@pytest.mark.parametrize("role", [Role.NODE, Role.COORDINATOR])
def test_only_analysts_ask(world, role):
    member = world.identity(role)
    signed = sign_envelope(envelope(requester=member.member.uri), member)
    assert refusal(signed, world.bundle(), NotAdmitted) == "WRONG_ROLE"


def test_a_query_for_another_federation_is_refused(world, ada):
    assert refusal(sign_envelope(envelope(federation="andes"), ada), world.bundle()) == "WRONG_FEDERATION"


def test_a_query_counts_from_its_making_to_its_expiry(world, ada):
    signed, bundle = sign_envelope(envelope(), ada), world.bundle()
    assert verify_envelope(signed, bundle, now=START + LIFETIME - timedelta(seconds=1))
    assert refusal(signed, bundle, EnvelopeRefused, START + LIFETIME) == "ENVELOPE_EXPIRED"


def test_clocks_may_differ_by_a_minute_and_no_more(world, ada):
    bundle, skew = world.bundle(), timedelta(seconds=60)
    signed = sign_envelope(envelope(), ada)
    assert verify_envelope(signed, bundle, now=START + skew)
    assert verify_envelope(signed, bundle, now=START - skew)
    ahead = sign_envelope(envelope(created=START + skew + timedelta(seconds=1)), ada)
    assert refusal(ahead, bundle, EnvelopeRefused) == "CLOCK_SKEW"


def test_a_query_that_would_live_long_is_refused(world, ada):
    bundle = world.bundle()
    assert verify_envelope(sign_envelope(envelope(life=MAX_LIFETIME), ada), bundle, now=START)
    long = sign_envelope(envelope(life=MAX_LIFETIME + timedelta(seconds=1)), ada)
    assert refusal(long, bundle, EnvelopeRefused) == "ENVELOPE_EXPIRED"
    timeless = envelope()
    timeless.ClearField("expires")
    assert refusal(sign_envelope(timeless, ada), bundle, EnvelopeRefused) == "ENVELOPE_EXPIRED"


def test_strangers_and_revoked_or_expired_analysts_are_refused(world, ada):
    bundle, signed = world.bundle(), sign_envelope(envelope(), ada)
    stranger = replace(ada, chain=(world.identity(Role.ANALYST, "ada", ca=Authority.new()).chain[0],))
    assert refusal(sign_envelope(envelope(), stranger), bundle, NotAdmitted) == "WRONG_CA"
    revoked = replace(bundle, revoked_serials=frozenset({ada.chain[0].serial_number}))
    assert refusal(signed, revoked, NotAdmitted) == "REVOKED"
    late = START + timedelta(days=8)
    assert refusal(sign_envelope(envelope(created=late), ada), bundle, NotAdmitted, late) == "CERT_EXPIRED"


def test_a_query_without_certificates_is_refused(world, ada):
    signed = sign_envelope(envelope(), ada)
    signed.ClearField("certificate_chain")
    assert refusal(signed, world.bundle(), NotAdmitted) == "BAD_CERTIFICATE"


@pytest.mark.parametrize(
    "changes",
    [
        {"query_id": bytes(15)},
        {"query_id": b""},
        {"release_digest": bytes(31)},
        {"codes": b""},
        {"codes": bytes(1)},
        {"codes": bytes(64 * 32 + 1)},
        {"k": 0},
        {"k": 1001},
        {"radius": 257},
    ],
    ids=str,
)
def test_queries_beyond_the_limits_are_refused(world, ada, changes):
    assert refusal(sign_envelope(envelope(**changes), ada), world.bundle(), InvalidMessage) == "INVALID_MESSAGE"


@pytest.mark.parametrize("changes", [{"codes": bytes(64 * 32)}, {"k": 1}, {"k": 1000}, {"radius": 0}, {"radius": 256}])
def test_queries_at_the_limits_are_taken(world, ada, changes):
    assert verify_envelope(sign_envelope(envelope(**changes), ada), world.bundle(), now=START)


def test_oversized_queries_are_refused_before_anything_is_verified(world, ada):
    huge = SignedEnvelope(envelope=bytes((1 << 20) + 1), certificate_chain=[b"x"])
    assert refusal(huge, world.bundle(), InvalidMessage) == "MESSAGE_TOO_LARGE"
    chain = SignedEnvelope(envelope=b"", certificate_chain=[bytes(1 << 20)])
    assert refusal(chain, world.bundle(), InvalidMessage) == "MESSAGE_TOO_LARGE"


def test_signed_bytes_that_are_no_query_are_refused(world, ada):
    class Raw:
        def SerializeToString(self, **_):  # noqa: N802
            return b"\xff\xff\xff"

    assert refusal(sign_envelope(Raw(), ada), world.bundle(), InvalidMessage) == "INVALID_MESSAGE"


PARTS = [SealedQuery(node="bern", sealed=b"x" * 900), SealedQuery(node="graz", sealed=b"x" * 900)]
OPEN = {"encoder": "", "codes": b"", "k": 0}


def test_a_query_sealed_for_nodes_says_nothing_else(world, ada):
    genuine = envelope(**OPEN, sealed_for=PARTS)
    assert verify_envelope(sign_envelope(genuine, ada), world.bundle(), now=START).envelope == genuine
    for telling in (
        {"encoder": "rgb"},
        {"codes": bytes(8)},
        {"k": 1},
        {"radius": 0},
        {"answer_key": bytes(32)},
        {"filter": QueryFilter(modality="rgb")},
        {"sealed_for": [*PARTS, PARTS[0]]},
        {"query_id": bytes(15)},
    ):
        query = envelope(**{**OPEN, "sealed_for": PARTS, **telling})
        assert refusal(sign_envelope(query, ada), world.bundle(), InvalidMessage) == "INVALID_MESSAGE"


def test_only_a_sealed_query_may_be_large_and_within_a_mebibyte(world, ada):
    large = [SealedQuery(node=f"n{number}", sealed=bytes(9000)) for number in range(100)]
    verify_envelope(sign_envelope(envelope(**OPEN, sealed_for=large), ada), world.bundle(), now=START)
    too_large = sign_envelope(envelope(**OPEN, sealed_for=large * 2), ada)
    assert refusal(too_large, world.bundle(), InvalidMessage) == "MESSAGE_TOO_LARGE"
    plain = sign_envelope(envelope(encoder="x" * 20_000), ada)
    assert refusal(plain, world.bundle(), InvalidMessage) == "MESSAGE_TOO_LARGE"
