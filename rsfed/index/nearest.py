"""The distinct codes near a query: every one up to the distance of the k-th item, or within a radius.

Multi-index hashing (Norouzi et al., arXiv 1307.2982) over distinct codes. The tables are probed by rising distance
of one piece; once s bits of every piece up to piece t were tried, every code within m * s + t bits is known, and the
search stops as soon as that reaches the distance of the k-th item, counted by the items behind each code. Where that
would cost more than to compare all codes, all codes are compared: both ways find exactly the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsfed.index.jit import Int, kernel, ones
from rsfed.index.sorting import Rows
from rsfed.index.tables import Tables
from rsfed.index.words import Words, piece

Numbers = NDArray[np.int64]
Found = Numbers
"""Distinct codes with their distances as distance << 32 | row, so that they sort by distance, then by code."""

_PROBE, _CANDIDATE, _COMPARED = 10.0, 1.5, 0.25  # nanoseconds, relative to each other: what decides for a scan
_CHEAP = 2  # flipped bits: up to here all probes together take a few microseconds
_BLOCK = 64  # codes that a scan looks at before it asks whether any is near
_BATCH = 64  # slots that are read before any is looked into, so that memory is asked for all of them at once
_BOUND, _WITHIN, _LENGTH = 0, 1, 2  # in `state`


@kernel
def nearest(
    words: Words,
    starts: Rows,
    gone: Rows,
    tables: Tables,
    query: Words,
    bits: Int,
    k: Int,
    limit: Int,
) -> tuple[Numbers, Numbers, Numbers]:
    """Find every distinct code up to the distance of the k-th nearest item, and no farther than `limit`.

    Args:
        words: Distinct codes in order, uint64, shape (n, words).
        starts: Where the items of each code start, uint32, shape (n + 1,).
        gone: Places of items that do not count, uint32, rising.
        tables: Hash tables over the codes.
        query: The query code, uint64, shape (words,).
        bits: Width of the codes.
        k: How many items are wanted.
        limit: Largest distance.

    Returns:
        Rows of the codes, int64, by rising distance, then by rising code; their distances, int64; how many items of
        each count, int64.
    """
    found = np.empty(max(1024, min(16 * k, 2**17)), np.int64)
    state = np.array([limit, 0, 0])  # no code above this distance is wanted; items up to it; codes that were kept
    _find(words, starts, gone, tables, query, np.zeros(bits + 1, np.int64), k, state, found)
    if state[_LENGTH] > len(found):  # now the distance is known: once more, with room for all that lies within it
        found = np.empty(state[_LENGTH], np.int64)
        state[1:] = 0
        _find(words, starts, gone, tables, query, np.zeros(bits + 1, np.int64), k, state, found)
    return _split(starts, gone, np.sort(_up_to(found, state[_LENGTH], state[_BOUND])))


@kernel
def _find(
    words: Words,
    starts: Rows,
    gone: Rows,
    tables: Tables,
    query: Words,
    weights: NDArray[np.int64],
    k: Int,
    state: NDArray[np.int64],
    found: Found,
) -> None:
    """Probe, or scan where that is cheaper. `found` is never replaced in a loop: counting references costs more."""
    if _probe(words, starts, gone, tables, query, k, weights, state, found):
        return
    weights[:] = 0
    state[1:] = 0
    if words.shape[1] == 1:
        _scan_short(words.reshape(-1), starts, gone, query[0], k, weights, state, found)
    else:
        _scan_long(words, starts, gone, query, k, weights, state, found)


@kernel
def live(starts: Rows, gone: Rows, row: Int) -> Int:
    """Return how many items of a code count."""
    size = np.int64(starts[row + 1]) - np.int64(starts[row])
    if len(gone):
        size -= below(gone, starts[row + 1]) - below(gone, starts[row])
    return size


@kernel
def below(values: NDArray[np.integer], value: Int) -> Int:
    """Return how many of the rising values lie below a value."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _probe(
    words: Words,
    starts: Rows,
    gone: Rows,
    tables: Tables,
    query: Words,
    k: Int,
    weights: NDArray[np.int64],
    state: NDArray[np.int64],
    found: Found,
) -> bool:
    """Probe the tables; return whether that was cheaper than a scan, so that it is complete."""
    spans = tables.spans
    batch = np.empty((3, _BATCH), np.int64)
    difference = np.empty(words.shape[1], np.uint64)
    left = _COMPARED * words.size  # what a scan costs
    for flipped in range(64):
        for table in range(len(spans)):
            width = spans[table, 1]
            cost = _PROBE + _CANDIDATE * len(words) / (1 << width)
            if left < cost * _ahead(width, len(spans), flipped, table, k, state):
                return False
            left -= _PROBE * _choose(width, flipped)
            own = piece(query, spans[table, 0], width)
            flip = np.uint64((1 << flipped) - 1)
            while flip >> np.uint64(width) == 0:
                count, flip = _slots(spans[table], own, flip, batch)
                left -= _CANDIDATE * _fetch(tables, words, table, batch, count)
                for number in range(count):
                    for place in range(batch[0, number], batch[1, number]):
                        distance: Int
                        if words.shape[1] == 1:
                            code = tables.copies[table - 1, place] if table else words[place, 0]
                            difference[0] = code ^ query[0]
                            distance = np.int64(ones(difference[0]))
                        else:
                            row = np.int64(tables.orders[table - 1, place] if table else place)
                            distance = _differ(words, row, query, difference)
                        if distance <= state[_BOUND] and _first_seen(difference, spans, table, flipped):
                            row = np.int64(tables.orders[table - 1, place] if table else place)
                            _keep(distance, row, live(starts, gone, row), k, weights, state, found)
            if len(spans) * flipped + table >= state[_BOUND]:
                return True
    return False


