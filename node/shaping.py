"""From what was found to the columns of the wire: only what the policy discloses, ids only as handles."""

from __future__ import annotations

import numpy as np

from node.guard import Admitted
from node.handles import Handles
from node.ranking import Ranking
from rsfed.codes import Ids
from rsfed.index.hits import Hits
from rsfed.privacy.policy import Policy, Withheld
from rsfed.v1 import archive_pb2, outcome_pb2
from rsfed.wire import NO_FOOTPRINT, NO_TIME

LEVELS = {"partner": outcome_pb2.POLICY_LEVEL_PARTNER}
_WITHHELD = {
    Withheld.NOTHING: outcome_pb2.WITHHELD_REASON_NOTHING,
    Withheld.LIMIT: outcome_pb2.WITHHELD_REASON_LIMIT,
}
_Listing = archive_pb2.BucketAnswer | archive_pb2.ArchiveServiceExpandBucketResponse


def bucket_answer(
    admitted: Admitted, hits: Hits, ranking: Ranking, policy: Policy, handles: Handles
) -> archive_pb2.BucketAnswer:
    """Return the answer for one query code.

    Args:
        admitted: The query, and what answers it.
        hits: The buckets that were found, by the query's filter: what is disclosed of sizes is of items that pass.
        ranking: Order of this query code.
        policy: What is disclosed.
        handles: Makes the handles.
    """
    ranked = ranking.buckets(hits, admitted.ask.row_limit)
    shown = policy.disclose(admitted.ask, ranked.distances, ranked.sizes)
    listed, samples = ranked.take(np.arange(len(shown.samples))), shown.samples.astype(np.int64)
    answer = archive_pb2.BucketAnswer(
        band_width=policy.band_width,
        examined=len(admitted.snapshot.view),
        held=admitted.served.held_for(admitted.encoder),
        bucket_handles=handles.seal(listed.marks, admitted.salt),
        distance_upper=shown.distances.astype("<u2").tobytes(),
        bucket_sizes=shown.sizes.astype("<u4").tobytes(),
        sample_counts=shown.samples.astype("<u4").tobytes(),
        withheld=_WITHHELD[shown.withheld],
    )
    list_items(answer, ranking.items(listed, np.zeros_like(samples), samples), admitted, handles)
    return answer


def list_items(message: _Listing, items: Ids, admitted: Admitted, handles: Handles) -> None:
    """Fill the columns of listed items; one that would hold nothing known stays absent."""
    known = admitted.served.facts.of(items).columns
    message.item_handles = handles.seal(items, admitted.salt)
    if (known.boxes != NO_FOOTPRINT).any():
        message.footprints = known.boxes.astype("<i4").tobytes()
    if (known.times != NO_TIME).any():
        message.acquired = known.times.astype("<i8").tobytes()
