"""From the labels of an archive to the classes of the federation: rules without IO."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rsfed.errors import ConfigError
from rsfed.trust.manifest import Nomenclature

NONE = "none"
"""What `[labels.map]` says of a label that is no class of the federation."""


@dataclass(frozen=True, slots=True)
class LabelMapping:
    """What the labels of an archive mean.

    Attributes:
        classes: For each own label that has any, the ids of its classes, rising.
        unmapped: Own labels that are no class of the federation; their patches stay, unlabelled.
        ambiguous: Own labels that read like several classes, with the names of these; unlabelled until
            `[labels.map]` says which one is meant.
        unused: Labels in `[labels.map]` that the archive does not have: probably misspelt.
    """

    classes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unmapped: tuple[str, ...] = ()
    ambiguous: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def normalised(name: str) -> str:
    """Return a name without what spelling differs in: case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def map_labels(
    own: Iterable[str], chosen: Mapping[str, str | list[str]], nomenclature: Nomenclature | None
) -> LabelMapping:
    """Find the classes of each own label: as `[labels.map]` says, else by equal name.

    Args:
        own: The labels of the archive.
        chosen: `[labels.map]`: own label to "none", one class or several.
        nomenclature: The federation's classes; None where the node has no release yet, and all labels are unmapped.

    Raises:
        ConfigError: UNKNOWN_CLASS where `[labels.map]` names a class that the nomenclature does not have.
    """
    labels = sorted(set(own))
    if nomenclature is None:
        return LabelMapping(unmapped=tuple(labels))
    by_name = {entry.name: entry.id for entry in nomenclature.classes}
    alike: dict[str, list[str]] = defaultdict(list)
    for name in by_name:
        alike[normalised(name)].append(name)
    meant = {label: _chosen_ids(label, value, by_name, alike) for label, value in chosen.items()}
    ambiguous = {}
    for label in labels:
        if label in meant:
            continue
        candidates = [label] if label in by_name else alike.get(normalised(label), [])
        if len(candidates) > 1:
            ambiguous[label] = tuple(sorted(candidates))
        meant[label] = tuple(by_name[name] for name in candidates) if len(candidates) == 1 else ()
    return LabelMapping(
        classes={label: meant[label] for label in labels if meant[label]},
        unmapped=tuple(label for label in labels if not meant[label] and label not in ambiguous),
        ambiguous=ambiguous,
        unused=tuple(sorted(set(chosen) - set(labels))),
    )


def _chosen_ids(
    label: str, value: str | list[str], by_name: Mapping[str, int], alike: Mapping[str, list[str]]
) -> tuple[int, ...]:
    names = [value] if isinstance(value, str) else value
    if names == [NONE]:
        return ()
    ids = set()
    for name in names:
        candidates = [name] if name in by_name else alike.get(normalised(name), [])
        if len(candidates) != 1:
            raise ConfigError(
                f"node.toml: [labels.map] gives a label a class that the federation does not have under exactly this "
                f"name; use one of {', '.join(sorted(by_name)) or 'none (the release has no classes)'}",
                reason="UNKNOWN_CLASS",
                detail=f"{label!r} = {name!r}",
            )
        ids.add(by_name[candidates[0]])
    return tuple(sorted(ids))
