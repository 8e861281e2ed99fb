"""Radiometry of Sentinel-2: what is to be added to stored values, so that all archives hold the same reflectance.

Since processing baseline 04.00 a product adds 1,000 to what it stores. Whether one does is taken from the first of these
that says it, and never guessed from a date or a name:

| source | rule |
|---|---|
| product XML | `BOA_ADD_OFFSET` (L2A) or `RADIO_ADD_OFFSET` (L1C) of each band; without any, 0 for a baseline that the XML itself names below 04.00 |
| STAC item | 0 where a flag says that the offset is applied already, which speaks of what the catalogue itself made and not of JPEG 2000 originals; else `raster:offset / raster:scale` of each band |
| the operator | `archive.radiometry` in node.toml: what is to be added, 0 or -1000 |
| published with a data set | 0 for BigEarthNet: v1 is older than baseline 04.00; of v2 the authors publish the products (N0205, N0206) and means of stored values (B02 438, B03 614, B04 588) that leave no room for 1,000 |

Nodata is told apart first, by stored values; then the offset is added; then what is below 0 becomes 0.
"""  # noqa: E501 - a table

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import RasterRejected
from rsfed.raster.xml_document import Document

UNIT = 10_000.0  # stored value of reflectance 1, as the modalities have it
NODATA = 0.0
_NAMES = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12"
BAND_IDS = tuple(_NAMES.split())  # in the order of `band_id`
_FIRST_WITH_OFFSET = 4.0  # processing baseline
_LOCAL_BASELINE = 90.0  # 99.99 is what a user's own processor writes, whatever it does
_OFFSETS = {"L1C": "RADIO_ADD_OFFSET", "L2A": "BOA_ADD_OFFSET"}
_QUANTIFICATIONS = {
    "L1C": ("QUANTIFICATION_VALUE",),
    "L2A": ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE"),
}
_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied", "s2:boa_offset_applied")
_LARGEST = 32_767.0  # of an offset, in stored values
UNDECLARED = (
    "nothing says whether 1,000 was added to its values, as from processing baseline 04.00 on; "
    "say it by archive.radiometry = 0 or -1000"
)


@dataclass(frozen=True, slots=True)
class Radiometry:
    """How stored values become reflectance in units of 1/10,000.

    Attributes:
        offset: Added to the stored values of each band.
        gain: Multiplies them after that.
        declared: What the operator said is to be added, where the offset is that.
    """

    offset: tuple[float, ...]
    gain: float = 1.0
    declared: int | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether stored values are reflectance already."""
        return not any(self.offset) and self.gain == 1

    def apply(self, values: NDArray[Any], bands: Sequence[int]) -> NDArray[Any]:
        """Return values as reflectance, those below 0 as 0; what has no data is to be told apart before.

        Args:
            values: Stored values, shape (bands, rows, columns).
            bands: Place of each in `offset`.

        Returns:
            The same array where there is nothing to do, else float32.
        """
        if self.changes_nothing:
            return values
        offset = np.array([self.offset[band] for band in bands], np.float32)
        result = (values.astype(np.float32) + offset[:, None, None]) * np.float32(self.gain)
        np.maximum(result, 0, out=result)
        return result


def of_product(document: Document, level: str, bands: Sequence[str], declared: int | None) -> Radiometry:
    """Return the radiometry of a product by its XML, where that says nothing by the operator's word.

    Args:
        document: `MTD_MSIL1C.xml` or `MTD_MSIL2A.xml`.
        level: "L1C" or "L2A".
        bands: Names of the wanted bands.
        declared: What the operator says is to be added.

    Raises:
        RasterRejected: the XML lacks a band's offset or has impossible values, or neither says anything.
    """
    gain = UNIT / _quantification(document, level)
    listed = _listed_offsets(document, _OFFSETS[level])
    if listed:
        if missing := [band for band in bands if band not in listed]:
            raise document.refusal(f"gives no offset for band {missing[0]}")
        return Radiometry(tuple(listed[band] for band in bands), gain)
    baseline = _baseline(document)
    if baseline is not None and baseline < _FIRST_WITH_OFFSET:
        return Radiometry((0.0,) * len(bands), gain)
    return replace(declared_offsets(declared, len(bands)), gain=gain)


def of_stac(
    properties: Mapping[str, object], assets: Sequence[Mapping[str, object]], declared: int | None
) -> Radiometry:
    """Return the radiometry of a STAC item, where it says nothing by the operator's word.

    Args:
        properties: Properties of the item.
        assets: The asset of each wanted band.
        declared: What the operator says is to be added.

    Raises:
        RasterRejected: the bands' values make no sense or differ in scale, or neither says anything.
    """
    bands = [_band_of(asset) for asset in assets]
    scales = {scale for scale, _ in bands if scale is not None}
    if len(scales) > 1:
        raise RasterRejected("its bands have different scales; correct raster:scale in the catalogue")
    gain = scales.pop() * UNIT if scales else 1.0
    gain = float(round(gain)) if abs(gain - round(gain)) < 1e-6 and round(gain) else gain  # 0.0001 is no exact float
    applied = any(properties.get(flag) is True for flag in _APPLIED)
    offsets = [
        0.0 if applied and not _is_original(asset) else _stored_offset(scale, offset)
        for asset, (scale, offset) in zip(assets, bands, strict=True)
    ]
    known = [offset for offset in offsets if offset is not None]
    if known and len(known) == len(offsets):
        return Radiometry(tuple(known), gain)
    return replace(declared_offsets(declared, len(assets)), gain=gain)


def _is_original(asset: Mapping[str, object]) -> bool:
    """Return whether an asset is the agency's own file, in which no catalogue applied anything: they are JPEG 2000."""
    kind, href = (str(asset.get(key, "")).lower() for key in ("type", "href"))
    return kind.startswith(("image/jp2", "image/jpx")) or href.partition("?")[0].endswith(".jp2")


