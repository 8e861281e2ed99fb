"""A node that lies about its codes: whether a picture gives it away, and how much of a merged ranking it takes then."""

from __future__ import annotations

import numpy as np
from honest_archives import QUERY_ID, Archive, question

from attacks.lines import Line
from rsfed.analyst.claims import Claim, Verdict, judge
from rsfed.merging.merge import merge
from rsfed.merging.shares import within_share
from rsfed.merging.validate import validate

K, HONEST, ITEMS, QUERIES = 20, 2, 400, 50
LEVEL = "partner"
DETECTED = 0.95  # of liars, by one picture: some of their items are near the query, after all


class Liar(Archive):
    """Says of all its items that they have the query's code."""

    def answer(self, query, asked):
        known, self.buckets = self.buckets, {query: [each for items in self.buckets.values() for each in items]}
        said = super().answer(query, asked)
        self.buckets = known
        return said


def lying_node():
    """Lines of one liar among honest nodes of the same size, of which an analyst has one picture of its ranking."""
    rng, asked = np.random.default_rng(13), question(k=K)
    codes = [rng.integers(0, 1 << 16, ITEMS).tolist() for _ in range(HONEST + 1)]
    names = [*(f"honest-{n}" for n in range(HONEST)), "liar"]
    found, shares, capped, fair = [], [], [], []
    for query in rng.integers(0, 1 << 16, QUERIES).tolist():
        lied, honest = (_ranked(query, asked, names, codes, liar) for liar in (Liar, Archive))
        shares.append(_share(lied[:K]))
        fair.append(_share(honest[:K]))
        capped.append(_share([lied[at] for at in within_share([n for n, _ in lied], {"liar"}, len(names), K)]))
        released = codes[-1][next(item for name, item in lied if name == "liar")]
        claim = Claim("", "rgb", LEVEL, query.to_bytes(2, "big").hex(), 0)
        verdict = judge(claim, np.frombuffer(released.to_bytes(2, "big"), np.uint8)[None], ())
        found.append(verdict is Verdict.BROKEN)
    share, own = float(np.mean(shares)), float(np.mean(fair))
    more = {"share_of_the_same_node_when_honest": own, "share_of_the_merge": share}
    won = share > 2 * own
    yield Line("lying node.detected", LEVEL, 0.0, won, float(np.mean(found)), DETECTED, {}, more, least=True)
    yield Line("lying node.share_of_merge", LEVEL, share, won, float(np.mean(capped)), 1 / len(names), {}, more)


def _ranked(query, asked, names, codes, last):
    """Node and item of each hit of a merge of all that is listed; the last node is of another kind."""
    kinds = [*[Archive] * HONEST, last]
    nodes = [kind(name, own) for kind, name, own in zip(kinds, names, codes, strict=True)]
    columns = {node.name: validate(node.response([query], asked), asked).columns[0] for node in nodes}
    merged = merge(columns, QUERY_ID, k=None)
    handles = [bytes(handle).rstrip(b".").decode().split(":") for handle in merged.hit_handles]
    return [(name, int(item)) for name, item in handles]


def _share(ranked):
    return float(np.mean([name == "liar" for name, _ in ranked]))
