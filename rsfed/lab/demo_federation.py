"""A federation on one machine, run by the command line alone: the demo types what operators would type."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsfed.clock import Deadline
from rsfed.errors import DeadlineExceeded, RsfedError
from rsfed.home import Home
from rsfed.lab.processes import Processes, free_ports
from rsfed.transport.channel import call, open_control_channel
from rsfed.v1.control_pb2 import ControlServiceStatusRequest, ControlServiceStatusResponse
from rsfed.v1.control_pb2_grpc import ControlServiceStub

FEDERATION = "demo"
ANALYST = "ada"
COORDINATOR = "coordinator"
_STANDSTILL_S = 120.0  # that a server may go without any progress while it starts or hashes
_LOOK_S = 0.1
_HANDLES_AT_ONCE = 2000  # of one `rsfed node resolve`: system limits bound the length of a command


@dataclass(frozen=True, slots=True)
class Plan:
    """What the coordinator is told.

    Attributes:
        modality: Name of the modality.
        size: Width and height in pixels of the encoder's input.
        bits: Width of the codes.
        classes: Classes of the federation.
        width: Channels of the first stage of the network.
        local_steps: Optimiser steps of a node in one round.
        seed: Seed of the training.
        trunk: ONNX file of a frozen trunk; None to train from scratch.
        objective: Name of what codes are trained for.
    """

    modality: str
    size: int
    bits: int
    classes: Sequence[str]
    width: int
    local_steps: int
    seed: int
    trunk: Path | None = None
    objective: str = "centres"

    def environment(self) -> dict[str, str]:
        """Return what init has no option for, as overrides of coordinator.toml and node.toml.

        The policy level, and whether the loss is told, are the operator's choice; here all archives are one user's.
        """
        return {
            "RSFED_NODE__POLICY__LEVEL": "partner",
            "RSFED_NODE__TRAINING__REPORT": '["loss"]',
            "RSFED_COORDINATOR__OBJECTIVE__NAME": self.objective,
            "RSFED_COORDINATOR__ENCODER__WIDTH": str(self.width),
            "RSFED_COORDINATOR__TRAINING__LOCAL_STEPS": str(self.local_steps),
            "RSFED_COORDINATOR__TRAINING__SEED": str(self.seed),
        }


class DemoFederation:
    """Coordinator, nodes and one analyst with separate homes below one folder.

    Args:
        processes: Runs the commands.
        folder: Where the homes lie; a short path, since control sockets lie in them.
    """

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self._folder = folder

    def home(self, name: str) -> Path:
        """Return the home of a member."""
        return self._folder / name

    async def found(self, plan: Plan) -> None:
        """Make the federation and start its coordinator."""
        self._processes.configure(plan.environment())
        federation, join = (f"127.0.0.1:{port}" for port in free_ports(2))
        classes = self._folder / "classes.txt"
        classes.write_text("\n".join(plan.classes))
        trunk = () if plan.trunk is None else ("--trunk", plan.trunk)
        await self._processes.run(
            *("coordinator", "init", FEDERATION, "--home", self.home(COORDINATOR), "--modality", plan.modality, *trunk),
            *("--bits", str(plan.bits), "--size", str(plan.size), "--classes-file", classes),
            *("--bind", federation, "--advertise", federation, "--join-bind", join, "--join-advertise", join),
        )
        await self._processes.start(COORDINATOR, "coordinator", "serve", "--home", self.home(COORDINATOR))
        await self._until(COORDINATOR, lambda status: status.state == "serving")

    async def admit_node(self, name: str, archive: Path, modality: str) -> dict[str, Any]:
        """Invite a node, let it join and ingest its archive; return what the ingest reported."""
        home, address = self.home(name), f"127.0.0.1:{free_ports(1)[0]}"
        await self._processes.run(
            *("node", "init", "--home", home, "--archive", archive, "--modality", modality),
            *("--bind", address, "--advertise", address),
        )
        await self._processes.run("node", "join", await self._invite(name, "node"), "--home", home)
        report: dict[str, Any] = json.loads(
            await self._processes.run("node", "ingest", "--home", home, "--output", "json")
        )
        return report

    async def serve_node(self, name: str) -> None:
        """Start serving."""
        await self._processes.start(name, "node", "serve", "--home", self.home(name))

    async def crash(self, name: str) -> None:
        """Kill the server of a node, or the coordinator, and start it again."""
        await self._processes.kill(name)
        role = COORDINATOR if name == COORDINATOR else "node"
        await self._processes.start(name, role, "serve", "--home", self.home(name))

    async def admit_analyst(self) -> Home:
        """Invite an analyst, let it join and return its home."""
        home = self.home(ANALYST)
        await self._processes.run("analyst", "init", "--home", home)
        await self._processes.run("analyst", "join", await self._invite(ANALYST, "analyst"), "--home", home)
        return Home(home)

    async def wait_indexed(self, nodes: Sequence[str], release: int) -> dict[str, int]:
        """Wait until every node serves this release with its whole archive; return how many patches each searches."""

        def ready(status: ControlServiceStatusResponse) -> bool:
            return status.release_version == release and not status.pending and status.connected

        found = await asyncio.gather(*(self._until(node, ready) for node in nodes))
        return {node: status.indexed for node, status in zip(nodes, found, strict=True)}

    async def train(self, rounds: int, nodes: int) -> AsyncIterator[dict[str, Any]]:
        """Train and yield the events of the run as the coordinator reports them."""
        lines = self._processes.lines(
            *("coordinator", "train", "--home", self.home(COORDINATOR), "--rounds", str(rounds)),
            *("--nodes", str(nodes), "--output", "json"),
        )
        async for line in lines:
            self._processes.check()
            yield json.loads(line)

    async def resolve(self, node: str, handles: Sequence[str]) -> list[dict[str, Any]]:
        """Ask a node, as its operator, which of its own files handles mean; in the order of the handles."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(handles), _HANDLES_AT_ONCE):
            some = handles[start : start + _HANDLES_AT_ONCE]
            found += json.loads(
                await self._processes.run("node", "resolve", *some, "--home", self.home(node), "--output", "json")
            )
        return found

    async def _invite(self, name: str, role: str) -> str:
        printed = await self._processes.run(
            "coordinator", "invite", name, "--role", role, "--home", self.home(COORDINATOR)
        )
        return printed.strip()

    async def _until(
        self, name: str, ready: Callable[[ControlServiceStatusResponse], bool]
    ) -> ControlServiceStatusResponse:
        """Look at a server over its control socket until it is ready."""
        deadline, last = Deadline.after(_STANDSTILL_S), None
        while deadline.remaining():
            self._processes.check()
            status = await _status(Home(self.home(name)))
            if status is not None and ready(status):
                return status
            if status != last:
                deadline, last = Deadline.after(_STANDSTILL_S), status
            await asyncio.sleep(_LOOK_S)
        raise DeadlineExceeded(f"{name} made no progress for {_STANDSTILL_S:.0f} s; see its log with --keep")


async def _status(home: Home) -> ControlServiceStatusResponse | None:
    if not home.control_socket.exists():
        return None
    async with open_control_channel(home.control_socket) as channel:
        stub = ControlServiceStub(channel)
        try:
            return await call(stub.Status, ControlServiceStatusRequest(), Deadline.after(5.0), what="the server")
        except RsfedError:
            return None


def by_node(handles: Mapping[tuple[str, str], object]) -> dict[str, list[str]]:
    """Return the handles of each node, out of keys of node and handle."""
    grouped: dict[str, list[str]] = {}
    for node, handle in handles:
        grouped.setdefault(node, []).append(handle)
    return grouped
