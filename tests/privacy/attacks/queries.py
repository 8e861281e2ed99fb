"""Attacks by asking: what told distances, orders and silence give away of single codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacks.target import BITS, IDENTITIES
from rsfed.codes import hamming, pack, unpack

_ONE_BIT = np.eye(BITS, dtype=bool)
_PREFIXES = np.tri(BITS + 1, BITS, -1, dtype=bool)  # the first 0, 1, ... bits
_GROUP = 4  # bits that are flipped together at first
_WALK = 12  # bits that are flipped one after the other until a band changes
_RADII = (1, 3, 7, 15, BITS)
_RANDOM, _AT_ONCE = 96, 8  # codes of the attack by least squares, and of one of its queries


@dataclass
class Mark:
    """One patch that is attacked.

    Attributes:
        target: The node.
        mark: By which its bucket is recognised; 0 where no answer speaks of it.
        start: The public code of its class, bool, shape (bits,).
        reference: The mark and the code of a patch that the attacker has; for a comparison.
    """

    target: object
    mark: int
    start: np.ndarray
    reference: tuple[int, np.ndarray]

    def told(self, rows, *, radius=BITS):
        """How far away it is told to be from each code, NaN where it is not listed; ten analysts share the asking."""
        return self._tell(rows, self.mark, radius)

    def first(self):
        """How far away it is told to be from the start, looked for in rising radii; NaN where it is not listed."""
        for radius in _RADII:
            told = self.told(self.start[None], radius=radius)[0]
            if not np.isnan(told):
                return told
        return np.nan

    def nearer(self, rows):
        """Whether it, and not the reference, is told to be nearer: 1, -1, or 0 where neither is; NaN where unknown."""
        own, other = self._tell(rows, self.mark, BITS), self._tell(rows, self.reference[0], BITS)
        return np.sign(other - own)

    def _tell(self, rows, mark, radius):
        found = np.full(len(rows), np.nan)
        codes = pack(rows)
        for who in range(min(IDENTITIES, len(rows))):
            answers = self.target.ask(codes[who::IDENTITIES], radius=radius, who=who)
            for place, seen in zip(range(who, len(rows), IDENTITIES), answers or (), strict=False):
                if (upper := seen.told(mark)) is not None:
                    found[place] = upper
        return found


def marked(target, places):
    """The patches as attackers begin with them: at the public code of the class that their archive says."""
    archive, rng = target.archive, np.random.default_rng(4)
    cells = dict(zip(archive.cell_classes.tolist(), unpack(archive.cells).astype(bool), strict=True))
    own, marks = target.marks(np.arange(len(archive))), []
    for place in places.tolist():
        alike = np.setdiff1d(np.flatnonzero(archive.labels == archive.labels[place]), [place])
        other = int(rng.choice(alike)) if len(alike) else int(place == 0)
        reference = int(own[other]), archive.bits[other]
        marks.append(Mark(target, int(own[place]), cells[int(archive.labels[place])], reference))
    return marks


def flips(mark: Mark):
    """Flip each bit of one query: the told distance rises where the bit was right, and falls where it was wrong.

    Returns:
        Which bits are known now, and all bits, those that are not known as the attacker started, both of shape (bits,).
    """
    first = mark.first()
    change = np.nan_to_num(mark.told(mark.start ^ _ONE_BIT, radius=_within(first, 1)) - first)
    return change != 0, mark.start ^ (change < 0)


def splitting(mark: Mark):
    """Flip groups of bits: the told distance says how many of a group are wrong; groups with some are halved."""
    first = mark.first()
    known, bits = np.zeros(BITS, bool), mark.start.copy()
    groups = np.array_split(np.arange(BITS), BITS // _GROUP)
    while groups:
        rows = np.array([mark.start ^ _ONE_BIT[group].any(axis=0) for group in groups])
        found = mark.told(rows, radius=_within(first, _GROUP))
        halved = []
        for group, told in zip(groups, found, strict=True):
            count = (len(group) - (told - first)) / 2
            if not 0 <= count <= len(group):  # not known, or no count at all
                continue
            if count in {0, len(group)}:
                known[group] = True
                bits[group] ^= count > 0
            elif len(group) > 1:
                halved += np.array_split(group, 2)
        groups = halved
    return known, bits


def band_edge(mark: Mark):
    """Walk away from the start until the told band changes; at that edge each single flip says what its bit is."""
    walk = mark.start ^ _PREFIXES[: _WALK + 1]
    told = mark.told(walk, radius=_within(mark.first(), _WALK))
    steps = np.flatnonzero(np.nan_to_num(np.diff(told)))
    if not len(steps):
        return np.zeros(BITS, bool), mark.start
    step = steps[0]
    inner = walk[step] if told[step] < told[step + 1] else walk[step + 1]  # the last one before the band changes
    here = int(min(told[step], told[step + 1]))
    near = ~np.isnan(mark.told(inner ^ _ONE_BIT, radius=here))
    return np.ones(BITS, bool), inner ^ near


def reference(mark: Mark):
    """Walk away from a patch that the attacker has until the other one is nearer; at that edge each flip says a bit."""
    own = mark.reference[1]
    walk = own ^ _PREFIXES
    nearer = mark.nearer(walk)
    if nearer[0] == 0:  # equally far from the reference's own code: they are the same
        return np.ones(BITS, bool), own
    edges = np.flatnonzero(nearer >= 0)
    if not len(edges):
        return np.zeros(BITS, bool), own
    step = edges[0]
    before, after = walk[step - 1], walk[step]
    differs = np.zeros(BITS, bool)
    rows = np.where((np.arange(BITS) < step)[:, None], after ^ _ONE_BIT, before ^ _ONE_BIT)
    found = mark.nearer(rows)
    inside = np.arange(BITS) < step
    differs[inside] = found[inside] < 0
    differs[~inside] = found[~inside] >= 0
    return ~np.isnan(found), own ^ differs


def _within(first, more):
    """The radius that lists a patch which is told to be so far away, and up to so many bits farther."""
    return BITS if np.isnan(first) else min(BITS, int(first) + more)


def silence(mark: Mark):
    """Find the radius at which the patch is just listed from a code at the edge; whether flips silence it says bits."""
    low, high = 0, BITS
    while low < high:
        radius = (low + high) // 2
        heard = not np.isnan(mark.told(mark.start[None], radius=radius)[0])
        low, high = (low, radius) if heard else (radius + 1, high)
    rows = np.concatenate([mark.start[None], mark.start ^ _ONE_BIT])
    heard = ~np.isnan(mark.told(rows, radius=low))
    if not heard[0]:
        return np.zeros(BITS, bool), mark.start
    moved = ~np.isnan(mark.told(mark.start ^ _ONE_BIT, radius=max(0, low - 1)))
    silenced = ~heard[1:]
    return silenced | moved, mark.start ^ moved


def random_queries(target, marks, seed=0):
    """Ask for random codes, and solve for the codes that told distances fit best.

    Returns:
        As `flips`, for each mark.
    """
    rows = np.random.default_rng(seed).integers(0, 2, (_RANDOM, BITS)).astype(bool)
    told = np.full((len(marks), len(rows)), np.nan)
    for start in range(0, len(rows), _AT_ONCE):
        answers = target.ask(pack(rows[start : start + _AT_ONCE]), who=start // _AT_ONCE)
        for place, seen in enumerate(answers or (), start):
            uppers = dict(zip(seen.marks.tolist(), seen.uppers.tolist(), strict=True))
            told[:, place] = [uppers.get(mark, np.nan) for mark in marks.tolist()]
    known, bits = np.zeros((len(marks), BITS), bool), np.zeros((len(marks), BITS), bool)
    signs = 2.0 * rows - 1
    for place, found in enumerate(told):
        heard = ~np.isnan(found)
        if heard.sum() >= BITS:
            solved = np.linalg.lstsq(signs[heard], BITS - 2 * found[heard], rcond=None)[0]
            known[place], bits[place] = True, solved > 0
    return known, bits


def refused_share(target, codes):
    """The share of codes that get an empty answer, or none."""
    empty = []
    for start in range(0, len(codes), 32):
        part = codes[start : start + 32]
        answers = target.ask(part, radius=None, who=start // 32)
        empty += [True] * len(part) if answers is None else [not len(seen.marks) for seen in answers]
    return float(np.mean(empty))


def harvest(target, code, k=20):
    """Flip each bit of one real query, and read the codes of its first k patches off what is told of their buckets.

    Returns:
        The patches that are listed first, which bits of each are known, and the bits.
    """
    query = unpack(code[None])[0].astype(bool)
    first = target.ask(code[None], radius=None, k=k)
    if first is None or not len(first[0].items):
        return np.empty(0, np.int64), np.zeros((0, BITS), bool), np.zeros((0, BITS), bool)
    listed, buckets = first[0].items[:k], np.repeat(first[0].marks, first[0].samples)[:k]
    codes, radius = pack(np.concatenate([query[None], query ^ _ONE_BIT])), _within(first[0].uppers.max(), 1)
    parts = [codes[start : start + 11] for start in range(0, len(codes), 11)]
    seen = [answer for part in parts for answer in target.ask(part, radius=radius)]
    known, bits = np.zeros((len(listed), BITS), bool), np.zeros((len(listed), BITS), bool)
    for place, mark in enumerate(buckets.tolist()):
        told = np.array([np.nan if (far := each.told(mark)) is None else far for each in seen], float)
        change = np.nan_to_num(told[1:] - told[0])
        known[place], bits[place] = change != 0, query ^ (change < 0)
    return listed, known, bits


def planted(target, near):
    """Follow a lonely patch without knowing it by its handle: as the only one of its bucket, nearest to the query.

    Args:
        target: The node.
        near: A code that is a few bits off the patch's, bool, shape (bits,).

    Returns:
        As `flips`.
    """
    codes = pack(np.concatenate([near[None], near ^ _ONE_BIT]))
    told = np.full(len(codes), np.nan)
    for who in range(IDENTITIES):
        answers = target.ask(codes[who::IDENTITIES], radius=None, k=1, who=who)
        for place, seen in zip(range(who, len(codes), IDENTITIES), answers or (), strict=False):
            if len(seen.sizes) and seen.sizes[0] == 1:
                told[place] = seen.uppers[0]
    change = np.nan_to_num(told[1:] - told[0])
    return change != 0, near ^ (change < 0)


def lonely_codes(archive, count, seed=0, least=9):
    """Codes that lie far from all patches of an archive and from one another, uint8, shape (count, bits // 8)."""
    rng = np.random.default_rng(seed)
    found = np.empty((0, BITS // 8), np.uint8)
    while len(found) < count:
        drawn = rng.integers(0, 256, (1, BITS // 8), dtype=np.uint8)
        others = np.concatenate([archive.codes, found])
        if hamming(drawn, others).min() >= least:
            found = np.concatenate([found, drawn])
    return found


SINGLE = {
    "bit flips": flips,
    "adaptive splitting": splitting,
    "walk to a band edge": band_edge,
    "known reference item": reference,
    "silence at the cap's edge": silence,
}
"""Attacks on single patches."""
