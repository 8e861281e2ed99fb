"""Signed heads: believed while the certificate is, and as evidence for good if it was valid when they were signed."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from members import START, Authority, World

from rsfed.errors import InvalidAnswer
from rsfed.trust.audit_head import sign_head, verify_head
from rsfed.trust.audit_log import Position
from rsfed.trust.names import Role
from rsfed.v1.audit_pb2 import SignedTreeHead, TreeHead

POSITION = Position("ab" * 16, 7, bytes(range(32)))
THEN = START - timedelta(days=60)


@pytest.fixture
def world():
    return World(cas=[Authority.new(now=START - timedelta(days=100))])


def cas(world):
    return [ca.cert for ca in world.cas]


def refused(signed, world, **when):
    with pytest.raises(InvalidAnswer) as error:
        verify_head(signed, cas(world), **when)
    return error.value.reason == "AUDIT_HEAD"


def test_a_head_says_whose_log_was_how_far_and_when(world):
    signed = sign_head(POSITION, world.identity(Role.NODE, "berne"), now=START)
    head = verify_head(signed, cas(world), now=START)
    assert (head.signer, head.position, head.time) == (world.member(Role.NODE, "berne"), POSITION, START)


def test_an_old_head_stays_evidence_although_its_certificate_has_expired(world):
    signed = sign_head(POSITION, world.identity(Role.NODE, "berne", now=THEN), now=THEN)
    assert verify_head(signed, cas(world)).time == THEN
    assert refused(signed, world, now=START)


def test_a_head_cannot_be_signed_back_into_a_time_when_its_certificate_was_not_valid(world):
    assert refused(sign_head(POSITION, world.identity(Role.NODE, "berne"), now=THEN), world)


def test_a_head_of_the_future_or_of_another_federation_is_refused(world):
    identity = world.identity(Role.NODE, "berne")
    assert refused(sign_head(POSITION, identity, now=START + timedelta(minutes=2)), world, now=START)
    assert refused(sign_head(POSITION, identity, now=START), World(cas=[Authority.new()]), now=START)


@pytest.mark.parametrize("change", [{"log": b"short"}, {"root": b""}, {"size": 0}, {"size": 1 << 63}])
def test_a_head_that_is_no_head_is_refused_although_it_is_signed(world, change):
    identity = world.identity(Role.NODE, "berne")
    head = TreeHead.FromString(sign_head(POSITION, identity, now=START).head)
    for name, value in change.items():
        setattr(head, name, value)
    data = head.SerializeToString()
    signature = identity.key.sign(b"rsfed-audit-v1" + data, ec.ECDSA(hashes.SHA256()))
    chain = sign_head(POSITION, identity, now=START).certificate_chain
    assert refused(SignedTreeHead(head=data, certificate_chain=chain, signature=signature), world, now=START)


def test_what_a_member_signed_for_another_purpose_is_no_head(world):
    identity = world.identity(Role.NODE, "berne")
    signed = sign_head(POSITION, identity, now=START)
    signed.signature = identity.key.sign(signed.head, ec.ECDSA(hashes.SHA256()))
    assert refused(signed, world, now=START)
