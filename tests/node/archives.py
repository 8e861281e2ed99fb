"""A node with codes and an analyst, and what an exact search finds there."""

from pathlib import Path

import numpy as np
from members import World
from serving import Asker, add_patches, make_home, make_searcher, publish, serve_codes

from node.handles import Handles
from node.keys import handle_key
from rsfed.clock import Deadline
from rsfed.codes import hamming
from rsfed.merging.validate import validate_expansion
from rsfed.v1 import archive_pb2 as pb

SOON = 30.0  # seconds


class Archive:
    """One node with codes, and an analyst."""

    def __init__(self, folder, codes, *, order=None, facts=None, **release):
        self.world, self.codes = World(), codes
        self.home = make_home(Path(folder) / "node")
        self.release = publish(self.home, self.world, **release)
        self.ids = np.array(add_patches(self.home, len(codes), **(facts or {})), np.int64)
        served = serve_codes(self.home, self.release, self.ids, codes)
        self.searcher = make_searcher(self.home, self.world, served, **({"order": order} if order else {}))
        self.asker = Asker(self.world)

    def search(self, codes, **how):
        self.signed = self.asker.ask(self.release, codes, **how)
        request = pb.ArchiveServiceSearchRequest(query=self.signed)
        return self.searcher.search(request, Deadline.after(SOON))

    def expand(self, handle, offset=0, limit=1000, code=0, signed=None):
        request = pb.ArchiveServiceExpandBucketRequest(
            query=signed or self.signed, code_index=code, bucket_handle=handle, offset=offset, limit=limit
        )
        page = self.searcher.expand(request, Deadline.after(SOON))
        validate_expansion(page, request)
        return page

    def open(self, column):
        handles = Handles(handle_key(self.home))
        return [handles.open(column[start : start + 16])[0] for start in range(0, len(column), 16)]


def listed(archive, answer):
    """(distance, size, listed items) of each bucket of an answer."""
    distances, sizes, samples = (
        np.frombuffer(column, dtype).tolist()
        for column, dtype in (
            (answer.distance_upper, "<u2"),
            (answer.bucket_sizes, "<u4"),
            (answer.sample_counts, "<u4"),
        )
    )
    items = iter(archive.open(answer.item_handles))
    return [(d, s, [next(items) for _ in range(n)]) for d, s, n in zip(distances, sizes, samples, strict=True)]


def exact(archive, code, *, k=None, radius=None):
    """{(distance, frozenset of items)} of every bucket that an exact search finds."""
    distances = hamming(code[None], archive.codes)[0]
    reach = radius if radius is not None else np.sort(distances)[min(k, len(distances)) - 1]
    buckets = {}
    for item, distance, own in zip(archive.ids.tolist(), distances.tolist(), archive.codes, strict=True):
        if distance <= reach:
            buckets.setdefault((distance, own.tobytes()), set()).add(item)
    return {(distance, frozenset(items)) for (distance, _), items in buckets.items()}
