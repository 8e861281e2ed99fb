"""`rsfed query --private`: catalogues are ranked on this machine, and nobody learns what is searched."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rsfed.analyst.advice import UNREFINED, of_refine
from rsfed.analyst.outputs import moment_text

if TYPE_CHECKING:
    from rsfed.analyst.catalogues import FoundBucket, Read
    from rsfed.analyst.outputs import Asked
    from rsfed.analyst.refining import Refined
    from rsfed.trust.manifest import Manifest

_SPENT = (
    "too few of their patches may still be listed to you under this release; name more buckets by a larger --refine, "
    "or ask the archive's operator"
)


@dataclass(frozen=True, slots=True)
class PrivateAnswer:
    """The buckets nearest to one query picture, under the name that the user gave it.

    Attributes:
        query: The name.
        buckets: Of all archives, the nearest first.
        refined: What archives told of their own nearest ones; None where none was asked.
    """

    query: str
    buckets: tuple[FoundBucket, ...]
    refined: tuple[Refined, ...] | None = None


def show(
    asked: Asked, answers: Sequence[PrivateAnswer], reads: Sequence[Read], manifest: Manifest, *, as_json: bool
) -> None:
    """Print buckets to standard output, and what they were ranked from to standard error."""
    if as_json:
        sys.stdout.write(to_json(asked, answers, reads, manifest))
        sys.stdout.flush()
    screen, beside = Console(), Console(stderr=True)
    for answer in () if as_json else answers:
        screen.print(bucket_table(answer))
        if any(each.found() for each in answer.refined or ()):
            screen.print(item_table(answer.refined or ()))
    if not as_json and (counts := count_table(reads, asked.encoder, manifest)) is not None:
        screen.print(counts)
    beside.print(catalogue_table(reads, asked.encoder))
    for said in [said for answer in answers for said in _unlisted(answer)]:
        beside.print(said, markup=False, highlight=False, soft_wrap=True)


def to_json(asked: Asked, answers: Sequence[PrivateAnswer], reads: Sequence[Read], manifest: Manifest) -> str:
    """Return all answers, and what they were ranked from, as one JSON object."""
    value = {
        "private": True,
        "release": {"version": asked.release_version, "digest": asked.release_digest},
        "encoder": asked.encoder,
        "bits": asked.bits,
        "k": asked.k,
        "radius": asked.radius,
        "queries": [_answer(each) for each in answers],
        "catalogues": [_catalogue(read, asked.encoder, manifest) for read in reads],
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def bucket_table(answer: PrivateAnswer) -> Table:
    """Return the buckets near one picture as a table that fits 80 columns."""
    table = Table(box=None, pad_edge=False, title=answer.query, title_justify="left")
    for name in ("#", "dist", "about"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bucket", overflow="fold")
    for found in answer.buckets:
        table.add_row(str(found.rank), str(found.distance), str(found.size), f"{found.node}/{found.number}")
    return table


def item_table(refined: Sequence[Refined]) -> Table:
    """Return the items of buckets near one picture as a table that fits 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("dist", justify="right", no_wrap=True)
    table.add_column("bucket", overflow="fold")
    table.add_column("handle", no_wrap=True)
    rows = [
        (bucket.distance, f"{each.node}/{bucket.number}", handle)
        for each in refined
        for bucket, handles in zip(each.buckets, each.handles, strict=False)
        for handle in handles
    ]
    for distance, bucket, handle in sorted(rows, key=lambda row: row[0]):  # items of a bucket stay in their order
        table.add_row(str(distance), bucket, handle)
    return table


