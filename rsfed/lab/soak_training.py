"""Training runs whose members are killed at random moments: `make soak-training`.

Every trial is a federation of its own, of real processes over mTLS, in which one process is killed (SIGKILL) in the
middle of a run and started again at once. A trial is good where the run publishes one release that all nodes take up,
every round was done once, and the release finds the like of held-out patches as well as that of an undisturbed run,
but for what another seed changes. A third of the trials are runs of the closed form, the default on a frozen trunk, a
third train on a trunk, where nodes give sums for the last layer at both ends of a run, and a third from scratch.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsfed.errors import RsfedError, StateError
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.evaluation import evaluate
from rsfed.home import Home
from rsfed.lab.bench_precision import random_trunk
from rsfed.lab.demo_federation import COORDINATOR, DemoFederation, Plan
from rsfed.lab.processes import Processes
from rsfed.transport.loop import run
from rsfed.trust.release_store import ReleaseStore

NODES = ("alps", "baltic", "crete")
CLASSES = ("field", "forest", "water", "town")
ROUNDS, NEEDED = 8, 2  # rounds of a run, nodes that each needs: one may be away
SIZE, BITS, PER_CLASS, HELD_OUT = 32, 32, 15, 25  # pixels; patches of a class in an archive, and held out
FEATURES = 24  # of the trunk: random filters tell stripes apart
SEEDS = 3  # of undisturbed runs of each kind; the first is that of all others
DEVIATIONS = 3.0  # of these, that a release may be worth less
ONE_QUERY = 1 / (HELD_OUT * len(CLASSES))  # mAP that a release may be worth less in any case
PLAN = Plan("rgb", SIZE, BITS, CLASSES, width=8, local_steps=20, seed=0)
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RSFED_NODE__ARCHIVE__INDEPENDENT_FILES": "true"}  # sums need acquisitions


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial gave.

    Attributes:
        weights: SHA-256 of the released weights.
        mean_average_precision: mAP@20 of held-out patches among others.
        seconds: How long the run took from its begin.
        rounds: What the coordinator said of each round.
        model_bytes: Size of the released weights in float32.
        summed: Nodes whose sums are in the last layer; 0 where nobody was asked.
    """

    weights: str
    mean_average_precision: float
    seconds: float
    rounds: tuple[dict[str, Any], ...]
    model_bytes: int
    summed: int

    @property
    def complete(self) -> bool:
        """Whether every round had all nodes."""
        return all(len(each["nodes"]) == len(NODES) for each in self.rounds)


