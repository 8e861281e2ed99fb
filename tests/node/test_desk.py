"""Calls about found items: who may ask for what, what is refused and why, and that everything is noted."""

import hashlib
import json
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from access_scene import Caller, Scene
from members import World
from serving import Asker

from node import outbox
from node.approval import approve, deny
from node.requests import MAX_OPEN_OF_ONE, matching
from node.state import mark_restored, open_state, restored_at
from rsfed.errors import RsfedError
from rsfed.home import transaction
from rsfed.privacy.policy import Policies
from rsfed.trust.names import Role
from rsfed.trust.scope import Scope
from rsfed.trust.sealing import Purpose
from rsfed.v1 import access_pb2 as pb


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def refused(act, *arguments, **how):
    with pytest.raises(RsfedError) as caught:
        act(*arguments, **how)
    return caught.value.reason


def requests(scene):
    with closing(open_state(scene.home)) as connection:
        return matching(connection, "")


def give(scene, request_id):
    return approve(scene.home, request_id, operator="olga", now=scene.world.clock())


def refuse(scene, request_id, **how):
    return deny(scene.home, request_id, operator="olga", now=scene.world.clock(), **how)


def collected(scene, request_id, who=None):
    with scene.desk.collect((who or scene.ada).collects(request_id)) as file:
        return file.read()


def test_a_request_reaches_the_operator_and_its_answer_the_requester(scene):
    answer = scene.ada.answer(scene.desk.answer(scene.ada.asks(want=pb.ACCESS_WANT_CROP)))
    (asked,) = requests(scene)
    assert (asked.requester, asked.want, asked.reason) == ("spiffe://alps/analyst/ada", "crop", "flood mapping")
    assert (answer.state, answer.request_id) == (pb.ACCESS_STATE_OPEN, asked.id)
    refuse(scene, asked.id, note="not this scene")
    answer = scene.ada.answer(scene.desk.answer(scene.ada.looks(asked.id)))
    assert (answer.state, answer.note) == (pb.ACCESS_STATE_DENIED, "not this scene")


def test_what_was_approved_comes_sealed_for_the_requester_alone(scene):
    request_id = scene.asked(want=pb.ACCESS_WANT_FILE)
    approved = give(scene, request_id)
    answer = scene.ada.answer(scene.desk.answer(scene.ada.looks(request_id)))
    sealed = collected(scene, request_id)
    assert (answer.sealed_size, answer.sealed_digest) == (len(sealed), hashlib.sha256(sealed).digest())
    content = scene.ada.opened(sealed, Purpose.ACCESS_DELIVERY, request_id)
    delivery = pb.AccessDelivery.FromString(content)
    assert delivery.content in [file.read_bytes() for file in scene.files]
    assert (delivery.handle, delivery.form) == (scene.handles[0], pb.ACCESS_FORM_PNG)
    assert b"secret" not in content
    assert delivery.content[:64] not in sealed
    assert refused(scene.eve.opened, sealed, Purpose.ACCESS_DELIVERY, request_id) == "SEAL_BROKEN"
    assert approved.operator == "olga"
    assert requests(scene)[0].collected == scene.world.clock()


def test_it_may_be_collected_again_until_it_expires(scene):
    request_id = scene.asked()
    give(scene, request_id)
    assert collected(scene, request_id) == collected(scene, request_id)
    scene.world.clock.move(days=7)
    scene.trust()
    renewed = replace(scene.world.identity(Role.ANALYST, "ada"), sealing_key=scene.ada.identity.sealing_key)
    assert refused(collected, scene, request_id, Caller(scene, "ada", identity=renewed)) == "ACCESS_EXPIRED"
    scene.desk.prune()
    assert not outbox.sealed_file(scene.home, request_id).exists()


def test_nothing_is_given_before_the_operators_word(scene):
    assert refused(collected, scene, scene.asked()) == "ACCESS_OPEN"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"handle": b"\7" * 16}, "UNKNOWN_HANDLE"),
        ({"handle": b"\7" * 15}, "INVALID_MESSAGE"),
        ({"query_id": b"\7" * 16}, "HANDLE_OF_QUERY"),
        ({"reason": ""}, "REQUEST_REASON"),
        ({"reason": "   "}, "REQUEST_REASON"),
        ({"reason": "x" * 501}, "REQUEST_REASON"),
        ({"reason": "a\x1b[2Jb"}, "REQUEST_REASON"),
        ({"reason": "two\nlines"}, "REQUEST_REASON"),
        ({"want": pb.ACCESS_WANT_UNSPECIFIED}, "INVALID_MESSAGE"),
        ({"want": 9}, "INVALID_MESSAGE"),
        ({"request_id": b"short"}, "INVALID_MESSAGE"),
        ({"call_id": b"short"}, "INVALID_MESSAGE"),
        ({"made": timedelta(minutes=2)}, "CLOCK_SKEW"),
        ({"made": -timedelta(minutes=6)}, "ENVELOPE_EXPIRED"),
        ({"life": timedelta(minutes=11)}, "ENVELOPE_EXPIRED"),
    ],
)
def test_what_will_not_do_is_refused_with_its_reason_noted_and_asked_of_nobody(scene, how, reason):
    sealed = scene.ada.asks(**how)
    assert refused(scene.desk.answer, sealed) == reason
    assert requests(scene) == []
    ((kind, entry),) = scene.audit()
    assert (kind, entry["reason"], entry["call"]) == ("refused", reason, hashlib.sha256(sealed).hexdigest())
    assert "x" * 20 not in json.dumps(entry)


