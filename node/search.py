"""The node's answer to a query: guard, search, order of ties, policy, handles. No IO but the ledger's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.guard import Admitted, Guard
from node.handles import Handles
from node.ranking import Ranking
from node.served import Shelf
from node.shaping import bucket_answer, cell_answer, list_items
from rsfed.clock import Deadline, Now
from rsfed.codes import Codes
from rsfed.errors import InvalidMessage, UnknownHandle
from rsfed.index.hits import Hits
from rsfed.index.order import Order, keyed
from rsfed.trust.envelope import filter_values
from rsfed.trust.scope import LEVELS
from rsfed.v1 import archive_pb2 as pb

MAX_PAGE = 1000  # items


@dataclass(frozen=True, slots=True)
class Searcher:
    """Answers queries.

    Attributes:
        shelf: Holds what is served.
        guard: Decides which queries are answered, and at which level.
        handles: Makes and opens handles.
        tie_key: Orders items that tie, 32 bytes.
        now: Wall clock.
        order: How ties are ordered; item-id order only to compare with an exact search.
    """

    shelf: Shelf
    guard: Guard
    handles: Handles
    tie_key: bytes
    now: Now
    order: Order = keyed

    def search(self, request: pb.ArchiveServiceSearchRequest, deadline: Deadline) -> pb.ArchiveServiceSearchResponse:
        """List the buckets near each code of a query.

        Raises:
            RsfedError: the guard refuses the query, or the deadline is over.
        """
        deadline.check()
        admitted = self.guard.admit(request.query, self.shelf.served, now=self.now())
        response = pb.ArchiveServiceSearchResponse(
            query_id=admitted.query.envelope.query_id,
            release_digest=admitted.served.release.digest,
            level=LEVELS[admitted.policy.level],
            filtered=filter_values(admitted.filtered),
        )
        if admitted.where is not None and not admitted.policy.by_cells:
            response.unknown = admitted.served.silent(admitted.encoder, admitted.filtered)
        for code in admitted.codes:
            deadline.check()
            response.answers.append(self._answer(admitted, code))
        return response

    def expand(
        self, request: pb.ArchiveServiceExpandBucketRequest, deadline: Deadline
    ) -> pb.ArchiveServiceExpandBucketResponse:
        """List more items of one bucket of an earlier answer, in the same order.

        Raises:
            RsfedError: the guard refuses the query, or the deadline is over.
            InvalidMessage: more than 1000 items are wanted, or the query has no such code.
            UnknownHandle: the handle is not of a bucket in this query's answer; BUCKET_CHANGED, a patch came into the
                bucket or left it since, so that its order is another one.
        """
        deadline.check()
        if not 1 <= request.limit <= MAX_PAGE:
            raise InvalidMessage(f"a page has 1 to {MAX_PAGE} items")
        admitted = self.guard.admit_again(request.query, self.shelf.served, now=self.now())
        if request.code_index >= len(admitted.codes):
            raise InvalidMessage("the query has no code of this number")
        code = admitted.codes[request.code_index]
        bucket = self._open_bucket(request.bucket_handle, admitted, code)
        size = int(bucket.sizes[0])
        offset = min(request.offset, size)
        page = [np.array([value]) for value in (offset, min(request.limit, size - offset))]
        items = self._ranking(admitted, code).items(bucket, *page)
        response = pb.ArchiveServiceExpandBucketResponse(size=size)
        list_items(response, items, admitted, self.handles)
        return response

    def _answer(self, admitted: Admitted, code: Codes) -> pb.BucketAnswer:
        if admitted.policy.by_cells:
            return cell_answer(admitted, code, self.handles)
        ask = admitted.ask
        k = ask.k if ask.radius is None else None
        hits = admitted.snapshot.view.search(code[None], k=k, radius=ask.radius, where=admitted.where)[0]
        return bucket_answer(admitted, hits, self._ranking(admitted, code), self.handles)

    def _ranking(self, admitted: Admitted, code: Codes) -> Ranking:
        return Ranking(self.tie_key, admitted.served.release.digest, code.tobytes(), self.order)

    def _open_bucket(self, handle: bytes, admitted: Admitted, code: Codes) -> Hits:
        """Return the one bucket of a handle; new items may have come nearer since, so all distances are looked at."""
        mark, salt = self.handles.open(handle)
        if salt != admitted.salt or mark >= 0:
            raise UnknownHandle("this is no bucket of the query's answer")
        view = admitted.snapshot.view
        hits = view.search(code[None], radius=view.bits, where=admitted.where)[0]
        found = np.flatnonzero(hits.marks == mark)
        if not len(found):
            raise UnknownHandle("the bucket changed since it was listed; search again", reason="BUCKET_CHANGED")
        return hits.take(found[:1])
