"""Archives of codes to try policy levels on: of real images, of BigEarthNet's countries, of made-up scenes.

The codes of real images are those of the default objective on a frozen trunk. Those of BigEarthNet and scenes are
simulated: a patch has the majority of the hash centres of its classes, in which bits flip, of some classes more often
than of others; the free bits are signs of random projections of a hidden look of the patch, which its classes
and, less, its acquisition decide, and by which neighbours within a class are ranked.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, pack
from rsfed.config_objectives import ClosedFormSection
from rsfed.errors import UsageError
from rsfed.hashing.centres import centres_beside_free
from rsfed.hashing.codebook import count_codes, make_codebook
from rsfed.lab import bench_images
from rsfed.lab.bench_images import featured, official_splits, unpacked
from rsfed.lab.bigearthnet import read_table
from rsfed.lab.evaluate.data import ImageSet, find
from rsfed.lab.evaluate.methods import Hasher, Task
from rsfed.lab.federated.learners import closed_form
from rsfed.privacy.cells import Cells
from rsfed.privacy.grid import NONE
from rsfed.privacy.publication import Present, acquisition_numbers
from rsfed.raster.bigearthnet_records import split_labels
from rsfed.trust.manifest import CodebookEntry

BITS, SEED = 32, 0
FREE = ClosedFormSection().free
QUERIES = 300  # at most, of one archive
_LEAST = 5  # acquisitions of a class of the codebook, as nodes at `guarded` count
_LOOK = 16  # dimensions of a simulated look
_OF_CLASS, _OF_SCENE, _OF_PATCH = 1.0, 0.5, 0.7  # deviations of its parts
_FLIPS = 0.005, 0.08  # of a bit of the centre, by class
_METADATA = "bigearthnet_meta/metadata.parquet"
_PATCH = re.compile(r"_(\d{4})(\d{2})\d\dT\d+_.*_T(\d\d[A-Z])([A-Z]{2})_")  # year, month, zone and band, square

Floats = NDArray[np.floating]
Labels = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Items:
    """Patches of an archive, or queries.

    Attributes:
        codes: Packed codes, uint8, shape (n, bits // 8).
        labels: bool, shape (n, classes).
        look: What neighbours are ranked by, in any number of dimensions, shape (n, d).
    """

    codes: Codes
    labels: Labels
    look: Floats

    def take(self, rows: NDArray[np.integer]) -> Items:
        """Return some of them."""
        return Items(self.codes[rows], self.labels[rows], self.look[rows])


@dataclass(frozen=True, slots=True)
class CodedArchive:
    """An archive to try levels on.

    Attributes:
        name: Its name.
        items: Its patches.
        acquisitions: A number for the acquisition of each, uint64.
        queries: Held-out patches.
        codebook: Of the release, and its reach.
        places: The tile of each patch at every tier.
        times: The period of each at every tier.
    """

    name: str
    items: Items
    acquisitions: NDArray[np.uint64]
    queries: Items
    codebook: tuple[tuple[CodebookEntry, ...], int]
    places: tuple[NDArray[np.int32], ...]
    times: tuple[NDArray[np.int32], ...]

    @property
    def cells(self) -> Cells:
        """The cells of the release, one for each class."""
        return Cells.of(*self.codebook)

    def present(self) -> Present:
        """Return what may be published of the archive."""
        cells = self.cells.nearest(self.items.codes)[0]
        return Present(np.arange(len(cells)), self.acquisitions, cells, self.places, self.times)


def of_images(data: Path, name: str) -> CodedArchive:
    """Return one of the sets of real images: the part that trains is the archive, the held-out one asks.

    Each file is an acquisition of its own; nothing is known of place and time.
    """
    images = featured(data, find(unpacked(data, name), splits=official_splits(data, name)))
    roles = np.array([entry.role for entry in images.entries])
    train, val, asking = (np.flatnonzero(roles == role) for role in ("train", "val", "query"))
    features = np.stack([patch[0] for patch in images.patches]).astype(np.float32)
    codes = _trained(images, features, train)(np.arange(len(images.patches)))
    everything = Items(codes, images.labels, features)
    numbers = [f"file {each}" for each in train]
    book = _codebook(everything.take(train), numbers, everything.take(val))
    chosen = np.random.default_rng(SEED).permutation(asking)[:QUERIES]
    nowhere = _nowhere(len(train))
    return CodedArchive(
        name, everything.take(train), acquisition_numbers(numbers), everything.take(chosen), book, nowhere, nowhere
    )


def _trained(images: ImageSet, features: NDArray[np.float32], train: NDArray[np.int64]) -> Hasher:
    return closed_form(Task(images, features, train, BITS, SEED, epochs=0), [train], free=FREE)


def bigearthnet_folder(data: Path) -> Path:
    """Return the folder of BigEarthNet's metadata, unpacked at its first use.

    Raises:
        UsageError: they are not in the data.
    """
    folder = bench_images.CACHE / Path(_METADATA).parent
    if not folder.is_dir():
        try:
            with zipfile.ZipFile(data / bench_images.TEXTS) as file:
                file.extract(_METADATA, bench_images.CACHE)
        except KeyError as error:
            raise UsageError("the test data have no metadata of BigEarthNet", detail=_METADATA) from error
    return folder


def of_countries(folder: Path) -> list[CodedArchive]:
    """Return the countries of BigEarthNet v2 as archives with simulated codes, the largest first.

    The product of an overpass and tile, which patch names begin with, is an acquisition. A tile of the military grid
    stands for a tile of one degree, its zone and band for one of ten.

    Raises:
        UsageError: the metadata will not do.
        ConfigError: EXTRA_MISSING, they need pyarrow.
    """
    rows = read_table(folder, ("patch_id", "labels", "country"))
    names = [str(row["patch_id"]) for row in rows]
    told = [split_labels(row["labels"]) for row in rows]
    classes = {name: column for column, name in enumerate(sorted({name for names in told for name in names}))}
    labels = np.zeros((len(rows), len(classes)), np.bool_)
    for row, own in enumerate(told):
        labels[row, [classes[name] for name in own]] = True
    products = [name.rsplit("_", 2)[0] for name in names]
    _, scenes = np.unique(products, return_inverse=True)
    parts = [found.groups() if (found := _PATCH.search(f"{name}_")) else ("0", "0", "", "") for name in products]
    places = tuple(_numbered([part[2] + (part[3] if tier == 0 else "") for part in parts]) for tier in (0, 1))
    times = tuple(_numbered([part[0] + (part[1] if tier == 0 else "") for part in parts]) for tier in (0, 1))
    items, rng = simulated(labels, scenes.reshape(-1), SEED), np.random.default_rng(SEED)
    countries = np.array([str(row["country"]) for row in rows])
    asks = rng.random(len(rows)) < 0.1
    kept, held_out = np.flatnonzero(~asks), np.flatnonzero(asks)
    book = _codebook(
        items.take(kept), [products[each] for each in kept], items.take(rng.permutation(held_out)[:QUERIES])
    )
    archives = []
    for country in sorted(set(countries), key=lambda each: -np.count_nonzero(countries == each)):
        inside, asking = np.flatnonzero((countries == country) & ~asks), np.flatnonzero((countries == country) & asks)
        none = np.full(len(inside), NONE, np.int32)
        archives.append(
            CodedArchive(
                country,
                items.take(inside),
                acquisition_numbers(products[each] for each in inside),
                items.take(rng.permutation(asking)[:QUERIES]),
                book,
                (*(tier[inside] for tier in places), none),
                (*(tier[inside] for tier in times), none),
            )
        )
    return archives


def of_scenes(tiles: int, patches: int = 3_000, classes: int = 11) -> CodedArchive:
    """Return an archive of scenes of so many tiles with simulated codes; half of each is of one class, as in `synth`.

    Each scene lies in one of 20 tiles of a degree and one of 6 months, by turns.
    """
    rng = np.random.default_rng(SEED)
    total = patches + QUERIES
    scenes = np.arange(total) // tiles
    main = rng.integers(0, classes, scenes[-1] + 1)[scenes]
    own = np.where(rng.random(total) < 0.5, main, rng.integers(0, classes, total))
    items = simulated(np.eye(classes, dtype=np.bool_)[own], scenes, SEED)
    order = rng.permutation(total)
    inside, asking = np.sort(order[:patches]), order[patches:]
    names = [f"scene {scene}" for scene in scenes[inside]]
    degree, month = (scenes[inside] % 20).astype(np.int32), (scenes[inside] // 20 % 6).astype(np.int32)
    none, one = np.full(patches, NONE, np.int32), np.zeros(patches, np.int32)
    return CodedArchive(
        f"scenes of {tiles}",
        items.take(inside),
        acquisition_numbers(names),
        items.take(asking),
        _codebook(items.take(inside), names, items.take(asking)),
        (degree, degree // 10, none),
        (month, one, none),
    )


def simulated(labels: Labels, scenes: NDArray[np.integer], seed: int) -> Items:
    """Return patches with codes as the module says.

    Args:
        labels: Classes of each patch, at least one, shape (n, classes).
        scenes: Number of the acquisition of each.
        seed: Of all chance.
    """
    rng = np.random.default_rng(seed)
    count, classes = labels.shape
    centres = centres_beside_free(range(classes), BITS, FREE, seed)
    shares = labels / labels.sum(axis=1, keepdims=True)
    votes = shares @ centres
    even = np.isclose(votes, 0.5)
    fixed = np.where(even, rng.random(votes.shape) < 0.5, votes > 0.5)
    flips = shares @ rng.uniform(*_FLIPS, classes)
    fixed ^= rng.random(votes.shape) < flips[:, None]
    look = shares @ rng.normal(0, _OF_CLASS, (classes, _LOOK))
    look += rng.normal(0, _OF_SCENE, (int(scenes.max()) + 1, _LOOK))[scenes]
    look += rng.normal(0, _OF_PATCH, (count, _LOOK))
    hidden = look @ rng.normal(size=(_LOOK, BITS - centres.shape[1]))
    return Items(pack(np.concatenate([fixed, hidden > np.median(hidden, axis=0)], axis=1)), labels, look)


def _codebook(train: Items, acquisitions: Sequence[str], held_out: Items) -> tuple[tuple[CodebookEntry, ...], int]:
    """Return the codebook that a release would have, and its reach."""
    classes = train.labels.shape[1]
    centres = centres_beside_free(range(classes), BITS, FREE, SEED)
    beside = list(zip(held_out.codes[:, None], held_out.labels[:, None], strict=True))
    counts = count_codes(train.codes, train.labels, acquisitions, beside, centres, least=_LEAST)
    return make_codebook([counts], range(classes), centres)


def _nowhere(count: int) -> tuple[NDArray[np.int32], ...]:
    return (np.full(count, NONE, np.int32),) * 3


def _numbered(names: Sequence[str]) -> NDArray[np.int32]:
    return np.unique(np.array(names), return_inverse=True)[1].reshape(-1).astype(np.int32)
