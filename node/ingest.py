"""From a folder of images to a catalogue of patches: looks at every file, reads those that changed.

A run may be killed at any moment: what was acknowledged stays, the next run goes on with the rest.
"""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from node.auditing import Kind, note_beside
from node.endpoint.mirror import Mirror
from node.fitting import fitting
from node.hashing_ahead import hash_ahead
from node.labels import LabelMapping, map_labels
from node.looking import Wanted, looked_at
from node.recipe import Reading, reading_of, recipe
from node.sources import (
    Known,
    Read,
    Rules,
    Seen,
    acknowledge,
    count_patches,
    find_source,
    own_labels,
    present_sources,
    radar_direction,
    set_classes,
    set_labels,
    set_unknown_acquisitions,
    withdraw,
)
from node.state import lost, open_state
from rsfed.clock import utc_now
from rsfed.config import NodeConfig, load_config
from rsfed.config_images import ArchiveSection
from rsfed.crew import Crew, Hands
from rsfed.errors import ArchiveError, RasterRejected, StateError
from rsfed.home import Home, transaction
from rsfed.raster.inspect import SourceInfo
from rsfed.raster.layout import Candidate, Skipped, walk
from rsfed.raster.refusal import refusing

_BATCH_FILES = 64  # acknowledged together
_BATCH_SECONDS = 1.0  # after this long a smaller batch is acknowledged, too
Walk = Callable[[], Iterator[Candidate | Skipped]]


