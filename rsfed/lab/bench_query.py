"""Time of a warm query through the coordinator to three nodes with 100,000 codes each: `make bench-query`.

Coordinator, nodes and analyst are real processes over mTLS. A query is timed from the code in the analyst's hand to the
decoded ranking: signature, fan-out, checks, exact search, ledger, merge and validation are all in it. A health check of
the coordinator over the same kind of channel is timed in turn with it, as the floor of this machine at this moment.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from PIL import Image

from rsfed.analyst.session import AnalystSession
from rsfed.codes import Codes, pack
from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.lab.bench_command import exit_code
from rsfed.lab.demo_federation import DemoFederation, Plan
from rsfed.lab.processes import Processes
from rsfed.transport.channel import open_channel
from rsfed.transport.loop import run
from rsfed.trust.identity import load_federation, load_identity
from rsfed.trust.release_store import ReleaseStore

NODES = ("alps", "baltic", "crete")
CODES, CLUSTERS, BITS, NOISE = 100_000, 300, 64, 0.06  # NOISE: share of bits that differ from the cluster's centre
WARM_UP, QUERIES, K = 50, 500, 20
GOAL_MS = 15.0

# What ingest and hashing would leave behind, for items that are copies of the one that was ingested.
_COPY = """
INSERT INTO item SELECT :id, source, col, row, width, height, modality, digest, state, nodata, acquisition,
acquired_start, acquired_end, west, south, east, north, place, NULL FROM item WHERE id = :first
"""


def main() -> None:
    """Run the benchmark and print what it found."""
    with TemporaryDirectory(prefix="rsfed-bench-") as name:
        run(_run(Path(name).resolve()))


async def _run(folder: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.random((CLUSTERS, BITS)) < 0.5
    async with Processes(folder / "logs", {"OMP_NUM_THREADS": "1"}) as processes:
        home = await _prepare(DemoFederation(processes, folder), folder, centres, rng)
        queries = _clustered(centres, WARM_UP + QUERIES, rng)
        federation, identity = load_federation(home.identity), load_identity(home.identity)
        async with (
            AnalystSession(home) as session,
            open_channel(federation.address, identity, federation.coordinator) as channel,
        ):
            _print(*await _measure(session, health_pb2_grpc.HealthStub(channel), queries))


async def _prepare(
    federation: DemoFederation, folder: Path, centres: NDArray[np.bool_], rng: np.random.Generator
) -> Home:
    """Start the federation with full catalogues and return the analyst's home."""
    await federation.found(Plan("rgb", 32, BITS, ("anything",), width=16, local_steps=1, seed=0))
    home = await federation.admit_analyst()
    for node in NODES:
        archive = folder / "archives" / node / "anything"
        archive.mkdir(parents=True)
        Image.new("RGB", (32, 32), "#336699").save(archive / "one.png")
        await federation.admit_node(node, archive.parent, "rgb")
        _fill(Home(federation.home(node)), _clustered(centres, CODES, rng))
        await federation.serve_node(node)
    held = await federation.wait_indexed(NODES, release=1)
    sys.stdout.write(f"{len(held)} nodes with {min(held.values()):,} codes of {BITS} bits each\n")
    return home


def _clustered(centres: NDArray[np.bool_], count: int, rng: np.random.Generator) -> Codes:
    """Return codes near random centres, as those of a trained network are."""
    return pack(centres[rng.integers(0, len(centres), count)] ^ (rng.random((count, BITS)) < NOISE))


def _fill(home: Home, codes: Codes) -> None:
    """Write what ingest and hashing would have left behind: copies of the one item there is, and their codes."""
    release = ReleaseStore(home.releases).current()
    if release is None:
        raise StateError("the node joined without a release")
    with closing(sqlite3.connect(home.database)) as database, database:
        (first,) = database.execute("SELECT min(id) FROM item").fetchone()
        ids = range(first, first + len(codes))
        database.executemany(_COPY, ({"id": number, "first": first} for number in ids[1:]))
        insert = "INSERT INTO code_set (release, encoder) VALUES (?, ?)"
        made = database.execute(insert, (release.digest, min(release.manifest.encoders))).lastrowid
        rows = ((made, number, code.tobytes()) for number, code in zip(ids, codes, strict=True))
        database.executemany("INSERT INTO code VALUES (?, ?, ?)", rows)


async def _measure(
    session: AnalystSession, health: health_pb2_grpc.HealthStub, queries: Codes
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the milliseconds of each query and of each health check, shape (queries,) both."""
    times = np.empty((len(queries), 2))
    for row, position in zip(times, range(len(queries)), strict=True):
        start = time.perf_counter()
        (result,) = await session.search(queries[position : position + 1], k=K)
        middle = time.perf_counter()
        await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        row[:] = middle - start, time.perf_counter() - middle
        if not result.complete() or len(result.hits) != K:
            raise StateError("a query was not answered by all nodes", detail=str(result.outcomes))
    query_ms, check_ms = times[WARM_UP:].T * 1000
    return query_ms, check_ms


def _print(query_ms: NDArray[np.float64], check_ms: NDArray[np.float64]) -> None:
    lines = [f"{QUERIES} warm queries for the nearest {K}, one at a time; milliseconds", ""]
    lines.append(f"{'':24}{'p50':>8}{'p95':>8}{'p99':>8}")
    for name, values in (("query", query_ms), ("empty call (reference)", check_ms)):
        lines.append(f"{name:24}" + "".join(f"{value:8.2f}" for value in np.percentile(values, (50, 95, 99))))
    ratios = np.percentile(query_ms, (50, 95, 99)) / np.percentile(check_ms, (50, 95, 99))
    lines.append(f"{'ratio':24}" + "".join(f"{value:8.1f}" for value in ratios))
    reached = "reached" if np.median(query_ms) < GOAL_MS else "NOT reached"
    lines.append(f"\ngoal p50 < {GOAL_MS:g} ms: {reached}\n")
    sys.stdout.write("\n".join(lines))


if __name__ == "__main__":
    sys.exit(exit_code("bench_query", main))
