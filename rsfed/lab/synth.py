"""A synthetic multispectral archive: GeoTIFF patches in class folders, with acquisitions, places and times.

Every place is looked at twice, by two acquisitions of the same scene at different dates: its patches share place,
footprint and class. Patches of one acquisition share its light, haze and season; acquisitions differ in them, and each
is mostly of one class and partly of others, as a scene is. File names say nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import UsageError
from rsfed.home import make_folder
from rsfed.lab.landcover import CLASSES, Canvas, Floats
from rsfed.raster.writer import Grid, write_geotiff

MODALITY = "rgbn-reflectance"
GSD = 10.0  # metres
LEAST_CLASSES = 8
_VISITS = 2  # acquisitions that look at a place
_PER_SCENE, _PER_SITE = 16, 4  # places
_OWN_SHARE = 0.5  # of an acquisition that is of its main class
_HAZE = np.array([0.030, 0.040, 0.060, 0.015], np.float32)  # reflectance added by the thickest haze
_NOISE = 0.004  # reflectance
_START = datetime(2024, 1, 3, 10, 20, 31, tzinfo=UTC)
_ZONES = (32629, 32631, 32632, 32633, 32634)  # UTM


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One overpass.

    Attributes:
        number: Position in the order of time.
        gain: Factor on every band, shape (4,).
        haze: Reflectance added to every band, shape (4,).
        season: How green vegetation is, 0 to 1.
    """

    number: int
    gain: Floats
    haze: Floats
    season: float

    @property
    def start(self) -> datetime:
        """When it began: overpasses are some days and a few minutes apart."""
        return _START + timedelta(days=5 * self.number, minutes=7 * (self.number % 11))

    @property
    def id(self) -> str:
        """Its id, as the tag ACQUISITION carries it."""
        return f"SYN-1:{self.start:%Y%m%dT%H%M%S}"


@dataclass(frozen=True, slots=True)
class Archive:
    """What was written.

    Attributes:
        patches: Number of files of each class.
        places: Number of places, each with a patch of every visit; of an odd number of patches, one has a single one.
        acquisitions: Number of overpasses.
        bytes: Size of all files.
        modality: What the files are.
    """

    patches: dict[str, int]
    places: int
    acquisitions: int
    bytes: int
    modality: str = MODALITY