@kernel
def _slots(span: NDArray[np.int64], own: np.uint64, flip: np.uint64, batch: NDArray[np.int64]) -> tuple[Int, np.uint64]:
    """Write the next slots of a table; return how many, and the flipped bits that follow."""
    count = 0
    while count < _BATCH and flip >> np.uint64(span[1]) == 0:
        batch[0, count] = span[2] + np.int64(own ^ flip)
        count += 1
        flip = _next(flip) if flip else np.uint64(1) << np.uint64(span[1])
    return count, flip


@kernel
def _fetch(tables: Tables, words: Words, table: Int, batch: NDArray[np.int64], count: Int) -> Int:
    """Replace slots by the places where their codes start and end; return how many codes there are.

    The loops have no branch that hangs on what they read, so that the memory is asked for the next slot before it
    answered for this one.
    """
    codes, last = 0, len(words) - 1
    for number in range(count):
        slot = batch[0, number]
        batch[0, number] = tables.slots[slot]
        batch[1, number] = tables.slots[slot + 1]
        codes += batch[1, number] - batch[0, number]
    for number in range(count):
        place = min(batch[0, number], last)
        if words.shape[1] > 1:
            batch[2, number] = np.int64(tables.orders[table - 1, place]) if table else place
        else:
            batch[2, number] = np.int64(tables.copies[table - 1, place] if table else words[place, 0])
    return codes


@kernel
def _ahead(width: Int, pieces: Int, flipped: Int, table: Int, k: Int, state: NDArray[np.int64]) -> float:
    """Return how many probes are left until the bound is reached, or in this table while the bound means nothing."""
    if flipped <= _CHEAP or state[_WITHIN] < k:
        return _choose(width, flipped)
    last, probes = state[_BOUND] // pieces, 0.0
    for number in range(flipped, last + 1):
        tables = pieces if number < last else state[_BOUND] % pieces + 1
        probes += (tables - (table if number == flipped else 0)) * _choose(width, number)
    return probes


@kernel
def _scan_short(
    codes: NDArray[np.uint64],
    starts: Rows,
    gone: Rows,
    query: np.uint64,
    k: Int,
    weights: NDArray[np.int64],
    state: NDArray[np.int64],
    found: Found,
) -> None:
    """Compare all codes of one word: whole blocks at once, single codes only where one of the block is near."""
    for first in range(0, len(codes), _BLOCK):
        last = min(first + _BLOCK, len(codes))
        if last - first == _BLOCK and not _any_near(codes, np.uint64(first), query, np.uint64(state[_BOUND])):
            continue
        for row in range(first, last):
            distance = np.int64(ones(codes[row] ^ query))
            if distance <= state[_BOUND]:
                _keep(distance, row, live(starts, gone, row), k, weights, state, found)


