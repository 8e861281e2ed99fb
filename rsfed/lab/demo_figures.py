"""Figures of the demo: of the rankings that the federation served, and of plain ways to search the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import RasterRejected
from rsfed.hashing.baselines.hyperplanes import RandomHyperplanes
from rsfed.hashing.colour import NearestMeanColour
from rsfed.hashing.evaluation import average_precision, evaluate, precision
from rsfed.hashing.features import band_ranges, plain_features
from rsfed.lab.demo_data import Division, Images
from rsfed.lab.report import Figures
from rsfed.lab.split import Sample
from rsfed.raster.input_spec import default_spec
from rsfed.raster.reader import read_image

PRECISION_K, MAP_K = 10, 20
_AT_ONCE = 256  # images held in memory
_RANGE_IMAGES = 512  # of the archive, spread over it, that the ends of the histograms are measured on


@dataclass(frozen=True, slots=True)
class Baselines:
    """What is reached without a trained network.

    Attributes:
        hyperplanes: Random-hyperplane codes of plain features, expected over the order of ties.
        chance: An archive in random order.
        colour_accuracy: Share of the queries whose class the nearest mean colour gives.
    """

    hyperplanes: Figures
    chance: Figures
    colour_accuracy: float


def served_figures(queries: Sequence[str], rankings: Sequence[Sequence[str]]) -> Figures:
    """Return the figures of rankings in the order in which they were served.

    Args:
        queries: Class of each query.
        rankings: For each query the classes of its hits in rank order.
    """
    relevant = [
        np.array([label == query for label in hits], bool) for query, hits in zip(queries, rankings, strict=True)
    ]
    return Figures(
        float(np.mean([precision(hits, PRECISION_K) for hits in relevant])),
        float(np.mean([average_precision(hits, MAP_K) for hits in relevant])),
    )


def typical(scores: Sequence[float], classes: Sequence[str], count: int) -> list[int]:
    """Return positions of the scores nearest to their median, each of another class, and the worst score at the end.

    Args:
        scores: Average precision of each query.
        classes: Class of each query.
        count: How many to choose, at least 1; there are fewer where classes are.
    """
    worst = int(np.argmin(scores))
    distances = np.abs(np.asarray(scores) - np.median(scores))
    near: dict[str, int] = {}
    for position in np.argsort(distances, kind="stable"):
        if position != worst:
            near.setdefault(classes[position], int(position))
    return [*list(near.values())[: count - 1], worst]


def baselines(images: Images, division: Division, *, bits: int, seed: int) -> Baselines:
    """Search the union of all archives without a network, each image read as the network reads it.

    Args:
        images: What the images are.
        division: Which are archived and which are queries.
        bits: Width of the codes, that of the network.
        seed: Seed of the hyperplanes.
    """
    archive = [sample for samples in division.archives.values() for sample in samples]
    sampled = archive[:: max(1, len(archive) // _RANGE_IMAGES)]
    ranges = band_ranges(np.concatenate([patches for patches, _ in _read(sampled, images)]))
    features, labels = _features(archive, images, ranges)
    asked, wanted = _features(division.queries, images, ranges)
    planes = RandomHyperplanes.fit(features, bits, seed)
    found = evaluate(
        planes.encode(asked), wanted, planes.encode(features), labels, precision_k=PRECISION_K, map_k=MAP_K
    )
    colours = slice(0, len(images.modality.bands))  # the means come first
    known = labels.any(axis=0)  # a class that only queries have cannot be learnt
    classifier = NearestMeanColour.fit(features[:, colours], labels[:, known].argmax(axis=1))
    right = wanted[:, known][np.arange(len(asked)), classifier.predict(asked[:, colours])]
    return Baselines(
        hyperplanes=Figures(found.precision, found.mean_average_precision),
        chance=Figures(found.chance_precision, found.chance_map),
        colour_accuracy=float(right.mean()),
    )


def _features(
    samples: Sequence[Sample], images: Images, ranges: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the features, shape (n, bands * 18), and classes, shape (n, classes), of the images that can be read."""
    names = sorted({sample.label for sample in images.samples})
    features, labels = [], []
    for patches, read in _read(samples, images):
        features.append(plain_features(patches, ranges))
        labels += [[sample.label == name for name in names] for sample in read]
    return np.concatenate(features), np.array(labels, bool)


def _read(samples: Sequence[Sample], images: Images) -> Iterator[tuple[NDArray[np.float32], list[Sample]]]:
    """Yield some images at a time, float32, shape (n, bands, size, size); one that nodes skip is skipped here, too."""
    spec = default_spec(images.modality, images.size)
    for start in range(0, len(samples), _AT_ONCE):
        pixels, read = [], []
        for sample in samples[start : start + _AT_ONCE]:
            with suppress(RasterRejected):
                pixels.append(next(read_image(sample.path, images.modality, spec)[1])[spec.groups[0].name])
                read.append(sample)
        if read:
            yield np.stack(pixels), read
