"""An analyst's session with a federation: identity, release, one warm channel. Codes are made here; only they leave."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rsfed.analyst.advice import SHOWN, was_read
from rsfed.analyst.catalogues import Catalogues, Read
from rsfed.analyst.connection import COORDINATOR, Connection
from rsfed.analyst.decode import decode_outcome, decode_page, decode_response
from rsfed.analyst.encoding import EncodedImages, OnRefused, encode_images
from rsfed.analyst.filters import Filters
from rsfed.analyst.local_merge import close_page, close_query, merge_locally, open_page
from rsfed.analyst.refining import Refined, Refinement
from rsfed.analyst.results import Hit, Origin, Outcome, SearchResult, mark_partial, merge_pages, rate
from rsfed.analyst.state import Result, distrusted, keep_found, open_state
from rsfed.clock import Now, utc_now
from rsfed.codes import Codes
from rsfed.errors import (
    Busy,
    EnvelopeRefused,
    InvalidAnswer,
    InvalidMessage,
    RsfedError,
    StaleRelease,
    TrustError,
    UsageError,
)
from rsfed.home import Home
from rsfed.transport.channel import call, stream
from rsfed.trust.enrolment import fetch_release
from rsfed.trust.envelope import LIFETIME, MAX_CODES, MAX_K, query_digest, sign_envelope
from rsfed.trust.identity import Identity
from rsfed.trust.manifest import Calibration
from rsfed.trust.release_store import Release, ReleaseStore
from rsfed.v1.archive_pb2 import ArchiveServiceExpandBucketRequest, ArchiveServiceExpandBucketResponse
from rsfed.v1.envelope_pb2 import QueryEnvelope, SignedEnvelope
from rsfed.v1.query_pb2 import (
    QueryServiceExpandBucketRequest,
    QueryServiceSearchRequest,
    QueryServiceSearchResponse,
    QueryServiceWatchSearchRequest,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from rsfed.hashing.encoder import Encoder

OnOutcome = Callable[[Outcome], None]
PAGE = 1000  # items of one call that expands a bucket; a node lists no more
SEALED_CODES = 8  # of one query whose answers are passed on unmerged
EVERYTHING = Filters()


def make_query(  # noqa: PLR0913 - the fields of the envelope
    codes: Codes,
    release: Release,
    identity: Identity,
    *,
    encoder: str,
    k: int,
    radius: int | None,
    filters: Filters = EVERYTHING,
    now: datetime,
) -> QueryEnvelope:
    """Return what is asked of the federation: the codes, who asks, and nothing of where the codes came from."""
    envelope = QueryEnvelope(
        query_id=secrets.token_bytes(16),
        requester=identity.member.uri,
        federation=identity.member.federation,
        release_digest=release.digest,
        encoder=encoder,
        codes=codes.tobytes(),
        k=k,
        radius=radius,
        filter=filters.message(release.manifest),
    )
    envelope.created.FromDatetime(now)
    envelope.expires.FromDatetime(now + LIFETIME)
    return envelope


class AnalystSession:
    """Asks a federation in the name of one analyst; an async context manager.

    Args:
        home: Home of the analyst.
        now: Wall clock.
        sealed: Seal queries for the nodes and merge their answers here, so that the coordinator reads neither. It is so
            in any case where a node's claim did not hold: only here it can be kept to its share of a ranking.

    Attributes:
        release: The release whose codes are compared, newest when the session was opened or last refreshed.
        encoder: Id of its encoder that makes the codes of query images.
        distrusted: Nodes whose claims did not hold.
    """

    release: Release
    encoder: str

    def __init__(self, home: Home, *, now: Now = utc_now, sealed: bool = False) -> None:
        self._home = home
        self._now = now
        with closing(open_state(home)) as state:
            self.distrusted = distrusted(state)
        self._sealed = sealed or bool(self.distrusted)
        self._connection = Connection(home, now=now)
        self._loaded: tuple[bytes, Encoder] | None = None
        # query id -> expiry, what was signed, what opens answers
        self._asked: dict[bytes, tuple[datetime, SignedEnvelope, X25519PrivateKey | None]] = {}

    async def __aenter__(self) -> Self:
        await self.refresh()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    @property
    def bits(self) -> int:
        """Width of the release's codes."""
        return self.release.manifest.bits

    @property
    def calibration(self) -> Calibration | None:
        """How likely a hit is relevant, by distance; None where the release does not say."""
        return self.release.manifest.calibration_of(self.encoder, self.encoder)

    async def refresh(self) -> None:
        """Renew the certificate when it is due and fetch what is new of trust and release.

        Raises:
            NotAdmitted: the certificate will not do, and why.
            Unreachable: the coordinator cannot be reached.
            StaleRelease: the federation has no release yet.
        """
        await self._connection.refresh()
        store = ReleaseStore(self._home.releases)
        if await fetch_release(self._home, self._connection.identity):
            store.prune()
        release = store.current()
        if release is None:
            raise StaleRelease("the federation has no release yet; ask its coordinator to publish one")
        self.release = release
        self.encoder = min(release.manifest.encoders)

    def encode(self, images: Sequence[Path], *, on_refused: OnRefused | None = None) -> EncodedImages:
        """Make the codes of images, on this machine.

        Args:
            images: The images.
            on_refused: Told of each image that will not do, which then has no code; without it the first such image is
                an error.

        Raises:
            RasterRejected: an image will not do, and `on_refused` was not given.
        """
        return encode_images(images, self.release.manifest.encoders[self.encoder], self._load_encoder(), on_refused)

    def remember(self, results: Sequence[Result]) -> None:
        """Keep in the home which node and query handles came from, so that their items can be asked for later.

        Raises:
            StateError, sqlite3.Error, OSError: it cannot be written.
        """
        with closing(open_state(self._home)) as state:
            keep_found(state, results, now=self._now())

    async def catalogues(self) -> list[Read]:
        """Return what there is of each node to be ranked here; what is asked for depends on no query.

        Raises:
            RsfedError: the coordinator is not reached in time.
        """
        known = Catalogues(self._home.path / "catalogues", self.release, self._connection.identity.bundle, self._now)
        return await known.read(self._connection.stub, self._connection.deadline())

    async def refine(self, code: Codes, reads: Sequence[Read], *, count: int) -> list[Refined]:
        """Ask each archive for items of its `count` buckets nearest to a code, which stays here; each is charged."""
        return await Refinement(self._connection, self.release, self.encoder).of(code, reads, count)

    async def search(
        self,
        codes: Codes,
        *,
        k: int = 20,
        radius: int | None = None,
        filters: Filters = EVERYTHING,
        on_outcome: OnOutcome | None = None,
    ) -> list[SearchResult]:
        """Ask all archives for what lies near each code.

        Args:
            codes: Packed codes of this session's release, uint8, shape (n, bits // 8).
            k: How many items are wanted for each code; with a radius, how many of each bucket are listed at once.
            radius: When given, everything within this distance in bits is wanted instead of the nearest k.
            filters: Which items count.
            on_outcome: Told how each node took part as soon as it is known; None costs less.

        Returns:
            One ranking for each code.

        Raises:
            InvalidAnswer: the answer breaks a rule.
            UsageError: FILTER, the release has no class or modality that the filter names; SEARCH_RANGE, the radius is
                wider than the release's codes.
            RsfedError: what the coordinator refused, or that it is not reached in time.
        """
        most = SEALED_CODES if self._sealed else MAX_CODES
        at_once = most if radius is None else 1  # nodes bound what they list for one query, not for one code
        results: list[SearchResult] = []
        for start in range(0, len(codes), at_once):
            results += await self._search(codes[start : start + at_once], k, radius, filters, on_outcome)
        return [self._bounded(result, k if radius is None else None) for result in results]

    async def search_radius(
        self,
        codes: Codes,
        *,
        radius: int,
        limit: int,
        filters: Filters = EVERYTHING,
        on_outcome: OnOutcome | None = None,
    ) -> list[SearchResult]:
        """Ask for everything within a radius and page through buckets until all, or `limit` items a code, are listed.

        Raises:
            RsfedError: as for `search`; a bucket that cannot be paged through makes its node's outcome PARTIAL instead.
        """
        results = []
        for position in range(len(codes)):
            code = codes[position : position + 1]
            (found,) = await self._search(code, MAX_K, radius, filters, on_outcome)
            results.append(self._bounded(await self._list_all(found, limit), None).first(limit))
        return results

    def _bounded(self, result: SearchResult, k: int | None) -> SearchResult:
        """Keep nodes whose claims did not hold to their share of a ranking."""
        return result.bounded(self.distrusted, k) if self.distrusted else result

    async def expand(self, result: SearchResult, bucket: int, *, offset: int, limit: int = PAGE) -> list[Hit]:
        """Ask for more items of one bucket of a result, in the same order.

        Args:
            result: A ranking of this session.
            bucket: Position of the bucket in `result.buckets`.
            offset: Rank in the bucket of the first item wanted, from 0.
            limit: How many are wanted, at most `PAGE`.

        Raises:
            EnvelopeRefused: ENVELOPE_EXPIRED, the query is too old for any node to answer more of it.
            RsfedError: as for `search`, and when the node refuses.
        """
        named = result.buckets[bucket]
        if result.query_id not in self._asked:
            raise EnvelopeRefused("the query has expired; ask again", reason="ENVELOPE_EXPIRED")
        _, signed, key = self._asked[result.query_id]
        request = ArchiveServiceExpandBucketRequest(
            query=signed,
            code_index=result.code_index,
            bucket_handle=named.handle,
            offset=offset,
            limit=limit,
        )
        answer = await self._page(request, named.node, key)
        page = decode_page(answer, named, bucket, offset=offset, limit=limit)
        return list(rate(page, self.calibration))

    async def _search(
        self, codes: Codes, k: int, radius: int | None, filters: Filters, on_outcome: OnOutcome | None
    ) -> list[SearchResult]:
        if radius is not None and radius > self.bits:
            raise UsageError(
                f"codes of the federation's release have {self.bits} bits; ask for a radius up to that, not {radius}",
                reason="SEARCH_RANGE",
            )
        envelope = make_query(
            codes,
            self.release,
            self._connection.identity,
            encoder=self.encoder,
            k=k,
            radius=radius,
            filters=filters,
            now=self._now(),
        )
        identity = self._connection.identity
        closed = close_query(envelope, identity) if self._sealed else None
        signed = closed.inner if closed else sign_envelope(envelope, identity)
        self._remember(envelope, signed, closed.key if closed else None)
        sent = closed.outer if closed else signed
        try:
            result = await (self._ask(sent) if on_outcome is None else self._watch(sent, on_outcome))
        except (TrustError, InvalidMessage, StaleRelease, Busy) as error:
            if was_read(error):
                error.detail = f"the coordinator's audit log names it query {envelope.query_id.hex()[:SHOWN]}"
            raise
        if closed:
            whole, manifest = bool(self.distrusted), self.release.manifest
            result = merge_locally(result, closed, identity, manifest, now=self._now(), whole=whole)
        found = decode_response(
            result, query_id=envelope.query_id, codes=len(codes), bits=self.bits, filtered=filters.fields
        )
        digest = query_digest(signed)
        origins = [Origin(self.release.digest, self.encoder, code.tobytes()) for code in codes]
        return [
            replace(each, hits=rate(each.hits, self.calibration), query_digest=digest, origin=origin)
            for each, origin in zip(found, origins, strict=True)
        ]

    async def _page(
        self, request: ArchiveServiceExpandBucketRequest, node: str, key: X25519PrivateKey | None
    ) -> ArchiveServiceExpandBucketResponse:
        """Ask a node for a page of a bucket, sealed if the query was."""
        sent, identity = request, self._connection.identity
        if key is not None:
            sent = ArchiveServiceExpandBucketRequest(sealed_request=close_page(request, node, identity.bundle))
        answer = await call(
            self._connection.stub.ExpandBucket,
            QueryServiceExpandBucketRequest(node=node, request=sent),
            self._connection.deadline(),
            what=COORDINATOR,
        )
        if key is None:
            return answer.response
        return open_page(answer.response.sealed_answer, request, key, identity, node=node, now=self._now())

    def _remember(self, envelope: QueryEnvelope, signed: SignedEnvelope, key: X25519PrivateKey | None) -> None:
        """Keep a query, of whose buckets more may be asked until it expires, and forget those that have expired."""
        now = self._now()
        for query in list(takewhile(lambda query: self._asked[query][0] <= now, self._asked)):  # the oldest come first
            del self._asked[query]
        self._asked[envelope.query_id] = now + LIFETIME, signed, key

    async def _ask(self, signed: SignedEnvelope) -> QueryServiceSearchResponse:
        request, deadline = QueryServiceSearchRequest(query=signed), self._connection.deadline()
        return await call(self._connection.stub.Search, request, deadline, what=COORDINATOR)

    async def _watch(self, signed: SignedEnvelope, on_outcome: OnOutcome) -> QueryServiceSearchResponse:
        request, deadline = QueryServiceWatchSearchRequest(query=signed), self._connection.deadline()
        async for event in stream(self._connection.stub.WatchSearch, request, deadline, what=COORDINATOR):
            if event.HasField("outcome"):
                on_outcome(decode_outcome(event.outcome))
            if event.HasField("result"):
                return event.result
        raise InvalidAnswer("the coordinator's answer ended without a ranking; ask again")

    async def _list_all(self, result: SearchResult, limit: int) -> SearchResult:
        """Page through the nearest buckets until `limit` items are listed or all are; no node can show more of its."""
        listed = Counter(hit.bucket for hit in result.hits)
        room: dict[str, int] = defaultdict(lambda: limit)
        pages: dict[int, list[Hit]] = defaultdict(list)
        failed: dict[str, str] = {}
        reached = distance = 0
        for position, bucket in enumerate(result.buckets):
            if reached >= limit and bucket.distance > distance:  # at equal distance the nodes take turns
                break
            wanted = min(bucket.size, room[bucket.node])
            room[bucket.node] -= wanted
            while bucket.node not in failed and listed[position] < wanted:
                try:
                    page = await self.expand(result, position, offset=listed[position])
                except RsfedError as error:
                    failed[bucket.node] = error.reason
                    break
                pages[position] += page
                listed[position] += len(page)
            reached, distance = reached + bucket.size, bucket.distance
        return mark_partial(merge_pages(result, pages), failed)

    def _load_encoder(self) -> Encoder:
        from rsfed.hashing.encoder import Encoder  # noqa: PLC0415 - loaded only when used

        if self._loaded is None or self._loaded[0] != self.release.digest:
            self._loaded = self.release.digest, Encoder.load(self.release, self.encoder)
        return self._loaded[1]
