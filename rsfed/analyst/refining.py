"""`rsfed query --private --refine N`: each archive is asked for items of its own buckets that were ranked here.

A node gets one message for each query code, sealed for it and as long as any other; it learns the numbers of the
buckets and never the code. The coordinator learns that something is refined, and not what.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from rsfed.analyst.catalogues import FoundBucket, Read, nearest
from rsfed.analyst.claims import Claim, covered
from rsfed.analyst.connection import COORDINATOR
from rsfed.analyst.local_merge import opened_from, sealed_for
from rsfed.analyst.state import Found
from rsfed.errors import InvalidAnswer, RsfedError
from rsfed.transport.channel import call
from rsfed.trust.envelope import ANSWER_STEP, LIFETIME, refine_slots, sign_envelope
from rsfed.trust.names import MemberId, Role
from rsfed.trust.sealing import Purpose, padded
from rsfed.v1.archive_pb2 import ArchiveServiceRefineRequest
from rsfed.v1.catalogue_pb2 import RefineAnswer
from rsfed.v1.envelope_pb2 import QueryEnvelope, RefineBuckets
from rsfed.v1.outcome_pb2 import (
    POLICY_LEVEL_CATALOGUE,
    WITHHELD_REASON_NOTHING,
    WITHHELD_REASON_POLICY,
    WithheldReason,
)
from rsfed.v1.query_pb2 import QueryServiceRefineRequest
from rsfed.wire import HANDLE_BYTES

if TYPE_CHECKING:
    from rsfed.analyst.connection import Connection
    from rsfed.codes import Codes
    from rsfed.trust.catalogue import Opened
    from rsfed.trust.release_store import Release

_REFINES = "catalogue"


@dataclass(frozen=True, slots=True)
class Refined:
    """What one archive told of its buckets near a query.

    Attributes:
        node: Its name.
        query_id: Name of the query in whose answer the handles were given, 16 bytes.
        buckets: Those that were asked for, the nearest first.
        handles: Of the listed items of each, 32 hexadecimal digits each; none where they are withheld.
        withheld: Why buckets were withheld; "NOTHING" where none was, "" when there was no answer.
        reason: Why there was no answer; "" where there was.
        claims: What the archive says of the items of each bucket; none where that is not kept.
    """

    node: str
    query_id: bytes
    buckets: tuple[FoundBucket, ...]
    handles: tuple[tuple[str, ...], ...] = ()
    withheld: str = ""
    reason: str = ""
    claims: tuple[Claim, ...] = ()

    def found(self) -> list[Found]:
        """Return where the handles came from, and what was said of them."""
        said = [claim.to_text() for claim in self.claims] or [""] * len(self.handles)
        return [
            Found(bytes.fromhex(each), self.node, self.query_id, claim)
            for claim, some in zip(said, self.handles, strict=True)
            for each in some
        ]


@dataclass(frozen=True, slots=True)
class Refinement:
    """Asks archives about their buckets.

    Attributes:
        connection: The way to the coordinator, refreshed.
        release: The release whose codes are compared.
        encoder: Which of its encoders makes them.
    """

    connection: Connection
    release: Release
    encoder: str

    async def of(self, code: Codes, reads: Sequence[Read], count: int) -> list[Refined]:
        """Ask every archive that lists items of buckets about its own nearest ones; one that fails says why.

        Args:
            code: A packed query code, uint8, shape (bits // 8,); it stays here.
            reads: The catalogues.
            count: How many buckets of each archive are asked about.
        """
        asked = []
        for read in reads:
            if read.catalogue is not None and read.catalogue.level == _REFINES:
                buckets = tuple(nearest(code, self.encoder, [read], k=count, radius=None))
                asked.append(self._of_node(read.catalogue, buckets))
        return list(await asyncio.gather(*asked))

    async def _of_node(self, catalogue: Opened, buckets: tuple[FoundBucket, ...]) -> Refined:
        key = X25519PrivateKey.generate()
        refine = RefineBuckets(epoch=catalogue.epoch, buckets=refine_slots([each.number for each in buckets]))
        envelope = self._envelope(refine, key)
        try:
            answer = await self._answer(envelope, catalogue.node, key)
            handles = handles_of(answer, len(buckets), catalogue.floor)
        except RsfedError as error:
            return Refined(catalogue.node, envelope.query_id, buckets, reason=error.reason)
        withheld = WithheldReason.Name(answer.withheld).removeprefix("WITHHELD_REASON_")
        claims = self._claims(catalogue.parts[self.encoder].middles, buckets)
        return Refined(catalogue.node, envelope.query_id, buckets, handles, withheld, claims=claims)

    def _claims(self, middles: Codes, buckets: Sequence[FoundBucket]) -> tuple[Claim, ...]:
        release, classes = self.release.digest.hex(), covered(middles, self.release.manifest.codebook)
        codes = [middles[bucket.number].tobytes().hex() for bucket in buckets]
        return tuple(Claim(release, self.encoder, _REFINES, code, classes=classes) for code in codes)

    def _envelope(self, refine: RefineBuckets, key: X25519PrivateKey) -> QueryEnvelope:
        member, now = self.connection.identity.member, self.connection.now()
        envelope = QueryEnvelope(
            query_id=secrets.token_bytes(16),
            requester=member.uri,
            federation=member.federation,
            release_digest=self.release.digest,
            encoder=self.encoder,
            answer_key=key.public_key().public_bytes_raw(),
            refine=refine,
        )
        envelope.created.FromDatetime(now)
        envelope.expires.FromDatetime(now + LIFETIME)
        return envelope

    async def _answer(self, envelope: QueryEnvelope, node: str, key: X25519PrivateKey) -> RefineAnswer:
        """Send a query sealed for a node, and open what it sealed."""
        connection, identity = self.connection, self.connection.identity
        content = padded(sign_envelope(envelope, identity).SerializeToString(), ANSWER_STEP)
        member = MemberId(identity.member.federation, Role.NODE, node)
        sealed = sealed_for(content, Purpose.REFINE, identity.bundle, member)
        request = QueryServiceRefineRequest(node=node, request=ArchiveServiceRefineRequest(sealed_query=sealed))
        response = await call(connection.stub.Refine, request, connection.deadline(), what=COORDINATOR)
        answer = opened_from(
            response.response.sealed_answer,
            Purpose.REFINE_ANSWER,
            RefineAnswer(),
            identity=identity,
            node=node,
            key=key,
            context=envelope.query_id,
            now=connection.now(),
        )
        if answer.query_id != envelope.query_id:
            raise InvalidAnswer("the archive answered another query")
        return answer


def handles_of(answer: RefineAnswer, buckets: int, floor: int) -> tuple[tuple[str, ...], ...]:
    """Return the handles of each bucket, if the answer keeps the rules.

    Raises:
        InvalidAnswer: it does not.
    """
    if len(answer.counts) != 4 * buckets or len(answer.item_handles) % HANDLE_BYTES:
        raise InvalidAnswer("the archive sent columns that do not fit")
    counts = np.frombuffer(answer.counts, "<u4").astype(int).tolist()
    hexes = [
        answer.item_handles[at : at + HANDLE_BYTES].hex() for at in range(0, len(answer.item_handles), HANDLE_BYTES)
    ]
    spoken = WITHHELD_REASON_NOTHING if all(counts) else WITHHELD_REASON_POLICY
    if (
        not set(counts) <= {0, floor}
        or sum(counts) != len(hexes)
        or len(set(hexes)) != len(hexes)
        or (answer.level, answer.withheld) != (POLICY_LEVEL_CATALOGUE, spoken)
    ):
        raise InvalidAnswer("the archive says of buckets what its level does not")
    ends = np.cumsum([0, *counts]).tolist()
    return tuple(tuple(hexes[start:end]) for start, end in pairwise(ends))
