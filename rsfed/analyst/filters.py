"""What an analyst narrows a search by: from the options of the command to the filter that is signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rsfed.analyst.results import Box
from rsfed.clock import MOMENT_FORMS, moment_of
from rsfed.errors import UsageError
from rsfed.trust.manifest import Manifest
from rsfed.v1.envelope_pb2 import BoundingBox, QueryFilter
from rsfed.wire import DEGREE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which items count; None and nothing ask for nothing.

    Attributes:
        after: The acquisition ends at this moment or later.
        before: The acquisition starts at this moment or earlier.
        bbox: The footprint touches this box.
        modality: The modality.
        labels: Classes of the federation; one of them is enough.
    """

    after: datetime | None = None
    before: datetime | None = None
    bbox: Box | None = None
    modality: str | None = None
    labels: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are filtered by, as outcomes name them."""
        asked = {
            "time": self.after is not None or self.before is not None,
            "bbox": self.bbox is not None,
            "modality": self.modality is not None,
            "label": bool(self.labels),
        }
        return tuple(field for field, is_asked in asked.items() if is_asked)

    def message(self, manifest: Manifest) -> QueryFilter | None:
        """Return the filter for the nodes; None where everything counts.

        Raises:
            UsageError: FILTER, the release has no such class or modality.
        """
        if not self.fields:
            return None
        modalities = sorted({encoder.modality for encoder in manifest.encoders.values()})
        if self.modality is not None and self.modality not in modalities:
            raise UsageError(
                f"--modality: the release searches no {self.modality!r}; name one of: {', '.join(modalities)}",
                reason="FILTER",
            )
        return QueryFilter(
            after=None if self.after is None else (self.after - _EPOCH) // _MILLISECOND,
            before=None if self.before is None else (self.before - _EPOCH) // _MILLISECOND,
            bbox=None if self.bbox is None else BoundingBox(**dict(zip(_EDGES, map(_units, self.bbox), strict=True))),
            modality=self.modality,
            labels=_ids(self.labels, manifest),
        )

    def as_json(self) -> dict[str, Any] | None:
        """Return the filter as docs/output.md describes it."""
        if not self.fields:
            return None
        return {
            "after": None if self.after is None else _iso(self.after),
            "before": None if self.before is None else _iso(self.before),
            "bbox": None if self.bbox is None else list(self.bbox),
            "modality": self.modality,
            "labels": list(self.labels) or None,
        }


_EDGES = ("west", "south", "east", "north")


def parse_filters(
    *, after: str | None, before: str | None, bbox: str | None, modality: str | None, labels: Sequence[str]
) -> Filters:
    """Read the options of the command.

    Raises:
        UsageError: FILTER, one of them cannot be read or makes no sense; the message names it.
    """
    start = None if after is None else _moment("--after", after)
    end = None if before is None else _moment("--before", before, end_of_day=True)
    if start is not None and end is not None and start > end:
        raise UsageError("--after lies behind --before; swap them", reason="FILTER")
    return Filters(start, end, None if bbox is None else _box(bbox), modality, tuple(dict.fromkeys(labels)))


def _moment(option: str, text: str, *, end_of_day: bool = False) -> datetime:
    try:
        return moment_of(text, end_of_day=end_of_day)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is no date or time; write {MOMENT_FORMS}", reason="FILTER") from error


def _box(text: str) -> Box:
    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--bbox {text!r} is not west,south,east,north in degrees, for example 5.9,45.8,10.5,47.8", reason="FILTER"
        ) from error
    if not (abs(west) <= 180 and abs(east) <= 180):  # not a number is neither
        raise UsageError("--bbox: longitudes are -180 to 180 degrees, in west,south,east,north", reason="FILTER")
    if not -90 <= south <= north <= 90:
        raise UsageError(
            "--bbox: latitudes are -90 to 90 degrees, south not above north, in west,south,east,north", reason="FILTER"
        )
    return west, south, east, north


def _ids(labels: Sequence[str], manifest: Manifest) -> list[int]:
    numbers = {entry.name: entry.id for entry in manifest.nomenclature.classes}
    for label in labels:
        if label not in numbers:
            known = ", ".join(sorted(numbers)) or "none; ask without --label"
            raise UsageError(f"--label: the federation has no class {label!r}; its classes: {known}", reason="FILTER")
    return sorted(numbers[label] for label in labels)


def _units(degrees: float) -> int:
    return round(degrees * DEGREE)


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
