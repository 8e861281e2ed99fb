"""Which sources of an archive may be of its modality."""

from __future__ import annotations

from collections.abc import Iterable

from rsfed.raster.layout import Candidate, Skipped
from rsfed.raster.modality import Modality

Entries = tuple[list[Candidate], list[Skipped]]
"""What is taken up, and what is not."""


def fitting(entries: Iterable[Candidate | Skipped], kind: Modality) -> Entries:
    """Return what of an archive may be of its modality, and what is not taken up.

    All products of other bands are one entry: in a data set of pairs they are as many as the others.
    """
    candidates: list[Candidate] = []
    problems: list[Skipped] = []
    foreign: list[str] = []
    for entry in entries:
        if isinstance(entry, Skipped):
            problems.append(entry)
        elif _may_be(entry, kind):
            candidates.append(entry)
        else:
            foreign.append(entry.name)
    if foreign:
        which = f"it and {len(foreign) - 1:,} more products have" if len(foreign) > 1 else "it has"
        problems.append(
            Skipped(foreign[0], f"{which} no band of modality {kind.name}; search such products by a node of their own")
        )
    return candidates, problems


def _may_be(candidate: Candidate, kind: Modality) -> bool:
    product = candidate.product
    return product is None or not product.bands_told or any(band in product.bands for band in kind.bands)
