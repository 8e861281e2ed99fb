"""What is attacked: the codes of an archive under a release, and what everybody knows of it.

Real ones are of `real`; made ones are for tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rsfed.codes import hamming, unpack
from rsfed.hashing.codebook import count_codes, make_codebook
from rsfed.trust.manifest import CodebookEntry

BITS = 32
_FREE = 3  # bits of made codes
LEAST = 5  # acquisitions of a class of the codebook


@dataclass(frozen=True)
class Archive:
    """Patches by place; each is an acquisition of its own.

    Attributes:
        name: What it is called in reports.
        codes: Packed codes, uint8, shape (n, bits // 8).
        labels: The class of each as its archive labels it, int64.
        features: What describes each, float32, shape (n, features).
        queries: Codes of images that are neither in the archive nor were trained on: what analysts ask with, and all
            that attackers have to learn from.
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
    def query_predicted(self):
        """The same of the images that are not in the archive."""
        return self.cell_classes[hamming(self.queries, self.cells).argmin(axis=1)]

    @property
    def bits(self):
        return unpack(self.codes).astype(bool)

    def part(self, places):
        """The same release over some of the patches."""
        return replace(self, codes=self.codes[places], labels=self.labels[places], features=self.features[places])


def made(patches: int, classes: int, *, noise: float = 0.004, seed: int = 0) -> Archive:
    """Make an archive up: most codes of a class are its own, some a few bits away, and a few are mistaken."""
    rng = np.random.default_rng(seed)
    whole = patches + patches // 4
    labels = rng.integers(0, classes, whole)
    centres = rng.integers(0, 2, (classes, BITS)).astype(bool)
    seen = np.where(rng.random(whole) < 0.05, rng.integers(0, classes, whole), labels)
    free = np.arange(BITS) >= BITS - _FREE
    bits = centres[seen] ^ (rng.random((whole, BITS)) < np.where(free, 0.45, noise))
    codes, described = np.packbits(bits, axis=1), (bits - 0.5 + rng.normal(0, 0.3, bits.shape)).astype(np.float32)
    told = np.eye(classes, dtype=bool)[labels]
    names = [f"file {place}" for place in range(whole)]
    public = centres[:, : BITS - _FREE]
    held_out = list(zip(codes[:50, None], told[:50, None], strict=True))
    counts = count_codes(codes, told, names, held_out, public, least=LEAST)
    codebook, reach = make_codebook([counts], range(classes), public)
    here = slice(0, patches)
    rest = slice(patches, whole)
    return Archive(
        "made", codes[here], labels[here], described[here],
        codes[rest], labels[rest], described[rest], codebook, reach,
    )  # fmt: skip
