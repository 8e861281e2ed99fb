"""The node's app on the stock Flower engine: what the operator says holds there, and no text of an error leaves."""

import json
from contextlib import closing

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from training_archive import make_archive
from training_fakes import CLASSES, small_plan

import rsfed
from coordinator.training.stock import SuperLinkGrid
from node.state import open_state
from node.training import client_app, consent, journal
from node.training.adapter import run_task, to_payload, to_records
from node.training.stock import app
from rsfed.errors import ConfigError
from rsfed.hashing.payload import Payload, decode, digest, encode
from rsfed.hashing.weights import from_bytes, init_weights
from rsfed.trust.audit_log import read_entries

RUN = (1 << 64) - 3  # Flower draws numbers of runs from all of uint64
SECRET = "canary-8a31"


@pytest.fixture(scope="module")
def make(tmp_path_factory, members, key):
    """Return what makes a node's home, with settings of training."""

    def made(**settings):
        path = tmp_path_factory.mktemp(SECRET) / "node"
        return make_archive(path, dict.fromkeys(CLASSES, 6), members=members, key=key, **settings)

    return made


@pytest.fixture(scope="module")
def home(make):
    return make()


@pytest.fixture(autouse=True)
def account(home):
    yield
    with closing(open_state(home)) as connection:
        connection.execute("DELETE FROM training_log")
        consent.set_paused(connection, False)


def task(kind="train", *, plan=None, run=RUN, number=1) -> Payload:
    plan = plan or small_plan()
    start = from_bytes(init_weights(plan.architecture, plan.input, plan.bits, plan.seed))
    config = {"plan": plan.model_dump_json(), "server-round": number, "members": 2, "software": rsfed.__version__}
    return Payload(run, number, kind, {"arrays": start}, {}, {"config": config})


