"""The order of items that tie: a keyed permutation, stable for one query, different between query codes.

Item-id order would show the oldest items for ever and leak the order of ingest. The permutation is a Feistel network
on the ranks of a bucket with cycle-walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), so any
part of the order is taken without the rest of the bucket. HMAC-SHA256 under the node's tie key seeds it; the round
function only has to spread the seed, because item handles hide the positions.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rsfed.index.jit import Int, kernel

Seeds = NDArray[np.uint64]
"""Seeds of permutations, uint64, shape (n, 4)."""
Ranks = NDArray[np.int64]
Order = Callable[[Seeds, Ranks, Ranks], Ranks]
"""Maps (seeds, sizes, ranks) to positions, each in [0, size); all of length n."""

_STEPS = np.array([0x9E3779B97F4A7C15 * number % 2**64 for number in range(6)], np.uint64)  # rounds' keys differ


def seeds(tie_key: bytes, release: bytes, epoch: int, query_code: bytes, parts: Sequence[bytes]) -> Seeds:
    """Return one seed for each part of an answer, for example for each bucket code.

    Args:
        tie_key: Secret of the node, 32 bytes.
        release: Digest of the release, 32 bytes.
        epoch: Number of the publication within the release.
        query_code: Packed code of the query.
        parts: Names of the parts; those of one query have one length for each kind of part.
    """
    prefix = release + epoch.to_bytes(8, "big") + len(query_code).to_bytes(2, "big") + query_code
    digests = b"".join(hmac.digest(tie_key, prefix + part, "sha256") for part in parts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 4)


@kernel
def keyed(seed: Seeds, sizes: Ranks, ranks: Ranks) -> Ranks:
    """Return the positions of these ranks in keyed order.

    Args:
        seed: Seed of the permutation that each rank belongs to, uint64, shape (n, 4).
        sizes: Number of positions of that permutation, at least 1, int64, shape (n,).
        ranks: Ranks, each in [0, size), int64, shape (n,).

    Returns:
        Positions, int64, shape (n,); over all ranks of one permutation each position comes once.
    """
    positions = np.empty(len(ranks), np.int64)
    for number in range(len(ranks)):
        positions[number] = position_of(seed[number], sizes[number], ranks[number])
    return positions


@kernel
def ranks_of(seed: NDArray[np.uint64], size: Int, positions: Ranks) -> Ranks:
    """Return the ranks of these positions of one permutation: `keyed` the other way round."""
    ranks = np.empty(len(positions), np.int64)
    for number in range(len(positions)):
        ranks[number] = rank_of(seed, size, positions[number])
    return ranks


@kernel
def position_of(seed: NDArray[np.uint64], size: Int, rank: Int) -> Int:
    """Return the position of one rank; seed has shape (4,)."""
    side = _side(size)
    value = _forward(seed, side, np.uint64(rank))
    while value >= np.uint64(size):
        value = _forward(seed, side, value)
    return np.int64(value)


@kernel
def rank_of(seed: NDArray[np.uint64], size: Int, position: Int) -> Int:
    """Return the rank of one position: `position_of` the other way round."""
    side = _side(size)
    value = _backward(seed, side, np.uint64(position))
    while value >= np.uint64(size):
        value = _backward(seed, side, value)
    return np.int64(value)


def by_item_id(seed: Seeds, sizes: Ranks, ranks: Ranks) -> Ranks:
    """Return the ranks as they are: the order of item ids, for comparison with an exact search only."""
    del seed, sizes
    return ranks


@kernel
def _side(size: Int) -> np.uint64:
    """Return the side of the smallest square that covers a bucket: it leaves little to walk."""
    return np.uint64(np.ceil(np.sqrt(size)))


@kernel
def _forward(seed: NDArray[np.uint64], side: np.uint64, value: np.uint64) -> np.uint64:
    """Permute the numbers in [0, side * side)."""
    left, right = value // side, value % side
    for number in range(len(_STEPS)):
        mixed = mix(right ^ (seed[number % 4] + _STEPS[number]))
        left, right = right, (left + mixed % side) % side
    return left * side + right


@kernel
def _backward(seed: NDArray[np.uint64], side: np.uint64, value: np.uint64) -> np.uint64:
    """Undo `_forward`."""
    left, right = value // side, value % side
    for number in range(len(_STEPS) - 1, -1, -1):
        mixed = mix(left ^ (seed[number % 4] + _STEPS[number]))
        left, right = (right + side - mixed % side) % side, left
    return left * side + right


@kernel
def mix(value: np.uint64) -> np.uint64:
    """Scatter a number over 64 bits, one to one: the finaliser of splitmix64 (Steele et al., 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
