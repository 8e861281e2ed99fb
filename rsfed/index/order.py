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

Seeds = NDArray[np.uint64]
"""Seeds of permutations, uint64, shape (n, 4)."""
Ranks = NDArray[np.int64]
Order = Callable[[Seeds, Ranks, Ranks], Ranks]
"""Maps (seeds, sizes, ranks) to positions, each in [0, size); all of length n."""

_STEPS = tuple(np.uint64(0x9E3779B97F4A7C15 * number % 2**64) for number in range(6))  # make the rounds' keys differ
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64


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


def keyed(seed: Seeds, sizes: Ranks, ranks: Ranks) -> Ranks:
    """Return the positions of these ranks in keyed order.

    Args:
        seed: Seed of the permutation that each rank belongs to, uint64, shape (n, 4).
        sizes: Number of positions of that permutation, at least 1, int64, shape (n,).
        ranks: Ranks, each in [0, size), int64, shape (n,).

    Returns:
        Positions, int64, shape (n,); over all ranks of one permutation each position comes once.
    """
    side = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    positions = ranks.astype(np.uint64)
    walking = np.flatnonzero(sizes > 1)
    while len(walking):
        positions[walking] = _feistel(seed[walking], side[walking], positions[walking])
        walking = walking[positions[walking] >= sizes[walking].astype(np.uint64)]
    return positions.astype(np.int64)


def by_item_id(seed: Seeds, sizes: Ranks, ranks: Ranks) -> Ranks:
    """Return the ranks as they are: the order of item ids, for comparison with an exact search only."""
    del seed, sizes
    return ranks


def _feistel(seed: Seeds, side: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Permute values in [0, side * side); the smallest square that covers a bucket leaves little to walk."""
    left, right = values // side, values % side
    for number, step in enumerate(_STEPS):
        mixed = mix(right ^ (seed[:, number % 4] + step))
        left, right = right, (left + mixed % side) % side
    return left * side + right


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter numbers over 64 bits, one to one: the finaliser of splitmix64 (Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
