"""Names, certificates and when they are believed."""

from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st
from members import CLIENT, SERVER, START, Authority, World, forge

from rsfed.errors import NotAdmitted
from rsfed.trust import certificates
from rsfed.trust.names import MemberId, Role

ADA = "spiffe://alps/analyst/ada"


@pytest.fixture(scope="module")
def world():
    return World()


def uri(text):
    return x509.UniformResourceIdentifier(text)


def reason(chain, cas, now=START):
    with pytest.raises(NotAdmitted) as caught:
        certificates.verify_chain(chain, cas, now=now)
    return caught.value.reason


@pytest.mark.parametrize("role", list(Role))
def test_an_issued_certificate_is_believed_and_names_its_member(world, role):
    identity = world.identity(role, "coordinator" if role is Role.COORDINATOR else "ada")
    assert certificates.verify_chain(identity.chain, [world.cas[0].cert], now=START) == identity.member


def test_leaves_live_as_long_as_their_role_allows_and_are_renewed_at_two_thirds(world):
    for role, days in ((Role.NODE, 30), (Role.COORDINATOR, 30), (Role.ANALYST, 7)):
        leaf = world.identity(role).chain[0]
        assert leaf.not_valid_after_utc == START + timedelta(days=days)
        assert not certificates.needs_renewal(leaf, now=START + timedelta(days=days * 0.66))
        assert certificates.needs_renewal(leaf, now=START + timedelta(days=days * 0.67))


def test_only_serving_roles_get_a_dns_name_and_server_use(world):
    for role in Role:
        leaf = world.identity(role).chain[0]
        usages = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        dns = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
        serves = role is not Role.ANALYST
        assert (SERVER in usages) == serves
        assert bool(dns) == serves
        assert CLIENT in usages


