"""JPEG 2000 read and hashed at a reduced resolution, against full decoding: `make bench-jp2`.

UC Merced's images, written by GDAL's own encoder, are read and hashed at full resolution and at 1/2, 1/4 and 1/8: by
the network of reduced images, and by bilinear upsampling to full size before the network of full resolution, trained
on that. Every network is trained from scratch alike; mAP is by the protocol of MiLaN (60 % of each class train, the
rest are queries and gallery). Patches per second are those of reading and encoding together on two threads, all ways
in turn. The images are found through RSFED_TEST_DATA. Ends with one line of JSON; docs/output.md tells what is in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from rsfed.config_objectives import DEFAULT_OBJECTIVE
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.evaluation import evaluate
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives import make_objective
from rsfed.hashing.training import train_steps
from rsfed.lab import bench_images
from rsfed.lab.bench_command import exit_code
from rsfed.lab.bench_hashing import WIDTH, K
from rsfed.lab.bench_images import UCM, data_folder, unpacked
from rsfed.lab.evaluate.data import Listing, find, read
from rsfed.lab.evaluate.division import Split, divide
from rsfed.lab.evaluate.methods import STRETCHES, schedule
from rsfed.lab.evaluate.run import side_by_side
from rsfed.lab.narrator import Narrator
from rsfed.lab.wide_table import WideTable
from rsfed.raster.input_spec import InputSpec, default_spec, reduced_spec
from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item
from rsfed.raster.modality import modality
from rsfed.raster.reader import Content
from rsfed.raster.reader import read as read_patch
from rsfed.raster.writer import write_jpeg2000
from rsfed.trust.manifest import CompactResnet, ReducedResnet

SIZE, BITS, EPOCHS = 256, 32, 12
QUALITY, LEVELS = 25, 6  # per cent of the bytes of the samples, GDAL's default; resolution levels
TIMED, ROUNDS, THREADS = 120, 7, 2  # images that are read and hashed by each way, how often, and by how many threads
_RGB = modality("rgb")


@dataclass(frozen=True, slots=True)
class Way:
    """One way from a file to a code.

    Attributes:
        reduction: Factor by which files are read reduced; 1 for full decoding.
        upsampled: Whether reduced images are brought to full size for the network of full resolution.
    """

    reduction: int
    upsampled: bool = False

    @property
    def spec(self) -> InputSpec:
        """How a patch is read."""
        if self.upsampled:
            return default_spec(_RGB, SIZE, "resize").model_copy(update={"reduction": self.reduction})
        return reduced_spec(_RGB, SIZE, self.reduction, "resize")

    @property
    def architecture(self) -> CompactResnet | ReducedResnet:
        """How the network is built."""
        return CompactResnet() if self.upsampled or self.reduction == 1 else ReducedResnet()

    @property
    def name(self) -> str:
        """The way in words."""
        if self.reduction == 1:
            return "full decoding"
        return f"1/{self.reduction}{', upsampled' if self.upsampled else ''}"


WAYS = (*(Way(each) for each in (1, 2, 4, 8)), *(Way(each, upsampled=True) for each in (2, 4, 8)))


@dataclass(frozen=True, slots=True)
class Pace:
    """Medians over the rounds.

    Attributes:
        patches_per_s: Patches read and encoded in a second by all threads.
        faster: How many times as many as by full decoding in the same round.
        read_ms: Milliseconds of one thread to read a patch.
        encode_ms: The same to encode it.
    """

    patches_per_s: float
    faster: float
    read_ms: float
    encode_ms: float


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured.

    Attributes:
        paces: How fast each way is.
        means: Mean average precision of each, the mean of all splits.
        bits_per_pixel: Size of the files.
    """

    paces: dict[Way, Pace]
    means: dict[Way, float]
    bits_per_pixel: float

    def summary(self) -> dict[str, Any]:
        """Return the figures as one object: networks of reduced images by reduction, then those of upsampled ones."""

        def told(way: Way) -> dict[str, float]:
            figures = {"map20": self.means[way], **asdict(self.paces[way])}
            return {name: float(f"{value:.4g}") for name, value in figures.items()}

        return {
            "jp2": {str(way.reduction): told(way) for way in WAYS if not way.upsampled},
            "upsampled": {str(way.reduction): told(way) for way in WAYS if way.upsampled},
            "bits_per_pixel": round(self.bits_per_pixel, 2),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its table and figures."""
    parser = argparse.ArgumentParser(description="JPEG 2000 read and hashed at a reduced resolution")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training part")
    parser.add_argument("--seeds", type=int, default=1, help="splits, each with networks of its own")
    options = parser.parse_args(arguments)
    found = measure(options.epochs, options.seeds, Narrator())
    Console(highlight=False, width=WIDTH).print(_table(found))
    told = found.summary() | {"epochs": options.epochs, "seeds": options.seeds}
    sys.stdout.write(json.dumps(told) + "\n")


def measure(epochs: int, seeds: int, narrator: Narrator) -> Found:
    """Write the files where they are not yet, read and hash them in all ways, and train the networks of all."""
    with narrator.phase("writing JPEG 2000"):
        folder = written(unpacked(data_folder(), UCM))
        listing = find(folder)
    with narrator.phase("reading and hashing"):
        paces = measure_pace([entry.path for entry in listing.entries])

    def one(job: tuple[int, Way]) -> float:
        precision = mean_average_precision(listing, *job, epochs)
        narrator.say(f"  seed {job[0]}: {job[1].name}: mAP@{K} {precision:.3f}")
        return precision

    with narrator.phase("training"):
        found = side_by_side(one, list(product(range(seeds), WAYS)))
    means = np.reshape(found, (seeds, len(WAYS))).mean(axis=0).tolist()
    return Found(paces, dict(zip(WAYS, means, strict=True)), _bits_per_pixel(listing))


def written(images: Path) -> Path:
    """Return the folder of the images as JPEG 2000, written at its first use."""
    folder = bench_images.CACHE / f"{images.name}_jp2"
    if not folder.is_dir():
        part = folder.with_suffix(".part")  # so that a broken run leaves no folder that looks whole
        shutil.rmtree(part, ignore_errors=True)
        for path in sorted(images.rglob("*.jpg")):
            place = (part / path.relative_to(images)).with_suffix(".jp2")
            place.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            write_jpeg2000(place, pixels, quality=QUALITY, levels=LEVELS)
        part.rename(folder)
    return folder


def measure_pace(paths: Sequence[Path]) -> dict[Way, Pace]:
    """Read and hash some of the images in all ways in turn, several times; networks have random weights."""
    chosen = paths[:: max(1, len(paths) // TIMED)]
    items = {way: _items(chosen, way) for way in WAYS}
    specs = {way: way.spec for way in WAYS}
    encoders = {way: Encoder(build_network(way.architecture, specs[way], BITS), specs[way]) for way in WAYS}

    def work(job: tuple[Way, slice]) -> tuple[float, float]:
        """Return the seconds that one thread reads, and those that it encodes."""
        way, part = job
        reading = 0.0

        def contents() -> Iterator[Content]:
            nonlocal reading
            for item in items[way][part]:
                start = time.perf_counter()
                content = read_patch(item, specs[way])
                reading += time.perf_counter() - start
                yield content

        start = time.perf_counter()
        encoders[way].encode(contents())
        return reading, time.perf_counter() - start - reading

    rounds: dict[Way, list[NDArray[np.float64]]] = {way: [] for way in WAYS}
    for number in range(1 + ROUNDS):
        for way in WAYS:
            start = time.perf_counter()
            spent = side_by_side(work, [(way, slice(thread, None, THREADS)) for thread in range(THREADS)])
            seconds = time.perf_counter() - start
            if number:  # the first round warms up
                rounds[way].append(np.array([seconds, *np.sum(spent, axis=0)]) / len(chosen))
    full = np.array(rounds[WAYS[0]])[:, 0]
    return {way: _pace(np.array(each), full) for way, each in rounds.items()}


def _pace(seconds: NDArray[np.float64], full: NDArray[np.float64]) -> Pace:
    together, reading, encoding = np.median(seconds, axis=0).tolist()
    return Pace(1 / together, float(np.median(full / seconds[:, 0])), 1000 * reading, 1000 * encoding)


def _items(paths: Sequence[Path], way: Way) -> list[Item]:
    found = [inspect(path, root=None, modality=_RGB, spec=way.spec).windows[0] for path in paths]
    return [
        Item(number, path, each.window, _RGB.name, each.digest)
        for number, (path, each) in enumerate(zip(paths, found, strict=True))
    ]


def mean_average_precision(listing: Listing, seed: int, way: Way, epochs: int) -> float:
    """Train a network on one split and return the mean average precision of the codes of the rest."""
    images = read(listing, spec=way.spec)
    division = divide(images, Split.RANDOM, seed)
    model = build_network(way.architecture, way.spec, BITS, seed=seed)
    objective = make_objective(DEFAULT_OBJECTIVE, range(len(images.classes)), BITS, seed=seed)
    data = images.subset(division.train)
    for stretch, recipe in enumerate(schedule(epochs, len(data))):
        train_steps(model, data, objective, **asdict(recipe), seed=seed * STRETCHES + stretch)
    codes = Encoder(model, way.spec).encode_set(images.subset(division.queries))
    labels = images.labels[division.queries]
    return evaluate(codes, labels, codes, labels, own=division.own, map_k=K).mean_average_precision


def _bits_per_pixel(listing: Listing) -> float:
    return float(np.mean([entry.path.stat().st_size for entry in listing.entries])) * 8 / SIZE**2


def _table(found: Found) -> WideTable:
    headings = ("", "patches/s", "times full", "read ms", "encode ms", f"mAP@{K}", "points lost")
    best = found.means[WAYS[0]]
    rows = [
        (
            way.name,
            f"{pace.patches_per_s:.0f}",
            f"{pace.faster:.1f}",
            f"{pace.read_ms:.2f}",
            f"{pace.encode_ms:.2f}",
            f"{found.means[way]:.3f}",
            f"{100 * (best - found.means[way]):.1f}",
        )
        for way, pace in found.paces.items()
    ]
    return WideTable(headings, rows)


if __name__ == "__main__":
    sys.exit(exit_code("bench_jp2", main))
