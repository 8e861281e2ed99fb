"""Catalogues of the nodes: fetched once for each publication, kept in the analyst's home, checked at every use.

What is asked depends on what is kept and on nothing else, so nobody learns from it what is searched. A catalogue is
asked for again when the node said that there may be a newer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsfed.analyst.connection import COORDINATOR
from rsfed.codes import Codes, hamming
from rsfed.errors import InvalidAnswer, RsfedError
from rsfed.merging.shares import within_share
from rsfed.transport.channel import call
from rsfed.trust.catalogue import PUBLISHING, Opened, digest_of, open_catalogue
from rsfed.trust.identity import write_atomically
from rsfed.v1.archive_pb2 import ArchiveServiceGetCatalogueRequest
from rsfed.v1.outcome_pb2 import PolicyLevel
from rsfed.v1.query_pb2 import QueryServiceGetCatalogueRequest, QueryServiceListNodesRequest

if TYPE_CHECKING:
    from rsfed.clock import Deadline, Now
    from rsfed.trust.bundle import Bundle
    from rsfed.trust.release_store import Release
    from rsfed.v1.query_pb2_grpc import QueryServiceAsyncStub

_MOST_BYTES = 64 << 20  # of a catalogue: five million buckets


@dataclass(frozen=True, slots=True)
class Read:
    """What there is of one node.

    Attributes:
        node: Its name.
        level: Its policy level as the coordinator knows it.
        catalogue: What it published; None where that could not be had.
        reason: Why there is none, or why it may not be the newest; "" where all is well.
    """

    node: str
    level: str
    catalogue: Opened | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FoundBucket:
    """One bucket near a query.

    Attributes:
        rank: From 1.
        node: Whose it is.
        number: Its place in the node's catalogue.
        distance: Of the code in its middle, in bits.
        size: Noisy number of its patches.
    """

    rank: int
    node: str
    number: int
    distance: int
    size: int


class Catalogues:
    """The catalogues of a federation's nodes.

    Args:
        folder: Where they are kept.
        release: The release whose codes are compared.
        bundle: The trust bundle.
        now: Wall clock.
    """

    def __init__(self, folder: Path, release: Release, bundle: Bundle, now: Now) -> None:
        self._folder = folder
        self._release = release
        self._bundle = bundle
        self._now = now

    async def read(self, stub: QueryServiceAsyncStub, deadline: Deadline) -> list[Read]:
        """Return what there is of each node, by name; what is missing or due is fetched.

        Raises:
            RsfedError: the coordinator cannot be asked.
        """
        nodes = await call(stub.ListNodes, QueryServiceListNodesRequest(), deadline, what=COORDINATOR)
        asked = [self._of_node(stub, node.name, node.level, deadline) for node in nodes.nodes]
        return list(await asyncio.gather(*asked))

    async def _of_node(
        self, stub: QueryServiceAsyncStub, node: str, level: PolicyLevel.ValueType, deadline: Deadline
    ) -> Read:
        name = PolicyLevel.Name(level).removeprefix("POLICY_LEVEL_").lower() if level in PolicyLevel.values() else ""
        if level not in PUBLISHING:
            return Read(node, name, None, "NO_CATALOGUE")
        kept = self._kept(node)
        if kept is not None and self._now() < kept.next:
            return Read(node, name, kept)
        try:
            return Read(node, name, await self._fetch(stub, node, kept, deadline))
        except RsfedError as error:
            return Read(node, name, kept, error.reason)

    def _kept(self, node: str) -> Opened | None:
        """Return what is kept of a node, if it is of this release; what is damaged is fetched anew."""
        try:
            kept = self._open(node, self._path(node).read_bytes())
        except (OSError, InvalidAnswer):
            return None
        return kept if kept.release == self._release.digest else None

    async def _fetch(self, stub: QueryServiceAsyncStub, node: str, kept: Opened | None, deadline: Deadline) -> Opened:
        signed = await _download(stub, node, deadline)
        catalogue = self._open(node, signed)
        if catalogue.release != self._release.digest:
            raise InvalidAnswer("the node's catalogue is of another release; try again later", reason="STALE_RELEASE")
        if kept is not None and catalogue.epoch < kept.epoch:
            raise InvalidAnswer("the node gave an older catalogue than before", reason="CATALOGUE_INVALID")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_atomically(self._path(node), signed)
        return catalogue

    def _open(self, node: str, signed: bytes) -> Opened:
        return open_catalogue(signed, node, self._release.manifest, self._bundle, now=self._now())

    def _path(self, node: str) -> Path:
        return self._folder / f"{node}.catalogue"


def nearest(
    code: Codes, encoder: str, reads: Sequence[Read], *, k: int | None, radius: int | None
) -> list[FoundBucket]:
    """Rank the buckets of all catalogues by the distance of the code in their middle; ties by node and number.

    Args:
        code: A packed query code, uint8, shape (bits // 8,).
        encoder: Which encoder made it.
        reads: The catalogues.
        k: How many buckets are wanted at most; None for all within the radius.
        radius: Largest distance wanted.
    """
    parts = [
        (read.node, read.catalogue.parts[encoder])
        for read in sorted(reads, key=lambda read: read.node)
        if read.catalogue is not None and encoder in read.catalogue.parts and len(read.catalogue.parts[encoder].middles)
    ]
    distances = [hamming(code[None], part.middles)[0] for _, part in parts]
    starts = np.cumsum([0, *map(len, distances)])
    found: list[FoundBucket] = []
    for place in _first(np.concatenate([np.empty(0, np.uint16), *distances]), k, radius).tolist():
        which = int(np.searchsorted(starts, place, side="right")) - 1
        node, part = parts[which]
        number = place - int(starts[which])
        size, distance = int(part.sizes[number]), int(distances[which][number])
        found.append(FoundBucket(len(found) + 1, node, number, distance, size))
    return found


def nearest_bounded(  # noqa: PLR0913 - as `nearest`, and whom it bounds
    code: Codes, encoder: str, reads: Sequence[Read], bounded: Collection[str], *, k: int | None, radius: int | None
) -> list[FoundBucket]:
    """Rank buckets as `nearest` does, with no more than their share of them of nodes whose claims did not hold."""
    if not bounded:
        return nearest(code, encoder, reads, k=k, radius=radius)
    each = [found for read in reads for found in nearest(code, encoder, [read], k=k, radius=radius)]
    ranked = sorted(each, key=lambda found: (found.distance, found.node, found.number))
    answered = sum(read.catalogue is not None for read in reads)
    stay = within_share([found.node for found in ranked], bounded, answered, k)
    return [replace(ranked[position], rank=rank) for rank, position in enumerate(stay, 1)]


def _first(distances: NDArray[np.uint16], k: int | None, radius: int | None) -> NDArray[np.int64]:
    """Return where the smallest distances stand, the smallest first, equal ones in their order."""
    limit = int(distances.max(initial=0)) if radius is None else radius
    if k is not None and k < len(distances):
        limit = min(limit, int(np.partition(distances, k - 1)[k - 1]))
    near = np.flatnonzero(distances <= limit)
    return near[np.argsort(distances[near], kind="stable")][:k]


async def _download(stub: QueryServiceAsyncStub, node: str, deadline: Deadline) -> bytes:
    """Return a node's catalogue as it is signed."""
    signed, digest = b"", b""
    while True:
        request = ArchiveServiceGetCatalogueRequest(offset=len(signed), digest=digest)
        wanted = QueryServiceGetCatalogueRequest(node=node, request=request)
        answer = (await call(stub.GetCatalogue, wanted, deadline, what=COORDINATOR)).response
        digest, signed = answer.digest, signed + answer.chunk
        if not answer.chunk or len(signed) > min(answer.size, _MOST_BYTES):
            raise InvalidAnswer("a node's catalogue came in parts that do not fit", reason="CATALOGUE_INVALID")
        if len(signed) == answer.size:
            break
    if digest_of(signed) != digest:
        raise InvalidAnswer("a node's catalogue was changed on its way", reason="CATALOGUE_INVALID")
    return signed
