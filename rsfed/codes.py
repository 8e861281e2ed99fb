"""Binary codes: packing, distance, and the rules for their width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import CodeError

MIN_BITS = 16
MAX_BITS = 256

Ids = NDArray[np.int64]
"""Ids of items, int64, shape (n,)."""

Codes = NDArray[np.uint8]
"""Packed codes, uint8, shape (n, bits // 8); bit 0 is the highest bit of byte 0."""


def check_bits(bits: int) -> int:
    """Return `bits` if it is a width that codes may have.

    Raises:
        CodeError: bits is not a multiple of 8 from 16 to 256.
    """
    if bits % 8 or not MIN_BITS <= bits <= MAX_BITS:
        raise CodeError(f"codes have {MIN_BITS} to {MAX_BITS} bits, a multiple of 8; got {bits}")
    return bits


def pack(binary: NDArray[np.bool_]) -> Codes:
    """Pack binary digits to codes.

    Args:
        binary: bool, shape (n, bits).

    Returns:
        Packed codes, uint8, shape (n, bits // 8).

    Raises:
        CodeError: bits is not a width that codes may have.
    """
    check_bits(binary.shape[1])
    return np.packbits(binary, axis=1)


def unpack(codes: Codes) -> NDArray[np.bool_]:
    """Return the binary digits of packed codes, bool, shape (n, bits)."""
    return np.unpackbits(codes, axis=1).astype(np.bool_)


def from_bytes(data: bytes, bits: int) -> Codes:
    """Return the codes that lie one after the other in `data`.

    Raises:
        CodeError: data does not hold a whole number of codes of this width.
    """
    width = check_bits(bits) // 8
    if len(data) % width:
        raise CodeError(f"expected codes of {bits} bits; got {len(data)} bytes, not a multiple of {width}")
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, width)


def hamming(a: Codes, b: Codes) -> NDArray[np.uint16]:
    """Pairwise Hamming distance.

    Args:
        a: Packed codes, uint8, shape (n, bits // 8).
        b: Packed codes, uint8, shape (m, bits // 8), same width as a.

    Returns:
        Distances in bits, shape (n, m), each in [0, bits].

    Raises:
        CodeError: a and b differ in width.
    """
    if a.shape[1] != b.shape[1]:
        raise CodeError(f"codes of {a.shape[1] * 8} and {b.shape[1] * 8} bits cannot be compared")
    wide_a, wide_b = _as_words(a), _as_words(b)
    distance = np.zeros((len(a), len(b)), dtype=np.uint16)
    for word in range(wide_a.shape[1]):
        distance += np.bitwise_count(wide_a[:, word, None] ^ wide_b[None, :, word])
    return distance


def _as_words(codes: Codes) -> NDArray[np.unsignedinteger]:
    """View packed codes as the widest words that divide them: fewer, larger operations."""
    width = codes.shape[1]
    dtype = next(d for d in (np.uint64, np.uint32, np.uint16, np.uint8) if width % np.dtype(d).itemsize == 0)
    return np.ascontiguousarray(codes).view(dtype)
