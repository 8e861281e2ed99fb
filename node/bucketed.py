"""The items behind the buckets of a node's catalogue that refine may list, as the database keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype([("encoder", "<u2"), ("bucket", "<u4"), ("id", "<i8"), ("acquisition", "<u8"), ("content", "<i8")])
"""One item: the encoder by its place among the names, its bucket, and by what it is known when it comes back."""
Rows = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Bucketed:
    """The items of one publication; withdrawn ones stay until the next, so that nobody notices when they go.

    Attributes:
        epoch: Number of the publication.
        floor: Acquisitions of each bucket at least.
        encoders: Names of the encoders, in order.
        rows: The items, by encoder and bucket.
    """

    epoch: int
    floor: int
    encoders: tuple[str, ...]
    rows: Rows

    @classmethod
    def read(cls, epoch: int, floor: int, encoders: tuple[str, ...], kept: bytes) -> Self | None:
        """Return what the database kept; None where that is nothing."""
        return cls(epoch, floor, encoders, np.frombuffer(kept, ROW)) if kept else None

    def of(self, encoder: str, bucket: int) -> Rows:
        """Return the items of a bucket; none where there is no such bucket."""
        own = self.rows[slice(*np.searchsorted(self.rows["encoder"], self._range(encoder)))]
        return own[slice(*np.searchsorted(own["bucket"], (bucket, bucket + 1)))]

    def _range(self, encoder: str) -> tuple[int, int]:
        place = self.encoders.index(encoder) if encoder in self.encoders else len(self.encoders)
        return place, place + 1


def content_number(digest: str) -> int:
    """Return by what a content is known: 64 bits of its digest, so that it is known again under another item id."""
    return int.from_bytes(bytes.fromhex(digest)[:8], "little", signed=True)
