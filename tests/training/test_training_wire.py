"""Training over the real service: mTLS, chunks, digests, one node per task, and nodes that come back."""

import asyncio
import json
import sqlite3
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
from training_fakes import make_members, result_of, small_plan, until, weights

from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.records import RunCancelled
from coordinator.training.rounds import Rules
from coordinator.training.service import TrainingServicer
from node.state import open_state
from node.training import journal, puller
from node.training.puller import Puller
from rsfed.clock import Deadline
from rsfed.config import NodeTraining
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.payload import CHUNK_BYTES, decode, digest
from rsfed.hashing.plan import TRAIN
from rsfed.home import Home
from rsfed.transport.channel import call, open_channel
from rsfed.transport.server import bind, make_server, server_credentials
from rsfed.trust.access import Port
from rsfed.trust.audit_log import read_entries
from rsfed.v1 import training_pb2 as pb
from rsfed.v1.training_pb2_grpc import TrainingServiceStub, add_TrainingServiceServicer_to_server


@pytest.fixture(scope="module")
def members():
    return make_members("a", "b")


class Service:
    """A coordinator's federation port with nothing but training; can be stopped and started again at its address."""

    def __init__(self, members, board):
        self.members, self.board, self.port, self.trust = members, board, 0, members.bundle

    async def start(self):
        self.server = make_server(Port.FEDERATION, trust=lambda: self.trust)
        add_TrainingServiceServicer_to_server(TrainingServicer(self.board), self.server)
        credentials = server_credentials(lambda: self.members.coordinator)
        self.port = bind(self.server, f"127.0.0.1:{self.port}", credentials)
        await self.server.start()

    async def stop(self):
        await self.server.stop(None)

    def channel(self, node):
        return open_channel(f"127.0.0.1:{self.port}", self.members.nodes[node], self.members.coordinator.member)


@pytest.fixture
async def service(members):
    service = Service(members, TaskBoard())
    await service.start()
    yield service
    await service.stop()


class Fake:
    """A trainer without a child process; `tasks` are those of rounds."""

    def __init__(self, answer):
        self.answer, self.tasks, self.stopped = answer, [], 0

    async def run(self, task):
        if decode(task).kind != TRAIN:
            return result_of(task)
        self.tasks.append(task)
        result = self.answer(task)
        return await result if asyncio.iscoroutine(result) else result

    async def stop(self):
        self.stopped += 1


@asynccontextmanager
async def pulling(service, tmp_path, node, trainer, *, pauses=None):
    """A node that takes part with the given trainer; its pauses are short, and noted."""
    home = Home(tmp_path / node)
    home.path.mkdir(exist_ok=True)

    async def quickly(seconds):
        if pauses is not None:
            pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.05))

    async with service.channel(node) as channel:
        stub = TrainingServiceStub(channel)
        work = asyncio.create_task(Puller(home, NodeTraining(), lambda: stub, trainer=trainer, sleep=quickly).run())
        try:
            yield home
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work


async def rounds_of(service, *, plan=None, rules=None, start=None):
    events = []
    trained = await asyncio.to_thread(
        train,
        BoardGrid(service.board, 9),
        plan or small_plan(),
        Progress(weights=weights() if start is None else dict(start)),
        run_id=9,
        rules=rules or Rules(1, 30.0),
        note=lambda kind, data: events.append(data) if kind == "round" else None,
    )
    return trained, events


def logged(home):
    connection = open_state(home)
    try:
        return journal.entries(connection, 100)
    finally:
        connection.close()


async def finished(home, count):
    """The log of a node, once so many of its tasks have ended: it writes after the coordinator has its result."""
    await until(lambda: sum(entry.state != journal.WORKING for entry in logged(home)) >= count)
    return logged(home)


