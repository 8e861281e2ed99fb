"""What memory a round needs: `make bench-memory` prints it for all strategies, test_training_memory.py looks at some.

Each is measured in a process of its own, which is this file with arguments: a file with what every node sends, the
section of the strategy as JSON or how many projections a run of the closed form has, the number of nodes, a home. It
prints by how much the rounds raised its peak memory.
"""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import TypeAdapter
from training_fakes import deliver, result_of, small_plan

from coordinator.state import State
from coordinator.training import records
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Checkpoints, Origin, Progress
from coordinator.training.engine import train
from coordinator.training.grid import BoardGrid
from coordinator.training.rounds import Rules
from coordinator.training.strategies import STRATEGIES, copies_held
from rsfed.clock import utc_now
from rsfed.config import CoordinatorTraining
from rsfed.config_objectives import ClosedFormSection
from rsfed.config_strategies import DEFAULT_STRATEGY, StrategySection
from rsfed.hashing import refit
from rsfed.hashing.closed_form import Sums
from rsfed.hashing.exchange import answered
from rsfed.hashing.payload import CHUNK_BYTES, Payload, digest, encode
from rsfed.hashing.plan import SUMS, TrainingPlan
from rsfed.home import Home
from rsfed.trust.manifest import FileEntry, FrozenTrunk

ANY = TypeAdapter(StrategySection)
CODING = CoordinatorTraining().coding
QUESTION = 100_000  # bytes that no weights fit into, nor a change of them


def weights(value: float = 0.5) -> dict[str, np.ndarray]:
    """Eleven million parameters in layers like those of a residual network."""
    sizes = [256] * 20 + [147_456] * 8 + [589_824] * 8 + [2_359_296] * 2 + [524_288]
    return {f"layer-{number}": np.full(size, value, np.float32) for number, size in enumerate(sizes)}


FEATURES, PROJECTIONS = 1280, 4096  # of the frozen trunk of the benchmarks, and of the closed form on it


