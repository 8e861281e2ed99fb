"""Kills a process that changes an index, again and again, and looks at what is left: `make soak-index`.

Two releases lie side by side, each with a million items. The process appends, removes, merges and swaps at random, and
says before each change what it will do and after it that it is done. It is killed in each kind of change in turn, at a
random moment. Whatever it said to be done has to be there, once; a change that it was killed in is there whole or not
at all; and the index has to open within a second.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, Ids
from rsfed.index import shelf
from rsfed.index.files import Owner
from rsfed.index.reader import IndexReader
from rsfed.index.search import View
from rsfed.index.warm import warm
from rsfed.index.words import from_words
from rsfed.index.writer import IndexWriter

BITS = 64
RELEASES = (b"\x01" * 32, b"\x02" * 32)
ITEMS = 1_000_000  # that each release holds at the start
OPENS_S = 1.0  # longest time until an index is open
_KINDS = ("append", "remove", "merge", "swap")
_BATCH = (100, 200)  # items of a change; all segments are of about one size, so that four of them are merged
_APART = 20_000  # between the first items of two processes
_EARLIEST_S, _WITHIN_S = 0.3, 0.004  # changes go on for up to so long before a kill; then how far into a change it is

Held = NDArray[np.bool_]
"""For each item id whether it is there."""


def codes_of(ids: Ids) -> Codes:
    """Return the code that an item of the soak has, so that nobody has to remember it."""
    words = (ids.astype(np.uint64) % np.uint64(977) * np.uint64(0x9E3779B97F4A7C15))[:, None]
    return from_words(words, BITS)


def owner(number: int) -> Owner:
    """Return one of the two owners of the soak."""
    return Owner(RELEASES[number], "soak", BITS)


@dataclass
class Expected:
    """What has to be there: the items of each release, what is current, and the change that is under way."""

    items: Sequence[Held]
    current: bytes | None = None
    under_way: str = ""

    @classmethod
    def of(cls, items: int, kills: int) -> Self:
        """Return what is there before the first kill."""
        held = np.arange(items + kills * _APART) < items
        return cls((held, held.copy()))

    def after(self, change: str) -> tuple[Sequence[Held], bytes | None]:
        """Return items and current release once a change is made."""
        kind, *numbers = change.split()
        number, start, count = (int(each) for each in numbers)
        items = [held.copy() for held in self.items]
        if kind in {"append", "remove"}:
            items[number][start : start + count] = kind == "append"
        return items, RELEASES[number] if kind == "swap" else self.current

    def take(self, line: str) -> None:
        """Follow what the process said."""
        if line == "done":
            self.items, self.current = self.after(self.under_way)
            self.under_way = ""
        else:
            self.under_way = line


def change(root: Path, seed: int, first: int) -> None:
    """Change indexes until somebody ends this process."""
    warm()
    rng = random.Random(seed)  # noqa: S311 - a soak is no secret
    writers = [IndexWriter(shelf.folder_of(root, owner(number)), owner(number)) for number in (0, 1)]
    newest, waiting = first, [0, 0]
    print("ready", flush=True)
    while True:
        number, kind, count = rng.randrange(2), rng.choices(_KINDS, [5, 3, 2, 1])[0], rng.randint(*_BATCH)
        if kind == "merge" and waiting[number] < 4:
            kind = "append"  # until there is something to merge
        start = newest if kind == "append" else rng.randrange(newest)
        print(kind, number, start, count, flush=True)
        ids = np.arange(start, start + count)
        if kind == "append":
            writers[number].append(ids, codes_of(ids))
            newest, waiting[number] = newest + count, waiting[number] + 1
        elif kind == "remove":
            writers[number].remove(ids)
        elif kind == "merge":
            writers[number].merge()
            waiting[number] = 0
        else:
            shelf.swap(root, owner(number).release)
        print("done", flush=True)


def held(view: View, ids: int) -> Held:
    """Return which items are there, and check that each is there once and has its code."""
    there = np.zeros(ids, np.bool_)
    for hits in view.search(codes_of(np.array([0])), radius=BITS):
        for bucket, code in enumerate(hits.codes):
            members = hits.members(bucket)
            if not (codes_of(members) == code).all():
                raise SystemExit("an item has the code of another")
            if there[members].any() or len(np.unique(members)) < len(members):
                raise SystemExit("an item is there twice")
            there[members] = True
    return there


def check(root: Path, expected: Expected) -> float:
    """Compare what is left with what has to be there; afterwards expect exactly that.

    Returns:
        Seconds that the slower of the two indexes took to open.

    Raises:
        SystemExit: something is missing, comes twice or is there in part.
    """
    views, seconds = zip(*(_opened(root, number) for number in (0, 1)), strict=True)
    found = [held(view, len(expected.items[0])) for view in views]
    current = shelf.current(root)
    allowed = [(expected.items, expected.current)]
    if expected.under_way:
        allowed.append(expected.after(expected.under_way))
    for items, release in allowed:
        if release == current and all(np.array_equal(one, other) for one, other in zip(items, found, strict=True)):
            expected.items, expected.current, expected.under_way = items, release, ""
            return float(max(seconds))
    raise SystemExit(f"after {expected.under_way!r} the index is neither as before nor as after it")


def _opened(root: Path, number: int) -> tuple[View, float]:
    started = time.perf_counter()
    view = IndexReader(shelf.folder_of(root, owner(number)), owner(number)).view()
    return view, time.perf_counter() - started


def soak(root: Path, kills: int, items: int, seed: int = 0) -> tuple[dict[str, int], float]:
    """Kill the process this many times and check each time.

    Returns:
        How often each kind of change was under way, and the longest time in seconds until an index was open.
    """
    rng = random.Random(seed)  # noqa: S311
    expected, met, slowest = Expected.of(items, kills), dict.fromkeys((*_KINDS, "between"), 0), 0.0
    for number in (0, 1):
        with IndexWriter(shelf.folder_of(root, owner(number)), owner(number)) as writer:
            writer.append(np.arange(items), codes_of(np.arange(items)))
    for number in range(kills):
        arguments = [str(root), str(seed + number), str(items + number * _APART)]
        _kill(arguments, expected, rng, _KINDS[number % len(_KINDS)])
        met[expected.under_way.split()[0] if expected.under_way else "between"] += 1
        slowest = max(slowest, check(root, expected))
    return met, slowest


def _kill(arguments: Sequence[str], expected: Expected, rng: random.Random, kind: str) -> None:
    """Let a process change the indexes for some time, and kill it in a change of one kind."""
    command = [sys.executable, "-m", "rsfed.lab.soak_index", "--change", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - for the type
        process.stdout.readline()
        from_then = time.monotonic() + rng.random() * _EARLIEST_S
        for line in process.stdout:
            expected.take(line.strip())
            if time.monotonic() > from_then and line.startswith(kind):
                time.sleep(rng.random() * _WITHIN_S)
                process.kill()
                break
        for line in process.stdout:
            if line.endswith("\n"):
                expected.take(line.strip())


def main() -> None:
    """Run the soak, or be the process that is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--change", nargs=3, metavar=("ROOT", "SEED", "FIRST"))
    options = parser.parse_args()
    if options.change:
        change(Path(options.change[0]), int(options.change[1]), int(options.change[2]))
    with TemporaryDirectory(prefix="rsfed-soak-") as name:
        met, slowest = soak(Path(name), options.kills, options.items, options.seed)
    print(
        f"{options.kills} kills, nothing lost, nothing twice; killed in: {met}; "
        f"an index of {options.items:,} items was open after {slowest:.2f} s at most"
    )
    if slowest > OPENS_S:
        raise SystemExit(f"that is more than {OPENS_S} s")


if __name__ == "__main__":
    main()
