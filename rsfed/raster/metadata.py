"""Acquisition and time of a source, from its tags or its name.

| what | where it is looked for, first match wins |
|---|---|
| acquisition | tag `ACQUISITION`; the name of a Sentinel-2 product (platform and sensing start of the datatake); the name of a Sentinel-1 product (mission, absolute orbit and datatake) |
| time | tag `ACQUIRED`, ISO 8601, one moment or `start/end`; EXIF `DateTimeOriginal` with `OffsetTimeOriginal`; `TIFFTAG_DATETIME`; the sensing start in a Sentinel product's name |
| place | tag `PLACE` |
| pass of a radar | tag `PASS`, `ascending` or `descending` |

Times without a zone are taken as UTC. A value that cannot be read counts as absent.
"""  # noqa: E501 - a table

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from rsfed.raster.item import Interval

_SENTINEL_2 = re.compile(r"(S2[A-D])_MSIL(?:1C|2A)_(\d{8}T\d{6})(?=_|$)")
_SENTINEL_1 = re.compile(r"(S1[A-D])_\w{2}_\w{4}_\w{4}_(\d{8}T\d{6})(?:_(\d{8}T\d{6})_(\d{6})_([0-9A-F]{6}))?(?=_|$)")
_MAX_TEXT = 128  # characters of an id


def acquisition(tags: Mapping[str, str], stem: str) -> str | None:
    """Return the id of the overpass that a source was taken in.

    Args:
        tags: Tags of the file.
        stem: Name of the file without its suffix.
    """
    if tagged := _text(tags.get("ACQUISITION")):
        return tagged
    if match := _SENTINEL_2.match(stem):
        return f"{match[1]}:{match[2]}"
    # A name without orbit and datatake tells slices of one overpass apart, so it is no acquisition.
    if (match := _SENTINEL_1.match(stem)) and match[4]:
        return f"{match[1]}:{match[4]}:{match[5]}"
    return None


def acquired(tags: Mapping[str, str], stem: str) -> Interval | None:
    """Return the first and last moment of a source; arguments as for `acquisition`."""
    return (
        _iso_interval(tags.get("ACQUIRED", ""))
        or _moment(tags.get("EXIF_DateTimeOriginal", "") + tags.get("EXIF_OffsetTimeOriginal", "").strip())
        or _moment(tags.get("TIFFTAG_DATETIME", ""))
        or _from_name(stem)
    )


def place(tags: Mapping[str, str]) -> str | None:
    """Return the id that several modalities of one place share."""
    return _text(tags.get("PLACE"))


def direction(tags: Mapping[str, str]) -> str | None:
    """Return the pass in which a radar looked: "ascending" or "descending"."""
    told = tags.get("PASS", "").strip().lower()
    return told if told in {"ascending", "descending"} else None


def _text(value: str | None) -> str | None:
    value = (value or "").strip()
    return value if value and len(value) <= _MAX_TEXT and value.isprintable() else None


def _iso_interval(value: str) -> Interval | None:
    first, _, last = value.partition("/")
    try:
        start = _with_zone(datetime.fromisoformat(first.strip()))
        end = _with_zone(datetime.fromisoformat(last.strip())) if last else start
    except (ValueError, OverflowError):
        return None
    return (start, end) if start <= end else None


def _moment(value: str) -> Interval | None:
    """Read the TIFF and EXIF form, `2024:05:31 10:20:30`, with an offset such as `+02:00` behind it or none."""
    value = value.strip()
    for pattern in ("%Y:%m:%d %H:%M:%S", "%Y:%m:%d %H:%M:%S%z"):
        try:
            moment = _with_zone(datetime.strptime(value, pattern))  # noqa: DTZ007 - the zone is added
        except (ValueError, OverflowError):
            continue
        return moment, moment
    return None


def _from_name(stem: str) -> Interval | None:
    if match := _SENTINEL_2.match(stem):
        return _iso_interval(match[2])
    if match := _SENTINEL_1.match(stem):
        return _iso_interval(match[2] + (f"/{match[3]}" if match[3] else ""))
    return None


def _with_zone(moment: datetime) -> datetime:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
