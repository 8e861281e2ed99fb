"""Who may join, stay and come back; every change reaches the trust bundle."""

import threading
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from founded import SEALING_KEY, member

from coordinator import audit
from coordinator.authority import ISSUED_PER_HOUR
from coordinator.registry import Announcement, Registry
from rsfed.errors import Busy, InvalidMessage, NotAdmitted, UsageError
from rsfed.trust.bundle import check_member
from rsfed.trust.certificates import is_issued_by, make_csr
from rsfed.trust.identity import Identity
from rsfed.trust.names import Role
from rsfed.trust.recovery import recovery_request
from rsfed.trust.tokens import decode_token


def csr():
    return make_csr(ec.generate_private_key(ec.SECP256R1()))


def redeem(federation, token, request=None):
    return federation.authority.enroll(token.invitation, token.secret, request or csr(), SEALING_KEY)


def refused(reason, act):
    with pytest.raises(NotAdmitted) as caught:
        act()
    assert caught.value.reason == reason


def test_a_token_says_where_to_join_and_whom_to_believe(federation):
    token = decode_token(federation.authority.invite("bern", Role.NODE, hours=1).encode())
    assert token.address == federation.config.serve.join_advertise
    assert token.server_name == "coordinator.coordinator.alps.rsfed.internal"
    assert token.member == member("bern")


def test_an_enrolled_member_is_believed_and_listed_with_its_sealing_key(federation):
    admission = redeem(federation, federation.authority.invite("bern", Role.NODE, hours=1))
    bundle = federation.bundle()
    assert check_member(bundle, admission.chain, now=federation.clock()) == member("bern")
    assert bundle.members[member("bern").uri] == SEALING_KEY
    assert bundle.version > 0


def test_the_role_comes_from_the_invitation(federation):
    admission = redeem(federation, federation.authority.invite("ada", Role.ANALYST, hours=1))
    assert check_member(federation.bundle(), admission.chain, now=federation.clock()).role is Role.ANALYST


def test_a_token_works_once(federation):
    token = federation.authority.invite("bern", Role.NODE, hours=1)
    redeem(federation, token)
    refused("TOKEN_USED", lambda: redeem(federation, token))


def test_fifty_threads_with_one_token_get_one_certificate(federation):
    token = federation.authority.invite("bern", Role.NODE, hours=1)
    start, outcomes = threading.Barrier(50), []

    def race():
        start.wait()
        try:
            redeem(federation, token)
            outcomes.append("admitted")
        except NotAdmitted as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=race) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["TOKEN_USED"] * 49 + ["admitted"]
    with federation.state.reading() as connection:
        assert connection.execute("SELECT count(*) FROM certificate WHERE member LIKE '%bern'").fetchone()[0] == 1


def test_an_expired_token_is_refused(federation):
    token = federation.authority.invite("bern", Role.NODE, hours=1)
    federation.clock.move(hours=1)
    refused("TOKEN_EXPIRED", lambda: redeem(federation, token))


def test_a_guessed_secret_tells_nothing_about_the_invitation(federation):
    token = federation.authority.invite("bern", Role.NODE, hours=1)
    redeem(federation, token)
    for invitation in (token.invitation, "0" * 16):
        refused("TOKEN_UNKNOWN", lambda i=invitation: federation.authority.enroll(i, b"guess", csr(), SEALING_KEY))


def test_a_bad_request_leaves_the_invitation_open(federation):
    token = federation.authority.invite("bern", Role.NODE, hours=1)
    refused("BAD_REQUEST", lambda: redeem(federation, token, b"no request"))
    with pytest.raises(InvalidMessage):
        federation.authority.enroll(token.invitation, token.secret, csr(), b"short")
    redeem(federation, token)


def test_a_new_invitation_withdraws_the_older_one_of_the_same_member(federation):
    first = federation.authority.invite("bern", Role.NODE, hours=1)
    federation.authority.invite("bern", Role.NODE, hours=1)
    refused("TOKEN_WITHDRAWN", lambda: redeem(federation, first))


def test_joining_again_revokes_the_lost_certificate_once_the_token_is_used(federation):
    lost, _ = federation.enroll("bern")
    token = federation.authority.invite("bern", Role.NODE, hours=1)
    check_member(federation.bundle(), lost.chain, now=federation.clock())  # the invitation alone changes nothing
    fresh = redeem(federation, token)
    refused("REVOKED", lambda: check_member(federation.bundle(), lost.chain, now=federation.clock()))
    assert check_member(federation.bundle(), fresh.chain, now=federation.clock()) == member("bern")


def test_a_revoked_member_is_out_by_name_and_may_be_invited_again(federation):
    admission, _ = federation.enroll("bern")
    waiting = federation.authority.invite("bern", Role.NODE, hours=1)
    federation.authority.revoke("bern")
    refused("REVOKED", lambda: check_member(federation.bundle(), admission.chain, now=federation.clock()))
    refused("REVOKED", lambda: federation.authority.renew(member("bern"), admission.chain[0], csr()))
    refused("TOKEN_WITHDRAWN", lambda: redeem(federation, waiting))
    assert member("bern").uri not in federation.bundle().members
    again = redeem(federation, federation.authority.invite("bern", Role.NODE, hours=1))
    assert check_member(federation.bundle(), again.chain, now=federation.clock()) == member("bern")
    refused("REVOKED", lambda: check_member(federation.bundle(), admission.chain, now=federation.clock()))


def test_revoking_asks_for_the_role_where_two_share_a_name(federation):
    federation.enroll("bern")
    analyst, _ = federation.enroll("bern", Role.ANALYST)
    with pytest.raises(UsageError, match="--role"):
        federation.authority.revoke("bern")
    federation.authority.revoke("bern", Role.NODE)
    check_member(federation.bundle(), analyst.chain, now=federation.clock())


