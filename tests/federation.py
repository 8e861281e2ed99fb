"""A real federation on loopback: separate processes, separate homes, real certificates, the real command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

RSFED = [sys.executable, "-m", "rsfed"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, *, what: str, seconds: float = 60):
    """Poll until the condition gives something; a test waits for a state, never for a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


def write_images(folder: Path, classes: dict[str, int], *, seed: int, size: int = 32) -> None:
    """Write PNG patches whose texture, not file name, says their class: stripes of a direction and period."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        angle = number * np.pi / max(1, len(classes))
        for index in range(count):
            wave = np.cos((rows * np.sin(angle) + columns * np.cos(angle)) * 1.1 + rng.uniform(0, 6))
            pixels = 128 + 70 * wave[..., None] * rng.uniform(0.6, 1, 3) + rng.normal(0, 12, (size, size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{seed}-{index}.png")


@dataclass
class Server:
    """One `serve` process with its log."""

    arguments: list[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen | None = None

    def start(self) -> Server:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*RSFED, *self.arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment
            )
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@dataclass
class Federation:
    """One coordinator, its nodes and one analyst below one folder."""

    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: {**os.environ, "OMP_NUM_THREADS": "1"})
    servers: dict[str, Server] = field(default_factory=dict)

    def home(self, name: str) -> Path:
        return self.folder / name

    def rsfed(self, *arguments: str | Path, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess:
        """Run one command to its end."""
        command = [*RSFED, *map(str, arguments)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout, env=self.environment
        )
        if check and done.returncode:
            raise AssertionError(f"{command[3:]} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def create(self, *options: str | Path, classes: str, size: int = 32, bits: int = 32) -> None:
        """Make the federation, with further options of `init`, and start its coordinator."""
        federation, join = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.rsfed(
            "coordinator", "init", "testers", "--home", self.home("coordinator"), "--classes", classes,
            "--size", str(size), "--bits", str(bits), "--bind", federation, "--advertise", federation,
            "--join-bind", join, "--join-advertise", join, *options,
        )  # fmt: skip
        self.serve("coordinator", "coordinator")

    def invite(self, name: str, role: str) -> str:
        return self.rsfed(
            "coordinator", "invite", name, "--role", role, "--home", self.home("coordinator")
        ).stdout.strip()

    def add_node(
        self,
        name: str,
        archive: Path,
        *,
        serve: bool = True,
        label_map: dict[str, str] | None = None,
        independent: bool = False,
    ) -> None:
        """Invite, join, ingest and (unless told otherwise) serve one node; independent files are acquisitions each."""
        home, address = self.home(name), f"127.0.0.1:{free_port()}"
        self.rsfed("node", "init", "--home", home, "--archive", archive, "--bind", address, "--advertise", address)
        if independent:
            config = home / "node.toml"
            config.write_text(config.read_text().replace("independent_files = false", "independent_files = true"))
        if label_map:
            rows = "".join(f'"{own}" = "{known}"\n' for own, known in label_map.items())
            config = home / "node.toml"
            config.write_text(config.read_text().replace("[labels.map]\n", f"[labels.map]\n{rows}"))
        self.rsfed("node", "join", self.invite(name, "node"), "--home", home)
        self.rsfed("node", "ingest", "--home", home)
        self.disclose(name)
        if serve:
            self.serve("node", name)

    def disclose(self, name: str) -> None:
        """Choose the policy level of a node, as its operator has to."""
        path = self.home(name) / "node.toml"
        text = path.read_text()
        chosen = text.replace('# level = "partner"', 'level = "partner"')
        assert chosen != text
        path.write_text(chosen)

    def add_analyst(self, name: str) -> None:
        self.rsfed("analyst", "init", "--home", self.home(name))
        self.rsfed("analyst", "join", self.invite(name, "analyst"), "--home", self.home(name))

    def serve(self, role: str, name: str) -> Server:
        server = Server(
            [role, "serve", "--home", str(self.home(name))], self.folder / f"{name}.log", self.environment
        ).start()
        self.servers[name] = server
        return server

    def nodes(self) -> dict[str, dict]:
        """What the coordinator knows of its nodes, by name."""
        done = self.rsfed("coordinator", "nodes", "--home", self.home("coordinator"), "--output", "json", check=False)
        return {n["name"]: n for n in json.loads(done.stdout)["nodes"]} if done.returncode == 0 else {}

    def wait_serving(self, *names: str, release: int = 1) -> None:
        """Wait until the coordinator sees all these nodes online on this release."""
        wait_until(
            lambda: all(
                (n := self.nodes().get(name)) and n["online"] and n["release_version"] == release for name in names
            ),
            what=f"{names} serve release {release}",
            seconds=90,
        )

    def query(self, *arguments: str | Path, analyst: str = "ada", check: bool = True) -> dict:
        """Run `rsfed query` and return its JSON."""
        done = self.rsfed("query", *arguments, "--home", self.home(analyst), "--output", "json", check=check)
        return {"exit": done.returncode, "stderr": done.stderr, **(json.loads(done.stdout) if done.stdout else {})}

    def resolve(self, node: str, handles: list[str]) -> list[dict]:
        done = self.rsfed("node", "resolve", *handles, "--home", self.home(node), "--output", "json")
        return json.loads(done.stdout)

    def close(self) -> None:
        for server in self.servers.values():
            if server.process.poll() is None:
                server.kill()