def generate(  # noqa: PLR0913 - what decides the bytes, and who is told of progress
    out: Path,
    *,
    patches: int = 960,
    size: int = 48,
    classes: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Archive:
    """Write an archive; the same arguments give the same bytes.

    Args:
        out: Folder that does not exist yet or is empty.
        patches: Number of patches, about equally many of each class: two of every place.
        size: Width and height of a patch in pixels of 10 m.
        classes: Number of classes, 8 or more; None for all there are.
        seed: Seed of everything.
        progress: Called with the number of patches written so far.

    Raises:
        UsageError: the folder is not empty, or a number is out of its range.
    """
    names = list(CLASSES)[:classes]
    check_request(patches, size, len(CLASSES) if classes is None else classes)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the output folder is not empty; name a new one", detail=str(out))
    make_folder(out)
    rng = np.random.default_rng(seed)
    places, place, owner = visits(patches)
    acquisitions = [_acquisition(number, rng) for number in range(owner[-1] + 1)]
    labels = assign(places, len(names), rng)[place]
    images = render(labels, names, [acquisitions[number] for number in owner], size, rng)
    written = 0
    for number, (label, image) in enumerate(zip(labels, images, strict=True)):
        path = out / names[label] / f"p{number:06d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = _tags(int(place[number]), acquisitions[owner[number]])
        write_geotiff(path, image, _grid(int(place[number]), size), tags)
        written += path.stat().st_size
        progress(number + 1)
    counts = Counter(names[label] for label in labels)
    return Archive(dict(sorted(counts.items())), places, len(acquisitions), written)


def check_request(patches: int, size: int, classes: int) -> None:
    """Refuse numbers that make no archive.

    Raises:
        UsageError: a number is out of its range.
    """
    if not LEAST_CLASSES <= classes <= len(CLASSES):
        raise UsageError(f"there are {LEAST_CLASSES} to {len(CLASSES)} classes to choose from")
    if not 16 <= size <= 256:
        raise UsageError("patches are 16 to 256 pixels wide")
    if not _VISITS * classes <= patches <= 100_000:
        raise UsageError(
            f"an archive has {_VISITS * classes} (a place of each class, seen {_VISITS} times) to 100,000 patches"
        )


def visits(patches: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Say which place each patch shows and which acquisition it is of.

    All scenes are looked at in turn before the first of them is looked at again, so that visits lie far apart.

    Returns:
        Number of places; place of each patch and its acquisition, never falling, both int64, shape (patches,).
    """
    places = -(-patches // _VISITS)
    visit, place = np.divmod(np.arange(patches), places)
    scenes = -(-places // _PER_SCENE)
    return places, place, visit * scenes + place // _PER_SCENE


def assign(places: int, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Give every place a class: half of each scene is of its main class, the rest a draw from all others.

    Returns:
        Classes in the order of scenes, int64, shape (places,); every class has equally many places, or one more.
    """
    pool = Counter(number % classes for number in range(places))
    labels = np.full(places, -1, np.int64)
    main = rng.permutation(classes)
    for number, first in enumerate(range(0, places, _PER_SCENE)):
        label = int(main[number % classes])
        count = min(round(_OWN_SHARE * min(_PER_SCENE, places - first)), pool[label])
        labels[first : first + count] = label
        pool[label] -= count
    rest = np.array(sorted(pool.elements()), np.int64)
    labels[labels < 0] = rng.permutation(rest)
    return labels


def render(
    labels: NDArray[np.int64], names: list[str], seen_by: list[Acquisition], size: int, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Paint the patches, each as its acquisition sees it: uint16 reflectance x 10,000, shape (patches, 4, size, size).

    The ground is drawn anew for every patch, also where a place is looked at again: no query may have its twin in an
    archive, or finding it would pass for finding its class.
    """
    season = np.array([each.season for each in seen_by], np.float32)
    gain = np.stack([each.gain for each in seen_by])[:, :, None, None]
    haze = np.stack([each.haze for each in seen_by])[:, :, None, None]
    images = np.zeros((len(labels), 4, size, size), np.uint16)
    for label, name in enumerate(names):
        chosen = np.flatnonzero(labels == label)
        for part in np.array_split(chosen, -(-len(chosen) // 256)) if len(chosen) else ():
            canvas = Canvas(rng, season[part], size)
            ground = CLASSES[name](canvas) * (1 + np.float32(0.06) * canvas.noise(size / 5))[:, None]
            seen = ground * gain[part] + haze[part]
            seen += rng.normal(0, _NOISE, seen.shape).astype(np.float32)
            images[part] = np.clip(seen * 10_000, 1, 10_000).round().astype(np.uint16)
    return images


def _acquisition(number: int, rng: np.random.Generator) -> Acquisition:
    gain = np.exp(rng.normal(0, 0.16) + rng.normal(0, 0.03, 4)).astype(np.float32)
    haze = (_HAZE * rng.uniform(0, 1) ** 2).astype(np.float32)
    return Acquisition(number, gain, haze, float(rng.uniform(0, 1)))


def _grid(place: int, size: int) -> Grid:
    """Return where a place lies: neighbours of a site side by side, sites and scenes apart."""
    scene, within = divmod(place, _PER_SCENE)
    site, cell = divmod(within, _PER_SITE)
    span = size * GSD
    west = 300_000.0 + (scene % 8) * 40_000 + site * 8_000 + (cell % 2) * span
    north = 4_700_000.0 + (scene // 8 % 200) * 20_000 - (cell // 2) * span
    zone = _ZONES[(scene + scene // 1600) % len(_ZONES)]  # 1,600 scenes fill the grid of a zone
    return Grid(zone, west, north, GSD)


def _tags(place: int, acquisition: Acquisition) -> dict[str, str]:
    end = acquisition.start + timedelta(seconds=12)
    return {
        "ACQUISITION": acquisition.id,
        "ACQUIRED": f"{acquisition.start.isoformat()}/{end.isoformat()}",
        "PLACE": f"syn-{place // _PER_SITE:05d}-{place % _PER_SITE}",
    }