def has_scale(asset: Mapping[str, object]) -> bool:
    """Return whether a STAC asset says the scale of its one band."""
    return _band_of(asset)[0] is not None


def declared_offsets(declared: int | None, bands: int) -> Radiometry:
    """Return the radiometry that the operator declared.

    Raises:
        RasterRejected: nothing was declared.
    """
    if declared is None:
        raise RasterRejected(UNDECLARED)
    return Radiometry((float(declared),) * bands, declared=declared)


def _listed_offsets(document: Document, name: str) -> dict[str, float]:
    listed: dict[str, float] = {}
    for element in document.elements(name):
        try:
            band, offset = int(element.get("band_id", "")), float(element.text or "")
        except ValueError as error:
            raise document.refusal("has an offset that is no number") from error
        if not 0 <= band < len(BAND_IDS) or not math.isfinite(offset) or abs(offset) > _LARGEST:
            raise document.refusal("has an offset that is impossible")
        if listed.setdefault(BAND_IDS[band], offset) != offset:
            raise document.refusal(f"has two offsets of band {BAND_IDS[band]}")
    return listed


def _quantification(document: Document, level: str) -> float:
    text = next((found for name in _QUANTIFICATIONS[level] if (found := document.text(name))), None)
    if text is None:
        raise document.refusal(f"has no {_QUANTIFICATIONS[level][0]}")
    try:
        value = float(text)
    except ValueError as error:
        raise document.refusal("has a quantification value that is no number") from error
    if not 1 <= value <= 1e6:
        raise document.refusal("has a quantification value that is impossible")
    return value


def _baseline(document: Document) -> float | None:
    """Return the processing baseline; None where the XML does not say it, or it is a user's own processor's."""
    try:
        baseline = float(document.text("PROCESSING_BASELINE") or "")
    except ValueError:
        return None
    return baseline if 0 < baseline < _LOCAL_BASELINE else None


def _band_of(asset: Mapping[str, object]) -> tuple[float | None, float | None]:
    """Return scale and offset of an asset's one band: of the raster extension of STAC 1.0, or of STAC 1.1."""
    found: list[Mapping[str, object]] = [asset]
    for key in ("raster:bands", "bands"):
        listed = asset.get(key)
        if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], Mapping):
            found.append(listed[0])
    scale, offset = (
        next((each[key] for each in found for key in keys if key in each), None)
        for keys in (("raster:scale", "scale"), ("raster:offset", "offset"))
    )
    return _number(scale), _number(offset)


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RasterRejected("a scale or offset of its bands is no number; correct it in the catalogue")
    return float(value)


def _stored_offset(scale: float | None, offset: float | None) -> float | None:
    """Return an offset, which STAC gives in reflectance, in stored values."""
    if offset is None:
        return None
    if scale is None or scale <= 0:
        raise RasterRejected("a band has an offset and no scale; correct raster:scale in the catalogue")
    stored = round(offset / scale, 3)
    if abs(stored) > _LARGEST:
        raise RasterRejected("an offset of its bands is impossible; correct raster:offset in the catalogue")
    return stored