def test_a_handle_serves_nobody_but_whom_it_was_given_to(scene):
    assert refused(scene.desk.answer, scene.eve.asks()) == "HANDLE_OF_ANOTHER"


def test_a_handle_serves_in_its_own_query_only(scene):
    _, other, _ = scene.search(Asker(scene.world, changes={}))
    assert refused(scene.desk.answer, scene.ada.asks(query_id=other)) == "HANDLE_OF_QUERY"


def test_a_handle_of_another_node_means_nothing(scene, tmp_path):
    other = Scene(tmp_path / "other", world=scene.world)
    assert refused(scene.desk.answer, scene.ada.asks(other.handles[0], query_id=other.query_id)) == "UNKNOWN_HANDLE"


def test_a_bucket_cannot_be_asked_for(scene):
    assert refused(scene.desk.answer, scene.ada.asks(scene.bucket)) == "UNKNOWN_HANDLE"


def test_a_handle_that_expired_means_nothing(scene):
    scene.world.clock.move(days=91)
    scene.node = scene.world.identity(Role.NODE, "berne")
    ada = Caller(scene, "ada", identity=scene.world.identity(Role.ANALYST, "ada"))
    scene.world.knows(scene.node)
    bundle = scene.world.bundle()
    scene.identity = lambda: replace(scene.node, bundle=bundle)
    scene.desk = scene.make_desk()
    assert refused(scene.desk.answer, ada.asks()) == "UNKNOWN_HANDLE"


def test_a_request_ends_with_its_handle(scene):
    request_id = scene.asked()
    scene.world.clock.move(days=14)
    scene.trust()
    assert refused(give, scene, request_id) == "ACCESS_EXPIRED"


def test_a_call_is_taken_once(scene):
    sealed = scene.ada.asks()
    scene.desk.answer(sealed)
    assert refused(scene.desk.answer, sealed) == "REPLAY"
    request_id = scene.ada.last.request_id
    assert refused(scene.desk.answer, scene.ada.asks(request_id=request_id)) == "REPLAY"
    give(scene, request_id)
    collect = scene.ada.collects(request_id)
    scene.desk.collect(collect).close()
    assert refused(scene.desk.collect, collect) == "REPLAY"
    assert len(requests(scene)) == 1


def test_a_restored_node_takes_no_call_that_it_may_have_taken(scene):
    sealed = scene.ada.asks()
    with closing(open_state(scene.home)) as connection, transaction(connection):
        mark_restored(connection, scene.world.clock())
        restored = restored_at(connection)
    assert refused(scene.make_desk(restored_at=restored).answer, sealed) == "REPLAY"


def test_another_s_request_does_not_exist(scene):
    request_id = scene.asked()
    give(scene, request_id)
    assert refused(scene.desk.answer, scene.eve.looks(request_id)) == "UNKNOWN_REQUEST"
    assert refused(scene.desk.answer, scene.eve.withdraws(request_id)) == "UNKNOWN_REQUEST"
    assert refused(collected, scene, request_id, scene.eve) == "UNKNOWN_REQUEST"
    assert refused(scene.desk.answer, scene.ada.looks(bytes(16))) == "UNKNOWN_REQUEST"


def test_a_requester_takes_a_request_back_before_and_after_it_was_approved(scene):
    first, second = scene.asked(), scene.asked()
    give(scene, second)
    for request_id in (first, second):
        answer = scene.ada.answer(scene.desk.answer(scene.ada.withdraws(request_id)))
        assert answer.state == pb.ACCESS_STATE_WITHDRAWN
        assert refused(collected, scene, request_id) == "ACCESS_WITHDRAWN"
        assert refused(give, scene, request_id) == "ACCESS_WITHDRAWN"
    assert not outbox.sealed_file(scene.home, second).exists()


