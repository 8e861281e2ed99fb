"""What the node writes into its audit log: every request and task, and what became of it, before it leaves.

Only closed terms, numbers and digests: no code, handle, file name, label or name of a person. A digest of a query is
over the signed envelope, which holds 16 random bytes, so that nobody finds the codes by trying. The database notes with
every query how far the log is, so that an older one in its place is noticed.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from node.state import audited_to, mark_audited
from rsfed.clock import Deadline, Now
from rsfed.errors import Busy, InvalidMessage, RsfedError, StateError
from rsfed.home import Home
from rsfed.transport.rate import RateLimit
from rsfed.trust import audit_log
from rsfed.trust.audit_head import sign_head
from rsfed.trust.audit_log import AuditLog, Position, append_entry, stamp
from rsfed.trust.envelope import query_digest
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1.audit_pb2 import ConsistencyProof, SignedTreeHead
from rsfed.v1.catalogue_pb2 import RefineAnswer
from rsfed.v1.envelope_pb2 import QueryEnvelope, SignedEnvelope
from rsfed.v1.outcome_pb2 import WITHHELD_REASON_NOTHING, WITHHELD_REASON_POLICY, WithheldReason

MAX_SIZES = 1024  # of one request for proofs
Answer = TypeVar("Answer", bound=Message)
Response = TypeVar("Response", pb.ArchiveServiceSearchResponse, pb.ArchiveServiceExpandBucketResponse)


class Kind(StrEnum):
    """The closed list of what entries tell, beside the first one of a log."""

    QUERY_ANSWERED = "query.answered"
    QUERY_WITHHELD = "query.withheld"  # a part of the answer was
    QUERY_REFUSED = "query.refused"
    BUCKET_ANSWERED = "bucket.answered"
    BUCKET_REFUSED = "bucket.refused"
    CALL_REFUSED = "call.refused"  # before it was read: its sender may not make it
    TASK_BEGUN = "task.begun"
    TASK_ENDED = "task.ended"
    TASK_REFUSED = "task.refused"
    RELEASE_SERVED = "release.served"
    RELEASE_REFUSED = "release.refused"
    HANDLE_RESOLVED = "handle.resolved"
    ACCESS_ASKED = "access.asked"  # for a found item
    ACCESS_LOOKED = "access.looked"  # the requester, what became of that
    ACCESS_WITHDRAWN = "access.withdrawn"  # by the requester
    ACCESS_COLLECTED = "access.collected"
    ACCESS_REFUSED = "access.refused"
    ACCESS_APPROVED = "access.approved"  # by the operator, as the two below
    ACCESS_DENIED = "access.denied"
    ACCESS_RECALLED = "access.recalled"  # what had been approved
    ARCHIVE_WITHDRAWN = "archive.withdrawn"  # sources are gone, before their patches are taken out
    CATALOGUE_ANSWERED = "catalogue.answered"
    COUNTS_CHARGED = "counts.charged"  # before they are drawn
    REFINE_CHARGED = "refine.charged"  # before it is answered
    REFINE_ANSWERED = "refine.answered"
    REFINE_WITHHELD = "refine.withheld"  # of some bucket: too few items have something left
    REFINE_REFUSED = "refine.refused"


class Auditor:
    """Writes into the log of a running `serve`, signs its heads and proves that it only grew.

    Args:
        log: The log.
        identity: Returns the node's identity of this moment.
        now: Wall clock.
    """

    def __init__(self, log: AuditLog, identity: Callable[[], Identity], now: Now) -> None:
        self._log = log
        self._identity = identity
        self._now = now
        self._signed: tuple[Position, Identity, SignedTreeHead] | None = None
        self._signing = threading.Lock()
        self._floods = RateLimit(burst=60, per_second=0.1, monotonic=time.monotonic)  # for each reason

    def note(self, kind: Kind, **data: object) -> None:
        """Write an entry; it is on the disk once this returns.

        Raises:
            StateError: AUDIT_UNWRITABLE; what was to be noted must not happen.
        """
        self._log.sync(self._log.append(entry_of(kind, self._now(), data)))

    def searched(
        self,
        search: Callable[[pb.ArchiveServiceSearchRequest, Deadline], pb.ArchiveServiceSearchResponse],
        request: pb.ArchiveServiceSearchRequest,
        deadline: Deadline,
    ) -> pb.ArchiveServiceSearchResponse:
        """Search, and return the answer once it is noted; a refusal is noted, too.

        Raises:
            RsfedError: the query is refused, or AUDIT_UNWRITABLE.
        """
        response = self._tried(partial(search, request, deadline), request.query, Kind.QUERY_REFUSED)
        withheld = max((_withheld(answer) for answer in response.answers), default=WITHHELD_REASON_NOTHING)
        whole = withheld == WITHHELD_REASON_NOTHING
        kind = Kind.QUERY_ANSWERED if whole else Kind.QUERY_WITHHELD
        reason = {} if whole else {"reason": WithheldReason.Name(withheld).removeprefix("WITHHELD_REASON_")}
        return self._answered(kind, request.query, response, release=response.release_digest.hex(), **reason)

    def expanded(
        self,
        expand: Callable[[pb.ArchiveServiceExpandBucketRequest, Deadline], pb.ArchiveServiceExpandBucketResponse],
        request: pb.ArchiveServiceExpandBucketRequest,
        deadline: Deadline,
    ) -> pb.ArchiveServiceExpandBucketResponse:
        """Page through a bucket, as `searched` does."""
        response = self._tried(partial(expand, request, deadline), request.query, Kind.BUCKET_REFUSED)
        return self._answered(Kind.BUCKET_ANSWERED, request.query, response)

    def refined(
        self, refine: Callable[[SignedEnvelope, Deadline], RefineAnswer], query: SignedEnvelope, deadline: Deadline
    ) -> RefineAnswer:
        """Refine, as `searched` searches; the head of the log goes beside the answer, which is sealed."""
        answer = self._tried(partial(refine, query, deadline), query, Kind.REFINE_REFUSED)
        if answer.withheld == WITHHELD_REASON_NOTHING:
            self._note_answer(Kind.REFINE_ANSWERED, query, answer)
        else:
            self._note_answer(Kind.REFINE_WITHHELD, query, answer, reason="REFINE_SPENT")
        return answer

    def catalogue_given(self, response: pb.ArchiveServiceGetCatalogueResponse) -> pb.ArchiveServiceGetCatalogueResponse:
        """Return a chunk of the catalogue once it is noted.

        Raises:
            StateError: AUDIT_UNWRITABLE.
        """
        self.note(Kind.CATALOGUE_ANSWERED, catalogue=response.digest.hex(), bytes=len(response.chunk))
        response.audit_head.CopyFrom(self.head())
        return response

    def call_refused(self, member: MemberId | None, reason: str) -> None:
        """Note a call that was refused before it was read, as soon as something else is; a flood is not noted whole."""
        try:
            self._floods.take(reason)
        except Busy:
            return
        caller = {} if member is None else {"caller": name_digest(member.uri)}
        with suppress(StateError):  # it is refused all the same
            self._log.append(entry_of(Kind.CALL_REFUSED, self._now(), {"reason": reason, **caller}))

    def prove(self, request: pb.ArchiveServiceProveAuditRequest) -> pb.ArchiveServiceProveAuditResponse:
        """Prove that the log only grew between sizes.

        Raises:
            InvalidMessage: AUDIT_REPLACED, this is another log; AUDIT_SIZE, it never was so long, or there are too many
                sizes.
        """
        if request.log.hex() != self._log.durable().log:
            raise InvalidMessage("this node began another audit log since", reason="AUDIT_REPLACED")
        if len(request.sizes) > MAX_SIZES:
            raise _no_such_heads()
        try:
            proofs = self._log.consistency(list(request.sizes))
        except ValueError as error:
            raise _no_such_heads() from error
        return pb.ArchiveServiceProveAuditResponse(
            proofs=[ConsistencyProof(hashes=b"".join(proof)) for proof in proofs]
        )

    def head(self) -> SignedTreeHead:
        """Return the signed head of what is on the disk."""
        position, identity = self._log.durable(), self._identity()
        with self._signing:
            if self._signed is None or self._signed[0] != position or self._signed[1] is not identity:
                self._signed = position, identity, sign_head(position, identity, now=self._now())
            return self._signed[2]

    def _tried(self, answer: Callable[[], Answer], query: SignedEnvelope, refused: Kind) -> Answer:
        try:
            return answer()
        except Exception as error:
            reason = error.reason if isinstance(error, RsfedError) else RsfedError.reason
            self.note(refused, reason=reason, **_claimed(query))
            raise

    def _answered(self, kind: Kind, query: SignedEnvelope, response: Response, **data: object) -> Response:
        self._note_answer(kind, query, response, **data)
        response.audit_head.CopyFrom(self.head())
        return response

    def _note_answer(self, kind: Kind, query: SignedEnvelope, response: Message, **data: object) -> None:
        requester = QueryEnvelope.FromString(query.envelope).requester  # which the guard has proven
        answer = hashlib.sha256(response.SerializeToString(deterministic=True)).hexdigest()
        self.note(kind, requester=name_digest(requester), query=query_digest(query), answer=answer, **data)


def _withheld(answer: pb.BucketAnswer) -> WithheldReason.ValueType:
    """Return what was held back of an answer; those that go by cells always say POLICY, and some list nothing."""
    listed_by_cells = answer.withheld == WITHHELD_REASON_POLICY and answer.bucket_handles
    return WITHHELD_REASON_NOTHING if listed_by_cells else answer.withheld


def open_log(home: Home, connection: sqlite3.Connection, *, now: datetime) -> AuditLog:
    """Open the log of a node that starts to serve, and note in the database how far it is.

    Raises:
        StateError: AUDIT_MISSING, AUDIT_DAMAGED, AUDIT_OLDER or AUDIT_UNWRITABLE.
    """
    log = AuditLog(home.audit, audited_to(connection), now=now)
    mark_audited(connection, log.durable())
    return log


def note_beside(home: Home, connection: sqlite3.Connection, kind: Kind, *, now: datetime, **data: object) -> None:
    """Write an entry durably from another process than `serve`.

    Raises:
        StateError: AUDIT_MISSING or AUDIT_UNWRITABLE.
    """
    append_entry(home.audit, entry_of(kind, now, data), audited_to(connection), now=now)


def restart(home: Home, connection: sqlite3.Connection, *, now: datetime) -> Position:
    """Begin a new log, which names the old one as far as that can be believed; no `serve` runs."""
    known = audited_to(connection)
    with suppress(StateError), closing(AuditLog(home.audit, known, now=now)) as old:
        known = old.durable()
    position = audit_log.restart(home.audit, known, now=now)
    mark_audited(connection, position)
    return position


def entry_of(kind: Kind, now: datetime, data: dict[str, object]) -> dict[str, Any]:
    """Return an entry as the log has it."""
    return {"at": stamp(now), "kind": kind.value, **data}


def name_digest(name: str) -> str:
    """Return how entries name a member: only who knows the name finds it."""
    return hashlib.sha256(name.encode()).hexdigest()


def handle_digest(handle: bytes) -> str:
    """Return how entries name a handle."""
    return hashlib.sha256(handle).hexdigest()


def _no_such_heads() -> InvalidMessage:
    return InvalidMessage("this node's audit log has no such heads", reason="AUDIT_SIZE")


def _claimed(query: SignedEnvelope) -> dict[str, str]:
    """Return what a refused query says of itself, which nobody may have proven."""
    try:
        claims = {"claims": name_digest(QueryEnvelope.FromString(query.envelope).requester)}
    except DecodeError:
        claims = {}
    return {"query": query_digest(query), **claims}
