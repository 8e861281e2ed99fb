"""Attacks by filters: all cells are asked about every tile and month, by who knows where and when a patch was taken.

- All cells and filters: patches are recognised; of each its cell is told, and how finely place and time of its atom.
- Place and month known: no handle is recognised. How many patches of each cell are told to be where a patch is says how
  likely it is in each.

Patches lie anywhere or, by look, those of one code lie together mostly, as land cover does. Who is told nothing knows
tile and month of each patch, too, and what is usual there.
"""

from __future__ import annotations

import zlib
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import numpy as np

from attacks.guessing import POINTS, UNTOLD, Told
from attacks.judging import Judge, figures
from attacks.lines import Line, worst
from attacks.target import BITS, CONTROL, MONTHS, TILES, WEST, Target, scattered
from rsfed.codes import pack, unpack
from rsfed.v1.envelope_pb2 import BoundingBox, QueryFilter
from rsfed.wire import DEGREE, NO_FOOTPRINT

LEVEL = "guarded"
ITEMS, HELD = 15, 1500  # of the control, and how many patches it holds
TOGETHER = 0.8  # share of the patches of a code that lie in one tile
_EXACT, _BITS, _WINS = 1.0, 2.0, 95.0  # points
_LISTED = 1000  # items of an answer at most
_USUAL = 1.4  # items for each of a size class: between a power of two and the next
_FEW = 1.0  # patches of a cell that may be there although none is told
_NOWHERE = 2  # tier of what is told without a place
_RARE = 0.1  # images of one's own that may be of a class although none is
_ATTACKS = ("all cells and filters", "place and month known")


@dataclass(frozen=True)
class Asked:
    """What answers about all cells tell with the filter of each tile and month, and without one.

    Attributes:
        fine: By tile and month about how many patches of each cell are told to lie there, float64, shape (cells,).
        coarse: The same of those that are told more coarsely, so that they may lie there.
        tiers: By patch that is listed how finely: 0 in its tile and month, 1 more coarsely, 2 not at all.
    """

    fine: dict
    coarse: dict
    tiers: dict


def by_place(folder, archives, items=ITEMS):
    """Lines of what codes gain from answers about all tiles and months."""
    control, found = {}, {}
    for archive in archives:
        few = archive.part(np.arange(min(HELD, len(archive))))
        target = Target(folder / f"{archive.name}-places-control", few, CONTROL)
        control[archive.name] = _singled_out(target, items)
        target.close()
        for name, look in ((archive.name, False), (f"{archive.name} by look", True)):
            found[name] = _gained(folder / f"{name.replace(' ', '-')}-places", archive, look, items)
    won, alone = worst(control, least=True), {name: each["singled_out"] for name, each in found.items()}
    for attack in _ATTACKS:
        for figure, limit in (("exact", _EXACT), ("bits", _BITS)):
            gained, beyond = (
                {name: each[attack][key] for name, each in found.items()} for key in (figure, f"{figure}_beyond_cell")
            )
            more = {"beyond_cell": beyond, "singled_out": alone}
            yield Line(f"{attack}.{figure}", LEVEL, won, won >= _WINS, worst(gained), limit, gained, more)


def _gained(folder, archive, look, items):
    """What both attacks gain of all patches, and how many codes are recovered of patches that are singled out."""
    here, there = _lying(archive.codes, 1, look), _lying(archive.queries, 2, look)
    target = Target(folder, archive, LEVEL, where=here)
    asked, judge, alone = all_asked(target), Judge(target, np.arange(len(archive))), _singled_out(target, items)
    signs, own_signs = (list(zip(*(each.tolist() for each in where), strict=True)) for where in (here, there))
    own_cells, public = target.cells.nearest(archive.queries)[0], unpack(target.cells.codes).astype(bool)
    recognised = _recognised(target, asked, own_cells, own_signs, judge.told)
    target.close()
    gains = {attack: {} for attack in _ATTACKS}
    for by, truth in judge.truth.items():
        lying = truth.learned(Told(signs, own_signs, truth.archive.centres))
        beliefs = _beliefs(asked, signs, truth, own_cells)
        guesses = truth.learned(recognised), truth.believed(beliefs, own_cells.tolist(), public)
        for attack, guess in zip(_ATTACKS, guesses, strict=True):
            gains[attack][by] = truth.gain([guess], judge.places, [lying])
    return {attack: figures(each) for attack, each in gains.items()} | {"singled_out": alone}


def _lying(codes, seed, look):
    """Draw the tile and the month of patches; `look`: patches of one code lie together mostly."""
    tiles, months = scattered(len(codes), seed)
    if look:
        homes = np.array([zlib.crc32(code.tobytes()) % TILES for code in codes])
        tiles = np.where(np.random.default_rng(seed).random(len(codes)) < TOGETHER, homes, tiles)
    return tiles, months


