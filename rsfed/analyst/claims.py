"""What a node said of an item when it listed it, held against the code of the image that its operator released.

A node that lies about codes takes what places of rankings it likes, and nobody sees it before an image is released. So
the home keeps beside every handle what was claimed, and the code of a crop or file is computed anew. A quicklook shows
too little of an image for that. Pure rules.

- `partner`: the distance of the item's code from the query's.
- `guarded`: the band of the distance between their cells. Whether a class has one cell or several is the node's choice.
- `catalogue`: the bucket. Its items are of the class that its middle is of, but for those of a class that has too few
  acquisitions for a bucket: where no bucket is of the item's class, nothing can be told.

An image is decoded and cut on its way, and computed on another machine: an eighth of the bits may differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, hamming
from rsfed.privacy.cells import Cells
from rsfed.trust.manifest import CodebookEntry

_SLACK = 8  # one of so many bits may differ
_PER_CLASS = (1, 2, 4, 8)  # cells of a class that a node may have chosen


class Verdict(StrEnum):
    """What an image says of a claim."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNCHECKED = "unchecked"  # nothing can be told
    FORGIVEN = "forgiven"  # broken, and believed again all the same


@dataclass(frozen=True, slots=True)
class Claim:
    """What a node said of one item.

    Attributes:
        release: Digest of the release that made the codes, hexadecimal.
        encoder: Which of its encoders did.
        level: Policy level of the answer.
        code: Of the query, or in the middle of the item's bucket at `catalogue`, hexadecimal.
        distance: Of the item from the query, or the upper edge of its band; None at `catalogue`.
        classes: At `catalogue`, the places in the codebook of the classes that buckets are of.
    """

    release: str
    encoder: str
    level: str
    code: str
    distance: int | None = None
    classes: tuple[int, ...] = ()

    def to_text(self) -> str:
        """Return it as the home keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return what `to_text` gave."""
        values = json.loads(text)
        return cls(**values | {"classes": tuple(values["classes"])})


def judge(claim: Claim, codes: Codes, codebook: Sequence[CodebookEntry]) -> Verdict:
    """Hold a claim against an image.

    Args:
        claim: The claim.
        codes: Code of each patch of the image, uint8, shape (n, bits // 8); one that fits is enough, because a file
            may have more patches than the one that was listed.
        codebook: Of the release.
    """
    said = np.frombuffer(bytes.fromhex(claim.code), np.uint8)
    if not len(codes) or said.shape != codes.shape[1:] or (claim.level != "partner" and not codebook):
        return Verdict.UNCHECKED
    if claim.level == "catalogue":
        return _by_bucket(claim, said, codes, codebook)
    if claim.level == "partner":
        held = abs(hamming(said[None], codes)[0].astype(np.int64) - (claim.distance or 0)) <= _slack(codes)
        return Verdict.HOLDS if held.any() else Verdict.BROKEN
    held_by = any(_in_band(claim, said, codes, Cells.of(codebook, 0, per_class=count)) for count in _PER_CLASS)
    return Verdict.HOLDS if held_by else Verdict.BROKEN


def covered(middles: Codes, codebook: Sequence[CodebookEntry]) -> tuple[int, ...]:
    """Return the places in the codebook of the classes that the buckets of a catalogue are of."""
    if not codebook or not len(middles):
        return ()
    return tuple(np.unique(Cells.of(codebook, 0).nearest(middles)[0]).tolist())


def _by_bucket(claim: Claim, middle: Codes, codes: Codes, codebook: Sequence[CodebookEntry]) -> Verdict:
    cells = Cells.of(codebook, 0)
    of_bucket = int(cells.nearest(middle[None])[0][0])
    own = [set(np.flatnonzero(each).tolist()) for each in _possible(cells, codes)]
    if any(of_bucket in classes for classes in own):
        return Verdict.HOLDS
    return Verdict.BROKEN if all(classes & set(claim.classes) for classes in own) else Verdict.UNCHECKED


def _in_band(claim: Claim, query: Codes, codes: Codes, cells: Cells) -> bool:
    from_cell = hamming(cells.codes[cells.nearest(query[None])[0]], cells.codes)[0].astype(np.int64)
    upper = from_cell // cells.band_width * cells.band_width + cells.band_width - 1
    told = np.minimum(upper, 8 * cells.codes.shape[1]) == claim.distance
    return bool((_possible(cells, codes) & told).any())


def _possible(cells: Cells, codes: Codes) -> NDArray[np.bool_]:
    """Return the cells that each code may be in, give or take what may differ, shape (n, cells)."""
    distances = hamming(codes, cells.codes).astype(np.int64)
    near: NDArray[np.bool_] = distances <= distances.min(axis=1, keepdims=True) + 2 * _slack(codes)
    return near


def _slack(codes: Codes) -> int:
    return max(1, 8 * int(codes.shape[1]) // _SLACK)
