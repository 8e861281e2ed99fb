"""Modalities: named sets of bands with ground sampling distance and fixed normalisation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rsfed.errors import UsageError

MAX_BANDS = 16
REFLECTANCES = ("sentinel-2-l1c", "sentinel-2-l2a", "rgbn-reflectance")
LINEAR, LINEAR_MODALITY = "linear", "sentinel-1-rtc-db"


@dataclass(frozen=True, slots=True)
class Modality:
    """A set of bands that belong together.

    Attributes:
        name: Name in configuration and on items, for example "rgb".
        bands: Band names in the order of the file.
        gsd: Ground sampling distance in metres; None for photographs without one.
        offset: Subtracted from a stored value, per band.
        scale: Divides a stored value after the offset, per band; brings typical values to about -1 to 1.
        dtypes: numpy names of the sample types that files of this modality may have.
        native_gsd: Ground sampling distance in metres at which the sensor sees each band; files may hold all bands at
            one. Empty where all bands are seen at `gsd`.
        decibel: Values are decibels, so pixels are averaged in linear power.
    """

    name: str
    bands: tuple[str, ...]
    gsd: float | None
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    dtypes: tuple[str, ...]
    native_gsd: tuple[float, ...] = ()
    decibel: bool = False


def _uniform(  # noqa: PLR0913 - one for each attribute
    name: str,
    bands: str,
    gsd: float | None,
    offset: float,
    scale: float,
    *dtypes: str,
    native_gsd: tuple[float, ...] = (),
    decibel: bool = False,
) -> Modality:
    names = tuple(bands.split())
    return Modality(name, names, gsd, (offset,) * len(names), (scale,) * len(names), dtypes, native_gsd, decibel)


_SENTINEL_2 = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"
_SENTINEL_2_GSD = (60.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0, 10.0, 20.0, 60.0, 20.0, 20.0)
_L1C = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12"
_L1C_GSD = (*_SENTINEL_2_GSD[:10], 60.0, *_SENTINEL_2_GSD[10:])

MODALITIES = {
    m.name: m
    for m in (
        _uniform("rgb", "red green blue", None, 127.5, 127.5, "uint8"),
        _uniform("panchromatic", "pan", None, 127.5, 127.5, "uint8"),
        _uniform("rgbn-reflectance", "red green blue nir", 10.0, 1500.0, 1500.0, "uint16", "int16", "float32"),
        _uniform(
            *("sentinel-2-l2a", _SENTINEL_2, 10.0, 1500.0, 1500.0, "uint16", "int16", "float32"),
            native_gsd=_SENTINEL_2_GSD,
        ),
        _uniform("sentinel-2-l1c", _L1C, 10.0, 1500.0, 1500.0, "uint16", "int16", "float32", native_gsd=_L1C_GSD),
        _uniform("sentinel-1-grd", "VV VH", 10.0, -15.0, 10.0, "float32"),
        _uniform("sentinel-1-rtc-db", "VV VH", 10.0, -15.0, 10.0, "float32", decibel=True),
        _uniform("sentinel-1-grd-db", "VV VH", 10.0, -15.0, 10.0, "float32", decibel=True),
    )
}

_GENERIC = re.compile(r"(uint8|uint16|int16|float32)-([1-9]|1[0-6])")
_GENERIC_RANGE = {"uint8": (127.5, 127.5), "uint16": (1500.0, 1500.0), "int16": (1500.0, 1500.0), "float32": (0.0, 1.0)}


def modality(name: str) -> Modality:
    """Return the modality of this name; `<type>-<bands>`, for example "uint16-7", names a generic one.

    Raises:
        UsageError: there is no such modality.
    """
    if found := MODALITIES.get(name):
        return found
    if match := _GENERIC.fullmatch(name):
        dtype, count = match[1], int(match[2])
        offset, scale = _GENERIC_RANGE[dtype]
        return _uniform(name, " ".join(f"band{i + 1}" for i in range(count)), None, offset, scale, dtype)
    known = ", ".join(MODALITIES)
    raise UsageError(f"unknown modality {name!r}; use one of {known}, or <type>-<bands> such as uint16-7")


def check_radiometry(declared: int | str | None, name: str) -> None:
    """Check what an operator declares of the values of a modality.

    Raises:
        ValueError: it says nothing of this modality, or nothing at all.
    """
    if declared is None or (declared == LINEAR and name == LINEAR_MODALITY):
        return
    if isinstance(declared, str):
        words = f'radiometry is a whole number, or "{LINEAR}" where the modality is {LINEAR_MODALITY}'
        raise ValueError(words)  # noqa: TRY004 - what pydantic takes
    if name not in REFLECTANCES:
        raise ValueError(f"radiometry says nothing of modality {name}; take it out")
    if not -10_000 <= declared <= 0:
        raise ValueError("radiometry is what is added to stored values, -10000 to 0")
