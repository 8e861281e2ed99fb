"""What the demo tells in the end: the report, one JSON object, or a few tables."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rsfed.analyst.outputs import outcome_rows, outcome_table
from rsfed.analyst.sheet import QUERY, TILE, Picture, Section, contact_sheet
from rsfed.hashing.evaluation import average_precision
from rsfed.lab.demo_data import MOST_QUERIES, QUERY_SHARE
from rsfed.lab.demo_figures import MAP_K, typical
from rsfed.lab.demo_story import BITS, Settings, Told
from rsfed.lab.report import Figures, NodeStory, Reliability, Sheet, Story, render
from rsfed.lab.split import class_mix
from rsfed.raster.preview import preview

_SHOWN = 4  # queries whose hits are printed and drawn
_RULE = (
    "Shown are queries of different classes whose average precision is nearest to the median of all, and last the one "
    "with the lowest."
)
_NEAREST = 5  # hits of them that are printed


def write_report(told: Told, settings: Settings, phases: Mapping[str, float], path: Path) -> None:
    """Draw the sheets and write the report."""
    nodes = [_node_story(told, name) for name in told.nodes]
    data = "rsfed's own synthetic land cover" if settings.data is None else f"the folder {settings.data.name}"
    story = Story(
        source=f"The images come from {data}: {len(told.images.samples):,} of modality {told.images.modality.name}.",
        split=_split(told, settings),
        release=told.release,
        bits=BITS,
        rounds=settings.rounds,
        losses=[(event["round"], event["loss"]) for event in told.rounds if event["loss"] is not None],
        queries=len(told.division.queries),
        methods=methods(told),
        colour_accuracy=told.plain.colour_accuracy,
        reliability=reliability(told),
        nodes=nodes,
        sheets=[_sheet(told, position) for position in shown_queries(told)],
        shown=_RULE,
        phases=phases,
        peak_bytes=told.peak,
    )
    path.write_text(render(story), encoding="utf-8")


def _split(told: Told, settings: Settings) -> str:
    known = any(sample.acquisition for sample in told.images.samples)
    kept = (
        "whole acquisitions at a time"
        if known
        else "one by one: these images do not tell their acquisition, so neighbours of a query may be in an archive, "
        "which flatters every figure a little"
    )
    return (
        f"{QUERY_SHARE:.0%} of the images, at most {MOST_QUERIES}, were held out as queries, {kept}. "
        f"The rest was given to the archives with Dirichlet skew {settings.skew:g}."
    )


def methods(told: Told) -> dict[str, Figures]:
    """Return the figures of every way to search, by the name that users read."""
    return {
        "federated training": told.trained.figures,
        "untrained network": told.untrained.figures,
        "random hyperplanes": told.plain.hyperplanes,
        "chance": told.plain.chance,
    }


def reliability(told: Told) -> list[Reliability]:
    """Return what the release said of the hits that were listed, and how many of them have the class of their query."""
    right: dict[float, list[bool]] = defaultdict(list)
    for query, result in zip(told.division.queries, told.trained.results, strict=True):
        for hit in result.hits:
            if hit.relevance is not None:
                right[hit.relevance].append(told.trained.hits[hit.node, hit.handle].label == query.label)
    return [Reliability(said, sum(each) / len(each), len(each)) for said, each in sorted(right.items(), reverse=True)]


def shown_queries(told: Told) -> list[int]:
    """Return positions of typical queries, and in the end of the worst."""
    scores = []
    for query, result in zip(told.division.queries, told.trained.results, strict=True):
        labels = [told.trained.hits[hit.node, hit.handle].label for hit in result.hits]
        scores.append(average_precision(np.array([label == query.label for label in labels], bool), MAP_K))
    return typical(scores, [query.label for query in told.division.queries], _SHOWN)


def summary(
    told: Told, settings: Settings, phases: Mapping[str, float], *, seconds: float, report: Path
) -> dict[str, Any]:
    """Return the object that `--output json` prints; documented in docs/output.md."""
    figures = told.trained.figures
    return {
        "seconds": round(seconds, 2),
        "nodes": settings.nodes,
        "patches": sum(told.indexed.values()),
        "bits": BITS,
        "rounds": settings.rounds,
        "release": {"version": told.release[0], "digest": told.release[1]},
        "precision_at_10": figures.precision_at_10,
        "map_at_20": figures.map_at_20,
        "outcomes": outcome_rows(told.outcomes),
        "baselines": {
            name.replace(" ", "_"): {"precision_at_10": each.precision_at_10, "map_at_20": each.map_at_20}
            for name, each in methods(told).items()
            if each is not figures
        }
        | {"nearest_mean_colour_accuracy": told.plain.colour_accuracy},
        "peak_pss_bytes": told.peak,
        "losses": [event["loss"] for event in told.rounds],
        "phases": {name: round(spent, 2) for name, spent in phases.items()},
        "archives": [
            {
                "node": name,
                "images": class_mix(told.division.archives[name]),
                "patches": told.indexed[name],
                "peak_pss_bytes": told.peaks[name],
            }
            for name in told.nodes
        ],
        "report": str(report),
        "queries": [
            {
                "query": query.path.relative_to(told.images.root).as_posix(),
                "class": query.label,
                "hits": [
                    {
                        "rank": hit.rank,
                        "node": hit.node,
                        "handle": hit.handle,
                        "distance": hit.distance,
                        "relevance": hit.relevance,
                        "class": told.trained.hits[hit.node, hit.handle].label,
                    }
                    for hit in result.hits
                ],
            }
            for query, result in zip(told.division.queries, told.trained.results, strict=True)
        ],
    }


def tables(told: Told, *, seconds: float, report: Path) -> RenderableType:
    """Return what `--output table` prints."""
    parts: list[RenderableType] = []
    for position in shown_queries(told):
        query = told.division.queries[position]
        parts += [Text(f"query of class {query.label}: nearest {_NEAREST}", style="bold"), _hits(told, position), ""]
    parts += [outcome_table(told.outcomes), "", _figures(told), ""]
    parts.append(
        "trained and untrained: the rankings as served; hyperplanes and chance: expected over the order of ties\n"
        f"nearest mean colour gives the class of {told.plain.colour_accuracy:.0%} of the queries\n"
        f"release {told.release[0]} ({told.release[1][:16]}), {BITS} bits, {sum(told.indexed.values())} patches, "
        f"{len(told.division.queries)} queries\n"
        f"{seconds:.1f} s in all; {told.peak / 1e9:.2f} GB held at most by all processes together (PSS)\n"
        f"report: {report}"
    )
    return Group(*parts)


def _hits(told: Told, position: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("#", "node", "dist", "class", "handle"):
        table.add_column(name, no_wrap=name != "class", justify="right" if name in {"#", "dist"} else "left")
    for hit in told.trained.results[position].hits[:_NEAREST]:
        label = told.trained.hits[hit.node, hit.handle].label
        table.add_row(str(hit.rank), hit.node, str(hit.distance), label, hit.handle)
    return table


def _figures(told: Told) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("way to search")
    table.add_column("precision@10", justify="right")
    table.add_column("mAP@20", justify="right")
    for name, figures in methods(told).items():
        table.add_row(name, f"{figures.precision_at_10:.3f}", f"{figures.map_at_20:.3f}")
    return table


def _node_story(told: Told, name: str) -> NodeStory:
    outcome = next(outcome for outcome in told.outcomes if outcome.node == name)
    listed = told.listed()[name]
    return NodeStory(
        name=name,
        classes=class_mix(told.division.archives[name]),
        patches=told.indexed[name],
        outcome=outcome.status,
        hits=listed,
        resolved=listed,
        update_bytes=sum(
            event["received_bytes"] // len(event["nodes"]) for event in told.rounds if name in event["nodes"]
        ),
        peak_bytes=told.peaks[name],
    )


def _sheet(told: Told, position: int) -> Sheet:
    query, result = told.division.queries[position], told.trained.results[position]
    kind = told.images.modality
    pictures = {}
    for hit in result.hits:
        sample = told.trained.hits[hit.node, hit.handle]
        pictures[hit.node, hit.handle] = Picture(preview(sample.path, kind, TILE), sample.label)
    asked = Picture(preview(query.path, kind, QUERY), "held out of all archives")
    image = io.BytesIO()
    contact_sheet([Section(f"query: {query.label}", asked, result, pictures)]).save(image, format="PNG", optimize=True)
    right = sum(picture.caption == query.label for picture in pictures.values())
    words = f"Query of class {query.label} and its {len(pictures)} nearest items; {right} of them have its class."
    return Sheet(image.getvalue(), words)