def catalogue_table(reads: Sequence[Read], encoder: str) -> Table:
    """Return what there is of each node as a table that fits 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("node", overflow="fold", max_width=24)
    table.add_column("level", no_wrap=True)
    table.add_column("catalogue", overflow="fold")
    table.add_column("buckets", justify="right", no_wrap=True)
    table.add_column("counts", justify="right", no_wrap=True)
    for read in reads:
        catalogue = read.catalogue
        state = read.reason if catalogue is None else f"{catalogue.made:%Y-%m-%d}{read.reason and f' ({read.reason})'}"
        known = catalogue is not None and encoder in catalogue.parts
        buckets = str(len(catalogue.parts[encoder].middles)) if catalogue is not None and known else "-"
        noise = "-" if catalogue is None else f"+/-{catalogue.spread}"
        table.add_row(read.node, read.level or "-", state, buckets, noise)
    return table


def count_table(reads: Sequence[Read], encoder: str, manifest: Manifest) -> Table | None:
    """Return the noisy counts of classes of nodes that publish nothing else; None where there are none."""
    rows = [(read.node, name, count) for read in reads for name, count in _counts(read, encoder, manifest).items()]
    table = Table(box=None, pad_edge=False)
    table.add_column("node", overflow="fold", max_width=24)
    table.add_column("class", overflow="fold")
    table.add_column("about", justify="right", no_wrap=True)
    for node, name, count in rows:
        table.add_row(node, name, str(count))
    return table if rows else None


def _answer(answer: PrivateAnswer) -> dict[str, Any]:
    buckets = [_bucket(found) for found in answer.buckets]
    refined = None if answer.refined is None else [_refined(each) for each in answer.refined]
    return {"query": answer.query, "buckets": buckets, "refined": refined}


def _refined(refined: Refined) -> dict[str, Any]:
    told = refined.handles or ((),) * len(refined.buckets)
    return {
        "node": refined.node,
        "reason": refined.reason or None,
        "withheld": refined.withheld or None,
        "buckets": [
            {"bucket": bucket.number, "distance": bucket.distance, "size": bucket.size, "handles": list(handles)}
            for bucket, handles in zip(refined.buckets, told, strict=True)
        ],
    }


def _unlisted(answer: PrivateAnswer) -> Iterator[str]:
    """Say which archives listed nothing, or not of all buckets, and what to do."""
    if answer.refined == ():
        yield f"{answer.query}: {UNREFINED}"
    for refined in answer.refined or ():
        if refined.reason:
            yield f"{answer.query}: {refined.node} listed no items [{refined.reason}]: {of_refine(refined.reason)}"
            continue
        pairs = zip(refined.buckets, refined.handles, strict=True)
        if kept := [f"{refined.node}/{bucket.number}" for bucket, some in pairs if not some]:
            yield f"{answer.query}: no items of {', '.join(kept)} [{refined.withheld}]: {_SPENT}"


def _bucket(found: FoundBucket) -> dict[str, Any]:
    return {
        "rank": found.rank,
        "node": found.node,
        "bucket": found.number,
        "distance": found.distance,
        "size": found.size,
    }


def _catalogue(read: Read, encoder: str, manifest: Manifest) -> dict[str, Any]:
    row: dict[str, Any] = {"node": read.node, "level": read.level or None, "reason": read.reason or None}
    catalogue = read.catalogue
    if catalogue is None:
        return row | dict.fromkeys(("epoch", "made", "next", "floor", "spread", "buckets", "counts"))
    part = catalogue.parts.get(encoder)
    return row | {
        "epoch": catalogue.epoch,
        "made": moment_text(catalogue.made),
        "next": moment_text(catalogue.next),
        "floor": catalogue.floor,
        "spread": catalogue.spread,
        "buckets": len(part.middles) if part else 0,
        "counts": _counts(read, encoder, manifest) or None,
    }


def _counts(read: Read, encoder: str, manifest: Manifest) -> dict[str, int]:
    """Return the noisy count of each class by its name."""
    if read.catalogue is None or (part := read.catalogue.parts.get(encoder)) is None:
        return {}
    names = {each.id: each.name for each in manifest.nomenclature.classes}
    counts = zip(part.classes, part.sizes[len(part.middles) :].tolist(), strict=True)
    return {names.get(number, str(number)): count for number, count in counts}
