"""What attackers gain of the codes of some patches from all that a node tells, against who knows the class of each."""

from __future__ import annotations

from collections import Counter

import numpy as np

from attacks.guessing import POINTS, UNTOLD, Guess, Told, Truth
from rsfed.codes import hamming, unpack
from rsfed.privacy.policy import policy


class Judge:
    """Says what guesses about some patches gain over who knows the class of each: as labelled, and as predicted.

    Args:
        target: The node.
        places: The patches.
        told: What answers tell of all of its archive; that of now to all cells where it is None.
    """

    def __init__(self, target, places, told=None):
        self.target, self.places = target, places
        self.truth = {by: Truth.of(target.archive, by) for by in ("label", "cell")}
        self.told = all_told(target) if told is None else told

    def best(self, found=None, catalogues=None):
        """What the best guess gains: from what all cells tell, and from the attack and what is published.

        Args:
            found: For each place which bits the attack knows, and the bits; None where there is no attack beside.
            catalogues: What was published, as `Catalogues`; None where it is not looked at.

        Returns:
            For each of `label` and `cell` (who is it that is gained over) points of codes and of bits; and the points
            of codes that the attack alone has right.
        """
        gains = {}
        for by, truth in self.truth.items():
            guesses = [truth.learned(self.told), truth.hinted(self.told.hints)]
            if catalogues is not None:
                guesses += [truth.hinted(each) for each in catalogues.hints(truth.archive)]
            if found is not None:
                guesses.append(self._with(truth, guesses[0], found))
            gains[by] = truth.gain(guesses, self.places)
        right = 0.0
        if found is not None:
            bits = self.target.archive.bits[self.places]
            right = POINTS * float(((found[1] == bits) & found[0]).all(axis=1).mean())
        return gains, right

    def judged(self, found=None, catalogues=None):
        """The same as figures."""
        gains, right = self.best(found, catalogues)
        return figures(gains) | {"right": right}

    def _with(self, truth, guess, found):
        codes, off = guess.codes.copy(), guess.off.copy()
        known, bits = found
        codes[self.places] = np.where(known, bits, codes[self.places])
        off[self.places] = np.where(known, bits != truth.archive.centres[self.places], off[self.places])
        return Guess(codes, off)


def figures(gains):
    """Gains over who knows the label and over who knows the cell, by name."""
    (exact, bits), (exact_beyond, bits_beyond) = gains["label"].tolist(), gains["cell"].tolist()
    return {"exact": exact, "bits": bits, "exact_beyond_cell": exact_beyond, "bits_beyond_cell": bits_beyond}


def all_told(target):
    """What answers to all cells together tell of each patch, with everything recognised."""
    archive = target.archive
    codes, marks = archive.cells, target.marks(np.arange(len(archive)))
    answers = [seen for start in range(0, len(codes), 4) for seen in target.ask(codes[start : start + 4]) or ()]
    hints = Truth.of(archive, "label").archive.centres.copy()
    if not answers:
        return Told([UNTOLD] * len(archive), [UNTOLD] * len(archive.queries), hints)
    told = [dict(zip(seen.marks.tolist(), seen.uppers.tolist(), strict=True)) for seen in answers]

    def signs(marks):
        rows = [tuple(each.get(mark, -1) for each in told) for mark in marks.tolist()]
        return [UNTOLD if max(row) < 0 else row for row in rows]

    if policy(target.level).by_cells:
        own = signs(-1 - target.cells.nearest(archive.queries)[0])
    else:
        own = [tuple(row) for row in hamming(archive.queries, codes).tolist()]
    found = signs(marks)
    nearest = [min((far, cell) for cell, far in enumerate(row) if far >= 0)[1] if row else None for row in found]
    public = unpack(codes).astype(bool)
    for place, cell in enumerate(nearest):
        if cell is not None:
            hints[place] = public[cell]
    return Told(found, own, hints)


def together(tolds):
    """What the answers of several epochs tell together: of each patch all that was told of it in any of them."""

    def joined(columns):
        rows = ([each for each in signs if each != UNTOLD] for signs in zip(*columns, strict=True))
        return [tuple(map(max, zip(*some, strict=True))) if some else UNTOLD for some in rows]

    hints = tolds[0].hints.copy()
    for each in tolds:
        said = np.array([sign != UNTOLD for sign in each.archive])
        hints[said] = each.hints[said]
    return Told(joined([each.archive for each in tolds]), joined([each.own for each in tolds]), hints)


def published(target):
    """Middles and told sizes of the buckets that a node publishes now; None at levels without."""
    if target.level not in {"catalogue", "sealed"}:
        return None
    part = target.catalogue.parts["rgb"]
    return part.middles, part.sizes.astype(np.int64)


def catalogues_of_now(target):
    """What is published now, as `Catalogues`; None at levels without."""
    now = published(target)
    arrived = np.zeros(len(target.archive), np.int64)
    return None if now is None else Catalogues([now], target.cells, target.archive.cell_classes, arrived)


class Catalogues:
    """Catalogues that a node published one after the other.

    Args:
        published: Of each the middles of its buckets, packed, and their told sizes.
        cells: The cells of the release.
        classes: The class of each cell.
        arrived: The first of them that each patch may be in; attackers know when it was taken.
    """

    def __init__(self, published, cells, classes, arrived):
        self.arrived = arrived
        self.tables = [self._table(middles, sizes, cells, classes) for middles, sizes in published]

    @staticmethod
    def _table(middles, sizes, cells, classes):
        """By class the size of the bucket of each middle."""
        table = {each: Counter() for each in classes.tolist()}
        for middle, size, cell in zip(middles, sizes.tolist(), cells.nearest(middles)[0].tolist(), strict=True):
            table[int(classes[cell])][middle.tobytes()] += size
        return table

    def hints(self, patches):
        """Codes that catalogues point at for patches whose class is known, bool, shape (n, bits) each.

        - the middle of the largest bucket of the class, in all catalogues together: noise averages out;
        - the middle of the bucket that grew most when the patch came;
        - the largest middle that was new then.
        """
        found = [patches.centres.copy() for _ in range(3)]
        for known in np.unique(patches.known).tolist():
            tables = [each.get(known, Counter()) for each in self.tables]
            total = sum(tables, Counter())
            for arrived in np.unique(self.arrived).tolist():
                chosen = (patches.known == known) & (self.arrived == arrived)
                before, after = tables[arrived - 1] if arrived else Counter(), tables[arrived]
                earlier = set().union(*tables[:arrived])
                grown = Counter({middle: size - before[middle] for middle, size in after.items()})
                new = Counter({middle: size for middle, size in after.items() if middle not in earlier})
                for codes, counts in zip(found, (total, grown, new), strict=True):
                    if counts:
                        middle = max(counts, key=lambda each: (counts[each], each))
                        codes[chosen] = unpack(np.frombuffer(middle, np.uint8)[None])[0].astype(bool)
        return found