@kernel
def _any_near(codes: NDArray[np.uint64], first: np.uint64, query: np.uint64, bound: np.uint64) -> bool:
    """Return whether a code of one block is near; unsigned places, without which LLVM does not make the loop wide."""
    near = np.uint64(0)
    for number in range(np.uint64(_BLOCK)):
        near += np.uint64(ones(codes[first + np.uint64(number)] ^ query) <= bound)
    return bool(near > 0)


@kernel
def _scan_long(
    words: Words,
    starts: Rows,
    gone: Rows,
    query: Words,
    k: Int,
    weights: NDArray[np.int64],
    state: NDArray[np.int64],
    found: Found,
) -> None:
    """Compare all codes of several words."""
    difference = np.empty(words.shape[1], np.uint64)
    for row in range(len(words)):
        distance = _differ(words, row, query, difference)
        if distance <= state[_BOUND]:
            _keep(distance, row, live(starts, gone, row), k, weights, state, found)


@kernel
def _differ(words: Words, row: Int, query: Words, difference: Words) -> Int:
    """Write which bits differ; return how many."""
    distance = np.uint64(0)
    for word in range(words.shape[1]):
        difference[word] = words[row, word] ^ query[word]
        distance += ones(difference[word])
    return np.int64(distance)


@kernel
def _first_seen(difference: Words, spans: NDArray[np.int64], table: Int, flipped: Int) -> bool:
    """Return whether no earlier probe met this code: each code comes once, without a list of those that came."""
    for other in range(len(spans)):
        if other != table:
            apart = np.int64(ones(piece(difference, spans[other, 0], spans[other, 1])))
            if apart < flipped or (apart == flipped and other < table):
                return False
    return True


@kernel
def _keep(
    distance: Int,
    row: Int,
    size: Int,
    k: Int,
    weights: NDArray[np.int64],
    state: NDArray[np.int64],
    found: Found,
) -> None:
    """Add a code, and lower the bound while k items lie below it; codes without items are left out."""
    if size == 0:
        return
    if state[_LENGTH] < len(found):
        found[state[_LENGTH]] = distance << 32 | row
    state[_LENGTH] += 1
    weights[distance] += size
    state[_WITHIN] += size
    while state[_BOUND] > 0 and state[_WITHIN] - weights[state[_BOUND]] >= k:
        state[_WITHIN] -= weights[state[_BOUND]]
        state[_BOUND] -= 1


@kernel
def _up_to(found: Found, length: Int, bound: Int) -> Found:
    """Return those that lie within the final bound."""
    kept = 0
    for place in range(length):
        if found[place] >> 32 <= bound:
            found[kept] = found[place]
            kept += 1
    return found[:kept]


@kernel
def _split(starts: Rows, gone: Rows, found: Found) -> tuple[Numbers, Numbers, Numbers]:
    """Return rows, distances and how many items count."""
    rows, distances, counts = np.empty_like(found), np.empty_like(found), np.empty_like(found)
    for number in range(len(found)):
        rows[number], distances[number] = found[number] & 0xFFFFFFFF, found[number] >> 32
        counts[number] = live(starts, gone, rows[number])
    return rows, distances, counts


@kernel
def _choose(width: Int, flipped: Int) -> float:
    """Return in how many ways `flipped` of `width` bits can differ."""
    ways = 1.0
    for number in range(flipped):
        ways = ways * (width - number) / (number + 1)
    return ways


@kernel
def _next(flip: np.uint64) -> np.uint64:
    """Return the next larger number with as many bits set (Gosper, HAKMEM item 175)."""
    lowest = flip & (~flip + np.uint64(1))
    carried = flip + lowest
    return np.uint64(((carried ^ flip) >> np.uint64(2)) >> ones(lowest - np.uint64(1)) | carried)