async def test_two_nodes_train_together_over_mtls(service, tmp_path):
    one, other = Fake(lambda t: result_of(t, step=1)), Fake(lambda t: result_of(t, step=3))
    async with pulling(service, tmp_path, "a", one) as home, pulling(service, tmp_path, "b", other):
        trained, rounds = await rounds_of(service, rules=Rules(2, 30.0))
        np.testing.assert_array_equal(trained.weights["w"], weights(6)["w"])
        assert [r["nodes"] for r in rounds] == [["a", "b"]] * 3
        assert rounds[0]["sent_bytes"] == len(one.tasks[0]) + len(other.tasks[0])
        entries = await finished(home, 5)
    assert [(e.run, e.round, e.kind, e.state, e.loss) for e in entries] == [
        (9, 3, "evaluate", "done", None),
        *((9, n, "train", "done", 0.5) for n in (3, 2, 1)),
        (9, 1, "query.preflight", "done", None),
    ]
    assert entries[1].received_bytes == len(one.tasks[-1])
    sent = result_of(one.tasks[-1], step=1)
    assert (entries[1].sent_bytes, entries[1].sent_digest) == (len(sent), digest(sent).hex())
    assert {(e.objective, e.steps) for e in entries} == {("centres", 4)}
    noted = [json.loads(entry) for entry in read_entries(home.audit)][1:]
    tasks = [("query.preflight", 1), *(("train", n) for n in (1, 2, 3)), ("evaluate", 3)]
    assert [(e["kind"], e["task"], e["round"]) for e in noted] == [
        (kind, *task) for task in tasks for kind in ("task.begun", "task.ended")
    ]
    assert noted[6]["digest"] == digest(one.tasks[-1]).hex()
    assert (noted[7]["state"], noted[7]["sent_bytes"], noted[7]["sent_digest"]) == (
        "done",
        len(sent),
        digest(sent).hex(),
    )
    assert one.stopped == 2  # after the calibration that ends the run, and at the end


async def test_large_weights_travel_in_many_chunks(service, tmp_path):
    start = {"w": np.random.default_rng(1).normal(size=(900, 1000)).astype(np.float32)}
    async with pulling(service, tmp_path, "a", Fake(lambda t: result_of(t, step=0))):
        trained, rounds = await rounds_of(service, plan=small_plan(rounds=1), start=start)
    assert rounds[0]["received_bytes"] > 3 * CHUNK_BYTES
    assert trained.weights["w"].tobytes() == start["w"].tobytes()


async def test_a_node_whose_training_fails_says_why(service, tmp_path):
    def fail(_):
        raise TrainingError("the training process ended", reason="WORKER_DIED")

    async with (
        pulling(service, tmp_path, "a", Fake(lambda t: result_of(t, step=1))),
        pulling(service, tmp_path, "b", Fake(fail)) as home,
    ):
        _, rounds = await rounds_of(service, plan=small_plan(rounds=1), rules=Rules(1, 30.0))
        while len(rounds[0]["nodes"]) + len(rounds[0]["failed"]) < 2:  # b came after the first round had begun
            _, rounds = await rounds_of(service, plan=small_plan(rounds=1), rules=Rules(1, 30.0))
        entries = await finished(home, 2)
    assert rounds[0]["failed"] == {"b": "WORKER_DIED"}
    assert "WORKER_DIED" in {entry.state for entry in entries}
    assert entries[0].loss is None


async def test_a_node_gives_up_work_that_nobody_wants_any_more(service, tmp_path, monkeypatch):
    monkeypatch.setattr(puller, "HEARTBEAT_S", 0.1)
    cancelled = asyncio.Event()

    async def endless(_):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with pulling(service, tmp_path, "a", Fake(endless)) as home:
        with pytest.raises(TrainingError):
            await rounds_of(service, plan=small_plan(rounds=1), rules=Rules(1, 0.5))
        await asyncio.wait_for(cancelled.wait(), 10)
        entries = await finished(home, 2)
    assert entries[0].state == "TASK_EXPIRED"


async def test_a_node_whose_coordinator_was_restarted_keeps_what_its_run_goes_on_with(service, tmp_path, monkeypatch):
    monkeypatch.setattr(puller, "HEARTBEAT_S", 0.1)
    begun = asyncio.Event()

    async def endless(_):
        begun.set()
        await asyncio.Event().wait()

    async with pulling(service, tmp_path, "a", Fake(endless)) as home:
        (home.path / "training.safetensors").write_bytes(b"what an earlier round left")
        running = asyncio.create_task(rounds_of(service, plan=small_plan(rounds=1)))
        await asyncio.wait_for(begun.wait(), 30)
        with service.board._changed:
            service.board._tasks.clear()  # as a new process knows none
        assert (await finished(home, 2))[0].state == "UNKNOWN_TASK"
        assert list(home.path.glob("training.*"))
        service.board.cancel()
        with pytest.raises(RunCancelled):
            await running


