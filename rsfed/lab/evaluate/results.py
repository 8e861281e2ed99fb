"""What an evaluation found, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes
from rsfed.hashing.evaluation.curves import PairHistograms
from rsfed.hashing.evaluation.leaks import Leak
from rsfed.hashing.evaluation.tables import Spread
from rsfed.lab.evaluate.division import Division, Split


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one width.

    Attributes:
        method: Its name.
        bits: Width of its codes; None for search on float features.
        figures: Figures by the names of `rsfed.lab.evaluate.outputs.FIGURES`.
        per_class: Mean average precision (`map_found`) of the queries of each class that has some.
        runs: The figures of each seed.
        learn_seconds: Mean seconds of learning.
        hash_ms: Mean milliseconds of hashing one image, many at a time; features of a frozen trunk are not in it.
        query_ms: Mean milliseconds of hashing one image alone, as a query is; features are not in it.
    """

    method: str
    bits: int | None
    figures: Mapping[str, Spread]
    per_class: Mapping[str, Spread]
    runs: tuple[Mapping[str, float], ...]
    learn_seconds: float
    hash_ms: float
    query_ms: float

    @property
    def name(self) -> str:
        """Method and width in words."""
        return self.method if self.bits is None else f"{self.method} {self.bits}"


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the figures came about; told wherever they are.

    Attributes:
        source: Name of the folder.
        images: Number of images that were read.
        skipped: Number of damaged images that were left out.
        unlabelled: Number of images that are left out because they have no label, or are not in the split file.
        classes: Names of the classes.
        multi_label: Whether images have several classes.
        split: How the images are split.
        by_class: Whether a split at random is made class by class.
        seeds: The seeds.
        k: Cut-off of every figure.
        train: Number of images that methods learn from, of the first seed, as the next two.
        gallery: Number of images searched.
        queries: Number of images searched by.
        without_relevant: Queries of the first seed that have no relevant image in their gallery.
        features: What baselines see and networks start from, in words.
        epochs: Passes over the training part of methods that are trained.
        training: How they are trained, in words.
    """

    source: str
    images: int
    skipped: int
    unlabelled: int
    classes: tuple[str, ...]
    multi_label: bool
    split: Split
    by_class: bool
    seeds: tuple[int, ...]
    k: int
    train: int
    gallery: int
    queries: int
    without_relevant: int
    features: str
    epochs: int
    training: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What pictures are drawn from: one method with the first seed.

    Attributes:
        method: Its name.
        bits: Width of its codes; None for search on float features.
        pairs: Pairs of a query and an image at each distance, all queries together.
        codes: Codes of all images; None for search on float features.
    """

    method: str
    bits: int | None
    pairs: PairHistograms
    codes: Codes | None

    @property
    def name(self) -> str:
        """Method and width in words."""
        return self.method if self.bits is None else f"{self.method}, {self.bits} bits"


@dataclass(frozen=True, slots=True)
class Timing:
    """Cost of one query by one method at one width against a gallery of one size.

    Attributes:
        method: Its name.
        bits: Width of the codes; None for float features.
        items: Images in the gallery.
        hash_ms: Milliseconds of hashing the query, from its features (of a network on pixels, from these); making
            features is not in it.
        search_ms: Milliseconds of the search.
        bytes_per_item: What each image takes in memory.
        extrapolated: The gallery did not fit into memory, so the search is that of a smaller one in proportion.
    """

    method: str
    bits: int | None
    items: int
    hash_ms: float
    search_ms: float
    bytes_per_item: int
    extrapolated: bool

    @property
    def milliseconds(self) -> float:
        """Of the query: hashing it and the search."""
        return self.hash_ms + self.search_ms


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that an evaluation found.

    Attributes:
        protocol: How.
        rows: Every method at every width.
        chance: Figures of a gallery in random order.
        leaks: Queries of the first seed with another image of their `place` and `acquisition` in their gallery.
        left_out: Names of the classes left out of training in each draw; none without `--left-out`.
        timings: Cost of one query by every method at every width, the smallest gallery first; none without
            `--timing`.
        features: Number of features that describe an image.
        division: Of the first seed.
        relevant_labels: Labels of all images, bool, shape (images, classes).
        snapshots: What pictures are drawn from, in the order of the rows.
    """

    protocol: Protocol
    rows: tuple[Row, ...]
    chance: Mapping[str, Spread]
    leaks: Mapping[str, Leak]
    left_out: tuple[tuple[str, ...], ...]
    timings: tuple[Timing, ...]
    features: int
    division: Division
    relevant_labels: NDArray[np.bool_]
    snapshots: tuple[Snapshot, ...]

    @property
    def best(self) -> Row:
        """The row with the highest mean average precision."""
        return max(self.rows, key=lambda row: row.figures["map_found"].mean)
