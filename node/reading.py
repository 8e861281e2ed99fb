"""How patches become what a network takes: from their files, or by the features that a frozen trunk made of them.

The one way for indexing and training alike.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from node.features import FeatureCache, FeatureKey
from rsfed.crew import Hands, made_of_each
from rsfed.errors import RasterRejected, TrainingError
from rsfed.trust.manifest import Architecture, FrozenTrunk

if TYPE_CHECKING:
    from rsfed.hashing.trunk import Vector
    from rsfed.home import Home
    from rsfed.raster.input_spec import InputSpec
    from rsfed.raster.item import Item
    from rsfed.trust.release_store import Release

Content = Mapping[str, Any]
"""As `rsfed.hashing.encoder` takes it: bands by group, or features of the trunk."""
Failed = Callable[["Item"], None]
"""Told of each patch that cannot be read any more."""

_AT_ONCE = 16  # patches whose bands wait for the trunk, or for a process to be taken from it
_PAGE = 1024  # patches whose features are looked up at a time
_PORTION = 2 * _AT_ONCE  # patches that a process reads before it gets others: as many as may wait for it to be asked


class Reader(Protocol):
    """Reads patches for one encoder."""

    @property
    def spec(self) -> InputSpec:
        """How a patch is read."""

    @property
    def features(self) -> int:
        """How many features the contents hold; 0 where they hold bands."""

    def contents(self, items: Iterable[Item], failed: Failed) -> Generator[tuple[Item, Content], None, None]:
        """Yield each patch that can be read, in order."""


class BandReader:
    """Reads bands from files.

    Args:
        spec: How a patch is read.
        hands: Who reads ahead; None to read in this process, when a patch is asked for.
    """

    features = 0

    def __init__(self, spec: InputSpec, hands: Hands | None = None) -> None:
        self.spec = spec
        self._hands = hands

    def contents(self, items: Iterable[Item], failed: Failed) -> Generator[tuple[Item, Content], None, None]:
        """Yield each patch that can be read, in order; those of one source that come together are read in one go."""
        if self._hands:
            read = made_of_each(self._hands, partial(_parts, self.spec), portions(items), by_source)
        else:
            read = (each for group in by_source(items) for each in _read(self.spec, group))
        for item, content in read:
            if content is None:
                failed(item)
            else:
                yield item, content


def noted(read: Iterable[tuple[Item, Content]], ids: list[int]) -> Iterator[Content]:
    """Yield what patches hold, and note whose it was."""
    for item, content in read:
        ids.append(item.id)
        yield content


def _read(spec: InputSpec, items: Sequence[Item]) -> Iterator[tuple[Item, Content | None]]:
    """Yield each patch of one source with what it holds; None where it cannot be read."""
    from rsfed.raster import reader  # noqa: PLC0415 - a node whose codes are complete never needs it

    for item, content in reader.read_many(items, spec):
        yield item, None if isinstance(content, RasterRejected) else content


def by_source(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield those patches together that come one after the other and from one source."""
    return (list(group) for _, group in groupby(items, key=lambda item: (item.path, item.radiometry)))


def portions(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Put small sources together, so that what one process is given is worth the way; a source is never divided."""
    portion: list[Item] = []
    for group in by_source(items):
        portion += group
        if len(portion) >= _PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _parts(spec: InputSpec, items: Sequence[Item]) -> Iterator[list[Content | None]]:
    """Yield what patches hold, some at a time; None for each that cannot be read."""
    read = (content for group in by_source(items) for _, content in _read(spec, group))
    while part := list(islice(read, _AT_ONCE)):
        yield part


class FeatureReader:
    """Takes features from the cache; those that are not there are made and kept.

    Args:
        home: The node's home.
        spec: How the trunk sees a patch.
        architecture: The trunk.
        file: Where it lies, its digest checked.
    """

    def __init__(self, home: Home, spec: InputSpec, architecture: FrozenTrunk, file: Path) -> None:
        from rsfed.hashing.trunk import Trunk  # noqa: PLC0415 - loaded only when used

        self.spec = spec
        self.features = architecture.features
        self._bands = BandReader(spec)
        self._key = FeatureKey.of(architecture, spec)
        self._home = home
        self._trunk = Trunk(file, architecture)

    def contents(self, items: Iterable[Item], failed: Failed) -> Generator[tuple[Item, Content], None, None]:
        """Yield the features of each patch that is known or can be read, in order."""
        from rsfed.hashing.trunk import FEATURES  # noqa: PLC0415 - loaded only when used

        coming = iter(items)
        with closing(FeatureCache(self._home)) as cache:
            while page := list(islice(coming, _PAGE)):
                known = cache.get(self._key, page)
                waiting = iter(page)
                for made in self._made([item for item in page if item.id not in known], cache, failed):
                    known |= {item.id: vector for item, vector in made.items()}
                    last = next(reversed(made)).id
                    for item in waiting:
                        if item.id in known:
                            yield item, {FEATURES: known[item.id]}
                        if item.id == last:
                            break
                yield from ((item, {FEATURES: known[item.id]}) for item in waiting if item.id in known)

    def _made(self, items: Sequence[Item], cache: FeatureCache, failed: Failed) -> Iterator[dict[Item, Vector]]:
        """Make and keep the features of patches, some at a time."""
        (group,) = self.spec.groups
        reading = self._bands.contents(items, failed)
        while read := dict(islice(reading, _AT_ONCE)):
            made = dict(zip(read, self._trunk.features(each[group.name] for each in read.values()), strict=True))
            cache.put(self._key, made)
            yield made


def reader(
    home: Home,
    architecture: Architecture,
    spec: InputSpec,
    release: Release | None,
    *,
    hands: Hands | None = None,
) -> Reader:
    """Return what reads the patches of a node for an encoder.

    Args:
        home: The node's home.
        architecture: The encoder's.
        spec: The encoder's.
        release: Where its trunk lies, if it has one.
        hands: Who reads ahead; beside a trunk, which takes far longer than reading, nobody does.

    Raises:
        TrainingError: TRUNK_MISSING, it stands on a trunk that is not in the release.
    """
    if not isinstance(architecture, FrozenTrunk):
        return BandReader(spec, hands)
    file = None if release is None else release.file(architecture.trunk)
    if file is None:
        raise TrainingError(
            "this node has not the trunk that is trained on; it comes with the federation's release: "
            "let `rsfed node serve` fetch the newest one",
            reason="TRUNK_MISSING",
        )
    return FeatureReader(home, spec, architecture, file)
