"""Pictures of an evaluation: curves, histograms, maps of codes and retrieval sheets."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rsfed.analyst.results import Bucket, Hit, Outcome, SearchResult
from rsfed.analyst.sheet import COLUMNS, QUERY, TILE, Picture, Section, contact_sheet
from rsfed.codes import hamming, unpack
from rsfed.hashing.evaluation.curves import PairHistograms, radius_curve
from rsfed.lab.charts import Line, bar_chart, line_chart, scatter_chart
from rsfed.lab.evaluate.data import Entry, ImageSet
from rsfed.lab.evaluate.methods import NETWORKS
from rsfed.lab.evaluate.results import Evaluation, Row, Snapshot
from rsfed.lab.report import Sheet
from rsfed.raster.preview import preview

BIT_SERIES = (
    "entropy of a bit",
    "correlation of two bits",
    "distinct codes / images",
    "share of the ten largest buckets",
)
_BIT_FIGURES = ("bit_entropy", "bit_correlation", "distinct_share", "top_buckets")
_STEP = 2.0  # least per cent of recall from one point of a curve to the next
_MAPPED = 1500  # points of a map at most
_PERPLEXITY = 30.0
_SPREAD = 0.008  # of the width of a map: equal codes would hide each other
_SHEETS, _HITS = 3, 2 * COLUMNS
_LINE_COLOURS = (0, 1, 2, 3, 7)  # of the style sheet, that are told apart in thin lines; then dashed once more


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with its caption and the legend of its styles."""

    chart: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


def precision_recall(snapshots: Sequence[Snapshot]) -> Drawing:
    """Draw precision over recall of every method as the radius of the search grows."""
    lines = [Line(shot.name, line_style(number), _curve(shot.pairs)) for number, shot in enumerate(snapshots)]
    chart = line_chart(
        lines, title="Precision over recall", x_label="recall in per cent of all relevant images", y_label="precision"
    )
    return Drawing(chart, "", tuple((line.name + " (dashed)" * ("dashed" in line.style), line.style) for line in lines))


def _curve(pairs: PairHistograms) -> list[tuple[float, float]]:
    """Return recall in per cent and precision within each radius, few enough points to be told apart."""
    curve = radius_curve(pairs)
    points: list[tuple[float, float]] = []
    for recall, precision in zip(100 * curve.recall, curve.precision, strict=True):
        if not math.isnan(precision) and (not points or recall >= points[-1][0] + _STEP):
            points.append((float(recall), float(precision)))
    return points


def distances(shot: Snapshot) -> Drawing:
    """Draw how far relevant and other images lie from queries."""
    relevant, other = (each / max(1, each.sum()) for each in (shot.pairs.relevant, shot.pairs.irrelevant))
    lines = [
        Line("relevant", "node-0", list(enumerate(relevant.tolist()))),
        Line("other", "node-1", list(enumerate(other.tolist()))),
    ]
    chart = line_chart(lines, title=shot.name, x_label="Hamming distance in bits", y_label="share of the pairs")
    overlap = float(np.minimum(relevant, other).sum())
    return Drawing(
        chart,
        f"{shot.name}: the two share {overlap:.0%} of their area",
        (("pairs with a common class", "node-0"), ("other pairs", "node-1")),
    )


def bit_bars(rows: Iterable[Row]) -> Markup:
    """Draw the bit statistics of every method with codes."""
    bars = {row.name: [row.figures[name].mean for name in _BIT_FIGURES] for row in rows if row.bits is not None}
    return bar_chart(bars, series=BIT_SERIES, title="Statistics of the bits")


def side_by_side(evaluation: Evaluation) -> tuple[Snapshot, ...]:
    """Return the two methods that are shown beside each other: the best without and the best with a network.

    KSLSH goes before the other ways without a network, as the field shows it. Where there is only one kind, the two
    best of it.
    """
    with_codes = [shot for shot in evaluation.snapshots if shot.codes is not None]
    score = {(row.method, row.bits): row.figures["map_found"].mean for row in evaluation.rows}
    ranked = sorted(with_codes, key=lambda shot: -score[shot.method, shot.bits])
    plain = [shot for shot in ranked if shot.method not in NETWORKS]
    deep = [shot for shot in ranked if shot.method in NETWORKS]
    if not plain or not deep:
        return tuple(ranked[:2])
    return next((shot for shot in plain if shot.method == "kslsh"), plain[0]), deep[0]


