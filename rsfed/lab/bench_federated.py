"""Federated training on real images: `make bench-federated`, and with ablations `make bench-federated-full`.

UC Merced (splits of five seeds as in `make bench-hashing`) and EuroSAT (its split file) stand on the features of a
frozen trunk and are divided over five nodes; both sides' own apps train in one process. What the service itself costs
is measured on real processes. The images are found through RSFED_TEST_DATA, their features kept in the folder
RSFED_BENCH_CACHE. Ends with one line of JSON; docs/output.md tells what is in it.

Its parts are processes of their own, as many at a time as there are cores: a network this small keeps no second core
busy, and Flower allows one run at a time in a process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table

from rsfed.config_objectives import BatchAllSection, ClosedFormSection
from rsfed.config_strategies import FedAvgSection, FedMedianSection, FedProxSection
from rsfed.hashing.objectives.sampling import uniform
from rsfed.lab.bench_command import exit_code
from rsfed.lab.bench_images import EUROSAT, UCM, data_folder, featured, official_splits, unpacked
from rsfed.lab.evaluate.data import ImageSet, find, read
from rsfed.lab.evaluate.division import Split
from rsfed.lab.federated.learners import PLAIN, ROUNDS, Way, default, federated
from rsfed.lab.federated.outputs import tables
from rsfed.lab.federated.poison import ATTACKS, poisoned
from rsfed.lab.federated.run import ALONE, FederatedEvaluation, FederatedSettings, cases, evaluate_federated
from rsfed.lab.narrator import Narrator
from rsfed.lab.training_service import service_figures
from rsfed.transport.loop import run

SEEDS, NODES, BITS, K = 5, 5, 32, 20
UCM_EPOCHS, EUROSAT_EPOCHS = 40, 16  # as in `make bench-hashing`, chosen on validation parts
SCRATCH_SEEDS, SCRATCH_EPOCHS = 1, 12  # as in `make bench-hashing-scratch`
SKEWED, MILD = "dirichlet-0.1", "dirichlet-1.0"
SETTINGS = FederatedSettings(BITS, SEEDS, NODES, Split.RANDOM, K, UCM_EPOCHS)
WIDTH = 160  # characters
LATE = 10  # rounds
WHOLE = replace(ROUNDS, coding="float32")
ROBUST_NAME, ROBUST = (
    "fedmedian",
    Way(strategy=FedMedianSection(), start=False, end=False, coding="float32"),
)  # sums have no median
WAYS: Mapping[str, Way] = {
    "plain FedAvg, 20 rounds": PLAIN,
    "plain FedAvg, 20 rounds, without fixed centres": replace(PLAIN, objective=BatchAllSection()),
    "plain FedAvg, 20 rounds, batches not balanced over classes": replace(PLAIN, sample=uniform),
    "plain FedAvg, 60 rounds": replace(PLAIN, rounds=ROUNDS.rounds),
    "with a proximal term": replace(PLAIN, rounds=ROUNDS.rounds, strategy=FedProxSection()),
    "with server momentum": replace(WHOLE, start=False, end=False),
    "with momentum, solved start": replace(WHOLE, end=False),
    "with momentum, solved end": replace(WHOLE, start=False),
    "without momentum, solved start and end": replace(WHOLE, strategy=FedAvgSection()),
    "momentum, solved start and end": WHOLE,
    "momentum, solved start and end, batches not balanced over classes": replace(WHOLE, sample=uniform),
    "momentum, solved start and end, packed changes": ROUNDS,
    "closed form, no bit free": Way(objective=ClosedFormSection(free=0)),
    "default: closed form, an eighth of the bits free": Way(objective=ClosedFormSection()),
    "closed form, a quarter of the bits free": Way(objective=ClosedFormSection(free=0.25)),
    "with server momentum, mean of the last 10 rounds": replace(WHOLE, start=False, end=False, average=LATE),
    "momentum, solved start and end, mean of the last 10 rounds": replace(WHOLE, average=LATE),
}
"""Ablations: what each part does alone and together."""

Say = Callable[[str], None]


def main() -> None:
    """Run the benchmark, or one part of it, and print its tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also measure each part of the default alone")
    parser.add_argument("--part", choices=PARTS, help="this part alone")
    options = parser.parse_args()
    if options.part is not None:
        logging.getLogger("flwr").setLevel(logging.ERROR)  # it tells of every step
        sys.stdout.write(json.dumps(PARTS[options.part]()) + "\n")
        return
    data_folder()  # what is missing is told once, and not by every part
    names = [name for name in PARTS if options.full or name not in FULL]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = dict(zip(names, pool.map(_in_its_own_process, names), strict=True))
    with Narrator().phase("The training service"):
        service = run(service_figures())
    for part in found.values():
        sys.stdout.write(part.pop("table", ""))
    told = summary(found["ucm"], found["eurosat"], found["poison"], found["rounds"]["runs"])
    if options.full:
        told["robust"] = robust(found["ucm"], found["robust"])
    told |= {
        "bytes_ratio": round(service.bytes_ratio, 4),
        "round_overhead_s": round(service.round_overhead_s, 3),
        "resume_ok": service.resume_ok,
    }
    sys.stdout.write(json.dumps(told) + "\n")


