"""The field's methods side by side on real images: `make bench-hashing`.

UC Merced by the protocol of MiLaN (splits of five seeds; 60 % of each class train, the other 40 % are queries and
gallery) and EuroSAT with its split file (train is searched, query asks). All methods stand on the same features of a
frozen trunk, those of UC Merced averaged over turns. The images are found through RSFED_TEST_DATA. Ends with one
line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rsfed.errors import UsageError
from rsfed.lab.evaluate import outputs
from rsfed.lab.evaluate.data import find, read
from rsfed.lab.evaluate.division import Split
from rsfed.lab.evaluate.methods import FLOAT, METHODS
from rsfed.lab.evaluate.results import Evaluation, Row
from rsfed.lab.evaluate.run import Settings, evaluate
from rsfed.lab.narrator import Narrator

SEEDS, K = 5, 20
LEFT_OUT = 4  # classes of UC Merced that a second training does not see
UCM_BITS, EUROSAT_BITS = (16, 24, 32), (32,)
UCM_EPOCHS, EUROSAT_EPOCHS = 40, 8
CACHE = Path(os.environ.get("RSFED_BENCH_CACHE", "bench"))  # where images are unpacked and features kept
TRUNK = "mobilenet_v2_imagenet_features.onnx"
_HASHES = tuple(method for method in METHODS if method != FLOAT)


def main() -> None:
    """Run the benchmark and print its tables and figures."""
    data = Path(os.environ.get("RSFED_TEST_DATA", "../shared/data"))
    if not (data / TRUNK).exists():
        raise UsageError("the benchmark needs real images; name their folder by RSFED_TEST_DATA", detail=str(data))
    narrator = Narrator()
    with narrator.phase("UC Merced"):
        ucm = _measure(
            data, "ucmerced_jpeg", Settings(METHODS, UCM_BITS, SEEDS, Split.RANDOM, K, UCM_EPOCHS, LEFT_OUT), narrator
        )
    with narrator.phase("EuroSAT"):
        eurosat = _measure(
            data, "eurosat_rgb", Settings(METHODS, EUROSAT_BITS, SEEDS, Split.OFFICIAL, K, EUROSAT_EPOCHS), narrator
        )
    for found in (ucm, eurosat):
        Console(highlight=False, width=120).print(outputs.tables(found, None))
    sys.stdout.write(json.dumps(summary(ucm, eurosat)) + "\n")


def summary(ucm: Evaluation, eurosat: Evaluation) -> dict[str, Any]:
    """Return the figures as one object: mean average precision by data set, method and width, and what goes with it."""
    widest = max(UCM_BITS)
    rows = {row.method: row for row in ucm.rows if row.bits == widest}
    return {
        "ucm": _by_method(ucm, UCM_BITS),
        "eurosat": _by_method(eurosat, EUROSAT_BITS),
        "distinct_codes": _each(rows, "distinct"),
        "left_out_precision": _each(rows, "left_out"),
        "within_class_overlap": _each(rows, "overlap"),
        "seeds": SEEDS,
    }


def _by_method(found: Evaluation, widths: Sequence[int]) -> dict[str, Any]:
    """Return the mean average precision of each method by width, of float search, and of the best at each width."""
    figures = {(row.method, row.bits): row.figures["map_found"].mean for row in found.rows}
    named = {method: {str(bits): round(figures[method, bits], 4) for bits in widths} for method in _HASHES}
    best = {str(bits): max(named[method][str(bits)] for method in _HASHES) for bits in widths}
    return {"best": best, **named, FLOAT: round(figures[FLOAT, None], 4)}


def _each(rows: dict[str, Row], figure: str) -> dict[str, float]:
    return {method: round(row.figures[figure].mean, 4) for method, row in rows.items()}


def _measure(data: Path, name: str, settings: Settings, narrator: Narrator) -> Evaluation:
    """Unpack a data set once, make its features once, and evaluate."""
    (archive,) = data.glob(f"{name}*.zip")
    if not (CACHE / name).is_dir():
        with zipfile.ZipFile(archive) as file:
            file.extractall(CACHE)
    splits = None
    if settings.split is Split.OFFICIAL:
        with zipfile.ZipFile(data / "labels_captions_splits.zip") as file:
            splits = Path(file.extract(f"splits/{archive.stem}.csv", CACHE))
    turns = splits is None  # eight times the cost, which the larger set would not bear
    images = read(find(CACHE / name, splits=splits), data / TRUNK, CACHE, turns=turns)
    return evaluate(images, settings, narrator.say)


if __name__ == "__main__":
    main()
