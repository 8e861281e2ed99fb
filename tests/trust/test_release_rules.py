"""Attacks on releases, in the manner of The Update Framework: the rules alone, without disk."""

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from members import START, World, sign

from rsfed.errors import ReleaseRefused
from rsfed.trust.manifest import MAX_MANIFEST_BYTES, FileEntry, parse_manifest
from rsfed.trust.release_rules import ReleaseHistory, admit, key_id, verify_header


@pytest.fixture(scope="module")
def world():
    return World()


def verify(world, header):
    return verify_header(header.manifest, header.signature, header.key_id, world.bundle().release_keys)


def refusal(action, *arguments, **options):
    with pytest.raises(ReleaseRefused) as caught:
        action(*arguments, **options)
    return caught.value.reason


def offer(history, release, now=START, federation="alps"):
    admit(history, release.manifest, release.digest, release.header.key_id, federation=federation, now=now)


def after(*releases, seen=None):
    history = ReleaseHistory(seen=seen)
    for release in releases:
        history = history.with_release(release.header.key_id, release.manifest.version, release.digest)
    return history


def signed_json(world, **changes):
    fields = json.loads(world.release().header.manifest)
    fields.update(changes)
    return sign(json.dumps(fields).encode(), world.release_key)


def test_a_genuine_release_is_read_and_admitted(world):
    release = world.release()
    assert verify(world, release.header) == release.manifest
    offer(ReleaseHistory(), release)


def test_one_flipped_bit_in_any_byte_of_the_manifest_is_refused(world):
    header, keys = world.release().header, world.bundle().release_keys
    for position in range(len(header.manifest)):
        data = bytearray(header.manifest)
        data[position] ^= 1 << position % 8
        assert refusal(verify_header, bytes(data), header.signature, header.key_id, keys) == "RELEASE_SIGNATURE"


def test_one_flipped_bit_in_any_byte_of_the_signature_is_refused(world):
    header, keys = world.release().header, world.bundle().release_keys
    for position in range(len(header.signature)):
        data = bytearray(header.signature)
        data[position] ^= 1 << position % 8
        assert refusal(verify_header, header.manifest, bytes(data), header.key_id, keys) == "RELEASE_SIGNATURE"


def test_an_unsigned_and_a_truncated_release_are_refused(world):
    header, keys = world.release().header, world.bundle().release_keys
    for signature in (b"", b"x", header.signature[:-1], bytes(64)):
        assert refusal(verify_header, header.manifest, signature, header.key_id, keys) == "RELEASE_SIGNATURE"
    for manifest in (b"", header.manifest[:-1], header.manifest + b" "):
        assert refusal(verify_header, manifest, header.signature, header.key_id, keys) == "RELEASE_SIGNATURE"


def test_a_release_of_another_key_is_refused_under_its_own_and_under_a_known_name(world):
    stranger = Ed25519PrivateKey.generate()
    header = world.release(key=stranger).header
    assert refusal(verify, world, header) == "RELEASE_KEY_UNKNOWN"
    header.key_id = key_id(world.release_key.public_key())
    assert refusal(verify, world, header) == "RELEASE_SIGNATURE"
    header.key_id = ""
    assert refusal(verify, world, header) == "RELEASE_KEY_UNKNOWN"


def test_a_huge_manifest_is_refused_whoever_signed_it(world):
    assert verify(world, signed_json(world, padding="x" * (MAX_MANIFEST_BYTES - 4096)))
    assert refusal(verify, world, signed_json(world, padding="x" * MAX_MANIFEST_BYTES)) == "RELEASE_MALFORMED"


def test_a_lower_version_is_a_rollback(world):
    assert refusal(offer, after(world.release(5)), world.release(4)) == "RELEASE_ROLLBACK"
    offer(after(world.release(5)), world.release(6))


def test_the_same_version_with_other_bytes_is_a_rollback(world):
    first, other = world.release(5), world.release(5, metrics={"map": 0.5})
    offer(after(first), first)
    assert refusal(offer, after(first), other) == "RELEASE_ROLLBACK"


def test_an_expired_release_is_refused_and_stays_so_when_the_clock_goes_back(world):
    release = world.release(expires=START + timedelta(days=1))
    offer(ReleaseHistory(), release, now=START + timedelta(days=1, seconds=-1))
    assert refusal(offer, ReleaseHistory(), release, now=START + timedelta(days=1)) == "RELEASE_EXPIRED"
    seen = ReleaseHistory().at(START + timedelta(days=2))
    assert seen.at(START).seen == START + timedelta(days=2)
    assert refusal(offer, seen, release, now=START) == "RELEASE_EXPIRED"


def test_a_release_from_the_future_and_one_of_another_federation_are_refused(world):
    early = world.release(created=START + timedelta(seconds=61))
    assert refusal(offer, ReleaseHistory(), early) == "CLOCK_SKEW"
    assert refusal(offer, ReleaseHistory(), world.release(), federation="andes") == "WRONG_FEDERATION"


