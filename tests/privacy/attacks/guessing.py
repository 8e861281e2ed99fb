"""What counts as a gain: guesses of codes, against one who knows the public class codes, each patch's class and the
prior of the class.

Codes count where they are exact, bits by balanced accuracy of whether they are off the public code of the patch's
class. Who guesses knows no code of the archive: what is usual in a class, and what follows from what is told, is learnt
from images of their own, held out of training and of no archive, which anybody who has the release can hash.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from rsfed.codes import unpack

POINTS = 100.0
UNTOLD = ()
"""What is told of a patch of which nothing is."""
_WEIGHT = 2.0  # images that a belief counts as which none of one's own supports


@dataclass(frozen=True)
class Guess:
    """Guesses for some patches.

    Attributes:
        codes: bool, shape (n, bits).
        off: Whether each bit is off the public code of the patch's class, bool, shape (n, bits).
    """

    codes: np.ndarray
    off: np.ndarray


@dataclass(frozen=True)
class Told:
    """What is told of each patch of an archive, and would be told of images of one's own if the archive held them.

    Attributes:
        archive: Hashable, UNTOLD where nothing is.
        own: The same of one's own images.
        hints: The code that what is told of each patch of the archive points at, bool, shape (n, bits).
    """

    archive: list
    own: list
    hints: np.ndarray


@dataclass(frozen=True)
class Patches:
    """Codes, and the class of each that counts as known.

    Attributes:
        bits: bool, shape (n, bits).
        known: int64, shape (n,).
        centres: The public code of that class, bool, shape (n, bits).
    """

    bits: np.ndarray
    known: np.ndarray
    centres: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What is guessed, and the images of their own that all who guess have.

    Attributes:
        archive: What is guessed.
        own: Of images that no archive holds.
    """

    archive: Patches
    own: Patches

    @classmethod
    def of(cls, archive, by):
        """Take the class of each patch as known: its `label`, or that of its nearest public code, its `cell`."""
        public = dict(zip(archive.cell_classes.tolist(), unpack(archive.cells).astype(bool), strict=True))

        def patches(codes, known):
            centres = np.array([public[each] for each in known.tolist()]).reshape(len(codes), -1)
            return Patches(unpack(codes).astype(bool), known, centres)

        if by == "label":
            return cls(patches(archive.codes, archive.labels), patches(archive.queries, archive.query_labels))
        return cls(patches(archive.codes, archive.predicted), patches(archive.queries, archive.query_predicted))

    def untold(self) -> list[Guess]:
        """The guesses of one whom the archive tells nothing: the public code, or what is commonest in the class."""
        usual = self.learned(
            Told([UNTOLD] * len(self.archive.bits), [UNTOLD] * len(self.own.bits), self.archive.centres)
        )
        return [Guess(self.archive.centres, usual.off), usual]

    def hinted(self, hints) -> Guess:
        """The guess that each patch has exactly the code that something told of it points at."""
        return Guess(hints, hints != self.archive.centres)

    def learned(self, told: Told) -> Guess:
        """Guess from what is told of each patch: what is commonest among one's own images of which that is told, too.

        Where there is none of the class, those of any class count; where there is none at all, what is told points at
        a code.
        """
        learner = _Learner(self.own, told.own)
        codes, off = np.empty_like(self.archive.bits), np.empty_like(self.archive.bits)
        rows = zip(self.archive.known.tolist(), told.archive, told.hints, self.archive.centres, strict=True)
        for place, (known, sign, hint, centre) in enumerate(rows):
            codes[place] = learner.code(known, sign, hint)
            off[place] = np.abs(learner.set_bits(known, sign, hint) - centre) > learner.usual
        return Guess(codes, off)

    def believed(self, beliefs, own, hints) -> Guess:
        """Guess from how likely each of some things is that are known of one's own images.

        Args:
            beliefs: Of each patch of the archive, shape (n, things), adding up to 1.
            own: Which of them is known of each image of one's own, as a number.
            hints: The code that each points at, bool, shape (things, bits).
        """
        learner, things = _Learner(self.own, own), range(len(hints))
        codes, off = np.empty_like(self.archive.bits), np.empty_like(self.archive.bits)
        for known in np.unique(self.archive.known).tolist():
            chosen = np.flatnonzero(self.archive.known == known)
            likeliest = np.array([learner.code(known, each, hints[each]) for each in things])
            likely = np.array([learner.set_bits(known, each, hints[each]) for each in things])
            codes[chosen] = likeliest[beliefs[chosen].argmax(axis=1)]
            off[chosen] = np.abs(beliefs[chosen] @ likely - self.archive.centres[chosen]) > learner.usual
        return Guess(codes, off)

    def score(self, guess: Guess, places) -> np.ndarray:
        """The share of codes that are exact and the balanced accuracy of bits, both in points, of some patches."""
        bits, said = self.archive.bits[places], guess.off[places]
        off = bits != self.archive.centres[places]
        parts = [said[off].mean() if off.any() else 1.0, (~said)[~off].mean() if (~off).any() else 1.0]
        return POINTS * np.array([(guess.codes[places] == bits).all(axis=1).mean(), np.mean(parts)])

    def gain(self, guesses, places, beside=()) -> np.ndarray:
        """What the best of some guesses gains over who is told nothing: points of codes, and of bits.

        Args:
            guesses: What is guessed of the archive.
            places: The patches that count.
            beside: What is guessed by who is told nothing either, but knows something else of each patch.
        """
        base = np.max([self.score(guess, places) for guess in (*self.untold(), *beside)], axis=0)
        return np.max([base, *(self.score(guess, places) for guess in guesses)], axis=0) - base


class _Learner:
    """What follows for a code from the class of an image and from what is told of it, as one's own images show."""

    def __init__(self, own, told):
        known = own.known.tolist()
        self._of_class, self._of_told = _Seen(own, known), _Seen(own, told)
        self._of_both = _Seen(own, list(zip(known, told, strict=True)))
        self.usual = float((own.bits != own.centres).mean())  # how often a bit is off the public code of its class

    def code(self, known, sign, hint):
        """The likeliest code; `hint` where one's own images say nothing."""
        if sign == UNTOLD:
            return self._of_class.commonest(known, hint)
        return self._of_both.commonest((known, sign), self._of_told.commonest(sign, hint))

    def set_bits(self, known, sign, hint):
        """How likely each bit is set, shape (bits,)."""
        belief = np.where(hint, 1 - self.usual, self.usual)
        if sign == UNTOLD:
            return self._of_class.set_bits(known, belief)
        return self._of_both.set_bits((known, sign), self._of_told.set_bits(sign, belief))


class _Seen:
    """One's own images by something that is known of each."""

    def __init__(self, own, signs):
        self._words, self._sums, self._counts = defaultdict(Counter), {}, Counter()
        for bits, sign in zip(own.bits, signs, strict=True):
            self._words[sign][bits.tobytes()] += 1
            self._sums[sign] = self._sums.get(sign, 0.0) + bits
            self._counts[sign] += 1

    def commonest(self, sign, otherwise):
        """The commonest code of those alike; `otherwise` where there is none."""
        words = self._words.get(sign)
        return np.frombuffer(words.most_common(1)[0][0], bool) if words else otherwise

    def set_bits(self, sign, belief):
        """How likely each bit is set among those alike, shape (bits,), mixed with what was believed before."""
        return (self._sums.get(sign, 0.0) + _WEIGHT * belief) / (self._counts[sign] + _WEIGHT)