def closed_form(projections: int = PROJECTIONS) -> tuple[TrainingPlan, dict[str, np.ndarray]]:
    """A run of the closed form, and the weights that it starts from."""
    trunk = FrozenTrunk(
        trunk=FileEntry(name="rgb.onnx", size=1, sha256="0" * 64),
        bands=3,
        size=16,
        features=FEATURES,
        head="fourier",
        projections=projections,
    )
    plan = small_plan(architecture=trunk, objective=ClosedFormSection(), rounds=1)
    shapes = {"projections.weight": (projections, FEATURES), "head.weight": (plan.bits, projections)}
    shapes |= {"projections.bias": (projections,), "head.bias": (plan.bits,)}
    return plan, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def resident(which: str) -> int:
    """Return the memory of this process in bytes, now or at its peak; `getrusage` would count the parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def deliver_all(board: TaskBoard, result: Path, names: list[str], size: int, sha256: bytes) -> None:
    """All nodes at once, in turns of one chunk, so that all uploads are open together."""
    with result.open("rb") as file:
        while True:
            tasks = [task for name in names if (task := board._open_task(name)) is not None]
            if tasks and len(tasks[0].payload) < QUESTION:  # whether they take part
                for task in tasks:
                    deliver(board, task, result_of(task.payload.read()))
                continue
            for offset in range(0, size, CHUNK_BYTES):
                file.seek(offset)
                chunk = file.read(CHUNK_BYTES)
                for task in tasks:
                    board.receive(task.node, task.id, (size, sha256), offset, chunk)
            threading.Event().wait(0.01)


def write_result(path: Path) -> Path:
    """Write what every node sends: a packed change, as it is asked for where nothing else is said."""
    metrics = {"num-examples": 10.0, "loss": 0.5, "seconds": 0.1}
    draw = np.random.default_rng(1)
    start = weights()
    moved = {name: array + draw.normal(0, 0.01, array.shape).astype(np.float32) for name, array in start.items()}
    change, _ = answered(1, start, moved, CODING, None)
    path.write_bytes(encode(Payload(1, 1, "train", {}, {"metrics": metrics}, {"delta": change})))
    return path


def write_sums(path: Path, projections: int = PROJECTIONS) -> Path:
    """Write the sums that every node gives, of patches that are near others of their class."""
    plan, _ = closed_form(projections)
    centres = refit.centres_of(plan)
    draw, classes = np.random.default_rng(1), np.arange(60) % len(centres)
    rows = draw.normal(size=(len(centres), projections))[classes] + draw.normal(0, 0.5, (len(classes), projections))
    rows = np.c_[rows / np.linalg.norm(rows, axis=1, keepdims=True), np.ones(len(classes))]
    sums = Sums.of(rows, np.eye(len(centres), dtype=bool)[classes], centres)
    metrics = {"metrics": {"num-examples": float(sums.patches), "seconds": 0.1}}
    path.write_bytes(encode(Payload(1, 1, SUMS, {"arrays": refit.to_arrays(sums)}, metrics)))
    return path


def sums_said(nodes: int, projections: int = PROJECTIONS) -> float:
    """Return how many times the model a run of the closed form says that it needs."""
    _, model = closed_form(projections)
    return 1 + refit.sums_bytes(model, nodes) / sum(array.nbytes for array in model.values())


def times_of_sums(result: Path, nodes: int, projections: int = PROJECTIONS) -> float:
    """Return by how many times the model a run of the closed form raises the peak memory of a process of its own."""
    told = measured(result, str(projections), nodes)
    assert told["rounds"] == 1
    return told["times"]


def times_the_model(result: Path, section: StrategySection, nodes: int) -> float:
    """Return by how many times the model two rounds raise the peak memory of a process of their own."""
    told = measured(result, section.model_dump_json(), nodes)
    assert told["rounds"] == 2
    assert told["bytes"] > 4 * 10.9e6
    return told["times"]


def measured(result: Path, asked: str, nodes: int) -> dict[str, float]:
    """Return what a process of its own tells of a run."""
    with TemporaryDirectory() as home:
        command = [sys.executable, __file__, str(result), asked, str(nodes), home]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def print_table(nodes: int = 16) -> None:
    """Print for each strategy what it needed and what it says that it needs, in models."""
    with TemporaryDirectory() as folder:
        result = write_result(Path(folder) / "result")
        sys.stdout.write(f"{'strategy':<16}{'measured':>10}{'said':>6}  times the model, {nodes} nodes\n")
        for name in STRATEGIES:
            section = ANY.validate_python({"name": name})
            measured = times_the_model(result, section, nodes)
            sys.stdout.write(f"{name:<16}{measured:>10.2f}{copies_held(section, nodes):>6}\n")
            sys.stdout.flush()
        needed = times_of_sums(write_sums(Path(folder) / "sums"), nodes)
        sys.stdout.write(f"{'closed_form':<16}{needed:>10.2f}{sums_said(nodes):>6.1f}  times its own model\n")


def measure(result: str, asked: str, nodes: str, home: str) -> None:
    closed = asked.isdecimal()
    plan, start = closed_form(int(asked)) if closed else (small_plan(rounds=2), weights())
    strategy = DEFAULT_STRATEGY if closed else ANY.validate_json(asked)
    names = [f"node-{number:02}" for number in range(int(nodes))]
    data = Path(result).read_bytes()
    size, sha256 = len(data), digest(data)
    del data
    place = Home(Path(home))
    state = State(place)
    run = records.request_run(state, plan.rounds, int(nodes), utc_now())
    records.claim_next(state)
    checkpoints = Checkpoints(place, state)
    board = TaskBoard(place.path)
    for name in names:
        board._open_task(name)  # heard of: present
    if closed:
        board.expect(refit.wire_bytes(start, plan.bits))
    since = Progress(weights=start)
    del start
    origin = Origin(plan.model_dump_json(), None, strategy)
    threading.Thread(target=deliver_all, args=(board, Path(result), names, size, sha256), daemon=True).start()
    before = resident("VmRSS")
    with ThreadPoolExecutor(1) as pool:  # a run has a thread of its own, and threads have memory of their own
        trained = pool.submit(
            train,
            BoardGrid(board, run),
            plan,
            since,
            run_id=run,
            strategy=strategy,
            rules=Rules(int(nodes), 300.0, coding=CODING),
            note=lambda *_: None,
            keep=lambda progress, *event: checkpoints.keep(run, origin, progress, event, now=utc_now()),
        ).result()
    after = resident("VmHWM")
    model = sum(array.nbytes for array in trained.weights.values())
    print(json.dumps({"times": (after - before) / model, "rounds": trained.rounds, "bytes": model}))


if __name__ == "__main__":
    measure(*sys.argv[1:]) if sys.argv[1:] else print_table()