def test_fast_forward_by_a_stolen_key_is_undone_by_changing_the_key():
    world = World()
    stolen = world.release((1 << 63) - 1)
    history = after(world.release(4), stolen)
    assert refusal(offer, history, world.release(5)) == "RELEASE_ROLLBACK"
    world.release_key = Ed25519PrivateKey.generate()
    assert refusal(verify, world, stolen.header) == "RELEASE_KEY_UNKNOWN"
    fresh = world.release(5)
    assert verify(world, fresh.header).version == 5
    offer(history, fresh)
    assert refusal(offer, history.with_release(fresh.header.key_id, 5, fresh.digest), world.release(4)) == (
        "RELEASE_ROLLBACK"
    )


@pytest.mark.parametrize("changes", [{"schema": "2.0"}, {"schema": "10.1"}, {"critical": ["sealed_weights"]}])
def test_what_this_software_cannot_understand_is_refused_with_the_remedy(world, changes):
    with pytest.raises(ReleaseRefused, match="update rsfed") as caught:
        verify(world, signed_json(world, **changes))
    assert caught.value.reason == "RELEASE_SCHEMA"


def test_a_manifest_from_before_calibration_has_no_table(world):
    raw = json.loads(signed_json(world, schema="1.0").manifest)
    raw.pop("calibration", None)
    manifest = parse_manifest(json.dumps(raw).encode())
    assert manifest.calibration == {}
    assert manifest.calibration_of("rgb", "rgb") is None


def test_unknown_keys_of_a_higher_minor_are_ignored_and_known_critical_ones_are_fine(world):
    header = signed_json(world, schema="1.7", sealed_weights=True, critical=["bits", "schema"])
    assert verify(world, header).bits == 32


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": None},
        {"schema": "one"},
        {"schema": "1.x"},
        {"critical": 7},
        {"critical": [[]]},
        {"version": 0},
        {"version": 1 << 63},
        {"version": "many"},
        {"encoders": {}},
        {"expires": "tomorrow"},
        {"expires": "2031-01-01T00:00:00"},
    ],
    ids=str,
)
def test_signed_nonsense_is_refused_as_unreadable(world, changes):
    assert refusal(verify, world, signed_json(world, **changes)) == "RELEASE_MALFORMED"


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"{", b"[" * 100_000], ids=range(6))
def test_signed_bytes_that_are_no_manifest_are_refused(data):
    assert refusal(parse_manifest, data) == "RELEASE_MALFORMED"


@pytest.mark.parametrize(
    "name", ["manifest.json", "manifest.sig", "key_id", "../weights", "a/b", ".hidden", "UPPER", "", "a" * 65]
)
def test_files_have_harmless_names_of_their_own(world, name):
    encoders = json.loads(world.release().header.manifest)["encoders"]
    encoders["rgb"]["weights"]["name"] = name
    assert refusal(verify, world, signed_json(world, encoders=encoders)) == "RELEASE_MALFORMED"


def test_two_encoders_may_share_a_file_but_not_a_name(world):
    encoder = world.release().manifest.encoders["rgb"]
    shared = world.release(encoders={"a": encoder, "b": encoder})
    assert shared.manifest.files() == [encoder.weights]
    other = encoder.model_copy(update={"weights": FileEntry(name=encoder.weights.name, size=1, sha256="0" * 64)})
    with pytest.raises(ValueError, match="share a name"):
        world.release(encoders={"a": encoder, "b": other})


@pytest.mark.parametrize(
    "codebook",
    [
        [{"class_id": 1, "code": "00" * 8}],
        [{"class_id": 1, "code": "00" * 4}, {"class_id": 1, "code": "ff" * 4}],
        [{"class_id": 1, "code": "00" * 4}, {"class_id": 2, "code": "00" * 4}],
        [{"class_id": 1, "code": "00" * 4, "varied": [32]}],
        [{"class_id": 1, "code": "00" * 4, "varied": [5, 5]}],
    ],
)
def test_a_codebook_that_is_not_of_its_codes_or_names_anything_twice_is_refused(world, codebook):
    assert refusal(verify, world, signed_json(world, codebook=codebook)) == "RELEASE_MALFORMED"


def test_a_codebook_is_a_list_as_software_of_before_reads_it_and_may_be_left_out(world):
    raw = json.loads(world.release().header.manifest)
    assert (raw["codebook"], raw.pop("codebook_reach")) == ([], 0)
    assert parse_manifest(json.dumps(raw | {"schema": "1.1"}).encode()).codebook == ()
    assert verify(world, signed_json(world, codebook=[{"class_id": 1, "code": "00" * 4}])).codebook[0].class_id == 1
