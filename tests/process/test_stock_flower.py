"""Training on Flower's own engine: SuperLink, proxy, two SuperNodes, TLS, node authentication. Real processes."""

import asyncio
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from federation import Federation, free_port, wait_until, write_images
from safetensors.numpy import load
from training_fakes import answer_tasks, until

from coordinator.state import State
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.rounds import Rules
from coordinator.training.runs import make_plan
from node.training.adapter import run_task
from node.training.client_app import app
from rsfed.config import CoordinatorConfig, load_config
from rsfed.hashing.weights import init_weights
from rsfed.home import Home
from rsfed.trust.certificates import make_ca
from rsfed.trust.release_store import ReleaseStore

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

APP = Path(__file__).resolve().parents[2] / "tools" / "flower-app"
BIN = Path(sys.executable).parent
CLASSES = {"canary-label-5e0c": 6, "canary-label-c214": 6}
CODING = "int8"  # of more levels than the default, so that one of them is little
ROUNDS = 2


def write_tls(folder):
    """Write a CA, and a key and certificate of 127.0.0.1 that it issued."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    ca_key, ca = make_ca("stock", now=now)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "server.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_node_key(folder, name):
    """Write the key of a SuperNode as Flower reads it: P-384 in OpenSSH's format, and its public part."""
    key = ec.generate_private_key(ec.SECP384R1())
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))


class Proxy:
    """What has to stand before a stock SuperLink: TLS, and nothing passes but the Fleet API. Keeps what nodes send."""

    def __init__(self, folder, behind):
        self.sent = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_POST(handler):  # noqa: N805 - names of http.server; `self` is the proxy
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                if not handler.path.startswith("/v1/fleet/"):
                    handler.send_error(403)
                    return
                self.sent.append(b"\n".join([handler.path.encode(), bytes(handler.headers), body]))
                upstream = http.client.HTTPSConnection("127.0.0.1", behind, context=trusting(folder), timeout=60)
                with closing(upstream):
                    upstream.request("POST", handler.path, body, dict(handler.headers))
                    answer = upstream.getresponse()
                    data = answer.read()
                handler.send_response(answer.status)
                handler.send_header("Content-Type", answer.headers["Content-Type"])
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data)

            def log_message(handler, *_):  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def trusting(folder):
    return ssl.create_default_context(cafile=folder / "ca.crt")


def post(port, path, context):
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)) as connection:
        connection.request(
            "POST", path, b"", {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}
        )
        return connection.getresponse().status


class Engine:
    """Flower's processes, all of which end with it."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self._processes = {}
        write_tls(folder)

    def environment(self, name):
        home = self.folder / f"flwr-{name}"
        home.mkdir(exist_ok=True)
        address = f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{self.folder / "ca.crt"}"\n'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "stock"\n\n[superlink.stock]\n{address}')
        return os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, name, *command):
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [BIN / command[0], *map(str, command[1:])],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment(name),
                start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process
        return process

    def superlink(self):
        certificates = [f"--ssl-{kind}={self.folder / file}" for kind, file in (
            ("certfile", "server.crt"), ("keyfile", "server.key"), ("ca-certfile", "ca.crt")
        )]  # fmt: skip
        process = self.start(
            "superlink", "flower-superlink", *certificates, "--enable-supernode-auth", "--host", "127.0.0.1", "--port",
            self.port, "--database", self.folder / "superlink.db", "--disable-runtime-dependency-installation",
        )  # fmt: skip
        wait_until(lambda: self._listens(process), what="the SuperLink listens", seconds=120)

    def _listens(self, process):
        assert process.poll() is None, self.log("superlink")
        try:
            return post(self.port, "/", trusting(self.folder))
        except ConnectionError:
            return None

    def supernode(self, name, home, at):
        return self.start(
            name, "flower-supernode", "--superlink", f"127.0.0.1:{at}", "--root-certificates", self.folder / "ca.crt",
            "--auth-supernode-private-key", self.folder / f"{name}.key", "--node-config", f'home="{home}"',
            "--port", free_port(),
        )  # fmt: skip

    def flwr(self, *arguments, timeout=240):
        command = [BIN / "flwr", *map(str, arguments)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout, env=self.environment("cli")
        )
        assert done.returncode == 0, f"{command[1:]}:\n{done.stdout}\n{done.stderr}\n{self.log('superlink')}"
        return done.stdout

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def close(self):
        """End the processes and whatever they started."""
        running = [psutil.Process(p.pid) for p in self._processes.values() if p.poll() is None]
        family = running + [child for process in running for child in process.children(recursive=True)]
        for process in reversed(running):  # the SuperLink last: nodes take their leave there
            process.terminate()
            psutil.wait_procs([process], timeout=15)
        for process in self._processes.values():
            with suppress(ProcessLookupError):  # what a process left behind is in its group
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)
        _, alive = psutil.wait_procs(family, timeout=15)
        for process in alive:
            process.kill()


def told(output):
    """The events in what `flwr run --stream` prints."""
    return [json.loads(found[0]) for line in output.splitlines() if (found := re.search(r"\{\"event\".*\}", line))]


def start_of(plan):
    return load(init_weights(plan.architecture, plan.input, plan.bits, plan.seed))


def own_engine(plan, homes):
    """Train the plan over our own board and tasks, from the weights of its seed."""

    async def trained():
        board = TaskBoard()
        nodes = [
            asyncio.create_task(answer_tasks(board, home.name, lambda task, at=home: run_task(app, at, task)))
            for home in homes
        ]
        await until(lambda: len(board.present()) == len(homes))
        try:
            return await asyncio.to_thread(
                train,
                BoardGrid(board, 1),
                plan,
                Progress(weights=start_of(plan)),
                run_id=1,
                rules=Rules(2, 120.0, coding=CODING),
                note=lambda *_: None,
            )
        finally:
            for node in nodes:
                node.cancel()
            await asyncio.wait(nodes)

    return asyncio.run(trained()).weights


def weights(home):
    """Return the weights of the current release in a coordinator's home."""
    return load(ReleaseStore(home.releases).current().weights("rgb").read_bytes())