def main() -> None:
    """Run the trials and print one line of JSON; exits with 1 where one was not good."""
    parser = argparse.ArgumentParser(description="Train while members are killed at random moments.")
    parser.add_argument(
        "--kills", type=int, default=20, help="trials with a killed node, and as many with the coordinator"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    options = parser.parse_args()
    found = run(_soak(options.kills, random.Random(options.seed)))  # noqa: S311 - repeatable, keeps no secret
    sys.stdout.write(json.dumps(found | {"seed": options.seed}) + "\n")
    sys.exit(1 if found["failed"] else 0)


async def _soak(kills: int, draw: random.Random) -> dict[str, object]:
    with TemporaryDirectory(prefix="rsfed-soak-") as name:
        trunk = Path(name) / "trunk.onnx"
        trunk.write_bytes(random_trunk(3, SIZE, FEATURES))
        on_trunk = replace(PLAN, trunk=trunk)
        plans = {"closed_form": replace(on_trunk, objective="closed_form"), "trunk": on_trunk, "scratch": PLAN}
        kinds = list(plans)[:kills]  # as many as have a trial
        calm = {kind: [await trial(plan=replace(plans[kind], seed=seed)) for seed in range(SEEDS)] for kind in kinds}
        failed: list[str] = []
        outcomes: dict[str, dict[str, list[Outcome]]] = {kind: {"node": [], "coordinator": []} for kind in kinds}
        for number in range(2 * kills):
            kind, who = kinds[number // 2 % len(kinds)], "node" if number % 2 else "coordinator"
            victim = draw.choice(NODES) if who == "node" else COORDINATOR
            moment = draw.uniform(0.0, calm[kind][0].seconds)
            what = f"{kind}: {victim} dies {moment:.1f} s after the start"
            sys.stderr.write(f"trial {number + 1} of {2 * kills}, {what}\n")
            try:
                outcomes[kind][who].append(found := await trial(victim, moment, plans[kind]))
                check_worth(found, calm[kind])
            except RsfedError as error:
                failed.append(f"{what}: {error}")
    return {"trials": 2 * kills, "good": 2 * kills - len(failed), "failed": failed} | {
        kind: _compared(calm[kind], by_victim) for kind, by_victim in outcomes.items()
    }


def check_worth(outcome: Outcome, calm: Sequence[Outcome]) -> None:
    """Make sure that a trial gave what undisturbed runs give.

    Args:
        outcome: The trial's.
        calm: Of an undisturbed run with the same seed, and then of some with others.

    Raises:
        StateError: it is worth less than another seed explains.
    """
    drop = calm[0].mean_average_precision - outcome.mean_average_precision
    if drop > max(ONE_QUERY, DEVIATIONS * _deviation(calm)):
        raise StateError(f"its mAP is {drop:.3f} below that of an undisturbed run")


def _compared(calm: Sequence[Outcome], outcomes: dict[str, list[Outcome]]) -> dict[str, object]:
    """Return what was found beside an undisturbed run, by who was killed."""
    first = calm[0]
    return {
        "map": round(first.mean_average_precision, 4),
        "map_deviation": round(_deviation(calm), 4),
        "trials": {who: len(some) for who, some in outcomes.items()},
        "map_drop": {who: _drops(first, some) for who, some in outcomes.items()},
        "identical_weights": {who: sum(o.weights == first.weights for o in some) for who, some in outcomes.items()},
        "rounds_with_all_nodes": {who: sum(o.complete for o in some) for who, some in outcomes.items()},
        "sums_of_all_nodes": {who: sum(o.summed == len(NODES) for o in some) for who, some in outcomes.items()},
        "seconds": round(first.seconds, 1),
        "seconds_longest": round(max((o.seconds for some in outcomes.values() for o in some), default=0.0), 1),
    }


def _deviation(calm: Sequence[Outcome]) -> float:
    """Return the sample deviation of mAP over the seeds."""
    return float(np.std([outcome.mean_average_precision for outcome in calm], ddof=1))


def _drops(calm: Outcome, outcomes: list[Outcome]) -> dict[str, float]:
    """Return the mean and the largest loss of mAP against the undisturbed run."""
    drops = [calm.mean_average_precision - outcome.mean_average_precision for outcome in outcomes] or [0.0]
    return {"mean": round(float(np.mean(drops)), 4), "largest": round(max(drops), 4)}


async def trial(
    victim: str | None = None, moment: float = 0.0, plan: Plan = PLAN, number: int | None = None
) -> Outcome:
    """Found a federation, train while the victim dies, and look at what came of it.

    Args:
        victim: Node, or the coordinator, that is killed and started again; nobody when left out.
        moment: Seconds after the begin of the run, of its death.
        plan: What is trained.
        number: Rounds of the run; left out, as many as the plan takes.

    Raises:
        RsfedError: the run failed, or what came of it is not as it must be.
    """
    number = number or (1 if plan.objective == "closed_form" else ROUNDS)
    with TemporaryDirectory(prefix="rsfed-soak-") as name:
        folder = Path(name)
        async with Processes(folder / "logs", _ENVIRONMENT) as processes:
            federation = DemoFederation(processes, folder)
            await _found(federation, folder, plan)
            rounds, seconds = await _train(federation, victim, moment, number)
            await federation.wait_indexed(NODES, release=2)
            weights, precision, summed = _worth(Home(federation.home(COORDINATOR)))
            digest = hashlib.sha256(weights).hexdigest()
    if [each["round"] for each in rounds] != list(range(1, number + 1)):
        raise StateError(f"the rounds were {[each['round'] for each in rounds]}")
    return Outcome(digest, precision, seconds, tuple(rounds), len(weights), summed)


async def _found(federation: DemoFederation, folder: Path, plan: Plan) -> None:
    await federation.found(plan)
    for number, node in enumerate(NODES):
        _write_archive(folder / "archives" / node, np.random.default_rng(number))
        await federation.admit_node(node, folder / "archives" / node, "rgb")
        await federation.serve_node(node)
    await federation.wait_indexed(NODES, release=1)


async def _train(
    federation: DemoFederation, victim: str | None, moment: float, number: int
) -> tuple[list[dict[str, Any]], float]:
    """Train; return the events of the rounds, and how many seconds the run took.

    The victim dies so many seconds after the run began.
    """
    rounds, dying, begun = [], None, time.monotonic()
    async for event in federation.train(number, NEEDED):
        if event["event"] == "started":
            begun = time.monotonic()
            dying = None if victim is None else asyncio.create_task(_die(federation, victim, moment))
        elif event["event"] == "round":
            rounds.append(event)
    seconds = time.monotonic() - begun
    if dying is not None:
        await dying
    return rounds, seconds


async def _die(federation: DemoFederation, victim: str, moment: float) -> None:
    await asyncio.sleep(moment)
    await federation.crash(victim)


def _worth(home: Home) -> tuple[bytes, float, int]:
    """Return the released weights, how well they find the like of held-out patches, and how many nodes gave sums."""
    release = ReleaseStore(home.releases).current()
    if release is None:
        raise StateError("the coordinator has no sound release")
    encoder = Encoder.load(release)
    rng = np.random.default_rng(99)
    labels = np.repeat(np.eye(len(CLASSES), dtype=np.bool_), HELD_OUT, axis=0)
    queries, gallery = (encoder.encode({"all": _normalised(p)} for p in _patches(HELD_OUT, rng)) for _ in range(2))
    weights = release.weights("rgb").read_bytes()
    precision = evaluate(queries, labels, gallery, labels).mean_average_precision
    return weights, precision, release.manifest.training.summed


def _write_archive(folder: Path, rng: np.random.Generator) -> None:
    for number, pixels in enumerate(_patches(PER_CLASS, rng)):
        path = folder / CLASSES[number // PER_CLASS] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def _patches(count: int, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Return patches, shape (SIZE, SIZE, 3) each, class by class: noisy stripes whose direction is the class."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    patches = []
    for number in range(len(CLASSES)):
        angle = number * np.pi / len(CLASSES)
        for _ in range(count):
            wave = np.cos((rows * np.sin(angle) + columns * np.cos(angle)) * rng.uniform(0.8, 1.2) + rng.uniform(0, 6))
            pixels = 128 + 40 * wave[..., None] * rng.uniform(0.3, 1, 3) + rng.normal(0, 40, (SIZE, SIZE, 3))
            patches.append(pixels.clip(0, 255).astype(np.uint8))
    return patches


def _normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return ((pixels.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)


if __name__ == "__main__":
    main()
