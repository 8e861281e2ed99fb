"""New keys, expiring bundles and backups: nobody is locked out, nothing comes back."""

import tomllib
from contextlib import closing

import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric import ec
from founded import SEALING_KEY, Founded, free_port, member, own_identity

from coordinator import audit, founding
from coordinator.backup import back_up, restore
from coordinator.bundles import current_bundle
from coordinator.founding import Choices, found
from coordinator.keyring import Keyring
from coordinator.registry import MAX_VERSION_LEAD, Announcement, Registry
from coordinator.rotation import add_release_key
from rsfed.clock import utc_now
from rsfed.config import CoordinatorConfig, load_config
from rsfed.errors import ConfigError, NotAdmitted, ReleaseRefused, UsageError
from rsfed.home import Home
from rsfed.trust.bundle import admit_bundle, check_member
from rsfed.trust.certificates import is_issued_by, make_csr
from rsfed.trust.identity import Identity
from rsfed.trust.manifest import Provenance
from rsfed.trust.names import Role
from rsfed.trust.recovery import recovery_request
from rsfed.trust.release_rules import verify_header
from rsfed.trust.release_store import ReleaseStore


def csr():
    return make_csr(ec.generate_private_key(ec.SECP256R1()))


def signed(federation):
    with federation.state.reading() as connection:
        return current_bundle(connection)


def publish(federation):
    from coordinator.training.runs import make_plan

    plan = make_plan(federation.config, 1)
    return federation.publisher.publish(plan, b"weights", Provenance(), {})


def test_a_new_ca_is_listed_at_once_and_signs_once_members_have_heard_of_it(federation):
    old = federation.bundle().cas[0]
    federation.rotation.new_ca()
    bundle = federation.bundle()
    assert len(bundle.cas) == 2
    new = bundle.cas[0]
    assert is_issued_by(federation.enroll("early")[0].chain[0], old)
    federation.clock.move(seconds=91)
    admission, _ = federation.enroll("late")
    assert is_issued_by(admission.chain[0], new)
    assert check_member(federation.bundle(), admission.chain, now=federation.clock()) == member("late")


def test_members_with_the_old_bundle_accept_the_one_with_the_new_ca(federation):
    before = federation.bundle()
    federation.rotation.new_ca()
    after = admit_bundle(before, signed(federation), anchors=before.cas, now=federation.clock())
    assert len(after.cas) == 2


def test_the_coordinator_stays_known_to_members_that_have_not_heard_of_the_new_ca(federation):
    old = federation.bundle().cas[0]
    federation.enroll("bern")
    federation.rotation.new_ca()
    federation.clock.move(days=21)
    federation.upkeep.once()
    assert is_issued_by(own_identity(federation).chain[0], old)


def test_the_old_ca_goes_when_its_last_leaf_can_no_longer_be_recovered(federation):
    old = federation.bundle().cas[0]
    admission, key = federation.enroll("bern")
    federation.rotation.new_ca()
    federation.clock.move(days=29)
    federation.upkeep.once()
    assert check_member(federation.bundle(), admission.chain, now=federation.clock())
    federation.clock.move(days=30.9)
    federation.upkeep.once()
    identity = Identity(member("bern"), key, admission.chain, None, None)
    again = federation.authority.recover(recovery_request(identity, csr(), now=federation.clock()))
    assert check_member(federation.bundle(), again.chain, now=federation.clock()) == member("bern")
    federation.clock.move(days=0.2)
    federation.upkeep.once()
    assert old not in federation.bundle().cas
    leaf = own_identity(federation).chain
    assert check_member(federation.bundle(), leaf, now=federation.clock()) == federation.coordinator
    assert len(list((federation.home.path / "secrets").glob("ca-*"))) == 1


def test_the_old_ca_stays_for_who_was_invited_before_the_new_one(federation):
    old = federation.bundle().cas[0]
    federation.authority.invite("bern", Role.NODE, hours=48)
    federation.rotation.new_ca()
    federation.clock.move(hours=47)
    federation.upkeep.once()
    assert old in federation.bundle().cas
    federation.clock.move(hours=1)
    federation.upkeep.once()
    assert old not in federation.bundle().cas


def test_an_invitation_of_the_same_millisecond_as_the_new_ca_keeps_the_old_one_too(federation):
    old = federation.bundle().cas[0]
    with time_machine.travel(utc_now(), tick=False):
        federation.authority.invite("bern", Role.NODE, hours=48)
        federation.rotation.new_ca()
        federation.clock.move(hours=47)
        federation.upkeep.once()
        assert old in federation.bundle().cas
        federation.clock.move(hours=1)
        federation.upkeep.once()
        assert old not in federation.bundle().cas


def test_a_second_new_ca_waits_for_the_end_of_the_first_change(federation):
    federation.rotation.new_ca()
    with pytest.raises(UsageError):
        federation.rotation.new_ca()


