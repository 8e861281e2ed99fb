"""Attacks on what is published: two catalogues that follow each other, what a bucket is of, and whose code it tells."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from attacks.guessing import POINTS
from attacks.lines import Line, worst
from attacks.target import CONTROL, Target
from node.cataloguing import _Held
from rsfed.codes import hamming, unpack
from rsfed.privacy.counts import MOST_EPSILON, noisy
from rsfed.privacy.policy import policy
from rsfed.privacy.publication import acquisition_numbers

PER = 50  # patches of an acquisition: the kind that is hidden worst
BASE = 100  # acquisitions that an archive holds before it is updated
TRIALS = 600  # half of them choose how to tell, the other half are counted
CONTROL_TRIALS = 40
LEVELS = ("catalogue", "sealed", "counts")
_LIMITS = {"catalogue": 0.25, "sealed": 0.15, "counts": 0.15}


def publication(target, cataloguer, codes, acquisitions):
    """What a node at a level publishes of these patches: middles of buckets (none at counts), and told counts."""
    held, most = held_of(target, codes, acquisitions), cataloguer._section.counted_patches
    groups = cataloguer._groups(target.release, held)
    counts = cataloguer._true_counts({"rgb": held}, {"rgb": groups}, most)
    return groups.middles, noisy(counts, most_patches=most, epsilon=MOST_EPSILON)


def held_of(target, codes, acquisitions):
    return _Held(np.arange(len(codes)), codes, acquisitions.astype(np.uint64), target.cells.nearest(codes)[0])


class Updates:
    """Archives of acquisitions of one class each that are updated, with a certain acquisition among what comes or not.

    Args:
        archive: Whose codes they have.
        batch: Acquisitions that come in an update.
        seed: Of the draws.
        per: Patches of an acquisition.
        base: Acquisitions before.
    """

    def __init__(self, archive, batch, seed, *, per=PER, base=BASE):
        self.rng = np.random.default_rng(seed)
        self.archive, self.batch, self.per, self.base = archive, batch, per, base
        self.pools = {each: np.flatnonzero(archive.labels == each) for each in np.unique(archive.labels)}

    def draw(self, *, member):
        """Return the places of patches before and after, their acquisitions, and the places of the one asked about."""
        total = self.base + self.batch + 1
        classes = self.rng.choice(list(self.pools), total)
        places = np.concatenate([self.rng.choice(self.pools[each], self.per) for each in classes])
        names = np.repeat(np.arange(total), self.per)
        target = total - 1
        after = (names < target - 1) | (names == (target if member else target - 1))
        return (places, names), names < self.base, after, places[names == target]


def told_of_member(one, other, own):
    """Figures of two publications that may tell whether certain patches came between them."""
    figures = []
    for middles, told in (one, other):
        far = hamming(own, middles)
        near = far.argmin(axis=1)
        figures.append([far.min(axis=1).mean(), told[near].sum() / len(own), (far.min(axis=1) == 0).mean()])
    before = {middle.tobytes() for middle in one[0]}
    new = np.array([middle for middle in other[0] if middle.tobytes() not in before])
    nearest = hamming(own, new).min(axis=1).mean() if len(new) else 8.0 * own.shape[1]
    change = np.subtract(figures[1], figures[0])
    return [*change, figures[1][0], figures[1][2], nearest, len(other[0]) - len(one[0])]


def advantage(figures, member):
    """How much likelier members are called members: by a forest or the best single figure, chosen on one half."""
    figures, member = np.array(figures, float), np.array(member, bool)
    half = len(member) // 2
    learnt, asked = slice(0, half), slice(half, None)

    def of(said):
        return float(said[member[asked]].mean() - said[~member[asked]].mean())

    forest = RandomForestClassifier(100, min_samples_leaf=max(1, half // 30), random_state=0, n_jobs=1)
    found = [of(forest.fit(figures[learnt], member[learnt]).predict(figures[asked]))]
    choices = []
    for column in np.concatenate([figures, -figures], axis=1).T:
        for edge in np.unique(column[learnt])[:: max(1, half // 50)]:
            said = column[learnt] >= edge
            gain = said[member[learnt]].mean() - said[~member[learnt]].mean()
            choices.append((gain, of(column[asked] >= edge)))
    return max([*found, max(choices)[1], 0.0])


def differencing(folder, archive, *, trials=TRIALS, control_trials=CONTROL_TRIALS, per=PER, base=BASE, levels=LEVELS):
    """Lines of membership by comparing what was published before and after an update."""
    won = _control_advantage(folder, archive, control_trials, per, base)
    for level in levels:
        target = Target(folder / f"differencing-{level}", archive.part(np.arange(60)), level)
        cataloguer = target.make_cataloguer(counted_patches=min(50, per))
        updates = Updates(archive, policy(level).least_acquisitions, 1, per=per, base=base)
        member = np.arange(trials) % 2 == 1
        figures = []
        for each in member:
            (places, names), before, after, own = updates.draw(member=bool(each))
            pair = [
                publication(target, cataloguer, archive.codes[places[which]], names[which]) for which in (before, after)
            ]
            own_codes = archive.codes[own]
            if level == "counts":
                counts = target.cells.nearest(own_codes)[0]
                change = (pair[1][1] - pair[0][1])[counts].mean()
                figures.append([change, pair[1][1][counts].mean()])
            else:
                figures.append(told_of_member(*pair, own_codes))
        target.close()
        found = advantage(figures, member)
        error = (1 / (trials // 2)) ** 0.5
        yield Line(
            "differencing two catalogues.advantage", level, won, won >= 0.9, found, _LIMITS[level],
            {archive.name: found}, {"standard_error_at_most": error, "updates": trials},
        )  # fmt: skip


def _control_advantage(folder, archive, trials, per, base):
    """The same from exact sizes of buckets before and after, by asking a node without protection."""
    batch = policy("catalogue").least_acquisitions
    updates = Updates(archive, batch, 2, per=per, base=base)
    (places, names), *_ = updates.draw(member=True)
    target = Target(
        folder / "differencing-control", archive.part(places), CONTROL, names=[f"flight {n}" for n in names]
    )
    total, right = base + batch + 1, []
    for trial in range(trials):
        order = updates.rng.permutation(total)
        asked, member = order[-1], trial % 2 == 1
        own = np.flatnonzero(names == asked)
        words, needed = np.unique(target.archive.codes[own], axis=0, return_counts=True)
        after = [*order[:-2].tolist(), asked if member else order[-2]]
        counts = []
        for held in (order[:base], after):
            target.serve(np.flatnonzero(np.isin(names, held)))
            seen = [
                each for start in range(0, len(words), 64) for each in target.ask(words[start : start + 64], radius=0)
            ]
            counts.append([int(each.sizes.sum()) for each in seen])
        said = bool((np.subtract(*reversed(counts)) >= needed).all())
        right.append((member, said))
    target.close()
    told = np.array(right)
    return float(told[told[:, 0], 1].mean() - told[~told[:, 0], 1].mean())


def floors(folder, archives, levels=("catalogue", "sealed")):
    """Lines of the least acquisitions that a bucket is of, where acquisitions have 1, 5 and 20 patches."""
    for level in levels:
        found = {}
        for archive in archives:
            target = Target(folder / f"{archive.name}-floors-{level}", archive.part(np.arange(60)), level)
            least = []
            for per in (1, 5, 20):
                behind = np.arange(len(archive)) // per
                groups = target.cataloguer._groups(target.release, held_of(target, archive.codes, behind))
                least += [len(np.unique(behind[groups.places == each])) for each in range(len(groups.middles))]
            target.close()
            found[archive.name] = float(min(least))
        alone = float(min(np.unique(each.codes, axis=0, return_counts=True)[1].min() for each in archives))
        floor = policy(level).floor
        yield Line(
            "bucket of few.acquisitions",
            level,
            alone,
            alone < floor,
            worst(found, least=True),
            floor,
            found,
            least=True,
        )


def inversion(folder, archives, levels=("catalogue", "sealed")):
    """Lines of scenes that are told from the code of one entry, by hashing candidates or by a trained decoder.

    An entry is drawn, and a scene of it; whoever has all scenes of the archive as pictures has to say which it is.
    """
    for level in levels:
        found, controls = {}, {}
        for archive in archives:
            target = Target(folder / f"{archive.name}-inversion-{level}", archive.part(np.arange(60)), level)
            held = held_of(target, archive.codes, acquisition_numbers(map(str, range(len(archive)))))
            groups = target.cataloguer._groups(target.release, held)
            target.close()
            words, alone = np.unique(archive.codes, axis=0, return_inverse=True)
            found[archive.name] = _identified(archive, groups.middles, groups.places)
            controls[archive.name] = _identified(archive, words, alone.reshape(-1))
        limit = POINTS / policy(level).floor + 5.0
        control = worst(controls, least=True)
        yield Line("inverting codes.identified", level, control, control > limit, worst(found), limit, found)


def _identified(archive, middles, places):
    """The share of entries, in points, whose scene is named rightly; the better of the two ways to name."""
    decoder = _decoder(archive)
    features = archive.features - archive.features.mean(axis=0)
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    named = {"hashed": [], "decoded": []}
    for number, middle in enumerate(middles):
        members = np.flatnonzero(places == number)
        far = hamming(middle[None], archive.codes)[0]
        nearest = np.flatnonzero(far == far.min())
        named["hashed"].append(np.isin(nearest, members).sum() / len(nearest) / len(members))
        best = nearest[(features[nearest] @ decoder(middle)).argmax()]
        named["decoded"].append(float(best in members) / len(members))
    return POINTS * max(float(np.mean(each)) for each in named.values())


def _decoder(archive, ridge=10.0):
    """Learn from images that the archive does not hold to turn a code into the features of what it shows."""
    signs = np.c_[2.0 * unpack(archive.queries) - 1, np.ones(len(archive.queries))]
    aims = archive.query_features - archive.query_features.mean(axis=0)
    solved = np.linalg.solve(signs.T @ signs + ridge * np.eye(signs.shape[1]), signs.T @ aims)
    return lambda code: np.r_[2.0 * unpack(code[None])[0] - 1, 1.0] @ solved
