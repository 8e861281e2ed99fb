"""What refine tells of codes: where ten colluding analysts spend all that it may be asked, and in the worst case.

Answers name patches by handles that are new in every query. Who could link them would know which patches are listed
together, so the bucket of each and the code in the middle of that. The control is a node whose handles stay; the worst
case grants that every patch that may be listed is recognised.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from attacks.guessing import POINTS, UNTOLD, Told, Truth
from attacks.judging import catalogues_of_now, figures
from attacks.lines import Line, worst
from attacks.target import IDENTITIES, Target
from rsfed.clock import Deadline
from rsfed.codes import hamming, unpack
from rsfed.trust.envelope import REFINE_SLOTS, refine_slots
from rsfed.v1.envelope_pb2 import RefineBuckets
from rsfed.wire import HANDLE_BYTES

LEVEL = "catalogue"
ANSWERS, CONTROL_ANSWERS = 500, 40  # `policy.refine_budget`: its default, and that of the control
_EXACT, _BITS = 1.0, 2.0  # limits in points
_SOON = 60.0  # seconds
_WHY = "no answer links a patch to its bucket without the node's key: handles are new in every query; this is a bound"


class Lasting:
    """Handles of a node without protection: those of a patch are the same in every query."""

    def __init__(self, handles):
        self._handles = handles

    def seal(self, ids, salt):
        return self._handles.seal(ids, bytes(len(salt)))


def refine_spent(folder, archives, answers=ANSWERS, control_answers=CONTROL_ANSWERS):
    """Lines of what codes gain from all answers that ten analysts get until the budget of every bucket is spent."""
    found, control = {}, {}
    for archive in archives:
        found[archive.name] = _spent(folder / f"{archive.name}-refine-spent", archive, answers, lasting=False)
        control[archive.name] = _spent(
            folder / f"{archive.name}-refine-lasting", archive, control_answers, lasting=True
        )
    won = worst({name: each["exact"] for name, each in control.items()}, least=True)
    facts = {name: {key: each[key] for key in ("answers", "least", "most", "linked")} for name, each in found.items()}
    for figure, limit in (("exact", _EXACT), ("bits", _BITS)):
        gained, beyond = (
            {name: each[key] for name, each in found.items()} for key in (figure, f"{figure}_beyond_cell")
        )
        more = {"beyond_cell": beyond, "spent": facts}
        yield Line(f"refine, budget spent.{figure}", LEVEL, won, won > limit, worst(gained), limit, gained, more)


def _spent(folder, archive, answers, *, lasting):
    """Spend the budget of every bucket; return what codes gain, and of the answers about buckets how many there were,
    the least and the most about one, and how many handles came twice."""
    target = Target(folder, archive, LEVEL)
    handles = Lasting(target.handles) if lasting else target.handles
    refiner = target.make_refiner(answers, handles)
    told, got, listed, seen = Counter(), defaultdict(set), defaultdict(set), Counter()
    buckets = np.arange(len(target.catalogue.parts["rgb"].middles))
    for group in np.array_split(buckets, -(-len(buckets) // REFINE_SLOTS)):
        for who in range(IDENTITIES):
            for bucket, given in _until_spent(target, refiner, group.tolist(), who):
                told[bucket] += 1
                seen.update(given)
                got[bucket].update(given)
                listed[bucket].update(target.opened(b"".join(given)).tolist())
    refiner.budgets.close()
    # A handle that comes twice is the same patch: whoever recognises it there knows the bucket, and so its middle.
    linked = {each for each, times in seen.items() if times > 1}
    known = {bucket: target.opened(b"".join(handles & linked)).tolist() for bucket, handles in got.items()}
    bucket_of = np.full(len(archive), -1)
    for bucket, items in known.items():
        bucket_of[np.searchsorted(target.ids, items)] = bucket
    everybody = np.searchsorted(target.ids, sorted(set().union(*listed.values())))
    gains = _gains(target, bucket_of, everybody)
    target.close()
    counts = [told[bucket] for bucket in buckets.tolist()]
    return gains | {"answers": sum(counts), "least": min(counts), "most": max(counts), "linked": len(linked)}


def _until_spent(target, refiner, buckets, who):
    """Yield the buckets and handles of all answers that one analyst gets."""
    buckets = list(buckets)
    while buckets:
        refine = RefineBuckets(epoch=target.served.bucketed.epoch, buckets=refine_slots(buckets))
        fields = {"k": 0, "answer_key": bytes(32), "refine": refine}
        signed = target.analysts[who].ask(target.release, (), **fields)
        answer = refiner.refine(signed, Deadline.after(_SOON))
        counts = np.frombuffer(answer.counts, "<u4").astype(int)
        cut = [answer.item_handles[at : at + HANDLE_BYTES] for at in range(0, len(answer.item_handles), HANDLE_BYTES)]
        ends = np.cumsum(counts)
        yield from (
            (each, cut[end - count : end]) for each, count, end in zip(buckets, counts, ends, strict=True) if count
        )
        buckets = [each for each, count in zip(buckets, counts, strict=True) if count]


def refine_linked(folder, archives):
    """Lines of what codes gain from knowing the bucket of every patch that refine may list."""
    gains, alone = {}, {}
    for archive in archives:
        target = Target(folder / f"{archive.name}-refine", archive, LEVEL)
        rows = target.served.bucketed.rows
        buckets = np.full(len(archive), -1)
        buckets[np.searchsorted(target.ids, rows["id"])] = rows["bucket"]
        listed = np.flatnonzero(buckets >= 0)
        gains[archive.name] = _gains(target, buckets, listed)
        truth = Truth.of(archive, "label")
        alone[archive.name] = POINTS - max(truth.score(guess, listed)[0] for guess in truth.untold())
        target.close()
    control = worst(alone, least=True)
    for figure, limit in (("exact", _EXACT), ("bits", _BITS)):
        found, beyond = ({name: each[key] for name, each in gains.items()} for key in (figure, f"{figure}_beyond_cell"))
        why = _WHY if worst(found) > limit else ""
        more = {"beyond_cell": beyond}
        name = f"refine, all linked.{figure}"
        yield Line(name, LEVEL, control, control > limit, worst(found), limit, found, more, why=why)


def _gains(target, buckets, places):
    """What codes of some patches gain from the catalogue and the bucket of each; -1 where that is unknown."""
    archive = target.archive
    middles = target.catalogue.parts["rgb"].middles
    own = hamming(archive.queries, middles).argmin(axis=1).tolist()
    signs = [UNTOLD if bucket < 0 else bucket for bucket in buckets.tolist()]
    known = (buckets >= 0)[:, None]
    gains = {}
    for by in ("label", "cell"):
        truth = Truth.of(archive, by)
        hints = np.where(known, unpack(middles).astype(bool)[np.maximum(buckets, 0)], truth.archive.centres)
        published = [truth.hinted(each) for each in catalogues_of_now(target).hints(truth.archive)]
        gains[by] = truth.gain([truth.learned(Told(signs, own, hints)), truth.hinted(hints), *published], places)
    return figures(gains)
