"""Search results as a table, JSON, GeoJSON or CSV. The last three are stable and described in docs/output.md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rsfed.analyst.filters import Filters
from rsfed.analyst.results import Box, Hit, Interval, Outcome, SearchResult, when

CSV_COLUMNS = (
    "query", "rank", "node", "handle", "distance", "bucket_size",
    "west", "south", "east", "north", "acquired_start", "acquired_end",
    "relevance",
)  # fmt: skip


STAC_VERSION = "1.1.0"


@dataclass(frozen=True, slots=True)
class Answer:
    """The ranking for one query picture, under the name that the user gave it; the name never leaves the machine."""

    query: str
    result: SearchResult


@dataclass(frozen=True, slots=True)
class Asked:
    """What all answers of one command share.

    Attributes:
        release_version: Version of the release that made the codes.
        release_digest: Digest of its manifest, hexadecimal.
        encoder: Encoder that made the codes.
        bits: Width of the codes.
        k: How many items were wanted for each picture; None for all within the radius.
        radius: Largest distance wanted, in bits; None for the nearest.
        filters: Which items count.
    """

    release_version: int
    release_digest: str
    encoder: str
    bits: int
    k: int | None
    radius: int | None
    filters: Filters = field(default_factory=Filters)


def to_json(asked: Asked, answers: Sequence[Answer]) -> str:
    """Return all answers as one JSON object."""
    return _dump(
        {
            "release": {"version": asked.release_version, "digest": asked.release_digest},
            "encoder": asked.encoder,
            "bits": asked.bits,
            "k": asked.k,
            "radius": asked.radius,
            "filter": asked.filters.as_json(),
            "queries": [
                {
                    "query": answer.query,
                    "query_id": answer.result.query_id.hex(),
                    "query_digest": answer.result.query_digest,
                    "matched": answer.result.matched,
                    "returned": len(answer.result.hits),
                    "hits": [_hit(hit) for hit in answer.result.hits],
                    "outcomes": outcome_rows(answer.result.outcomes),
                }
                for answer in answers
            ],
        }
    )


def to_geojson(asked: Asked, answers: Sequence[Answer]) -> str:
    """Return all answers as one GeoJSON FeatureCollection (RFC 7946) with the counts of a STAC item search.

    A hit whose acquisition time is disclosed is also a valid STAC item, without assets: images stay where they are.
    """
    return _dump(
        {
            "type": "FeatureCollection",
            "numberMatched": sum(answer.result.matched for answer in answers),
            "numberReturned": sum(len(answer.result.hits) for answer in answers),
            "rsfed:release": asked.release_digest,
            "rsfed:filter": asked.filters.as_json(),
            "rsfed:outcomes": [
                {"rsfed:query": answer.query, "nodes": outcome_rows(answer.result.outcomes)} for answer in answers
            ],
            "features": [_feature(answer.query, hit) for answer in answers for hit in answer.result.hits],
        }
    )


def to_stac(asked: Asked, answers: Sequence[Answer]) -> str:
    """Return the same as a STAC 1.1.0 ItemCollection: a hit whose time is undisclosed is no STAC item and left out."""
    return to_geojson(
        asked,
        [
            replace(
                answer, result=replace(answer.result, hits=tuple(hit for hit in answer.result.hits if hit.acquired))
            )
            for answer in answers
        ],
    )


def to_csv(answers: Sequence[Answer]) -> str:
    """Return one line for each hit; what is undisclosed is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for answer in answers:
        for hit in answer.result.hits:
            place = hit.footprint or ("",) * 4
            times = [moment_text(moment) for moment in hit.acquired] if hit.acquired else ("", "")
            known = (hit.rank, hit.node, hit.handle, hit.distance, hit.bucket_size)
            row = (answer.query, *known, *place, *times, "" if hit.relevance is None else hit.relevance)
            writer.writerow(row)
    return text.getvalue()