@dataclass(slots=True)
class Report:
    """What a run did.

    Attributes:
        reading: How the archive was read.
        files: Files that were looked at.
        read: Files that were new or had changed.
        withdrawn: Files that were there and are gone or will not do any more.
        skipped: How often each reason to skip something came up.
        labels: What the own labels mean now.
        hashed: Codes that a cluster made.
        seconds: How long it took.
    """

    reading: Reading
    files: int = 0
    read: int = 0
    withdrawn: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    labels: LabelMapping = field(default_factory=LabelMapping)
    hashed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Whoever wants to know how a run goes on.

    Attributes:
        progressed: Called with the files that are done and all files.
        skipped: Called with what is skipped and why.
    """

    progressed: Callable[[int, int], None]
    skipped: Callable[[Skipped], None]


def ingest(
    home: Home,
    listener: Listener,
    *,
    accept_empty: bool = False,
    workers: int | None = None,
    cluster: Hands | None = None,
) -> Report:
    """Bring the catalogue in line with the archive.

    Args:
        home: The node's home.
        listener: Told how the run goes on.
        accept_empty: An archive without any image is no mistake, but is empty.
        workers: Processes that read images, 0 for none; as node.toml says when left out.
        cluster: Who reads and hashes images instead, on other machines that see them under the same paths.

    Raises:
        ArchiveError: there is no archive folder, its label file cannot be read, or it is empty unexpectedly;
            ARCHIVE_UNREACHABLE, it is to be fetched and cannot be; WORKERS, the processes cannot be started;
            SCHEDULER, the cluster has no worker any more.
        ConfigError: node.toml will not do, `[labels.map]` included.
        StateError: another ingest is running, or the state cannot be opened.
    """
    start = time.monotonic()
    config = load_config(NodeConfig, home.path)
    reading = reading_of(home, config)
    map_labels((), config.labels.map, reading.nomenclature)  # refused before hours of reading, not after
    rules = Rules(
        modality=reading.modality.name,
        max_nodata=reading.spec.max_nodata,
        max_cloud=reading.max_cloud,
        independent_files=config.archive.independent_files,
        recipe=recipe(reading),
    )
    hands = cluster or _crew(config.archive.workers if workers is None else workers)
    with _alone(home), closing(_open(home)) as connection:
        run = _Run(home, connection, reading, rules, listener, hands)
        missing = [] if config.archive.stac is None else run.fetch(config.archive, accept_empty=accept_empty)
        held = present_sources(connection)
        known = {path for _, path in held}
        with transaction(connection):
            set_unknown_acquisitions(connection, rules)
        run.take(
            lambda: fitting(walk(reading.root, config.archive.labels, known), reading.modality),
            held,
            missing,
            accept_empty=accept_empty,
        )
        run.report.labels = _settle(connection, config, reading)
        if cluster is not None:
            run.report.hashed = hash_ahead(home, cluster, listener.progressed)
    run.report.seconds = time.monotonic() - start
    return run.report


def _crew(workers: int) -> Hands | None:
    return Crew(workers) if workers else None


class _Run:
    """One pass over the archive, with what it has read and not yet acknowledged."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a pass is made with
        self,
        home: Home,
        connection: sqlite3.Connection,
        reading: Reading,
        rules: Rules,
        listener: Listener,
        hands: Hands | None,
    ) -> None:
        self.report = Report(reading)
        self._home = home
        self._connection = connection
        self._reading = reading
        self._rules = rules
        self._listener = listener
        self._hands = hands
        self._pending: list[Read] = []
        self._relabelled: list[tuple[int, frozenset[str]]] = []
        self._acknowledged = time.monotonic()
        self._good: set[int] = set()  # sources that stay in the catalogue
        self._direction = radar_direction(connection)

    def take(self, entries: Walk, held: list[tuple[int, str]], problems: list[Skipped], *, accept_empty: bool) -> None:
        """Withdraw what is gone of what was held before, take up what is new, then withdraw what will not do.

        Args:
            entries: Lists what is in the archive. It is asked twice, to know how much there is without keeping it all.
            held: Number and path of the sources that the catalogue holds.
            problems: What is left out already.
            accept_empty: As for `ingest`.
        """
        place = _place(self._reading.root)
        listed, gone = 0, {path: number for number, path in held}
        for entry in entries():
            if isinstance(entry, Skipped):
                problems.append(entry)
            else:
                listed += 1
                gone.pop(entry.name, None)
        if held and not listed and not accept_empty:
            unseen = [problem for problem in problems if problem.passing]
            raise _unseen(unseen[0], "ARCHIVE") if unseen else _empty()
        for problem in problems:
            self._skip(problem)
        hidden = _hidden(problems)
        self._withdraw([number for path, number in gone.items() if not hidden(path)])  # what is new may take hours
        with closing(looked_at(self._reading, self._wanted(entries(), listed, problems), self._hands)) as sources:
            for wanted, found in sources:
                self._take_up(wanted, found)
                self._acknowledge_if_due()
        self._acknowledge()
        if _place(self._reading.root) != place:
            raise ArchiveError("the archive was taken away while it was read; mount it and run the ingest again")
        self._listener.progressed(self.report.files, self.report.files)
        hidden, kept = _hidden(problems), self._good | set(gone.values())
        self._withdraw([number for number, path in held if number not in kept and not hidden(path)])

    def fetch(self, archive: ArchiveSection, *, accept_empty: bool) -> list[Skipped]:
        """Bring the files of a STAC endpoint in line with it; what is gone there is withdrawn before anything comes.

        Returns:
            What is left out.

        Raises:
            ArchiveError: ARCHIVE_UNREACHABLE, or ARCHIVE_EMPTY: it lists nothing any more.
        """
        mirror = Mirror(self._reading.root, archive, self._reading.modality)
        listing = mirror.listing()
        gone = mirror.held() - set(listing.items)
        if gone and not listing.items and not accept_empty:
            raise _empty() if listing.whole else _unseen(listing.problems[0], "ARCHIVE_UNREACHABLE")
        if gone and listing.whole:
            held = present_sources(self._connection)
            self._withdraw([number for number, path in held if path in gone])
            mirror.drop(gone)
        elif gone:
            self._skip(
                Skipped(mirror.name, f"{len(gone):,} items are not listed, and stay until all of it can be seen")
            )
        return listing.problems + mirror.fetch(listing, self._listener.progressed)

    def _wanted(self, entries: Iterator[Candidate | Skipped], listed: int, problems: list[Skipped]) -> Iterator[Wanted]:
        """Yield what is new or has changed; the others are kept, and folders that cannot be listed any more noted."""
        for candidate in entries:
            if isinstance(candidate, Skipped):
                problems += [candidate] * candidate.passing
                continue
            self._listener.progressed(self.report.files, max(listed, self.report.files))
            self.report.files += 1
            known = find_source(self._connection, candidate.name)
            try:
                with refusing(candidate.path):
                    seen = Seen(candidate.name, *candidate.stamp(), frozenset(candidate.own_labels))
            except RasterRejected as error:
                self._refuse(candidate, known, error)
                continue
            if known and _unchanged(known, seen, self._rules):
                self._keep(known, seen)
                self._acknowledge_if_due()
            else:
                yield Wanted(candidate, known, seen)

    def _take_up(self, wanted: Wanted, found: SourceInfo | RasterRejected) -> None:
        candidate, seen = wanted.candidate, wanted.seen
        if isinstance(found, RasterRejected):
            self._refuse(candidate, wanted.known, found)
            return
        try:
            with refusing(candidate.path):
                self._check_direction(found.direction)
                _check_stamp(candidate, seen)
        except RasterRejected as error:
            self._refuse(candidate, wanted.known, error)
        else:
            self._pending.append(Read(seen, found, candidate.covered))

    def _refuse(self, candidate: Candidate, known: Known | None, error: RasterRejected) -> None:
        self._skip(Skipped(candidate.name, error.public))
        if known and error.reason == "UNREADABLE":
            self._good.add(known.id)  # a disk that fails just now is no reason to lose a patch

    def _check_direction(self, direction: str | None) -> None:
        """Refuse a radar image of another pass than those before: it sees slopes and edges from the other side."""
        self._direction = self._direction or direction
        if direction not in (None, self._direction):
            raise RasterRejected(
                f"it is of the {direction} pass and the archive holds the {self._direction} one; "
                "search it by a node of its own"
            )

    def _keep(self, known: Known, seen: Seen) -> None:
        self._good.add(known.id)
        if known.seen.labels != seen.labels:
            self._relabelled.append((known.id, seen.labels))

    def _skip(self, problem: Skipped) -> None:
        self.report.skipped[problem.reason] += 1
        self._listener.skipped(problem)

    def _acknowledge_if_due(self) -> None:
        waiting = len(self._pending) + len(self._relabelled)
        late = time.monotonic() - self._acknowledged > _BATCH_SECONDS
        if waiting >= _BATCH_FILES or (waiting > 0 and late):
            self._acknowledge()

    def _acknowledge(self) -> None:
        with transaction(self._connection):
            self._good |= {acknowledge(self._connection, read, self._rules) for read in self._pending}
            for source, labels in self._relabelled:
                set_labels(self._connection, source, labels)
        self.report.read += len(self._pending)
        self._pending, self._relabelled = [], []
        self._acknowledged = time.monotonic()

    def _withdraw(self, gone: Sequence[int]) -> None:
        """Withdraw sources, and note it in the audit log; a log that cannot be written keeps none of them in."""
        if not gone:
            return
        patches = count_patches(self._connection, gone)
        try:
            told = {"sources": len(gone), "patches": patches}
            note_beside(self._home, self._connection, Kind.ARCHIVE_WITHDRAWN, now=utc_now(), **told)
        finally:
            for start in range(0, len(gone), _BATCH_FILES):
                with transaction(self._connection):
                    withdraw(self._connection, gone[start : start + _BATCH_FILES])
            self.report.withdrawn += len(gone)


