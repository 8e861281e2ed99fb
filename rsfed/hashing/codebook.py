"""The codebook of a release: the code that stands for each class, from counts of the nodes' own codes.

Hash centres are public, but leave bits free, and some objectives have none. So archives count, beside what they count
for calibration, how often each bit is set in the codes of each class; whoever sums the counts takes the majority. An
acquisition counts as one, however many patches it has, and classes of few acquisitions are left out of the counts. How
far held-out patches of the other classes lie from the class codes of their own archive tells how far a query may be
from its cell: the median over archives, so that none decides it alone, and at most three quarters of the least distance
between classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, hamming, unpack
from rsfed.errors import InvalidMessage
from rsfed.hashing.payload import Arrays
from rsfed.trust.manifest import MOST_VARIED, CodebookEntry

MOST_ACQUISITIONS = 500.0  # of one node and class; more are scaled down
WITHIN = 0.98  # of the held-out patches of most archives lie within the reach of a codebook
MOST_OF_WAY = 0.75  # to the next class: patches of several classes lie about half-way
_ROUNDING = 1e-4  # by which float32 totals may be off
_SET, _BEHIND, _DISTANCES = "code-bits", "code-acquisitions", "code-distances"
ARRAYS_OF_CODES = frozenset({_SET, _BEHIND, _DISTANCES})

Counts = NDArray[np.float64]
Centres = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CodeCounts:
    """What a node counts of its codes.

    Attributes:
        set_bits: For each class and bit the shares of patches in which it is set, added over acquisitions, float64,
            shape (classes, bits).
        acquisitions: That each class rests on, float64, shape (classes,); 0 where it was left out.
        distances: Held-out acquisitions by the distance of their patches of counted classes from the nearest class code
            of the node, each acquisition with shares that add up to 1, float64, shape (bits + 1,).
    """

    set_bits: Counts
    acquisitions: Counts
    distances: Counts


def count_codes(  # noqa: PLR0913 - labelled codes, what they are held against, and from how many a class is counted
    codes: Codes,
    labels: NDArray[np.bool_],
    acquisitions: Sequence[str],
    held_out: Collection[tuple[Codes, NDArray[np.bool_]]],
    centres: Centres | None,
    *,
    least: int,
) -> CodeCounts:
    """Count the codes of labelled patches.

    Args:
        codes: Packed codes, uint8, shape (n, bits // 8).
        labels: bool, shape (n, classes).
        acquisitions: That of each patch.
        held_out: Codes and labels of labelled patches that were not trained on, a pair for each acquisition.
        centres: As for `make_codebook`: distances are those from the codebook, as far as one archive can tell it.
        least: Distinct acquisitions that a class has to be of.
    """
    bits = unpack(codes)
    numbers = np.unique(np.asarray(acquisitions, dtype=str), return_inverse=True)[1]
    classes, width = labels.shape[1], bits.shape[1]
    set_bits, behind = np.zeros((classes, width)), np.zeros(classes)
    for column in range(classes):
        chosen = np.flatnonzero(labels[:, column])
        distinct, groups, sizes = np.unique(numbers[chosen], return_inverse=True, return_counts=True)
        if len(distinct) < least:
            continue
        weight = min(1.0, MOST_ACQUISITIONS / len(distinct))
        set_bits[column] = (weight / sizes[groups]) @ bits[chosen]
        behind[column] = weight * len(distinct)
    known = behind > 0
    own = np.packbits(_class_codes(set_bits[known] / behind[known, None], _of(centres, known)), axis=1)
    distances = np.zeros(width + 1)
    counted = [group[told[:, known].any(axis=1)] for group, told in held_out]
    counted = [group for group in counted if len(group)]
    for group in counted:
        distances += np.bincount(hamming(group, own).min(axis=1), minlength=width + 1) / len(group)
    return CodeCounts(set_bits, behind, distances * min(1.0, MOST_ACQUISITIONS / max(1, len(counted))))


def to_arrays(counts: CodeCounts) -> Arrays:
    """Return counts as the arrays that travel."""
    return {
        _SET: counts.set_bits.astype(np.float32),
        _BEHIND: counts.acquisitions.astype(np.float32),
        _DISTANCES: counts.distances.astype(np.float32),
    }


def from_arrays(arrays: Mapping[str, NDArray[np.float32]], classes: int, bits: int) -> CodeCounts:
    """Read counts that a node sent, trusting nothing.

    Raises:
        InvalidMessage: CODEBOOK_FORM, or CODEBOOK_COUNTS (they cannot be, or are more than a node may give).
    """
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    forms = {_SET: (classes, bits), _BEHIND: (classes,), _DISTANCES: (bits + 1,)}
    if shapes != {name: (shape, np.dtype(np.float32)) for name, shape in forms.items()}:
        raise InvalidMessage("the counts of codes have another form", reason="CODEBOOK_FORM")
    set_bits, behind, distances = (arrays[name].astype(np.float64) for name in forms)
    most = (1 + _ROUNDING) * behind[:, None]
    possible = (
        bool(np.isfinite(set_bits).all() and np.isfinite(behind).all() and np.isfinite(distances).all())
        and bool(((set_bits >= 0) & (set_bits <= most)).all())
        and bool(((behind >= 0) & (behind <= MOST_ACQUISITIONS)).all())
        and bool((distances >= 0).all())
        and float(distances.sum()) <= (1 + _ROUNDING) * MOST_ACQUISITIONS
    )
    if not possible:
        raise InvalidMessage("the counts of codes cannot be right", reason="CODEBOOK_COUNTS")
    return CodeCounts(set_bits, behind, distances)


def make_codebook(
    counts: Sequence[CodeCounts], class_ids: Sequence[int], centres: Centres | None
) -> tuple[tuple[CodebookEntry, ...], int]:
    """Return the entries of a codebook, and its reach: how far from the nearest of them most queries lie, in bits.

    Neither depends on the order of the nodes.

    Args:
        counts: The counts of each node, of at least one.
        class_ids: Ids of the classes, in the order of the counts.
        centres: Hash centres of the classes, the first bits of their codes whatever was counted, shape (classes, bits
            that are not free); None where the objective has none.
    """
    fixed = 0 if centres is None else centres.shape[1]
    entries: dict[bytes, CodebookEntry] = {}
    acquisitions = _total([each.acquisitions for each in counts])
    known = acquisitions > 0
    shares = _total([each.set_bits for each in counts])[known] / acquisitions[known, None]
    codes = _class_codes(shares, _of(centres, known))
    for column, share, code in zip(np.flatnonzero(known).tolist(), shares, codes, strict=True):
        varied = fixed + np.argsort(np.abs(share[fixed:] - 1 / 2), kind="stable")[:MOST_VARIED]
        packed = np.packbits(code).tobytes()
        entry = CodebookEntry(class_id=class_ids[column], code=packed.hex(), varied=tuple(varied.tolist()))
        entries.setdefault(packed, entry)  # two classes of one code are one cell
    distinct = np.frombuffer(b"".join(entries), np.uint8).reshape(len(entries), codes.shape[1] // 8)
    return tuple(entries.values()), _reach([each.distances for each in counts], distinct)


def _total(arrays: Sequence[Counts]) -> Counts:
    total: Counts = np.sort(np.stack(arrays), axis=0).sum(axis=0)
    return total


def _class_codes(shares: Counts, centres: Centres | None) -> NDArray[np.bool_]:
    """Return the code of each class, shape (classes, bits): its centre, and of other bits what most codes have."""
    codes = shares > 1 / 2
    if centres is not None:
        codes[:, : centres.shape[1]] = centres
    return codes


def _of(centres: Centres | None, classes: NDArray[np.bool_]) -> Centres | None:
    return None if centres is None else centres[classes]


def _reach(distances: Sequence[Counts], classes: Codes) -> int:
    """Return the distance within which the share `WITHIN` lies, at most `MOST_OF_WAY` of the least one between classes.

    Args:
        distances: Those that each node measured; the node in the middle of those that measured any decides.
        classes: Distinct codes of classes.
    """
    width = len(distances[0]) - 1
    measured = [int(np.searchsorted(np.cumsum(each), WITHIN * each.sum())) for each in distances if each.any()]
    between = hamming(classes, classes)[~np.eye(len(classes), dtype=np.bool_)]
    return min(median_low(measured or [width]), int(MOST_OF_WAY * between.min(initial=2 * width)))
