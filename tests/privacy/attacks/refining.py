"""What refine tells of codes where it is asked about every bucket: which patches are listed together.

Granted that each listed patch is recognised in every answer, the bucket that it is in is known, and so the code in the
middle of that.
"""

from __future__ import annotations

import numpy as np

from attacks.guessing import POINTS, Guess, Truth
from attacks.lines import Line, worst
from attacks.target import Target
from rsfed.codes import unpack

LEVEL = "catalogue"
_EXACT, _BITS = 1.0, 2.0  # limits in points
_WHY = "no answer links a patch to its bucket without the node's key: handles are new in every query; this is a bound"


def refine_linked(folder, archives):
    """Lines of what codes gain from knowing the bucket of every patch that refine may list."""
    gains, alone = {}, {}
    for archive in archives:
        target = Target(folder / f"{archive.name}-refine", archive, LEVEL)
        rows = target.cataloguer.bucketed(target.connection, target.release).rows
        middles = unpack(target.catalogue.parts["rgb"].middles).astype(bool)
        buckets = np.full(len(archive), -1)
        buckets[np.searchsorted(target.ids, rows["id"])] = rows["bucket"]
        target.close()
        listed = np.flatnonzero(buckets >= 0)
        for known, classes in (("label", archive.labels), ("cell", archive.predicted)):
            truth = Truth.of(archive.bits, classes)
            base = np.array(truth.score(truth.learned([()] * len(archive)), listed))
            learned = truth.learned(buckets.tolist())
            codes = np.where((buckets >= 0)[:, None], middles[np.maximum(buckets, 0)], learned.codes)
            middle = Guess(codes, codes != truth.majorities())
            best = np.maximum(truth.score(learned, listed), truth.score(middle, listed))
            gains[known, archive.name] = best - base
            alone[archive.name] = POINTS - base[0]
    control = worst(alone, least=True)
    for place, (figure, limit) in enumerate((("exact", _EXACT), ("bits", _BITS))):
        found, beyond = (
            {each.name: float(gains[known, each.name][place]) for each in archives} for known in ("label", "cell")
        )
        why = _WHY if worst(found) > limit else ""
        more = {"beyond_cell": beyond}
        name = f"refine, all linked.{figure}"
        yield Line(name, LEVEL, control, control > limit, worst(found), limit, found, more, why=why)
