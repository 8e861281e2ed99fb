"""What attacks by asking gain of codes, level by level, against who knows the class of each patch already."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from attacks import queries
from attacks.guessing import POINTS
from attacks.judging import Judge, catalogues_of_now
from attacks.lines import Line, worst
from attacks.rolling import rolled_over
from attacks.target import CONTROL, LEVELS, Target
from rsfed.codes import pack, unpack
from rsfed.privacy.policy import policy

BAND = 4  # bits, of the control of the walk to a band's edge
WINS = 95.0  # points of codes that an attack has to recover from the control
LINKED = 10.0  # points of codes that distances from all class codes have to give away of the control
_EXACT, _BITS, _SILENCE, _REFUSED = 1.0, 2.0, 4.0, 99.0  # limits in points
_PUBLISHED = "the largest bucket of a class tells its commonest code better than images of one's own do"
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
    judge, marks, found = Judge(target, places), queries.marked(target, places), {}
    for name, attack in queries.SINGLE.items():
        own = marks
        if level == CONTROL and attack is queries.band_edge:
            own = queries.marked(Target(folder / f"{archive.name}-banded", archive, level, bands=BAND), places)
        before = own[0].target.asked
        each = [attack(mark) for mark in own]
        asked = (own[0].target.asked - before) / len(own)
        found[name] = judge.judged(tuple(map(np.array, zip(*each, strict=True)))) | {"asked": asked}
    found["random queries"] = judge.judged(queries.random_queries(target, target.marks(places))) | {
        "random": POINTS * queries.refused_share(target, _random(random)),
        "legitimate": POINTS * queries.refused_share(target, archive.queries),
    }
    everything = np.arange(len(archive))
    found["all cells asked"] = Judge(target, everything, judge.told).judged(catalogues=catalogues_of_now(target))
    found["harvest"] = _harvested(target, judge.told, size)
    found["repeated query"] = _repeated(target, marks, size.repeats)
    found["planted lonely item"] = {"exact": _planted(folder, archive, level, size)}
    found["roll-over"] = rolled_over(folder, archive, level, size.control, size.epochs)
    target.close()
    return found


def _drawn(archive, count):
    return np.sort(np.random.default_rng(2).permutation(len(archive))[:count])


def _random(count):
    return np.random.default_rng(3).integers(0, 256, (count, 4), dtype=np.uint8)


def _harvested(target, told, size):
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
    return Judge(target, np.array(places), told).judged((np.concatenate(known), np.concatenate(bits)))


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