async def test_a_node_stops_working_for_a_cancelled_run_and_is_there_for_the_next(service, tmp_path, monkeypatch):
    monkeypatch.setattr(puller, "HEARTBEAT_S", 0.1)
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def first_endless(task):
        if begun.is_set():
            return result_of(task)
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise

    async with pulling(service, tmp_path, "a", Fake(first_endless)) as home:
        running = asyncio.create_task(rounds_of(service, plan=small_plan(rounds=1)))
        await asyncio.wait_for(begun.wait(), 30)
        (home.path / "training.safetensors").write_bytes(b"what an earlier round left")
        service.board.cancel()
        with pytest.raises(RunCancelled):
            await running
        await asyncio.wait_for(stopped.wait(), 10)
        assert (await finished(home, 2))[0].state == "TASK_EXPIRED"
        assert not list(home.path.glob("training.*"))
        service.board.begin()
        trained, _ = await rounds_of(service, plan=small_plan(rounds=1))
    assert trained.nodes == {"a"}


async def test_a_node_outlives_a_coordinator_that_is_away(service, tmp_path):
    fake = Fake(lambda t: result_of(t, step=1))
    async with pulling(service, tmp_path, "a", fake):
        await rounds_of(service, plan=small_plan(rounds=1))
        await service.stop()
        await asyncio.sleep(0.3)
        await service.start()
        trained, _ = await rounds_of(service, plan=small_plan(rounds=1))
    np.testing.assert_array_equal(trained.weights["w"], weights(1)["w"])
    assert len(fake.tasks) == 2


async def test_an_upload_goes_on_after_the_connection_broke(service, tmp_path):
    start = {"w": np.zeros((900, 1000), np.float32)}
    offsets = []
    receive = service.board.receive

    def breaking(node, task_id, expected, offset, chunk):
        position = receive(node, task_id, expected, offset, chunk)
        if expected[0] > CHUNK_BYTES:
            offsets.append(offset)
        if len(offsets) == 2:
            offsets.append(-1)
            asyncio.get_running_loop().create_task(restart())
        return position

    async def restart():
        await service.stop()
        await service.start()

    service.board.receive = breaking
    async with pulling(service, tmp_path, "a", Fake(lambda t: result_of(t, step=0))):
        _, rounds = await rounds_of(service, plan=small_plan(rounds=1), start=start)
    assert rounds[0]["nodes"] == ["a"]
    assert offsets.count(0) == 1  # nothing was sent from the start again
    assert -1 in offsets


async def test_an_upload_starts_again_where_the_coordinator_lost_it(service, tmp_path):
    start = {"w": np.zeros((900, 1000), np.float32)}
    receive, lost = service.board.receive, []

    def forgetting(node, task_id, expected, offset, chunk):
        if offset and not lost:
            lost.append(offset)
            service.board.task(node, task_id).upload = service.board.blob()
            return 0
        return receive(node, task_id, expected, offset, chunk)

    service.board.receive = forgetting
    fake = Fake(lambda t: result_of(t, step=0))
    async with pulling(service, tmp_path, "a", fake):
        _, rounds = await rounds_of(service, plan=small_plan(rounds=1), start=start)
    assert lost
    assert rounds[0]["nodes"] == ["a"]
    assert len(fake.tasks) == 1  # sent again, not trained again


async def test_a_node_that_is_not_admitted_waits_and_takes_part_again_later(members, tmp_path):
    service = Service(members, TaskBoard())
    revoked = replace(members.bundle, revoked_names=frozenset({members.nodes["a"].member.uri}))
    service.trust = revoked
    await service.start()
    pauses = []
    async with pulling(service, tmp_path, "a", Fake(result_of), pauses=pauses):
        await until(lambda: puller.REFUSED_PAUSE_S in pauses)
        assert service.board.present() == []
        service.trust = members.bundle
        trained, _ = await rounds_of(service, plan=small_plan(rounds=1))
    assert trained.nodes == {"a"}
    await service.stop()


