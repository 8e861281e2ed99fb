"""From what was found to the columns of the wire: only what the policy discloses, ids only as handles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from node.handles import Handles
from node.ranking import Ranking
from rsfed.codes import Codes, Ids
from rsfed.index.hits import Hits
from rsfed.privacy.policy import Withheld, disclose_exactly
from rsfed.v1 import archive_pb2, outcome_pb2
from rsfed.wire import NO_FOOTPRINT, NO_TIME

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from node.guard import Admitted

_WITHHELD = {
    Withheld.NOTHING: outcome_pb2.WITHHELD_REASON_NOTHING,
    Withheld.LIMIT: outcome_pb2.WITHHELD_REASON_LIMIT,
    Withheld.POLICY: outcome_pb2.WITHHELD_REASON_POLICY,
}
_Listing = archive_pb2.BucketAnswer | archive_pb2.ArchiveServiceExpandBucketResponse


def bucket_answer(admitted: Admitted, hits: Hits, ranking: Ranking, handles: Handles) -> archive_pb2.BucketAnswer:
    """Return the exact answer for one query code.

    Args:
        admitted: The query, and what answers it.
        hits: The buckets that were found, by the query's filter: what is disclosed of sizes is of items that pass.
        ranking: Order of this query code.
        handles: Makes the handles.
    """
    ranked = ranking.buckets(hits, admitted.ask.row_limit)
    shown = disclose_exactly(admitted.ask, ranked.distances, ranked.sizes)
    listed, samples = ranked.take(np.arange(len(shown.samples))), shown.samples.astype(np.int64)
    answer = archive_pb2.BucketAnswer(
        band_width=1,
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


def cell_answer(admitted: Admitted, code: Codes, handles: Handles) -> archive_pb2.BucketAnswer:
    """Return the answer for the cell of one query code: but for handles the same for all codes of the cell.

    Args:
        admitted: The query, and what answers it.
        code: The query code, uint8, shape (bits // 8,).
        handles: Makes the handles.
    """
    published = admitted.served.published[admitted.encoder]
    cell = published.cells.of_query(code)
    listed = [] if cell is None else list(published.around(cell, admitted.ask, admitted.where))
    answer = archive_pb2.BucketAnswer(
        band_width=published.cells.band_width,
        examined=published.held,
        held=published.held,
        bucket_handles=handles.seal(np.array([each.mark for each in listed], np.int64), admitted.salt),
        distance_upper=np.array([each.distance_upper for each in listed], "<u2").tobytes(),
        bucket_sizes=np.array([each.size for each in listed], "<u4").tobytes(),
        sample_counts=np.array([len(each.ids) for each in listed], "<u4").tobytes(),
        item_handles=b"".join(handles.seal(each.ids, admitted.salt) for each in listed),
        withheld=_WITHHELD[Withheld.POLICY],
    )
    if listed:
        boxes, times = np.concatenate([each.boxes for each in listed]), np.concatenate([each.times for each in listed])
        _tell(answer, admitted.detail.shared(boxes), admitted.detail.intervals(times))
    return answer


def list_items(message: _Listing, items: Ids, admitted: Admitted, handles: Handles) -> None:
    """Fill the columns of listed items; one that would hold nothing known stays absent."""
    known = admitted.served.facts.of(items).columns
    message.item_handles = handles.seal(items, admitted.salt)
    _tell(message, admitted.detail.boxes(known.boxes), admitted.detail.intervals(known.times))


def _tell(message: _Listing, boxes: NDArray[np.int32], times: NDArray[np.int64]) -> None:
    """Fill the columns of where and when items lie, as they may be told, if anything of that is known."""
    if (boxes != NO_FOOTPRINT).any():
        message.footprints = boxes.astype("<i4").tobytes()
    if (times != NO_TIME).any():
        message.acquired = times.astype("<i8").tobytes()
