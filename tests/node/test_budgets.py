"""What refine spends: never given back, never spent twice, whatever crashes, comes back, or is put in its place."""

import hashlib
import json
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from members import World
from serving import begin_audit_log_anew, make_auditor, make_home, publish

from node.auditing import Kind, restart
from node.backup import back_up, restore
from node.bucketed import ROW, Bucketed
from node.budgets import Budgets
from node.state import open_state
from rsfed.errors import StateError
from rsfed.privacy.budgets import MOST_ITEMS, Budget
from rsfed.trust.audit_log import read_entries
from rsfed.trust.envelope import VerifiedQuery
from rsfed.trust.names import Role
from rsfed.v1.envelope_pb2 import QueryEnvelope

KILLS = int(os.environ.get("RSFED_KILLS", "3"))
FLOOR = 3


def rows_of(ids, contents=None, *, bucket=0):
    """A bucket of items, each of another acquisition."""
    rows = np.zeros(len(ids), ROW)
    rows["id"], rows["acquisition"], rows["bucket"] = ids, ids, bucket
    rows["content"] = ids if contents is None else contents
    return rows


BUCKET = rows_of(range(1, 6))


class Node:
    """One home with budgets, and its clock."""

    def __init__(self, folder, *, answers=6, shares=2):
        self.world = World()
        self.home = make_home(folder / "node")
        self.release = publish(self.home, self.world)
        self.auditor = make_auditor(self.home, self.world)
        self.budget = Budget(answers, shares)
        self.budgets = self.started()

    def started(self, *, note=None):
        """What a `serve` that starts now charges with."""
        connection = open_state(self.home)
        return Budgets(self.home, connection, self.budget, note=note or self.auditor.note, now=self.world.clock)

    def query(self, name="ada"):
        return VerifiedQuery(QueryEnvelope(), self.world.member(Role.ANALYST, name), secrets.token_bytes(32))

    def charge(self, name="ada", *buckets, release=None, budgets=None, seed=0):
        rng = np.random.default_rng(seed)
        charged = (budgets or self.budgets).charge(
            release or self.release, self.query(name), buckets or (BUCKET,), FLOOR, rng
        )
        return [ids.tolist() for ids in charged]

    def refused(self, **changes):
        with closing(self.started()) as budgets, pytest.raises(StateError) as refused:
            self.charge(budgets=budgets, **changes)
        return refused.value.reason

    def put_state(self, path):
        self.budgets.close()
        for end in ("", "-wal", "-shm"):
            self.home.database.with_name(self.home.database.name + end).unlink(missing_ok=True)
        if path is None:
            open_state(self.home, anew=True).close()  # as an ingest does
        else:
            path.rename(self.home.database)

    def copy_of_state(self, path):
        with closing(open_state(self.home)) as connection, closing(sqlite3.connect(path)) as copy:
            connection.backup(copy)


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.budgets.close()


def test_each_answer_has_floor_items_until_the_requester_has_nothing_left_and_others_keep_their_share(node):
    """Of 6 answers each of the first two requesters has one for itself; four are everybody's."""
    for _ in range(5):
        (ids,) = node.charge("ada")
        assert len(set(ids)) == FLOOR
    assert node.charge("ada") == [[]]
    assert len(node.charge("eve")[0]) == FLOOR
    assert node.charge("eve") == [[]]
    assert node.charge("mallory") == [[]]
    assert len(node.charge("ada", release=publish(node.home, node.world, 2))[0]) == FLOOR


def test_what_is_listed_and_what_is_not_is_charged_alike_and_a_bucket_that_is_withheld_costs_nothing(node):
    small, other = rows_of([11, 12]), rows_of(range(20, 26))
    assert [len(ids) for ids in node.charge("ada", BUCKET, small, other)] == [FLOOR, 0, FLOOR]
    with closing(open_state(node.home)) as connection:
        spent = dict(connection.execute("SELECT content, own + common FROM refine_spent"))
    assert spent == dict.fromkeys([*range(1, 6), *range(20, 26)], 1)


