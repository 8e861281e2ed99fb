"""Which queries a node answers, and that a refused one leaves no trace."""

from datetime import timedelta

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from members import World
from serving import PARTNER, Asker, add_patches, make_home, publish, random_codes, serve_codes

from node.guard import Guard
from node.ledger import Ledger
from node.state import open_state
from rsfed.errors import RsfedError
from rsfed.trust.bundle import open_bundle, sign_bundle
from rsfed.trust.names import Role
from rsfed.v1.envelope_pb2 import QueryEnvelope
from rsfed.v1.federation_pb2 import MemberKeys, MemberScope
from rsfed.v1.outcome_pb2 import POLICY_LEVEL_PARTNER


class Scene:
    """A guard with everything that it asks."""

    def __init__(self, folder):
        self.world = World()
        home = make_home(folder)
        self.release = publish(home, self.world)
        self.served = serve_codes(home, self.release, add_patches(home, 10), random_codes(10))
        self.connection = open_state(home)
        self.bundle = self.world.bundle()
        self.guard = Guard(lambda: self.bundle, Ledger(self.connection), node="berne", policies=PARTNER)
        self.asker = Asker(self.world)

    def ask(self, *, codes=b"12345678", **changes):
        return self.asker.ask(self.release, np.frombuffer(codes, np.uint8), **changes)

    def refusal(self, signed, *, admit="admit", served="the one"):
        with pytest.raises(RsfedError) as refused:
            getattr(self.guard, admit)(signed, self.served if served else None, now=self.world.clock())
        return refused.value.reason

    def entries(self):
        return self.connection.execute("SELECT count(*) FROM query_ledger").fetchone()[0]


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path / "node")


def test_a_genuine_query_is_admitted_and_written_down(scene):
    admitted = scene.guard.admit(scene.ask(k=7, radius=3), scene.served, now=scene.world.clock())
    assert (admitted.ask.k, admitted.ask.radius, len(admitted.codes)) == (7, 3, 2)
    assert admitted.query.requester.name == "ada"
    assert scene.entries() == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"release_digest": b"x" * 32}, "STALE_RELEASE"),
        ({"encoder": "other"}, "ENCODER_UNKNOWN"),
        ({"codes": b"x" * 9}, "CODE_WIDTH"),
        ({"codes": b"x" * 4 * 65}, "INVALID_MESSAGE"),
        ({"k": 1001}, "INVALID_MESSAGE"),
        ({"federation": "other"}, "WRONG_FEDERATION"),
        ({"requester": "spiffe://alps/analyst/eve"}, "ENVELOPE_REQUESTER"),
    ],
)
def test_a_query_that_does_not_fit_is_refused_and_not_written_down(scene, changes, reason):
    assert scene.refusal(scene.ask(**changes)) == reason
    assert scene.entries() == 0


def test_a_query_that_another_has_changed_is_refused(scene):
    signed = scene.ask()
    envelope = QueryEnvelope.FromString(signed.envelope)
    envelope.k = 999
    signed.envelope = envelope.SerializeToString()
    assert scene.refusal(signed) == "ENVELOPE_SIGNATURE"


def test_nobody_but_an_analyst_can_ask(scene):
    scene.asker.identity = scene.world.identity(Role.COORDINATOR)
    assert scene.refusal(scene.ask()) == "WRONG_ROLE"


def test_a_revoked_analyst_is_refused_as_soon_as_the_bundle_says_so(scene):
    scene.world.revoked_names.append("spiffe://alps/analyst/ada")
    scene.bundle = scene.world.bundle()
    assert scene.refusal(scene.ask()) == "REVOKED"


def test_an_expired_query_is_refused(scene):
    signed = scene.ask()
    scene.world.clock.move(minutes=6)
    assert scene.refusal(signed) == "ENVELOPE_EXPIRED"


def test_without_news_of_revocations_for_a_day_nothing_is_answered(scene):
    scene.bundle = scene.world.bundle(refreshed=scene.world.clock() - timedelta(hours=25))
    assert scene.refusal(scene.ask()) == "REVOCATION_STALE"


def test_codes_of_an_expired_release_are_not_searched(scene):
    scene.world.clock.move(days=91)
    scene.bundle, scene.asker = scene.world.bundle(), Asker(scene.world)
    assert scene.refusal(scene.ask()) == "RELEASE_EXPIRED"


def test_a_node_that_serves_no_release_yet_is_starting_and_not_on_another_release(scene):
    assert scene.refusal(scene.ask(), served=None) == "STARTING"


def test_a_query_is_admitted_once(scene):
    signed = scene.ask()
    scene.guard.admit(signed, scene.served, now=scene.world.clock())
    assert scene.refusal(signed) == "REPLAY"
    assert scene.entries() == 1


def test_only_a_query_that_was_answered_can_ask_for_more(scene):
    assert scene.refusal(scene.ask(), admit="admit_again") == "UNKNOWN_HANDLE"


def test_more_is_given_to_exactly_the_query_that_was_answered(scene):
    signed = scene.ask()
    first = scene.guard.admit(signed, scene.served, now=scene.world.clock())
    again = scene.guard.admit_again(signed, scene.served, now=scene.world.clock())
    assert (again.salt, again.query.digest) == (first.salt, first.query.digest)
    assert np.array_equal(again.codes, first.codes)
    same_id = scene.ask(query_id=first.query.envelope.query_id, k=1000)
    assert scene.refusal(same_id, admit="admit_again") == "ENVELOPE_DIFFERS"


def test_an_analyst_cannot_go_on_with_the_query_of_another(scene):
    first = scene.guard.admit(scene.ask(), scene.served, now=scene.world.clock())
    scene.asker = Asker(scene.world, "eve")
    stolen = scene.ask(query_id=first.query.envelope.query_id)
    assert scene.refusal(stolen, admit="admit_again") == "ENVELOPE_DIFFERS"


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        ({"nodes": ["geneva"]}, "SCOPE_NODE"),
        ({"modalities": ["sentinel-1-grd"]}, "SCOPE_MODALITY"),
        ({"level": POLICY_LEVEL_PARTNER + 1}, "SCOPE_LEVEL"),
        ({"until": 1}, "SCOPE_ENDED"),
    ],
)
def test_a_query_outside_the_requesters_scope_is_refused_also_where_the_coordinator_lets_it_pass(scene, scope, reason):
    signed = scene.ask()
    scene.guard.admit(signed, scene.served, now=scene.world.clock())
    until = Timestamp(seconds=scope.pop("until")) if "until" in scope else None
    keys = MemberKeys(member=scene.asker.identity.member.uri, scope=MemberScope(**scope, until=until))
    proto = scene.world.proto()
    proto.members.append(keys)
    scene.bundle = open_bundle(sign_bundle(proto, [(ca.cert, ca.key) for ca in scene.world.cas]))
    assert scene.refusal(scene.ask()) == reason
    assert scene.refusal(signed, admit="admit_again") == reason
    assert scene.entries() == 1


def test_a_query_within_the_requesters_scope_is_admitted(scene):
    scope = MemberScope(nodes=["berne"], modalities=["rgb"], level=POLICY_LEVEL_PARTNER)
    scope.until.FromDatetime(scene.world.clock() + timedelta(days=1))
    proto = scene.world.proto()
    proto.members.append(MemberKeys(member=scene.asker.identity.member.uri, scope=scope))
    scene.bundle = open_bundle(sign_bundle(proto, [(ca.cert, ca.key) for ca in scene.world.cas]))
    assert scene.guard.admit(scene.ask(), scene.served, now=scene.world.clock())
