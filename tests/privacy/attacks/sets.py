"""Attacks by filters: whether answers, or differences of two, ever speak of fewer acquisitions than the floor."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from attacks.lines import Line, worst
from attacks.target import BITS, CONTROL, Target
from rsfed.index.filters import Filter
from rsfed.privacy import grid
from rsfed.privacy.policy import policy
from rsfed.privacy.publication import size_class
from rsfed.v1.envelope_pb2 import BoundingBox, QueryFilter
from rsfed.wire import DEGREE

PER = 5  # patches of an acquisition
FILTERS, PAIRS = 150, 20_000
HELD = 1000  # patches of the control
LEVEL = "guarded"
_DAY_MS = 86_400_000
_FIRST_MS = 1_704_067_200_000  # 1 January 2024


def filters(folder, archives, count=FILTERS):
    """The line of the least acquisitions that anything is ever said of, by filters, updates and differences."""
    least, controls, differ = {}, {}, 0
    for archive in archives:
        names = np.array([f"flight {each}" for each in np.arange(len(archive)) // PER])
        target = Target(folder / f"{archive.name}-sets", archive, LEVEL, names=names, start=int(0.8 * len(archive)))
        said, wrong = _spoken_of(target, count)
        differ += wrong
        least[archive.name] = _least(said, dict(zip(target.ids.tolist(), names.tolist(), strict=True)))
        target.close()
        few = archive.part(np.arange(min(HELD, len(archive))))
        open_node = Target(folder / f"{archive.name}-sets-control", few, CONTROL, names=names[: len(few)])
        own = dict(zip(open_node.ids.tolist(), names[: len(few)].tolist(), strict=True))
        controls[archive.name] = _least(_listed(open_node, count // 3), own)
        open_node.close()
    floor = policy(LEVEL).floor
    control, found = worst(controls, least=True), worst(least, least=True)
    yield Line(
        "filters and set differences.acquisitions", LEVEL, control, control < floor, found, float(floor), least,
        {"answers_not_as_recomputed": differ}, least=True,
    )  # fmt: skip


def _drawn(rng):
    """A filter by a box, by time, or by both, as its message and as its values."""
    west, south = 6.5 + 7 * rng.random(), 45.5 + rng.random()
    box = tuple(round(each * DEGREE) for each in (west, south, west + 3 * rng.random(), south + rng.random()))
    after = int(_FIRST_MS + rng.integers(0, 120) * _DAY_MS)
    before = int(after + rng.integers(0, 60) * _DAY_MS)
    which = rng.integers(0, 3)
    timed, placed = which != 0, which != 1
    message, where = QueryFilter(), {}
    if timed:
        message.after, message.before = after, before
        where |= {"after": after, "before": before}
    if placed:
        message.bbox.CopyFrom(BoundingBox(**dict(zip(("west", "south", "east", "north"), box, strict=True))))
        where |= {"box": box}
    return message, Filter(**where)


def _spoken_of(target, count):
    """What answers speak of by cell: sets of patches, over filters and epochs; and how many answers were not that."""
    rng, said, wrong = np.random.default_rng(8), defaultdict(set), 0
    whole, start = len(target.archive), int(0.8 * len(target.archive))
    epochs = [np.arange(start), np.arange(whole), rng.permutation(whole)[: int(0.7 * whole)]]
    for places in epochs:
        target.wait(hours=1)
        target.serve(np.sort(places))
        for _ in range(count):
            message, where = _drawn(rng)
            code = target.archive.cells[rng.integers(0, len(target.archive.cells))]
            (seen,) = target.ask(code[None], filter=message)
            inside = _inside(target.published, grid.ASKED.filter(where))
            told = dict(zip(seen.marks.tolist(), seen.sizes.tolist(), strict=True))
            reached = {
                -1 - cell for cell in target.published.cells.around(int(target.cells.of_query(code)))[0].tolist()
            }
            meant = {mark: size_class(len(ids)) for mark, ids in inside.items() if mark in reached}
            wrong += told != meant
            for mark, ids in inside.items():
                said[mark].add(ids)
    return said, wrong


def _inside(published, where):
    """The published patches of each cell that pass a filter, by the mark of the cell; what an answer's sizes count."""
    good = grid.passes(where, published.places, published.times, published.tiers)[published.atoms]
    found = {}
    for cell in range(len(published.starts) - 1):
        own = slice(published.starts[cell], published.starts[cell + 1])
        if len(ids := published.ids[own][good[own]]):
            found[-1 - cell] = frozenset(ids.tolist())
    return found


def _listed(target, count):
    """What answers of a node without protection list by bucket, over filters."""
    rng, said = np.random.default_rng(8), defaultdict(set)
    for _ in range(count):
        message, _ = _drawn(rng)
        code = target.archive.cells[rng.integers(0, len(target.archive.cells))]
        (seen,) = target.ask(code[None], filter=message, radius=BITS, k=1000)
        ends = np.cumsum(seen.samples)
        for mark, start, end in zip(seen.marks.tolist(), ends - seen.samples, ends, strict=True):
            said[mark].add(frozenset(seen.items[start:end].tolist()))
    return said


def _least(said, names):
    """The least number of acquisitions of any set, or difference of two sets of one cell."""
    rng, least = np.random.default_rng(9), float("inf")
    for sets in said.values():
        ordered = sorted(sets, key=sorted)
        pairs = rng.integers(0, len(ordered), (PAIRS // len(said), 2))
        drawn = {(int(one), int(other)) for one, other in pairs}
        differences = {ordered[one] - ordered[other] for one, other in drawn}
        for each in {*ordered, *differences} - {frozenset()}:
            least = min(least, len({names[item] for item in each}))
    return float(least)
