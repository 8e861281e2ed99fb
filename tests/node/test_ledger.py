"""The ledger: a query is answered once, and its handles can be traced for 90 days."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from members import World
from serving import Asker, make_home, publish, random_codes

import node.state
from node.ledger import KEPT, Ledger
from node.state import audited_to, open_state
from rsfed.errors import Busy, EnvelopeRefused
from rsfed.home import transaction
from rsfed.trust.audit_log import Position
from rsfed.trust.envelope import verify_envelope


@pytest.fixture
def world():
    return World()


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "node")


@pytest.fixture
def query(world, home):
    release = publish(home, world)

    def ask(**changes):
        signed = Asker(world).ask(release, random_codes(1), **changes)
        return verify_envelope(signed, world.bundle(), now=world.clock())

    return ask


def test_a_query_is_answered_once_even_after_a_restart(world, home, query):
    asked = query()
    Ledger(open_state(home)).record(asked, now=world.clock())
    with pytest.raises(EnvelopeRefused) as refused:
        Ledger(open_state(home)).record(asked, now=world.clock())
    assert refused.value.reason == "REPLAY"


def test_a_query_sent_many_times_at_once_is_answered_once(world, home, query):
    asked, ledger = query(), Ledger(open_state(home))

    def attempt(_):
        try:
            return ledger.record(asked, now=world.clock())
        except EnvelopeRefused as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(32)))
    assert outcomes.count("REPLAY") == 31


def test_another_process_sees_the_entry_as_soon_as_the_query_may_be_answered(world, home, query):
    entry = Ledger(open_state(home)).record(asked := query(), now=world.clock())
    other = Ledger(open_state(home))
    assert other.by_salt(entry.salt, now=world.clock()) == entry
    assert other.by_query(asked.envelope.query_id, now=world.clock()) == entry
    assert (entry.requester, entry.envelope_digest) == ("spiffe://alps/analyst/ada", asked.digest)


def test_while_another_process_writes_a_query_is_told_to_come_again_and_old_entries_stay(
    world, home, query, monkeypatch
):
    monkeypatch.setattr(node.state, "PATIENCE_MS", 50)
    ledger, other = Ledger(open_state(home)), open_state(home)
    entry, asked = ledger.record(query(), now=world.clock()), query()
    with transaction(other):
        with pytest.raises(Busy):
            ledger.record(asked, now=world.clock())
        ledger.prune(now=world.clock() + 2 * KEPT)
    assert ledger.by_salt(entry.salt, now=world.clock()) == entry
    ledger.record(asked, now=world.clock())


def test_entries_are_forgotten_after_90_days(world, home, query):
    ledger = Ledger(open_state(home))
    entry = ledger.record(query(), now=world.clock())
    world.clock.move(days=89)
    ledger.prune(now=world.clock())
    assert ledger.by_salt(entry.salt, now=world.clock())
    world.clock.move(days=2)
    assert ledger.by_salt(entry.salt, now=world.clock()) is None
    ledger.prune(now=world.clock())
    world.clock.move(days=-10)
    assert ledger.by_salt(entry.salt, now=world.clock()) is None


def test_a_query_notes_how_far_the_audit_log_was(world, home, query):
    position = Position("ab" * 16, 7, bytes(32))
    Ledger(open_state(home), audited=lambda: position).record(query(), now=world.clock())
    assert audited_to(open_state(home)) == position


def test_a_restored_node_answers_no_query_that_it_may_have_answered_before(world, home, query):
    ledger = Ledger(open_state(home), restored_at=world.clock())
    with pytest.raises(EnvelopeRefused) as refused:
        ledger.record(query(created=world.clock() - timedelta(seconds=1)), now=world.clock())
    assert refused.value.reason == "REPLAY"
    ledger.record(query(), now=world.clock())


def test_no_two_queries_share_a_salt(world, home, query):
    ledger = Ledger(open_state(home))
    assert len({ledger.record(query(), now=world.clock()).salt for _ in range(50)}) == 50


def test_closing_waits_for_a_thread_that_is_writing(home, world):
    """SQLite takes the process down when a connection is closed in the middle of a call."""
    ledger = Ledger(open_state(home))
    with ledger._writing():
        closing = threading.Thread(target=ledger.close)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        ledger._connection.execute("DELETE FROM query_ledger")
    closing.join()
    ledger.prune(now=world.clock())  # comes late, is logged and harms nobody
