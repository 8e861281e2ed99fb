"""How patches become what a network takes: from their files, or by the features that a frozen trunk made of them.

The one way for indexing and training alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from node.features import FeatureCache, FeatureKey
from rsfed.errors import RasterRejected, TrainingError
from rsfed.trust.manifest import Architecture, FrozenTrunk

if TYPE_CHECKING:
    from rsfed.home import Home
    from rsfed.raster.input_spec import InputSpec
    from rsfed.raster.item import Item
    from rsfed.trust.release_store import Release

Content = Mapping[str, Any]
"""As `rsfed.hashing.encoder` takes it: bands by group, or features of the trunk."""
Failed = Callable[["Item"], None]
"""Told of each patch that cannot be read any more."""

_AT_ONCE = 16  # patches whose bands wait for the trunk


class Reader(Protocol):
    """Reads patches for one encoder."""

    @property
    def spec(self) -> InputSpec:
        """How a patch is read."""

    @property
    def features(self) -> int:
        """How many features the contents hold; 0 where they hold bands."""

    def contents(self, items: Sequence[Item], failed: Failed) -> Iterator[tuple[Item, Content]]:
        """Yield each patch that can be read, in order."""


class BandReader:
    """Reads bands from files."""

    features = 0

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec

    def contents(self, items: Sequence[Item], failed: Failed) -> Iterator[tuple[Item, Content]]:
        """Yield each patch that can be read, in order."""
        from rsfed.raster import reader  # noqa: PLC0415 - a node whose codes are complete never needs it

        for _, group in groupby(items, key=lambda item: (item.path, item.radiometry)):
            for item, content in reader.read_many(list(group), self.spec):
                if isinstance(content, RasterRejected):
                    failed(item)
                else:
                    yield item, content


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

    def contents(self, items: Sequence[Item], failed: Failed) -> Iterator[tuple[Item, Content]]:
        """Yield the features of each patch that is known or can be read, in order."""
        from rsfed.hashing.trunk import FEATURES  # noqa: PLC0415 - loaded only when used

        (group,) = self.spec.groups
        with closing(FeatureCache(self._home)) as cache:
            for start in range(0, len(items), _AT_ONCE):
                part = items[start : start + _AT_ONCE]
                known = cache.get(self._key, part)
                read = dict(self._bands.contents([item for item in part if item.id not in known], failed))
                made = self._trunk.features(each[group.name] for each in read.values())
                cache.put(self._key, dict(zip(read, made, strict=True)))
                known |= {item.id: vector for item, vector in zip(read, made, strict=True)}
                yield from ((item, {FEATURES: known[item.id]}) for item in part if item.id in known)


def reader(home: Home, architecture: Architecture, spec: InputSpec, release: Release | None) -> Reader:
    """Return what reads the patches of a node for an encoder.

    Args:
        home: The node's home.
        architecture: The encoder's.
        spec: The encoder's.
        release: Where its trunk lies, if it has one.

    Raises:
        TrainingError: TRUNK_MISSING, it stands on a trunk that is not in the release.
    """
    if not isinstance(architecture, FrozenTrunk):
        return BandReader(spec)
    file = None if release is None else release.file(architecture.trunk)
    if file is None:
        raise TrainingError(
            "this node has not the trunk that is trained on; it comes with the federation's release: "
            "let `rsfed node serve` fetch the newest one",
            reason="TRUNK_MISSING",
        )
    return FeatureReader(home, spec, architecture, file)