def test_what_a_request_asks_for_beside_its_key_is_ignored(world):
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")]))
        .add_extension(x509.SubjectAlternativeName([uri("spiffe://alps/coordinator/coordinator")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    ca, member = world.cas[0], MemberId.parse(ADA)
    leaf = certificates.issue_leaf(ca.key, ca.cert, greedy, member, now=START)
    assert certificates.verify_chain([leaf], [ca.cert], now=START) == member
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.subject.rfc4514_string() == "CN=ada"


def test_requests_without_proof_of_their_key_or_with_another_kind_of_key_are_refused(world):
    csr = bytearray(certificates.make_csr(ec.generate_private_key(ec.SECP256R1())))
    csr[-1] ^= 1
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    weak = [
        empty.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048))
    ]
    for bad in (bytes(csr), *weak, b"", b"no request"):
        with pytest.raises(NotAdmitted) as caught:
            certificates.issue_leaf(world.cas[0].key, world.cas[0].cert, bad, MemberId.parse(ADA), now=START)
        assert caught.value.reason == "BAD_REQUEST"


def test_another_ca_is_refused_even_when_it_has_the_same_subject(world):
    identity = world.identity(Role.ANALYST)
    stranger = Authority.new()
    assert reason(identity.chain, [stranger.cert]) == "WRONG_CA"
    key, ca = ec.generate_private_key(ec.SECP256R1()), world.cas[0].cert
    twin = x509.CertificateBuilder(
        ca.issuer, ca.subject, key.public_key(), ca.serial_number, ca.not_valid_before_utc, ca.not_valid_after_utc
    )
    for extension in ca.extensions:
        twin = twin.add_extension(extension.value, critical=extension.critical)
    assert reason(identity.chain, [twin.sign(key, hashes.SHA256())]) == "WRONG_CA"


def test_a_self_signed_certificate_and_a_members_own_signature_are_refused(world):
    node = world.identity(Role.NODE)
    as_ca = Authority(node.key, node.chain[0])
    assert reason([forge(as_ca, [uri(ADA)])], [world.cas[0].cert]) == "WRONG_CA"
    selfmade = Authority.new()
    assert reason([forge(selfmade, [uri(ADA)]), selfmade.cert], [world.cas[0].cert]) == "WRONG_CA"


def test_certificates_count_from_their_first_to_their_last_second(world):
    identity = world.identity(Role.ANALYST)
    cas, leaf = [world.cas[0].cert], identity.chain[0]
    first, last = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    assert certificates.verify_chain([leaf], cas, now=first)
    assert certificates.verify_chain([leaf], cas, now=last - timedelta(seconds=1))
    assert reason([leaf], cas, first - timedelta(seconds=1)) == "CERT_NOT_YET_VALID"
    assert reason([leaf], cas, last) == "CERT_EXPIRED"


def test_an_expired_ca_carries_nobody():
    old = Authority.new(now=START - timedelta(days=certificates.CA_DAYS))
    leaf = forge(old, [uri(ADA)])
    assert reason([leaf], [old.cert]) == "CERT_EXPIRED"


ODD_NAMES = {
    "no name": [],
    "two names": [uri(ADA), uri("spiffe://alps/analyst/bob")],
    "the same name twice": [uri(ADA), uri(ADA)],
    "a wildcard": [uri("spiffe://alps/analyst/*")],
    "a NUL": [uri("spiffe://alps/analyst/ada\0")],
    "a NUL inside": [uri("spiffe://alps/analyst/ada\0.evil")],
    "a trailing slash": [uri(ADA + "/")],
    "upper case": [uri("spiffe://alps/analyst/Ada")],
    "another scheme": [uri("SPIFFE://alps/analyst/ada")],
    "no scheme": [uri("alps/analyst/ada")],
    "no name part": [uri("spiffe://alps/analyst")],
    "a longer path": [uri(ADA + "/x")],
    "an empty part": [uri("spiffe://alps//ada")],
    "a port": [uri("spiffe://alps:1/analyst/ada")],
    "a query": [uri(ADA + "?x")],
    "an unknown role": [uri("spiffe://alps/admin/ada")],
    "percent signs": [uri("spiffe://alps/analyst/%61da")],
    "a newline": [uri(ADA + "\n")],
    "a further DNS name": [uri(ADA), x509.DNSName("ada.analyst.alps.rsfed.internal")],
    "a further address": [uri(ADA), x509.IPAddress(ip_address("127.0.0.1"))],
    "a DNS name alone": [x509.DNSName("ada")],
}


@pytest.mark.parametrize("names", ODD_NAMES.values(), ids=ODD_NAMES)
def test_names_in_any_but_the_one_form_are_refused(world, names):
    assert reason([forge(world.cas[0], names)], [world.cas[0].cert]) == "BAD_NAME"


def test_a_node_may_not_carry_the_dns_name_of_another_member(world):
    names = [uri("spiffe://alps/node/dlr"), x509.DNSName("coordinator.coordinator.alps.rsfed.internal")]
    leaf = forge(world.cas[0], names, usages=[CLIENT, SERVER])
    assert reason([leaf], [world.cas[0].cert]) == "BAD_NAME"


@given(st.text(max_size=60) | st.from_regex(r"spiffe://[a-zA-Z0-9*./%\x00-]{0,20}/(node|analyst|NODE)/.{0,20}"))
def test_a_parsed_name_is_the_text_it_was_parsed_from(text):
    with suppress(NotAdmitted):
        assert MemberId.parse(text).uri == text


@pytest.mark.parametrize(
    "changes",
    [
        {"usages": [SERVER]},
        {"usages": [CLIENT, SERVER]},
        {"usages": [x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
        {"is_ca": True},
        {"key_usages": {"digital_signature", "key_cert_sign"}},
        {"key": ec.generate_private_key(ec.SECP384R1())},
        {"key": rsa.generate_private_key(65537, 2048)},
        {"extra": x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"x")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_certificates_of_another_form_than_ours_are_refused(world, changes):
    assert reason([forge(world.cas[0], [uri(ADA)], **changes)], [world.cas[0].cert]) == "BAD_CERTIFICATE"


def test_a_certificate_has_one_spelling(world):
    """A bit string may leave bits of its last byte unused: the same signature in other bytes, when they are zero."""
    leaf = world.identity(Role.ANALYST).chain[0]
    while leaf.signature[-1] & 0x0F:
        leaf = world.identity(Role.ANALYST).chain[0]
    der = bytearray(certificates.to_der(leaf))
    der[-len(leaf.signature) - 1] = 4
    (respelt,) = certificates.load_chain([bytes(der)])
    assert certificates.is_issued_by(respelt, world.cas[0].cert)
    assert reason([respelt], [world.cas[0].cert]) == "BAD_CERTIFICATE"


def test_no_certificate_is_a_refusal_and_not_a_crash(world):
    assert reason([], [world.cas[0].cert]) == "BAD_CERTIFICATE"
    for bad in (b"", b"text", [b"\x30\x03"], [], [certificates.to_der(world.cas[0].cert)[:-3]]):
        with pytest.raises(NotAdmitted) as caught:
            certificates.load_chain(bad)
        assert caught.value.reason == "BAD_CERTIFICATE"


def test_serial_numbers_are_long_and_differ(world):
    serials = {world.identity(Role.ANALYST).chain[0].serial_number for _ in range(20)}
    assert len(serials) == 20
    assert max(serials).bit_length() > 120
