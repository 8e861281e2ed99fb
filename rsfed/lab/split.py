"""Splitting labelled images into archives and held-out queries. Pure: names in, names out, repeatable by a seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsfed.errors import UsageError

_DRAWS = 1000  # tries to find a mix that leaves no archive nearly empty
_LEAST_SHARE = 0.1  # of an even share, that every archive gets


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: Where it lies.
        label: Its class.
        acquisition: Images of one acquisition stay together; None where nothing is known, then it goes alone.
    """

    path: Path
    label: str
    acquisition: str | None = None


def hold_out(samples: Sequence[Sample], *, share: float, at_most: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Take queries out of the samples, the classes in turn, whole acquisitions at a time.

    Args:
        samples: All images.
        share: Part of them to take, 0 to 1.
        at_most: Largest number to take; the last acquisition is cut there and its rest is left out of both parts.
        seed: Seed of the choice.

    Returns:
        The archive part and the queries.
    """
    groups = _groups(samples)
    wanted = min(at_most, round(share * len(samples)))
    order = np.random.default_rng(seed).permutation(len(groups))
    waiting: dict[str, list[int]] = defaultdict(list)
    for position in order:
        waiting[_main_label(groups[position])].append(int(position))
    taken: list[int] = []
    count = 0
    while count < wanted:
        for label in sorted(waiting):
            if count < wanted and waiting[label]:
                taken.append(waiting[label].pop())
                count += len(groups[taken[-1]])
    chosen = set(taken)
    archive = [sample for position, group in enumerate(groups) if position not in chosen for sample in group]
    return archive, [sample for position in taken for sample in groups[position]][:wanted]


def spread(samples: Sequence[Sample], archives: int, *, skew: float, seed: int) -> list[list[Sample]]:
    """Give the samples to archives whose class mix differs, whole acquisitions at a time.

    Each class is divided in proportions drawn from a Dirichlet distribution (Hsu, Qi and Brown, "Measuring the effects
    of non-identical data distribution for federated visual classification", 2019); mixes that would leave an archive
    nearly empty are drawn again.

    Args:
        samples: The images to give.
        archives: Number of archives.
        skew: Concentration of the distribution: 0.1 gives almost every class to one archive, 100 makes all alike.
        seed: Seed of the draw.

    Raises:
        UsageError: no draw leaves every archive with enough images.
    """
    rng = np.random.default_rng(seed)
    by_label: dict[str, list[list[Sample]]] = defaultdict(list)
    groups = _groups(samples)
    for position in rng.permutation(len(groups)):
        by_label[_main_label(groups[position])].append(groups[position])
    least = max(1, int(_LEAST_SHARE * len(samples) / archives))
    for _ in range(_DRAWS):
        parts = _draw(by_label, archives, skew, rng)
        if min(len(part) for part in parts) >= least:
            return parts
    raise UsageError(
        f"{len(samples)} images cannot be given to {archives} archives with skew {skew}; "
        "raise --skew, lower --nodes or add images"
    )


def deal(samples: Sequence[Sample], archives: int, *, seed: int) -> list[list[Sample]]:
    """Give every class to one archive alone, as many classes to each as to any other, whole acquisitions at a time.

    Args:
        samples: The images to give.
        archives: Number of archives.
        seed: Seed of the draw.

    Raises:
        UsageError: there are fewer classes than archives.
    """
    groups = _groups(samples)
    labels = sorted({_main_label(group) for group in groups})
    if len(labels) < archives:
        raise UsageError(f"{len(labels)} classes cannot be dealt out to {archives} archives; lower --nodes")
    order = np.random.default_rng(seed).permutation(len(labels))
    owner = {labels[each]: place % archives for place, each in enumerate(order)}
    parts: list[list[Sample]] = [[] for _ in range(archives)]
    for group in groups:
        parts[owner[_main_label(group)]].extend(group)
    return parts


def class_mix(samples: Sequence[Sample]) -> dict[str, int]:
    """Return how many images each class has, by name."""
    return dict(sorted(Counter(sample.label for sample in samples).items()))


def _draw(
    by_label: dict[str, list[list[Sample]]], archives: int, skew: float, rng: np.random.Generator
) -> list[list[Sample]]:
    parts: list[list[Sample]] = [[] for _ in range(archives)]
    for label in sorted(by_label):
        edges = np.cumsum(rng.dirichlet(np.full(archives, skew)))
        sizes = np.array([len(group) for group in by_label[label]])
        middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        owners = np.minimum(np.searchsorted(edges, middles), archives - 1)
        for owner, group in zip(owners, by_label[label], strict=True):
            parts[owner].extend(group)
    return parts


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return the samples by acquisition, those without one each for itself, in the order of the samples."""
    groups: dict[str, list[Sample]] = {}
    for position, sample in enumerate(samples):
        groups.setdefault(sample.acquisition or f"\0{position}", []).append(sample)
    return list(groups.values())


def _main_label(group: Sequence[Sample]) -> str:
    counts = Counter(sample.label for sample in group)
    return min(counts, key=lambda label: (-counts[label], label))
