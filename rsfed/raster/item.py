"""Items: what a catalogue knows of one patch, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

Footprint = tuple[float, float, float, float]
"""West, south, east, north in degrees, WGS 84. West is greater than east where the box crosses the antimeridian."""

Interval = tuple[datetime, datetime]
"""First and last moment of an acquisition, both with a time zone; equal where the file gives one moment."""

Declared = int | str | None
"""What the operator says of stored values that do not say it themselves, see `rsfed.raster.declared`; None: nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of pixels of a source.

    Attributes:
        col: Left edge in pixels.
        row: Upper edge in pixels.
        width: Width in pixels.
        height: Height in pixels.
    """

    col: int
    row: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Item:
    """One patch of an archive: one window of one source in one modality.

    Attributes:
        id: Number given at the first acknowledgement, never used again.
        path: Absolute path of the source.
        window: Pixels of the source that are the patch.
        modality: Name of the modality.
        digest: Content digest in hexadecimal, as `rsfed.raster.digest.content_digest` makes it.
        labels: Ids of the federation's classes; none for an unlabelled patch.
        acquisition: The overpass that the patch was taken in; privacy floors count these.
        acquired: When it was taken, where known.
        footprint: Where it lies, where known.
        place: Id that several modalities of one place share.
        radiometry: What the operator declared of the archive's values.
    """

    id: int
    path: Path
    window: Window
    modality: str
    digest: str
    labels: tuple[int, ...] = ()
    acquisition: str = "unknown"
    acquired: Interval | None = None
    footprint: Footprint | None = None
    place: str | None = None
    radiometry: Declared = None
