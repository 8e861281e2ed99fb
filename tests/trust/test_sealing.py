"""Sealing: only its recipient reads it, and only as what its sender meant."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from members import World

from rsfed.errors import NotAdmitted, RsfedError, SealRefused
from rsfed.trust import sealing
from rsfed.trust.certificates import to_der
from rsfed.trust.names import Role
from rsfed.trust.sealing import OVERHEAD_BYTES, SUITE, Purpose, open_sealed, seal, sealing_key_of
from rsfed.v1.access_pb2 import SignedContent

WORLD = World()
NODE = WORLD.identity(Role.NODE, "berne")
ADA, EVE = (WORLD.identity(Role.ANALYST, name) for name in ("ada", "eve"))
CONTEXT = b"a call's id"


def key_of(identity):
    return identity.sealing_key.public_key().public_bytes_raw()


def sealed(content=b"secret", *, sender=NODE, recipient=ADA, purpose=Purpose.ACCESS_ANSWER, context=CONTEXT):
    return seal(content, purpose, sender=sender, recipient=recipient.member, key=key_of(recipient), context=context)


def opened(box, *, recipient=ADA, key=None, purpose=Purpose.ACCESS_ANSWER, context=CONTEXT, **how):
    how = {"bundle": WORLD.bundle(), "now": WORLD.clock(), **how}
    return open_sealed(
        box, purpose, recipient=recipient.member, key=key or recipient.sealing_key, context=context, **how
    )


def reason(act, *arguments, **how):
    with pytest.raises(RsfedError) as caught:
        act(*arguments, **how)
    return caught.value.reason


# RFC 9180, appendix A.1.1.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, sequence number 0
RFC_KEY = "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"
RFC_ENC = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
RFC_INFO = "4f6465206f6e2061204772656369616e2055726e"
RFC_CT = "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"


def test_the_suite_is_that_of_the_rfc():
    """The vectors have additional data, which the public calls do not take."""
    key, box = X25519PrivateKey.from_private_bytes(bytes.fromhex(RFC_KEY)), bytes.fromhex(RFC_ENC + RFC_CT)
    text = rust_openssl.hpke._decrypt_with_aad(SUITE, box, key, bytes.fromhex(RFC_INFO), b"Count-0")
    assert text == b"Beauty is truth, truth beauty"


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_what_was_sealed_is_opened_with_its_sender(content, context):
    found = opened(sealed(content, context=context), context=context, sender=NODE.member)
    assert (found.content, found.sender) == (content, NODE.member)
    assert found.serial == NODE.chain[0].serial_number


def test_what_is_sealed_shows_nothing_and_is_little_longer():
    box = sealed(b"secret" * 100)
    assert b"secret" not in box
    assert NODE.member.uri.encode() not in box
    assert len(box) < 600 + OVERHEAD_BYTES
    assert sealed(b"secret" * 100) != box


@pytest.mark.parametrize(
    "other",
    [
        {"recipient": EVE},
        {"key": EVE.sealing_key},
        {"recipient": EVE, "key": ADA.sealing_key},
        {"purpose": Purpose.ACCESS_DELIVERY},
        {"context": b"another call's id"},
        {"context": b""},
    ],
)
def test_nobody_opens_it_otherwise_than_it_was_meant(other):
    assert reason(opened, sealed(), **other) == "SEAL_BROKEN"


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_bit_of_it_can_be_changed(place, change):
    box = bytearray(sealed())
    box[place % len(box)] ^= change
    assert reason(opened, bytes(box)) == "SEAL_BROKEN"


@pytest.mark.parametrize("box", [b"", b"x", bytes(48), bytes(1000)])
def test_what_was_never_sealed_is_refused(box):
    assert reason(opened, box) == "SEAL_BROKEN"


def test_what_was_cut_short_is_refused():
    assert reason(opened, sealed()[:-1]) == "SEAL_BROKEN"


def resealed(change, *, recipient=ADA, context=CONTEXT):
    """What somebody who opened a box for eve makes of it for another."""
    inner = SignedContent.FromString(
        SUITE.decrypt(sealed(recipient=EVE), EVE.sealing_key, sealing._info(Purpose.ACCESS_ANSWER, EVE.member, CONTEXT))
    )
    change(inner)
    info = sealing._info(Purpose.ACCESS_ANSWER, recipient.member, context)
    return SUITE.encrypt(inner.SerializeToString(), recipient.sealing_key.public_key(), info)


def test_a_recipient_cannot_pass_it_on_as_meant_for_another():
    assert reason(opened, resealed(lambda inner: None)) == "SEAL_SIGNATURE"


def test_nor_put_other_words_or_another_name_into_it():
    def other_words(inner):
        inner.content = b"yes"

    def other_name(inner):
        inner.certificate_chain[:] = [to_der(certificate) for certificate in ADA.chain]

    assert reason(opened, resealed(other_words, recipient=EVE), recipient=EVE) == "SEAL_SIGNATURE"
    assert reason(opened, resealed(other_name, recipient=EVE), recipient=EVE) == "SEAL_SIGNATURE"


def test_it_must_come_from_whom_it_should():
    assert reason(opened, sealed(sender=EVE), sender=NODE.member) == "SEAL_SENDER"


def test_a_sender_who_was_put_out_is_not_believed():
    box = sealed()
    revoked = WORLD.bundle()
    assert reason(opened, box, bundle=replace(revoked, revoked_names=frozenset({NODE.member.uri}))) == "REVOKED"
    serials = frozenset({NODE.chain[0].serial_number})
    assert reason(opened, box, bundle=replace(revoked, revoked_serials=serials)) == "REVOKED"
    assert reason(opened, box, now=WORLD.clock() + timedelta(days=31)) == "CERT_EXPIRED"
    stranger = World().identity(Role.NODE, "berne")
    assert reason(opened, sealed(sender=stranger)) == "WRONG_CA"


def test_a_member_without_a_sealing_key_cannot_be_sealed_for():
    bundle = WORLD.bundle()
    known = replace(bundle, members={ADA.member.uri: key_of(ADA), EVE.member.uri: b""})
    assert sealing_key_of(known, ADA.member) == key_of(ADA)
    for member in (EVE.member, NODE.member):
        with pytest.raises(NotAdmitted) as caught:
            sealing_key_of(known, member)
        assert caught.value.reason == "NO_SEALING_KEY"
        assert "joined just now has to wait up to 30 seconds" in caught.value.public
    gone = replace(known, revoked_names=frozenset({ADA.member.uri}))
    assert reason(sealing_key_of, gone, ADA.member) == "NO_SEALING_KEY"


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32)])
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(SealRefused) as caught:
        seal(b"x", Purpose.ACCESS_CALL, sender=ADA, recipient=NODE.member, key=key)
    assert caught.value.reason == "SEALING_KEY"
