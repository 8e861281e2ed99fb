"""`rsfed coordinator train` and `runs` as their user meets them, with a coordinator reduced to training."""

import asyncio
import io
import json
import os
import signal
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from test_training_runs import Coordinator
from training_fakes import answer_tasks, result_of, until

from coordinator.state import State
from coordinator.training import records, show
from rsfed.cli import run
from rsfed.clock import utc_now
from rsfed.home import Home
from rsfed.transport.server import bind_control, make_server
from rsfed.trust.access import Port
from rsfed.v1 import control_pb2 as pb
from rsfed.v1.control_pb2_grpc import ControlServiceServicer, add_ControlServiceServicer_to_server

NO_CODEBOOK = "this release has no codebook: nodes answer with it at `partner` alone"
TOML = """
federation = "testing"
[encoder]
size = 16
bits = 16
"""


class Control(ControlServiceServicer):
    def __init__(self, driver):
        self.driver = driver

    async def Notify(self, request, context):  # noqa: N802 - name of the wire
        self.driver.wake()
        return pb.ControlServiceNotifyResponse()


@pytest.fixture
def home(tmp_path):
    (tmp_path / "coordinator.toml").write_text(TOML)
    State(Home(tmp_path)).close()
    return Home(tmp_path)


@pytest.fixture
async def serving(home):
    """A coordinator with a node that is there."""
    state = State(home)
    coordinator = Coordinator(home, state)
    control = make_server(Port.CONTROL, trust=None)
    add_ControlServiceServicer_to_server(Control(coordinator.driver), control)
    bind_control(control, home.control_socket)
    await control.start()
    work = [
        asyncio.create_task(coordinator.driver.run()),
        asyncio.create_task(answer_tasks(coordinator.board, "a", result_of)),
    ]
    coordinator.control, coordinator.nodes = control, work[1]
    yield coordinator
    for task in work:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await control.stop(None)
    state.close()


