"""Run by test_training_memory.py in a process of its own: prints by how much two rounds raised its peak memory.

Arguments: a file with what every node sends, the section of the strategy as JSON, the number of nodes, a home.
"""

import json
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from training_fakes import small_plan

from coordinator.state import State
from coordinator.training import records
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Checkpoints, Origin, Progress
from coordinator.training.engine import train
from coordinator.training.rounds import Rules
from rsfed.clock import utc_now
from rsfed.config_strategies import StrategySection
from rsfed.hashing.payload import CHUNK_BYTES, digest
from rsfed.home import Home


def weights(value: float = 0.5) -> dict[str, np.ndarray]:
    """Eleven million parameters in layers like those of a residual network."""
    sizes = [256] * 20 + [147_456] * 8 + [589_824] * 8 + [2_359_296] * 2 + [524_288]
    return {f"layer-{number}": np.full(size, value, np.float32) for number, size in enumerate(sizes)}


def deliver_all(board: TaskBoard, result: Path, names: list[str], size: int, sha256: bytes) -> None:
    """All nodes at once, in turns of one chunk, so that all uploads are open together."""
    with result.open("rb") as file:
        while True:
            tasks = [task for name in names if (task := board._open_task(name)) is not None]
            for offset in range(0, size, CHUNK_BYTES):
                file.seek(offset)
                chunk = file.read(CHUNK_BYTES)
                for task in tasks:
                    board.receive(task.node, task.id, (size, sha256), offset, chunk)
            threading.Event().wait(0.01)


def main() -> None:
    result, section, nodes, home = sys.argv[1:]
    strategy = TypeAdapter(StrategySection).validate_json(section)
    names = [f"node-{number:02}" for number in range(int(nodes))]
    data = Path(result).read_bytes()
    size, sha256 = len(data), digest(data)
    del data
    place = Home(Path(home))
    state = State(place)
    run = records.request_run(state, 2, int(nodes), utc_now())
    records.claim_next(state)
    checkpoints = Checkpoints(place, state)
    board = TaskBoard(place.path)
    for name in names:
        board._open_task(name)  # heard of: present
    plan = small_plan(rounds=2)
    origin = Origin(plan.model_dump_json(), None, strategy)
    threading.Thread(target=deliver_all, args=(board, Path(result), names, size, sha256), daemon=True).start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(1) as pool:  # a run has a thread of its own, and threads have memory of their own
        trained = pool.submit(
            train,
            board,
            plan,
            Progress(weights=weights()),
            run_id=run,
            strategy=strategy,
            rules=Rules(int(nodes), 300.0),
            note=lambda *_: None,
            keep=lambda progress, *event: checkpoints.keep(run, origin, progress, event, now=utc_now()),
        ).result()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = sum(array.nbytes for array in trained.weights.values())
    print(json.dumps({"times": (after - before) * 1024 / model, "rounds": trained.rounds, "bytes": model}))


if __name__ == "__main__":
    main()
