"""What attacks by asking gain of codes, level by level, against who knows the class of each patch already."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from attacks import queries
from attacks.guessing import POINTS, Guess, Truth
from attacks.lines import Line, worst
from attacks.target import CONTROL, LEVELS, Target
from rsfed.codes import pack, unpack
from rsfed.privacy.policy import policy

BAND = 4  # bits, of the control of the walk to a band's edge
WINS = 95.0  # points of codes that an attack has to recover from the control
LINKED = 10.0  # points of codes that distances from all class codes have to give away of the control
_EXACT, _BITS, _SILENCE, _REFUSED = 1.0, 2.0, 4.0, 99.0  # limits in points
_PUBLISHED = "the largest bucket of a class tells its commonest code better than half of the archive does"
_PREDICTED = "answers tell the predicted class of a patch; who knows that already gains `beyond_cell`"


@dataclass(frozen=True)
class Size:
    """How much is attacked.

    Attributes:
        targets: Patches.
        control: Patches of the control, and where nothing is answered.
        held: Patches that the control holds: what it lists exactly takes time.
        queries: Codes of real queries.
        lonely: Planted patches.
        random: Random codes whose answers are looked at.
        repeats: Answers to one query.
        epochs: Over which a roll-over goes.
    """

    targets: int = 200
    control: int = 15
    held: int = 1500
    queries: int = 12
    lonely: int = 20
    random: int = 4000
    repeats: int = 64
    epochs: int = 12


class Judge:
    """Says what guesses about some patches gain over who knows the class of each, as its archive labels it."""

    def __init__(self, target, places):
        archive = target.archive
        self.target, self.places = target, places
        self.truth = {each: Truth.of(archive.bits, known) for each, known in (
            ("label", archive.labels), ("cell", archive.predicted),
        )}  # fmt: skip
        nothing = [()] * len(archive)
        self.base = {each: truth.score(truth.learned(nothing), places) for each, truth in self.truth.items()}
        self.linked = {each: truth.learned(all_told(target)) for each, truth in self.truth.items()}

    def best(self, found=None):
        """What the best guess gains: from what all cells tell, and from the attack or else from what is published.

        Args:
            found: For each place which bits the attack knows, and the bits; None where there is no attack beside.

        Returns:
            For each of `label` and `cell` (who is it that is gained over) points of codes and of bits; and the points
            of codes that the attack alone has right.
        """
        gains = {}
        for known, truth in self.truth.items():
            guesses = [self.linked[known]]
            if found is not None:
                guesses.append(self._with(truth, self.linked[known], found))
            elif self.target.level in {"catalogue", "sealed"}:
                guesses.append(self._of_catalogue(truth))
            scores = np.array([truth.score(guess, self.places) for guess in guesses])
            gains[known] = scores.max(axis=0) - self.base[known]
        right = 0.0
        if found is not None:
            bits = self.target.archive.bits[self.places]
            right = POINTS * float(((found[1] == bits) & found[0]).all(axis=1).mean())
        return gains, right

    def _with(self, truth, guess, found):
        codes, off = guess.codes.copy(), guess.off.copy()
        major = truth.majorities()[self.places]
        known, bits = found
        codes[self.places] = np.where(known, bits, codes[self.places])
        off[self.places] = np.where(known, bits != major, off[self.places])
        return Guess(codes, off)

    def _of_catalogue(self, truth):
        """Guess of each class the middle of its largest bucket."""
        part = self.target.catalogue.parts["rgb"]
        cells = self.target.cells.nearest(part.middles)[0]
        classes = self.target.archive.cell_classes[cells]
        codes = truth.majorities()
        for known in np.unique(truth.known):
            own = np.flatnonzero(classes == known)
            if len(own):
                codes[truth.known == known] = unpack(part.middles[own[part.sizes[own].argmax()]][None])[0].astype(bool)
        return Guess(codes, codes != truth.majorities())


def all_told(target):
    """What answers to all cells together tell of each patch, with everything recognised."""
    codes, marks = target.archive.cells, target.marks(np.arange(len(target.archive)))
    answers = [seen for start in range(0, len(codes), 4) for seen in target.ask(codes[start : start + 4]) or ()]
    if not answers:
        return [()] * len(marks)
    told = [dict(zip(seen.marks.tolist(), seen.uppers.tolist(), strict=True)) for seen in answers]
    return [tuple(each.get(mark, -1) for each in told) for mark in marks.tolist()]


def by_asking(folder, archives, size=Size(), levels=LEVELS[1:]):
    """Lines of all attacks by asking, level after level."""
    control = {each.name: attacked(folder, each.part(_drawn(each, size.held)), CONTROL, size) for each in archives}
    for level in levels:
        yield from lines(level, {each.name: attacked(folder, each, level, size) for each in archives}, control)


def attacked(folder, archive, level, size):
    """Run all attacks by asking against an archive, and return for each attack its figures."""
    count, random = (size.targets, size.random) if policy(level).by_cells else (size.control, size.control)
    places = _drawn(archive, count)
    target = Target(folder / f"{archive.name}-{level}", archive, level)
    judge, marks, found = Judge(target, places), _marked(target, places), {}
    for name, attack in queries.SINGLE.items():
        own = marks
        if level == CONTROL and attack is queries.band_edge:
            own = _marked(Target(folder / f"{archive.name}-banded", archive, level, bands=BAND), places)
        before = own[0].target.asked
        each = [attack(mark) for mark in own]
        asked = (own[0].target.asked - before) / len(own)
        found[name] = _judged(judge, tuple(map(np.array, zip(*each, strict=True)))) | {"asked": asked}
    found["random queries"] = _judged(judge, queries.random_queries(target, target.marks(places))) | {
        "random": POINTS * queries.refused_share(target, _random(random)),
        "legitimate": POINTS * queries.refused_share(target, archive.queries),
    }
    found["all cells asked"] = _judged(Judge(target, np.arange(len(archive))), None)
    found["harvest"] = _harvested(target, size)
    found["repeated query"] = _repeated(target, marks, size.repeats)
    found["planted lonely item"] = {"exact": _planted(folder, archive, level, size)}
    found["roll-over"] = _rolled_over(folder, archive, level, size)
    target.close()
    return found


def _judged(judge, found):
    gains, right = judge.best(found)
    return {
        "exact": gains["label"][0],
        "bits": gains["label"][1],
        "exact_beyond_cell": gains["cell"][0],
        "bits_beyond_cell": gains["cell"][1],
        "right": right,
    }


def _drawn(archive, count):
    return np.sort(np.random.default_rng(2).permutation(len(archive))[:count])


def _random(count):
    return np.random.default_rng(3).integers(0, 256, (count, 4), dtype=np.uint8)


def _marked(target, places):
    """The patches as attackers begin with them: at the public code of the class that their archive says."""
    archive, rng = target.archive, np.random.default_rng(4)
    cells = dict(zip(archive.cell_classes.tolist(), unpack(archive.cells).astype(bool), strict=True))
    own, marks = target.marks(np.arange(len(archive))), []
    for place in places.tolist():
        alike = np.setdiff1d(np.flatnonzero(archive.labels == archive.labels[place]), [place])
        other = int(rng.choice(alike)) if len(alike) else int(place == 0)
        reference = int(own[other]), archive.bits[other]
        marks.append(queries.Mark(target, int(own[place]), cells[int(archive.labels[place])], reference))
    return marks


def _harvested(target, size):
    """What harvesting the neighbourhood of real queries gains of the patches that are listed first."""
    archive = target.archive
    rows = {int(item): place for place, item in enumerate(target.ids)}
    chosen = np.random.default_rng(5).permutation(len(archive.queries))[: size.queries]
    places, known, bits = [], [], []
    for code in archive.queries[chosen]:
        listed, *found = queries.harvest(target, code)
        places += [rows[int(item)] for item in listed]
        known.append(found[0])
        bits.append(found[1])
    if not places:
        return dict.fromkeys(("exact", "bits", "exact_beyond_cell", "bits_beyond_cell", "right"), 0.0)
    return _judged(Judge(target, np.array(places)), (np.concatenate(known), np.concatenate(bits)))


def _repeated(target, marks, repeats):
    """How many answers to one query differ from the first, and of how many patches their mean tells the distance."""
    code = pack(marks[0].start[None])
    answers = [target.ask(code, who=who, k=5) for who in range(repeats)]
    told = {json.dumps(None if each is None else _plain(each[0])) for each in answers}
    right = []
    for mark, place in zip(marks, _drawn(target.archive, len(marks)), strict=True):
        far = mark.told(np.repeat(mark.start[None], 10, axis=0)).mean()
        true = (mark.start != target.archive.bits[place]).sum()
        right.append(abs(far - true) < 0.5)
    return {"differ": float(len(told) - 1), "right": POINTS * float(np.mean(right))}


def _plain(seen):
    return [column.tolist() for column in (seen.marks, seen.uppers, seen.sizes, seen.samples, seen.items)]


def _planted(folder, archive, level, size):
    """How many codes of lonely patches are recovered by whoever knows each but for three bits, in points."""
    lonely = queries.lonely_codes(archive, size.lonely)
    rng = np.random.default_rng(6)
    labels = rng.choice(archive.labels, size.lonely)
    whole = type(archive)(
        **vars(archive)
        | {
            "codes": np.concatenate([archive.codes, lonely]),
            "labels": np.concatenate([archive.labels, labels]),
            "features": np.concatenate([archive.features, archive.features[: size.lonely]]),
        }
    )
    target = Target(folder / f"{archive.name}-{level}-lonely", whole, level)
    exact = 0
    for code in unpack(lonely).astype(bool):
        near = code.copy()
        near[rng.permutation(32)[:3]] ^= True
        exact += bool((queries.planted(target, near)[1] == code).all())
    target.close()
    return POINTS * exact / size.lonely


def _rolled_over(folder, archive, level, size):
    """What flips gain that are spread over many epochs, in each of which new patches come."""
    start = len(archive) // 2
    target = Target(folder / f"{archive.name}-{level}-epochs", archive, level, start=start)
    count = min(size.control, start)
    places = np.sort(np.random.default_rng(7).permutation(start)[:count])
    known, bits = np.zeros((count, 32), bool), np.zeros((count, 32), bool)
    for epoch in range(size.epochs):
        for number, mark in enumerate(_marked(target, places)):
            chosen = np.arange(epoch, 32, size.epochs)
            rows = np.concatenate([mark.start[None], mark.start ^ np.eye(32, dtype=bool)[chosen]])
            told = mark.told(rows)
            change = np.nan_to_num(told[1:] - told[0])
            known[number, chosen], bits[number, chosen] = change != 0, mark.start[chosen] ^ (change < 0)
        target.wait(days=1 if policy(level).publishes else 1 / 24)
        target.serve(np.arange(start + (len(archive) - start) * (epoch + 1) // size.epochs))
    everything = policy(level).publishes  # no answer tells anything, so all patches are looked at
    judge = Judge(target, np.arange(start) if everything else places)
    judged = _judged(judge, None if everything else (known, bits))
    target.close()
    return judged


def lines(level, found, control):
    """Lines of the attacks by asking against a level.

    Args:
        level: The level.
        found: By archive what `attacked` gave for it.
        control: The same without protection.
    """
    for name in (*queries.SINGLE, "random queries", "all cells asked", "harvest", "roll-over"):
        alone, least = ("exact", LINKED) if name == "all cells asked" else ("right", WINS)
        won = worst(_of(control, name, alone), least=True)
        limits = {"exact": _EXACT, "bits": _SILENCE if name.startswith("silence") else _BITS}
        for figure, limit in limits.items():
            archives, beyond = _of(found, name, figure), _of(found, name, f"{figure}_beyond_cell")
            more = {"beyond_cell": beyond}
            if name in queries.SINGLE:
                more["codes_asked_of_control"] = worst(_of(control, name, "asked"))
            explained = _PREDICTED if worst(beyond) <= limit else _PUBLISHED
            why = explained if worst(archives) > limit else ""
            yield Line(f"{name}.{figure}", level, won, won >= least, worst(archives), limit, archives, more, why=why)
    refused, answered = _of(found, "random queries", "random"), worst(_of(control, "random queries", "random"))
    share = worst(refused, least=True)
    why = "" if share >= _REFUSED else "that many random codes lie within the reach of some class code"
    yield Line("random queries.refused", level, answered, answered == 0, share, _REFUSED, refused, least=True, why=why)
    if policy(level).by_cells:
        usual = _of(found, "random queries", "legitimate")
        yield Line("random queries.legitimate", level, 0.0, True, worst(usual), _BITS, usual)
    lonely, least = (
        _of(found, "planted lonely item", "exact"),
        worst(_of(control, "planted lonely item", "exact"), least=True),
    )
    yield Line("planted lonely item.exact", level, least, least >= WINS, worst(lonely), _EXACT, lonely)
    differ, least = _of(found, "repeated query", "differ"), worst(_of(control, "repeated query", "right"), least=True)
    more = {"distance_told": _of(found, "repeated query", "right")}
    yield Line("repeated query.differ", level, least, least >= WINS, worst(differ), 0.0, differ, more)


def _of(found, name, figure):
    """One figure of an attack by archive."""
    return {archive: float(each[name][figure]) for archive, each in found.items()}