@pytest.fixture
def federation(tmp_path):
    """A coordinator with two nodes that have joined and ingested, and serve nothing."""
    made = Federation(tmp_path)
    try:
        made.create(classes="first,second")
        names = dict(zip(CLASSES, ("first", "second"), strict=True))
        for seed, name in enumerate(("alps", "coast")):
            write_images(tmp_path / "canary-folder-91be" / name, CLASSES, seed=seed)
            made.add_node(name, tmp_path / "canary-folder-91be" / name, serve=False, label_map=names)
        yield made
    finally:
        made.close()


def test_a_stock_superlink_trains_what_our_own_engine_trains_and_only_known_nodes_through_the_fleet_api(
    federation, monkeypatch
):
    monkeypatch.setenv("RSFED_COORDINATOR__TRAINING__CODING", CODING)
    folder = federation.folder
    homes = {name: federation.home(name) for name in ("alps", "coast")}
    engine = Engine(folder)
    proxy = Proxy(folder, behind=engine.port)
    try:
        engine.superlink()
        for name in (*homes, "stranger"):
            write_node_key(folder, name)
        for name, home in homes.items():
            engine.flwr("supernode", "register", folder / f"{name}.pub", "--name", name)
            engine.supernode(name, home, at=proxy.port)
        stranger = engine.supernode("stranger", homes["alps"], at=proxy.port)
        settings = f'home="{federation.home("coordinator")}" rounds={ROUNDS} min-nodes=2'
        output = engine.flwr("run", APP, "--stream", "--run-config", settings)
        assert stranger.wait(60) != 0, "a node whose key nobody registered was let in"
        with pytest.raises(ssl.SSLCertVerificationError):
            post(engine.port, "/v1/fleet/pull-messages", ssl.create_default_context())
        assert post(proxy.port, "/v1/control/list-runs", trusting(folder)) == 403
        assert post(engine.port, "/v1/control/list-runs", trusting(folder)) == 200, "so the proxy is what is needed"
    finally:
        engine.close()
        proxy.close()

    assert "ships code to all its nodes" in output
    events = told(output)
    assert [event["event"] for event in events] == ["preflight", "round", "round", "calibrated", "released"], output
    assert all(len(event["nodes"]) == 2 and event["failed"] == {} for event in events if event["event"] == "round")

    coordinator = Home(federation.home("coordinator"))
    with closing(State(coordinator)):  # the run has let go of it
        plan = make_plan(load_config(CoordinatorConfig, coordinator.path), ROUNDS)
    expected, trained = own_engine(plan, list(homes.values())), weights(coordinator)
    assert trained.keys() == expected.keys()
    off = max(np.abs(trained[name] - array).max() for name, array in expected.items())
    way = max(np.abs(trained[name] - array).max() for name, array in start_of(plan).items())
    assert off < way / 50, "more than the order of two nodes, or one level of a packed change, may account for"
    status = json.loads(federation.rsfed("node", "status", "--home", homes["alps"], "--output", "json").stdout)
    assert [(task["kind"], task["round"], task["state"]) for task in reversed(status["training"]["tasks"])] == [
        ("query.preflight", 1, "done"),
        ("train", 1, "done"),
        ("train", 2, "done"),
        ("evaluate", 2, "TOO_FEW_ACQUISITIONS"),
    ]

    sent = b"".join(proxy.sent)
    assert b"/v1/fleet/push-object" in sent
    assert b"TOO_FEW_ACQUISITIONS" in sent
    assert len(sent) > 2 * ROUNDS * sum(array.nbytes for array in trained.values()) / 10, "updates are not among it"
    assert b"content-encoding" not in sent.lower(), "it would have to be unpacked to be looked into"
    assert b"canary" not in sent
    assert all(str(home).encode() not in sent for home in homes.values())
