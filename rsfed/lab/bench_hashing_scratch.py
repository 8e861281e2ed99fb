"""Networks trained from scratch on EuroSAT's pixels: `make bench-hashing-scratch`.

The compact residual network learns from the training part alone, no trunk being there before it; train is searched,
query asks, val is not touched. One seed, since a CPU takes long over it. The images are found through RSFED_TEST_DATA.
Ends with one line of JSON; docs/output.md tells what is in it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from rsfed.lab.bench_command import exit_code
from rsfed.lab.bench_hashing import WIDTH, K, by_method
from rsfed.lab.bench_images import EUROSAT, data_folder, official_splits, unpacked
from rsfed.lab.evaluate import outputs
from rsfed.lab.evaluate.data import find, read
from rsfed.lab.evaluate.division import Split
from rsfed.lab.evaluate.results import Evaluation
from rsfed.lab.evaluate.run import Settings, evaluate
from rsfed.lab.narrator import Narrator

SEEDS, EPOCHS = 1, 12
METHODS, BITS = ("centres", "milan_batchall"), (32,)


def main() -> None:
    """Train, measure and print the table and the figures."""
    data = data_folder()
    narrator = Narrator()
    with narrator.phase("EuroSAT from scratch"):
        images = read(find(unpacked(data, EUROSAT), splits=official_splits(data, EUROSAT)))
        found = evaluate(images, Settings(METHODS, BITS, SEEDS, Split.OFFICIAL, K, EPOCHS), narrator.say)
    Console(highlight=False, width=WIDTH).print(outputs.tables(found, None))
    sys.stdout.write(json.dumps(summary(found)) + "\n")


def summary(found: Evaluation) -> dict[str, Any]:
    """Return the figures as one object."""
    return {
        "eurosat_scratch": by_method(found, "map_found"),
        "map_k": by_method(found, "map_k"),
        "distinct_codes": by_method(found, "distinct"),
        "within_class_overlap": by_method(found, "overlap"),
        "learn_seconds": {row.method: round(row.learn_seconds) for row in found.rows},
        "epochs": EPOCHS,
        "seeds": SEEDS,
    }


if __name__ == "__main__":
    sys.exit(exit_code("bench_hashing_scratch", main))
