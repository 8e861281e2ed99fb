"""Policy levels on archives of many kinds: `make bench-defaults`.

Which levels EuroSAT and UC Merced (files independent), the countries of BigEarthNet v2 (from its metadata, with
simulated codes) and made-up scenes of 1, 5 and 50 tiles can start, what quality is left there, and how many answers to
a legitimate load of 2,000 queries by Zipf's law are withheld. All through the rules that nodes go by
(`rsfed.privacy`). Then how long it takes to rank the catalogues of eight archives of a million patches. The data are
found through RSFED_TEST_DATA; without pyarrow BigEarthNet is left out, unless metadata.csv lies beside its
metadata.parquet in RSFED_BENCH_CACHE. Ends with one line of JSON; docs/output.md tells what is in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from rsfed.analyst.catalogues import Read, nearest
from rsfed.errors import ConfigError
from rsfed.lab.bench_command import exit_code
from rsfed.lab.bench_images import EUROSAT, UCM, data_folder
from rsfed.lab.coded_archives import CodedArchive, Items, bigearthnet_folder, of_countries, of_images, of_scenes
from rsfed.lab.narrator import Narrator
from rsfed.lab.wide_table import WideTable
from rsfed.privacy.policy import POLICIES, Policy
from rsfed.privacy.simulation import Seen, drawn, listing, mean, seen_at, seen_exactly
from rsfed.trust.catalogue import Opened, Part

SETS = (EUROSAT, UCM)
LOAD, SEED = 2_000, 0
MOST_WITHHELD = 0.1  # of a legitimate load at `guarded`
TILES = (1, 5, 50)
CATALOGUES, BUCKETS, BITS, RANKINGS = 8, 100_000, 64, 200  # a million patches make so many buckets of ten at most
MOST_MS = 100.0
WIDTH = 100  # characters
_HEADINGS = ("archive", "patches", "acquis.", "level", "starts", "told", "groups", "class", "within", "withheld")


def main() -> None:
    """Run the benchmark and print its table and figures."""
    narrator, found = Narrator(), {}
    for archive in _archives(narrator):
        with narrator.phase(f"levels of {archive.name}"):
            found[archive.name] = measured(archive)
    with narrator.phase("ranking of catalogues"):
        ranking = ranking_figures()
    console = Console(highlight=False, width=WIDTH)
    console.print(table(found))
    console.print(f"ranking {CATALOGUES} catalogues of {BUCKETS:,} buckets, milliseconds: {ranking}")
    withheld = [each["levels"]["guarded"]["withheld"] for each in found.values()]
    worst = max((each for each in withheld if each is not None), default=None)
    told = {
        "archives": found,
        "withheld": {"worst": worst, "limit": MOST_WITHHELD, "held": worst is not None and worst <= MOST_WITHHELD},
        "ranking": ranking | {"limit_ms": MOST_MS, "held": ranking["wall_p99"] <= MOST_MS},
    }
    sys.stdout.write(json.dumps(told) + "\n")


def _archives(narrator: Narrator) -> Iterator[CodedArchive]:
    data = data_folder()
    for name in SETS:
        with narrator.phase(f"codes of {name}"):
            archive = of_images(data, name)
        yield archive
    for tiles in TILES:
        yield of_scenes(tiles)
    try:
        with narrator.phase("countries of BigEarthNet"):
            countries = of_countries(bigearthnet_folder(data))
    except ConfigError as error:
        narrator.say(f"BigEarthNet is left out: {error.public}")
        countries = []
    yield from countries


def measured(archive: CodedArchive) -> dict[str, Any]:
    """Return the figures of an archive at every level."""
    acquisitions = len(np.unique(archive.acquisitions))
    seen = {"exact": seen_exactly(archive.items.codes)}
    for name, policy in POLICIES.items():
        at_level = seen_at(policy, archive.items.codes, archive.present(), archive.cells, archive.cells)
        if acquisitions >= policy.least_acquisitions and at_level is not None:
            seen[name] = at_level
    quality = dict(zip(seen, _quality(list(seen.values()), archive), strict=True))
    return {
        "patches": len(archive.items.codes),
        "acquisitions": acquisitions,
        "distinct_codes": len(np.unique(archive.items.codes, axis=0)),
        "queries": len(archive.queries.codes),
        "exact": quality["exact"],
        "levels": {
            name: {
                "needs": policy.least_acquisitions,
                "starts": acquisitions >= policy.least_acquisitions,
                **_figures(policy, seen.get(name), archive, quality),
            }
            for name, policy in POLICIES.items()
        },
    }


def _figures(
    policy: Policy, seen: Seen | None, archive: CodedArchive, quality: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Return the figures of a level; quality is a share of that of exact answers, None where nothing is searched."""
    if seen is None:
        return dict.fromkeys(("told", "groups", "class", "within", "withheld"))
    shares = {name: value / quality["exact"][name] for name, value in quality[policy.level].items()}
    return {
        "told": round(seen.told, 4),
        "groups": len(np.unique(seen.groups[seen.groups >= 0])),
        **{name: round(value, 4) for name, value in shares.items()},
        "withheld": None if policy.publishes else round(_withheld(seen, archive.items), 4),
    }


