"""Stable sorting of codes: half a word at a time from the last to the first, so that items of one code stay in order.

Half a word with the place beneath it is one number, and no two of these are equal: numpy sorts numbers with the vector
instructions of the machine, whatever their order means, faster than any loop that moves keys and places apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsfed.index.jit import Int, kernel
from rsfed.index.words import Words

Rows = NDArray[np.uint32]
"""Places of items or codes in an array, uint32."""

_HALF, _PLACE = np.uint64(32), np.uint64(2**32 - 1)


def sort_words(words: Words) -> Rows:
    """Return the order that sorts codes; equal ones keep their order. uint32, shape (n,).

    Halves that all codes share cost little, so short keys sort faster.
    """
    order = np.arange(len(words), dtype=np.uint32)
    for word in range(words.shape[1] - 1, -1, -1):
        for skipped in (_HALF, np.uint64(0)):
            numbers, differ = _numbered(words, word, skipped, order)
            if differ:
                numbers.sort()
                order = _placed(numbers, order)
    return order


@kernel
def _numbered(words: Words, word: Int, skipped: np.uint64, order: Rows) -> tuple[NDArray[np.uint64], bool]:
    """Return half of one word of each code above its place in the order so far, and whether these halves differ."""
    numbers = np.empty(len(order), np.uint64)
    differ = np.uint64(0)
    for place in range(np.uint64(len(order))):
        half = words[order[place], word] << skipped
        numbers[place] = half & ~_PLACE | place
        differ |= numbers[place] ^ numbers[0]
    return numbers, bool(differ > _PLACE)


@kernel
def _placed(numbers: NDArray[np.uint64], order: Rows) -> Rows:
    """Return an order in the order of the numbers, which hold places in it."""
    placed = np.empty_like(order)
    for row in range(np.uint64(len(order))):
        placed[row] = order[numbers[row] & _PLACE]
    return placed


@kernel
def group(words: Words, order: Rows) -> tuple[Words, Rows]:
    """Return the distinct codes in order, and where the items of each start in `order`, with the end of the last."""
    starts = np.empty(len(order) + 1, np.uint32)
    distinct = 0
    for place in range(len(order)):
        if place == 0 or _differ(words, order[place], order[place - 1]):
            starts[distinct] = place
            distinct += 1
    starts[distinct] = len(order)
    codes = np.empty((distinct, words.shape[1]), np.uint64)
    for row in range(distinct):
        for word in range(words.shape[1]):
            codes[row, word] = words[order[starts[row]], word]
    return codes, starts[: distinct + 1].copy()


@kernel
def _differ(words: Words, one: Int, other: Int) -> bool:
    same = True
    for word in range(words.shape[1]):
        same &= words[one, word] == words[other, word]
    return not same