def work(node, bucket):
    """How many instructions of its virtual machine the database needs to charge for a bucket, in tens."""
    steps = Counter()
    node.budgets._connection.set_progress_handler(lambda: steps.update(["step"]), 10)
    assert len(node.charge("ada", bucket)[0]) == FLOOR
    node.budgets._connection.set_progress_handler(None, 0)
    return steps["step"]


def test_a_small_bucket_is_as_much_work_as_a_full_one(node):
    node.charge()
    small, full = rows_of(range(200, 204)), rows_of(range(300, 300 + MOST_ITEMS))
    for _ in range(2):
        assert work(node, small) == pytest.approx(work(node, full), rel=0.3)


def test_the_audit_log_has_each_charge_and_no_item_or_name(node):
    node.charge("ada")
    entries = [json.loads(entry) for entry in read_entries(node.home.audit) if Kind.REFINE_CHARGED.encode() in entry]
    assert [(each["number"], each["items"]) for each in entries] == [(1, 5)]
    assert entries[0].keys() == {"at", "kind", "release", "number", "items", "requester", "query"}
    assert "ada" not in json.dumps(entries)


def test_a_charge_that_could_not_be_noted_is_not_given_back(node):
    def fails(*_, **__):
        raise StateError("the disk is full", reason="AUDIT_UNWRITABLE")

    with closing(node.started(note=fails)) as budgets:
        for _ in range(5):
            with pytest.raises(StateError):
                node.charge(budgets=budgets)
    assert node.charge() == [[]]