def test_a_new_release_key_takes_over_the_current_release(federation):
    before, bundle = federation.publisher.current(), federation.bundle()
    federation.rotation.new_release_key(federation.publisher)
    after, keys = federation.publisher.current(), federation.bundle().release_keys
    assert after.digest == before.digest
    verify_header(after.header.manifest, after.header.signature, after.header.key_id, keys)
    with pytest.raises(ReleaseRefused) as caught:
        verify_header(before.header.manifest, before.header.signature, before.header.key_id, keys)
    assert caught.value.reason == "RELEASE_KEY_UNKNOWN"
    assert set(keys).isdisjoint(bundle.release_keys)


def test_a_change_of_the_release_key_that_was_cut_short_is_completed(federation):
    from unittest import mock

    cut = mock.patch.object(federation.publisher, "discard_retired_keys", side_effect=KeyboardInterrupt)
    with cut, pytest.raises(KeyboardInterrupt):
        federation.rotation.new_release_key(federation.publisher)
    assert not federation.upkeep.once()
    release = federation.publisher.current()
    assert release.header.key_id in federation.bundle().release_keys
    assert not federation.upkeep.once()
    assert len(list((federation.home.path / "secrets").glob("release-*"))) == 1


def test_a_change_of_the_release_key_that_failed_at_its_end_is_undone(federation):
    from unittest import mock

    sign_anew = federation.publisher.sign_anew

    def fail(connection, now):
        sign_anew(connection, now)
        raise OSError("disk full")

    before = federation.bundle().release_keys
    with mock.patch.object(federation.publisher, "sign_anew", fail), pytest.raises(OSError, match="disk"):
        federation.rotation.new_release_key(federation.publisher)
    assert set(federation.bundle().release_keys) == set(before)
    assert federation.upkeep.once()
    assert federation.publisher.current().header.key_id in before


def test_the_release_key_is_not_changed_while_the_release_is_expired_and_the_coordinator_starts(federation):
    federation.clock.move(days=366)
    federation.upkeep.once()
    before = federation.bundle().version
    with pytest.raises(ReleaseRefused, match="train") as caught:
        federation.rotation.new_release_key(federation.publisher)
    assert caught.value.reason == "RELEASE_EXPIRED"
    assert federation.bundle().version == before
    federation.upkeep.once()


def test_a_release_that_expired_before_it_was_signed_anew_does_not_stop_the_start(federation, capsys):
    with federation.state.writing() as connection:  # as an earlier version left it
        connection.execute("UPDATE release_key SET retired = 1")
        add_release_key(connection, Keyring(federation.home), federation.clock())
    federation.clock.move(days=366)
    federation.upkeep.once()
    assert "release.not_signed" in capsys.readouterr().err


def test_a_release_that_expires_soon_is_warned_of_once_a_day(federation, capsys):
    def warnings():
        federation.upkeep.once()
        return capsys.readouterr().err.count("release.expires_soon")

    federation.clock.move(days=334)
    assert warnings() == 0
    federation.clock.move(days=2)
    assert [warnings(), warnings()] == [1, 0]
    federation.clock.move(days=1)
    assert warnings() == 1


def test_who_joined_after_the_backup_is_revoked_by_name_and_role(federation, tmp_path):
    back_up(federation.home, tmp_path / "backup", now=federation.clock())
    lyon, _ = federation.enroll("lyon")
    restore(tmp_path / "backup", Home(tmp_path / "again"), now=federation.clock())
    again = Founded(Home(tmp_path / "again"), federation.clock)
    with closing(again.state):
        assert check_member(again.bundle(), lyon.chain, now=again.clock()) == member("lyon")
        with pytest.raises(UsageError, match="--role"):
            again.authority.revoke("lyon")
        again.authority.revoke("lyon", Role.NODE)
        with pytest.raises(NotAdmitted) as caught:
            check_member(again.bundle(), lyon.chain, now=again.clock())
        assert caught.value.reason == "REVOKED"
        again.enroll("lyon")


def test_a_certificate_issued_after_the_backup_is_renewed_by_the_restored_federation(federation, tmp_path):
    admission, _ = federation.enroll("bern")
    back_up(federation.home, tmp_path / "backup", now=federation.clock())
    later = federation.authority.renew(member("bern"), admission.chain[0], csr())
    restore(tmp_path / "backup", Home(tmp_path / "again"), now=federation.clock())
    again = Founded(Home(tmp_path / "again"), federation.clock)
    with closing(again.state):
        again.authority.renew(member("bern"), later.chain[0], csr())


def test_bundles_are_published_again_before_they_expire(federation):
    first = federation.bundle()
    assert not federation.upkeep.once()
    federation.clock.move(days=4)
    assert federation.upkeep.once()
    second = federation.bundle()
    assert second.version > first.version
    assert second.expires > first.expires


