"""What an evaluation prints: one JSON object, or tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from rsfed.hashing.evaluation.leaks import Leak
from rsfed.hashing.evaluation.tables import Spread
from rsfed.lab.evaluate.division import WORDS
from rsfed.lab.evaluate.measures import CLASS_FIGURE
from rsfed.lab.evaluate.results import Evaluation
from rsfed.lab.wide_table import WideTable

FIGURES = {
    "map_found": ("mAP@{k}", "mean precision at the relevant ranks found among the first k, as MiLaN reports it"),
    "map_possible": ("full mAP@{k}", "the same sum of precisions divided by what a perfect ranking finds: full recall"),
    "map_k": ("mAP@{k}/k", "the same sum of precisions divided by k"),
    "precision": ("P@{k}", "share of the first k that are relevant"),
    "recall": ("R@{k}", "share of all relevant images that are among the first k"),
    "ndcg": ("NDCG@{k}", "2^r - 1 for r shared labels, discounted by rank, divided by that of the best order"),
    "acg": ("ACG@{k}", "mean number of labels that the first k share with the query"),
    "weighted_map": ("wMAP@{k}", "mean, at the relevant ranks found, of the mean number of shared labels so far"),
    "overlap": (
        "float overlap",
        "share of the float top 20 of the query's class that codes find again; of classes with more than 20 to find",
    ),
    "left_out": ("P@{k} left out", "precision for queries of classes that were left out of training"),
    "distinct": ("codes", "number of distinct codes"),
    "top_buckets": ("top 10", "share of the images in the ten largest buckets"),
    "bit_entropy": ("entropy", "mean entropy of a bit; 1 is best"),
    "bit_correlation": ("correlation", "mean absolute correlation of two bits; 0 is best"),
}
"""Heading and meaning of each figure; others are in JSON only."""
TABLES = {
    "Rankings": ("map_found", "map_possible", "map_k", "precision", "recall"),
    "Rankings by several labels, and of classes left out": ("ndcg", "acg", "weighted_map", "left_out"),
    "Codes": ("overlap", "distinct", "top_buckets", "bit_entropy", "bit_correlation"),
}
"""Which figures stand beside each other: with their deviations a table is no wider than 100 characters."""


def columns(evaluation: Evaluation) -> dict[str, str]:
    """Return the figures that some method has, with their headings."""
    present = {name for row in evaluation.rows for name in row.figures}
    k = evaluation.protocol.k
    return {name: heading.format(k=k) for name, (heading, _) in FIGURES.items() if name in present}


def figure(spread: Spread, name: str) -> str:
    """Return a figure as tables show it; numbers of codes are whole."""
    if math.isnan(spread.mean):
        return "-"
    if name == "distinct":
        return f"{spread.mean:,.0f}"
    return f"{spread.mean:.3f}" + ("" if spread.deviation is None else f" ± {spread.deviation:.3f}")


def leak_in_words(evaluation: Evaluation) -> str:
    """Return what is known of queries that have an image of their own place or acquisition in their gallery."""
    told = [
        f"{leak.share:.1%} have another image of their {what} in their gallery" + _known(leak)
        for what, leak in evaluation.leaks.items()
        if leak.share is not None
    ]
    unknown = [what for what, leak in evaluation.leaks.items() if leak.share is None]
    lines = [f"Leak: of the queries {' and '.join(told)}."] if told else []
    if unknown:
        lines.append(
            f"The images do not tell their {' or '.join(unknown)}: how far near copies flatter figures is unknown."
        )
    return " ".join(lines)


def _known(leak: Leak) -> str:
    return "" if leak.known == leak.queries else f" (of the {leak.known:,} that tell theirs)"


def protocol_lines(evaluation: Evaluation) -> list[str]:
    """Return how the figures came about, in sentences."""
    how = evaluation.protocol
    alike = "at least one common class" if how.multi_label else "the same class"
    lines = [
        f"{how.queries:,} queries against {how.gallery:,} images (seed 0), {how.train:,} to learn from.",
        f"Relevant: {alike}. Every figure is expected over the order of equal distances and cut off at k = {how.k}.",
        f"Seeds: {', '.join(map(str, how.seeds))}.",
        f"Features: {how.features}.",
        f"Training: {how.training}.",
    ]
    if how.without_relevant:
        lines.append(f"{how.without_relevant:,} queries have no relevant image in their gallery and count as 0.")
    if how.skipped or how.unlabelled:
        lines.append(
            f"{how.skipped:,} damaged images were skipped, {how.unlabelled:,} without a label or not in the split "
            "file left out."
        )
    if evaluation.left_out:
        draws = "; ".join(", ".join(names) for names in evaluation.left_out)
        lines.append(f"Classes left out of training for that figure, by seed: {draws}.")
    return lines


def split_in_words(evaluation: Evaluation) -> str:
    """Return how images are split; where they have several classes, chance draws from all images together."""
    words = WORDS[evaluation.protocol.split]
    return words if evaluation.protocol.by_class else words.replace("60 % of each class", "60 % of all images")


def tables(evaluation: Evaluation, report: Path | None) -> RenderableType:
    """Return what `--output table` prints."""
    how = evaluation.protocol
    parts: list[RenderableType] = [
        f"{how.source}: {how.images:,} images of {len(how.classes)} classes, split {how.split}",
        f"split: {split_in_words(evaluation)}.",
        *protocol_lines(evaluation),
        leak_in_words(evaluation),
        "",
        *[part for table in figure_tables(evaluation).values() for part in (table, "")],
        *[f"{heading}: {FIGURES[name][1]}" for name, heading in columns(evaluation).items()],
        "",
        _per_class(evaluation),
    ]
    if evaluation.timings:
        parts += ["", _costs(evaluation), COSTS_IN_WORDS]
    if report:
        parts += ["", f"report: {report}"]
    return Group(*parts)


def figure_tables(evaluation: Evaluation) -> dict[str, WideTable]:
    """Return the figures of every method and of chance by the titles of `TABLES`, without those that nobody has."""
    present = columns(evaluation)
    ways = [(row.method, str(row.bits or "float"), row.figures) for row in evaluation.rows]
    ways.append(("chance", "", evaluation.chance))
    found = {}
    for title, names in TABLES.items():
        shown = [name for name in names if name in present]
        rows = [
            (method, bits, *(figure(figures[name], name) if name in figures else "" for name in shown))
            for method, bits, figures in ways
            if any(name in figures for name in shown)
        ]
        if rows:
            found[title] = WideTable(("method", "bits", *(present[name] for name in shown)), rows, names=2)
    return found


def _per_class(evaluation: Evaluation) -> WideTable:
    """Show the first method beside the best; the others are in JSON and in the report."""
    names = list(dict.fromkeys([evaluation.rows[0].name, evaluation.best.name]))
    shown = [row for row in evaluation.rows if row.name in names]
    return WideTable(
        (f"mAP@{evaluation.protocol.k} of class", *(row.name for row in shown)),
        [(name, *(figure(row.per_class[name], CLASS_FIGURE) for row in shown)) for name in evaluation.protocol.classes],
    )


def _costs(evaluation: Evaluation) -> WideTable:
    found = costs(evaluation)
    headings = ("ms of one query", "bytes an image", "hashing it", *(f"of {size} images" for size in found.sizes))
    return WideTable(headings, found.rows)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a query costs, as tables show it.

    Attributes:
        sizes: Numbers of images in a gallery.
        rows: For each method at each width its name, bytes an image, milliseconds of hashing a query, and milliseconds
            of hashing and search in the gallery of each size; "~" before those that were not measured at that size.
    """

    sizes: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