def code_map(shot: Snapshot, evaluation: Evaluation, seed: int = 0) -> Drawing:
    """Draw the codes of held-out images in the plane by t-SNE, each point in the mark of its (first) class."""
    from sklearn.manifold import TSNE  # noqa: PLC0415 - takes long to load

    if shot.codes is None:
        raise ValueError("float features have no codes to draw")
    held_out = np.union1d(evaluation.division.queries, evaluation.division.gallery)
    chosen = np.random.default_rng(seed).permutation(held_out)[:_MAPPED]
    bits = unpack(shot.codes[chosen]).astype(np.float32)
    perplexity = min(_PERPLEXITY, (len(chosen) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(bits)
    groups = evaluation.relevant_labels[chosen].argmax(axis=1).tolist()
    spoken = f"{len(chosen)} codes of {len(set(groups))} classes"
    plane += _SPREAD * np.ptp(plane, axis=0) * np.random.default_rng(seed).standard_normal(plane.shape)
    points = [(float(x), float(y)) for x, y in plane]
    return Drawing(
        scatter_chart(points, groups, title=f"Codes of {shot.name}", spoken=spoken), f"{shot.name}: {spoken}"
    )


def sheets(evaluation: Evaluation, images: ImageSet, shots: Sequence[Snapshot]) -> list[Sheet]:
    """Draw some queries with their nearest images by each of some methods."""
    queries = evaluation.division.queries
    first: dict[int, int] = {}
    for position, image in enumerate(queries):
        first.setdefault(int(evaluation.relevant_labels[image].argmax()), position)
    classes = sorted(first)
    chosen = [first[each] for each in classes[:: max(1, len(classes) // _SHEETS)][:_SHEETS]]
    return [_sheet(evaluation, images, shots, position) for position in chosen]


def ranking(
    shot: Snapshot, evaluation: Evaluation, position: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Return the images that a query finds, nearest first, and their distances; ties in an order drawn by the seed."""
    if shot.codes is None:
        raise ValueError("float features have no Hamming ranking")
    division = evaluation.division
    gallery = np.delete(division.gallery, division.own[position]) if division.own[position] >= 0 else division.gallery
    query = division.queries[position]
    distance = hamming(shot.codes[query : query + 1], shot.codes[gallery])[0]
    order = np.lexsort((np.random.default_rng(seed).random(len(gallery)), distance))
    return gallery[order], distance[order]


def _sheet(evaluation: Evaluation, images: ImageSet, shots: Sequence[Snapshot], position: int) -> Sheet:
    query = images.entries[evaluation.division.queries[position]]
    asked = preview(query.path, images.listing.modality, QUERY)
    sections, words = [], []
    for shot in shots:
        found, distance = ranking(shot, evaluation, position)
        found, distance = found[:_HITS], distance[:_HITS]
        wanted = evaluation.relevant_labels[evaluation.division.queries[position]]
        right = (evaluation.relevant_labels[found] & wanted).any(axis=1)
        result = _as_result(right, distance)
        pictures = {
            (hit.node, hit.handle): Picture(
                preview(images.entries[image].path, images.listing.modality, TILE), _labels(images.entries[image])
            )
            for hit, image in zip(result.hits, found, strict=True)
        }
        sections.append(Section(_labels(query), Picture(asked, shot.name), result, pictures))
        words.append(f"{shot.name}: {int(right.sum())} of {len(right)} right")
    image = io.BytesIO()
    contact_sheet(sections).save(image, format="PNG", optimize=True)
    return Sheet(image.getvalue(), f"Query of {_labels(query)} and its nearest images. {'; '.join(words)}.")


def _as_result(right: NDArray[np.bool_], distance: NDArray[np.uint16]) -> SearchResult:
    """Put hits into the form that contact sheets draw: right and wrong ones take the places of two nodes."""
    verdicts = ["right" if each else "wrong" for each in right]
    hits = tuple(
        Hit(rank, verdict, str(rank), int(bits), rank - 1, 1)
        for rank, (verdict, bits) in enumerate(zip(verdicts, distance, strict=True), 1)
    )
    buckets = tuple(Bucket(hit.node, b"", hit.distance, 1) for hit in hits)
    return SearchResult(b"", 0, hits, buckets, tuple(Outcome(each, "COMPLETE", 0.0) for each in ("right", "wrong")))


def _labels(entry: Entry) -> str:
    return ", ".join(entry.labels)


def line_style(number: int) -> str:
    """Return the class of the style sheet for the line of a method; ten are told apart."""
    colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
    return f"node-{colour}" + " dashed" * (number >= len(_LINE_COLOURS))