def test_the_coordinators_certificate_is_renewed_after_two_thirds_and_even_when_it_expired(federation):
    first = own_identity(federation).chain[0]
    federation.clock.move(days=19)
    federation.upkeep.once()
    assert own_identity(federation).chain[0] == first
    federation.clock.move(days=30)
    federation.upkeep.once()
    chain = own_identity(federation).chain
    assert check_member(federation.bundle(), chain, now=federation.clock()) == federation.coordinator


def test_the_version_of_a_bundle_rises_even_when_the_clock_goes_back(federation):
    before = federation.bundle().version
    federation.clock.move(days=-3)
    federation.enroll("bern")
    assert federation.bundle().version > before


def announced(federation, version):
    federation.enroll("bern")
    Registry(federation.state, federation.clock).announce(
        Announcement("bern", "localhost:1", "0.1.0", 1, version, b"d" * 32, 1, 1, federation.clock())
    )


def test_a_release_is_newer_than_everything_that_nodes_announced(federation):
    announced(federation, 8)
    assert publish(federation).manifest.version == 9


def test_a_lying_announcement_cannot_use_up_the_versions(federation):
    announced(federation, MAX_VERSION_LEAD + 2)
    assert publish(federation).manifest.version == 2


def test_a_restored_federation_repeats_nothing(federation, tmp_path):
    admission, _ = federation.enroll("bern")
    waiting = federation.authority.invite("graz", Role.NODE, hours=1)
    back_up(federation.home, tmp_path / "backup", now=federation.clock())
    federation.enroll("lyon")  # after the backup: its bundle is newer
    last = federation.bundle()
    publish(federation)

    restore(tmp_path / "backup", Home(tmp_path / "again"), now=federation.clock())
    again = Founded(Home(tmp_path / "again"), federation.clock)
    with closing(again.state):
        admit_bundle(last, signed(again), anchors=last.cas, now=again.clock())
        assert check_member(again.bundle(), admission.chain, now=again.clock()) == member("bern")
        with pytest.raises(NotAdmitted) as caught:
            again.authority.enroll(waiting.invitation, waiting.secret, csr(), SEALING_KEY)
        assert caught.value.reason == "TOKEN_WITHDRAWN"
        announced(again, 2)  # by a node that had fetched what the lost coordinator published
        assert publish(again).manifest.version == 3
        with again.state.reading() as connection:
            assert "federation.restored" in [entry.kind for entry in audit.entries(connection)]


def choices(**changes):
    places = dict.fromkeys(("advertise", "join_advertise", "bind", "join_bind"), f"127.0.0.1:{free_port()}")
    fields = {"federation": "alps", "modality": "rgb", "bits": 32, "size": 32, "classes": ("a",), **places}
    return Choices(**fields | changes)


def test_a_new_federation_has_a_verified_release_and_stable_class_ids(federation):
    release = ReleaseStore(federation.home.releases).current()
    verify_header(
        release.header.manifest, release.header.signature, release.header.key_id, federation.bundle().release_keys
    )
    assert (release.manifest.version, release.manifest.training.rounds) == (1, 0)
    assert [(c.name, c.id) for c in release.manifest.nomenclature.classes] == [("water", 1), ("forest", 2)]


def test_the_same_seed_gives_the_same_first_weights(tmp_path, federation):
    other = found(Home(tmp_path / "other"), choices())
    assert other.weights("rgb").read_bytes() == federation.publisher.current().weights("rgb").read_bytes()


def test_an_existing_federation_is_never_founded_again(federation):
    before = (federation.home.path / "coordinator.toml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        found(federation.home, choices())
    assert caught.value.reason == "ALREADY_INITIALISED"
    assert (federation.home.path / "coordinator.toml").read_bytes() == before


def test_a_founding_that_fails_in_the_middle_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(founding, "_first_release", lambda *_: 1 / 0)
    (tmp_path / "mine").write_text("mine")
    for home in (tmp_path / "new" / "home", tmp_path):
        with pytest.raises(ZeroDivisionError):
            found(Home(home), choices())
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_class_names_with_quotes_survive_in_the_configuration(tmp_path):
    names = ('say "hi"', "back\\slash", "Wald & Wiese", "été", "a.b")
    found(Home(tmp_path / "new"), choices(classes=names))
    assert list(load_config(CoordinatorConfig, tmp_path / "new").nomenclature.classes) == list(names)
    tomllib.loads((tmp_path / "new" / "coordinator.toml").read_text())


def test_keys_are_readable_by_their_owner_only(federation):
    folder = federation.home.path
    secret = [*(folder / "secrets").iterdir(), folder / "identity" / "identity.pem", folder / "state.sqlite"]
    assert len(secret) == 4
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
