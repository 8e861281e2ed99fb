"""The field's methods side by side on real images: `make bench-hashing`.

UC Merced by the protocol of MiLaN (splits of five seeds; 60 % of each class train, the other 40 % are queries and
gallery), the same images and splits with their 17 labels, several for each, and EuroSAT with its split file (train is
searched, query asks). All methods stand on the same features of a frozen trunk, averaged over turns. The images are
found through RSFED_TEST_DATA, their features kept in the folder RSFED_BENCH_CACHE. Ends with one line of JSON;
docs/output.md tells what is in it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from rsfed.config_objectives import DEFAULT_OBJECTIVE
from rsfed.errors import UsageError
from rsfed.hashing.evaluation.tables import Spread, spread
from rsfed.lab.bench_command import exit_code
from rsfed.lab.bench_holes import holes, table
from rsfed.lab.bench_images import EUROSAT, UCM, data_folder, featured, multi_labels, official_splits, unpacked
from rsfed.lab.evaluate import outputs
from rsfed.lab.evaluate.data import ImageSet, find
from rsfed.lab.evaluate.division import Split
from rsfed.lab.evaluate.measures import MULTI_LABEL
from rsfed.lab.evaluate.methods import FLOAT, METHODS
from rsfed.lab.evaluate.results import Evaluation, Row
from rsfed.lab.evaluate.run import Settings, evaluate
from rsfed.lab.narrator import Narrator
from rsfed.lab.wide_table import WideTable

SEEDS, K = 5, 20
LEFT_OUT = 4  # classes of UC Merced that a second training, of the widest codes alone, does not see
UCM_BITS, EUROSAT_BITS = (16, 24, 32), (32,)
BEST = DEFAULT_OBJECTIVE.name  # chosen on validation parts; nothing is chosen by the figures made here
FEW = ("lsh", FLOAT, BEST)  # at more widths and with several labels: the best, and what it has to beat
EUROSAT_METHODS = tuple(method for method in METHODS if method != "milan")  # which is published for UC Merced
FEW_BITS = (64,)
MULTI_LABEL_BITS = (32, 64)
UCM_EPOCHS, EUROSAT_EPOCHS = 40, 16
WIDTH = 100  # characters; wider tables go on below
_HASHES = tuple(method for method in METHODS if method != FLOAT)


def main() -> None:
    """Run the benchmark and print its tables and figures."""
    data = data_folder()
    narrator = Narrator()
    with narrator.phase("UC Merced"):
        folder = unpacked(data, UCM)
        images = featured(data, find(folder))
        ucm = _ucm(images, narrator)
    with narrator.phase("UC Merced with several labels"):
        several = featured(data, find(folder, multi_labels(data, folder)))
        labelled = _multi_label(several, images, narrator)
    with narrator.phase("EuroSAT"):
        tiles = find(unpacked(data, EUROSAT), splits=official_splits(data, EUROSAT))
        settings = Settings(EUROSAT_METHODS, EUROSAT_BITS, SEEDS, Split.OFFICIAL, K, EUROSAT_EPOCHS)
        photographs = featured(data, tiles)
        eurosat = evaluate(photographs, settings, narrator.say)
    with narrator.phase("holes"):
        without_data = holes(data, photographs, EUROSAT_EPOCHS)
    console = Console(highlight=False, width=WIDTH)
    for found in (ucm, labelled, eurosat):
        if found is labelled:
            console.print(f"With several labels, split by the {len(ucm.protocol.classes)} single classes:")
        console.print(outputs.tables(found, None))
        console.print()
    console.print(f"{ucm.protocol.source}: mAP@{K} of {BEST} less that of")
    console.print(_differences(ucm))
    console.print("EuroSAT: how far codes move where pixels have no data, and different images lie apart:")
    console.print(table(without_data))
    sys.stdout.write(json.dumps(summary(ucm, labelled, eurosat) | {"holes": without_data}) + "\n")


def _ucm(images: ImageSet, narrator: Narrator) -> Evaluation:
    """Evaluate all methods at all widths; the training without some classes is for the widest only."""
    *narrow, widest = UCM_BITS
    settings = Settings(_HASHES, tuple(narrow), SEEDS, Split.RANDOM, K, UCM_EPOCHS)
    parts = (
        settings,
        replace(settings, methods=METHODS, bits=(widest,), left_out=LEFT_OUT),
        replace(settings, methods=tuple(method for method in FEW if method != FLOAT), bits=FEW_BITS),
    )
    first, full, wider = (evaluate(images, each, narrator.say) for each in parts)
    rows = sorted(first.rows + full.rows + wider.rows, key=lambda row: (METHODS.index(row.method), row.bits or 0))
    return replace(full, rows=tuple(rows))


def _multi_label(images: ImageSet, single: ImageSet, narrator: Narrator) -> Evaluation:
    """Evaluate by several labels on the splits of the single classes.

    Raises:
        UsageError: the label table names other images.
    """
    if [entry.name for entry in images.entries] != [entry.name for entry in single.entries]:
        raise UsageError("not every image has several labels; unpack the images again", detail=str(single.listing.root))
    settings = Settings(FEW, MULTI_LABEL_BITS, SEEDS, Split.RANDOM, K, UCM_EPOCHS)
    return evaluate(images, settings, narrator.say, strata=single)


def summary(ucm: Evaluation, labelled: Evaluation, eurosat: Evaluation) -> dict[str, Any]:
    """Return the figures as one object: mean average precision by data set, method and width, and what goes with it."""
    widest = max(UCM_BITS)
    rows = {row.method: row for row in ucm.rows if row.bits == widest}
    return {
        "ucm": _with_best(ucm, UCM_BITS),
        "eurosat": _with_best(eurosat, EUROSAT_BITS),
        "distinct_codes": _each(rows, "distinct"),
        "left_out_precision": _each(rows, "left_out"),
        "within_class_overlap": _each(rows, "overlap"),
        "seeds": SEEDS,
        "ucm_deviation": by_method(ucm, "map_found", deviation=True),
        "ucm_map_k": by_method(ucm, "map_k"),
        "ucm_map_k_deviation": by_method(ucm, "map_k", deviation=True),
        "ucm_paired": {str(bits): _paired_in_words(ucm, bits) for bits in UCM_BITS},
        "eurosat_map_k": by_method(eurosat, "map_k"),
        "ucm_multilabel": {
            "labels": len(labelled.protocol.classes),
            **{name: by_method(labelled, name) for name in MULTI_LABEL},
            "deviation": {name: by_method(labelled, name, deviation=True) for name in MULTI_LABEL},
        },
    }


def by_method(found: Evaluation, figure: str, *, deviation: bool = False) -> dict[str, Any]:
    """Return a figure's mean, or its deviation over the seeds, by method and width, of float search by method alone."""
    told: dict[str, Any] = {}
    for row in found.rows:
        each = row.figures[figure]
        value = _rounded(each.deviation if deviation else each.mean)
        if row.bits is None:
            told[row.method] = value
        else:
            told.setdefault(row.method, {})[str(row.bits)] = value
    return told