def all_asked(target):
    """Ask all cells about every tile and month, and without a filter."""
    fine, coarse, tiers = {}, {}, {}
    for place in ((tile, month) for tile in range(TILES) for month in range(1, MONTHS + 1)):
        fine[place], coarse[place] = np.zeros(len(target.cells.codes)), np.zeros(len(target.cells.codes))
        for cell, size, items, found in _answers(target, filter=_filter(*place)):
            exactly = float((found == 0).mean())
            fine[place][cell], coarse[place][cell] = _USUAL * size * exactly, _USUAL * size * (1 - exactly)
            tiers |= dict(zip(items.tolist(), found.tolist(), strict=True))
    for _, _, items, found in _answers(target):
        tiers = dict(zip(items.tolist(), found.tolist(), strict=True)) | tiers
    return Asked(fine, coarse, tiers)


def _answers(target, **how):
    """Yield what answers about all cells list: a cell, its told size, the listed patches and the tier of each."""
    codes = target.archive.cells
    for start in range(0, len(codes), 4):
        for seen in target.ask(codes[start : start + 4], k=_LISTED, **how):
            ends = np.cumsum(seen.samples).tolist()
            for row, mark in enumerate(seen.marks.tolist()):
                listed = slice(ends[row] - int(seen.samples[row]), ends[row])
                boxes = seen.boxes[listed].astype(np.int64)
                tiers = np.searchsorted([DEGREE, 10 * DEGREE], boxes[:, 2] - boxes[:, 0])
                tiers[boxes[:, 0] == NO_FOOTPRINT] = _NOWHERE
                yield -1 - mark, int(seen.sizes[row]), seen.items[listed], tiers


def _filter(tile, month):
    """The filter of a tile and a month."""
    west, south = round((WEST + tile) * DEGREE), 46 * DEGREE
    after, before = (
        round(1000 * datetime(2024, month, day, 12, tzinfo=UTC).timestamp()) for day in (1, monthrange(2024, month)[1])
    )
    box = BoundingBox(west=west, south=south, east=west + DEGREE, north=south + DEGREE)
    return QueryFilter(after=after, before=before, bbox=box)


def _recognised(target, asked, own_cells, own_signs, told):
    """What is told of each patch that is recognised, and would be of one's own: its cell, and how finely it lies."""
    cells = (-1 - target.marks(np.arange(len(target.archive)))).tolist()
    tiers = [asked.tiers.get(item, 0) for item in target.ids.tolist()]  # of a size class some are not listed
    rows = zip(told.archive, zip(cells, tiers, strict=True), strict=True)
    signs = [UNTOLD if sign == UNTOLD else each for sign, each in rows]
    own = []
    for cell, sign in zip(own_cells.tolist(), own_signs, strict=True):
        own.append((cell, 0 if asked.fine[sign][cell] else 1 if asked.coarse[sign][cell] else _NOWHERE))
    return Told(signs, own, told.hints)


def _beliefs(asked, signs, truth, own_cells):
    """How likely each patch is in each cell, by its class and by how many patches of the cell are told to be there."""
    cells = len(next(iter(asked.fine.values())))
    classes = np.unique(np.concatenate([truth.archive.known, truth.own.known]))
    counts = np.full((cells, len(classes)), _RARE)
    np.add.at(counts, (own_cells, np.searchsorted(classes, truth.own.known)), 1)
    of_class = counts / counts.sum(axis=1, keepdims=True)
    there = np.array([asked.fine[sign] for sign in signs]) + _FEW
    found = there * of_class[:, np.searchsorted(classes, truth.archive.known)].T
    return found / found.sum(axis=1, keepdims=True)


def _singled_out(target, items):
    """Points of codes recovered by flips, with a filter of exactly where and when a patch was taken, and no handle.

    Of patches that nothing else is as near to: such a filter singles them out.
    """
    everywhere = target.facts.of(target.ids).columns
    drawn = np.random.default_rng(15).permutation(len(target.archive)).tolist()
    places = np.sort(list(islice((place for place in drawn if _alone(everywhere, place)), items)))
    known = target.facts.of(target.ids[places]).columns
    public = dict(zip(target.archive.cell_classes.tolist(), unpack(target.archive.cells).astype(bool), strict=True))
    right = []
    for place, box, times in zip(places.tolist(), known.boxes.tolist(), known.times.tolist(), strict=True):
        start = public[int(target.archive.labels[place])]
        where = dict(zip(("west", "south", "east", "north"), box, strict=True))
        only = QueryFilter(after=times[0], before=times[1], bbox=BoundingBox(**where))
        codes = pack(start ^ np.concatenate([np.zeros((1, BITS), bool), np.eye(BITS, dtype=bool)]))
        told = np.full(len(codes), np.nan)
        for first in range(0, len(codes), 11):
            for at, seen in enumerate(target.ask(codes[first : first + 11], filter=only), first):
                if len(seen.uppers) == 1:
                    told[at] = seen.uppers[0]
        change = told[1:] - told[0]
        right.append(bool((start ^ (change < 0) == target.archive.bits[place]).all() and (np.abs(change) == 1).all()))
    return POINTS * float(np.mean(right))


def _alone(columns, place):
    """Whether no other patch lies, even in part, where and when this one does."""
    (west, south, east, north), (begin, end) = columns.boxes[place], columns.times[place]
    wests, souths, easts, norths = columns.boxes.T
    there = (wests <= east) & (easts >= west) & (souths <= north) & (norths >= south)
    return int((there & (columns.times[:, 0] <= end) & (columns.times[:, 1] >= begin)).sum()) == 1
