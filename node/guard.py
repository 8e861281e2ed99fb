"""Which queries a node answers.

Checked in this order, each before the next:

- certificate and role of the coordinator (by the server, on every call);
- the envelope: requester, revocation, signature, freshness, limits;
- release: the one that is served; encoder: one of that release; codes: of its width, not too many;
- scope: what the federation lets the requester ask;
- filter: sound, and by nothing that the node's policy keeps out of filters;
- level: it answers queries; where answers go by cells, something is published, and buckets are not paged further;
- replay: written to the ledger before anything is searched.

A query that refines is checked in the same order; then, before the ledger, whether its catalogue is the one of now.

Whoever is answered by cells learns POLICY of what the policy refuses, and the level, which answers tell, too; the
reasons here are for the audit log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from node.bucketed import Rows
from node.filtering import filter_of
from node.ledger import Ledger
from node.served import Served
from rsfed.codes import Codes, from_bytes
from rsfed.errors import (
    Busy,
    EnvelopeRefused,
    InvalidMessage,
    StaleRelease,
    UnknownHandle,
    UsageError,
    WithheldByPolicy,
)
from rsfed.index.filters import Filter
from rsfed.index.search import Snapshot
from rsfed.privacy.detail import Detail
from rsfed.privacy.grid import ASKED
from rsfed.privacy.policy import Ask, Policies, Policy
from rsfed.trust.bundle import Bundle
from rsfed.trust.envelope import MAX_CODES, VerifiedQuery, filtered_fields, refined_buckets, verify_envelope
from rsfed.trust.release_store import Release
from rsfed.trust.scope import LEVELS
from rsfed.v1.envelope_pb2 import QueryEnvelope, SignedEnvelope

EXACT = Detail()


@dataclass(frozen=True, slots=True)
class Admitted:
    """A query that may be answered.

    Attributes:
        query: Who asks what.
        served: What answers it.
        salt: Salt of its handles, 8 bytes.
        codes: Query codes, uint8, shape (q, bits // 8).
        ask: What is wanted for each code.
        policy: At which level it is answered.
        where: Which items count, widened to what the policy tells; None where all do.
        detail: In how much detail it is told where and when items lie.
    """

    query: VerifiedQuery
    served: Served
    salt: bytes
    codes: Codes
    ask: Ask
    policy: Policy
    where: Filter | None = None
    detail: Detail = EXACT

    @property
    def encoder(self) -> str:
        """The encoder that made the codes."""
        return self.query.envelope.encoder

    @property
    def filtered(self) -> list[str]:
        """The fields that the query is filtered by."""
        return filtered_fields(self.query.envelope)

    @property
    def snapshot(self) -> Snapshot:
        """The codes to search."""
        return self.served.snapshots[self.encoder]


@dataclass(frozen=True, slots=True)
class AdmittedRefine:
    """A query for items of buckets that may be answered, as far as budgets allow.

    Attributes:
        query: Who asks what.
        release: Under which the items are spoken of.
        salt: Salt of its handles, 8 bytes.
        policy: At which level it is answered.
        floor: Items that are listed of each bucket.
        buckets: What may be listed of each bucket, in the order of the query.
    """

    query: VerifiedQuery
    release: Release
    salt: bytes
    policy: Policy
    floor: int
    buckets: list[Rows]


class Guard:
    """Admits queries.

    Args:
        trust: Returns the trust bundle of the moment.
        ledger: Remembers what was answered.
        node: The node's own name.
        policies: Who is answered at which level.
        detail: In how much detail it is told, and may be asked, where and when items lie.
    """

    def __init__(
        self,
        trust: Callable[[], Bundle],
        ledger: Ledger,
        *,
        node: str,
        policies: Policies,
        detail: Detail = EXACT,
    ) -> None:
        self._trust = trust
        self._ledger = ledger
        self._node = node
        self._policies = policies
        self._detail = detail

    def admit(self, signed: SignedEnvelope, served: Served | None, *, now: datetime) -> Admitted:
        """Admit a new query and write it into the ledger.

        Raises:
            NotAdmitted, EnvelopeRefused, InvalidMessage: the envelope will not do, or REPLAY; SCOPE_ENDED,
                SCOPE_MODALITY, SCOPE_NODE or SCOPE_LEVEL, the requester may not ask this.
            Busy: STARTING, no release is served yet.
            StaleRelease: another release is served, or RELEASE_EXPIRED.
            CodeError: the codes have another width than the release's.
            UsageError: FILTER, the filter makes no sense; EnvelopeRefused with UNFILTERABLE_..., the policy keeps a
                field of it to itself.
            WithheldByPolicy: either of these, or NOT_PUBLISHED or NO_CODEBOOK, to one who is answered by cells.
        """
        query, served, codes, ask, policy, where = self._checked(signed, served, now)
        salt = self._ledger.record(query, now=now).salt
        return Admitted(query, served, salt, codes, ask, policy, where, self._detail)

    def admit_again(self, signed: SignedEnvelope, served: Served | None, *, now: datetime) -> Admitted:
        """Admit a query that was answered before and asks for more of the same.

        Raises:
            NotAdmitted, EnvelopeRefused, InvalidMessage, Busy, StaleRelease, CodeError, UsageError: as for `admit`;
                ENVELOPE_DIFFERS when the query id was answered for other signed bytes.
            UnknownHandle: the query was not answered here.
            WithheldByPolicy: as for `admit`, or NOT_PAGED: who is answered by cells gets no more of a bucket.
        """
        query, served, codes, ask, policy, where = self._checked(signed, served, now)
        if policy.by_cells:
            raise WithheldByPolicy(
                "answers that go by cells are not paged further", reason="NOT_PAGED", level=policy.level
            )
        entry = self._ledger.by_query(query.envelope.query_id, now=now)
        if entry is None:
            raise UnknownHandle("this query was not answered here; search first")
        if entry.envelope_digest != query.digest:
            raise EnvelopeRefused("this is not the query that was answered", reason="ENVELOPE_DIFFERS")
        return Admitted(query, served, entry.salt, codes, ask, policy, where, self._detail)

    def admit_refine(self, signed: SignedEnvelope, served: Served | None, *, now: datetime) -> AdmittedRefine:
        """Admit a new query that refines and write it into the ledger.

        Raises:
            NotAdmitted, EnvelopeRefused, InvalidMessage, Busy, StaleRelease: as for `admit`.
            WithheldByPolicy: NOT_REFINED, the level lists no items of buckets.
            UnknownHandle: NO_CATALOGUE, nothing is published; CATALOGUE_CHANGED, the buckets are of another epoch.
        """
        query = verify_envelope(signed, self._trust(), now=now)
        envelope = query.envelope
        if not envelope.HasField("refine"):
            raise InvalidMessage("the query names no buckets")
        served = _current(envelope, served, now)
        policy = self._policies.for_analyst(query.requester.name)
        self._check_scope(query, served, policy, now)
        if not policy.refines:
            raise WithheldByPolicy(
                "no items of buckets are listed at this level", reason="NOT_REFINED", level=policy.level
            )
        if served.bucketed is None:
            raise UnknownHandle("this archive publishes no catalogue, or none yet", reason="NO_CATALOGUE")
        if envelope.refine.epoch != served.bucketed.epoch:
            raise UnknownHandle("the catalogue was published anew; ask again", reason="CATALOGUE_CHANGED")
        buckets = [served.bucketed.of(envelope.encoder, number) for number in refined_buckets(envelope)]
        if not all(map(len, buckets)):
            raise InvalidMessage("the catalogue has no bucket of this number")
        salt = self._ledger.record(query, now=now).salt
        return AdmittedRefine(query, served.release, salt, policy, served.bucketed.floor, buckets)

    def _checked(
        self, signed: SignedEnvelope, served: Served | None, now: datetime
    ) -> tuple[VerifiedQuery, Served, Codes, Ask, Policy, Filter | None]:
        """Check all that needs no ledger."""
        query = verify_envelope(signed, self._trust(), now=now)
        served, codes, ask = _fit(query, served, now)
        policy = self._policies.for_analyst(query.requester.name)
        self._check_scope(query, served, policy, now)
        if policy.publishes:
            raise WithheldByPolicy("no query is answered at this level", reason="NOT_SEARCHED", level=policy.level)
        where = self._where(query.envelope, served, policy)
        if policy.by_cells:
            _check_published(query.envelope.encoder, served, policy)
        return query, served, codes, ask, policy, where

    def _where(self, envelope: QueryEnvelope, served: Served, policy: Policy) -> Filter | None:
        """Return which items count, widened to what is told."""
        manifest, kept = served.release.manifest, self._detail.kept
        if not policy.by_cells:
            exact = filter_of(envelope, manifest, kept)
            return exact and self._detail.filter(exact)
        try:
            exact = filter_of(envelope, manifest, kept | {"label"})
        except (EnvelopeRefused, UsageError) as error:
            raise WithheldByPolicy(error.public, reason=error.reason, level=policy.level) from error
        return exact and self._detail.filter(ASKED.filter(exact))

    def _check_scope(self, query: VerifiedQuery, served: Served, policy: Policy, now: datetime) -> None:
        scope = self._trust().scope_of(query.requester)
        scope.check(served.release.manifest.encoders[query.envelope.encoder].modality, now)
        scope.check_node(self._node, LEVELS[policy.level])


def _check_published(encoder: str, served: Served, policy: Policy) -> None:
    """Check that there is something to answer from by cells."""
    if not served.release.manifest.codebook:
        raise WithheldByPolicy(
            "the release has no codebook: train on archives that say when their images were taken, and contribute to "
            "the calibration",
            reason="NO_CODEBOOK",
            level=policy.level,
        )
    if encoder not in served.published:
        raise WithheldByPolicy(
            "nothing is published yet: patches are hashed, or the archive has too few acquisitions for the level",
            reason="NOT_PUBLISHED",
            level=policy.level,
        )


def _fit(query: VerifiedQuery, served: Served | None, now: datetime) -> tuple[Served, Codes, Ask]:
    """Check that a query fits what is served."""
    envelope = query.envelope
    served = _current(envelope, served, now)
    codes = from_bytes(envelope.codes, served.release.manifest.bits)
    if not 1 <= len(codes) <= MAX_CODES:
        raise InvalidMessage(f"a query has 1 to {MAX_CODES} codes")
    radius = envelope.radius if envelope.HasField("radius") else None
    return served, codes, Ask(envelope.k, radius, len(codes))


def _current(envelope: QueryEnvelope, served: Served | None, now: datetime) -> Served:
    """Return what is served if a query is of its release and of one of its encoders."""
    if served is None:
        raise Busy("this node is starting and answers once it has loaded its index; try again later", reason="STARTING")
    if envelope.release_digest != served.release.digest:
        raise StaleRelease("the codes are of another release than the one served here; fetch the newest and ask again")
    if served.release.manifest.expired(now):
        raise StaleRelease(
            "the release served here has expired; the coordinator has to publish a new one", reason="RELEASE_EXPIRED"
        )
    if envelope.encoder not in served.snapshots:
        raise InvalidMessage("the release has no encoder of this name", reason="ENCODER_UNKNOWN")
    return served