def test_content_that_comes_back_under_another_id_keeps_what_it_spent(node):
    for _ in range(5):
        node.charge()
    again = rows_of(range(101, 106), contents=range(1, 6))
    assert node.charge("ada", again) == [[]]
    assert len(node.charge("ada", rows_of(range(101, 106)))[0]) == FLOOR


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A node that does not wait for its disk."""
    made = Node(tmp_path_factory.mktemp("budgets"))
    yield made
    made.budgets.close()


def start_hastily(node):
    node.budgets.close()
    node.budgets = node.started(note=lambda *_, **__: None)
    node.budgets._connection.execute("PRAGMA synchronous = OFF")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_sequence_of_refines_epochs_withdrawals_and_returns_speaks_of_an_item_too_often(hasty, data):
    """Held against an oracle that knows every charge: who asked about which content, and what that was paid from."""
    node, release = hasty, replace(hasty.release, digest=secrets.token_bytes(32))
    start_hastily(node)
    budget, contents, fresh = node.budget, list(range(1, 13)), 0
    own, common, told = {each: Counter() for each in contents}, Counter(), Counter()
    for _ in range(data.draw(st.integers(1, 3))):  # epochs: some contents are gone, others back under new ids
        present = data.draw(st.lists(st.sampled_from(contents), unique=True, min_size=1))
        ids, fresh = {fresh + place: content for place, content in enumerate(present, 1)}, fresh + len(present)
        where = data.draw(st.lists(st.integers(0, 2), min_size=len(present), max_size=len(present)))
        buckets = [[item for item, bucket in zip(ids, where, strict=True) if bucket == each] for each in range(3)]
        for requester in data.draw(st.lists(st.sampled_from(["ada", "eve", "bob"]), max_size=12)):
            asked = data.draw(st.lists(st.integers(0, 2), unique=True, min_size=1))
            columns = [rows_of(buckets[each], [ids[item] for item in buckets[each]]) for each in asked]
            for each, listed in zip(asked, node.charge(requester, *columns, release=release), strict=True):
                from_own, from_common = set(), set()
                for content in (ids[item] for item in buckets[each]):
                    holds = own[content][requester] or len(own[content]) < budget.shares
                    if holds and own[content][requester] < budget.share:
                        from_own.add(content)
                    elif common[content] < budget.common:
                        from_common.add(content)
                payable = from_own | from_common
                assert len(listed) == (FLOOR if len(payable) >= FLOOR else 0)
                assert {ids[item] for item in listed} <= payable
                told.update(ids[item] for item in listed)
                for content in from_own if listed else ():
                    own[content][requester] += 1
                common.update(from_common if listed else ())
        if data.draw(st.booleans()):  # `serve` starts again
            start_hastily(node)
    assert all(count <= budget.answers for count in told.values())


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM refine_charge WHERE number = 1",
        "DELETE FROM refine_charge",
        "UPDATE refine_charge SET items = 4",
        "UPDATE refine_spent SET own = 0, common = 0",
        "UPDATE refine_charge SET at = 'yesterday'",
        "DROP TABLE refine_spent",
    ],
)
def test_a_damaged_record_refines_nothing(node, damage):
    node.charge()
    node.charge()
    with closing(open_state(node.home)) as connection:
        connection.execute(damage)
    assert node.refused() == "REFINE_STORE"


@pytest.mark.parametrize("kept", [True, False])
def test_a_database_that_is_older_than_the_audit_log_or_gone_refines_nothing_until_the_next_release(
    node, tmp_path, kept
):
    node.charge()
    node.copy_of_state(tmp_path / "older.sqlite")
    node.charge()
    node.put_state(tmp_path / "older.sqlite" if kept else None)
    assert node.refused() == "REFINE_STORE"
    node.world.clock.move(hours=1)  # a database that begins anew knows nothing of the minute before, too
    with closing(node.started()) as budgets:
        following = publish(node.home, node.world, 2)
        assert len(node.charge(budgets=budgets, release=following)[0]) == FLOOR


def test_a_restored_home_refines_nothing_under_the_releases_of_before(node, tmp_path):
    back_up(node.home, tmp_path / "backup", now=node.world.clock())
    node.charge()
    restore(tmp_path / "backup", type(node.home)(tmp_path / "again"), now=node.world.clock())
    node.home = type(node.home)(tmp_path / "again")
    node.auditor = make_auditor(node.home, node.world)
    assert node.refused() == "REFINE_STORE"
    node.world.clock.move(hours=1)
    with closing(node.started()) as budgets:
        assert len(node.charge(budgets=budgets, release=publish(node.home, node.world, 2))[0]) == FLOOR


def test_an_audit_log_that_was_begun_anew_gives_nothing_back_whatever_database_lies_beside_it(node, tmp_path):
    """Neither an older database, nor the one that was there, is held against anything: the release is closed."""
    node.charge()
    node.copy_of_state(tmp_path / "older.sqlite")
    node.charge()
    node.put_state(tmp_path / "older.sqlite")
    node.auditor = begin_audit_log_anew(node.home, node.world, node.auditor)
    assert node.refused() == "REFINE_STORE"
    node.world.clock.move(hours=1)
    node.budgets = node.started()
    assert len(node.charge(release=publish(node.home, node.world, 2))[0]) == FLOOR


def test_a_log_begun_anew_beside_a_database_that_is_gone_gives_nothing_back_though_it_can_name_no_older_one(node):
    node.charge()
    node.put_state(None)
    node.auditor._log.close()
    (node.home.audit / "log.jsonl").write_bytes(b"damaged\n")
    with closing(open_state(node.home)) as connection:
        restart(node.home, connection, now=node.world.clock())
    node.auditor = make_auditor(node.home, node.world)
    assert node.refused() == "REFINE_STORE"
    node.budgets = node.started()


def test_a_clock_that_was_set_back_refines_nothing_until_it_has_caught_up(node):
    node.charge()
    node.world.clock.move(minutes=-1)
    with pytest.raises(StateError) as refused:
        node.charge()
    assert refused.value.reason == "CLOCK_BACK"
    assert node.refused() == "CLOCK_BACK"
    node.world.clock.move(minutes=1)
    assert len(node.charge()[0]) == FLOOR


def test_a_bucket_is_found_by_its_encoder_and_number_and_others_are_empty():
    rows = np.concatenate([rows_of([1, 2], bucket=0), rows_of([3], bucket=1), rows_of([4, 5], bucket=0)])
    rows["encoder"] = [0, 0, 0, 1, 1]
    kept = Bucketed.read(7, FLOOR, ("a", "b"), rows.tobytes())
    assert kept.of("a", 0)["id"].tolist() == [1, 2]
    assert kept.of("a", 1)["id"].tolist() == [3]
    assert kept.of("b", 0)["id"].tolist() == [4, 5]
    assert [len(kept.of(*each)) for each in (("b", 1), ("c", 0), ("a", 9))] == [0, 0, 0]
    assert Bucketed.read(7, FLOOR, ("a",), b"") is None


_CHARGES = """
import hashlib, sys
from datetime import datetime
from itertools import count
from pathlib import Path
import numpy as np
from node.auditing import entry_of
from node.bucketed import ROW
from node.budgets import Budgets
from node.state import open_state
from rsfed.home import Home
from rsfed.privacy.budgets import Budget
from rsfed.trust.audit_log import append_entry
from rsfed.trust.envelope import VerifiedQuery
from rsfed.trust.names import MemberId
from rsfed.trust.release_store import ReleaseStore
from rsfed.v1.envelope_pb2 import QueryEnvelope

