"""Stable sorting of codes: least significant digit first, so that items of one code stay in the order they came."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsfed.index.jit import Int, kernel
from rsfed.index.words import Words

Rows = NDArray[np.uint32]
"""Places of items or codes in an array, uint32."""

_DIGIT = 8  # bits; wider digits leave the cache


@kernel
def sort_words(words: Words) -> Rows:
    """Return the order that sorts codes; equal ones keep their order. uint32, shape (n,)."""
    order = np.arange(len(words)).astype(np.uint32)
    for word in range(words.shape[1] - 1, -1, -1):
        keys = np.empty(len(words), np.uint64)
        for place in range(len(words)):
            keys[place] = words[order[place], word]
        order = sort_keys(keys, order)
    return order


@kernel
def sort_keys(keys: NDArray[np.uint64], order: Rows) -> Rows:
    """Return `order` sorted by `keys`, the key of each of its entries; equal keys keep their order.

    Digits that all keys share cost nothing, so short keys sort faster.
    """
    counts = np.zeros((8, 256), np.int64)
    for key in keys:
        for digit in range(8):
            counts[digit, (key >> np.uint64(8 * digit)) & np.uint64(255)] += 1
    spare_keys, spare_order = np.empty_like(keys), np.empty_like(order)
    for digit in range(8):
        if counts[digit].max() == len(keys):
            continue
        ends = np.cumsum(counts[digit])
        places = ends - counts[digit]
        shift = np.uint64(8 * digit)
        for row in range(len(keys)):
            value = (keys[row] >> shift) & np.uint64(255)
            place = places[value]
            places[value] = place + 1
            spare_keys[place] = keys[row]
            spare_order[place] = order[row]
        keys, spare_keys = spare_keys, keys
        order, spare_order = spare_order, order
    return order


@kernel
def group(words: Words, order: Rows) -> tuple[Words, Rows]:
    """Return the distinct codes in order, and where the items of each start in `order`, with the end of the last."""
    distinct = 0
    for place in range(len(order)):
        if place == 0 or _differ(words, order[place], order[place - 1]):
            distinct += 1
    codes = np.empty((distinct, words.shape[1]), np.uint64)
    starts = np.empty(distinct + 1, np.uint32)
    row = 0
    for place in range(len(order)):
        if place == 0 or _differ(words, order[place], order[place - 1]):
            codes[row] = words[order[place]]
            starts[row] = place
            row += 1
    starts[row] = len(order)
    return codes, starts


@kernel
def _differ(words: Words, one: Int, other: Int) -> bool:
    same = True
    for word in range(words.shape[1]):
        same &= words[one, word] == words[other, word]
    return not same
