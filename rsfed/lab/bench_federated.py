"""Federated training on real images: `make bench-federated`, and with ablations `make bench-federated-full`.

UC Merced (splits of five seeds as in `make bench-hashing`) and EuroSAT (its split file) stand on the features of a
frozen trunk and are divided over five nodes; both sides' own apps train in this process. The images are found through
RSFED_TEST_DATA, their features kept in the folder RSFED_BENCH_CACHE. Ends with one line of JSON; docs/output.md tells
what is in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rsfed.config_strategies import FedAvgSection, FedProxSection
from rsfed.lab.bench_images import EUROSAT, UCM, data_folder, featured, official_splits, unpacked
from rsfed.lab.evaluate.data import ImageSet, find
from rsfed.lab.evaluate.division import Split
from rsfed.lab.federated.learners import DEFAULT, PLAIN, Way, federated
from rsfed.lab.federated.outputs import tables
from rsfed.lab.federated.poison import ATTACKS, poisoned
from rsfed.lab.federated.run import FederatedEvaluation, FederatedSettings, cases, evaluate_federated
from rsfed.lab.narrator import Narrator

SEEDS, NODES, BITS, K = 5, 5, 32, 20
UCM_EPOCHS, EUROSAT_EPOCHS = 40, 16  # as in `make bench-hashing`, chosen on validation parts
SKEWED, MILD = "dirichlet-0.1", "dirichlet-1.0"
WIDTH = 160  # characters
WAYS: Mapping[str, Way] = {
    "plain FedAvg, 20 rounds": PLAIN,
    "plain FedAvg, 60 rounds": Way(strategy=FedAvgSection(), start=False, end=False),
    "with a proximal term": Way(strategy=FedProxSection(), start=False, end=False),
    "with server momentum": Way(start=False, end=False),
    "with momentum, solved start": Way(end=False),
    "with momentum, solved end": Way(start=False),
    "without momentum, solved start and end": Way(strategy=FedAvgSection()),
    "default: momentum, solved start and end": DEFAULT,
}
"""Ablations: what each part of the default does alone and together."""


def main() -> None:
    """Run the benchmark and print its tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also measure each part of the default alone")
    full = parser.parse_args().full
    data, narrator, console = data_folder(), Narrator(), Console(highlight=False, width=WIDTH)
    images = featured(data, find(unpacked(data, UCM)))
    settings = FederatedSettings(BITS, SEEDS, NODES, Split.RANDOM, K, UCM_EPOCHS)
    with narrator.phase("UC Merced"):
        ucm = evaluate_federated(images, settings, narrator.say)
    with narrator.phase("UC Merced with a node that sends bad updates"):
        drops = {name: poison_drops(images, settings, ucm, name, narrator.say) for name in (MILD, SKEWED)}
    with narrator.phase("EuroSAT"):
        tiles = featured(data, find(unpacked(data, EUROSAT), splits=official_splits(data, EUROSAT)))
        wanted = FederatedSettings(BITS, SEEDS, NODES, Split.OFFICIAL, K, EUROSAT_EPOCHS, (SKEWED,))
        eurosat = evaluate_federated(tiles, wanted, narrator.say)
    for found, source in ((ucm, UCM), (eurosat, EUROSAT)):
        console.print(tables(found, source))
        console.print()
    if full:
        with narrator.phase("UC Merced, each part of the default"):
            console.print(ablations(images, settings, ucm))
    sys.stdout.write(json.dumps(summary(ucm, eurosat, drops)) + "\n")


def summary(
    ucm: FederatedEvaluation, eurosat: FederatedEvaluation, drops: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return the figures as one object: gaps and drops in points of mean average precision."""
    return {
        "ucm_gap_a01": gap(ucm, SKEWED, "default"),
        "ucm_gap_a1": gap(ucm, MILD, "default"),
        "eurosat_gap_a01": gap(eurosat, SKEWED, "default", "network"),
        "fedavg_ucm_gap_a01": gap(ucm, SKEWED, "fedavg"),
        "bytes_ratio": bytes_ratio(),
        "bytes_map_loss": bytes_map_loss(),
        "round_overhead_s": round_overhead_s(),
        "resume_ok": resume_ok(),
        "poison_drop": dict(drops[MILD]),
        "poison_drop_a01": dict(drops[SKEWED]),
        "closed_form_ucm_gap_a01": gap(ucm, SKEWED, "closed_form"),
        "same_encoder": {
            "ucm_gap_a01": gap(ucm, SKEWED, "default", "network"),
            "ucm_gap_a1": gap(ucm, MILD, "default", "network"),
        },
        "central": {
            name: {way: round(each.mean, 4) for way, each in found.central.items()}
            for name, found in (("ucm", ucm), ("eurosat", eurosat))
        },
        "seeds": SEEDS,
    }


def bytes_ratio() -> float | None:
    """Return the bytes of a round against float32 both ways; None where it was not measured."""
    return None


def bytes_map_loss() -> float | None:
    """Return the points that these bytes cost; None where it was not measured."""
    return None


def round_overhead_s() -> float | None:
    """Return the seconds of a round beyond the slowest node's computing; None where it was not measured."""
    return None


def resume_ok() -> bool | None:
    """Return whether a run outlives the kill of its coordinator; None where it was not measured."""
    return None


def gap(found: FederatedEvaluation, division: str, way: str, central: str | None = None) -> float:
    """Return the points below a central model, the best one where none is named; the mean of differences by seed."""
    row = next(row for row in found.rows if (row.partition, row.way) == (division, way))
    return _points(found.central_runs[central or found.best], row.runs)


def poison_drops(
    images: ImageSet,
    settings: FederatedSettings,
    found: FederatedEvaluation,
    division: str,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, float]:
    """Return the points that the default loses by each attack of its first node, against no attack, paired by seed."""
    calm = next(row for row in found.rows if (row.partition, row.way) == (division, "default")).runs
    drops = {}
    for name, attack in ATTACKS.items():
        figures = []
        for case in cases(images, settings):
            parts = case.parts(division, settings.nodes)
            figures.append(case.measure(federated(case.task, parts, wrap=poisoned(attack))))
            say(f"  seed {case.task.seed}: {division} {name}: mAP@{settings.k} {figures[-1]:.3f}")
        drops[name] = _points(calm, figures)
    return drops


def ablations(images: ImageSet, settings: FederatedSettings, found: FederatedEvaluation) -> Table:
    """Return how far each way falls behind the best central model under the most skewed division."""
    central = next(row for row in found.rows if row.way == "central").runs
    table = Table("way", "points below central", "deviation", box=None, title=f"{UCM}, {SKEWED}")
    for name, way in WAYS.items():
        runs = [
            case.measure(federated(case.task, case.parts(SKEWED, settings.nodes), way))
            for case in cases(images, settings)
        ]
        gaps = 100 * (np.array(central) - runs)
        table.add_row(name, f"{gaps.mean():.2f}", f"{gaps.std(ddof=1):.2f}")
    return table


def _points(before: Sequence[float], after: Sequence[float]) -> float:
    return round(100 * float(np.mean(np.subtract(before, after))), 2)


if __name__ == "__main__":
    main()
