"""The part of `make bench-ingest` about scenes, and about what reading adds to hashing.

`scene`: patches of 120 pixels out of one GeoTIFF of 12 bands in deflated tiles of 512 pixels, as an encoder takes them,
against opening the file and reading one window for each patch, as rasterio gives it.

`ingest`: hashing patches which two other processes look at and two more read ahead, as those of `ingest` and of `serve`
do with `[archive] workers = 2`; against hashing the same patches out of memory. One thread hashes, with the compact
network. Of the patches of BigEarthNet, and of scenes, which have to be inflated twice.

`beside`: hashing out of memory while another process does nothing but compute, against hashing alone. Where two of a
machine's processors share a core, no ingest comes below that ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from rsfed.crew import Crew
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.network import build_network
from rsfed.hashing.weights import get_state
from rsfed.lab.memory import MemoryMeter
from rsfed.raster.input_spec import InputSpec, default_spec
from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item
from rsfed.raster.modality import MODALITIES
from rsfed.raster.reader import Content, read_many
from rsfed.raster.source import environment
from rsfed.raster.writer import Grid, read_plainly, write_geotiff
from rsfed.trust.manifest import CompactResnet

_KIND = MODALITIES["sentinel-2-l2a"]
_SPEC, _PATCH = default_spec(_KIND, 120, "tile"), default_spec(_KIND, 120)
_TILE, _GSD, _BITS = 512, 10.0, 64
_WINDOWS = 60  # that are read one by one, spread over the scene
_AT_ONCE, _HELD = 16, 512  # patches: in a part, hashed out of memory
_WORKERS = 2  # that look, and that read
_TIMES = 5  # that patches are ingested in a round, so that starting and ending take little of it
_ROUNDS = 5


def scene_figures(folder: Path, patches: Sequence[Path], side: int, scenes: int) -> dict[str, float]:
    """Return the figures of scenes, and those of hashing.

    Args:
        folder: Where scenes are written.
        patches: Folders of patches of BigEarthNet.
        side: Their width and height in pixels.
        scenes: How many are ingested.
    """
    paths = [_written(folder / f"scene-{number}.tif", side, number) for number in range(scenes)]
    cutting = _cutting(paths[0])
    with MemoryMeter() as meter:
        ratios = {
            "ingest_vs_encode_only": _ingest_ratio(patches, [*patches] * _TIMES, _PATCH, _AT_ONCE),
            "scene_ingest_vs_encode_only": _ingest_ratio(patches, paths, _SPEC, 1),
            "encode_beside_another": _beside_ratio(patches),
        }
    return {**cutting, **ratios, "peak_rss_mb": round(meter.peak / 1e6)}


def _written(path: Path, side: int, seed: int) -> Path:
    random = np.random.default_rng(seed)
    ground = random.integers(200, 3000, (len(_KIND.bands), side // 8, side // 8)).astype(np.uint16)
    values = ground.repeat(8, axis=1).repeat(8, axis=2)
    values += random.integers(0, 64, values.shape, dtype=np.uint16)
    write_geotiff(path, values, Grid(32633, 499_980.0, 5_000_040.0, _GSD), {}, tile=_TILE)
    return path


def _items(path: Path, spec: InputSpec = _SPEC) -> list[Item]:
    windows = inspect(path, root=None, modality=_KIND, spec=spec).windows
    return [Item(number, path, each.window, _KIND.name, each.digest) for number, each in enumerate(windows)]


def _cutting(path: Path) -> dict[str, float]:
    items = _items(path)
    some = items[:: max(1, len(items) // _WINDOWS)]
    rounds = [
        (
            _seconds(lambda: _drain(read_many(items, _SPEC))) / len(items),
            _seconds(lambda: _one_by_one(some)) / len(some),
        )
        for _ in range(_ROUNDS)
    ]
    ours = statistics.median(each for each, _ in rounds)
    ratio = statistics.median(theirs / each for each, theirs in rounds)
    return {"scene_patches_per_s": round(1 / ours), "scene_vs_windowed": round(ratio, 1)}


def _one_by_one(items: Sequence[Item]) -> None:
    for item in items:
        read_plainly(item.path, item.window)


def _ingest_ratio(small: Sequence[Path], paths: Sequence[Path], spec: InputSpec, together: int) -> float:
    """Return how many times as long looking, reading and hashing take as hashing alone; the median of rounds.

    Args:
        small: Sources of one patch, by which processes are started before the time is taken.
        paths: What is ingested.
        spec: How patches of it are read.
        together: How many of them are looked at and read together, as small ones are.
    """
    encoder, held = _encoder(spec), _held(paths, spec)
    started = small[: 3 * _WORKERS]  # all that anybody has or had when the time is taken
    tasks: list[Sequence[Path]] = [[path] for path in started]
    tasks += [paths[start : start + together] for start in range(0, len(paths), together)]
    ratios = []
    for _ in range(_ROUNDS):
        alone = _seconds(lambda: encoder.encode(held)) / len(held)
        ahead = _ahead(tasks, spec)
        _drain(islice(ahead, _WORKERS))  # the processes have started, which takes the same for any archive
        start = time.perf_counter()
        count = len(encoder.encode(ahead))
        ratios.append((time.perf_counter() - start) / count / alone)
    return round(statistics.median(ratios), 2)


def _beside_ratio(paths: Sequence[Path]) -> float:
    """Return how many times as long hashing takes beside a process that computes; the median of rounds."""
    encoder, held = _encoder(_PATCH), _held(paths, _PATCH)
    ratios = []
    for _ in range(_ROUNDS):
        alone = _seconds(lambda: encoder.encode(held))
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            ratios.append(_seconds(lambda: encoder.encode(held)) / alone)
        finally:
            other.kill()
            other.wait()
    return round(statistics.median(ratios), 2)


def _encoder(spec: InputSpec) -> Encoder:
    import torch  # noqa: PLC0415 - sets its threads

    torch.set_num_threads(1)
    network = build_network(CompactResnet(), spec, _BITS)
    return Encoder.from_state(get_state(network), CompactResnet(), spec, _BITS)


def _held(paths: Sequence[Path], spec: InputSpec) -> list[Content]:
    return list(islice((content for path in paths for content in _contents(_items(path, spec), spec)), _HELD))


def _ahead(tasks: Iterable[Sequence[Path]], spec: InputSpec) -> Iterator[Content]:
    looked = (sources for _, sources in Crew(_WORKERS).parts(partial(_looks, spec), tasks) if sources is not None)
    for _, part in Crew(_WORKERS).parts(partial(_reads, spec), looked):
        yield from part or ()


def _looks(spec: InputSpec, paths: Sequence[Path]) -> Iterator[list[list[Item]]]:
    with environment():
        found = [_items(path, spec) for path in paths]
    yield found


def _reads(spec: InputSpec, sources: Sequence[Sequence[Item]]) -> Iterator[list[Content]]:
    read = (content for items in sources for content in _contents(items, spec))
    while part := list(islice(read, _AT_ONCE)):
        yield part


def _contents(items: Sequence[Item], spec: InputSpec) -> Iterator[Content]:
    return (content for _, content in read_many(items, spec) if isinstance(content, dict))


def _drain(reading: Iterable[object]) -> None:
    for _ in reading:
        pass


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