def _in_its_own_process(part: str) -> dict[str, Any]:
    """Return what a part found; what it says meanwhile goes to standard error."""
    command = [sys.executable, "-m", "rsfed.lab.bench_federated", "--part", part]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def ucm_part() -> dict[str, Any]:
    """Compare ways to learn on UC Merced under the most skewed and the mildest division."""
    narrator = Narrator()
    with narrator.phase("UC Merced"):
        return ucm_figures(evaluate_federated(_ucm(), replace(SETTINGS, partitions=(SKEWED, MILD)), narrator.say))


def divisions_part() -> dict[str, Any]:
    """Compare them under the other divisions."""
    narrator = Narrator()
    others = tuple(name for name in SETTINGS.partitions if name not in {SKEWED, MILD})
    with narrator.phase("UC Merced, the other divisions"):
        return {
            "table": _text(tables(evaluate_federated(_ucm(), replace(SETTINGS, partitions=others), narrator.say), UCM))
        }


def ucm_figures(found: FederatedEvaluation) -> dict[str, Any]:
    """Return the figures of UC Merced; those that begin with an underscore are for other figures."""
    return {
        "table": _text(tables(found, UCM)),
        "ucm_gap_a01": gap(found, SKEWED, "default"),
        "ucm_gap_a1": gap(found, MILD, "default"),
        "fedavg_ucm_gap_a01": gap(found, SKEWED, "fedavg"),
        "closed_form_ucm_gap_a01": gap(found, SKEWED, "closed_form"),
        "central": {"ucm": _central(found)},
        "_network": list(found.central_runs["network"]),
        "_fedavg": {name: _runs(found, name, "fedavg") for name in (SKEWED, MILD)},
    }


def eurosat_part() -> dict[str, Any]:
    """Compare the default with models of one place on EuroSAT under the most skewed division."""
    found = _eurosat("default", "closed_form")
    return {
        "table": _text(tables(found, EUROSAT)),
        "eurosat_gap_a01": gap(found, SKEWED, "default"),
        "central": {"eurosat": _central(found)},
    }


def eurosat_others_part() -> dict[str, Any]:
    """Measure the ways of which each seed trains for minutes there."""
    return {"table": _text(tables(_eurosat("fedavg", *ALONE), EUROSAT))}


def _eurosat(*ways: str) -> FederatedEvaluation:
    narrator, data = Narrator(), data_folder()
    tiles = featured(data, find(unpacked(data, EUROSAT), splits=official_splits(data, EUROSAT)))
    settings = replace(SETTINGS, split=Split.OFFICIAL, epochs=EUROSAT_EPOCHS, partitions=(SKEWED,), ways=ways)
    with narrator.phase("EuroSAT"):
        return evaluate_federated(tiles, settings, narrator.say)


