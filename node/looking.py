"""Looking at sources before they enter the catalogue: in this process, or ahead by others."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rsfed.crew import Hands, made_of_each
from rsfed.errors import RasterRejected
from rsfed.raster.inspect import SourceInfo, inspect
from rsfed.raster.refusal import refusing
from rsfed.raster.source import environment

if TYPE_CHECKING:
    from node.recipe import Reading
    from node.sources import Known, Seen
    from rsfed.raster.layout import Candidate

_PORTION_SOURCES, _PORTION_BYTES = 16, 4 << 20  # that a process looks at before it gets others
_DIED = RasterRejected(
    "reading it ended the process that read it, for lack of memory or by a fault of the decoder; look at the file",
    reason="UNREADABLE",
)
_UNSEEN = RasterRejected(
    "a worker of the cluster does not see it; mount the archive there under the path that it has here",
    reason="UNREADABLE",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A source that is to be read: where it is, what the catalogue holds of it, and how it was seen just now."""

    candidate: Candidate
    known: Known | None
    seen: Seen


def look(reading: Reading, path: Path) -> SourceInfo | RasterRejected:
    """Return what a source is, or why it will not do."""
    try:
        with refusing(path):
            return inspect(
                path,
                root=reading.root,
                modality=reading.modality,
                spec=reading.spec,
                radiometry=reading.radiometry,
                stride=reading.stride,
            )
    except RasterRejected as error:
        return error


def looked_at(
    reading: Reading, sources: Iterator[Wanted], hands: Hands | None
) -> Generator[tuple[Wanted, SourceInfo | RasterRejected], None, None]:
    """Yield each source with what it is, in order.

    Args:
        reading: How the archive is read.
        sources: Taken as they are looked at.
        hands: Who looks at them ahead; None to do it in this process, when one is asked for.
    """
    if hands is None:
        yield from ((wanted, look(reading, wanted.candidate.path)) for wanted in sources)
        return
    waiting: deque[Wanted] = deque()  # what is in work

    def portions() -> Iterator[list[Path]]:
        for portion in _together(sources):
            waiting.extend(portion)
            yield [wanted.candidate.path for wanted in portion]

    work = partial(_looks, reading, hands.elsewhere)
    each = made_of_each(hands, work, portions(), lambda left: [[path] for path in left])
    with closing(each) as looked:
        for _, found in looked:
            yield waiting.popleft(), _DIED if found is None else found


def _together(sources: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Put small sources together, so that what one process is given is worth the way."""
    portion: list[Wanted] = []
    for source in sources:
        portion.append(source)
        if len(portion) == _PORTION_SOURCES or sum(each.seen.size for each in portion) >= _PORTION_BYTES:
            yield portion
            portion = []
    if portion:
        yield portion


def _looks(reading: Reading, elsewhere: bool, paths: list[Path]) -> Iterator[list[SourceInfo | RasterRejected]]:
    """Look at sources; what another machine does not see is not gone, or all of it would be withdrawn."""
    with environment():
        found = [_UNSEEN if elsewhere and not _lies_here(path) else look(reading, path) for path in paths]
    yield found


def _lies_here(path: Path) -> bool:
    """Return whether a source is there, or the document that lists it: an item has no file of its own name."""
    return path.exists() or path.parent.is_file()
