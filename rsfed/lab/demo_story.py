"""The demo from the first image to the report's data: archives, federation, training, index, queries, figures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sized
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from rsfed.analyst.results import Outcome, SearchResult, worst_outcomes
from rsfed.analyst.session import AnalystSession
from rsfed.lab.demo_data import Division, Images, divide, find_images, lay_out
from rsfed.lab.demo_federation import DemoFederation, Plan, by_node
from rsfed.lab.demo_figures import MAP_K, Baselines, baselines, served_figures
from rsfed.lab.memory import MemoryMeter
from rsfed.lab.narrator import Narrator
from rsfed.lab.processes import Processes
from rsfed.lab.report import Figures
from rsfed.lab.split import Sample

NODE_NAMES = ("alps", "baltic", "crete", "danube", "elbe", "fjord", "gascony", "harz")
BITS = 64
_WIDTH, _WIDTH_OF_DATA = 16, 32  # channels; real images need a larger network than synthetic ones
_BATCH = 64  # patches; the coordinator's default
_LEAST_STEPS, _MOST_STEPS = 40, 120  # of a node in one round
_SYNTHETIC_PATCHES = 1200
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # one core for each process
Placed = dict[Path, Sample]
"""Which image each file of an archive is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose.

    Attributes:
        data: Folder with class sub-folders; None for a synthetic one.
        nodes: Number of archives.
        skew: Concentration of the Dirichlet distribution that makes their class mixes.
        rounds: Rounds of training.
        seed: Seed of everything.
        keep: Leave homes, archives and logs behind.
    """

    data: Path | None
    nodes: int
    skew: float
    rounds: int
    seed: int
    keep: bool


@dataclass(frozen=True, slots=True)
class Searched:
    """All queries with one release.

    Attributes:
        results: Ranking of each query.
        hits: Image of each hit by node and handle, as the node's own operator learns it.
        figures: How good the rankings are.
    """

    results: tuple[SearchResult, ...]
    hits: dict[tuple[str, str], Sample]
    figures: Figures


@dataclass(slots=True)
class Told:
    """Everything that happened, filled step by step.

    Attributes:
        rounds: Events of the training rounds as the coordinator reported them.
        indexed: Patches that each node searches.
        peaks: Most bytes that each node held.
        peak: Most bytes that all processes held at once.
    """

    rounds: list[dict[str, Any]] = field(default_factory=list)
    indexed: dict[str, int] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    images: Images = field(init=False)
    division: Division = field(init=False)
    untrained: Searched = field(init=False)
    trained: Searched = field(init=False)
    plain: Baselines = field(init=False)
    release: tuple[int, str] = field(init=False)

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes."""
        return list(self.division.archives)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """How each node took part in the queries to the trained release."""
        return worst_outcomes(self.trained.results)

    def listed(self) -> Counter[str]:
        """Return how many hits of each node were listed, by both releases."""
        return Counter(node for searched in (self.untrained, self.trained) for node, _ in searched.hits)


@asynccontextmanager
async def tell(settings: Settings, narrator: Narrator) -> AsyncIterator[Told]:
    """Run the demo and yield what happened; all processes have ended, the images still lie on disk.

    Raises:
        UsageError: the data does not suit the settings.
        CommandFailed: a command or server of the federation failed.
    """
    with MemoryMeter() as meter, _workplace(settings.keep, narrator) as folder:
        story = _Storyteller(settings, folder, Told(), narrator)
        temporary = folder / "tmp"  # libraries leave caches there that outlive their process
        temporary.mkdir()
        async with Processes(folder / "logs", _THREADS | {"TMPDIR": str(temporary)}) as processes:
            await story.run(processes)
            story.told.peak = meter.peak
            story.told.peaks = {name: meter.peaks[pid] for name, pid in processes.servers.items()}
        yield story.told


