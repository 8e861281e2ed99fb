"""Small archives of codes that answer as an honest node does, written for plainness: the oracle of the merge tests."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from rsfed.merging.answers import Question
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1 import outcome_pb2 as outcome

QUERY_ID = bytes(range(16))
DIGEST = b"\7" * 32


def question(**changes):
    return Question(**{"query_id": QUERY_ID, "release_digest": DIGEST, "bits": 16, "codes": 1, "k": 3} | changes)


@dataclass
class Archive:
    """Codes of one node as whole numbers; an item's handle says whose it is and where it ranks."""

    name: str
    codes: list[int]
    footprints: bool = False
    buckets: dict[int, list[bytes]] = field(init=False)

    def __post_init__(self):
        self.buckets = defaultdict(list)
        for item, code in enumerate(self.codes):
            self.buckets[code].append(f"{self.name}:{item}".encode().ljust(16, b"."))

    def ranked(self, query):
        """All items as (distance, handle) in the node's own order."""
        return [(d, handle) for d, code in self._near(query) for handle in self.buckets[code]]

    def _near(self, query):
        return sorted(((code ^ query).bit_count(), code) for code in self.buckets)

    def answer(self, query, asked):
        rows, seen, last = [], 0, 0
        for distance, code in self._near(query):
            if asked.radius is not None and distance > asked.radius:
                break
            if asked.radius is None and seen >= asked.k and distance > last:
                break
            rows.append((distance, code, self.buckets[code]))
            seen, last = seen + len(self.buckets[code]), distance
        listed = [handle for _, _, handles in rows for handle in handles[: asked.k]]
        box = np.tile(np.array([1, 2, 3, 4], "<i4") * 10**7, (len(listed), 1)).tobytes()
        return pb.BucketAnswer(
            band_width=1,
            examined=len(self.codes),
            held=len(self.codes),
            bucket_handles=b"".join(f"{self.name}/{code}".encode().ljust(16, b".") for _, code, _ in rows),
            distance_upper=np.array([d for d, _, _ in rows], "<u2").tobytes(),
            bucket_sizes=np.array([len(h) for _, _, h in rows], "<u4").tobytes(),
            sample_counts=np.array([min(len(h), asked.k) for _, _, h in rows], "<u4").tobytes(),
            item_handles=b"".join(listed),
            footprints=box if self.footprints else None,
            withheld=outcome.WITHHELD_REASON_NOTHING,
        )

    def response(self, queries, asked):
        return pb.ArchiveServiceSearchResponse(
            query_id=asked.query_id,
            release_digest=asked.release_digest,
            answers=[self.answer(query, asked) for query in queries],
            level=outcome.POLICY_LEVEL_PARTNER,
        )