async def start(home, *arguments, stderr=asyncio.subprocess.PIPE):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rsfed", "coordinator", *arguments, "--home", str(home.path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def rsfed(home, *arguments):
    process = await start(home, *arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_train_prints_every_event_as_one_line_of_json(home, serving):
    code, out, err = await rsfed(home, "train", "--rounds", "2", "--output", "json")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    events = ["started", "preflight", "round", "round", "calibrated", "released"]
    assert [line["event"] for line in lines] == events
    assert all(line["run"] == 1 and line["at"] for line in lines)
    assert (lines[1]["nodes"], lines[1]["refused"]) == (["a"], {})
    assert lines[2]["nodes"] == ["a"]
    assert {"loss", "sent_bytes", "received_bytes", "seconds", "failed"} <= set(lines[2])


@pytest.mark.parametrize(
    ("kind", "objective", "rounds"),
    [("compact-resnet", "centres", 10), ("frozen-trunk", "centres", 60), ("frozen-trunk", "closed_form", 1)],
)
async def test_train_that_is_told_no_rounds_takes_those_that_suit(home, serving, monkeypatch, kind, objective, rounds):
    monkeypatch.setenv("RSFED_COORDINATOR__ENCODER__KIND", kind)
    monkeypatch.setenv("RSFED_COORDINATOR__OBJECTIVE__NAME", objective)
    code, out, _ = await rsfed(home, "train", "--output", "json")
    assert code == 0
    assert json.loads(out.splitlines()[0])["rounds"] == rounds


async def test_the_closed_form_refuses_several_rounds(home, serving, monkeypatch):
    monkeypatch.setenv("RSFED_COORDINATOR__ENCODER__KIND", "frozen-trunk")
    code, _, err = await rsfed(home, "train", "--rounds", "2")
    assert code == 2
    assert "the closed form is one round; leave --rounds out" in err


async def test_train_prints_a_table_of_rounds_and_its_progress_elsewhere(home, serving):
    code, out, err = await rsfed(home, "train", "--rounds", "2")
    assert code == 0
    assert "2/2" in out
    assert "release 2 published" in out
    assert [json.loads(line)["event"] for line in err.splitlines()] == [
        "started",
        "preflight",
        "round",
        "round",
        "calibrated",
        "released",
    ]
    assert json.loads(err.splitlines()[-2])["cells"] == 0
    assert NO_CODEBOOK in out
    assert NO_CODEBOOK in (await rsfed(home, "runs", "show", "1"))[1]


@pytest.mark.parametrize(("told", "lacks"), [({"cells": 0}, True), ({"cells": 2}, False), ({}, False)])
def test_a_run_says_where_its_release_has_no_codebook(capsys, told, lacks):
    data = {"nodes": ["a"], "failed": {}, "queries": 90, "prior": 0.5, "error": 0.1} | told
    done = SimpleNamespace(id=1, words="done", rounds=2, requested=utc_now())
    show.print_run(done, [records.Event(1, "calibrated", utc_now(), data)])
    out = capsys.readouterr().out
    assert "calibrated with 90 held-out patches of 1 nodes\n" in out
    assert (NO_CODEBOOK in out) is lacks


async def test_on_a_terminal_progress_is_no_json_wherever_the_table_goes(home, serving):
    terminal, inner = os.openpty()
    process = await start(home, "train", "--rounds", "2", stderr=inner)
    os.close(inner)
    out, said = await asyncio.gather(process.stdout.read(), asyncio.to_thread(all_of, terminal))
    assert await process.wait() == 0
    assert "2/2" in out.decode()
    assert "2/2" in said
    assert '"event"' not in said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def round_done(number):
    result = {"round": number, "rounds": 2, "nodes": ["a"], "failed": {}, "counted": True, "loss": None}
    spent = {"sent_bytes": 0, "received_bytes": 0, "seconds": 1.0}
    return records.Event(number, "round", utc_now(), result | spent)


def test_the_table_on_a_terminal_is_drawn_once_for_each_step_that_brings_events(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with show.view(1, as_json=False) as view:
        queued = terminal.getvalue()
        view.add()
        time.sleep(0.6)  # in which a table that is drawn again and again would be
        assert terminal.getvalue() == queued
        view.add(round_done(1), round_done(2))
        drawn = terminal.getvalue().removeprefix(queued)
    assert "run 1 is queued" in queued
    assert drawn.count("run 1: round 2 of 2 done") == 1
    assert "round 1 of 2 done" not in drawn


@pytest.mark.parametrize("command", [["train"], ["runs", "show"]])
def test_help_says_what_the_column_of_missing_nodes_means(command, capsys):
    assert run(["coordinator", *command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("\u2502", " ").replace("`", "").split())
    assert "missing names the nodes that were asked in a round and gave no result that counts, and why" in said


def all_of(terminal):
    """What is written to a terminal until nobody has it open any more."""
    said = b""
    with suppress(OSError):  # which is how Linux says so
        while part := os.read(terminal, 1 << 16):
            said += part
    os.close(terminal)
    return said.decode()


async def test_train_says_when_the_coordinator_is_not_running(home):
    code, out, err = await rsfed(home, "train")
    assert (code, out) == (1, "")
    assert "rsfed coordinator serve" in err
    assert "SERVE_NOT_RUNNING" in err
    state = State(home)
    assert records.list_runs(state) == []
    state.close()


async def test_train_fails_as_its_run_does(home, serving):
    serving.driver._starting = lambda _: 1 / 0
    code, _, err = await rsfed(home, "train", "--output", "json")
    assert code == 1
    assert "INTERNAL" in err


async def test_ctrl_c_stops_following_and_the_run_goes_on(home, serving):
    serving.nodes.cancel()
    process = await start(home, "train", "--rounds", "1", "--output", "json")
    assert json.loads(await process.stdout.readline())["event"] == "started"
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert "run 1 goes on" in err.decode()
    serving.nodes = asyncio.create_task(answer_tasks(serving.board, "a", result_of))
    assert (await serving.ended(1)).state == "done"
    serving.nodes.cancel()


async def test_a_run_is_cancelled_and_train_ends_with_its_reason(home, serving):
    serving.nodes.cancel()
    process = await start(home, "train", "--rounds", "1", "--output", "json")
    assert json.loads(await process.stdout.readline())["event"] == "started"
    assert await rsfed(home, "runs", "cancel", "1") == (0, "run 1 is cancelled; the release that is served stays\n", "")
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert json.loads(out.splitlines()[-1])["reason"] == "RUN_CANCELLED"
    assert "[RUN_CANCELLED]" in err.decode()
    await until(lambda: serving.driver.running is None)
    assert serving.published == []


def test_a_run_is_cancelled_without_a_running_serve_and_an_ended_one_says_how_it_ended(home, capsys):
    def cancel(number):
        code = run(["coordinator", "runs", "cancel", number, "--home", str(home.path)])
        return code, capsys.readouterr().err

    state = State(home)
    for _ in range(3):
        records.request_run(state, 3, 1, utc_now())
    records.claim_next(state)
    assert [cancel("2"), cancel("3")] == [(0, ""), (0, "")]
    records.begin_publishing(state, 1)
    records.finish(state, 1, 7, b"d" * 32, utc_now())
    states = [(each.id, each.state) for each in records.list_runs(state)]
    state.close()
    assert states == [(3, "failed"), (2, "failed"), (1, "done")]
    code, said = cancel("1")
    assert (code, "published release 7" in said, "RUN_ENDED" in said) == (2, True, True)
    code, said = cancel("2")
    assert (code, said) == (2, "rsfed: run 2 was cancelled already [RUN_ENDED]\n")
    for command, line in ((["runs", "show", "2"], "run 2: cancelled"), (["runs", "list"], "cancelled")):
        run(["coordinator", *command, "--home", str(home.path)])
        shown = capsys.readouterr().out
        assert line in shown
    assert "failed" not in shown
    assert [cancel(number)[0] for number in ("9", "0", "x", str(2**63))] == [2, 2, 2, 2]
    assert "UNKNOWN_RUN" in cancel("9")[1]


async def test_train_waits_for_a_coordinator_that_is_away_and_follows_on(home, serving):
    serving.nodes.cancel()
    process = await start(home, "train", "--rounds", "1", "--output", "json")
    assert json.loads(await process.stdout.readline())["event"] == "started"
    await serving.control.stop(None)
    assert b"run 1 goes on where it was" in await asyncio.wait_for(process.stderr.readline(), 60)
    serving.nodes = asyncio.create_task(answer_tasks(serving.board, "a", result_of))
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    serving.nodes.cancel()
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["event"] == "released"


def test_runs_can_be_listed_and_looked_at(home, capsys):
    def runs(*arguments):
        code = run(["coordinator", "runs", *arguments, "--home", str(home.path)])
        told = capsys.readouterr()
        return code, told.out, told.err

    state = State(home)
    for number in range(2):
        records.request_run(state, 3, 1, utc_now())
        claimed = records.claim_next(state)
        records.fail(state, claimed.id, "TOO_FEW_NODES", f"round {number} needs 1 nodes", utc_now())
    state.close()
    code, out, _ = runs("list", "--output", "json")
    assert code == 0
    assert [(each["run"], each["state"]) for each in json.loads(out)["runs"]] == [(2, "failed"), (1, "failed")]
    assert "failed" in runs("list")[1]
    assert json.loads(runs("show", "1", "--output", "json")[1])["events"][0]["reason"] == "TOO_FEW_NODES"
    assert "TOO_FEW_NODES" in runs("show", "1")[1]
    code, _, err = runs("show", "9")
    assert code == 2
    assert "UNKNOWN_RUN" in err
