"""A node that lies about its codes: whether that is found out, and how much of a merged ranking it takes."""

from __future__ import annotations

import numpy as np
from honest_archives import QUERY_ID, Archive, question

from attacks.lines import Line
from rsfed.errors import InvalidAnswer
from rsfed.merging.merge import merge
from rsfed.merging.validate import validate

K, HONEST, ITEMS, QUERIES = 20, 2, 400, 50
LEVEL = "partner"


class Liar(Archive):
    """Says of all its items that they have the query's code."""

    def answer(self, query, asked):
        known, self.buckets = self.buckets, {query: [each for items in self.buckets.values() for each in items]}
        said = super().answer(query, asked)
        self.buckets = known
        return said


def lying_node():
    """Lines of one liar among honest nodes of the same size."""
    rng, asked = np.random.default_rng(13), question(k=K)
    codes = [rng.integers(0, 1 << 16, ITEMS).tolist() for _ in range(HONEST + 1)]
    detected, shares, fair = [], [], []
    for query in rng.integers(0, 1 << 16, QUERIES).tolist():
        for liar, taken in ((Liar, shares), (Archive, fair)):
            nodes = [*(Archive(f"honest-{n}", codes[n]) for n in range(HONEST)), liar("liar", codes[-1])]
            columns, refused = {}, []
            for node in nodes:
                try:
                    columns[node.name] = validate(node.response([query], asked), asked).columns[0]
                except InvalidAnswer:
                    refused.append(node.name)
            merged = merge(columns, QUERY_ID, k=K)
            owners = merged.bucket_nodes[merged.hit_buckets]
            taken.append(float(np.mean([merged.nodes[owner] == "liar" for owner in owners])))
            if liar is Liar:
                detected.append("liar" in refused)
    share, honest = float(np.mean(shares)), float(np.mean(fair))
    more = {"share_of_the_same_node_when_honest": honest, "share_of_the_merge": share}
    won, found = share > 2 * honest, float(np.mean(detected))
    yield Line(
        "lying node.detected", LEVEL, 0.0, won, found, 1.0, {}, more, least=True, built=False,
        why="not built: no part recomputes a code from a released picture and compares it with what was claimed",
    )  # fmt: skip
    yield Line(
        "lying node.share_of_merge", LEVEL, share, won, share, None, {}, more, built=False,
        why="not built: at equal distance nodes take turns, but nothing bounds what one node has of a ranking",
    )  # fmt: skip