def paired(found: Evaluation, bits: int) -> dict[str, Spread]:
    """Return how far the mean average precision of `BEST` at a width lies above each other method's.

    The differences are those on the same split, so what makes a split hard for all methods is not in their deviation.
    """
    rows = [row for row in found.rows if row.bits in {bits, None}]
    best = next(row for row in rows if row.method == BEST)
    return {
        row.method: spread(
            [one["map_found"] - other["map_found"] for one, other in zip(best.runs, row.runs, strict=True)]
        )
        for row in rows
        if row is not best
    }


def _paired_in_words(found: Evaluation, bits: int) -> dict[str, Any]:
    above = paired(found, bits)
    told = {name: {"mean": _rounded(each.mean), "deviation": _rounded(each.deviation)} for name, each in above.items()}
    return {"best": BEST, "above": told}


def _differences(found: Evaluation) -> WideTable:
    """Show how far `BEST` lies above the other methods at each width."""
    above = {bits: paired(found, bits) for bits in UCM_BITS}
    return WideTable(
        ("bits", *above[UCM_BITS[0]]),
        [
            (str(bits), *(outputs.figure(each, "map_found") for each in others.values()))
            for bits, others in above.items()
        ],
    )


def _with_best(found: Evaluation, widths: Sequence[int]) -> dict[str, Any]:
    """Return the mean average precision by method and width, and of `BEST` once more."""
    named = by_method(found, "map_found")
    return {"best": {str(bits): named[BEST][str(bits)] for bits in widths}, **named}


def _each(rows: dict[str, Row], figure: str) -> dict[str, float | None]:
    return {method: _rounded(row.figures[figure].mean) for method, row in rows.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 4)


if __name__ == "__main__":
    sys.exit(exit_code("bench_hashing", main))
