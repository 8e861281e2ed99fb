"""Kernels that take items out of buckets: by their rank, by a filter, or from lists of those that pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsfed.index.filters import Tests, passes
from rsfed.index.jit import Int, kernel
from rsfed.index.nearest import Numbers, below
from rsfed.index.sorting import Rows


@kernel
def places_at(starts: Rows, gone: Rows, rows: Numbers, ranks: Numbers) -> Numbers:
    """Return the places of items by code and rank among the items of that code which count."""
    places = np.empty(len(rows), np.int64)
    for number in range(len(rows)):
        first = np.int64(starts[rows[number]])
        lowest, highest = below(gone, first), below(gone, starts[rows[number] + 1])
        low, high = lowest, highest
        while low < high:  # how many gone items lie before the wanted one
            middle = (low + high) // 2
            if np.int64(gone[middle]) - first - (middle - lowest) <= ranks[number]:
                low = middle + 1
            else:
                high = middle
        places[number] = first + ranks[number] + (low - lowest)
    return places


@kernel
def count_passing(starts: Rows, gone: Rows, tests: Tests, rows: Numbers) -> Numbers:
    """Return how many items of each code count and pass."""
    counts = np.empty(len(rows), np.int64)
    for number in range(len(rows)):
        counts[number], _ = _count(starts, gone, tests, rows[number], np.int64(starts[rows[number] + 1]))
    return counts


@kernel
def weigh(
    starts: Rows, gone: Rows, tests: Tests, rows: Numbers, distances: Numbers, k: Int, enough: Int, budget: Int
) -> tuple[Numbers, bool, Int]:
    """Count the items that pass, code after code, until k lie within the distance that was reached.

    Args:
        starts: As for `nearest`.
        gone: As for `nearest`.
        tests: The filter.
        rows: Codes by rising distance, int64, shape (n,).
        distances: Their distances, int64, shape (n,).
        k: How many items are wanted.
        enough: Where counting the items of one code may stop.
        budget: How many items may be looked at.

    Returns:
        The count of each code that was needed, int64; whether the budget sufficed; the sum of the counts.
    """
    counts = np.empty(len(rows), np.int64)
    total = 0
    for number in range(len(rows)):
        if total >= k and distances[number] > distances[number - 1]:
            return counts[:number], True, total
        if budget <= 0:
            return counts[:number], False, total
        counts[number], looked = _count(starts, gone, tests, rows[number], enough)
        total += counts[number]
        budget -= looked
    return counts, True, total


@kernel
def _count(starts: Rows, gone: Rows, tests: Tests, row: Int, enough: Int) -> tuple[Int, Int]:
    """Return how many items of a code pass, no more than `enough`, and how many were looked at."""
    skip = below(gone, starts[row])
    count = 0
    for place in range(starts[row], starts[row + 1]):
        if skip < len(gone) and gone[skip] == place:
            skip += 1
        elif passes(tests, place):
            count += 1
            if count >= enough:
                return count, place + 1 - np.int64(starts[row])
    return count, np.int64(starts[row + 1]) - np.int64(starts[row])


@kernel
def first_passing(starts: Rows, gone: Rows, tests: Tests, rows: Numbers, wanted: Numbers) -> tuple[Numbers, Numbers]:
    """Return the first items of some codes that count and pass, by rising id.

    Returns:
        Their places, code after code, int64; how many there are of each code, int64.
    """
    most = 0
    for number in range(len(rows)):
        most += min(wanted[number], np.int64(starts[rows[number] + 1]) - np.int64(starts[rows[number]]))
    places = np.empty(most, np.int64)
    counts = np.zeros(len(rows), np.int64)
    length = 0
    for number in range(len(rows)):
        skip = below(gone, starts[rows[number]])
        for place in range(starts[rows[number]], starts[rows[number] + 1]):
            if counts[number] >= wanted[number]:
                break
            if skip < len(gone) and gone[skip] == place:
                skip += 1
            elif passes(tests, place):
                places[length] = place
                length += 1
                counts[number] += 1
    return places[:length], counts


@kernel
def closest(
    starts: Rows, gone: Rows, tests: Tests, ids: NDArray[np.int64], rows: Numbers, distances: Numbers, k: Int
) -> tuple[NDArray[np.int64], Numbers]:
    """Return the k items that count and pass with the smallest distances, then the smallest ids.

    Args:
        starts: As for `nearest`.
        gone: As for `nearest`.
        tests: The filter.
        ids: Item ids by place, int64.
        rows: Codes by rising distance, int64, shape (n,).
        distances: Their distances, int64, shape (n,).
        k: How many items are wanted.

    Returns:
        Item ids and their distances, int64, fewer than k where there are fewer.
    """
    held: Int = 0
    for row in rows:
        held += np.int64(starts[row + 1]) - np.int64(starts[row])
    found, apart = np.empty(min(k, held), np.int64), np.empty(min(k, held), np.int64)
    first, length = 0, 0
    while first < len(rows) and length < k:
        last = first
        while last < len(rows) and distances[last] == distances[first]:
            last += 1
        wanted = np.full(last - first, k - length)
        places, _ = first_passing(starts, gone, tests, rows[first:last], wanted)
        for number in range(len(places)):
            places[number] = ids[places[number]]
        shell = places if last - first == 1 else np.sort(places)[: k - length]
        found[length : length + len(shell)] = shell
        apart[length : length + len(shell)] = distances[first]
        length += len(shell)
        first = last
    return found[:length], apart[:length]


@kernel
def passing(tests: Tests, places: Numbers) -> NDArray[np.bool_]:
    """Return which of these items pass."""
    kept = np.empty(len(places), np.bool_)
    for number in range(len(places)):
        kept[number] = passes(tests, places[number])
    return kept


@kernel
def grouped(starts: Rows, gone: Rows, places: Rows) -> tuple[Numbers, Numbers, Numbers]:
    """Group rising places by code, without those that are gone.

    Returns:
        The codes' rows, rising; the places that are left; where those of each row start, with the end of the last one.
    """
    rows, firsts = np.empty(len(places), np.int64), np.empty(len(places) + 1, np.int64)
    kept = np.empty(len(places), np.int64)
    length, groups, row = 0, 0, np.int64(0)
    for place in places:
        skip = below(gone, place)
        if skip < len(gone) and gone[skip] == place:
            continue
        following = np.int64(_row_of(starts, place, row))
        if groups == 0 or following != row:
            rows[groups], firsts[groups] = following, length
            groups += 1
            row = following
        kept[length] = place
        length += 1
    firsts[groups] = length
    return rows[:groups], kept[:length], firsts[: groups + 1]


@kernel
def _row_of(starts: Rows, place: Int, row: Int) -> Int:
    """Return the row of a place that lies in `row` or behind it: wider and wider steps, then halves."""
    step = np.int64(1)
    while row + step < len(starts) - 1 and starts[row + step] <= place:
        step *= 2
    low, high = row + step // 2, np.int64(min(np.int64(row + step), np.int64(len(starts) - 1)))
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= place:
            low = middle
        else:
            high = middle
    return low