def test_what_ended_stays_as_it_ended(scene):
    request_id = scene.asked()
    refuse(scene, request_id)
    assert scene.ada.answer(scene.desk.answer(scene.ada.withdraws(request_id))).state == pb.ACCESS_STATE_DENIED


def test_an_operator_answers_once_and_can_take_an_approval_back(scene):
    request_id = scene.asked()
    give(scene, request_id)
    assert refused(give, scene, request_id) == "ACCESS_APPROVED"
    assert refuse(scene, request_id).state == "withdrawn"
    assert refused(collected, scene, request_id) == "ACCESS_WITHDRAWN"
    assert refused(refuse, scene, request_id) == "ACCESS_WITHDRAWN"
    other = scene.asked()
    refuse(scene, other)
    assert refused(give, scene, other) == "ACCESS_DENIED"
    assert not list((scene.home.path / "outbox").iterdir())


def test_approvals_are_made_at_the_node_and_nowhere_else(scene):
    """What the coordinator, or anybody else, writes as a delivery is not the node's."""
    request_id = scene.asked()
    delivery = pb.AccessDelivery(request_id=request_id, handle=scene.handles[0], content=b"forged")
    forged = scene.eve.seal(delivery.SerializeToString(), purpose=Purpose.ACCESS_DELIVERY)
    assert refused(scene.ada.opened, forged, Purpose.ACCESS_DELIVERY, request_id) == "SEAL_BROKEN"
    coordinator = Caller(scene, "", identity=scene.world.identity(Role.COORDINATOR))
    assert refused(scene.desk.answer, coordinator.asks()) == "WRONG_ROLE"
    assert refused(scene.desk.answer, b"\0" * 200) == "SEAL_BROKEN"
    assert refused(scene.desk.answer, bytes(70_000)) == "MESSAGE_TOO_LARGE"
    assert refused(scene.desk.answer, scene.ada.seal(b"\xff" * 50)) == "INVALID_MESSAGE"
    assert refused(scene.desk.answer, scene.ada.call()) == "INVALID_MESSAGE"
    assert refused(scene.desk.answer, scene.ada.collects(request_id)) == "INVALID_MESSAGE"
    assert refused(scene.desk.collect, scene.ada.looks(request_id)) == "INVALID_MESSAGE"
    stranger = Caller(scene, "ada", identity=World().identity(Role.ANALYST, "ada"))
    assert refused(scene.desk.answer, stranger.asks()) == "WRONG_CA"


def test_who_was_put_out_neither_asks_nor_collects_nor_is_given_anything(scene):
    asked, approved = scene.asked(), scene.asked()
    give(scene, approved)
    scene.world.revoked_names.append(scene.ada.identity.member.uri)
    scene.trust()
    assert refused(give, scene, asked) == "REVOKED"
    assert refused(collected, scene, approved) == "REVOKED"
    assert refused(scene.desk.answer, scene.ada.asks()) == "REVOKED"
    assert not outbox.sealed_file(scene.home, asked).exists()


def test_a_request_of_a_replaced_certificate_is_not_approved(scene):
    request_id = scene.asked()
    scene.world.revoked_serials.append(scene.ada.identity.chain[0].serial_number)
    scene.trust()
    assert refused(give, scene, request_id) == "REVOKED"


def test_nothing_is_approved_on_old_news_of_who_was_put_out(scene):
    request_id = scene.asked()
    scene.world.clock.move(hours=25)
    assert refused(give, scene, request_id) == "REVOCATION_STALE"


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        ({"nodes": frozenset({"geneva"})}, "SCOPE_NODE"),
        ({"modalities": frozenset({"sentinel-1-grd"})}, "SCOPE_MODALITY"),
        ({"until": World().clock()}, "SCOPE_ENDED"),
    ],
)
def test_a_scope_holds_for_asking_approving_and_collecting(scene, scope, reason):
    asked, approved = scene.asked(), scene.asked()
    give(scene, approved)
    scene.world.scopes[scene.ada.identity.member.uri] = Scope(**scope)
    scene.trust()
    assert refused(scene.desk.answer, scene.ada.asks()) == reason
    assert refused(give, scene, asked) == reason
    assert refused(collected, scene, approved) == reason


def test_a_requester_without_a_sealing_key_is_told_so(scene):
    del scene.world.keys[scene.ada.identity.member.uri]
    scene.trust()
    assert refused(scene.desk.answer, scene.ada.asks()) == "NO_SEALING_KEY"


def test_too_many_requests_wait_for_an_answer(scene):
    for _ in range(MAX_OPEN_OF_ONE):
        scene.asked()
    assert refused(scene.desk.answer, scene.ada.asks()) == "TOO_MANY_REQUESTS"
    refuse(scene, requests(scene)[0].id)
    scene.asked()