def _quality(all_seen: Sequence[Seen], archive: CodedArchive) -> list[dict[str, float]]:
    """Return NDCG@20 by class, and within the class by the look of patches, of each way to see the archive."""
    found = np.zeros((len(archive.queries.codes), len(all_seen), 2))
    for row, code, (alike, worth) in zip(found, archive.queries.codes, _gains(archive), strict=True):
        for place, seen in enumerate(all_seen):
            answer = listing(seen, code)
            row[place] = answer.ndcg(alike), answer.ndcg(worth)
    return [{"class": mean(each[:, 0]), "within": mean(each[:, 1])} for each in np.moveaxis(found, 1, 0)]


def _gains(archive: CodedArchive) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Give for each query which patches share a class with it, and what those are worth by their look: 1 to 0."""
    look = archive.items.look - archive.items.look.mean(axis=1, keepdims=True)
    look /= np.linalg.norm(look, axis=1, keepdims=True)
    labels = archive.items.labels.astype(np.float32)
    for own, wanted in zip(archive.queries.look, archive.queries.labels, strict=True):
        alike = (labels @ wanted.astype(np.float32) > 0).astype(np.float64)
        inside = np.flatnonzero(alike)
        order = inside[np.argsort(-(look[inside] @ (own - own.mean())), kind="stable")]
        worth = np.zeros(len(labels))
        worth[order] = 1 - np.arange(len(order)) / max(1, len(order))
        yield alike, worth


def _withheld(seen: Seen, items: Items) -> float:
    """Return the share of a legitimate load whose answers list nothing; patches of the archive ask."""
    asked, times = np.unique(drawn(len(items.codes), LOAD, SEED), return_counts=True)
    empty = [listing(seen, items.codes[own], own).hits == 0 for own in asked.tolist()]
    return float(times[empty].sum() / LOAD)


def ranking_figures(
    catalogues: int = CATALOGUES, buckets: int = BUCKETS, rankings: int = RANKINGS
) -> dict[str, int | float]:
    """Time the ranking of catalogues by `rsfed query --private`, one query after the other.

    Reading, checking and fetching catalogues and hashing the image are not in it.
    """
    rng, now = np.random.default_rng(SEED), datetime(2026, 1, 1, tzinfo=UTC)
    reads = []
    for number in range(catalogues):
        middles = rng.integers(0, 256, (buckets, BITS // 8), dtype=np.uint8)
        part = Part(middles, (), np.full(buckets, 10, np.uint32))
        node = f"node-{number}"
        reads.append(Read(node, "catalogue", Opened(node, "catalogue", b"", 1, now, now, 10, 300, {"one": part})))
    taken = np.empty((rankings, 2))
    for row, code in zip(taken, rng.integers(0, 256, (rankings, BITS // 8), dtype=np.uint8), strict=True):
        wall, cpu = time.perf_counter(), time.process_time()
        nearest(code, "one", reads, k=20, radius=None)
        row[:] = time.perf_counter() - wall, time.process_time() - cpu
    wall_ms, cpu_ms = taken.T * 1000
    return {
        "catalogues": catalogues,
        "buckets": buckets,
        "bits": BITS,
        "rankings": rankings,
        **{
            f"{name}_p{part}": round(float(np.percentile(values, part)), 2)
            for name, values in (("wall", wall_ms), ("cpu", cpu_ms))
            for part in (50, 99)
        },
    }


def table(found: dict[str, dict[str, Any]]) -> WideTable:
    """Return the figures as a table; quality is a share of that of exact answers."""
    rows = []
    for name, archive in found.items():
        for level, row in archive["levels"].items():
            first = level == next(iter(POLICIES))
            about = (name, f"{archive['patches']:,}", f"{archive['acquisitions']:,}") if first else ("", "", "")
            starts = "yes" if row["starts"] else f"needs {row['needs']}"
            groups = "-" if row["groups"] is None else f"{row['groups']:,}"
            shares = [_cell(row[key]) for key in ("class", "within", "withheld")]
            rows.append((*about, level, starts, _cell(row["told"]), groups, *shares))
    return WideTable(_HEADINGS, rows, names=1)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(exit_code("bench_defaults", main))