class _Storyteller:
    """Takes the steps. What computes runs in this thread: a thread of its own would outlive an interruption."""

    def __init__(self, settings: Settings, folder: Path, told: Told, narrator: Narrator) -> None:
        self._settings, self._folder, self._narrator = settings, folder, narrator
        self.told = told

    async def run(self, processes: Processes) -> None:
        told, federation = self.told, DemoFederation(processes, self._folder)
        with self._narrator.phase("prepare the images"):
            self._prepare()
        with self._narrator.phase("found the federation, ingest the archives"):
            placed = await self._found(federation)
        with self._narrator.phase("hash with the untrained network"):
            home = await federation.admit_analyst()
            told.indexed = await federation.wait_indexed(told.nodes, release=1)
        async with AnalystSession(home) as session:
            with self._narrator.phase("search with the untrained network"):
                told.untrained = await self._search(federation, session, placed)
            with self._narrator.phase(f"train {self._settings.rounds} round{'s' * (self._settings.rounds != 1)}"):
                version = await self._train(federation)
            with self._narrator.phase("hash with the trained network"):
                told.indexed = await federation.wait_indexed(told.nodes, release=version)
            with self._narrator.phase("search with the trained network"):
                await session.refresh()
                told.trained = await self._search(federation, session, placed)
            told.release = session.release.manifest.version, session.release.digest.hex()
        with self._narrator.phase("compute the baselines"):
            told.plain = baselines(told.images, told.division, bits=BITS, seed=self._settings.seed)

    def _prepare(self) -> None:
        settings, told = self._settings, self.told
        root = settings.data
        if root is None:
            from rsfed.lab.synth import generate  # noqa: PLC0415 - only for synthetic data

            root = self._folder / "images"
            generate(root, patches=_SYNTHETIC_PATCHES, seed=settings.seed)
        told.images = find_images(root)
        told.division = divide(told.images, NODE_NAMES[: settings.nodes], skew=settings.skew, seed=settings.seed)

    async def _found(self, federation: DemoFederation) -> Placed:
        told, settings = self.told, self._settings
        classes = sorted({sample.label for sample in told.images.samples})
        modality = told.images.modality.name
        width = _WIDTH if settings.data is None else _WIDTH_OF_DATA
        steps = local_steps(told.division.archives)
        await federation.found(Plan(modality, told.images.size, BITS, classes, width, steps, settings.seed))
        placed: Placed = {}
        for name, samples in told.division.archives.items():
            placed |= lay_out(samples, told.images.root, self._archive(name))
        reports = await asyncio.gather(*(self._admit(federation, name) for name in told.nodes))
        for name, report in zip(told.nodes, reports, strict=True):
            self._narrator.say(f"  {name}: {report['patches']['present']} patches of {len(report['classes'])} classes")
        return placed

    async def _admit(self, federation: DemoFederation, name: str) -> dict[str, Any]:
        report = await federation.admit_node(name, self._archive(name), self.told.images.modality.name)
        await federation.serve_node(name)
        return report

    async def _train(self, federation: DemoFederation) -> int:
        """Train, tell each round, and return the version of the release."""
        version = 0
        async for event in federation.train(self._settings.rounds, self._settings.nodes):
            if event["event"] == "round":
                self.told.rounds.append(event)
                loss = "" if event["loss"] is None else f", loss {event['loss']:.2f}"
                self._narrator.say(f"  round {event['round']}: {len(event['nodes'])} nodes{loss}")
            elif event["event"] == "released":
                version = event["version"]
        return version

    async def _search(self, federation: DemoFederation, session: AnalystSession, placed: Placed) -> Searched:
        queries = self.told.division.queries
        encoded = session.encode([query.path for query in queries])
        first = [encoded.images.index(position) for position in range(len(queries))]  # of an image cut into tiles
        results = await session.search(encoded.codes[first], k=MAP_K)
        wanted = by_node({(hit.node, hit.handle): hit for result in results for hit in result.hits})
        found = await asyncio.gather(*(federation.resolve(node, handles) for node, handles in wanted.items()))
        hits = {
            (node, entry["handle"]): placed[Path(entry["path"])]
            for node, entries in zip(wanted, found, strict=True)
            for entry in entries
        }
        rankings = [[hits[hit.node, hit.handle].label for hit in result.hits] for result in results]
        return Searched(tuple(results), hits, served_figures([query.label for query in queries], rankings))

    def _archive(self, name: str) -> Path:
        return self._folder / "archives" / name


def local_steps(archives: Mapping[str, Sized]) -> int:
    """Return how many optimiser steps a node makes in one round: six passes over an average archive, within limits."""
    mean = sum(map(len, archives.values())) / len(archives)
    return max(_LEAST_STEPS, min(_MOST_STEPS, round(6 * mean / _BATCH)))


@contextmanager
def _workplace(keep: bool, narrator: Narrator) -> Iterator[Path]:
    """Yield a new folder with a short path; it goes in the end, unless it is to be kept."""
    if keep:
        folder = Path(mkdtemp(prefix="rsfed-demo-")).resolve()
        narrator.say(f"homes, archives and logs stay in {folder}")
        yield folder
        return
    with TemporaryDirectory(prefix="rsfed-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()
