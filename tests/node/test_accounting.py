"""The accountant of counts: a charge outlives every crash, and no older state of the node gets a second budget."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from members import World
from serving import begin_audit_log_anew, make_auditor, make_home, publish

from node.accounting import Accountant
from node.auditing import Kind
from node.backup import back_up, restore
from node.state import open_state
from rsfed.errors import StateError
from rsfed.trust.audit_log import read_entries


class Node:
    """One home with an accountant, and its clock."""

    def __init__(self, folder):
        self.world = World()
        self.home = make_home(folder / "node")
        self.release = publish(self.home, self.world)
        self.auditor = make_auditor(self.home, self.world)

    def charge(self, epsilon=0.5, *, release=None, note=None):
        with closing(open_state(self.home)) as connection:
            accountant = Accountant(self.home, connection, note or self.auditor.note)
            return accountant.charge(release or self.release, epsilon, now=self.world.clock())

    def refused(self, **changes):
        with pytest.raises(StateError) as refused:
            self.charge(**changes)
        return refused.value.reason

    def copy_of_state(self, path):
        with closing(open_state(self.home)) as connection, closing(sqlite3.connect(path)) as copy:
            connection.backup(copy)

    def put_state(self, path):
        for end in ("", "-wal", "-shm"):
            self.home.database.with_name(self.home.database.name + end).unlink(missing_ok=True)
        if path is None:
            open_state(self.home, anew=True).close()  # as an ingest does
        else:
            path.rename(self.home.database)


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_epochs_are_charged_until_the_budget_of_the_release_is_spent_and_the_next_release_has_its_own(node):
    assert [node.charge().number for _ in range(4)] == [1, 2, 3, 4]
    assert node.refused() == "COUNTS_SPENT"
    assert node.charge(release=publish(node.home, node.world, 2)).number == 1


def test_a_charge_is_in_the_audit_log(node):
    node.charge(0.25)
    entries = [entry for entry in read_entries(node.home.audit) if Kind.COUNTS_CHARGED.encode() in entry]
    assert len(entries) == 1
    assert node.release.digest.hex().encode() in entries[0]
    assert b'"epsilon":"0.25"' in entries[0]


def test_a_charge_that_could_not_be_noted_is_not_given_back(node):
    def fails(*_, **__):
        raise StateError("the disk is full", reason="AUDIT_UNWRITABLE")

    assert node.refused(note=fails) == "AUDIT_UNWRITABLE"
    assert node.charge().number == 2


def test_an_older_database_gets_no_second_budget(node, tmp_path):
    node.charge()
    node.copy_of_state(tmp_path / "older.sqlite")
    node.charge()
    node.put_state(tmp_path / "older.sqlite")
    assert node.refused() == "COUNTS_STORE"
    assert node.charge(release=publish(node.home, node.world, 2)).number == 1  # the way out


def test_a_database_that_is_gone_gets_no_second_budget(node):
    node.charge()
    node.put_state(None)
    assert node.refused() == "COUNTS_STORE"


@pytest.mark.parametrize("damage", ["DELETE FROM count_charge WHERE number = 1", "UPDATE count_charge SET epsilon = 0",
                                    "UPDATE count_charge SET at = 'yesterday'"])  # fmt: skip
def test_a_damaged_record_publishes_nothing(node, damage):
    node.charge()
    node.charge()
    with closing(open_state(node.home)) as connection:
        connection.execute(damage)
    assert node.refused() == "COUNTS_STORE"


def test_a_clock_that_was_set_back_publishes_nothing_under_any_release(node):
    node.charge()
    second = publish(node.home, node.world, 2)
    node.world.clock.move(minutes=-1)
    assert node.refused() == "CLOCK_BACK"
    assert node.refused(release=second) == "CLOCK_BACK"


def test_a_restored_home_publishes_no_more_under_the_releases_of_before(node, tmp_path):
    back_up(node.home, tmp_path / "backup", now=node.world.clock())
    node.charge()
    restore(tmp_path / "backup", type(node.home)(tmp_path / "again"), now=node.world.clock())
    node.home = type(node.home)(tmp_path / "again")
    assert node.refused() == "COUNTS_STORE"
    node.world.clock.move(hours=1)
    assert node.charge(release=publish(node.home, node.world, 2)).number == 1


def test_counts_rest_under_the_releases_of_before_the_audit_log_was_begun_anew(node, tmp_path):
    node.copy_of_state(tmp_path / "older.sqlite")
    node.charge()
    node.put_state(tmp_path / "older.sqlite")
    node.auditor = begin_audit_log_anew(node.home, node.world, node.auditor)
    assert node.refused() == "COUNTS_STORE"
    node.world.clock.move(hours=1)
    assert node.charge(release=publish(node.home, node.world, 2)).number == 1


_CHARGES = """
import os, sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from node.accounting import Accountant
from node.auditing import entry_of
from node.state import open_state
from rsfed.home import Home
from rsfed.trust.audit_log import append_entry
from rsfed.trust.release_store import ReleaseStore

home, now = Home(Path(sys.argv[1])), datetime.fromisoformat(sys.argv[2])
release = ReleaseStore(home.releases).current()
def note(kind, **data):
    append_entry(home.audit, entry_of(kind, now, data), None, now=now)
with closing(open_state(home)) as connection:
    accountant = Accountant(home, connection, note)
    for _ in range(80):
        charge = accountant.charge(release, 0.025, now=now)
        print(charge.number, flush=True)
"""


def test_a_process_killed_while_it_charges_neither_refunds_nor_uses_an_epoch_twice(node):
    """Each number that was printed might have been published; it never comes again, whenever the process was killed."""
    seen, killed = [], 0
    arguments = [sys.executable, "-c", _CHARGES, str(node.home.path), node.world.clock().isoformat()]
    for round_number in range(6):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            seen += [int(process.stdout.readline()) for _ in range(3 + round_number)]
            os.kill(process.pid, signal.SIGKILL)
            seen += [int(line) for line in process.stdout.read().split()]
            killed += 1
    assert killed == 6
    assert seen == sorted(set(seen))
    with closing(open_state(node.home)) as connection:
        charges = Accountant(node.home, connection, node.auditor.note).charges(node.release)
    assert len(charges) >= len(seen)
    assert [charge.number for charge in charges] == list(range(1, len(charges) + 1))
