"""Kills a process that changes an index, again and again, and looks at what is left: `make soak-index`.

The process appends, removes, merges and swaps at random, and says before each change what it will do and after it that
it is done. Whatever it said to be done has to be there, once; a change that it was killed in is there whole or not at
all.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

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
_BATCH = 200
_APART = 10**6  # between the first items of two processes
_LONGEST_S = 0.6  # until a kill


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

    items: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))
    current: bytes | None = None
    under_way: str = ""

    def after(self, change: str) -> tuple[tuple[set[int], set[int]], bytes | None]:
        """Return items and current release once a change is made."""
        kind, *numbers = change.split()
        items = (set(self.items[0]), set(self.items[1]))
        if kind == "append":
            items[int(numbers[0])].update(range(int(numbers[1]), int(numbers[1]) + int(numbers[2])))
        elif kind == "remove":
            items[int(numbers[0])].difference_update(range(int(numbers[1]), int(numbers[1]) + int(numbers[2])))
        return items, RELEASES[int(numbers[0])] if kind == "swap" else self.current

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
    newest = first
    print("ready", flush=True)
    while True:
        number, kind = rng.randrange(2), rng.choices(["append", "remove", "merge", "swap"], [5, 3, 2, 1])[0]
        start, count = (newest, rng.randint(1, _BATCH)) if kind == "append" else (_some(rng, first), _BATCH)
        print(kind, number, start, count, flush=True)
        if kind == "append":
            ids = np.arange(start, start + count)
            writers[number].append(ids, codes_of(ids))
            newest += count
        elif kind == "remove":
            writers[number].remove(np.arange(start, start + count))
        elif kind == "merge":
            writers[number].merge()
        else:
            shelf.swap(root, owner(number).release)
        print("done", flush=True)


def _some(rng: random.Random, first: int) -> int:
    """Return an item that this process or one before it may have appended."""
    return rng.randrange(0, first + 1, _APART) + rng.randrange(1000)


def held(view: View) -> list[int]:
    """Return the ids of all items, and check that each has its code."""
    ids = []
    for hits in view.search(codes_of(np.array([0])), radius=BITS):
        for bucket, code in enumerate(hits.codes):
            members = hits.members(bucket)
            if not (codes_of(members) == code).all():
                raise SystemExit("an item has the code of another")
            ids += members.tolist()
    return sorted(ids)


def check(root: Path, expected: Expected) -> None:
    """Compare what is left with what has to be there; afterwards expect exactly that.

    Raises:
        SystemExit: something is missing, comes twice or is there in part.
    """
    found = [held(_open(root, number)) for number in (0, 1)]
    current = shelf.current(root)
    allowed = [(expected.items, expected.current)]
    if expected.under_way and expected.under_way != "ready":
        allowed.append(expected.after(expected.under_way))
    matching = [state for state in allowed if [sorted(each) for each in state[0]] == found and state[1] == current]
    if not matching:
        raise SystemExit(f"after {expected.under_way!r} the index is neither as before nor as after it")
    expected.items, expected.current = matching[0]
    expected.under_way = ""


def _open(root: Path, number: int) -> View:
    folder = shelf.folder_of(root, owner(number))
    return IndexReader(folder, owner(number)).view() if folder.exists() else View(BITS, ())


def soak(root: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill the process this many times and check each time; return how often each change was under way."""
    rng = random.Random(seed)  # noqa: S311
    expected, met = Expected(), dict.fromkeys(("append", "remove", "merge", "swap", "between"), 0)
    for number in range(kills):
        first = str(number * _APART)
        command = [sys.executable, "-m", "rsfed.lab.soak_index", "--change", str(root), str(seed + number), first]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None  # noqa: S101 - for the type
            process.stdout.readline()
            time.sleep(rng.random() * _LONGEST_S)
            process.kill()
            for line in process.stdout:
                if line.endswith("\n"):
                    expected.take(line.strip())
        met[expected.under_way.split()[0] if expected.under_way else "between"] += 1
        check(root, expected)
    return met


def main() -> None:
    """Run the soak, or be the process that is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--change", nargs=3, metavar=("ROOT", "SEED", "FIRST"))
    options = parser.parse_args()
    if options.change:
        change(Path(options.change[0]), int(options.change[1]), int(options.change[2]))
    with TemporaryDirectory(prefix="rsfed-soak-") as name:
        met = soak(Path(name), options.kills)
    print(f"{options.kills} kills, nothing lost, nothing twice; killed in: {met}")


if __name__ == "__main__":
    main()
