"""What is attacked: the codes of an archive under a release, and what everybody knows of it.

Real ones come from EuroSAT and UC Merced through the closed form that federations on a frozen trunk learn by, over the
apps of both sides; each file is an acquisition of its own. Made ones are for tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rsfed.codes import hamming, unpack
from rsfed.config_objectives import ClosedFormSection
from rsfed.hashing.centres import centres_beside_free
from rsfed.hashing.codebook import count_codes, make_codebook
from rsfed.lab.bench_images import data_folder, featured, official_splits, unpacked
from rsfed.lab.evaluate.data import find
from rsfed.lab.evaluate.methods import Task, describe
from rsfed.lab.federated.learners import default, federated
from rsfed.trust.manifest import CodebookEntry

BITS, SEED = 32, 0
_LEAST = 5  # acquisitions of a class of the codebook


@dataclass(frozen=True)
class Archive:
    """Patches by place; each is an acquisition of its own.

    Attributes:
        name: What it is called in reports.
        codes: Packed codes, uint8, shape (n, bits // 8).
        labels: The class of each as its archive labels it, int64.
        features: What describes each, float32, shape (n, features).
        queries: Codes of images that are not in the archive.
        query_labels: Their classes.
        query_features: What describes them.
        codebook: That of the release.
        reach: Of the codebook.
    """

    name: str
    codes: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray
    query_features: np.ndarray
    codebook: tuple[CodebookEntry, ...]
    reach: int

    def __len__(self):
        return len(self.codes)

    @property
    def cells(self):
        """The public class codes, uint8, shape (classes, bits // 8)."""
        return np.array([np.frombuffer(bytes.fromhex(entry.code), np.uint8) for entry in self.codebook])

    @property
    def cell_classes(self):
        """The class of each of them, int64."""
        return np.array([entry.class_id for entry in self.codebook], np.int64)

    @property
    def predicted(self):
        """The class of the nearest class code of each patch, int64."""
        return self.cell_classes[hamming(self.codes, self.cells).argmin(axis=1)]

    @property
    def bits(self):
        return unpack(self.codes).astype(bool)

    def part(self, places):
        """The same release over some of the patches."""
        return replace(self, codes=self.codes[places], labels=self.labels[places], features=self.features[places])


def real(name: str) -> Archive:
    """Train a release on the training part of a public data set and hash all of it."""
    data = data_folder()
    images = featured(data, find(unpacked(data, name), splits=official_splits(data, name)))
    roles = np.array([entry.role or "" for entry in images.entries])
    train, val, query = (np.flatnonzero(roles == role) for role in ("train", "val", "query"))
    described = describe(images, train)
    task = Task(images, described, train, BITS, SEED, 1)
    codes = federated(task, [train], default(images))(np.arange(len(images)))
    labels = images.labels.argmax(axis=1)
    centres = centres_beside_free(range(len(images.classes)), BITS, ClosedFormSection().free, SEED)
    names = [f"file {place}" for place in train]
    counts = count_codes(codes[train], images.labels[train], names, codes[val][:, None], least=_LEAST)
    codebook, reach = make_codebook(counts, range(len(images.classes)), centres)
    return Archive(
        name.split("_", maxsplit=1)[0], codes[train], labels[train], described[train],
        codes[query], labels[query], described[query], codebook, reach,
    )  # fmt: skip


def made(patches: int = 400, classes: int = 4, seed: int = 0) -> Archive:
    """Make an archive up: most codes of a class are its own, some a few bits away, and a few are mistaken."""
    rng = np.random.default_rng(seed)
    whole = patches + patches // 4
    labels = rng.integers(0, classes, whole)
    centres = rng.integers(0, 2, (classes, BITS)).astype(bool)
    seen = np.where(rng.random(whole) < 0.05, rng.integers(0, classes, whole), labels)
    free = np.arange(BITS) >= BITS - 4
    bits = centres[seen] ^ (rng.random((whole, BITS)) < np.where(free, 0.4, 0.02))
    codes, described = np.packbits(bits, axis=1), (bits - 0.5 + rng.normal(0, 0.3, bits.shape)).astype(np.float32)
    told = np.eye(classes, dtype=bool)[labels]
    names = [f"file {place}" for place in range(whole)]
    counts = count_codes(codes, told, names, codes[:50, None], least=_LEAST)
    codebook, reach = make_codebook(counts, range(classes), centres[:, : BITS - 4])
    here = slice(0, patches)
    rest = slice(patches, whole)
    return Archive(
        "made", codes[here], labels[here], described[here],
        codes[rest], labels[rest], described[rest], codebook, reach,
    )  # fmt: skip
