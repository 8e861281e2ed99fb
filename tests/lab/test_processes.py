"""No process of the demo outlives it, and what fails says why."""

import asyncio
import os

import psutil
import pytest

from rsfed.lab import processes
from rsfed.lab.memory import MemoryMeter, held_bytes
from rsfed.lab.processes import CommandFailed, Processes, free_ports

SLEEPER = "import signal, sys, time; print('ready', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)


@pytest.fixture
def python(monkeypatch):
    """Run Python with the given arguments in place of rsfed."""
    monkeypatch.setattr(processes, "RSFED", (os.sys.executable,))


async def until(condition):
    while not condition():  # noqa: ASYNC110 - the state of another process raises no event
        await asyncio.sleep(0.02)


async def until_ready(log):
    await until(lambda: log.exists() and "ready" in log.read_text())


async def test_a_command_returns_its_output_and_sees_the_added_environment(python, tmp_path):
    async with Processes(tmp_path, {"RSFED_X": "7"}) as running:
        assert await running.run("-c", "import os; print(os.environ['RSFED_X'])") == "7\n"


async def test_a_command_that_fails_says_what_it_printed_last(python, tmp_path):
    async with Processes(tmp_path, {}) as running:
        with pytest.raises(CommandFailed) as failure:
            await running.run("-c", "import sys; sys.exit('the reason')")
    assert "the reason" in failure.value.detail


async def test_a_folder_of_our_name_where_the_demo_is_called_is_not_what_runs(tmp_path, monkeypatch):
    (tmp_path / "rsfed").mkdir()
    for name in ("__init__", "__main__"):
        (tmp_path / "rsfed" / f"{name}.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    async with Processes(tmp_path / "logs", {}) as running:
        assert "rsfed, version" in await running.run("--version")


async def test_lines_arrive_while_the_command_runs(python, tmp_path):
    async with Processes(tmp_path, {}) as running:
        async for line in running.lines("-c", SLEEPER):
            assert line == "ready\n"
            break


async def test_servers_and_commands_end_with_the_context_also_on_an_error(python, tmp_path):
    async def demo():
        async with Processes(tmp_path, {}) as running:
            await running.start("server", "-c", SLEEPER)
            commands.append(asyncio.create_task(running.run("-c", SLEEPER)))
            await until_ready(tmp_path / "server.log")
            family.extend(psutil.Process().children())
            assert running.servers["server"] in {child.pid for child in family}
            raise RuntimeError

    commands, family = [], []
    with pytest.raises(RuntimeError):
        await demo()
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(CommandFailed):
        await commands[0]


async def test_a_server_that_does_not_listen_is_killed(python, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_S", 0.2)
    async with Processes(tmp_path, {}) as running:
        await running.start("server", "-c", STUBBORN)
        await until_ready(tmp_path / "server.log")
        pid = running.servers["server"]
    assert not psutil.pid_exists(pid)


async def test_a_second_interruption_does_not_leave_a_server_behind(python, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_S", 0.5)

    async def demo():
        async with Processes(tmp_path, {}) as running:
            await running.start("server", "-c", STUBBORN)
            await until_ready(tmp_path / "server.log")
            pids.append(running.servers["server"])
            await asyncio.sleep(60)

    pids = []
    task = asyncio.create_task(demo())
    await until(lambda: pids)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(pids[0])


async def test_a_server_that_ended_is_noticed_with_its_last_words(python, tmp_path):
    async with Processes(tmp_path, {}) as running:
        await running.start("server", "-c", "import sys; sys.exit('no port')")
        await until(lambda: not psutil.pid_exists(running.servers["server"]))
        await asyncio.sleep(0.1)
        with pytest.raises(CommandFailed, match="server ended by itself") as failure:
            running.check()
    assert "no port" in failure.value.detail


def test_free_ports_are_all_different():
    assert len(set(free_ports(20))) == 20


def test_memory_is_measured_for_this_process_and_none_for_one_that_is_gone():
    with MemoryMeter() as meter:
        pass
    assert meter.peak >= meter.peaks[os.getpid()] > 1e6
    gone = psutil.Popen([os.sys.executable, "-c", ""])
    gone.wait()
    assert held_bytes(gone) == 0