home, now, run = Home(Path(sys.argv[1])), datetime.fromisoformat(sys.argv[2]), sys.argv[3]
release = ReleaseStore(home.releases).current()
def note(kind, **data):
    append_entry(home.audit, entry_of(kind, now, data), None, now=now)
budgets = Budgets(home, open_state(home), Budget(10**9), note=note, now=lambda: now)
rows = np.zeros(40, ROW)
rows["id"] = rows["content"] = rows["acquisition"] = range(40)
for number in count():
    asker = MemberId.parse(f"spiffe://alps/analyst/a{number % 3}")
    query = VerifiedQuery(QueryEnvelope(), asker, hashlib.sha256(f"{run} {number}".encode()).digest())
    listed = budgets.charge(release, query, [rows[:20], rows[20:]], 3, np.random.default_rng(number))
    print(run, number, *np.concatenate(listed).tolist(), flush=True)
"""


def test_a_process_killed_while_it_charges_neither_refunds_nor_charges_twice(tmp_path):
    """What was printed was answered: it is charged, once, and the audit log knows of it; see `make soak-budgets`."""
    node, told, rng = Node(tmp_path), {}, random.Random(0)
    node.budgets.close()
    for run in range(KILLS):
        arguments = [sys.executable, "-c", _CHARGES, str(node.home.path), node.world.clock().isoformat(), str(run)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            lines = [process.stdout.readline()]
            time.sleep(rng.random() * 0.2)
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
        for line in (line for line in lines if line.endswith("\n")):
            number, *items = line.split()[1:]
            told[hashlib.sha256(f"{run} {number}".encode()).digest()] = [int(item) for item in items]
        with closing(open_state(node.home)) as connection:
            charges = connection.execute("SELECT number, query, items FROM refine_charge ORDER BY number").fetchall()
            spent = dict(connection.execute("SELECT content, sum(own + common) FROM refine_spent GROUP BY content"))
        logged = [json.loads(entry) for entry in read_entries(node.home.audit) if b"refine.charged" in entry]
        assert [number for number, _, _ in charges] == list(range(1, len(charges) + 1))
        assert len({query for _, query, _ in charges}) == len(charges)
        assert told.keys() <= {each["query"] for each in map(_with_bytes, logged)} <= {query for _, query, _ in charges}
        assert len(charges) - len(logged) <= run + 1
        assert spent == dict.fromkeys(range(40), len(charges))
        assert {items for _, _, items in charges} == {40}
    listed = Counter(item for items in told.values() for item in items)
    assert all(listed[item] <= spent[item] for item in listed)
    assert len(told) >= KILLS


def _with_bytes(entry):
    return entry | {"query": bytes.fromhex(entry["query"])}
