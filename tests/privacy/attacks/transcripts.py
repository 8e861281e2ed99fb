"""What a node and the coordinator see of private queries: whether two that differ can be told apart."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np

from attacks.lines import Line
from attacks.target import CONTROL, Target
from node.cataloguing import catalogue_chunk
from rsfed.analyst.catalogues import Catalogues, nearest
from rsfed.clock import Deadline
from rsfed.trust.scope import LEVELS
from rsfed.v1 import query_pb2
from rsfed.v1.envelope_pb2 import QueryEnvelope


def private_queries(folder, archive, levels=("catalogue", "sealed", "counts")):
    """Lines of how many bytes of what is sent differ between two different queries."""
    one, other = archive.cells[0], archive.cells[-1]
    few = archive.part(np.arange(min(200, len(archive))))
    target = Target(folder / "transcripts-control", few, CONTROL)
    sent = [target.analysts[0].ask(target.release, code[None]).envelope for code in (one, other)]
    control = _differ(*([QueryEnvelope.FromString(each).codes] for each in sent))
    target.close()
    for level in levels:
        target = Target(folder / f"transcripts-{level}", few, level)
        transcripts = [
            asyncio.run(_asked(target, folder / f"analyst-{level}-{n}", code)) for n, code in enumerate((one, other))
        ]
        target.close()
        found = float(_differ(*transcripts))
        yield Line("private queries.bytes_that_differ", level, float(control), control > 0, found, 0.0)


def _differ(one, other):
    """How many bytes differ between two lists of messages; one that the other lacks counts whole."""
    whole = [b"".join(each) for each in (one, other)]
    common = sum(a != b for a, b in zip(*whole, strict=False))
    return common + abs(len(whole[0]) - len(whole[1]))


async def _asked(target, folder, code):
    """Search privately as an analyst does who knows nothing yet, and return all that was sent."""
    sent = []

    async def list_nodes(request, **_):
        sent.append(request.SerializeToString(deterministic=True))
        summary = query_pb2.NodeSummary(name="berne", level=LEVELS[target.level])
        return query_pb2.QueryServiceListNodesResponse(nodes=[summary])

    async def get_catalogue(request, **_):
        sent.append(request.SerializeToString(deterministic=True))
        response = catalogue_chunk(target.served.catalogue, request.request)
        return query_pb2.QueryServiceGetCatalogueResponse(response=response)

    stub = SimpleNamespace(ListNodes=list_nodes, GetCatalogue=get_catalogue)
    catalogues = Catalogues(folder, target.release, target.world.bundle(), target.world.clock)
    reads = await catalogues.read(stub, Deadline.after(30.0))
    nearest(code, "rgb", reads, k=5, radius=None)
    return sent
