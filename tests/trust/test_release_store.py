"""Releases on disk: nothing unverified is ever current, whatever is offered and whenever the machine stops."""

import hashlib
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from members import START, World, sign

from rsfed.errors import ReleaseRefused, StateError
from rsfed.trust import release_store
from rsfed.trust.release_store import ReleaseStore


class Crash(BaseException):
    """The machine stops here."""


@pytest.fixture
def world():
    return World()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "releases"


def offer(folder, world, release, *, now=START, files=None, store=None, federation="alps"):
    store = store or ReleaseStore(folder)
    return store.admit(
        release.header, [release.weights] if files is None else files, world.bundle(), federation=federation, now=now
    )


def refusal(folder, world, release, **options):
    with pytest.raises(ReleaseRefused) as caught:
        offer(folder, world, release, **options)
    return caught.value.reason


def remains(folder):
    return [path.name for path in folder.glob(".staging-*")]


def test_an_admitted_release_is_current_also_after_a_restart(folder, world):
    release = world.release()
    assert ReleaseStore(folder).current() is None
    admitted = offer(folder, world, release)
    for found in (admitted, ReleaseStore(folder).current(), ReleaseStore(folder).get(release.digest)):
        assert found.digest == release.digest
        assert found.manifest == release.manifest
        assert found.header == release.header
        assert found.weights("rgb").read_bytes() == release.weights
        assert b"".join(found.chunks()) == release.weights
    assert remains(folder) == []


