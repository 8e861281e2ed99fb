"""What a federated evaluation prints: one JSON object, or a table."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from rsfed.hashing.evaluation.tables import Spread
from rsfed.lab.evaluate.division import WORDS
from rsfed.lab.evaluate.outputs import figure
from rsfed.lab.federated.run import FederatedEvaluation

WAYS = {
    "central": "best model of all images in one place",
    "fedavg": "plain FedAvg",
    "default": "federated, our default",
    "closed_form": "closed form, no bit free",
    "local_own": "each node alone, its own gallery",
    "local_union": "each node alone, the union of galleries",
}
"""Meaning of each way to learn, in the order of the rows."""


def tables(found: FederatedEvaluation, source: str) -> RenderableType:
    """Return what `--output table` prints.

    Args:
        found: What was found.
        source: Name of the folder of images.
    """
    how = found.settings
    central = ", ".join(f"{name} {figure(each, 'map_found')}" for name, each in found.central.items())
    rounds = ", ".join(f"{name} {_rounds(*each)}" for name, each in found.rounds.items())
    table = Table(box=None, pad_edge=False)
    table.add_column("division")
    table.add_column("way")
    for heading in (f"mAP@{how.k}", "points below central", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.rows:
        if row.way == "central":
            table.add_section()
        below = "" if row.way == "central" else _points(row.gap)
        table.add_row(row.partition, WAYS[row.way], figure(row.figure, "map_found"), below, f"{row.seconds:.0f}")
    return Group(
        f"{source}: {found.images:,} images of {found.classes} classes at {how.nodes} nodes, {how.bits} bits",
        f"split: {WORDS[how.split]}.",
        f"Seeds: {', '.join(map(str, range(how.seeds)))}; each draws a split and its divisions over nodes. Gaps are "
        "means of differences on the same split and division.",
        f"Central: {central}; the best is {found.best}.",
        f"Training in one place takes {how.epochs} passes over the images, a federation no more in all: {rounds}.",
        "one-class: every class is at one node alone. The union of galleries is searched by one encoder; where each "
        "node has its own, each searches its own gallery by it and answers are merged by distance.",
        "",
        table,
    )


def summary(found: FederatedEvaluation, source: str) -> dict[str, Any]:
    """Return the object that `--output json` prints; documented in docs/output.md."""
    how = found.settings
    return {
        "protocol": {
            "source": source,
            "images": found.images,
            "classes": found.classes,
            "split": how.split.value,
            "bits": how.bits,
            "seeds": list(range(how.seeds)),
            "nodes": how.nodes,
            "k": how.k,
            "epochs": how.epochs,
        },
        "central": {name: _spread(each) for name, each in found.central.items()},
        "best_central": found.best,
        "rounds": {name: {"rounds": rounds, "local_steps": steps} for name, (rounds, steps) in found.rounds.items()},
        "rows": [
            {
                "division": row.partition,
                "way": row.way,
                "map_found": _spread(row.figure),
                "gap": _spread(row.gap),
                "runs": list(row.runs),
                "seconds": round(row.seconds, 3),
            }
            for row in found.rows
        ],
    }


def _rounds(rounds: int, steps: int) -> str:
    return f"{rounds} rounds of {steps} steps" if steps else "one round in closed form"


def _points(gap: Spread) -> str:
    return f"{100 * gap.mean:.1f}" + ("" if gap.deviation is None else f" ± {100 * gap.deviation:.1f}")


def _spread(each: Spread) -> dict[str, float | None]:
    return {"mean": each.mean, "deviation": each.deviation}
