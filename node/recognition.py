"""What an ingest would take up, without reading a pixel or writing anything: `rsfed node ingest --dry-run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from node.fitting import fitting
from node.labels import LabelMapping, map_labels
from node.mirror import Mirror
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
    candidates, problems = fitting(walk(reading.root, config.archive.labels), reading.modality)
    for problem in problems:
        _note(found, problem)
    by_layout: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_layout.setdefault(candidate.product.layout if candidate.product else FILES, []).append(candidate)
        found.own_labels.update(candidate.own_labels)
        found.unlabelled += not candidate.own_labels
        found.covered += candidate.covered
    found.labels = map_labels(found.own_labels, config.labels.map, reading.nomenclature)
    for name, sources in sorted(by_layout.items()):
        found.layouts[name] = _layout(sources, reading, found)
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


def _layout(sources: Sequence[Candidate], reading: Reading, found: Recognition) -> Layout:
    first = sources[0].product
    layout = Layout(len(sources), sum(_sizes(sources)), tuple(first.bands) if first else reading.modality.bands)
    for candidate in sources[:: max(1, len(sources) // HEADERS)][:HEADERS]:
        layout.headers += 1
        try:
            with opened(candidate.path, reading.modality, root=reading.root, radiometry=reading.radiometry) as source:
                where = source.location
                gsd = None if where.resolution is None else max(where.resolution)
                layout.grids[Grid(source.width, source.height, gsd, where.crs)] += 1
        except RasterRejected as error:
            _note(found, Skipped(candidate.name, error.public))
    return layout


def _sizes(sources: Iterable[Candidate]) -> Iterable[int]:
    for candidate in sources:
        try:
            yield candidate.stamp()[0]
        except OSError:  # an ingest will tell
            yield 0


def _note(found: Recognition, problem: Skipped) -> None:
    found.problems[problem.reason] += 1
    found.examples.setdefault(problem.reason, problem.name)
