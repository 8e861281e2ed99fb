"""BigEarthNet on disk: one folder for each patch, with a file for each band."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from rsfed.raster.product import Product

_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_PATCH = re.compile(r"S2[AB]_MSIL2A_\d{8}T\d{5,6}(?:_N\d{4}_R\d{3}_T\d\d[A-Z]{3})?_\d{1,2}_\d{1,2}")
_RADAR = re.compile(r"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6}_\d\d[A-Z]{3}_\d{1,2}_\d{1,2}")


def product(folder: Path, names: Collection[str]) -> Product | None:
    """Return the patch that a folder is; None for any other folder."""
    name = folder.name
    bands = _BANDS if _PATCH.fullmatch(name) else ("VV", "VH") if _RADAR.fullmatch(name) else ()
    files = {band: folder / file for band in bands if (file := f"{name}_{band}.tif") in names}
    return Product("bigearthnet", folder, files, _tags) if files else None


def _tags() -> Mapping[str, str]:
    return {}
