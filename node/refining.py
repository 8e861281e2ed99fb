"""The node's answer to a query that refines: guard, budgets, handles. Nothing of it says how near an item is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.budgets import Budgets
from node.guard import Guard
from node.handles import Handles
from node.served import Shelf
from rsfed.clock import Deadline, Now
from rsfed.errors import StateError, WithheldByPolicy
from rsfed.telemetry import log
from rsfed.trust.scope import LEVELS
from rsfed.v1.catalogue_pb2 import RefineAnswer
from rsfed.v1.envelope_pb2 import SignedEnvelope
from rsfed.v1.outcome_pb2 import WITHHELD_REASON_NOTHING, WITHHELD_REASON_POLICY


@dataclass(frozen=True, slots=True)
class Refiner:
    """Answers queries that refine.

    Attributes:
        shelf: Holds what is served.
        guard: Decides which queries are answered.
        budgets: Charges them.
        handles: Makes handles.
        now: Wall clock.
    """

    shelf: Shelf
    guard: Guard
    budgets: Budgets
    handles: Handles
    now: Now

    def refine(self, query: SignedEnvelope, deadline: Deadline) -> RefineAnswer:
        """List items of the buckets that a query names, as many of each as the floor, in no order.

        Raises:
            RsfedError: the guard refuses the query, or the deadline is over.
            WithheldByPolicy: REFINE_STORE, CLOCK_BACK or AUDIT_...: what is answered could not be charged.
        """
        deadline.check()
        admitted = self.guard.admit_refine(query, self.shelf.served, now=self.now())
        rng = np.random.default_rng(list(admitted.salt))
        try:
            found = self.budgets.charge(admitted.release, admitted.query, admitted.buckets, admitted.floor, rng)
        except StateError as error:
            log.error("refine.refused", reason=error.reason, what=error.public)
            raise WithheldByPolicy(error.public, reason=error.reason, level=admitted.policy.level) from error
        return RefineAnswer(
            query_id=admitted.query.envelope.query_id,
            level=LEVELS[admitted.policy.level],
            counts=np.array([len(ids) for ids in found], "<u4").tobytes(),
            item_handles=b"".join(self.handles.seal(ids, admitted.salt) for ids in found),
            withheld=WITHHELD_REASON_NOTHING if all(map(len, found)) else WITHHELD_REASON_POLICY,
        )