COSTS_IN_WORDS = (
    "Milliseconds of one query: hashing it and exhaustive search, against made-up galleries. Making the features of "
    "the query image is not in it. ~: the gallery did not fit into memory, in proportion to a smaller one."
)


def costs(evaluation: Evaluation) -> Costs:
    """Return what a query costs by each method as galleries grow."""
    sizes = sorted({each.items for each in evaluation.timings})
    rows = []
    for row in evaluation.rows:
        own = [each for each in evaluation.timings if (each.method, each.bits) == (row.method, row.bits)]
        times = [f"{'~' * each.extrapolated}{_milliseconds(each.milliseconds)}" for each in own]
        hashing = "-" if row.bits is None else _milliseconds(row.query_ms)
        rows.append((row.name, f"{own[0].bytes_per_item:,}", hashing, *times))
    return Costs(tuple(f"{size:,}" for size in sizes), tuple(rows))


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def summary(evaluation: Evaluation, report: Path | None) -> dict[str, Any]:
    """Return the object that `--output json` prints; documented in docs/output.md."""
    how = evaluation.protocol
    return {
        "protocol": {
            "source": how.source,
            "images": how.images,
            "skipped": how.skipped,
            "unlabelled": how.unlabelled,
            "classes": list(how.classes),
            "multi_label": how.multi_label,
            "split": how.split.value,
            "seeds": list(how.seeds),
            "k": how.k,
            "train": how.train,
            "gallery": how.gallery,
            "queries": how.queries,
            "queries_without_relevant": how.without_relevant,
            "features": how.features,
            "epochs": how.epochs,
            "training": how.training,
        },
        "leak": {what: {"share": leak.share, "known": leak.known} for what, leak in evaluation.leaks.items()},
        "methods": [
            {
                "method": row.method,
                "bits": row.bits,
                "figures": _spreads(row.figures),
                "per_class": _spreads(row.per_class),
                "learn_seconds": round(row.learn_seconds, 3),
                "hash_ms": round(row.hash_ms, 4),
            }
            for row in evaluation.rows
        ],
        "chance": _spreads(evaluation.chance),
        "left_out": [list(names) for names in evaluation.left_out],
        "timing": [
            {
                "method": each.method,
                "bits": each.bits,
                "images": each.items,
                "ms": each.milliseconds,
                "hash_ms": each.hash_ms,
                "search_ms": each.search_ms,
                "bytes_per_item": each.bytes_per_item,
                "extrapolated": each.extrapolated,
            }
            for each in evaluation.timings
        ],
        "report": None if report is None else str(report),
    }


def _spreads(figures: Mapping[str, Spread]) -> dict[str, dict[str, float | None]]:
    return {
        name: {"mean": None if math.isnan(each.mean) else each.mean, "deviation": each.deviation}
        for name, each in figures.items()
    }