def scratch_part() -> dict[str, Any]:
    """Compare the default with plain FedAvg on EuroSAT's pixels, where the network is learnt without a trunk."""
    narrator, data = Narrator(), data_folder()
    tiles = read(find(unpacked(data, EUROSAT), splits=official_splits(data, EUROSAT)))
    settings = replace(
        SETTINGS,
        seeds=SCRATCH_SEEDS,
        split=Split.OFFICIAL,
        epochs=SCRATCH_EPOCHS,
        partitions=(SKEWED,),
        ways=("fedavg", "default"),
    )
    with narrator.phase("EuroSAT from scratch"):
        return {"table": _text(tables(evaluate_federated(tiles, settings, narrator.say), f"{EUROSAT}, from scratch"))}


def poison_part() -> dict[str, Any]:
    """Measure on UC Merced what one node that sends bad updates costs the default."""
    images = _ucm()
    return poisoned_figures("default", images, default(images))


def robust_part() -> dict[str, Any]:
    """Measure what it costs a strategy that is made for that."""
    return poisoned_figures(ROBUST_NAME, _ucm(), ROBUST)


def poisoned_figures(name: str, images: ImageSet, way: Way) -> dict[str, Any]:
    """Return what attacks of one node do to a way, by division and attack.

    Args:
        name: Its name in the table.
        images: What is learnt from.
        way: How nodes train together.
    """
    narrator = Narrator()
    with narrator.phase(f"UC Merced with a node that sends bad updates, {name}"):
        runs = {division: attacked_runs(images, SETTINGS, division, way, narrator.say) for division in (SKEWED, MILD)}
    table = Table("division", "queries", "no attack", *ATTACKS, box=None, title=f"mAP of {name}, one node attacks")
    for division, found in runs.items():
        for queries, place in (("all", 0), ("of classes that one node alone holds", 1)):
            means = [_mean([each[place] for each in figures]) for figures in found.values()]
            table.add_row(division, queries, *("" if mean is None else f"{mean:.3f}" for mean in means))
    return {
        "table": _text(table),
        "runs": {
            division: {name: [each[0] for each in figures] for name, figures in found.items()}
            for division, found in runs.items()
        },
        "lonely": {name: _mean([each[1] for each in figures]) for name, figures in runs[SKEWED].items()},
    }


def attacked_runs(
    images: ImageSet, settings: FederatedSettings, division: str, way: Way, say: Say = lambda _line: None
) -> dict[str, list[tuple[float, float | None]]]:
    """Return the figure of each seed, without an attack and with each attack of the first node.

    Beside the figure of all queries stands that of queries of classes that one node alone holds; None without such.
    """
    found: dict[str, list[tuple[float, float | None]]] = {}
    for name, attack in {"none": None, **ATTACKS}.items():
        wrap = None if attack is None else poisoned(attack)
        for case in cases(images, settings):
            parts = case.parts(division, settings.nodes)
            values = case.precisions(federated(case.task, parts, way, wrap))
            lonely = case.lonely(parts)
            say(f"  seed {case.task.seed}: {division}, attack {name}: {values.mean():.3f}")
            figures = float(values.mean()), float(values[lonely].mean()) if lonely.any() else None
            found.setdefault(name, []).append(figures)
    return found


def rounds_part() -> dict[str, Any]:
    """Measure on UC Merced what rounds of training give, with weights that travel whole and as packed changes."""
    narrator, images = Narrator(), _ucm()
    with narrator.phase("UC Merced, the network trained in rounds"):
        runs = {
            name: [
                case.measure(federated(case.task, case.parts(SKEWED, SETTINGS.nodes), way))
                for case in cases(images, SETTINGS)
            ]
            for name, way in (("whole", WHOLE), ("packed", ROUNDS))
        }
    return {"runs": runs}


