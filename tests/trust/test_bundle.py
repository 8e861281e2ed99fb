"""Trust bundles: whom a member believes, and what may replace that."""

from dataclasses import replace
from datetime import timedelta

import pytest
from members import START, Authority, World

from rsfed.errors import NotAdmitted
from rsfed.trust.bundle import admit_bundle, check_member, open_bundle, sign_bundle
from rsfed.trust.certificates import to_der
from rsfed.trust.names import MemberId, Role
from rsfed.v1.federation_pb2 import BundleSignature, SignedTrustBundle


@pytest.fixture
def world():
    return World()


def refusal(action, *arguments, **options):
    with pytest.raises(NotAdmitted) as caught:
        action(*arguments, **options)
    return caught.value.reason


def anchors(world):
    return [ca.cert for ca in world.cas]


def test_a_signed_bundle_says_what_was_signed(world):
    world.revoked_serials, world.revoked_names = [5, 2**120], ["spiffe://alps/node/lost"]
    bundle = admit_bundle(None, world.signed_bundle(), anchors=anchors(world), now=START)
    assert (bundle.federation, bundle.version) == ("alps", 1)
    assert bundle.revoked_serials == {5, 2**120}
    assert bundle.revoked_names == {"spiffe://alps/node/lost"}
    assert bundle.coordinator == MemberId("alps", Role.COORDINATOR, "coordinator")
    assert bundle.cas == tuple(anchors(world))
    assert list(bundle.members) == ["spiffe://alps/node/some-node"]
    assert len(bundle.release_keys) == 1


def test_a_bundle_with_any_flipped_byte_is_refused(world):
    signed = world.signed_bundle()
    for position in range(len(signed.bundle)):
        data = bytearray(signed.bundle)
        data[position] ^= 1 << position % 8
        forged = SignedTrustBundle(bundle=bytes(data), signatures=signed.signatures)
        assert refusal(admit_bundle, None, forged, anchors=anchors(world), now=START) == "BUNDLE_SIGNATURE"


def test_a_bundle_without_a_signature_of_a_known_ca_is_refused(world):
    stranger = Authority.new()
    forged = sign_bundle(world.proto(), [(stranger.cert, stranger.key)])
    posing = sign_bundle(world.proto(), [(world.cas[0].cert, stranger.key)])
    unsigned = SignedTrustBundle(bundle=world.signed_bundle().bundle)
    broken = SignedTrustBundle(
        bundle=unsigned.bundle, signatures=[BundleSignature(ca_fingerprint=bytes(32), signature=b"x")]
    )
    for bad in (forged, posing, unsigned, broken, SignedTrustBundle()):
        assert refusal(admit_bundle, None, bad, anchors=anchors(world), now=START) == "BUNDLE_SIGNATURE"


def test_a_lower_version_and_the_same_version_with_other_bytes_are_rollbacks(world):
    current = world.bundle(version=7)
    for version, created in ((6, START), (7, START - timedelta(seconds=1))):
        signed = world.signed_bundle(version=version, created=created)
        assert refusal(admit_bundle, current, signed, anchors=current.cas, now=START) == "BUNDLE_ROLLBACK"
    assert admit_bundle(current, world.signed_bundle(version=7), anchors=current.cas, now=START) == current
    assert admit_bundle(current, world.signed_bundle(version=8), anchors=current.cas, now=START).version == 8


def test_an_expired_bundle_one_from_the_future_and_one_of_another_federation_are_refused(world):
    current = world.bundle()
    cases = {
        "BUNDLE_EXPIRED": {"version": 2, "expires": START},
        "CLOCK_SKEW": {"version": 2, "created": START + timedelta(seconds=61)},
        "WRONG_FEDERATION": {"version": 2, "federation": "andes"},
    }
    for reason, changes in cases.items():
        signed = world.signed_bundle(**changes)
        assert refusal(admit_bundle, current, signed, anchors=current.cas, now=START) == reason
    nearly = world.signed_bundle(version=2, created=START + timedelta(seconds=60))
    assert admit_bundle(current, nearly, anchors=current.cas, now=START).version == 2