def ask(home, asked: Payload, *, node_config=None) -> Message:
    """Call the app as a SuperNode does."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = asked.run_id, 1, 77
    message = Message(to_records(asked), dst_node_id=2, message_type=asked.kind)
    config = {"home": str(home.path)} if node_config is None else node_config
    context = Context(run_id=asked.run_id, node_id=2, node_config=config, state=RecordDict(), run_config={})
    reply = app(message, context)
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (asked.run_id, 1, 77)
    assert reply.metadata.run_id == asked.run_id
    return reply


def entries(home):
    with closing(open_state(home)) as connection:
        return journal.entries(connection, 10)


def noted(home):
    """The audit log after its first entry."""
    return [json.loads(entry) for entry in read_entries(home.audit)][1:]


def test_a_result_is_that_of_our_own_engine_and_is_in_the_account(home):
    asked = task()
    reply = ask(home, asked)
    own = decode(run_task(client_app.app, home.path, encode(asked)))
    sent = to_payload(reply.content, asked)
    assert {n: a.tobytes() for n, a in sent.arrays["arrays"].items()} == {
        n: a.tobytes() for n, a in own.arrays["arrays"].items()
    }
    (entry,) = entries(home)
    assert (entry.run, entry.round, entry.kind, entry.state) == (RUN, 1, "train", "done")
    assert (entry.objective, entry.steps) == (small_plan().objective.name, 4)
    assert (entry.received_bytes, entry.sent_bytes) == (len(encode(asked)), len(encode(sent)))
    assert entry.sent_digest == digest(encode(sent)).hex()
    begun, ended = noted(home)[-2:]
    assert (begun["kind"], begun["digest"]) == ("task.begun", digest(encode(asked)).hex())
    assert (ended["kind"], ended["state"], ended["sent_digest"]) == ("task.ended", "done", entry.sent_digest)


def test_a_node_says_beforehand_whether_it_takes_part(home):
    assert not ask(home, task("query.preflight")).has_error()
    other = small_plan(modality="sentinel-2-l2a")
    assert ask(home, task("query.preflight", plan=other)).error.reason == "OTHER_BANDS"


def test_the_operators_word_holds(home):
    with closing(open_state(home)) as connection:
        consent.refuse_run(connection, 5)
        consent.set_paused(connection, True)
    assert ask(home, task()).error.reason == "TRAINING_PAUSED"
    with closing(open_state(home)) as connection:
        consent.set_paused(connection, False)
    assert ask(home, task(run=5)).error.reason == "RUN_REFUSED"
    assert entries(home) == [], "nothing was worked on, nothing was sent"
    assert [(e["kind"], e["reason"]) for e in noted(home)[-2:]] == [
        ("task.refused", "TRAINING_PAUSED"),
        ("task.refused", "RUN_REFUSED"),
    ]
    assert not ask(home, task(run=6)).has_error()


def test_rounds_of_the_day_are_counted(make):
    home = make(training="rounds_per_day = 1")
    assert not ask(home, task()).has_error()
    assert ask(home, task(number=2)).error.reason == "ROUNDS_PER_DAY"
    assert [entry.state for entry in entries(home)] == ["ROUNDS_PER_DAY", "done"]


def test_a_run_that_is_refused_while_it_is_worked_on_gets_nothing(home, monkeypatch):
    def refused_meanwhile(*arguments):
        with closing(open_state(home)) as connection:
            consent.refuse_run(connection, 9)
        return run_task(*arguments)

    monkeypatch.setattr("node.training.stock.run_task", refused_meanwhile)
    assert ask(home, task(run=9)).error.reason == "RUN_REFUSED"
    (entry,) = entries(home)
    assert (entry.state, entry.sent_bytes, entry.sent_digest) == ("RUN_REFUSED", 0, None)


def failing(*_, **__):
    raise ValueError(f"/archives/{SECRET}/secret.tif")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"node_config": {}}, "CONFIGURATION"),
        ({"node_config": {"home": f"/nowhere/{SECRET}"}}, None),
        ({"part": "node.training.client_app.read_patches"}, "TRAINING_FAILED"),
        ({"part": "node.training.stock.open_state"}, "TRAINING_FAILED"),
    ],
)
def test_of_a_failure_a_closed_reason_leaves_and_no_text(home, monkeypatch, change, reason):
    if "part" in change:
        monkeypatch.setattr(client_app, "_kept", {})
        monkeypatch.setattr(change["part"], failing)
    reply = ask(home, task(), node_config=change.get("node_config"))
    assert reply.has_error()
    assert reply.error.reason.isupper()
    assert reason in {None, reply.error.reason}
    assert SECRET not in reply.error.reason


class FakeGrid:
    """A SuperLink's grid: answers in its own name (1) for nodes that are gone, the last node first."""

    def __init__(self, gone=()):
        self._gone = gone

    def get_node_ids(self):
        return [4, 3, 2]

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in reversed(messages):
            message.metadata.__dict__["_message_id"] = message.object_id  # as Flower's own does
            reply = Message(RecordDict(), reply_to=message)
            if message.metadata.dst_node_id in self._gone:
                reply = Message(Error(2, "Node Unavailable - text"), reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1
            replies.append(reply)
        return replies


def test_replies_come_in_the_order_of_nodes_and_one_that_is_gone_is_named():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 77
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    messages = [Message(content, dst_node_id=node, message_type="train") for node in (4, 3, 2)]
    replies = SuperLinkGrid(FakeGrid(gone={3})).send_and_receive(iter(messages), timeout=5)
    assert [reply.metadata.src_node_id for reply in replies] == [2, 3, 4]
    assert [reply.error.reason if reply.has_error() else "" for reply in replies] == ["", "NODE_GONE", ""]


def test_a_run_without_the_coordinators_home_says_so():
    from coordinator.training.stock import main

    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={"home": ""})
    with pytest.raises(ConfigError, match="--run-config"):
        main(FakeGrid(), context)