async def test_a_node_whose_disk_is_full_goes_on_without_its_log(service, tmp_path, monkeypatch):
    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    begin = journal.begin
    monkeypatch.setattr(journal, "begin", full)
    fake, pauses = Fake(result_of), []
    async with pulling(service, tmp_path, "a", fake, pauses=pauses):
        work = asyncio.create_task(rounds_of(service, plan=small_plan(rounds=1)))
        await until(lambda: puller.LONGEST_PAUSE_S in pauses)
        monkeypatch.setattr(journal, "begin", begin)
        trained, _ = await work
    assert trained.nodes == {"a"}


@pytest.fixture
async def stub(service):
    async with service.channel("a") as channel:
        yield TrainingServiceStub(channel)


def push(stub, **fields):
    return call(stub.PushResult, pb.TrainingServicePushResultRequest(**fields), Deadline.after(10), what="it")


async def test_a_task_is_handed_out_in_chunks_of_a_mebibyte(service, stub):
    payload = bytes(range(256)) * 10_000
    task = service.board.offer("a", service.board.blob(payload))
    got = b""
    while len(got) < len(payload):
        request = pb.TrainingServicePullTaskRequest(task_id=task.id, offset=len(got))
        part = await call(stub.PullTask, request, Deadline.after(10), what="it")
        assert (part.total_bytes, part.sha256) == (len(payload), digest(payload))
        assert 0 < len(part.chunk) <= CHUNK_BYTES
        got += part.chunk
    assert got == payload


async def test_a_foreign_task_is_unknown_on_the_wire(service, stub):
    task = service.board.offer("b", service.board.blob(b"for b only"))
    with pytest.raises(TrainingError) as refused:
        await call(stub.PullTask, pb.TrainingServicePullTaskRequest(task_id=task.id), Deadline.after(10), what="it")
    assert refused.value.reason == "UNKNOWN_TASK"
    with pytest.raises(TrainingError) as refused:
        await push(stub, task_id=task.id, total_bytes=3, sha256=digest(b"abc"), chunk=b"abc")
    assert refused.value.reason == "UNKNOWN_TASK"


async def test_a_result_with_a_wrong_digest_is_refused_on_the_wire(service, stub):
    task = service.board.offer("a", service.board.blob(b"task"))
    with pytest.raises(InvalidMessage) as refused:
        await push(stub, task_id=task.id, total_bytes=3, sha256=bytes(32), chunk=b"abc")
    assert refused.value.reason == "PAYLOAD_DIGEST"
    assert not task.done


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"total_bytes": 1 << 40}, "PAYLOAD_TOO_LARGE"),
        ({"total_bytes": 5, "sha256": b"short"}, "CHUNK_INVALID"),
        ({"total_bytes": 2 << 20, "sha256": bytes(32), "chunk": bytes(CHUNK_BYTES + 1)}, "CHUNK_INVALID"),
    ],
)
async def test_parts_beyond_the_limits_are_refused_on_the_wire(service, stub, fields, reason):
    task = service.board.offer("a", service.board.blob(b"task"))
    with pytest.raises(InvalidMessage) as refused:
        await push(stub, task_id=task.id, **fields)
    assert refused.value.reason == reason


async def test_the_long_poll_ends_before_the_callers_deadline(stub):
    request = pb.TrainingServicePullTaskRequest(wait_ms=4_000_000_000)
    answer = await call(stub.PullTask, request, Deadline.after(1.2), what="it")
    assert not answer.task_id


async def test_a_node_that_hangs_up_is_no_longer_present(service):
    async with service.channel("a") as channel:
        waiting = TrainingServiceStub(channel).PullTask(pb.TrainingServicePullTaskRequest(wait_ms=30_000), timeout=40)
        await until(lambda: service.board.present() == ["a"])
        waiting.cancel()
        await until(lambda: not service.board.present())


async def test_a_damaged_task_is_not_trained_on(service, tmp_path, monkeypatch):
    offer = service.board.offer

    def damaged(node, payload):
        payload._hash.update(b"what was lost on the way")
        return offer(node, payload)

    monkeypatch.setattr(service.board, "offer", damaged)
    fake = Fake(result_of)
    async with pulling(service, tmp_path, "a", fake):
        with pytest.raises(TrainingError) as failed:
            await rounds_of(service, plan=small_plan(rounds=1))
    assert "PAYLOAD_DIGEST" in failed.value.public
    assert fake.tasks == []
