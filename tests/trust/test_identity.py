"""Identities on disk, and why one will not do."""

import os
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from members import START, Authority, World

from rsfed.errors import ExitCode, NotAdmitted, StateError
from rsfed.trust import certificates, identity
from rsfed.trust.identity import (
    Federation,
    create_keys,
    load_federation,
    load_identity,
    mark_refreshed,
    save_bundle,
    save_certificate,
    save_federation,
    write_atomically,
)
from rsfed.trust.names import Role
from rsfed.trust.preflight import check_identity


@pytest.fixture
def world():
    return World()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "identity"


def issue(world, folder, *, role=Role.NODE, now=START):
    """Give the folder a certificate for its next key, as the coordinator would."""
    ca, csr = world.cas[0], certificates.make_csr(create_keys(folder).key)
    leaf = certificates.issue_leaf(ca.key, ca.cert, csr, world.member(role, "dlr"), now=now)
    save_bundle(folder, world.signed_bundle(), refreshed=now)
    save_certificate(folder, (leaf, ca.cert))
    return leaf


def refusal(kind, action, *arguments, **options):
    with pytest.raises(kind) as caught:
        action(*arguments, **options)
    return caught.value.reason


def test_an_identity_is_read_as_it_was_saved(world, folder):
    leaf = issue(world, folder)
    loaded = load_identity(folder)
    assert loaded.member == world.member(Role.NODE, "dlr")
    assert loaded.chain == (leaf, world.cas[0].cert)
    assert loaded.key.public_key() == leaf.public_key()
    assert loaded.bundle.version == 1
    assert loaded.bundle.refreshed == START
    assert check_identity(loaded, now=START) is None


def test_keys_are_readable_by_their_owner_only(world, folder):
    folder.mkdir()
    folder.chmod(0o755)
    mask = os.umask(0)
    try:
        issue(world, folder)
        create_keys(folder)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_keys_do_not_show_when_an_identity_is_printed(world, folder):
    issue(world, folder)
    assert "PRIVATE" not in repr(load_identity(folder))
    assert "_key=" not in repr(load_identity(folder))
    assert "key=" not in repr(create_keys(folder))


def test_without_a_certificate_one_is_told_to_join(folder):
    for prepare in (lambda: None, lambda: create_keys(folder)):
        prepare()
        with pytest.raises(NotAdmitted, match="join") as caught:
            load_identity(folder)
        assert caught.value.reason == "NOT_JOINED"
        assert caught.value.exit_code == ExitCode.NOT_ADMITTED
    assert refusal(NotAdmitted, load_federation, folder) == "NOT_JOINED"


def test_a_renewal_changes_key_and_certificate_together_and_keeps_the_sealing_key(world, folder):
    first = issue(world, folder)
    before = load_identity(folder)
    pending = create_keys(folder)
    assert load_identity(folder).key.private_numbers() == before.key.private_numbers()
    second = issue(world, folder, now=START + timedelta(days=20))
    after = load_identity(folder)
    assert after.chain[0] == second != first
    assert after.key.public_key() == pending.key.public_key() != before.key.public_key()
    assert after.sealing_key.private_bytes_raw() == before.sealing_key.private_bytes_raw()


def test_a_certificate_for_another_key_changes_nothing(world, folder):
    issue(world, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = world.identity(Role.NODE, "dlr")
    assert refusal(NotAdmitted, save_certificate, folder, other.chain) == "KEY_MISMATCH"
    assert before.items() <= {path.name: path.read_bytes() for path in folder.iterdir()}.items()


@pytest.mark.parametrize("name", ["identity.pem", "sealing-key.pem", "bundle.binpb", "bundle.checked"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff" * 9])
def test_a_damaged_file_is_said_so(world, folder, name, damage):
    issue(world, folder)
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    if name == "bundle.checked" and not path.read_bytes():
        assert load_identity(folder).bundle.refreshed is None
        return
    with pytest.raises(StateError) as caught:
        load_identity(folder)
    assert "backup" in caught.value.public
    assert str(folder) not in caught.value.public


def test_a_swapped_bundle_of_other_bytes_is_refused_on_reading(world, folder):
    issue(world, folder)
    signed = world.signed_bundle()
    signed.bundle = world.proto(version=9).SerializeToString()
    (folder / "bundle.binpb").write_bytes(signed.SerializeToString())
    assert refusal(StateError, load_identity, folder) == "STATE"


def test_the_time_of_the_last_news_is_kept(world, folder):
    issue(world, folder)
    mark_refreshed(folder, START + timedelta(hours=5))
    assert load_identity(folder).bundle.refreshed == START + timedelta(hours=5)


def test_how_the_coordinator_is_reached_is_kept(world, folder):
    folder.mkdir()
    known = Federation("host:1", "host:2", world.member(Role.COORDINATOR))
    save_federation(folder, known)
    assert load_federation(folder) == known
    (folder / "federation.json").write_text('{"address": "host:1"}')
    assert refusal(StateError, load_federation, folder) == "STATE"


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def crash(*_):
        raise OSError("no space left")

    monkeypatch.setattr(identity.os if moment == "fsync" else Path, moment, crash)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def own(world, **changes):
    return replace(world.identity(Role.NODE, "dlr"), **changes)


def test_preflight_says_why_a_certificate_will_not_do(world):
    identity = own(world)
    serial = identity.chain[0].serial_number
    bundle = identity.bundle
    cases = {
        "CERT_EXPIRED": (identity, START + timedelta(days=30)),
        "CERT_NOT_YET_VALID": (identity, START - timedelta(minutes=2)),
        "WRONG_CA": (own(world, chain=world.identity(Role.NODE, "dlr", ca=Authority.new()).chain), START),
        "KEY_MISMATCH": (own(world, chain=world.identity(Role.NODE, "dlr").chain), START),
        "REVOKED": (replace(identity, bundle=replace(bundle, revoked_serials=frozenset({serial}))), START),
        "WRONG_FEDERATION": (replace(identity, bundle=replace(bundle, federation="andes")), START),
    }
    stranger = world.identity(Role.NODE, "dlr", ca=Authority.new())
    cases["WRONG_CA"] = (stranger, START)
    for expected, (candidate, now) in cases.items():
        with pytest.raises(NotAdmitted) as caught:
            check_identity(candidate, now=now)
        assert caught.value.reason == expected
        assert "your" in caught.value.public or "private key" in caught.value.public
    by_name = replace(bundle, revoked_names=frozenset({identity.member.uri}))
    assert refusal(NotAdmitted, check_identity, replace(identity, bundle=by_name), now=START) == "REVOKED"


def test_preflight_lets_an_old_bundle_be_renewed(world):
    identity = own(world)
    old = replace(identity.bundle, refreshed=START - timedelta(days=3), expires=START - timedelta(days=1))
    assert check_identity(replace(identity, bundle=old), now=START) is None
