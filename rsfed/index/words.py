"""Packed codes as 64-bit words, which compare and sort as the codes do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes
from rsfed.errors import CodeError
from rsfed.index.jit import Int, inlined, kernel
from rsfed.index.order import mix

Words = NDArray[np.uint64]
"""Codes as big-endian words filled up with zeros, uint64, shape (n, words); bit 0 is the highest of word 0."""


def to_words(codes: Codes, bits: int) -> Words:
    """Return packed codes as words.

    Args:
        codes: uint8, shape (n, bits // 8).
        bits: Width that the codes have to have.

    Raises:
        CodeError: the codes have another width.
    """
    if codes.ndim != 2 or codes.shape[1] * 8 != bits:
        raise CodeError(f"the index holds codes of {bits} bits; got {codes.shape[-1] * 8}")
    padded = np.zeros((len(codes), -(-bits // 64) * 8), dtype=np.uint8)
    padded[:, : bits // 8] = codes
    return padded.view(">u8").astype(np.uint64)


def from_words(words: Words, bits: int) -> Codes:
    """Return words as packed codes, uint8, shape (n, bits // 8)."""
    return np.ascontiguousarray(words.astype(">u8").view(np.uint8)[:, : bits // 8])


@inlined
def piece(code: Words, first: Int, width: Int) -> np.uint64:
    """Return the bits [first, first + width) of one code as a number; a width is 1 to 63."""
    word, skip = first // 64, first % 64
    bits = code[word] << np.uint64(skip)
    if skip + width > 64:
        bits |= code[word + 1] >> np.uint64(64 - skip)
    return np.uint64(bits >> np.uint64(64 - width))


@kernel
def row_of(words: Words, code: Words) -> Int:
    """Return the row of one code, uint64, shape (words,), among sorted distinct ones; -1 where it is not there."""
    low, high = 0, len(words)
    while low < high:
        middle = (low + high) // 2
        order = _compare(words[middle], code)
        if order == 0:
            return middle
        low, high = (middle + 1, high) if order < 0 else (low, middle)
    return -1


@kernel
def _compare(one: Words, other: Words) -> Int:
    for word in range(len(one)):
        if one[word] != other[word]:
            return -1 if one[word] < other[word] else 1
    return 0


@kernel
def marked(words: Words, sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number below 0 for each code and sum, int64: 31 bits of the code's hash and the lowest 32 of the sum."""
    marks = np.empty(len(words), np.int64)
    for number in range(len(words)):
        scattered = np.uint64(0)
        for word in range(words.shape[1]):
            scattered = mix(scattered ^ words[number, word])
        high = (scattered | np.uint64(1 << 63)) & ~np.uint64(0xFFFFFFFF)
        marks[number] = np.int64(high | (np.uint64(sums[number]) & np.uint64(0xFFFFFFFF)))
    return marks
