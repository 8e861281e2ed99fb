"""What the operator of a node says about training holds: paused, resumed, a run refused; over the real service."""

import asyncio
import json
from contextlib import closing

import numpy as np
import pytest
from members import World
from serving import disclose, join, listening, make_home
from test_training_wire import Fake, Service, finished, pulling
from training_fakes import make_members, result_of, small_plan, until, weights

from coordinator.training import board as board_module
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.rounds import Rules
from coordinator.training.service import TrainingServicer
from node.serve import NodeServer
from node.state import open_state
from node.training import consent, journal, puller
from rsfed.cli import run
from rsfed.config import NodeConfig, load_config
from rsfed.errors import TrainingError
from rsfed.home import Home, transaction
from rsfed.transport.server import make_server
from rsfed.trust.access import Port
from rsfed.trust.audit_log import read_entries
from rsfed.trust.names import Role
from rsfed.v1.training_pb2_grpc import add_TrainingServiceServicer_to_server

NEVER_S = 10_000.0
ENGINES = (1 << 64) - 7  # a run of the stock Flower engine, which SQLite has no such number for


@pytest.fixture(scope="module")
def members():
    return make_members("a", "b")


@pytest.fixture
async def service(members):
    service = Service(members, TaskBoard())
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
def often(monkeypatch):
    """Let nodes look often at what their operators said."""
    monkeypatch.setattr(puller, "HEARTBEAT_S", 0.05)


@pytest.fixture
def only_when_told(monkeypatch):
    monkeypatch.setattr(puller, "HEARTBEAT_S", NEVER_S)


@pytest.fixture
def soon_gone(monkeypatch):
    """Wait a moment only for a node that hung up, when it is asked to count for calibration."""
    monkeypatch.setattr(board_module, "SILENCE_S", 1.0)


def say(home, decide, *arguments):
    """Write a decision down as the command does, without telling anybody."""
    home.path.mkdir(exist_ok=True)
    with closing(open_state(home)) as connection:
        return decide(connection, *arguments)


async def rounds_of(board, run_id, *, rounds=1, start=None, refused=None):
    """Train, and return the events of the rounds; the nodes that took no part are added to `refused`."""
    events = []

    def note(kind, data):
        if kind == "round":
            events.append(data)
        elif kind == "preflight" and refused is not None:
            refused.update(data["refused"])

    await asyncio.to_thread(
        train,
        BoardGrid(board, run_id),
        small_plan(rounds=rounds),
        Progress(weights=weights() if start is None else start),
        run_id=run_id,
        rules=Rules(1, 60.0),
        note=note,
    )
    return events


async def there(board, *names):
    await until(lambda: board.present() == list(names))


async def test_a_paused_node_takes_no_task_and_takes_it_after_resume(service, tmp_path, often):
    paused, other = Fake(result_of), Fake(result_of)
    home, asked, next_task = Home(tmp_path / "a"), [], service.board.next_task
    service.board.next_task = lambda node, wait_s: asked.append(node) or next_task(node, wait_s)
    say(home, consent.set_paused, True)  # before the node starts: it holds for the next serve
    async with pulling(service, tmp_path, "a", paused), pulling(service, tmp_path, "b", other):
        await there(service.board, "b")
        (round_,) = await rounds_of(service.board, 1)
        assert (round_["nodes"], round_["failed"]) == (["b"], {})
        await until(lambda: paused.stopped > 2)  # it looked several times
        assert set(asked) == {"b"}
        say(home, consent.set_paused, False)
        await there(service.board, "a", "b")
        (round_,) = await rounds_of(service.board, 1)
        assert round_["nodes"] == ["a", "b"]


async def test_a_node_that_is_paused_while_it_waits_hangs_up_and_gives_its_memory_back(service, tmp_path, often):
    fake = Fake(result_of)
    async with pulling(service, tmp_path, "a", fake) as home:
        await there(service.board, "a")
        say(home, consent.set_paused, True)
        await there(service.board)
        await until(lambda: fake.stopped)
    assert fake.tasks == []


async def test_a_task_that_comes_before_a_node_noticed_the_pause_is_refused_at_once(
    service, tmp_path, only_when_told, soon_gone
):
    fake = Fake(result_of)
    async with pulling(service, tmp_path, "a", fake) as home, pulling(service, tmp_path, "b", Fake(result_of)):
        await there(service.board, "a", "b")
        say(home, consent.set_paused, True)
        refused = {}
        (round_,) = await rounds_of(service.board, 1, refused=refused)
        await until(lambda: b"task.refused" in (home.audit / "log.jsonl").read_bytes())
    assert (round_["nodes"], refused) == (["b"], {"a": "TRAINING_PAUSED"})
    assert fake.tasks == []
    refusal = json.loads(list(read_entries(home.audit))[-1])
    assert (refusal["kind"], refusal["reason"]) == ("task.refused", "TRAINING_PAUSED")