def test_an_archive_may_take_no_requests(scene):
    assert refused(scene.make_desk(enabled=False).answer, scene.ada.asks()) == "ACCESS_CLOSED"


def everything_leaves(scene):
    with closing(open_state(scene.home)) as connection:
        connection.execute("UPDATE item SET state = 'withdrawn'")


def test_a_patch_that_left_the_archive_cannot_be_asked_for_nor_given(scene):
    request_id = scene.asked()
    everything_leaves(scene)
    assert refused(scene.desk.answer, scene.ada.asks()) == "ITEM_WITHDRAWN"
    assert refused(give, scene, request_id) == "ITEM_WITHDRAWN"


@pytest.mark.parametrize("level", ["guarded", "catalogue"])
def test_where_archives_publish_a_patch_that_left_is_asked_for_as_any_other(scene, level):
    """Else whoever holds its handle learns that this one patch went, which nothing that is published tells."""

    def told(act):
        request_id = scene.asked()
        act(request_id)
        answer = scene.ada.answer(scene.desk.answer(scene.ada.looks(request_id)))
        answer.request_id = b""
        return answer.SerializeToString(deterministic=True)

    acts = [
        lambda _: None,
        lambda asked: refuse(scene, asked),
        lambda asked: scene.desk.answer(scene.ada.withdraws(asked)),
    ]
    scene.desk = scene.make_desk(policies=Policies.of(level, {}))
    before = [told(act) for act in acts]
    everything_leaves(scene)
    assert [told(act) for act in acts] == before
    assert refused(give, scene, scene.asked()) == "ITEM_WITHDRAWN"  # the operator sees it
    assert refused(collected, scene, scene.ada.last.request_id) == "ACCESS_OPEN"
    scene.desk = scene.make_desk(policies=Policies.of(level, {"ada": "partner"}))
    assert refused(scene.desk.answer, scene.ada.asks()) == "ITEM_WITHDRAWN"


@pytest.mark.parametrize("want", [pb.ACCESS_WANT_QUICKLOOK, pb.ACCESS_WANT_CROP, pb.ACCESS_WANT_FILE])
def test_a_file_that_changed_is_not_given(scene, want):
    request_id = scene.asked(want=want)
    for file in scene.files:
        file.write_bytes(scene.files[0].read_bytes() + b"x")
    assert refused(give, scene, request_id) == "RASTER_REJECTED"
    assert requests(scene)[0].state == "open"


def test_a_file_beyond_the_limit_is_not_given(scene):
    request_id = scene.asked(want=pb.ACCESS_WANT_FILE)
    config = scene.home.path / "node.toml"
    config.write_text(config.read_text().replace("max_mib = 64", "max_mib = 1"))
    for file in scene.files:
        file.write_bytes(bytes(2 << 20))
    assert refused(give, scene, request_id) == "ACCESS_TOO_LARGE"


def test_what_a_backup_does_not_hold_is_said_to_be_gone(scene):
    request_id = scene.asked()
    give(scene, request_id)
    outbox.drop(scene.home, request_id)
    assert refused(collected, scene, request_id) == "ACCESS_GONE"


def test_everything_is_noted_and_nothing_private_is(scene):
    request_id = scene.asked(reason="a private reason")
    scene.desk.answer(scene.ada.looks(request_id))
    give(scene, request_id)
    collected(scene, request_id)
    refuse(scene, request_id)
    refuse(scene, scene.asked())
    scene.desk.answer(scene.ada.withdraws(scene.asked()))
    kinds = [kind for kind, _ in scene.audit()]
    assert kinds == ["asked", "looked", "approved", "collected", "recalled", "asked", "denied", "asked", "withdrawn"]
    text = json.dumps([entry for _, entry in scene.audit()])
    for private in ("secret", "private", "/ada", '"ada"', "olga", request_id.hex(), scene.handles[0].hex()):
        assert private not in text
    named = {hashlib.sha256(request_id).hexdigest()}
    assert {entry["request"] for _, entry in scene.audit()[:5]} == named
    assert scene.audit()[2][1]["delivery"] == scene.audit()[3][1]["delivery"]


def test_what_cannot_be_noted_does_not_happen(scene, monkeypatch):
    def fail(*_, **__):
        raise RsfedError("no room", reason="AUDIT_UNWRITABLE")

    request_id = scene.asked()
    monkeypatch.setattr("node.approval.note_beside", fail)
    assert refused(give, scene, request_id) == "AUDIT_UNWRITABLE"
    assert requests(scene)[0].state == "open"
    assert not outbox.sealed_file(scene.home, request_id).exists()
    monkeypatch.setattr(scene.auditor, "note", fail)
    assert refused(scene.desk.answer, scene.ada.asks()) == "AUDIT_UNWRITABLE"
    assert len(requests(scene)) == 1