def hit_table(asked: Asked, answer: Answer) -> RenderableType:
    """Return the ranking of one picture as a line and a table that fit 80 columns."""
    result = answer.result
    heading = Text(answer.query, style="bold", overflow="fold")
    heading.append(f"\n{_how_many(asked, result)}", style="not bold")
    if not result.hits:
        return heading
    table = Table(box=None, pad_edge=False)
    dated = any(hit.acquired for hit in result.hits)
    rated = any(hit.relevance is not None for hit in result.hits)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("node", overflow="fold", max_width=24)
    table.add_column("dist", justify="right", no_wrap=True)
    if rated:
        table.add_column("relev", justify="right", no_wrap=True)
    table.add_column("bucket", justify="right", no_wrap=True)
    if dated:
        table.add_column("acquired", no_wrap=True)
    table.add_column("handle", no_wrap=True, min_width=32)
    for hit in result.hits:
        cells = [str(hit.rank), hit.node, str(hit.distance)]
        if rated:
            cells.append("-" if hit.relevance is None else f"{hit.relevance:.2f}")
        cells.append(str(hit.bucket_size))
        if dated:
            cells.append(when(hit.acquired).replace("/", "/\n") if hit.acquired else "-")
        table.add_row(*cells, hit.handle)
    return Group(heading, table)


def _how_many(asked: Asked, result: SearchResult) -> str:
    if not result.hits:
        return listed(asked, result)
    buckets = "1 bucket" if len(result.buckets) == 1 else f"{len(result.buckets)} buckets"
    return f"{listed(asked, result)}, in {buckets}"


def listed(asked: Asked, result: SearchResult) -> str:
    """Say how many items are listed of those that lie as near; a ranking has no number of similar images."""
    if not result.answered():
        return "no archive answered"
    if not result.hits:
        return "nothing found"
    if asked.radius is not None:
        return f"within {asked.radius} bits: {len(result.hits)} of {result.matched} items"
    return f"{len(result.hits)} listed; {result.matched} lie no farther than the last"


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """Return how each node took part, as a table that fits 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("node", overflow="fold", max_width=24)
    table.add_column("outcome", overflow="fold")
    table.add_column("searched", justify="right", no_wrap=True)
    table.add_column("held", justify="right", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("level", no_wrap=True)
    for outcome in outcomes:
        searched = "-" if outcome.coverage is None else f"{outcome.coverage:.0%}"
        held = "-" if outcome.held is None else str(outcome.held)
        status = (
            f"{outcome.status} ({outcome.reason})" if outcome.reason not in {"", outcome.status} else outcome.status
        )
        table.add_row(outcome.node, status, searched, held, f"{outcome.elapsed_ms:.0f}", outcome.level or "-")
    return table


def outcome_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return outcomes as the documented objects."""
    return [
        {
            "node": outcome.node,
            "status": outcome.status,
            "coverage": outcome.coverage,
            "held": outcome.held,
            "elapsed_ms": outcome.elapsed_ms,
            "level": outcome.level or None,
            "reason": outcome.reason or None,
            "withheld": outcome.withheld or None,
            "filtered": list(outcome.filtered),
            "unknown": outcome.unknown,
            "unfilterable": list(outcome.unfilterable),
            "bounded": outcome.bounded,
        }
        for outcome in outcomes
    ]


def _hit(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "node": hit.node,
        "handle": hit.handle,
        "distance": hit.distance,
        "relevance": hit.relevance,
        "bucket_size": hit.bucket_size,
        "footprint": list(hit.footprint) if hit.footprint else None,
        "acquired": [moment_text(moment) for moment in hit.acquired] if hit.acquired else None,
    }


def _feature(query: str, hit: Hit) -> dict[str, Any]:
    feature: dict[str, Any] = {"type": "Feature", "id": hit.handle, "geometry": _geometry(hit.footprint)}
    if hit.footprint:
        feature["bbox"] = list(hit.footprint)
    feature["properties"] = {
        **_stac_times(hit.acquired),
        "rsfed:query": query,
        "rsfed:rank": hit.rank,
        "rsfed:node": hit.node,
        "rsfed:distance": hit.distance,
        "rsfed:relevance": hit.relevance,
        "rsfed:bucket_size": hit.bucket_size,
    }
    if hit.acquired:
        feature |= {"stac_version": STAC_VERSION, "links": [], "assets": {}}
    return feature


def _geometry(box: Box | None) -> dict[str, Any] | None:
    """Return a box as a polygon, or as two where it crosses 180 degrees (RFC 7946, 3.1.9)."""
    if box is None:
        return None
    west, south, east, north = box
    sides = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    wide = [(left, right) for left, right in sides if left < right] or sides[:1]
    parts = [[_ring(left, south, right, north)] for left, right in wide]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def _stac_times(acquired: Interval | None) -> dict[str, str | None]:
    if acquired is None:
        return {"datetime": None}
    start, end = (moment_text(moment) for moment in acquired)
    return {"datetime": start if start == end else None, "start_datetime": start, "end_datetime": end}


def moment_text(moment: datetime) -> str:
    """Return a moment as all outputs have it."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
