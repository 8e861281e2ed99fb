"""Recovery of a member whose certificate expired."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from members import START, Authority, World

from rsfed.errors import NotAdmitted
from rsfed.trust.certificates import make_csr
from rsfed.trust.names import Role
from rsfed.trust.recovery import _statement, recovery_request, verify_recovery

EXPIRY = START + timedelta(days=30)


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def node(world):
    return world.identity(Role.NODE, "dlr")


def request(identity, now):
    return recovery_request(identity, make_csr(identity.key), now=now)


def current(world, now):
    return replace(world.bundle(), created=now, expires=now + timedelta(days=7))


def refusal(request, bundle, now):
    with pytest.raises(NotAdmitted) as caught:
        verify_recovery(request, bundle, now=now)
    return caught.value.reason


@pytest.mark.parametrize("days", [0, 1, 29.9, 30])
def test_the_old_key_proves_its_member_for_thirty_days(world, node, days):
    now = EXPIRY + timedelta(days=days)
    bundle = world.bundle(created=now, expires=now + timedelta(days=7))
    assert verify_recovery(request(node, now), bundle, now=now) == node.member


def test_recovery_ends_after_thirty_days(world, node):
    now = EXPIRY + timedelta(days=30, seconds=1)
    assert refusal(request(node, now), current(world, now), now) == "CERT_EXPIRED"


def test_a_revoked_member_does_not_recover(world, node):
    now = EXPIRY + timedelta(days=1)
    revoked = replace(current(world, now), revoked_serials=frozenset({node.chain[0].serial_number}))
    assert refusal(request(node, now), revoked, now) == "REVOKED"
    by_name = replace(current(world, now), revoked_names=frozenset({node.member.uri}))
    assert refusal(request(node, now), by_name, now) == "REVOKED"


def test_who_only_has_the_certificate_does_not_recover(world, node):
    now = EXPIRY + timedelta(days=1)
    thief = replace(world.identity(Role.NODE, "thief"), chain=node.chain)
    assert refusal(request(thief, now), current(world, now), now) == "RECOVER_SIGNATURE"


def test_a_recorded_request_with_another_key_or_time_is_refused(world, node):
    now = EXPIRY + timedelta(days=1)
    recorded = request(node, now)
    recorded.csr = make_csr(world.identity(Role.NODE, "thief").key)
    assert refusal(recorded, current(world, now), now) == "RECOVER_SIGNATURE"
    redated = request(node, now - timedelta(hours=1))
    redated.created.FromDatetime(now)
    assert refusal(redated, current(world, now), now) == "RECOVER_SIGNATURE"
    redated.created.seconds = -(1 << 60)
    assert refusal(redated, current(world, now), now) == "RECOVER_SIGNATURE"


@pytest.mark.parametrize("minutes", [-6, 6])
def test_old_requests_and_clocks_far_apart_are_refused(world, node, minutes):
    now = EXPIRY + timedelta(days=1)
    stale = request(node, now + timedelta(minutes=minutes))
    assert refusal(stale, current(world, now), now) == "CLOCK_SKEW"


def test_a_time_beyond_the_calendar_is_refused_by_name(world, node):
    now = EXPIRY + timedelta(days=1)
    odd = recovery_request(node, csr := make_csr(node.key), now=now)
    odd.created.seconds = 10**15
    odd.signature = node.key.sign(_statement(csr, odd.created), ec.ECDSA(hashes.SHA256()))
    assert refusal(odd, current(world, now), now) == "BAD_REQUEST"


def test_strangers_do_not_recover(world):
    now = EXPIRY + timedelta(days=1)
    stranger = world.identity(Role.NODE, "dlr", ca=Authority.new())
    assert refusal(request(stranger, now), current(world, now), now) == "WRONG_CA"
