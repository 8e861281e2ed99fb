"""How fast archives are read: `make bench-ingest`. Ends with one line of JSON; docs/output.md tells what is in it.

`ben12`: patches of BigEarthNet, 12 files each, written as the real ones are (uncompressed, in strips of 8 KiB), read
into one array on the 10 m grid; against opening the same files one by one by rasterio and reading their pixels, which
brings them to no grid. Both in turn on one thread, with the files in the page cache; the ratio is the median of rounds.
Of scenes tells `rsfed.lab.bench_ingest_scenes`, of the size of an archive `rsfed.lab.bench_ingest_curve`, of JPEG 2000
`rsfed.lab.bench_jp2`, here for a short training and only where RSFED_TEST_DATA names its images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsfed.lab.bench_command import exit_code
from rsfed.lab.bench_ingest_curve import NORTH, SCENE, SIDE, curve
from rsfed.lab.bench_ingest_scenes import scene_figures
from rsfed.lab.bench_jp2 import measure
from rsfed.lab.narrator import Narrator
from rsfed.raster.item import Window
from rsfed.raster.modality import MODALITIES
from rsfed.raster.source import opened
from rsfed.raster.writer import Grid, read_plainly, write_geotiff

_SENTINEL_2 = MODALITIES["sentinel-2-l2a"]
_ROUNDS = 7


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its figures and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rsfed.lab.bench_ingest", description=__doc__.split("\n")[0])
    parser.add_argument("--patches", type=int, default=200, help="patches of 12 files (default: %(default)s)")
    parser.add_argument("--side", type=int, default=3600, help="pixels of a scene (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=4, help="scenes that are ingested (default: %(default)s)")
    parser.add_argument(
        "--curve", type=int, nargs="*", default=(1000, 5000, 20_000), help="products of archives (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=1, help="of training for JPEG 2000 (default: %(default)s)")
    options = parser.parse_args(arguments)
    return exit_code("bench_ingest", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    narrator = Narrator()
    with tempfile.TemporaryDirectory() as folder:
        with narrator.phase(f"write {options.patches:,} patches"):
            patches = write_patches(Path(folder), options.patches)
        with narrator.phase("read them"):
            figures: dict[str, Any] = {**ben12(patches)}
        with narrator.phase("cut scenes and hash their patches"):
            figures |= scene_figures(Path(folder), patches, options.side, options.scenes)
        figures["curve"] = curve(Path(folder), patches, options.curve, narrator)
    figures["jp2"] = measure(options.epochs, 1, narrator).summary()["jp2"] if "RSFED_TEST_DATA" in os.environ else None
    sys.stdout.write(json.dumps(figures) + "\n")


def write_patches(parent: Path, count: int) -> list[Path]:
    """Write the folders of a row of patches of BigEarthNet; returns them."""
    random = np.random.default_rng(0)
    folders = []
    for number in range(count):
        folder = parent / f"{SCENE}{number}_0"
        folder.mkdir()
        for band, gsd in zip(_SENTINEL_2.bands, _SENTINEL_2.native_gsd, strict=True):
            side = round(SIDE / gsd)
            values = random.integers(1, 4000, (1, side, side)).astype(np.uint16)
            grid = Grid(32633, 300_000.0 + SIDE * number, NORTH, gsd)
            write_geotiff(folder / f"{folder.name}_{band}.tif", values, grid, {})
        folders.append(folder)
    return folders


def ben12(patches: Sequence[Path]) -> dict[str, float]:
    """Return the figures of reading patches of 12 files."""
    for warm_up in (_read, _read_plainly):
        warm_up(patches)
    rounds = [(_seconds(_read, patches), _seconds(_read_plainly, patches)) for _ in range(_ROUNDS)]
    fast = statistics.median(ours for ours, _ in rounds)
    ratio = statistics.median(theirs / ours for ours, theirs in rounds)
    return {"ben12_patches_per_s": round(len(patches) / fast), "ben12_vs_rasterio": round(ratio, 1)}


def _read(patches: Sequence[Path]) -> None:
    places = range(len(_SENTINEL_2.bands))
    for folder in patches:
        with opened(folder, _SENTINEL_2) as source:
            source.read(places, Window(0, 0, source.width, source.height))


def _read_plainly(patches: Sequence[Path]) -> None:
    for folder in patches:
        for band in _SENTINEL_2.bands:
            read_plainly(folder / f"{folder.name}_{band}.tif")


def _seconds(work: Callable[[Sequence[Path]], None], patches: Sequence[Path]) -> float:
    start = time.perf_counter()
    work(patches)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
