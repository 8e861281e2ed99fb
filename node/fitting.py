"""Which sources of an archive may be of its modality."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rsfed.raster.layout import Candidate, Skipped
from rsfed.raster.modality import Modality


def fitting(entries: Iterable[Candidate | Skipped], kind: Modality) -> Iterator[Candidate | Skipped]:
    """Yield what of an archive may be of its modality, and what is not taken up.

    All products of other bands are one entry, the last: in a data set of pairs they are as many as the others.
    """
    first, foreign = "", 0
    for entry in entries:
        if isinstance(entry, Skipped) or _may_be(entry, kind):
            yield entry
        else:
            first, foreign = first or entry.name, foreign + 1
    if foreign:
        which = f"it and {foreign - 1:,} more products have" if foreign > 1 else "it has"
        yield Skipped(first, f"{which} no band of modality {kind.name}; search such products by a node of their own")


def _may_be(candidate: Candidate, kind: Modality) -> bool:
    product = candidate.product
    return product is None or not product.bands_told or any(band in product.bands for band in kind.bands)
