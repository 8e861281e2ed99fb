"""What an ingest would take up, without reading a pixel or writing anything: `rsfed node ingest --dry-run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from node.endpoint.mirror import Mirror
from node.fitting import fitting
from node.labels import LabelMapping, map_labels
from node.recipe import Reading
from rsfed.config import NodeConfig
from rsfed.errors import RasterRejected
from rsfed.raster import stac
from rsfed.raster.layout import Candidate, Skipped, walk
from rsfed.raster.source import opened

FILES = "files"
"""What stands for a layout where every file is an image."""
HEADERS = 100  # of each layout are looked at


@dataclass(frozen=True, slots=True)
class Grid:
    """How pixels of sources lie: width and height, metres between two of them, reference system; None where unknown."""

    width: int
    height: int
    gsd: float | None
    crs: str | None


@dataclass(slots=True)
class Layout:
    """Sources that lie in the archive in one way.

    Attributes:
        sources: How many there are.
        bytes: Size of all their files.
        bands: Bands of the first one.
        headers: How many were looked at, evenly spread.
        grids: How their pixels lie.
    """

    sources: int = 0
    bytes: int = 0
    bands: tuple[str, ...] = ()
    headers: int = 0
    grids: Counter[Grid] = field(default_factory=Counter)


@dataclass(slots=True)
class Recognition:
    """What is in an archive.

    Attributes:
        layouts: Its sources by name of the layout.
        own_labels: How many sources have each label, as the archive spells them.
        unlabelled: How many have none.
        covered: How many lie under clouds, shadow or snow, as their data set says.
        labels: What the labels mean.
        problems: How often something will not do, by reason.
        examples: One name for each reason.
    """

    layouts: dict[str, Layout] = field(default_factory=dict)
    own_labels: Counter[str] = field(default_factory=Counter)
    unlabelled: int = 0
    covered: int = 0
    labels: LabelMapping = field(default_factory=LabelMapping)
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def recognise(reading: Reading, config: NodeConfig) -> Recognition:
    """Look at names, sizes and some headers of an archive.

    Raises:
        ArchiveError: there is no archive folder, or its labels cannot be read; ARCHIVE_UNREACHABLE.
        ConfigError: `[labels.map]` will not do, or metadata need a package that is not installed.
    """
    found = Recognition()
    if config.archive.stac is not None:
        return _endpoint(reading, config, found)
    samples: dict[str, Sample] = {}
    for entry in fitting(walk(reading.root, config.archive.labels), reading.modality):
        if isinstance(entry, Skipped):
            _note(found, entry)
            continue
        name, bands = FILES, reading.modality.bands
        if entry.product:
            name, bands = entry.product.layout, tuple(entry.product.bands)
        layout = found.layouts.setdefault(name, Layout(bands=bands))
        layout.sources += 1
        layout.bytes += _size(entry)
        samples.setdefault(name, Sample()).add(entry)
        found.own_labels.update(entry.own_labels)
        found.unlabelled += not entry.own_labels
        found.covered += entry.covered
    found.labels = map_labels(found.own_labels, config.labels.map, reading.nomenclature)
    found.layouts = dict(sorted(found.layouts.items()))
    for name, layout in found.layouts.items():
        _look_at_headers(samples[name].taken, layout, reading, found)
    return found


def _endpoint(reading: Reading, config: NodeConfig, found: Recognition) -> Recognition:
    """Look at what a STAC endpoint lists; nothing of it is fetched."""
    mirror = Mirror(reading.root, config.archive, reading.modality)
    listing = mirror.listing()
    refusals = [Skipped(name, why) for name, each in listing.items.items() if (why := mirror.refusal(each))]
    for problem in [*listing.problems, *refusals]:
        _note(found, problem)
    found.unlabelled = len(listing.items) - len(refusals)
    found.layouts[stac.LAYOUT] = Layout(found.unlabelled, bands=reading.modality.bands)
    return found


class Sample:
    """Some of many candidates, evenly spread, without keeping all: every one, then every second, then every fourth."""

    def __init__(self) -> None:
        self.taken: list[Candidate] = []
        self._step = 1
        self._seen = 0

    def add(self, candidate: Candidate) -> None:
        """Take a candidate, or not."""
        if self._seen % self._step == 0:
            self.taken.append(candidate)
        self._seen += 1
        if len(self.taken) > HEADERS:
            self.taken = self.taken[::2]
            self._step *= 2


def _look_at_headers(sample: Sequence[Candidate], layout: Layout, reading: Reading, found: Recognition) -> None:
    for candidate in sample:
        layout.headers += 1
        try:
            with opened(candidate.path, reading.modality, root=reading.root, radiometry=reading.radiometry) as source:
                where = source.location
                gsd = None if where.resolution is None else max(where.resolution)
                layout.grids[Grid(source.width, source.height, gsd, where.crs)] += 1
        except RasterRejected as error:
            _note(found, Skipped(candidate.name, error.public))


def _size(candidate: Candidate) -> int:
    try:
        return candidate.stamp()[0]
    except OSError:  # an ingest will tell
        return 0


def _note(found: Recognition, problem: Skipped) -> None:
    found.problems[problem.reason] += 1
    found.examples.setdefault(problem.reason, problem.name)
