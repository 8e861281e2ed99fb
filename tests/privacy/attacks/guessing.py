"""What counts as a gain: guesses of codes, against one who knows the public class codes, each patch's class and the
prior of the class.

Codes count where they are exact, bits by balanced accuracy of whether they are off the majority of the class. Who
guesses knows the codes of one half of the archive and guesses those of the other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

POINTS = 100.0


@dataclass(frozen=True)
class Guess:
    """Guesses for some patches.

    Attributes:
        codes: bool, shape (n, bits).
        off: Whether each bit is off the majority of the patch's class, bool, shape (n, bits).
    """

    codes: np.ndarray
    off: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What is guessed: bits of all patches, the class that counts as known, and the half that each patch is in.

    Attributes:
        bits: bool, shape (n, bits).
        known: int64, shape (n,).
        half: 0 or 1, shape (n,).
    """

    bits: np.ndarray
    known: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, bits, known):
        return cls(bits, np.asarray(known), np.random.default_rng(20).integers(0, 2, len(bits)))

    def majorities(self):
        """The majority of each patch's class among the other half, bool, shape (n, bits)."""
        found = np.zeros_like(self.bits)
        for half in (0, 1):
            for known in np.unique(self.known):
                learnt = self.bits[(self.half != half) & (self.known == known)]
                if len(learnt):
                    found[(self.half == half) & (self.known == known)] = learnt.mean(axis=0) > 0.5
        return found

    def learned(self, signatures) -> Guess:
        """Guess from what is told of each patch: the commonest code, and the bits that are off most, of those alike.

        Args:
            signatures: What is told of each patch, hashable.
        """
        major = self.majorities()
        off = self.bits != major
        codes, told = np.zeros_like(self.bits), np.zeros_like(self.bits)
        for half in (0, 1):
            learnt, asked = np.flatnonzero(self.half != half), np.flatnonzero(self.half == half)
            alike, of_class = defaultdict(Counter), defaultdict(Counter)
            sums, counts = defaultdict(lambda: np.zeros(self.bits.shape[1])), Counter()
            for place in learnt.tolist():
                sign, known, word = (int(self.known[place]), signatures[place]), int(self.known[place]), place
                packed = self.bits[word].tobytes()
                alike[sign][packed] += 1
                of_class[known][packed] += 1
                sums[sign] += off[place]
                counts[sign] += 1
            rate = {
                known: off[learnt][self.known[learnt] == known].mean(axis=0) for known in np.unique(self.known[learnt])
            }
            usual = np.mean([rate[known] for known in self.known[learnt]], axis=0) if len(learnt) else 0.0
            overall = float(np.mean(usual))
            for place in asked.tolist():
                known = int(self.known[place])
                sign = known, signatures[place]
                words = alike[sign] or of_class[known]
                if words:
                    codes[place] = np.frombuffer(words.most_common(1)[0][0], bool)
                prior = rate.get(known, np.zeros(self.bits.shape[1]))
                told[place] = (sums[sign] + 2 * prior) / (counts[sign] + 2) > overall
        return Guess(codes, told)

    def score(self, guess: Guess, places) -> tuple[float, float]:
        """The share of codes that are exact and the balanced accuracy of bits, both in points, of some patches."""
        off = (self.bits != self.majorities())[places]
        exact = (guess.codes[places] == self.bits[places]).all(axis=1).mean()
        said = guess.off[places]
        parts = [said[off].mean() if off.any() else 1.0, (~said)[~off].mean() if (~off).any() else 1.0]
        return POINTS * float(exact), POINTS * float(np.mean(parts))
