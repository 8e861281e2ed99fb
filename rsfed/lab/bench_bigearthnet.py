"""Multi-label retrieval on BigEarthNet v2, for whoever has its pixels: `make bench-bigearthnet DATA=DIR`.

The K-branch network learns from `train` for hash centres; `validation` asks and `test` is searched, as the authors'
own retrieval code does (CSMAE, DA4DTE): precision and recall of the labels of the first k, F1 and F2 of their means.
Beside it stand random hyperplanes and exhaustive search on plain statistics of the bands, and a gallery in random
order. Ends with one line of JSON; docs/output.md tells what is in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rsfed.codes import Codes
from rsfed.config_objectives import CentresSection
from rsfed.hashing.baselines.hyperplanes import RandomHyperplanes
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.evaluation.counts import CosineSearch, HammingSearch, Search
from rsfed.hashing.evaluation.label_overlap import f_score, label_overlap
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives import Objective, make_objective
from rsfed.hashing.training import train_steps
from rsfed.lab.bench_command import exit_code
from rsfed.lab.bigearthnet import SPEC, Part, read_metadata, read_part
from rsfed.lab.evaluate.cli import parse_bits
from rsfed.lab.evaluate.methods import plain_description, schedule
from rsfed.lab.narrator import Narrator
from rsfed.trust.manifest import KBranch

FIGURES = ("precision", "recall", "f1", "f2")
_SEED = 0

_Row = tuple[str, int | None, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Sets:
    """The patches by what they are for."""

    train: PatchSet
    queries: PatchSet
    gallery: PatchSet


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its table and figures and return the exit code."""
    options = _options(arguments)
    return exit_code("bench_bigearthnet", lambda: _run(options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rsfed.lab.bench_bigearthnet", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with BigEarthNet-S2 and metadata.parquet or .csv"
    )
    parser.add_argument("--limit", type=_positive, default=5000, help="patches of each split at most, drawn at random; "
                        "each takes 160 kB of memory (default: %(default)s)")  # fmt: skip
    parser.add_argument("--bits", default="32,64", help="widths of the codes (default: %(default)s)")
    parser.add_argument("--epochs", type=_positive, default=10, help="passes over train (default: %(default)s)")
    parser.add_argument("--k", type=_positive, default=8, help="cut-off of every figure (default: %(default)s)")
    parser.add_argument(
        "--width", type=int, choices=(8, 16, 32, 64), default=16, help="channels of the network's first stage"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("it must be a whole number, at least 1")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    widths = parse_bits(options.bits)
    narrator = Narrator()
    with narrator.phase("read the patches"):
        known = read_metadata(options.data)
        classes = sorted({label for records in known.values() for record in records for label in record.labels})
        for bits in widths:
            _centres(len(classes), bits)  # what has no room for its centres is told before hours of reading
        parts = {split: read_part(options.data, records, options.limit) for split, records in known.items()}
        for split, part in parts.items():
            narrator.say(
                f"  {split}: {len(part.records):,} of {len(known[split]):,} read; of those drawn {part.missing:,} are "
                f"not there and {part.damaged:,} damaged"
            )
        sets = Sets(*(_patch_set(parts[split], classes) for split in ("train", "validation", "test")))
    rows: list[_Row] = []
    with narrator.phase("plain features"):
        features = _plain(sets)
        zeros = [np.zeros((len(each), 1), np.uint8) for each in (sets.queries, sets.gallery)]
        rows.append(("chance", None, _figures(sets, HammingSearch(*zeros), options.k)))
        rows.append(("float", None, _figures(sets, CosineSearch.of(*features[1:], depth=options.k), options.k)))
    for bits in widths:
        hashes = {
            "lsh": partial(_hyperplanes, features, bits),
            "centres": partial(_network, sets, len(classes), bits, options, narrator),
        }
        for method, hashed in hashes.items():
            with narrator.phase(f"{method} {bits}"):
                rows.append((method, bits, _figures(sets, HammingSearch(*hashed()), options.k)))
    _print(rows, sets, options)
    sys.stdout.write(json.dumps(_summary(rows, sets, options, len(classes))) + "\n")


def _patch_set(part: Part, classes: Sequence[str]) -> PatchSet:
    labels = np.array([[name in record.labels for name in classes] for record in part.records], bool)
    return PatchSet(part.patches, labels, len(part.patches))


def _plain(sets: Sets) -> list[NDArray[np.float32]]:
    """Return the plain features of train, queries and gallery."""
    describe = plain_description(sets.train.patches)
    return [describe(each.patches) for each in (sets.train, sets.queries, sets.gallery)]


def _hyperplanes(features: Sequence[NDArray[np.float32]], bits: int) -> tuple[Codes, Codes]:
    train, queries, gallery = features
    fitted = RandomHyperplanes.fit(train, bits, _SEED)
    return fitted.encode(queries), fitted.encode(gallery)


def _network(
    sets: Sets, classes: int, bits: int, options: argparse.Namespace, narrator: Narrator
) -> tuple[Codes, Codes]:
    """Train the K-branch network for hash centres and return the codes of queries and gallery."""
    model = build_network(KBranch(width=options.width), SPEC, bits, seed=_SEED)
    aim = _centres(classes, bits)
    stretches = schedule(options.epochs, len(sets.train))
    for number, stretch in enumerate(stretches):
        done = train_steps(model, sets.train, aim, **asdict(stretch), seed=number)
        done.refuse_idle()
        narrator.say(f"  {number + 1} of {len(stretches)}: loss {done.loss:.3f}, {done.seconds:.0f} s")
    encoder = Encoder(model, SPEC)
    return encoder.encode_set(sets.queries), encoder.encode_set(sets.gallery)


def _centres(classes: int, bits: int) -> Objective:
    return make_objective(CentresSection(), range(classes), bits, seed=_SEED)


def _figures(sets: Sets, search: Search, k: int) -> dict[str, float]:
    found = label_overlap(search, sets.queries.labels, sets.gallery.labels, k)
    precision, recall = float(found.precision.mean()), float(found.recall.mean())
    scores = (precision, recall, f_score(precision, recall, 1), f_score(precision, recall, 2))
    return dict(zip(FIGURES, scores, strict=True))


def _print(rows: Sequence[_Row], sets: Sets, options: argparse.Namespace) -> None:
    sizes = (
        f"{len(sets.train):,} patches of train, {len(sets.queries):,} of validation ask, {len(sets.gallery):,} of test"
    )
    table = Table(
        box=None, pad_edge=False, title=f"BigEarthNet v2: {sizes} are searched; labels of the first {options.k}"
    )
    for heading in ("method", "bits", *FIGURES):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method, bits, figures in rows:
        table.add_row(method, str(bits or ""), *(f"{figures[name]:.3f}" for name in FIGURES))
    Console(highlight=False, width=120).print(table)


def _summary(rows: Sequence[_Row], sets: Sets, options: argparse.Namespace, classes: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for method, bits, figures in rows:
        rounded = {name: round(value, 4) for name, value in figures.items()}
        if bits is None:
            told[method] = rounded
        else:
            told.setdefault(method, {})[str(bits)] = rounded
    sizes = {"train": len(sets.train), "queries": len(sets.queries), "gallery": len(sets.gallery)}
    return {"bigearthnet": told, **sizes, "labels": classes, "k": options.k, "epochs": options.epochs, "seeds": 1}


if __name__ == "__main__":
    sys.exit(main())