def _hidden(problems: Iterable[Skipped]) -> Callable[[str], bool]:
    """Return what tells paths that lie in a folder that cannot be listed just now: what is there is not gone."""
    unseen = {problem.name for problem in problems if problem.passing}
    below = tuple(f"{name}/" for name in unseen)
    return lambda path: path in unseen or path.startswith(below)


def _empty() -> ArchiveError:
    return ArchiveError(
        "the archive holds no image any more; mount it, or say that it is empty with --accept-empty",
        reason="ARCHIVE_EMPTY",
    )


def _unseen(problem: Skipped, reason: str) -> ArchiveError:
    return ArchiveError(f"nothing of the archive is seen just now; {problem.name}: {problem.reason}", reason=reason)


def _check_stamp(candidate: Candidate, seen: Seen) -> None:
    """Check that a source still is as it was seen before it was read.

    Raises:
        RasterRejected: UNREADABLE, it was changed meanwhile.
        OSError: it cannot be looked at.
    """
    if candidate.stamp() != (seen.size, seen.mtime_ns):
        raise RasterRejected("it was changed while it was read; run the ingest again", reason="UNREADABLE")


def _unchanged(known: Known, seen: Seen, rules: Rules) -> bool:
    before = known.seen
    return (before.size, before.mtime_ns, known.recipe) == (seen.size, seen.mtime_ns, rules.recipe)


def _settle(connection: sqlite3.Connection, config: NodeConfig, reading: Reading) -> LabelMapping:
    """Bring in line what the labels mean, without reading a pixel."""
    with transaction(connection):
        labels = map_labels(own_labels(connection), config.labels.map, reading.nomenclature)
        set_classes(connection, labels.classes)
    return labels


def _open(home: Home) -> sqlite3.Connection:
    """Open the database; a new one only where no `serve` writes on into the one that is gone."""
    if not lost(home):
        return open_state(home)
    with home.lock():
        return open_state(home, anew=True)


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    with (home.path / "ingest.lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError("another ingest of this node is running; wait for it", detail=str(home.path)) from error
        yield


def _place(root: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one that may be mounted in its place; None where there is none."""
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
