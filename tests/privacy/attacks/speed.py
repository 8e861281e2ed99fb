"""What guard and audit add to a query at a node of many items: the real guard, ledger and audit log on the disk."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from serving import Asker, make_searcher

from attacks.archive import made
from attacks.target import BITS, Target
from node.published import Published
from node.served import Facts
from rsfed.clock import Deadline
from rsfed.index.facets import Columns
from rsfed.index.search import Snapshot, View
from rsfed.index.segment import NONE_GONE, Part, Segment
from rsfed.privacy import grid
from rsfed.privacy.publication import Present, nothing, published
from rsfed.v1 import archive_pb2 as pb
from rsfed.wire import NO_FOOTPRINT, NO_TIME

LIMITS = {100_000: (1.0, 5.0), 1_000_000: (3.0, None)}  # milliseconds: median, 99th percentile
QUERIES, WARM = 500, 20
_FLOOR = 5


class _Clocked:
    """Adds up the time that calls of one method take: wall time, and that of the thread itself."""

    def __init__(self, call):
        self._call = call
        self.seconds = np.zeros(2)

    def __call__(self, *args, **kwargs):
        started = _clocks()
        try:
            return self._call(*args, **kwargs)
        finally:
            self.seconds = self.seconds + _clocks() - started


def _clocks():
    return np.array([time.perf_counter(), time.thread_time()])


def guard_and_audit(folder, items=tuple(LIMITS), queries=QUERIES):
    """The last line: milliseconds that guard and audit take of a guarded query, by the items of the node."""
    told, held = {}, True
    for count in items:
        times = np.array(_times(folder / f"speed-{count}", count, queries))
        median, late = (float(np.percentile(times[:, 0], each)) for each in (50, 99))
        most, most_late = LIMITS.get(count, (None, None))
        fits = (most is None or median <= most) and (most_late is None or late <= most_late)
        told[str(count)] = {
            "p50_ms": round(median, 3), "p99_ms": round(late, 3), "limit_p50_ms": most, "limit_p99_ms": most_late,
            "held": bool(fits), "p50_own_ms": round(float(np.median(times[:, 1])), 3),
        }  # fmt: skip
        held = held and fits
    return {"figure": "guard and audit", "queries": queries, "items": told, "held": bool(held)}


def _times(folder, count, queries):
    """Milliseconds of guard and audit of each query, float64, shape (queries, 2): wall time and the thread's own.

    That is all that the node does but search, and shape the answer.
    """
    target = Target(folder, made(100, 4), "guarded")
    target.close()
    searcher = make_searcher(target.home, target.world, _served(target, count), policies=target.policies)
    guarding = _Clocked(searcher.guard.admit)
    searcher.guard.admit = guarding
    bundle = target.world.bundle()
    searcher.guard._trust = lambda: bundle
    search = _Clocked(searcher.search)
    asker, found = Asker(target.world), []
    for number in range(WARM + queries):
        code = target.archive.cells[number % len(target.archive.cells)]
        request = pb.ArchiveServiceSearchRequest(query=asker.ask(target.release, code[None], k=20))
        guarding.seconds = search.seconds = np.zeros(2)
        started = _clocks()
        answer = target.auditor.searched(search, request, Deadline.after(60.0))
        took = _clocks() - started
        assert answer.answers[0].bucket_handles
        found.append(1000 * (took - search.seconds + guarding.seconds))
    searcher.guard._ledger.close()
    return found[WARM:]


def _served(target, count):
    """What a node serves that holds so many items near the class codes of its release."""
    rng = np.random.default_rng(14)
    codes = target.archive.cells[rng.integers(0, len(target.archive.cells), count)].copy()
    codes[:, -1] ^= rng.integers(0, 16, count, dtype=np.uint8)
    ids = np.arange(1, count + 1)
    view = View(BITS, (Part(Segment.build(BITS, ids, codes, None), NONE_GONE),))
    boxes, times = np.full((count, 4), NO_FOOTPRINT, np.int32), np.full((count, 2), NO_TIME, np.int64)
    tiers = range(grid.TIERS)
    places = tuple(grid.tiles(boxes, tier) for tier in tiers), tuple(grid.periods(times, tier) for tier in tiers)
    present = Present(ids, ids.astype(np.uint64), target.cells.nearest(codes)[0], *places)
    rows = published(nothing(), present, _FLOOR, 1)
    spoken = Published.of(target.cells, rows, 1, tie_key=bytes(32), release=target.release.digest)
    facts = Facts(ids, Columns.unknown(count))
    snapshots = {"rgb": Snapshot(target.release.digest, "rgb", view)}
    return replace(target.served, snapshots=snapshots, facts=facts, held={"rgb": count}, published={"rgb": spoken})