@pytest.mark.parametrize("size", [1, 7, 999, 1 << 20])
def test_files_may_arrive_in_parts_of_any_size(folder, world, size):
    encoders = {}
    weights = b""
    template = world.release().manifest.encoders["rgb"]
    for name in ("a", "b", "c"):
        data = name.encode() * 1500
        entry = template.weights.model_copy(
            update={"name": f"{name}.safetensors", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
        encoders[name] = template.model_copy(update={"weights": entry})
        weights += data
    release = world.release(encoders=encoders)
    parts = [weights[i : i + size] for i in range(0, len(weights), size)]
    admitted = offer(folder, world, release, files=parts)
    assert admitted.weights("b").read_bytes() == b"b" * 1500
    assert b"".join(admitted.chunks()) == weights


def test_an_unknown_encoder_is_refused_by_name(folder, world):
    with pytest.raises(ReleaseRefused) as caught:
        offer(folder, world, world.release()).weights("sar")
    assert caught.value.reason == "ENCODER_UNKNOWN"


ATTACKS = {
    "rollback": lambda w: ("RELEASE_ROLLBACK", w.release(4), {}),
    "same version, other bytes": lambda w: ("RELEASE_ROLLBACK", w.release(5, metrics={"x": 1.0}), {}),
    "expired": lambda w: ("RELEASE_EXPIRED", w.release(6, expires=START), {}),
    "from the future": lambda w: ("CLOCK_SKEW", w.release(6, created=START + timedelta(hours=1)), {}),
    "other federation": lambda w: ("WRONG_FEDERATION", World(name="andes", release_key=w.release_key).release(6), {}),
    "other key": lambda w: ("RELEASE_KEY_UNKNOWN", w.release(6, key=Ed25519PrivateKey.generate()), {}),
    "mix and match": lambda w: ("RELEASE_DIGEST", w.release(6), {"files": [w.release(5).weights]}),
    "a flipped byte": lambda w: ("RELEASE_DIGEST", w.release(6), {"files": [b"W" + w.release(6).weights[1:]]}),
    "a truncated file": lambda w: ("RELEASE_DIGEST", w.release(6), {"files": [w.release(6).weights[:-1]]}),
    "no file": lambda w: ("RELEASE_DIGEST", w.release(6), {"files": []}),
    "a longer file": lambda w: ("RELEASE_DIGEST", w.release(6), {"files": [w.release(6).weights, b"x"]}),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_refused_release_leaves_the_current_one_and_nothing_else(folder, world, attack):
    current = world.release(5)
    store = ReleaseStore(folder)
    offer(folder, world, current, store=store)
    before = sorted(path.name for path in folder.iterdir())
    reason, release, options = attack(world)
    assert refusal(folder, world, release, store=store, **options) == reason
    for reader in (store, ReleaseStore(folder)):
        assert reader.current().digest == current.digest
    assert sorted(path.name for path in folder.iterdir()) == before
    offer(folder, world, world.release(6))


def test_no_flipped_bit_of_a_manifest_is_ever_stored(folder, world):
    release = world.release()
    store, bundle = ReleaseStore(folder), world.bundle()
    for position in range(0, len(release.header.manifest), 17):
        data = bytearray(release.header.manifest)
        data[position] ^= 1 << position % 8
        header = type(release.header)(
            manifest=bytes(data), signature=release.header.signature, key_id=release.header.key_id
        )
        with pytest.raises(ReleaseRefused) as caught:
            store.admit(header, [release.weights], bundle, federation="alps", now=START)
        assert caught.value.reason == "RELEASE_SIGNATURE"
    assert store.current() is None
    assert not list(folder.glob("[0-9a-f]" * 64))


def test_an_expired_release_stays_expired_when_the_clock_jumps_back(folder, world):
    release = world.release(expires=START + timedelta(days=1))
    late = START + timedelta(days=2)
    assert refusal(folder, world, release, now=late) == "RELEASE_EXPIRED"
    assert refusal(folder, world, release, now=START) == "RELEASE_EXPIRED"


def test_the_latest_time_is_kept_also_when_another_release_is_admitted_meanwhile(folder, world):
    offer(folder, world, world.release(1), now=START + timedelta(days=3))
    offer(folder, world, world.release(2), now=START)
    assert ReleaseStore(folder).history().seen == START + timedelta(days=3)


def test_versions_are_counted_for_each_key_and_never_forgotten(folder, world):
    stolen = world.release((1 << 63) - 1)
    offer(folder, world, world.release(4))
    offer(folder, world, stolen)
    assert refusal(folder, world, world.release(5)) == "RELEASE_ROLLBACK"
    old_key, world.release_key = world.release_key, Ed25519PrivateKey.generate()
    assert refusal(folder, world, stolen) == "RELEASE_KEY_UNKNOWN"
    offer(folder, world, world.release(5))
    assert ReleaseStore(folder).current().manifest.version == 5
    world.release_key = old_key
    assert refusal(folder, world, world.release(6)) == "RELEASE_ROLLBACK"


def test_the_same_release_may_come_again_and_repairs_a_damaged_one(folder, world):
    release = world.release()
    offer(folder, world, release)
    path = offer(folder, world, release).weights("rgb")
    path.write_bytes(b"damaged")
    assert ReleaseStore(folder).current() is None
    with pytest.raises(ReleaseRefused) as caught:
        ReleaseStore(folder).get(release.digest)
    assert caught.value.reason == "RELEASE_DIGEST"
    offer(folder, world, release)
    assert ReleaseStore(folder).current().weights("rgb").read_bytes() == release.weights


@pytest.mark.parametrize("damage", ["manifest.json", "manifest.sig", "weights.safetensors", "key_id"])
def test_a_release_that_lost_a_file_is_not_current(folder, world, damage):
    (offer(folder, world, world.release()).folder / damage).unlink()
    assert ReleaseStore(folder).current() is None


@pytest.mark.parametrize("content", ["", "zz", "00", "../../etc"])
def test_a_damaged_pointer_names_no_release(folder, world, content):
    offer(folder, world, world.release())
    (folder / "current").write_text(content)
    assert ReleaseStore(folder).current() is None


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"highest": {"k": 1}, "seen": null}', '{"highest": 3, "seen": 1}']
)
def test_without_its_record_the_store_admits_nothing(folder, world, content):
    offer(folder, world, world.release())
    (folder / "history.json").write_text(content)
    with pytest.raises(StateError):
        offer(folder, world, world.release(2))


STEPS = ["mkdtemp", "rename", "replace", "fsync", "rmtree"]


@pytest.mark.parametrize("again", ["", "again", "signed anew"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_a_verified_release_and_forgets_no_version(
    tmp_path, world, monkeypatch, step, again
):
    """Stop at the n-th call of every step that touches the disk, for every n; then look, and go on."""
    old, new = world.release(1), world.release(1 if again else 2)
    if again == "signed anew":
        first_key, world.release_key = world.release_key, Ed25519PrivateKey.generate()
        new = replace(new, header=sign(new.header.manifest, world.release_key))
    else:
        first_key = world.release_key
    for number in range(40):
        folder = tmp_path / f"{number}"
        second_key, world.release_key = world.release_key, first_key
        offer(folder, world, old)
        world.release_key = second_key
        with monkeypatch.context() as patch:
            calls = stop_at(patch, step, number)
            try:
                offer(folder, world, new)
            except Crash:
                pass
            else:
                assert calls[0] <= number
                break
        store = ReleaseStore(folder)
        current = store.current()
        assert current.digest in (old.digest, new.digest)
        assert current.weights("rgb").read_bytes() in (old.weights, new.weights)
        assert max(version for version, _ in store.history().highest.values()) >= current.manifest.version
        assert offer(folder, world, new).digest == new.digest
        assert ReleaseStore(folder).current().header == new.header
        if not again:
            assert refusal(folder, world, old) == "RELEASE_ROLLBACK"
    else:
        pytest.fail("the step was reached more often than expected")


def stop_at(patch, step, number):
    """Let the `number`-th call of a step stop the machine; return a list that counts the calls."""
    calls = [0]
    targets = {
        "mkdtemp": (release_store.tempfile, "mkdtemp"),
        "rename": (Path, "rename"),
        "replace": (Path, "replace"),
        "fsync": (os, "fsync"),
        "rmtree": (shutil, "rmtree"),
    }
    owner, name = targets[step]
    original = getattr(owner, name)

    def stopping(*arguments, **options):
        calls[0] += 1
        if calls[0] == number + 1:
            patch.setattr(shutil, "rmtree", stopped)  # a machine that stopped does not tidy up either
            raise Crash
        return original(*arguments, **options)

    def stopped(*_, **__):
        raise Crash

    patch.setattr(owner, name, stopping)
    return calls


def test_files_are_checked_before_the_release_gets_its_name(folder, world, monkeypatch):
    seen = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: seen.append(target) or rename(path, target))
    refusal(folder, world, world.release(), files=[b"wrong"])
    assert seen == []


def test_pruning_keeps_the_current_and_the_one_before(folder, world):
    releases = [world.release(version) for version in range(1, 5)]
    for number, release in enumerate(releases):
        laid = offer(folder, world, release).folder
        os.utime(laid, (number, number))
    left_over = folder / ".staging-old"
    left_over.mkdir()
    os.utime(left_over, (0, 0))
    young = folder / ".staging-young"
    young.mkdir()
    store = ReleaseStore(folder)
    store.prune()
    assert {path.name for path in folder.glob("[0-9a-f]" * 64)} == {r.digest.hex() for r in releases[2:]}
    assert store.current().digest == releases[3].digest
    assert remains(folder) == [".staging-young"]


def test_pruning_an_empty_store_does_nothing(folder):
    ReleaseStore(folder).prune()


def test_a_release_signed_by_two_keys_in_turn_is_one_release(folder, world):
    release = world.release()
    offer(folder, world, release)
    world.release_key = Ed25519PrivateKey.generate()
    again = sign(release.header.manifest, world.release_key)
    ReleaseStore(folder).admit(again, [release.weights], world.bundle(), federation="alps", now=START)
    assert ReleaseStore(folder).current().header.key_id == again.key_id


def test_a_release_that_was_overtaken_while_it_arrived_is_refused(folder, world):
    """Two processes of one member fetch at once: whatever the order, the newer release stays current."""
    old, new = world.release(1), world.release(2)
    slow, quick = ReleaseStore(folder), ReleaseStore(folder)
    with slow.receive(old.header, world.bundle(), federation="alps", now=START) as intake:
        intake.write(old.weights)
        offer(folder, world, new, store=quick)
        with pytest.raises(ReleaseRefused) as caught:
            intake.finish()
    assert caught.value.reason == "RELEASE_ROLLBACK"
    assert slow.current().digest == new.digest
    assert remains(folder) == []


def test_a_genuine_release_under_the_name_of_another_is_not_taken_for_it(folder, world):
    laid = offer(folder, world, world.release(1)).folder
    other = world.release(2)
    (laid / "manifest.json").write_bytes(other.header.manifest)
    (laid / "manifest.sig").write_bytes(other.header.signature)
    (laid / "weights.safetensors").write_bytes(other.weights)
    assert ReleaseStore(folder).current() is None