async def test_a_task_in_progress_is_finished_when_the_node_is_paused(service, tmp_path, often, soon_gone):
    working, go_on = asyncio.Event(), asyncio.Event()

    async def slow(task):
        working.set()
        await go_on.wait()
        return result_of(task)

    async with pulling(service, tmp_path, "a", Fake(slow)) as home:
        await there(service.board, "a")
        rounds = asyncio.create_task(rounds_of(service.board, 1))
        await working.wait()
        say(home, consent.set_paused, True)
        heard = service.board._heard["a"]
        await until(lambda: service.board._heard["a"] > heard)  # it looked, and goes on
        go_on.set()
        assert (await rounds)[0]["nodes"] == ["a"]
        assert (await finished(home, 2))[0].state == "done"


async def test_a_refused_run_gets_its_reason_and_another_run_is_worked_on(service, tmp_path, often):
    refusing = Fake(result_of)
    say(Home(tmp_path / "a"), consent.refuse_run, 7)
    async with pulling(service, tmp_path, "a", refusing) as home, pulling(service, tmp_path, "b", Fake(result_of)):
        await there(service.board, "a", "b")
        refused = {}
        rounds = await rounds_of(service.board, 7, rounds=2, refused=refused)
        assert [(r["nodes"], r["failed"], r["counted"]) for r in rounds] == [(["b"], {}, True)] * 2
        assert refused == {"a": "RUN_REFUSED"}
        assert refusing.tasks == []
        (round_,) = await rounds_of(service.board, 8)
        assert (round_["nodes"], round_["failed"]) == (["a", "b"], {})
        entries = await finished(home, 4)
    assert [(e.run, e.kind, e.state, e.sent_bytes > 0) for e in entries] == [
        (8, "evaluate", "done", True),
        (8, "train", "done", True),
        (8, "query.preflight", "done", True),
        (7, "query.preflight", "RUN_REFUSED", False),
    ]


async def test_a_task_in_progress_is_given_up_when_its_run_is_refused(service, tmp_path, often):
    working, given_up = asyncio.Event(), asyncio.Event()

    async def endless(_):
        working.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise

    async with pulling(service, tmp_path, "a", Fake(endless)) as home, pulling(service, tmp_path, "b", Fake(result_of)):
        await there(service.board, "a", "b")
        rounds = asyncio.create_task(rounds_of(service.board, 7))
        await working.wait()
        (home.path / "training.safetensors").write_bytes(b"what an earlier round left")
        say(home, consent.refuse_run, 7)
        await given_up.wait()
        (round_,) = await rounds
        await until(lambda: not list(home.path.glob("training.*")))
    assert (round_["nodes"], round_["failed"]) == (["b"], {"a": "RUN_REFUSED"})


async def test_a_result_that_is_half_sent_when_its_run_is_refused_never_becomes_whole(service, tmp_path):
    receive, offsets = service.board.receive, []

    def refused_meanwhile(node, task_id, expected, offset, chunk):
        if expected[0] > 1 << 20:
            if not offsets:
                say(Home(tmp_path / "a"), consent.refuse_run, 7)
            offsets.append(offset)
        return receive(node, task_id, expected, offset, chunk)

    service.board.receive = refused_meanwhile
    async with pulling(service, tmp_path, "a", Fake(lambda t: result_of(t, step=0))) as home:
        await there(service.board, "a")
        with pytest.raises(TrainingError, match="RUN_REFUSED"):
            await rounds_of(service.board, 7, start={"w": np.zeros((900, 1000), np.float32)})
        entries = await finished(home, 2)
    assert max(offsets) == 0
    assert (entries[0].state, entries[0].sent_bytes) == ("RUN_REFUSED", 1 << 20)