def ablations_part() -> dict[str, Any]:
    """Measure what each part of the default does under the most skewed division."""
    narrator, images = Narrator(), _ucm()
    with narrator.phase("UC Merced, each part of the default"):
        return {"table": _text(ablations(images, SETTINGS, narrator.say))}


def ablations(images: ImageSet, settings: FederatedSettings, say: Say = lambda _line: None) -> Table:
    """Return the figure of each way of `WAYS`, and how far it lies above plain FedAvg on the same split."""
    table = Table("way", "mAP", "points above the first", "deviation", box=None, title=f"{UCM}, {SKEWED}")
    first: list[float] = []
    for name, way in WAYS.items():
        splits = cases(images, settings)
        runs = [case.measure(federated(case.task, case.parts(SKEWED, settings.nodes), way)) for case in splits]
        say(f"  {name}: {np.mean(runs):.4f}")
        first = first or runs
        above = 100 * np.subtract(runs, first)
        deviation = f"{above.std(ddof=1):.2f}" if len(above) > 1 else ""
        table.add_row(name, f"{np.mean(runs):.4f}", f"{above.mean():.2f}", deviation)
    return table


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "ucm": ucm_part,  # the longest first
    "rounds": rounds_part,
    "eurosat": eurosat_part,
    "poison": poison_part,
    "robust": robust_part,
    "ablations": ablations_part,
    "divisions": divisions_part,
    "eurosat_others": eurosat_others_part,
    "scratch": scratch_part,
}
FULL = ("robust", "ablations", "divisions", "eurosat_others", "scratch")  # which `make bench-federated-full` adds


def summary(
    ucm: Mapping[str, Any], eurosat: Mapping[str, Any], poison: Mapping[str, Any], rounds: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return the figures of the parts as one object: gaps and drops in points of mean average precision."""
    shown = {key: value for key, value in (*ucm.items(), *eurosat.items()) if key not in {"table", "central"}}
    return {
        **{key: value for key, value in shown.items() if not key.startswith("_")},
        "rounds_below_network_a01": _points(ucm["_network"], rounds["packed"]),
        "bytes_map_loss": _points(rounds["whole"], rounds["packed"]),
        **robust(ucm, poison),
        "central": ucm["central"] | eurosat["central"],
        "seeds": SEEDS,
    }


def robust(ucm: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a way costs without an attack against plain FedAvg, and what each attack costs against that."""
    runs = found["runs"]
    return {
        "points_below_fedavg": {name: _points(ucm["_fedavg"][name], runs[name]["none"]) for name in (MILD, SKEWED)},
        "poison_drop": _drops(runs[MILD]),
        "poison_drop_a01": _drops(runs[SKEWED]),
        "map_of_lonely_classes_a01": found["lonely"],
    }


def gap(found: FederatedEvaluation, division: str, way: str, central: str | None = None) -> float:
    """Return the points below a central model, the best one where none is named; the mean of differences by seed."""
    return _points(found.central_runs[central or found.best], _runs(found, division, way))


def _ucm() -> ImageSet:
    data = data_folder()
    return featured(data, find(unpacked(data, UCM)))


def _runs(found: FederatedEvaluation, division: str, way: str) -> list[float]:
    return list(next(row for row in found.rows if (row.partition, row.way) == (division, way)).runs)


def _drops(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: _points(found["none"], figures) for name, figures in found.items() if name != "none"}


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that there are, rounded; None without any."""
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _central(found: FederatedEvaluation) -> dict[str, float]:
    return {way: round(each.mean, 4) for way, each in found.central.items()}


def _points(before: Sequence[float], after: Sequence[float]) -> float:
    return round(100 * float(np.mean(np.subtract(before, after))), 2)


def _text(table: RenderableType) -> str:
    console = Console(highlight=False, width=WIDTH)
    with console.capture() as captured:
        console.print(table)
    return captured.get() + "\n"


if __name__ == "__main__":
    sys.exit(exit_code("bench_federated", main))
