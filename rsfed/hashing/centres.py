"""Hash centres: one fixed code for each class, far from all others, that every node computes alike.

Yuan et al., "Central similarity quantization for efficient image and video retrieval", CVPR 2020, take the rows of a
Hadamard matrix: any two differ in half of their bits, which no larger set of as many words can better by much
(Plotkin's bound), and half of the bits of each are set. Here follow their complements, as far from all but their own
row, and then words that a seeded search puts as far from all before them as it can.

Nothing is exchanged: centres follow from class ids, width and seed by SHA-2 and SHA-3 and integer arithmetic alone, so
they are the same on every platform and with every version of numpy. Classes take the words in the order of their ids:
a new class with the highest id of all leaves the centres of the others where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import TrainingError

LEAST_DISTANCE = 0.25  # of the bits, between two centres; nearer ones are not told apart reliably
_CANDIDATES = 1 << 15  # words that the search draws
_IMBALANCE = 0.25  # set bits less unset bits of a word that the search takes, at most; of the bits


def hash_centres(class_ids: Sequence[int], bits: int, seed: int) -> NDArray[np.bool_]:
    """Return the centre of each class.

    Args:
        class_ids: Stable ids of the classes, each once, in any order.
        bits: Width of the centres, 2 to 256.
        seed: Gives other centres of the same distances.

    Returns:
        bool, shape (classes, bits), in the order of `class_ids`.

    Raises:
        TrainingError: TOO_MANY_CLASSES, so many centres do not fit into codes of this width.
    """
    order = {class_id: rank for rank, class_id in enumerate(sorted(class_ids))}
    return _words(len(order), bits, seed)[[order[class_id] for class_id in class_ids]]


def centres_beside_free(class_ids: Sequence[int], bits: int, free: float, seed: int) -> NDArray[np.bool_]:
    """Return the centre of each class in codes that leave a share of their bits free: at least one, if any.

    Args:
        class_ids: As of `hash_centres`.
        bits: Width of the codes.
        free: Share of the bits.
        seed: As of `hash_centres`.

    Returns:
        bool, shape (classes, bits that are not free).

    Raises:
        TrainingError: TOO_MANY_CLASSES.
    """
    return hash_centres(class_ids, bits - (round(free * bits) or int(free > 0)), seed)


def least_distance(centres: NDArray[np.bool_]) -> int:
    """Return the least Hamming distance between two of the centres, bool, shape (at least 2, bits)."""
    signs = _signs(centres)
    distance = (centres.shape[1] - signs @ signs.T) / 2
    return int(distance[~np.eye(len(centres), dtype=np.bool_)].min())


@lru_cache(maxsize=16)
def _words(count: int, bits: int, seed: int) -> NDArray[np.bool_]:
    """Return the first words of the sequence of this width and seed, bool, shape (count, bits)."""
    matrix = next(found for order in range(bits, 2 * bits + 1) if (found := _hadamard(order)) is not None)
    order = len(matrix)
    rows = [1 + row for row in _shuffled(order - 1, f"{seed} {bits} rows")]  # row 0 is left out: all its bits are set
    columns = _shuffled(order, f"{seed} {bits} columns")[:bits]
    half = matrix[rows][:, columns] > 0
    words = np.concatenate([half, ~half])[:count]
    if count > len(words):
        words = np.concatenate([words, _search(words, count - len(words), seed)])
    return words


def _search(words: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.bool_]:
    """Return more words, each the candidate that is farthest from all words before it."""
    bits = words.shape[1]
    data = hashlib.shake_256(f"{seed} {bits} candidates".encode()).digest(-(-_CANDIDATES * bits // 8))
    drawn = np.unpackbits(np.frombuffer(data, np.uint8), count=_CANDIDATES * bits).reshape(-1, bits).astype(np.bool_)
    candidates = drawn[np.abs(2 * drawn.sum(axis=1) - bits) <= _IMBALANCE * bits]
    signs = _signs(candidates)
    likeness = (signs @ _signs(words).T).max(axis=1)  # to the nearest word: bits that agree, less those that differ
    found: list[NDArray[np.bool_]] = []
    for _ in range(count):
        best = int(likeness.argmin())
        if bits - likeness[best] < 2 * LEAST_DISTANCE * bits:
            raise TrainingError(
                f"codes of {bits} bits have room for the centres of {len(words) + len(found)} classes, not of "
                f"{len(words) + count}: take more bits, fewer classes or free bits, or another objective",
                reason="TOO_MANY_CLASSES",
            )
        found.append(candidates[best])
        likeness = np.maximum(likeness, signs @ signs[best])
    return np.array(found)


def _signs(words: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return 1 for set bits, else -1, in the type that multiplies fastest; sums of up to 256 of them are exact."""
    return np.where(words, 1, -1).astype(np.float32)


def _shuffled(count: int, purpose: str) -> list[int]:
    return sorted(range(count), key=lambda n: hashlib.sha256(f"{purpose} {n}".encode()).digest())


def _hadamard(order: int) -> NDArray[np.int16] | None:
    """Return a Hadamard matrix whose row 0 is all ones, or None where no simple construction has this order.

    Sylvester's doubling, and Paley's two constructions over the integers modulo a prime ("On orthogonal matrices",
    1933).
    """
    if order <= 2:
        return np.array([[1, 1], [1, -1]], np.int16)[:order, :order]
    if order % 4:
        return None
    matrix: NDArray[np.int16]
    if (half := _hadamard(order // 2)) is not None:
        matrix = np.block([[half, half], [half, -half]])
    elif _is_prime(order - 1):  # leaves 3 by 4, because the order is divisible by 4
        matrix = _paley(order - 1, -1) + np.eye(order, dtype=np.int16)
    elif _is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1:
        core, diagonal = _paley(order // 2 - 1, 1), np.eye(order // 2, dtype=np.int16)
        matrix = np.block([[core + diagonal, core - diagonal], [core - diagonal, -core - diagonal]])
    else:
        return None
    normalised: NDArray[np.int16] = matrix * matrix[0]
    return normalised


def _paley(prime: int, sign: int) -> NDArray[np.int16]:
    """Return the matrix of the quadratic residues with a border: 0 on the diagonal, else 1 or -1."""
    residues = {n * n % prime for n in range(1, prime)}
    character = np.array([0] + [1 if n in residues else -1 for n in range(1, prime)], np.int16)
    matrix = np.zeros((prime + 1, prime + 1), np.int16)
    matrix[0, 1:], matrix[1:, 0] = 1, sign
    matrix[1:, 1:] = character[np.subtract.outer(np.arange(prime), np.arange(prime)) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