@pytest.mark.parametrize("name", ["nobody", "coordinator"])
def test_who_is_not_a_node_or_analyst_cannot_be_revoked(federation, name):
    with pytest.raises(UsageError):
        federation.authority.revoke(name)


@pytest.mark.parametrize("name", ["Bern", "", "a/b", "-x"])
def test_only_plain_names_are_invited(federation, name):
    with pytest.raises(UsageError):
        federation.authority.invite(name, Role.NODE, hours=1)


def test_renewal_keeps_the_name_and_takes_the_new_key(federation):
    before, _ = federation.enroll("bern")
    after = federation.authority.renew(member("bern"), before.chain[0], csr())
    assert check_member(federation.bundle(), after.chain, now=federation.clock()) == member("bern")
    assert after.chain[0].public_key() != before.chain[0].public_key()


def test_who_was_replaced_while_its_renewal_was_on_its_way_gets_nothing(federation):
    lost, _ = federation.enroll("bern")
    federation.enroll("bern")
    refused("REVOKED", lambda: federation.authority.renew(member("bern"), lost.chain[0], csr()))


def test_a_member_gets_a_few_certificates_an_hour(federation):
    present = federation.enroll("bern")[0].chain[0]
    for _ in range(ISSUED_PER_HOUR - 1):
        present = federation.authority.renew(member("bern"), present, csr()).chain[0]
    with pytest.raises(Busy) as caught:
        federation.authority.renew(member("bern"), present, csr())
    assert caught.value.reason == "RENEWED_TOO_OFTEN"
    federation.enroll("graz")
    federation.clock.move(hours=1)
    federation.authority.renew(member("bern"), present, csr())


def test_the_bundle_lists_serials_only_of_members_that_are_not_out_by_name(federation):
    lost, _ = federation.enroll("bern")
    federation.authority.revoke("bern")
    assert federation.bundle().revoked_serials == frozenset()
    federation.enroll("bern")
    assert federation.bundle().revoked_serials == {lost.chain[0].serial_number}


def test_joining_again_forgets_where_the_former_holder_was_reached(federation):
    registry = Registry(federation.state, federation.clock)
    federation.enroll("bern")
    registry.announce(Announcement("bern", "localhost:1", "0.1.0", 1, 1, b"d" * 32, 1, 1, federation.clock()))
    federation.enroll("bern", Role.ANALYST)
    registry.reload()
    assert [node.name for node in registry.nodes()] == ["bern"]
    federation.enroll("bern")
    registry.reload()
    assert registry.nodes() == []


def recovery(federation, days, *, key=None, created_off=0.0):
    """Ask for recovery so many days after the leaf of a node expired."""
    admission, own_key = federation.enroll("bern")
    federation.clock.move(days=30 + days)
    federation.upkeep.once()
    identity = Identity(member("bern"), key or own_key, admission.chain, None, None)
    return recovery_request(identity, csr(), now=federation.clock() + timedelta(seconds=created_off))


def test_an_expired_certificate_is_exchanged_up_to_thirty_days_late(federation):
    admission = federation.authority.recover(recovery(federation, 29.9))
    assert check_member(federation.bundle(), admission.chain, now=federation.clock()) == member("bern")


def test_recovery_after_thirty_days_is_refused(federation):
    request = recovery(federation, 30.1)
    refused("CERT_EXPIRED", lambda: federation.authority.recover(request))


@pytest.mark.parametrize("seconds", [61, -61])
def test_a_recovery_request_that_was_not_made_now_is_refused(federation, seconds):
    request = recovery(federation, 1, created_off=seconds)
    refused("CLOCK_SKEW", lambda: federation.authority.recover(request))


def test_recovery_needs_the_key_of_the_certificate(federation):
    request = recovery(federation, 1, key=ec.generate_private_key(ec.SECP256R1()))
    refused("RECOVER_SIGNATURE", lambda: federation.authority.recover(request))


def test_a_certificate_that_was_replaced_by_joining_again_is_never_recovered(federation):
    request = recovery(federation, 1)
    federation.enroll("bern")
    refused("REVOKED", lambda: federation.authority.recover(request))


def test_a_revoked_member_does_not_recover(federation):
    request = recovery(federation, 1)
    federation.authority.revoke("bern")
    refused("REVOKED", lambda: federation.authority.recover(request))


def test_everything_is_in_the_audit_record_and_stays_there(federation):
    federation.enroll("bern")
    federation.authority.revoke("bern")
    with federation.state.reading() as connection:
        kinds = [entry.kind for entry in audit.entries(connection)]
        assert kinds[:1] == ["federation.founded"]
        assert kinds[-3:] == ["member.invited", "member.enrolled", "member.revoked"]
        for statement in ("DELETE FROM audit", "UPDATE audit SET kind = 'x'"):
            with pytest.raises(Exception, match="append-only"):
                connection.execute(statement)


def test_a_kind_of_line_is_found_among_any_number_of_others(federation):
    with federation.state.writing() as connection:
        for number in range(30):
            audit.record(connection, federation.clock(), "rare" if number % 10 == 0 else "common", str(number))
    with federation.state.reading() as connection:
        assert [e.subject for e in audit.entries(connection, kind="rare")] == ["0", "10", "20"]
        assert [e.subject for e in audit.entries(connection, kind="rare", last=2)] == ["10", "20"]


def test_the_coordinators_own_certificate_is_of_the_ca(federation):
    chain = federation.authority.renew_own(csr())
    assert is_issued_by(chain[0], chain[1])
    assert check_member(federation.bundle(), chain, now=federation.clock()) == federation.coordinator