def test_signed_nonsense_is_refused_as_unreadable(world):
    ca = world.cas[0]

    class Raw:
        def __init__(self, data):
            self.data = data

        def SerializeToString(self, **_):  # noqa: N802
            return self.data

    bad_ca, bad_key, no_ca, bad_name, bad_seal = (world.proto() for _ in range(5))
    bad_ca.ca_certificates[0] = b"\x30\x00"
    bad_key.release_keys[0].key_id = "0" * 16
    del no_ca.ca_certificates[:]
    bad_name.coordinator = "spiffe://alps/boss/x"
    bad_seal.members[0].sealing_key = b"short"
    leaf_as_ca = world.proto()
    leaf_as_ca.ca_certificates[0] = to_der(world.identity(Role.NODE).chain[0])
    for proto in (Raw(b"\xff\xff"), bad_ca, bad_key, no_ca, bad_name, bad_seal, leaf_as_ca):
        signed = sign_bundle(proto, [(ca.cert, ca.key)])
        assert refusal(admit_bundle, None, signed, anchors=anchors(world), now=START) == "BUNDLE_MALFORMED"


def test_a_stored_bundle_that_lost_a_byte_is_refused(world):
    signed = world.signed_bundle()
    assert open_bundle(signed).version == 1
    assert refusal(open_bundle, SignedTrustBundle(bundle=signed.bundle[:-1], signatures=signed.signatures))


def test_a_ca_is_changed_without_a_gap(world):
    """Old CA; then both, signed by both; then the new one alone. A member that saw the middle follows to the end."""
    before, old_node = world.bundle(), world.identity(Role.NODE, "old")
    world.cas, world.version = [Authority.new(), *world.cas], 2
    overlap = admit_bundle(before, world.signed_bundle(), anchors=before.cas, now=START)
    new_node = world.identity(Role.NODE, "new", ca=world.cas[0])
    for identity in (old_node, new_node):
        assert check_member(overlap, identity.chain, now=START) == identity.member
    assert refusal(check_member, before, new_node.chain, now=START) == "WRONG_CA"

    world.cas, world.version = world.cas[:1], 3
    after = world.signed_bundle()
    assert refusal(admit_bundle, before, after, anchors=before.cas, now=START) == "BUNDLE_SIGNATURE"
    final = admit_bundle(overlap, after, anchors=overlap.cas, now=START)
    assert check_member(final, new_node.chain, now=START) == new_node.member
    assert refusal(check_member, final, old_node.chain, now=START) == "WRONG_CA"


def test_revoked_members_are_refused_by_serial_and_by_name(world):
    lost, kept = world.identity(Role.NODE, "lost"), world.identity(Role.NODE, "kept")
    by_serial = replace(world.bundle(), revoked_serials=frozenset({lost.chain[0].serial_number}))
    by_name = replace(world.bundle(), revoked_names=frozenset({lost.member.uri}))
    for bundle in (by_serial, by_name):
        assert refusal(check_member, bundle, lost.chain, now=START) == "REVOKED"
        assert check_member(bundle, kept.chain, now=START) == kept.member
    again = world.identity(Role.NODE, "lost")
    assert check_member(by_serial, again.chain, now=START) == lost.member


def test_only_the_named_coordinator_is_the_coordinator(world):
    assert check_member(world.bundle(), world.identity(Role.COORDINATOR).chain, now=START)
    impostor = world.identity(Role.COORDINATOR, "other")
    assert refusal(check_member, world.bundle(), impostor.chain, now=START) == "BAD_NAME"


def test_a_member_of_another_federation_is_refused_even_under_the_same_ca(world):
    other = World(name="andes", cas=world.cas).identity(Role.NODE)
    assert refusal(check_member, world.bundle(), other.chain, now=START) == "WRONG_FEDERATION"


def test_without_news_for_a_day_nobody_is_believed(world):
    node = world.identity(Role.NODE)
    bundle = world.bundle(refreshed=START)
    day = timedelta(hours=24)
    assert check_member(bundle, node.chain, now=START + day)
    assert not bundle.stale(START + day)
    assert refusal(check_member, bundle, node.chain, now=START + day + timedelta(seconds=1)) == "REVOCATION_STALE"
    ahead = replace(bundle, refreshed=START + day + timedelta(seconds=1))
    assert refusal(check_member, ahead, node.chain, now=START) == "REVOCATION_STALE"
    assert check_member(world.bundle(), node.chain, now=START + 2 * day)  # the coordinator needs no news
    assert refusal(check_member, world.bundle(), node.chain, now=START + 7 * day) == "BUNDLE_EXPIRED"