def node_train(capsys, home, *arguments):
    code = run(["node", "train", *arguments, "--home", str(home.path)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_commands_hold_without_serve_and_may_be_repeated(tmp_path, capsys):
    home = make_home(tmp_path / "node")

    def status():
        told = json.loads(node_train(capsys, home, "status", "--output", "json")[1])
        return told["enabled"], told["paused"], told["refused_runs"]

    assert status() == (True, False, [])
    for command, expected in (
        (["pause"], (True, True, [])),
        (["refuse", "12"], (True, True, [12])),
        (["refuse", "3"], (True, True, [3, 12])),
        (["resume"], (True, False, [3, 12])),
    ):
        for _ in range(2):
            code, out, err = node_train(capsys, home, *command)
            assert (code, out.count("\n"), err) == (0, 1, "")
            assert status() == expected
    node_train(capsys, home, "pause")
    table = node_train(capsys, home, "status")[1]
    assert "takes no part in training" in table
    assert "paused" in table
    assert "refused runs: 3, 12" in table
    node_train(capsys, home, "resume")
    table = node_train(capsys, home, "status")[1]
    assert "takes part in training" in table
    assert "paused" not in table


def test_the_table_of_tasks_fits_100_columns_and_json_has_what_it_leaves_out(tmp_path, capsys):
    home, tasks = make_home(tmp_path / "node"), ("train", "evaluate", "query.preflight")
    with closing(open_state(home)) as connection, transaction(connection):
        for number, kind in enumerate(tasks):
            row = journal.begin(connection, 1234, 100, kind, 99 << 20, objective="milan_batchall", steps=1000)
            state = ("done", "TRAINING_PAUSED", "TRAINING_FAILED")[number]
            journal.end(connection, row, state=state, sent=99 << 20, seconds=12345, loss=0.12345, sent_digest="ab" * 32)
    lines = node_train(capsys, home, "status")[1].splitlines()
    assert max(map(len, lines)) <= 100
    assert {line.split()[4] for line in lines[-3:]} == set(tasks)
    told = json.loads(node_train(capsys, home, "status", "--output", "json")[1])["tasks"]
    assert {(each["objective"], each["sent_digest"]) for each in told} == {("milan_batchall", "ab" * 32)}


def asked_by(home, *runs):
    with closing(open_state(home)) as connection, transaction(connection):
        for number in runs:
            journal.begin(connection, number, 1, "train", 100)


def test_refuse_says_of_a_run_that_never_asked_this_node_that_it_is_refused_if_it_does(tmp_path, capsys):
    home = make_home(tmp_path / "node")
    told = node_train(capsys, home, "refuse", "3")[1]
    assert "run 3 has not asked this node for anything yet (nor has any other run)" in told
    asked_by(home, ENGINES, 12)
    for number in (12, ENGINES):
        told = node_train(capsys, home, "refuse", str(number))[1]
        assert told == f"run {number} is refused: it gets no further result from this node\n"
    told = node_train(capsys, home, "refuse", "21")[1]
    assert "run 21 has not asked this node for anything yet (the last run that did is 12)" in told
    assert say(home, consent.refused_runs) == [3, 12, 21, ENGINES]
    with pytest.raises(consent.RunRefused):
        say(home, consent.check_run, 21)


@pytest.mark.parametrize("command", [["pause"], ["resume"], ["refuse", "1"]])
def test_without_a_node_the_commands_say_what_to_run(tmp_path, capsys, command):
    code, out, err = node_train(capsys, Home(tmp_path), *command)
    assert (code, out) == (6, "")
    assert "rsfed node init" in err


@pytest.mark.parametrize("number", ["0", "-1", "seven", str(1 << 64)])
def test_what_is_no_number_of_a_run_is_not_refused(tmp_path, capsys, number):
    home = make_home(tmp_path / "node")
    assert run(["node", "train", "refuse", "--home", str(home.path), "--", number]) == 2
    assert "RUN" in capsys.readouterr().err
    assert say(home, consent.refused_runs) == []


async def test_a_running_serve_is_told_at_once(tmp_path, only_when_told, monkeypatch):
    """A whole node whose training looks at nothing by itself: only the control socket can tell it."""
    world, home, board = World(), make_home(tmp_path / "node"), TaskBoard()
    disclose(home)
    server = make_server(Port.FEDERATION, trust=world.bundle, now=world.clock)
    add_TrainingServiceServicer_to_server(TrainingServicer(board), server)

    async def rsfed(*arguments):
        assert await asyncio.to_thread(run, ["node", "train", *arguments, "--home", str(home.path)]) == 0

    async with listening(server, world.identity(Role.COORDINATOR)) as address:
        join(world, home, "berne", address)
        stop = asyncio.Event()
        node = NodeServer(home, load_config(NodeConfig, home.path), now=world.clock)
        running = asyncio.create_task(node.run(stop))
        try:
            await there(board, "berne")
            await rsfed("pause")
            await there(board)
            await rsfed("resume")
            await there(board, "berne")
            await rsfed("refuse", "5")
            with pytest.raises(TrainingError, match="RUN_REFUSED"):
                await rounds_of(board, 5)
        finally:
            stop.set()
            await running
